"""The event store of one tenant: append under the head's lock, read by position.

`load` and `append` are what a lane works with, each one round trip. The coroutines
below them have the meaning of the `eventsourcing` library's `ProcessRecorder`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import asyncpg
import msgspec
from eventsourcing.persistence import IntegrityError, Notification, StoredEvent, Tracking

from ledger import chain, clock
from ledger.database import Connection, Database, begin
from ledger.errors import DatabaseAwayError, MissingEventError
from ledger.events import Event
from ledger.pace import in_turns
from ledger.vault import MasterKey

MOVED = "moved"
"""The append found the head elsewhere, or of another generation: nothing was written."""
KNOWN = "known"
"""The append found a remembered answer under one of the keys: nothing was written."""
OK = "ok"

_TRIAL_BYTES = 8 * 1024
_PAGE = 5_000  # rows; about the fastest page for keyset reads

EVENT_COLUMNS = tuple(Event.__struct_fields__)
# an event of a flush has no tenant
_RECORDED_AT, _PAYLOAD = (EVENT_COLUMNS.index(name) - 1 for name in ("recorded_at", "payload"))
_SELECT_EVENTS = f"select {', '.join(EVENT_COLUMNS)} from ledger.events"
PAGE_BYTES = 32 * 1024 * 1024
"""So much payload a page of events holds at the most, but for an event that is larger alone."""
_BEHIND = (
    "from ledger.events where tenant_id = $1 and position > $2"
    " and ($3::bigint is null or position <= $3) order by position limit $4"
)
_PAGE_SIZE = f"select coalesce(sum(octet_length(payload)), 0) from (select payload {_BEHIND}) e"
_PAGE_OF_EVENTS = f"select {', '.join(EVENT_COLUMNS)} {_BEHIND}"
_PAGE_OF_LARGE_EVENTS = (  # a running sum for each row takes its time, so only where it is needed
    f"select {', '.join(EVENT_COLUMNS)} from (select *, sum(octet_length(payload)) over (order by position"
    f" rows between unbounded preceding and 1 preceding) as before {_BEHIND}) e"
    " where coalesce(before, 0) < $5 order by position"
)

_APPEND = "select ledger.append_v1($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15)"
_LOAD = "select * from ledger.load_v1($1,$2,$3,$4,$5,$6,$7,$8,$9)"


ROWS = 500
LARGE_BYTES = 1024 * 1024
"""So many rows, or so much payload, go to the database or come from it in one piece: asyncpg translates
a piece in one call, 10,000 rows in some 300 ms, 45 MB in some 100 ms.
"""


class Head(msgspec.Struct, frozen=True):
    """Where a tenant's history ends."""

    position: int
    recorded_at: int
    chain: bytes
    generation: int
    version: int = 1


class Wanted(msgspec.Struct):
    """What to read before a fold: names of records, of records whose dependents are
    wanted, of key subjects, and (endpoint, key) of remembered answers.
    """

    records: list[tuple[str, str]] = []
    dependents: list[tuple[str, str]] = []
    subjects: list[str] = []
    answers: list[tuple[str, str]] = []

    def __bool__(self) -> bool:
        return bool(self.records or self.dependents or self.subjects or self.answers)


class Loaded(msgspec.Struct):
    """What was read, as rows in the order of the types `ledger.*_v1`."""

    head: Head | None
    records: Sequence[Any] = ()
    dependents: Sequence[Any] = ()
    dependent_records: Sequence[Any] = ()
    keys: Sequence[Any] = ()
    answers: Sequence[Any] = ()


class Flush(msgspec.Struct):
    """What one append writes, as rows in the order of the types `ledger.*_v1`."""

    events: list[tuple[Any, ...]] = []
    outcomes: list[tuple[Any, ...]] = []
    records: list[tuple[Any, ...]] = []
    links: list[tuple[Any, ...]] = []
    unlinks: list[tuple[Any, ...]] = []
    keys: list[tuple[Any, ...]] = []
    answers: list[tuple[Any, ...]] = []
    parked: list[tuple[Any, ...]] = []


Lists = TypeVar("Lists", Wanted, Flush)


def in_parts(whole: Lists) -> Iterator[Lists]:
    """The same in pieces: all at once where it is little, else so many of one kind at a time, the
    answers first.
    """
    payload = sum(len(event[_PAYLOAD]) for event in whole.events) if isinstance(whole, Flush) else 0
    if payload <= LARGE_BYTES and max(map(len, msgspec.structs.astuple(whole))) <= ROWS:
        yield whole
        return
    lists = msgspec.structs.asdict(whole)
    for kind in sorted(lists, key=lambda kind: kind != "answers"):
        for at in range(0, len(lists[kind]), ROWS):
            yield type(whole)(**{kind: lists[kind][at : at + ROWS]})


async def load(connection: Connection, tenant_id: str, wanted: Wanted, *, lock: bool = False) -> Loaded:
    """Reads the head, then what is wanted. With `lock` inside a transaction the head
    stays locked until it ends.
    """
    row = await connection.fetchrow(
        _LOAD,
        tenant_id,
        lock,
        [e for e, _ in wanted.records],
        [i for _, i in wanted.records],
        [e for e, _ in wanted.dependents],
        [i for _, i in wanted.dependents],
        wanted.subjects,
        [e for e, _ in wanted.answers],
        [k for _, k in wanted.answers],
    )
    assert row is not None
    head, *rest = row
    if head is None or head[0] is None:
        return Loaded(None)
    return Loaded(Head(*head[1:]), *(rows or () for rows in rest))


async def append(
    connection: Connection, tenant_id: str, before: Head, after: Head, now: int, flush: Flush
) -> str:
    """Writes a flush whole or not at all: `OK`, `MOVED` or `KNOWN`.

    Where this raises, the outcome is not known.
    """
    first, *more = in_parts(flush)
    if not more:
        return await _append_part(connection, tenant_id, before, after, now, flush)
    async with nullcontext() if connection.is_in_transaction() else connection.transaction():
        reached = _behind(first, before)
        answer = await _append_part(connection, tenant_id, before, reached, now, first)
        if answer != OK:
            return answer
        for part in more:
            before, reached = reached, after if part is more[-1] else _behind(part, reached)
            answer = await _append_part(connection, tenant_id, before, reached, now, part)
            assert answer == OK, answer  # the head is locked
    return OK


def _behind(part: Flush, before: Head) -> Head:
    """The head behind a part of a flush."""
    if not part.events:
        return before
    last = part.events[-1]
    return Head(last[0], last[_RECORDED_AT], last[-1], before.generation, before.version)


async def _append_part(
    connection: Connection, tenant_id: str, before: Head, after: Head, now: int, flush: Flush
) -> str:
    answer: str = await connection.fetchval(
        _APPEND,
        tenant_id,
        before.position,
        before.generation,
        after.position,
        after.recorded_at,
        after.chain,
        now,
        flush.events,
        flush.outcomes,
        flush.records,
        flush.links,
        flush.unlinks,
        flush.keys,
        flush.answers,
        flush.parked,
    )
    return answer


async def page_of_events(
    connection: Connection, tenant_id: str, after: int, until: int | None, limit: int
) -> list[Any]:
    """Events of a tenant behind a position up to one, in the order of `Event`: at most so many,
    and no more than `PAGE_BYTES` of payload where there are several.
    """
    place = (tenant_id, after, until, limit)
    if await connection.fetchval(_PAGE_SIZE, *place) <= PAGE_BYTES:
        return list(await connection.fetch(_PAGE_OF_EVENTS, *place))
    return list(await connection.fetch(_PAGE_OF_LARGE_EVENTS, *place, PAGE_BYTES))


async def recorded_deliveries(connection: Connection, tenant_id: str, delivery_ids: list[str]) -> set[str]:
    """Those of some deliveries of which events are recorded."""
    rows = await connection.fetch(
        "select w.id from unnest($2::text[]) w (id) cross join lateral (select from ledger.events e"
        " where e.tenant_id = $1 and e.delivery_id = w.id limit 1) e",
        tenant_id,
        delivery_ids,
    )
    return {row["id"] for row in rows}


async def newest_versions(connection: Connection, tenant_id: str, streams: list[str]) -> dict[str, int]:
    """The newest version of each of some streams that there are."""
    rows = await connection.fetch(
        "select w.stream, e.version from unnest($2::text[]) w (stream) cross join lateral (select e.version"
        " from ledger.events e where e.tenant_id = $1 and e.stream = w.stream order by e.version desc limit 1) e",
        tenant_id,
        streams,
    )
    return dict(map(tuple, rows))


async def keys_of_vault(connection: Connection, tenant_id: str, key_ids: Iterable[bytes]) -> list[Any]:
    """(key_id, subject, wrapped) of those keys that the vault has; `wrapped` is None where the key
    was destroyed.
    """
    rows = await connection.fetch(
        "select k.key_id, k.subject, k.wrapped from unnest($2::bytea[]) w (key_id) cross join lateral"
        " (select * from vault.keys k where k.tenant_id = $1 and k.key_id = w.key_id limit 1) k",
        tenant_id,
        list(key_ids),
    )
    return list(rows)


async def create_tenant(
    connection: Connection, tenant_id: str, master_key: MasterKey, version: int = 1
) -> None:
    """Makes a tenant and its head where there is none. Needs a transaction. `version` is
    that of the inline projection that will fill its read models.
    """
    await connection.execute(
        "insert into ledger.tenants (tenant_id, key_check) values ($1, $2) on conflict do nothing",
        tenant_id,
        master_key.check(),
    )
    await connection.execute("select set_config('ledger.tenant', $1, true)", tenant_id)
    await connection.execute(
        "insert into ledger.heads (tenant_id, position, recorded_at, chain, generation, version)"
        " values ($1, 0, $2, $3, 1, $4) on conflict do nothing",
        tenant_id,
        0,
        chain.GENESIS,
        version,
    )


async def with_first_statuses(connection: Connection) -> frozenset[str]:
    """The tenants that were founded with the first default list of inactive statuses."""
    rows = await connection.fetch("select tenant_id from ledger.tenants where statuses = 1")
    return frozenset(row["tenant_id"] for row in rows)


async def try_to_write(connection: Connection, tenant_id: str) -> None:
    """Writes a row and removes it again: raises what an append would raise on a disk that is full, or
    on a server that only reads. The row has to be stored out of line, where nothing else is that could
    leave room for it. Needs a transaction, whose commit is part of the trial.
    """
    name = f"trial {secrets.token_hex(8)}"
    await connection.execute(
        "insert into ledger.leases (tenant_id, name, owner, until, note) values ($1, $2, '', now(), $3)",
        tenant_id,
        name,
        secrets.token_hex(_TRIAL_BYTES),  # at random, so that it cannot be compressed
    )
    await connection.execute("delete from ledger.leases where tenant_id = $1 and name = $2", tenant_id, name)


async def tidy(connection: Connection, after: str, limit: int, now: int, keys_before: int) -> str | None:
    """In so many tenants behind one removes remembered answers whose time is over, and destroys the
    keys of unreadable deliveries made before an instant. Answers the last tenant, None where none is
    left. Needs a transaction.
    """
    last: str | None = await connection.fetchval(
        "select ledger.tidy_v1($1, $2, $3, $4)", after, limit, now, keys_before
    )
    return last


class EventStore:
    """One tenant's events, with the coroutines of a `ProcessRecorder`."""

    def __init__(self, database: Database, tenant_id: str, master_key: MasterKey) -> None:
        self._database = database
        self._tenant = tenant_id
        self._master_key = master_key

    async def insert_events(
        self, stored_events: Sequence[StoredEvent], tracking: Tracking | None = None
    ) -> list[int]:
        """Appends events of any topic, and with them how far a follower has come.

        Positions follow the head without a gap. Raises the library's
        `IntegrityError` where a version of a stream, or a tracking position,
        exists; then nothing is written. An empty batch writes tracking only.
        """
        try:
            async with self._database.transaction(self._tenant) as connection:
                head = await self._lock(connection)
                rows, after = self._chained(head, stored_events)
                if rows:
                    answer = await append(
                        connection, self._tenant, head, after, after.recorded_at, Flush(events=rows)
                    )
                    if answer != OK:
                        raise IntegrityError(answer)
                if tracking is not None:
                    await _track(connection, self._tenant, tracking)
        except asyncpg.UniqueViolationError as error:
            raise IntegrityError(str(error)) from error
        return [row[0] for row in rows]

    async def _lock(self, connection: Connection) -> Head:
        found = await load(connection, self._tenant, Wanted(), lock=True)
        if found.head is None:
            await create_tenant(connection, self._tenant, self._master_key)
            found = await load(connection, self._tenant, Wanted(), lock=True)
        assert found.head is not None
        return found.head

    def _chained(
        self, head: Head, stored_events: Iterable[StoredEvent]
    ) -> tuple[list[tuple[Any, ...]], Head]:
        rows: list[tuple[Any, ...]] = []
        position, instant, value = head.position, max(head.recorded_at, clock.now()), head.chain
        for stored in stored_events:
            position, instant = position + 1, instant + 1
            columns = (
                position, str(stored.originator_id), stored.originator_version, stored.topic,
                None, None, "cli", None, instant, None, None, 0, None, None, None, stored.state,
            )  # fmt: skip
            value = chain.link(value, (self._tenant, *columns))
            rows.append((*columns, value))
        return rows, Head(position, instant, value, head.generation, head.version)

    async def select_events(
        self,
        originator_id: str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> list[StoredEvent]:
        """The events of one stream by version."""
        order = "desc" if desc else "asc"
        async with self._database.transaction(self._tenant) as connection:
            rows = await connection.fetch(
                "select stream, version, topic, payload from ledger.events"
                " where tenant_id = $1 and stream = $2 and ($3::bigint is null or version > $3)"
                f" and ($4::bigint is null or version <= $4) order by version {order} limit $5",
                self._tenant,
                str(originator_id),
                gt,
                lte,
                limit,
            )
        return [StoredEvent(*row) for row in rows]

    async def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> list[Notification]:
        """Events by position, as `Notification` with the position as `id`."""
        first = start if start is None or inclusive_of_start else start + 1
        async with self._database.transaction(self._tenant) as connection:
            rows = await connection.fetch(
                "select position, stream, version, topic, payload from ledger.events"
                " where tenant_id = $1 and position >= coalesce($2, 1)"
                " and ($3::bigint is null or position <= $3)"
                " and (cardinality($4::text[]) = 0 or topic = any ($4))"
                " order by position limit $5",
                self._tenant,
                first,
                stop,
                list(topics),
                limit,
            )
        return [
            Notification(originator_id=s, originator_version=v, topic=t, state=p, id=i)
            for i, s, v, t, p in rows
        ]

    async def max_notification_id(self) -> int | None:
        """The newest position, None where there is none."""
        async with self._database.transaction(self._tenant) as connection:
            position: int | None = await connection.fetchval(
                "select nullif(position, 0) from ledger.heads where tenant_id = $1", self._tenant
            )
        return position

    async def insert_tracking(self, tracking: Tracking) -> None:
        """Moves a follower on. Raises `IntegrityError` where it is there or further."""
        async with self._database.transaction(self._tenant) as connection:
            await _track(connection, self._tenant, tracking)

    async def max_tracking_id(self, application_name: str) -> int | None:
        """How far a follower has come."""
        async with self._database.transaction(self._tenant) as connection:
            reached: int | None = await connection.fetchval(
                "select notification_id from ledger.tracking where tenant_id = $1 and follower = $2",
                self._tenant,
                application_name,
            )
        return reached

    async def has_tracking_id(self, application_name: str, notification_id: int | None) -> bool:
        """Whether a follower has come that far; `None` is always reached."""
        if notification_id is None:
            return True
        reached = await self.max_tracking_id(application_name)
        return reached is not None and reached >= notification_id

    async def events(self, after: int = 0, until: int | None = None) -> list[Event]:
        """One page of events behind a position, the next page follows its last one.

        Raises `DatabaseAwayError`, and `MissingEventError` where a position is missing.
        """
        async with self._database.transaction(self._tenant) as connection:
            rows = await page_of_events(connection, self._tenant, after, until, _PAGE)
        events = [Event(*row) async for row in in_turns(rows)]
        for expected, event in enumerate(events, after + 1):
            if event.position != expected:
                raise MissingEventError(self._tenant, expected)
        return events


async def _track(connection: Connection, tenant_id: str, tracking: Tracking) -> None:
    moved = await connection.fetchval(
        "insert into ledger.tracking as t (tenant_id, follower, notification_id)"
        " values ($1, $2, $3) on conflict (tenant_id, follower) do update"
        " set notification_id = excluded.notification_id"
        " where t.notification_id < excluded.notification_id returning true",
        tenant_id,
        tracking.application_name,
        tracking.notification_id,
    )
    if not moved:
        raise IntegrityError(
            f"{tracking.application_name} is at or behind {tracking.notification_id} already"
        )


__all__ = [
    "KNOWN", "MOVED", "OK", "DatabaseAwayError", "EventStore", "Flush", "Head", "Loaded", "Wanted",
    "append", "begin", "create_tenant", "load", "tidy",
]  # fmt: skip
