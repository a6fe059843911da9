"""Statuses that no list names: they take a seat, but perhaps they should not.

Zoho's picklists grow, and a new word (`Blocked`, `On leave`) would go on giving access to
a course without anybody having decided so. Such words are counted for `ready` and named in
the audit's summary, until one of the lists has them or no record does.

A tenant's records are read once, then only those that changed. What is kept is the position (some
300 bytes a tenant) and the records whose status is unknown (some 200 bytes each), by process and in
memory alone: it follows from the settings of the process.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Iterable
from weakref import WeakValueDictionary

import msgspec
import structlog

from ledger import statuses
from ledger.database import Connection, Database, UndecodableError
from ledger.errors import DatabaseAwayError
from ledger.pace import in_turns
from ledger.settings import MoodleSettings, Settings
from ledger.store import Wanted, in_parts, load
from projections.history import BOOKKEEPING
from projections.queries import SQL
from projections.state import ACTIVE, WAITING, Name, Row, from_columns
from projections.tenants import Pace, places

log = structlog.get_logger()

ENTITIES = ("student", "class", "enrollment")
"""The kinds of records whose status decides on a seat."""
_PAGE = 5_000  # positions
_SCAN = 5_000  # rows: few enough that nobody else waits while they are looked through
_YOUNG = 1_000
"""Tenants with no more events than that are read together for the first time."""
_AT_ONCE = 200


class Unknown(msgspec.Struct, frozen=True):
    """An unknown status, in its most frequent spelling, and how many active or waiting records of an
    entity have it.
    """

    entity: str
    status: str
    records: int


class _Seen:
    """The records of one tenant that have an unknown status, as of a position of one generation."""

    __slots__ = ("_records", "_status", "generation", "position")

    def __init__(self, generation: int, position: int) -> None:
        self.generation = generation
        self.position = position
        self._status: dict[Name, str] = {}
        self._records: Counter[tuple[str, str]] = Counter()

    def put(self, name: Name, status: str | None) -> None:
        """A record has this unknown status now; None: it has none."""
        entity = name[0]
        if (before := self._status.pop(name, None)) is not None:
            self._records[entity, before] -= 1
            if not self._records[entity, before]:
                del self._records[entity, before]
        if status is not None:
            self._status[name] = status = sys.intern(status)
            self._records[entity, status] += 1

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._status)

    def unknown(self) -> list[Unknown]:
        """By entity, spellings of one word together, the most frequent word first."""
        spellings: dict[tuple[str, str], Counter[str]] = {}
        for (entity, status), count in self._records.items():
            spellings.setdefault((entity, statuses.normal(status)), Counter())[status] = count
        found = [
            Unknown(entity, min(of, key=lambda s: (-of[s], s)), of.total())
            for (entity, _), of in spellings.items()
        ]
        return sorted(found, key=lambda u: (ENTITIES.index(u.entity), -u.records, u.status))


class UnknownStatuses:
    """The unknown statuses of every tenant, as far as they are known to this process."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._seen: dict[str, _Seen] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._pace = Pace()
        self._round: asyncio.Task[None] | None = None

    async def of(self, tenant_id: str) -> list[Unknown]:
        """Those of a tenant now. Raises `DatabaseAwayError`."""
        async with self._locks.setdefault(tenant_id, asyncio.Lock()):
            await self._look(tenant_id)
        seen = self._seen.get(tenant_id)
        return seen.unknown() if seen is not None else []  # nobody has founded it, or ever may

    def counts(self) -> dict[str, int]:
        """How many words each tenant has, as of the last look; tenants without any are left out."""
        return {
            tenant_id: len({statuses.normal(unknown.status) for unknown in seen.unknown()})
            for tenant_id, seen in sorted((name, seen) for name, seen in self._seen.items() if seen)
        }

    async def look_at_all(self, seconds: float) -> None:
        """Looks at every tenant, and waits at most so long for it; what takes longer goes on, and is
        waited for by the next call. With very many tenants not every call looks. Raises nothing.
        """
        if self._round is None or self._round.done():
            self._round = asyncio.create_task(self._look_at_all(), name="statuses")
        await asyncio.wait({self._round}, timeout=seconds)

    async def close(self) -> None:
        """Ends a look that goes on."""
        if self._round is not None:
            self._round.cancel()
            await asyncio.gather(self._round, return_exceptions=True)

    async def _look_at_all(self) -> None:
        try:
            if not self._pace.is_due:
                return
            with self._pace.round():
                now = await places(self._database, self._settings.default_tenant)
            await self._begin(tenant_id for tenant_id in now if tenant_id not in self._seen)
            for tenant_id, place in now.items():
                seen = self._seen.get(tenant_id)
                if seen is None or (seen.generation, seen.position) != (place.generation, place.position):
                    await self._look_at_one(tenant_id)
        except DatabaseAwayError:
            pass  # the next look sees what has changed
        except Exception:
            log.exception("looking for unknown statuses failed; it is tried again")

    async def _begin(self, tenants: Iterable[str]) -> None:
        """Looks at tenants for the first time: at young ones together."""
        alike: dict[frozenset[str], list[str]] = {}
        for tenant_id in tenants:
            named = self._settings.tenant(tenant_id).moodle.named_statuses
            alike.setdefault(named, []).append(tenant_id)
        for named, names in alike.items():
            for start in range(0, len(names), _AT_ONCE):
                some = names[start : start + _AT_ONCE]
                async with self._database.transaction(self._settings.default_tenant) as connection:
                    rows = await connection.fetch(
                        SQL["statuses_of"], some, list(ENTITIES), sorted(named), _YOUNG
                    )
                found: dict[str, _Seen] = {}
                for tenant_id, position, generation, entity, zoho_id, status in rows:
                    if entity is None:
                        found[tenant_id] = _Seen(generation, position)
                    elif self._settings.tenant(tenant_id).moodle.is_unknown(status):
                        found[tenant_id].put((entity, zoho_id), status)
                for tenant_id, seen in found.items():
                    self._seen.setdefault(tenant_id, seen)

    async def _look_at_one(self, tenant_id: str) -> None:
        """One college never keeps the look from the others. Raises `DatabaseAwayError`."""
        try:
            await self.of(tenant_id)
        except DatabaseAwayError:
            raise
        except Exception:
            log.exception("looking for unknown statuses failed; it is tried again", tenant=tenant_id)

    async def _look(self, tenant_id: str) -> None:
        """Brings what is known of a tenant to its head."""
        moodle = self._settings.tenant(tenant_id).moodle
        while True:
            async with self._database.transaction(tenant_id, snapshot=True) as connection:
                head = await connection.fetchrow(SQL["head"], tenant_id)
                if head is None:
                    self._seen.pop(tenant_id, None)
                    return
                seen = self._seen.get(tenant_id)
                generation, position = head["generation"], head["position"]
                if seen is not None and seen.generation == generation and seen.position <= position:
                    if seen.position == position:
                        return
                    until = min(position, seen.position + _PAGE)
                    for row in await _changed(connection, tenant_id, seen, until):
                        seen.put(row.name, _unknown_status(row, moodle))
                    seen.position = until
                    continue
            self._seen[tenant_id] = await self._read_all(tenant_id, generation, position, moodle)

    async def _read_all(
        self, tenant_id: str, generation: int, position: int, moodle: MoodleSettings
    ) -> _Seen:
        """Reads every record, some at a time: what changes meanwhile lies behind the position."""
        seen = _Seen(generation, position)
        named = sorted(moodle.named_statuses)
        for entity in ENTITIES:
            after: str | None = ""
            while after is not None:
                place = (tenant_id, generation, entity, after, _SCAN)
                try:
                    async with self._database.transaction(tenant_id) as connection:
                        *rows, end = await connection.fetch(SQL["statuses_besides"], *place, named)
                    found, after = [(row["zoho_id"], row["status"]) for row in rows], end["zoho_id"]
                except UndecodableError:  # a row of these was altered
                    found, after = await self._read_each(*place)
                async for zoho_id, status in in_turns(found):
                    if moodle.is_unknown(status):  # SQL does not compare as closely
                        seen.put((entity, zoho_id), status)
        return seen

    async def _read_each(
        self, tenant_id: str, generation: int, entity: str, after: str, limit: int
    ) -> tuple[list[tuple[str, str | None]], str | None]:
        """The ids and statuses of some records, without those that cannot be read, and where to go on."""
        async with self._database.transaction(tenant_id) as connection:
            rows = await connection.fetch(SQL["records_of"], tenant_id, generation, entity, after, limit)
        found = [from_columns(row[BOOKKEEPING:]) for row in rows if row["entity"] == entity]
        statuses_ = [(r.zoho_id, r.fields.get("status")) for r in found if r.state in (ACTIVE, WAITING)]
        return statuses_, found[-1].zoho_id if len(found) == limit else None


async def _changed(connection: Connection, tenant_id: str, seen: _Seen, until: int) -> list[Row]:
    """Records whose state may be another one since the last look."""
    rows = await connection.fetch(SQL["changed_between"], tenant_id, seen.generation, seen.position, until)
    names = [
        (entity, zoho_id) for entity, zoho_id, _, is_changed in rows if is_changed and entity in ENTITIES
    ]
    return [
        from_columns(columns)
        for part in in_parts(Wanted(records=names))
        async for columns in in_turns((await load(connection, tenant_id, part)).records)
    ]


def _unknown_status(row: Row, moodle: MoodleSettings) -> str | None:
    status = row.fields.get("status")
    return status if row.state in (ACTIVE, WAITING) and moodle.is_unknown(status) else None
