"""`sync-ledger audit`: the past on the command line, as `/v1/audit/...` has it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import App, Parameter
from rich.text import Text

from api.audit import csv_pages, ndjson_pages, shown
from api.queries import MOST, cursor_of, decode_cursor, one_of
from ledger.events import SOURCES
from ledger.zoho.entities import ENTITIES
from projections.explain import explain_enrollment
from projections.history import END, REASONS, STATUSES, Filter, Page, deferred_item
from projections.past import Past
from projections.statuses import Unknown, UnknownStatuses
from projections.summary import SPANS, Summary
from scripts.opened import CommandError, Opened, instant, run
from scripts.options import Whole
from scripts.output import console, harmless, print_json, print_table

app = App(name="audit")

Tenant = Annotated[str | None, Parameter(help="the college (default: DEFAULT_TENANT_ID)")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="one JSON document, as over HTTP")]
Limit = Annotated[Whole, Parameter(help=f"items, 1 to {MOST}")]
Cursor = Annotated[str | None, Parameter(help="the text of `next`")]
Instant = Annotated[str | None, Parameter(help="an instant such as 2026-02-11T14:05:09Z")]


@Parameter(name="*")
@dataclass(frozen=True)
class Which:
    """Which events: the filters of `/v1/audit/events`."""

    entity: Annotated[str | None, Parameter(help=one_of(ENTITIES.names()))] = None
    zoho_id: str | None = None
    """one record's id"""
    status: Annotated[str | None, Parameter(help=one_of(STATUSES))] = None
    reason: Annotated[str | None, Parameter(help=one_of(REASONS))] = None
    source: Annotated[str | None, Parameter(help=one_of(SOURCES))] = None
    delivery_id: str | None = None
    """the X-Delivery-ID of an answer"""
    from_: Annotated[Instant, Parameter(name="--from")] = None
    to: Instant = None
    after: Whole = 0
    """a position, exclusive"""
    warnings: Annotated[bool, Parameter(negative="")] = False
    """only events that have warnings"""
    payload: Annotated[bool, Parameter(negative="")] = False
    """with the record as stored"""

    def filter(self) -> Filter:
        """As the history takes it. Raises `CommandError` where a value is wrong."""
        if not 0 <= self.after <= END:
            raise CommandError(f"--after is {self.after}: use a position, 0 or more")
        for name, value, allowed in (("--status", self.status, STATUSES), ("--source", self.source, SOURCES)):
            if value is not None and value not in allowed:
                raise CommandError(f"{name} is {value[:80]!r}: use {', '.join(allowed)}")
        return Filter(
            entity=None if self.entity is None else _entity(self.entity),
            zoho_id=self.zoho_id,
            status=self.status,
            reason=self.reason,
            source=self.source,
            delivery_id=self.delivery_id,
            since=instant("--from", self.from_),
            until=instant("--to", self.to),
            after=self.after,
            warnings=self.warnings,
        )


_EVERY = Which()


@app.command
def events(
    *,
    which: Which = _EVERY,
    limit: Limit = 100,
    cursor: Cursor = None,
    tenant: Tenant = None,
    json: Json = False,
) -> int:
    """List what happened, in order, with what it led to.

    Example: sync-ledger audit events --status INVALID --from 2026-09-01T00:00:00Z
    """
    wanted = which.filter()
    if cursor is not None:
        wanted = msgspec.structs.replace(wanted, after=max(wanted.after, _cursor(cursor, int)))
    _require_limit(limit)

    async def command(ledger: Opened) -> Page:
        return await ledger.history(await ledger.tenant(tenant)).events(wanted, limit, payload=which.payload)

    return _print_events(run(command), json=json)


@app.command
def record(
    entity: Annotated[str, Parameter(help=one_of(ENTITIES.names()))],
    zoho_id: Annotated[str, Parameter(help="the record's Zoho id")],
    /,
    *,
    limit: Limit = MOST,
    cursor: Cursor = None,
    tenant: Tenant = None,
    json: Json = False,
) -> int:
    """Show the whole life of one record: its events, and what others did to it.

    Example: sync-ledger audit record enrollment ENR_001
    """
    name = (_entity(entity), zoho_id)
    after = _cursor(cursor, int) or 0
    _require_limit(limit)

    async def command(ledger: Opened) -> Page:
        history = ledger.history(await ledger.tenant(tenant))
        if not await history.knows(name):
            raise CommandError(f"the ledger knows no {name[0]} {zoho_id[:80]!r}")
        return await history.life(name, after, limit)

    return _print_events(run(command), json=json)


@app.command
def explain(
    *words: Annotated[
        str, Parameter(name="ENROLLMENT", help="the enrollment's Zoho id, or `enrollments ID`", required=True)
    ],
    tenant: Tenant = None,
    json: Json = False,
) -> int:
    """Say why a student is in a course or not, since when, and what to do next.

    Example: sync-ledger audit explain ENR_001
    """
    if len(words) == 2 and words[0] in ("enrollment", "enrollments"):
        words = words[1:]
    if len(words) != 1:
        raise CommandError("name one enrollment: sync-ledger audit explain ENR_001")
    zoho_id = words[0]

    async def command(ledger: Opened) -> dict[str, Any]:
        tenant_id = await ledger.tenant(tenant)
        async with ledger.database.transaction(tenant_id, snapshot=True) as connection:
            settings = ledger.settings.tenant(tenant_id)
            replay = ledger.replay(tenant_id)
            now = await Past.at(connection, tenant_id, replay.master_key, replay.projection, position=END)
            found = await explain_enrollment(now, connection, tenant_id, settings, zoho_id)
        if found is None:
            raise CommandError(f"the ledger never heard of an enrollment {zoho_id[:80]!r}")
        return found

    found = run(command)
    if json:
        print_json(found)
        return 0
    out = console()
    for title, key in (
        ("answer", "answer"),
        ("since", "since"),
        ("because", "because"),
        ("next", "next_step"),
    ):
        out.print(Text.assemble((f"{title:8} ", "bold"), harmless(found[key])))
    out.print()
    marks = {True: "yes", False: "NO", None: "-"}
    print_table(
        ("link", "ok", "position", "at", "detail"),
        [(k["link"], marks[k["ok"]], k["position"], k["at"], k["detail"]) for k in found["links"]],
    )
    return 0


@app.command
def deferred(*, limit: Limit = 100, cursor: Cursor = None, tenant: Tenant = None, json: Json = False) -> int:
    """List what waits, for what, since when; oldest first.

    Example: sync-ledger audit deferred --tenant amman
    """
    behind = _cursor(cursor, tuple[int, int, str]) or (0, 0, "")
    _require_limit(limit)

    async def command(ledger: Opened) -> list[Any]:
        return await ledger.history(await ledger.tenant(tenant)).deferred(behind, limit + 1)

    found = run(command)
    last = found[limit - 1] if found[limit:] else None
    following = cursor_of((last.waiting_since, last.own_position, last.zoho_id)) if last else None
    items = [deferred_item(row) for row in found[:limit]]
    if json:
        print_json({"items": items, "next": following})
        return 0
    print_table(
        ("since", "position", "entity", "zoho_id", "waits for"),
        [
            (
                i["since"], i["position"], i["entity"], i["zoho_id"],
                ", ".join(f"{w['entity']} {w['zoho_id']}" for w in i["waiting_for"]),
            )
            for i in items
        ],
    )  # fmt: skip
    return _print_next(following)


@app.command
def summary(
    *,
    from_: Annotated[Instant, Parameter(name="--from")] = None,
    to: Instant = None,
    by: Annotated[Literal["day", "hour"], Parameter(help="of UTC")] = "day",
    tenant: Tenant = None,
    json: Json = False,
) -> int:
    """Count events by day or hour (UTC), entity and status, and name the statuses of records that no
    list of the settings has (as of now).

    Example: sync-ledger audit summary --by hour --from 2026-09-01T00:00:00Z
    """
    start, stop = instant("--from", from_), instant("--to", to)

    async def command(ledger: Opened) -> tuple[list[dict[str, Any]], list[Unknown], str]:
        tenant_id = await ledger.tenant(tenant)
        lists = ledger.settings.status_lists(tenant_id)
        async with ledger.database.transaction(tenant_id, snapshot=True) as connection:
            items = await Summary().counts(connection, tenant_id, start, stop, SPANS[by])
        return items, await UnknownStatuses(ledger.database, ledger.settings).of(tenant_id), lists

    items, unknown, lists = run(command)
    if json:
        print_json({"items": items, "next": None, "unknown_statuses": msgspec.to_builtins(unknown)})
        return 0
    columns = ("from", "entity", "status", "count")
    print_table(columns, [tuple(item[column] for column in columns) for item in items])
    if unknown:
        print(f"\nstatuses that take a seat although nobody has decided so: put each into {lists}")
        print_table(
            ("entity", "unknown status", "records"), [(u.entity, u.status, u.records) for u in unknown]
        )
    return 0


@app.command
def export(
    *,
    which: Which = _EVERY,
    as_format: Annotated[
        Literal["ndjson", "csv"], Parameter(name="--format", help="one JSON object a line, or RFC 4180")
    ] = "ndjson",
    tenant: Tenant = None,
) -> int:
    """Write every event to stdout, one a line.

    Example: sync-ledger audit export --format csv > events.csv
    """
    wanted = which.filter()
    write = csv_pages if as_format == "csv" else ndjson_pages

    async def command(ledger: Opened) -> None:
        history = ledger.history(await ledger.tenant(tenant))
        async for chunk in write(history.export(wanted, payload=which.payload), payload=which.payload):
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()

    run(command)
    return 0


def _print_events(page: Page, *, json: bool) -> int:
    items, following = page.items, shown(page)["next"]
    if json:
        for item in items:
            if "payload" in item and item["payload"] is not None:
                item["payload"] = _plain(item["payload"])
        print_json({"items": items, "next": following})
        return 0
    columns = (
        "position",
        "recorded_at",
        "entity",
        "zoho_id",
        "status",
        "reason",
        "changes",
        "errors",
        "warnings",
        "source",
    )
    payload = ("payload",) if items and "payload" in items[0] else ()
    unreadable = ("unreadable",) if any("unreadable" in item for item in items) else ()
    print_table(
        (*columns, *payload, *unreadable),
        [
            (
                *(item[c] for c in columns),
                *(_plain(item[c]) for c in payload),
                *(item.get(c) for c in unreadable),
            )
            for item in items
        ],
    )
    return _print_next(following)


def _plain(payload: Any) -> Any:
    return None if payload is None else msgspec.json.decode(bytes(payload))


def _print_next(following: str | None) -> int:
    if following:
        print(f"more: --cursor {following}", file=sys.stderr)
    return 0


def _entity(word: str) -> str:
    if word in ENTITIES.by_plural:
        return ENTITIES.by_plural[word].name
    if word not in ENTITIES:
        raise CommandError(f"entity is {word[:80]!r}: use {', '.join(ENTITIES.names())}")
    return word


def _cursor(text: str | None, shape: Any) -> Any:
    try:
        return None if text is None else decode_cursor(text, shape)
    except ValueError:
        raise CommandError("--cursor is not one of this list: use the text of next") from None


def _require_limit(limit: int) -> None:
    if not 1 <= limit <= MOST:
        raise CommandError(f"--limit is {limit}: use 1 to {MOST}")
