"""Comparing the live read models with what a replay gives, cell by cell, while traffic goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ledger import clock
from ledger.database import Connection
from ledger.errors import MissingEventError
from ledger.events import Event
from ledger.unseal import Unsealer
from projections.fold import outcome_columns
from projections.followers import Follower, Item, items_behind, position_of
from projections.queries import SQL
from projections.rebuild import Progress, Replay
from projections.replay import Folding, pages, parked_positions
from projections.state import Row, from_columns, to_columns
from projections.unread import Unread, filled, filled_outcomes

RECORD_COLUMNS = Row.__struct_fields__[:-1]
OUTCOME_COLUMNS = ("position", "entity", "zoho_id", "own", "status", "reason", "changes", "errors")
_INSTANTS = frozenset({"effective_at", "created_at", "updated_at", "deleted_at", "waiting_since", "hour"})
_PAGE = 5_000


class Difference(msgspec.Struct, frozen=True):
    """One cell that is not as a replay gives it; `field` is `row` where a whole row is
    missing or too much. `position` is that of the event where the row belongs to one.
    """

    table: str
    entity: str
    zoho_id: str
    field: str
    live: Any
    rebuilt: Any
    position: int | None = None


class Report(msgspec.Struct):
    """Live rows that were compared, every difference, and the records of which something could not
    be read: of these every cell was compared but the values that nobody can tell.
    """

    rows: int = 0
    differences: list[Difference] = []
    unread: list[Unread] = []


class SwitchedError(Exception):
    """The read models were switched during the check."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"the read models of {tenant_id} were switched meanwhile: run the check again")


async def check(replay: Replay) -> Report:
    """Rebuilds aside, in memory, and compares every read-model row of a tenant.

    Raises `SwitchedError`, `MissingEventError`, `DatabaseAwayError`.
    """
    return await _Check(replay).run()


class _Check:
    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._tenant = replay.tenant_id
        self._report = Report()
        self._generation = 0
        self._position = 0
        self._batches = [follower.batch() for follower in replay.followers]

    async def run(self) -> Report:
        replay, tenant_id = self._replay, self._tenant
        async with replay.database.transaction(tenant_id) as connection:
            head = await connection.fetchrow(SQL["head"], tenant_id)
            if head is None:
                return self._report
            self._generation = head["generation"]
            parked = await parked_positions(connection, tenant_id, replay.projection)
            reached = [
                await position_of(connection, tenant_id, f, self._generation) for f in replay.followers
            ]
        unsealer = Unsealer(tenant_id, replay.master_key)
        self._folding = Folding(replay.projection, unsealer, parked, mark=True)
        events = pages(replay.database, tenant_id, replay.master_key, unsealer, 0, head["position"])
        async for page in events:
            async with replay.database.transaction(tenant_id) as connection:
                await self._fold_and_compare(connection, page, reached)
            replay.tell(Progress(tenant_id, self._position, head["position"]))
        async with replay.database.transaction(tenant_id, snapshot=True) as connection:
            await self._finish(connection, reached)
        self._report.unread = list(self._folding.unread.values())
        return self._report

    async def _finish(self, connection: Connection, reached: Sequence[int]) -> None:
        """All that is left, as it stands at one moment."""
        replay, tenant_id = self._replay, self._tenant
        head = await connection.fetchrow(SQL["head"], tenant_id)
        assert head is not None
        if head["generation"] != self._generation:
            raise SwitchedError(tenant_id)
        self._folding.leave_out(await parked_positions(connection, tenant_id, replay.projection))
        while self._position < head["position"]:
            rows = await connection.fetch(SQL["events_behind"], tenant_id, self._position, _PAGE)
            if not rows:
                raise MissingEventError(tenant_id, self._position + 1)
            page = [Event(*row) for row in rows]
            await self._folding.unsealer.learn(connection, {e.key_id for e in page})
            await self._fold_and_compare(connection, page, reached)
        outside = await connection.fetch(
            SQL["outcomes_outside"], tenant_id, self._generation, head["position"]
        )
        self._compare_outcomes(outside, [])
        await self._compare_records(connection)
        await self._compare_links(connection)
        for follower, batch, before in zip(replay.followers, self._batches, reached, strict=True):
            await self._compare_follower(connection, follower, batch, before)

    async def _fold_and_compare(
        self, connection: Connection, page: list[Event], reached: Sequence[int]
    ) -> None:
        expected: list[tuple[Any, ...]] = []
        first = self._position + 1
        for event in page:
            self._position = event.position
            if (outcome := self._folding.fold(event)) is None:
                continue
            expected += outcome_columns(outcome, event)
            item = Item(event.position, event.stream, event.recorded_at, event.entity or "", outcome.status)
            for follower, batch, until in zip(self._replay.followers, self._batches, reached, strict=True):
                if event.position <= until:
                    follower.apply(batch, item)
        live = await connection.fetch(
            SQL["outcomes_between"], self._tenant, self._generation, first, self._position
        )
        self._compare_outcomes(live, expected)

    def _compare_outcomes(self, live: Sequence[Any], expected: Iterable[tuple[Any, ...]]) -> None:
        self._report.rows += len(live)
        found = [tuple(row) for row in live]
        if self._folding.unread:
            expected = filled_outcomes(
                expected, {row["position"]: row["changes"] for row in live if row["own"]}
            )
        if set(found) == (wanted := set(expected)) and len(found) == len(wanted):
            return
        self._compare(
            "outcomes",
            OUTCOME_COLUMNS,
            {row[:3]: row for row in found},
            {row[:3]: row for row in wanted},
            named=lambda row: (row[1], row[2], row[0]),
        )

    async def _compare_records(self, connection: Connection) -> None:
        expected = {row.name: row for row in self._folding.view.rows.values() if row is not None}
        unread = self._folding.unread
        after: tuple[str, str] = ("", "")
        while True:
            rows = await connection.fetch(SQL["records_of"], self._tenant, self._generation, *after, _PAGE)
            self._report.rows += len(rows)
            live = {(row["entity"], row["zoho_id"]): tuple(row)[2:] for row in rows}
            wanted = {
                name: to_columns(filled(row, from_columns(live[name])) if name in unread else row)
                for name in live
                if (row := expected.pop(name, None))
            }
            self._compare("records", RECORD_COLUMNS, live, wanted, named=lambda row: (row[0], row[1], None))
            if len(rows) < _PAGE:
                break
            after = (rows[-1]["entity"], rows[-1]["zoho_id"])
        missing = {
            name: to_columns(filled(row, None) if name in unread else row) for name, row in expected.items()
        }
        self._compare("records", RECORD_COLUMNS, {}, missing, named=lambda row: (row[0], row[1], None))

    async def _compare_links(self, connection: Connection) -> None:
        dependents = self._folding.view.dependents
        wanted = {(*needed, *d): (*needed, *d) for needed, ds in dependents.items() for d in ds}
        live: dict[Any, Any] = {}
        after: tuple[str, ...] = ("", "", "", "")
        while True:
            rows = await connection.fetch(SQL["links_of"], self._tenant, self._generation, *after, _PAGE)
            for row in rows:
                link = tuple(row)
                if wanted.pop(link, None) is None:
                    live[link] = link
            self._report.rows += len(rows)
            if len(rows) < _PAGE:
                break
            after = tuple(rows[-1])
        columns = ("needs_entity", "needs_id", "entity", "zoho_id")
        self._compare("links", columns, live, wanted, named=lambda row: (row[2], row[3], None))

    async def _compare_follower(
        self, connection: Connection, follower: Follower, batch: Any, before: int
    ) -> None:
        tenant_id, generation = self._tenant, self._generation
        until = await position_of(connection, tenant_id, follower, generation)
        while before < until:
            items = await items_behind(connection, tenant_id, generation, before, until, _PAGE)
            for item in items:
                follower.apply(batch, item)
            before = items[-1].position if len(items) == _PAGE else until
        for row in await connection.fetch(SQL["parked_events"], tenant_id, follower.name):
            position = row["position"]
            for item in await items_behind(connection, tenant_id, generation, position - 1, position, 1):
                follower.take_back(batch, item)
        live = await follower.rows(connection, tenant_id, generation)
        self._report.rows += len(live)
        wanted = follower.expected(batch)
        columns = follower.columns
        self._compare(
            follower.name, columns, live, wanted, named=lambda row: (row[columns.index("entity")], "", None)
        )

    def _compare(
        self,
        table: str,
        columns: Sequence[str],
        live: Mapping[Any, tuple[Any, ...]],
        rebuilt: Mapping[Any, tuple[Any, ...]],
        *,
        named: Any,
    ) -> None:
        add = self._report.differences.append
        for key in sorted(live.keys() | rebuilt.keys(), key=repr):
            found, wanted = live.get(key), rebuilt.get(key)
            if found == wanted:
                continue
            entity, zoho_id, position = named(found or wanted)
            if found is None or wanted is None:
                place = (table, entity, zoho_id, "row")
                add(Difference(*place, _shown_row(columns, found), _shown_row(columns, wanted), position))
                continue
            for column, a, b in zip(columns, found, wanted, strict=True):
                if a != b:
                    place = (table, entity, zoho_id, column)
                    add(Difference(*place, _shown(column, a), _shown(column, b), position))


def _shown_row(columns: Sequence[str], row: tuple[Any, ...] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {column: _shown(column, value) for column, value in zip(columns, row, strict=True)}


def _shown(column: str, value: Any) -> Any:
    if value is None:
        return None
    if column in _INSTANTS:
        try:
            return clock.to_text(value)
        except OverflowError:  # an instant that no calendar holds
            return value
    if isinstance(value, bytes):
        try:
            return msgspec.json.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return value.hex()
    return value
