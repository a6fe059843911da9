"""Rebuilding read models beside the live ones (`projections.check` compares them).

A rebuild folds all events into the rows of a new generation while traffic goes on, and
makes it live by one update of the tenant's head row, under the lock that orders
appends. What it has written so far survives it: one that was killed goes on from its
last complete position.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import msgspec

from ledger import clock
from ledger.database import Connection, Database
from ledger.errors import DatabaseAwayError, MissingEventError
from ledger.events import Event
from ledger.pace import in_turns
from ledger.unseal import Unsealer
from ledger.vault import MasterKey
from projections.fold import CurrentState, outcome_columns
from projections.followers import (
    Follower,
    Item,
    Lease,
    LeaseLostError,
    checkpoint_of,
    items_behind,
    move,
    position_of,
)
from projections.queries import SQL
from projections.replay import Folding, pages, parked_positions
from projections.state import Name, Row, from_columns, to_columns
from projections.tenants import places
from projections.unread import Unread, are_unread, filled, filled_outcomes, has_unread

SAVE_SECONDS = 60.0
"""So often the state that a rebuild has come to is written, so that a crash costs no more."""
NEARLY = 1_000
"""So few events are left to the transaction that holds the head's lock."""
LEASE_SECONDS = 10.0
_CHUNK = 5_000  # rows read, or removed, by a statement
_ROWS = 1_000  # rows that a statement inserts; asyncpg translates them in one call, some 25 ms
_NO_GENERATION = 2**31 - 1
_RETRYING = 0  # in place of the version


class Progress(msgspec.Struct, frozen=True):
    """How far a replay of one tenant has come."""

    tenant_id: str
    position: int
    head: int


Tell = Callable[[Progress], None]


class ReplayRunningError(Exception):
    """Another process replays this tenant."""

    def __init__(self, tenant_id: str) -> None:
        super().__init__(f"another replay of tenant {tenant_id} is under way: let it end, then try again")


class Replay(msgspec.Struct):
    """What all kinds of replays of one tenant work with."""

    database: Database
    tenant_id: str
    master_key: MasterKey
    projection: CurrentState
    followers: Sequence[Follower] = ()
    tell: Tell = lambda _: None


class Rebuild:
    """One rebuild of the state and of the followers that read its outcomes.

    `retry_parked`: events that are parked are applied again, at their own positions;
    without it they stay unapplied. `if_outdated`: only where the rows are still of an older
    version once the lease is ours.
    """

    def __init__(self, replay: Replay, *, retry_parked: bool = False, if_outdated: bool = False) -> None:
        self._replay = replay
        self._tenant = replay.tenant_id
        self._retry = retry_parked
        self._if_outdated = if_outdated
        self._lease = Lease(replay.tenant_id, "rebuild", seconds=LEASE_SECONDS)
        self.seconds = 0.0
        """From the start to the switch; what follows removes the old rows."""
        self._live = 0
        self._generation = 0
        self._saved = 0
        self._position = 0
        self._outcomes: list[tuple[Any, ...]] = []
        self._batches = [follower.batch() for follower in replay.followers]
        self._folding = Folding(replay.projection, Unsealer(replay.tenant_id, replay.master_key), mark=True)

    @property
    def unread(self) -> list[Unread]:
        """The records of which something could not be read: they have the values of the rows that
        were live before, which nothing could be compared with.
        """
        return list(self._folding.unread.values())

    async def run(self) -> int:
        """Rebuilds and switches; answers how many events were folded.

        Raises `ReplayRunningError`, `DatabaseAwayError`.
        """
        database, tenant_id = self._replay.database, self._tenant
        await take_or_wait(database, self._lease, tenant_id)
        begun = time.monotonic()
        keeper = asyncio.create_task(self._keep_lease())
        try:
            if self._if_outdated and not await is_outdated(self._replay):
                return 0
            await self._resume_or_begin()
            started_at = self._position
            await self._follow()
            old = await self._switch()
            self.seconds = time.monotonic() - begun
            await self._remove(old)
            return self._position - started_at
        finally:
            keeper.cancel()
            async with database.transaction(tenant_id) as connection:
                await self._lease.give_back(connection)

    async def _keep_lease(self) -> None:
        """Renews while a page is long in coming; where that fails, so does the next write."""
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            with contextlib.suppress(DatabaseAwayError, LeaseLostError):
                await self._renew()

    async def _renew(self) -> None:
        async with self._replay.database.transaction(self._tenant) as connection:
            await self._lease.renew(connection)

    async def _resume_or_begin(self) -> None:
        database, tenant_id, version = self._replay.database, self._tenant, self._replay.projection.version
        async with database.transaction(tenant_id) as connection:
            head = await connection.fetchrow(SQL["head"], tenant_id)
            assert head is not None
            left = await connection.fetchrow(SQL["rebuild"], tenant_id)
            live = self._live = head["generation"]
        await self._leave_out_parked()
        if (
            left is not None
            and left["version"] == version
            and left["generation"] > live
            and (not self._retry and await self._is_whole(left["generation"], left["position"]))
        ):
            self._generation, self._position = left["generation"], left["position"]
            await remove_generations(database, tenant_id, keep={live, self._generation}, lease=self._lease)
            if await self._load():
                self._saved = self._position
                return
            self._position = 0
        self._generation = max(live, left["generation"] if left else 0) + 1
        async with database.transaction(tenant_id) as connection:
            await self._lease.renew(connection)
            # one that retries what is parked is never gone on with by one that does not
            kind = _RETRYING if self._retry else version
            await connection.execute(SQL["begin_rebuild"], tenant_id, self._generation, kind)
        await remove_generations(database, tenant_id, keep={live}, lease=self._lease)
        for follower in self._replay.followers:
            async with database.transaction(tenant_id) as connection:
                name = checkpoint_of(follower, self._generation)
                await connection.execute(SQL["forget_checkpoint"], tenant_id, name)

    async def _is_whole(self, generation: int, position: int) -> bool:
        """Whether every follower of today has come as far as a killed rebuild had saved."""
        async with self._replay.database.transaction(self._tenant) as connection:
            reached = [
                await position_of(connection, self._tenant, follower, generation)
                for follower in self._replay.followers
            ]
        return all(each == position for each in reached)

    async def _load(self) -> bool:
        """The state that a killed rebuild had saved; False where that cannot be read."""
        database, tenant_id, generation = self._replay.database, self._tenant, self._generation
        view = self._folding.view
        async with database.transaction(tenant_id) as connection:
            await self._lease.renew(connection)
            await connection.execute(SQL["outcomes_behind"], tenant_id, generation, self._position)
        async for columns in rows_of(database, tenant_id, "records_of", generation, ("", "")):
            row = from_columns(columns[2:])
            view.rows[row.name] = row
            if row.damaged:
                view.rows.clear()
                self._folding.unread.clear()
                return False
            if has_unread(row):
                self._folding.unread[row.name] = Unread(
                    *row.name, None, "some of its values could not be read"
                )
        async for link in rows_of(database, tenant_id, "links_of", generation, ("", "", "", "")):
            view.dependents.setdefault((link[0], link[1]), set()).add((link[2], link[3]))
        return True

    async def _follow(self) -> None:
        """Folds page after page until the head is near."""
        replay, tenant_id = self._replay, self._tenant
        unsealer = self._folding.unsealer
        save_at = time.monotonic() + SAVE_SECONDS
        while True:
            head = await self._head()
            if head - self._position <= NEARLY and self._saved and head - self._saved <= 2 * NEARLY:
                return
            writing: asyncio.Task[None] | None = None
            try:
                async for page in pages(
                    replay.database, tenant_id, replay.master_key, unsealer, self._position, head
                ):
                    await self._leave_out_parked()
                    # the database reads the next page and writes the last one meanwhile
                    await self._fold(page)
                    if writing is not None:
                        await writing
                    writing = asyncio.create_task(self._write_outcomes())
                    await asyncio.sleep(0)
                    replay.tell(Progress(tenant_id, self._position, head))
                    if time.monotonic() > save_at:
                        await writing
                        await self._save()
                        save_at = time.monotonic() + SAVE_SECONDS
                if writing is not None:
                    await writing
            finally:
                if writing is not None:
                    writing.cancel()
            await self._save()
            if not head:
                return

    async def _leave_out_parked(self) -> None:
        """An event that was parked since stays unapplied too."""
        if self._retry:
            return
        replay, tenant_id = self._replay, self._tenant
        async with replay.database.transaction(tenant_id) as connection:
            self._folding.leave_out(await parked_positions(connection, tenant_id, replay.projection))

    async def _head(self) -> int:
        async with self._replay.database.transaction(self._tenant) as connection:
            row = await connection.fetchrow(SQL["head"], self._tenant)
        return int(row["position"]) if row else 0

    async def _fold(self, page: Iterable[Event]) -> None:
        folding, add = self._folding, self._outcomes.extend
        pairs = list(zip(self._replay.followers, self._batches, strict=True))
        async for event in in_turns(page):
            self._position = event.position
            outcome = folding.fold(event)
            if outcome is None:
                continue
            add(outcome_columns(outcome, event))
            item = Item(event.position, event.stream, event.recorded_at, event.entity or "", outcome.status)
            for follower, batch in pairs:
                follower.apply(batch, item)

    async def _write_outcomes(self) -> None:
        outcomes, self._outcomes = self._outcomes, []
        async with self._replay.database.transaction(self._tenant) as connection:
            await self._lease.renew(connection)
            await self._add_outcomes(connection, outcomes)

    async def _add_outcomes(self, connection: Connection, outcomes: list[tuple[Any, ...]]) -> None:
        """Adds outcomes; what they cannot tell of unread values is taken from the live ones."""
        if positions := [row[0] for row in outcomes if are_unread(row)]:
            rows = await connection.fetch(SQL["own_changes"], self._tenant, self._live, positions)
            outcomes = filled_outcomes(outcomes, {row["position"]: row["changes"] for row in rows})
        await self._insert(connection, "add_outcomes", outcomes)

    async def _fill(self, connection: Connection) -> None:
        """Takes the values that could not be read from the live rows."""
        view = self._folding.view
        names = [name for name in self._folding.unread if (row := view.rows.get(name)) and has_unread(row)]
        for at in range(0, len(names), _CHUNK):
            some = names[at : at + _CHUNK]
            entities, ids = [e for e, _ in some], [i for _, i in some]
            found = await connection.fetch(SQL["records_named"], self._tenant, self._live, entities, ids)
            live: dict[Name, Row] = {row.name: row for row in (from_columns(c[2:]) for c in found)}
            for name in some:
                row = view.rows[name]
                assert row is not None
                view.rows[name] = filled(row, live.get(name))
                view.changed.add(name)

    async def _insert(self, connection: Connection, name: str, rows: Sequence[Any]) -> None:
        for at in range(0, len(rows), _ROWS):
            await connection.execute(SQL[name], self._tenant, self._generation, rows[at : at + _ROWS])

    async def _save(self) -> None:
        """Writes all that has changed since the last time, and that it is complete."""
        async with self._replay.database.transaction(self._tenant) as connection:
            await self._lease.renew(connection)
            await self._write(connection)

    async def _write(self, connection: Connection) -> None:
        tenant_id, generation, view = self._tenant, self._generation, self._folding.view
        await self._add_outcomes(connection, self._outcomes)
        changed = list(view.changed)
        for at in range(0, len(changed) if self._saved else 0, _CHUNK):
            names = changed[at : at + _CHUNK]
            await connection.execute(
                SQL["remove_records"], tenant_id, generation, [e for e, _ in names], [i for _, i in names]
            )
        for at in range(0, len(changed), _CHUNK):
            some = in_turns(changed[at : at + _CHUNK])
            rows = [to_columns(row) async for name in some if (row := view.rows[name])]
            await self._insert(connection, "add_records", rows)
        if self._saved:
            gone = [(*needed, *dependent) async for needed, dependent in in_turns(view.unlinked)]
            await self._insert(connection, "remove_links", gone)
        new = [(*needed, *dependent) async for needed, dependent in in_turns(view.linked)]
        await self._insert(connection, "add_links", new)
        for index, follower in enumerate(self._replay.followers):
            await follower.write(connection, tenant_id, generation, self._batches[index])
            if self._position > self._saved:
                await move(connection, tenant_id, follower, generation, self._saved, self._position)
        await connection.execute(SQL["save_rebuild"], tenant_id, self._position)
        self._batches = [follower.batch() for follower in self._replay.followers]
        self._outcomes = []
        self._saved = self._position
        view.changed.clear()
        view.linked.clear()
        view.unlinked.clear()

    async def _switch(self) -> int:
        """Under the head's lock: the last events, then the new generation is live. Answers the
        number of the old one.
        """
        replay, tenant_id = self._replay, self._tenant
        async with replay.database.transaction(tenant_id) as connection:
            await self._lease.renew(connection)
            head = await connection.fetchrow(SQL["lock_head"], tenant_id)
            assert head is not None
            rows = await connection.fetch(SQL["events_behind"], tenant_id, self._position, None)
            events = [Event(*row) async for row in in_turns(rows)]
            await self._folding.unsealer.learn(connection, {e.key_id for e in events})
            if not self._retry:  # an event that was parked meanwhile stays unapplied too
                parked = await parked_positions(connection, tenant_id, replay.projection)
                self._folding.leave_out(parked)
            await self._fold(events)
            if self._position != head["position"]:
                raise MissingEventError(tenant_id, self._position + 1)
            await self._fill(connection)
            await self._write(connection)
            await self._park(connection)
            for follower in replay.followers:  # their new rows hold everything
                await connection.execute(SQL["unpark_all"], tenant_id, follower.name)
            await connection.execute(
                SQL["switch_generation"], tenant_id, self._generation, replay.projection.version
            )
            await connection.execute(SQL["end_rebuild"], tenant_id)
        replay.tell(Progress(tenant_id, self._position, self._position))
        return int(head["generation"])

    async def _remove(self, old: int) -> None:
        """The rows and checkpoints of the generation that was live."""
        replay, tenant_id = self._replay, self._tenant
        await remove_generations(replay.database, tenant_id, keep={self._generation}, lease=self._lease)
        for follower in replay.followers:
            async with replay.database.transaction(tenant_id) as connection:
                name = checkpoint_of(follower, old)
                await connection.execute(SQL["forget_checkpoint"], tenant_id, name)

    async def _park(self, connection: Connection) -> None:
        """What the new generation could not apply is parked, and nothing else."""
        tenant_id, name = self._tenant, self._replay.projection.name
        failed = await connection.fetch(SQL["failed_positions"], tenant_id, self._generation)
        await connection.execute(SQL["unpark_others"], tenant_id, name, [row["position"] for row in failed])
        reasons = {position: reason for _, position, reason in self._folding.failed}
        for row in failed:
            reason = reasons.get(row["position"], "failed")
            place = (tenant_id, name, row["stream"], row["position"])
            await connection.execute(SQL["park"], *place, reason, clock.now())


async def is_outdated(replay: Replay) -> bool:
    """Whether an older version of the projection has made a tenant's read models."""
    return await _outdated(replay) is not None


async def _outdated(replay: Replay) -> int | None:
    """How many events an older version of the projection has made a tenant's read models of."""
    async with replay.database.transaction(replay.tenant_id) as connection:
        head = await connection.fetchrow(SQL["head"], replay.tenant_id)
    return head["position"] if head is not None and _is_older(head["version"], replay.projection) else None


async def outdated_tenants(database: Database, default_tenant: str, projection: CurrentState) -> list[str]:
    """The tenants whose read models an older version of the projection has made."""
    found = await places(database, default_tenant)
    return [tenant_id for tenant_id, place in found.items() if _is_older(place.version, projection)]


def _is_older(version: int, projection: CurrentState) -> bool:
    return version < projection.version


async def bring_up_to_date(replay: Replay, tell: Callable[[str], None] = lambda _: None) -> None:
    """Rebuilds a tenant's read models where an older version has made them, or waits until
    another process has done it. `tell` gets one line where there is something to rebuild.
    """
    if await _outdated(replay):
        tell(f"rebuilding the read models of tenant {replay.tenant_id}")
    while await is_outdated(replay):
        with contextlib.suppress(ReplayRunningError):
            await Rebuild(replay, if_outdated=True).run()


async def remove_generations(database: Database, tenant_id: str, keep: set[int], lease: Lease) -> None:
    """Removes the rows of all other generations, a piece at a time; never those that are live,
    whatever has happened meanwhile. Raises `LeaseLostError`.
    """
    kept = sorted(keep)
    ranges = zip([-1, *kept], [*kept, _NO_GENERATION], strict=True)
    for above, below in ranges:
        for table in ("records", "links", "outcomes", "summary"):
            done = "DELETE 1"
            while done != "DELETE 0":
                async with database.transaction(tenant_id) as connection:
                    await lease.renew(connection)
                    done = await connection.execute(
                        f"delete from ledger.{table} where ctid = any (array(select ctid from ledger.{table}"
                        " where tenant_id = $1 and generation > $2 and generation < $3 and generation <>"
                        " (select h.generation from ledger.heads h where h.tenant_id = $1) limit 20000))",
                        tenant_id,
                        above,
                        below,
                    )


async def take_or_wait(database: Database, lease: Lease, tenant_id: str) -> None:
    """Takes a lease; one whose owner was killed runs out soon. Raises `ReplayRunningError`
    where its owner lives.
    """
    give_up = time.monotonic() + 1.5 * LEASE_SECONDS
    while True:
        async with database.transaction(tenant_id) as connection:
            if await lease.take(connection):
                return
        if time.monotonic() > give_up:
            raise ReplayRunningError(tenant_id)
        await asyncio.sleep(LEASE_SECONDS / 20)


async def rebuild_follower(replay: Replay, follower: Follower) -> int:
    """Makes one follower's rows anew beside the old ones, then puts them in their place in one
    transaction that holds its checkpoint; it goes on from there. Answers how many items it applied.
    """
    database, tenant_id = replay.database, replay.tenant_id
    batch, reached, applied = follower.batch(), 0, 0
    async with database.transaction(tenant_id) as connection:
        head = await connection.fetchrow(SQL["head"], tenant_id)
    if head is None:
        return 0
    generation, until = head["generation"], head["position"]

    async def count(connection: Connection, last: int) -> None:
        nonlocal reached, applied
        items = await items_behind(connection, tenant_id, generation, reached, last, _CHUNK)
        for item in items:
            follower.apply(batch, item)
        applied += len(items)
        reached = items[-1].position if len(items) == _CHUNK else last

    while reached < until:
        async with database.transaction(tenant_id) as connection:
            await count(connection, until)
        replay.tell(Progress(tenant_id, reached, until))
    async with database.transaction(tenant_id) as connection:
        checkpoint = checkpoint_of(follower, generation)
        await connection.execute(SQL["hold_checkpoint"], tenant_id, checkpoint)
        before = await connection.fetchval(SQL["lock_checkpoint"], tenant_id, checkpoint)
        head = await connection.fetchrow(SQL["head"], tenant_id)
        assert head is not None
        if head["generation"] != generation:
            raise ReplayRunningError(tenant_id)
        while reached < head["position"]:
            await count(connection, head["position"])
        await connection.execute(SQL["unpark_all"], tenant_id, follower.name)
        await follower.forget(connection, tenant_id, generation)
        await follower.write(connection, tenant_id, generation, batch)
        if reached > before:
            await move(connection, tenant_id, follower, generation, before, reached)
    return applied


async def rows_of(
    database: Database, tenant_id: str, name: str, generation: int, after: tuple[str, ...]
) -> AsyncIterator[Any]:
    """Rows of a generation in order, page by page; the key comes first in `links_of`, third
    in `records_of`.
    """
    start = 2 if name == "records_of" else 0
    while True:
        async with database.transaction(tenant_id) as connection:
            rows = await connection.fetch(SQL[name], tenant_id, generation, *after, _CHUNK)
        for row in rows:
            yield row
        if len(rows) < _CHUNK:
            return
        after = tuple(rows[-1][start : start + len(after)])
