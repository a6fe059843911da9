"""The derived past of one tenant: what happened, in order, and what it led to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import structlog

from ledger import clock
from ledger.database import Connection, Database, UndecodableError
from ledger.errors import DamagedError
from ledger.events import REPORT, REPORTS, stream_name
from ledger.pace import in_turns
from ledger.unseal import Unsealer
from ledger.vault import MasterKey
from ledger.zoho.entities import ENTITIES, Entities
from projections.fold import NOT_SYNCED, SKIPPED
from projections.moodle.rules import EVERY_REASON
from projections.queries import SQL
from projections.state import Name, Row, from_columns

STATUSES = (
    "INVALID", "DELETED", "SKIPPED", "NEW", "UPDATED", "UNCHANGED", "ERROR",
    "SYNCED", "FAILED", "QUEUED",
)  # fmt: skip
"""What an event may have led to; the last three are those of Moodle's reports."""
REASONS = (*SKIPPED, *(f"{name}{NOT_SYNCED}" for name in sorted(ENTITIES.needed)), *EVERY_REASON)
"""Why it was SKIPPED, and why Moodle's part FAILED."""
END = 2**62
"""A position behind every event."""

PAGE = 5_000
PAGE_BYTES = 16 * 1024 * 1024
"""So much payload and changes a page holds at the most, but for one event that has more alone."""

BOOKKEEPING = 2  # tenant_id and generation come first in `select *`

_RARE = ("INVALID", "SKIPPED", "ERROR", "DELETED", "FAILED")  # as in the index outcomes_by_status
log = structlog.get_logger()

_decode_changes = msgspec.json.Decoder(dict[str, tuple[str | None, str | None]]).decode
_decode_problems = msgspec.json.Decoder(list[tuple[str, str]]).decode
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError)


class Filter(msgspec.Struct, frozen=True):
    """Which events. `since` is inclusive, `until` exclusive (microseconds since 1970 UTC),
    `after` an exclusive position; None does not count. `warnings`: only events that have some.
    """

    entity: str | None = None
    zoho_id: str | None = None
    status: str | None = None
    reason: str | None = None
    source: str | None = None
    delivery_id: str | None = None
    since: int | None = None
    until: int | None = None
    after: int = 0
    warnings: bool = False


class Page(msgspec.Struct):
    """Some items by ascending position, and whether there are more behind them."""

    items: list[dict[str, Any]]
    more: bool

    @property
    def last(self) -> int:
        """The position behind which the next page begins."""
        return int(self.items[-1]["position"])


class History:
    """Reads one tenant's past. Raises `DatabaseAwayError` throughout."""

    def __init__(self, database: Database, tenant_id: str, master_key: MasterKey, entities: Entities) -> None:
        self._database = database
        self._tenant = tenant_id
        self._master_key = master_key
        self._entities = entities

    async def events(self, wanted: Filter, limit: int, *, payload: bool = False) -> Page:
        """Events by ascending position; with `payload` the record as stored, null where its
        key was destroyed, and fewer events where they are large. One of which something cannot
        be read says so under `unreadable`.
        """
        async with self._database.transaction(self._tenant) as connection:
            after, before = await self._bounds(connection, wanted)
        return await self._events(wanted, after, before, limit, payload=payload)

    async def export(self, wanted: Filter, *, payload: bool = False) -> AsyncIterator[list[dict[str, Any]]]:
        """All of them up to the newest one of now, page by page, each in a transaction of its
        own: memory stays flat and nothing is held while the reader is slow.
        """
        async with self._database.transaction(self._tenant) as connection:
            after, before = await self._bounds(connection, wanted)
            head = await connection.fetchrow(SQL["head"], self._tenant)
        before = min(before, head["position"] + 1 if head else 0)
        page = Page([], more=True)
        while page.more:
            page = await self._events(wanted, after, before, PAGE, payload=payload)
            if page.items:
                yield page.items
                after = page.last

    async def _events(self, wanted: Filter, after: int, before: int, limit: int, *, payload: bool) -> Page:
        try:
            async with self._database.transaction(self._tenant, snapshot=True) as connection:
                return await self._page(connection, wanted, after, before, limit, payload=payload)
        except UndecodableError:
            if not wanted.warnings:
                raise
        return await self._sieved(wanted, after, before, limit, payload=payload)

    async def _sieved(self, wanted: Filter, after: int, before: int, limit: int, *, payload: bool) -> Page:
        """Events that have warnings, where the database stumbles over one that was altered: they are
        looked through one by one, and such a one is shown.
        """
        each, found = msgspec.structs.replace(wanted, warnings=False), Page([], more=True)
        while found.more and len(found.items) < limit:
            page = await self._events(each, after, before, PAGE, payload=payload)
            found.items += [item for item in page.items if item["warnings"] or "unreadable" in item]
            found.more, after = page.more, page.last if page.items else after
        return Page(found.items[:limit], found.more or len(found.items) > limit)

    async def _bounds(self, connection: Connection, wanted: Filter) -> tuple[int, int]:
        after, before = wanted.after, END
        if wanted.since is not None:
            after = max(after, await self._position_at(connection, wanted.since) - 1)
        if wanted.until is not None:
            before = await self._position_at(connection, wanted.until)
        return after, before

    async def _position_at(self, connection: Connection, instant: int) -> int:
        found: int | None = await connection.fetchval(SQL["position_at"], self._tenant, instant)
        return END if found is None else found

    async def _page(
        self, connection: Connection, wanted: Filter, after: int, before: int, limit: int, *, payload: bool
    ) -> Page:
        common = (self._tenant, after, before, wanted.entity, wanted.source, limit + 1)
        rows: list[Any] = []
        for stream in self._streams(wanted):
            rows += await _select(connection, common, stream, wanted)
        rows.sort(key=lambda row: row["position"])
        more = len(rows) > limit
        del rows[limit:]
        if (fitting := _fitting(rows, payload=payload)) < len(rows):
            more = True
            del rows[fitting:]
        items = [_event(row) async for row in in_turns(rows)]
        if payload:
            await self._add_payloads(connection, rows, items)
        return Page(items, more)

    async def _add_payloads(
        self, connection: Connection, rows: list[Any], items: list[dict[str, Any]]
    ) -> None:
        unsealer = Unsealer(self._tenant, self._master_key)
        await unsealer.learn(connection, (row["key_id"] for row in rows))
        found = await connection.fetch(SQL["payloads_at"], self._tenant, [row["position"] for row in rows])
        async for item, r, (_, payload) in in_turns(zip(items, rows, found, strict=True)):
            try:
                item["payload"] = unsealer.record(r["topic"], r["key_id"], payload, r["stream"], r["version"])
            except DamagedError as error:
                item["payload"], item["unreadable"] = None, str(error)
                place = {"tenant": self._tenant, "position": r["position"], "stream": r["stream"]}
                log.warning("an event cannot be read", **place, reason=str(error))

    def _streams(self, wanted: Filter) -> list[str | None]:
        """The streams that a filter by id names; one None where it names none."""
        if wanted.zoho_id is None:
            return [None]
        names = self._entities.names()
        return [
            stream_name(kind + name, wanted.zoho_id)
            for name in names
            if wanted.entity in (None, name)
            for kind in ("", REPORTS)
        ]

    async def life(self, name: Name, after: int, limit: int) -> Page:
        """The whole life of one record by ascending position: its own events, Moodle's
        reports, and what the events of others did to it (those have `caused_by` and no version of the record).
        """
        entity, zoho_id = name
        own = Filter(entity=entity, zoho_id=zoho_id)
        async with self._database.transaction(self._tenant, snapshot=True) as connection:
            page = await self._page(connection, own, after, END, limit, payload=False)
            effects = await connection.fetch(
                SQL["effects_on_record"], self._tenant, entity, zoho_id, after, limit + 1
            )
        items = sorted(
            [*page.items, *(_effect(row, name) for row in effects)], key=lambda item: item["position"]
        )
        return Page(items[:limit], page.more or len(items) > limit)

    async def knows(self, name: Name) -> bool:
        """Whether there is any event of a record."""
        async with self._database.transaction(self._tenant) as connection:
            rows = await connection.fetch(SQL["last_events_of_stream"], self._tenant, stream_name(*name), 1)
        return bool(rows)

    async def deferred(self, behind: tuple[int, int, str], limit: int) -> list[Row]:
        """Rows that wait, oldest first, behind (waiting_since, own_position, zoho_id)."""
        async with self._database.transaction(self._tenant) as connection:
            rows = await connection.fetch(SQL["deferred"], self._tenant, *behind, limit)
        return [from_columns(row[BOOKKEEPING:]) for row in rows]


def deferred_item(row: Row) -> dict[str, Any]:
    """A waiting record as it is shown."""
    item: dict[str, Any] = {
        "zoho_id": row.zoho_id,
        "entity": row.entity,
        "waiting_for": waiting_for(row),
        "since": clock.to_text(row.waiting_since or 0),
        "position": row.own_position,
    }
    if problem := row.problem:
        item["unreadable"] = problem
    return item


def waiting_for(row: Row) -> list[dict[str, str]]:
    """[{"entity", "zoho_id"}]."""
    return [{"entity": e, "zoho_id": i} for e, i in row.waiting_for]


def changes_of(changes: dict[str, Any]) -> dict[str, dict[str, str | None]]:
    """Field -> {"old", "new"}."""
    return {field: {"old": old, "new": new} for field, (old, new) in changes.items()}


def problems_of(problems: Sequence[Any]) -> list[dict[str, str]]:
    """[{"field", "problem"}]."""
    return [{"field": field, "problem": problem} for field, problem in problems]


async def _select(
    connection: Connection, common: tuple[Any, ...], stream: str | None, wanted: Filter
) -> list[Any]:
    """The query whose index fits the narrowest filter."""
    status, reason, delivery_id = wanted.status, wanted.reason, wanted.delivery_id
    if reason is not None and status is None:
        skipped = reason in SKIPPED or reason.endswith(NOT_SYNCED)
        status = "SKIPPED" if skipped else "FAILED"  # nothing else has one
    by_outcome = (status, reason)
    counts_more = status is not None or wanted.warnings
    arguments: tuple[Any, ...] = common
    if stream is not None and (counts_more or delivery_id is not None):
        name = "events_of_stream_by_outcome"
        arguments = (*common, stream, *by_outcome, delivery_id, wanted.warnings)
    elif delivery_id is not None and counts_more:
        name = "events_of_delivery_by_outcome"
        arguments = (*common, delivery_id, *by_outcome, None, wanted.warnings)
    elif wanted.warnings:
        name, arguments = "events_with_warnings", (*common, *by_outcome)
    elif stream is not None:
        name, arguments = "events_of_stream", (*common, stream)
    elif delivery_id is not None:
        name, arguments = "events_of_delivery", (*common, delivery_id)
    elif status is not None:
        name = "events_by_rare_status" if status in _RARE else "events_by_outcome"
        arguments = (*common, *by_outcome)
    elif wanted.source not in (None, "sync"):
        name = "events_of_rare_source"
    else:
        name = "events_by_position"
    return list(await connection.fetch(SQL[name], *arguments))


def _fitting(rows: list[Any], *, payload: bool) -> int:
    """How many rows fit into a page, with their payloads or without, at least one."""
    size = 0
    for number, row in enumerate(rows):
        size += len(row["changes"] or b"") + (row["size"] if payload else 0)
        if size > PAGE_BYTES:
            return max(1, number)
    return len(rows)


def _event(row: Any) -> dict[str, Any]:
    item = {
        "position": row["position"],
        "recorded_at": clock.to_text(row["recorded_at"]),
        "entity": row["entity"],
        "zoho_id": row["zoho_id"],
        "version": row["version"],
        "topic": row["topic"],
        "status": row["status"],
        "reason": row["reason"],
        "changes": None,
        "errors": None,
        "warnings": None,
        "source": row["source"],
        "delivery_id": row["delivery_id"],
    }
    try:
        changes, errors = row["changes"], row["errors"]
        found = _decode_problems(errors) if errors else []
        item["errors"] = problems_of(found) if errors else None
        item["changes"] = changes_of(_decode_changes(changes)) if changes else None
    except _UNDECODABLE:
        item["unreadable"] = "what the event led to was altered: sync-ledger replay makes it anew"
        return item
    try:
        item["warnings"] = problems_of(_warnings(row, found)) or None
    except _UNDECODABLE:
        item["unreadable"] = "the event's problems were altered: run sync-ledger verify"
    return item


def _warnings(row: Any, errors: list[Any]) -> list[Any]:
    """The problems of an event that are none of its errors, as `has_warnings` selects them."""
    if row["problems"] is None or row["flags"] & REPORT:
        return []
    return [problem for problem in _decode_problems(row["problems"]) if problem not in errors]


def _effect(row: Any, name: Name) -> dict[str, Any]:
    return {
        "position": row["position"],
        "recorded_at": clock.to_text(row["recorded_at"]),
        "entity": name[0],
        "zoho_id": name[1],
        "version": None,
        "topic": row["topic"],
        "status": row["status"],
        "reason": row["reason"],
        "changes": None,
        "errors": None,
        "warnings": None,
        "source": row["source"],
        "delivery_id": row["delivery_id"],
        "caused_by": {"entity": row["entity"], "zoho_id": row["zoho_id"]},
    }
