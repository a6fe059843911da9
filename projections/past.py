"""The state as the ledger stood at a position: the fold over the events up to it.

Nothing is stored for it. A record's state follows from its own events and from the
comings and goings of the records that it needs, so those streams are folded, and
of the needed ones the envelopes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ledger.database import Connection
from ledger.events import Event, stream_name
from ledger.pace import in_turns
from ledger.unseal import Unsealer
from ledger.vault import MasterKey
from projections.fold import CurrentState, row_of
from projections.queries import SQL
from projections.replay import Folding, parked_positions
from projections.state import DELETED, NONE, WAITING, Name, Row, WholeView
from projections.unread import Unread

YOUNG = 20_000
"""Up to this position a list looks for its ids among the events, later among the records."""

_AT_LEAST = 20
_AT_ONCE = 200  # records whose payloads are held together


class Past:
    """One tenant's states at one position, as `ledger` knew them then.

    `recorded_at` is that of the event at `position`. Raises `DatabaseAwayError`.
    """

    def __init__(
        self,
        connection: Connection,
        tenant_id: str,
        master_key: MasterKey,
        projection: CurrentState,
        position: int,
        recorded_at: int,
    ) -> None:
        self._connection = connection
        self._tenant = tenant_id
        self._master_key = master_key
        self._projection = projection
        self._position = position
        self._recorded_at = recorded_at
        self.unread: dict[Name, Unread] = {}
        """Records of which not every value could be read so far; those are null."""

    @classmethod
    async def at(
        cls,
        connection: Connection,
        tenant_id: str,
        master_key: MasterKey,
        projection: CurrentState,
        *,
        instant: int | None = None,
        position: int | None = None,
    ) -> Past:
        """The past at an instant (all that was recorded up to it, inclusive) or at a position
        (inclusive; behind the newest one it is the present).
        """
        if instant is not None:
            position = await connection.fetchval(SQL["position_before"], tenant_id, instant) or 0
        head = await connection.fetchrow(SQL["head"], tenant_id)
        position = min(position or 0, head["position"] if head else 0)
        recorded_at = await connection.fetchval(SQL["recorded_at"], tenant_id, position) or 0
        return cls(connection, tenant_id, master_key, projection, position, recorded_at)

    async def row(self, name: Name) -> Row | None:
        """A record's row then, None where it had not been accepted."""
        view = await self.fold([name])
        row = view.row(name)
        return None if row is None or row.state == NONE else row

    async def rows(self, entity: str, states: Iterable[str], after: str, limit: int) -> list[Row]:
        """Rows of one entity in some states then, behind an id, bytewise."""
        wanted = frozenset(states)
        found: list[Row] = []
        while len(found) < limit:
            size = min(max(limit - len(found), _AT_LEAST), _AT_ONCE)
            ids = await self._ids(entity, wanted, after, size)
            names = [(entity, zoho_id) for zoho_id in ids]
            view = await self.fold(names)
            found += [row for name in names if (row := view.row(name)) and row.state in wanted]
            if len(ids) < size:
                break
            after = ids[-1]
        return found[:limit]

    async def _ids(self, entity: str, states: frozenset[str], after: str, limit: int) -> list[str]:
        """Ids of records that may have been in these states, behind an id."""
        name, bound = "ids_known_at", self._recorded_at
        if states == {DELETED}:
            name, bound = "ids_once_deleted", self._position
        elif states == {WAITING}:
            name, bound = "ids_once_waiting", self._position
        elif self._position <= YOUNG:
            name, bound = "ids_in_first_events", self._position
        rows = await self._connection.fetch(SQL[name], self._tenant, entity, after, bound, limit)
        return [row["zoho_id"] for row in rows]

    async def fold(
        self,
        names: list[Name],
        *,
        open_all: bool = False,
        each: Callable[[Event, WholeView], None] = lambda _event, _view: None,
    ) -> WholeView:
        """The view of some records and of those that they need. With `open_all` the needed ones
        have their values, too. `each` is called behind every event.
        """
        events: list[Event] = []
        asked: dict[Name, bool] = {}
        frontier = dict.fromkeys(names, True)
        while frontier:
            asked |= frontier
            streams = [stream_name(*name) for name in frontier]
            rows = await self._connection.fetch(
                SQL["events_of_streams"], self._tenant, streams, list(frontier.values()), self._position
            )
            found = [Event(*row) async for row in in_turns(rows)]
            events += found
            needed = {name async for event in in_turns(found) for name in self._projection.needs_of(event)}
            frontier = {name: open_all for name in needed if name not in asked}
        unsealer = Unsealer(self._tenant, self._master_key)
        await unsealer.learn(self._connection, {e.key_id for e in events if asked[row_of(e)]})
        parked = await parked_positions(self._connection, self._tenant, self._projection)
        folding = Folding(self._projection, unsealer, parked)
        events.sort(key=lambda event: event.position)
        async for event in in_turns(events):
            folding.fold(event, opened=asked[row_of(event)])
            each(event, folding.view)
        self.unread |= folding.unread
        return folding.view
