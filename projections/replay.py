"""Folding from the first event on: what every replay, rebuild and look into the past runs.

It is the fold of the live path, over a view that holds everything; only where the
events come from is different.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import structlog

from ledger.database import Connection, Database
from ledger.errors import DamagedError, MissingEventError
from ledger.events import Event
from ledger.store import EventStore
from ledger.unseal import Unsealer
from ledger.vault import MasterKey
from projections.fold import CurrentState, Outcome, row_of
from projections.queries import SQL
from projections.state import Name, WholeView
from projections.unread import Unread, UnreadValues

log = structlog.get_logger()


class Folding:
    """Folds one tenant's events in ascending order into a view of its own.

    `parked`: positions that stay unapplied, as they are in the live rows. One on which
    the handler fails now is parked too; `failed` holds (stream, position, reason).

    An event that cannot be read is folded by its envelope: its values are null, or with `mark`
    those of `projections.unread`, and `unread` names its record.
    """

    def __init__(
        self, projection: CurrentState, unsealer: Unsealer, parked: Iterable[int] = (), *, mark: bool = False
    ) -> None:
        self.view = WholeView()
        self.failed: list[tuple[str, int, str]] = []
        self.unread: dict[Name, Unread] = {}
        self.unsealer = unsealer
        self._projection = projection
        self._parked = set(parked)
        self._stand_in = UnreadValues() if mark else None

    def leave_out(self, parked: Iterable[int]) -> None:
        """More positions that stay unapplied."""
        self._parked.update(parked)

    def fold(self, event: Event, *, opened: bool = True) -> Outcome | None:
        """What an event leads to, None where the projection does not know its topic.

        `opened=False` folds its envelope alone: statuses and states come out the same,
        values do not.
        """
        projection, view = self._projection, self.view
        if not projection.handles(event):
            return None
        if event.position in self._parked:
            return projection.fail(view, event)
        values = self.unsealer.values_of(event) if opened else None
        view.begin()
        try:
            try:
                return projection.apply(view, event, values)
            except DamagedError as error:
                view.undo()
                self._note(event, str(error))
                view.begin()
                return projection.apply(view, event, self._stand_in)
        except Exception as error:
            log.exception("a handler failed", position=event.position)
            view.undo()
            self.failed.append((event.stream, event.position, type(error).__name__))
            return projection.fail(view, event)

    def _note(self, event: Event, problem: str) -> None:
        name = row_of(event)
        if name not in self.unread:
            self.unread[name] = Unread(*name, event.position, problem)
            log.warning(
                "an event cannot be read", stream=event.stream, position=event.position, reason=problem
            )


async def parked_positions(connection: Connection, tenant_id: str, projection: CurrentState) -> set[int]:
    """Positions that the live rows leave unapplied."""
    rows = await connection.fetch(SQL["parked"], tenant_id, projection.name)
    return {row["position"] for row in rows}


async def pages(
    database: Database,
    tenant_id: str,
    master_key: MasterKey,
    unsealer: Unsealer,
    after: int = 0,
    until: int | None = None,
) -> AsyncIterator[list[Event]]:
    """Events by position, page by page, their keys learned. The next page is on its way
    while one is folded. Raises `MissingEventError`, also where they end before `until`.
    """
    store = EventStore(database, tenant_id, master_key)

    async def read(behind: int) -> list[Event]:
        page = await store.events(behind, until)
        if page:
            async with database.transaction(tenant_id) as connection:
                await unsealer.learn(connection, {event.key_id for event in page})
        return page

    page = await read(after)
    reached = after
    while page:
        reached = page[-1].position
        coming: asyncio.Task[Any] = asyncio.create_task(read(page[-1].position))
        await asyncio.sleep(0)  # so that the query is under way
        try:
            yield page
            page = await coming
        finally:
            coming.cancel()
    if until is not None and reached < until:
        raise MissingEventError(tenant_id, reached + 1)
