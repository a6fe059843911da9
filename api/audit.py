"""The past over HTTP: `/v1/audit/...`."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import Example
from litestar.params import PathParameter
from litestar.response import Stream

from api.cells import cell
from api.documents import example_id
from api.guards import TenantHeader, tenant_of
from api.problems import ProblemError, documented
from api.queries import Cursor, Limit, Query, cursor_of, id_in_path, one_of, page, parameter
from api.service import Service
from ledger import clock
from ledger.events import SOURCES
from ledger.pace import in_turns
from ledger.zoho.entities import ENTITIES
from projections.explain import explain_enrollment
from projections.history import END, REASONS, STATUSES, Filter, History, Page, deferred_item
from projections.past import Past
from projections.summary import SPANS, Summary

_FILTERS = (
    "entity",
    "zoho_id",
    "status",
    "reason",
    "source",
    "delivery_id",
    "from",
    "to",
    "after",
    "warnings",
    "payload",
)
FORMATS = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
CSV_COLUMNS = (
    "position", "recorded_at", "entity", "zoho_id", "version", "topic", "status", "reason",
    "changes", "errors", "source", "delivery_id",
)  # fmt: skip
"""After these come `payload` where it is asked for, and `warnings`."""

# As the document shows them; `Query` reads and checks them. The examples hold together: they find
# the event of the enrollment that the sync endpoints have as their example.
Entity = Annotated[str | None, parameter(one_of(ENTITIES.names()), "enrollment")]
ZohoId = Annotated[str | None, parameter("one record's id", example_id("enrollment"))]
Status = Annotated[str | None, parameter(one_of(STATUSES), "NEW")]
Reason = Annotated[str | None, parameter(one_of(REASONS))]
Source = Annotated[str | None, parameter(one_of(SOURCES), "sync")]
DeliveryId = Annotated[str | None, parameter("the X-Delivery-ID of an answer")]
Since = Annotated[str | None, parameter("an instant, inclusive", "2020-01-01T00:00:00Z", name="from")]
Until = Annotated[str | None, parameter("an instant, exclusive", "2100-01-01T00:00:00Z", name="to")]
After = Annotated[str | None, parameter("a position, exclusive", "0")]
Warnings = Annotated[str | None, parameter("true: only events that have warnings")]
Payload = Annotated[str | None, parameter("true: with the record as stored; default false", "true")]
By = Annotated[str | None, parameter(f"of UTC: {one_of(SPANS)}; default day", "day")]
Format = Annotated[str | None, parameter(f"{one_of(FORMATS)}; default ndjson", "csv", name="format")]

_line = msgspec.json.Encoder().encode


def audit_handlers(service: Service) -> list[HTTPRouteHandler]:
    """The audit routes."""
    return [*_event_handlers(service), *_answer_handlers(service)]


def _event_handlers(service: Service) -> list[HTTPRouteHandler]:
    """What happened: events, one record's life, the export."""

    @get(
        "/v1/audit/events",
        operation_id="list_events",
        summary="What happened, in order",
        description=(
            "Every recorded event by ascending position, with what it led to: `errors` say why it could "
            "not be used, `warnings` which of its values could not be taken as they came. An event of which "
            "something stored was altered has `unreadable`, which says what."
        ),
        tags=["audit"],
        responses=documented(400, 503),
    )
    async def list_events(
        request: Request[Any, Any, Any],
        tenant: TenantHeader = None,
        entity: Entity = None,
        zoho_id: ZohoId = None,
        status: Status = None,
        reason: Reason = None,
        source: Source = None,
        delivery_id: DeliveryId = None,
        since: Since = None,
        until: Until = None,
        after: After = None,
        cursor: Cursor = None,
        warnings: Warnings = None,
        payload: Payload = None,
        limit: Limit = None,
    ) -> dict[str, Any]:
        # documented here, read and checked below
        del tenant, entity, zoho_id, status, reason, source, delivery_id, since, until, after, cursor
        del warnings, payload, limit
        query = Query(request, (*_FILTERS, "cursor", "limit"))
        limit_ = query.limit()
        wanted = _filter(service, query, query.cursor(int) or 0)
        history = _history(service, request)
        return shown(await history.events(wanted, limit_, payload=query.boolean("payload")))

    @get(
        "/v1/audit/records/{entity:str}/{zoho_id:path}",
        operation_id="get_record_history",
        summary="The whole life of one record",
        description=(
            "Its own events by ascending position, and what the events of others did to it: those "
            "have `caused_by`, and no version of the record."
        ),
        tags=["audit"],
        responses=documented(400, 404, 503),
    )
    async def record_history(
        request: Request[Any, Any, Any],
        entity: Annotated[
            str,
            PathParameter(description=one_of(ENTITIES.names()), examples=[Example(value="enrollment")]),
        ],
        zoho_id: Annotated[str, PathParameter(examples=[Example(value=example_id("enrollment"))])],
        tenant: TenantHeader = None,
        cursor: Cursor = None,
        limit: Limit = None,
    ) -> dict[str, Any]:
        del tenant, cursor, limit, zoho_id
        query = Query(request, ("cursor", "limit"))
        limit_, after = query.limit(), query.cursor(int) or 0
        history = _history(service, request)
        name = (entity, id_in_path(request, f"/v1/audit/records/{entity}/"))
        if entity not in service.entities:
            names = ", ".join(service.entities.names())
            raise ProblemError(404, f"There is no entity {entity[:80]!r}: use {names}.")
        if "\x00" in name[1] or not await history.knows(name):
            raise ProblemError(404, f"The ledger knows no {entity} {name[1][:80]!r}.")
        return shown(await history.life(name, after, limit_))

    @get(
        "/v1/audit/export",
        operation_id="export_events",
        summary="Every event, as a stream",
        description=(
            "The events of the list, all of them up to the newest one of now. In CSV `changes`, `errors`, "
            "`warnings` and `payload` are JSON text, `warnings` is the last column, and a text that a "
            "spreadsheet would take for a formula has `'` before it. A payload that was altered is a JSON "
            "text that begins with `unreadable`."
        ),
        tags=["audit"],
        responses=documented(400, 503),
    )
    async def export(
        request: Request[Any, Any, Any],
        tenant: TenantHeader = None,
        as_format: Format = None,
        entity: Entity = None,
        zoho_id: ZohoId = None,
        status: Status = None,
        reason: Reason = None,
        source: Source = None,
        delivery_id: DeliveryId = None,
        since: Since = None,
        until: Until = None,
        after: After = None,
        warnings: Warnings = None,
        payload: Payload = None,
    ) -> Stream:
        del tenant, as_format, entity, zoho_id, status, reason, source, delivery_id, since, until
        del after, warnings, payload
        query = Query(request, (*_FILTERS, "format"))
        as_format = query.choice("format", tuple(FORMATS)) or "ndjson"
        with_payload = query.boolean("payload")
        pages = _history(service, request).export(_filter(service, query), payload=with_payload)
        write = csv_pages if as_format == "csv" else ndjson_pages
        first: list[dict[str, Any]] = await anext(
            pages, []
        )  # a database that is away is an error, not an empty stream
        tenant_id, day = (
            tenant_of(request.scope["headers"], service.settings),
            clock.to_text(clock.now())[:10],
        )
        return Stream(
            write(_chained(first, pages), payload=with_payload),
            headers={
                "content-type": f"{FORMATS[as_format]}; charset=utf-8",
                "content-disposition": f'attachment; filename="{tenant_id}-events-{day}.{as_format}"',
            },
        )

    return [list_events, record_history, export]


def _answer_handlers(service: Service) -> list[HTTPRouteHandler]:
    """What follows from it: what waits, why somebody is in a course, how much there was."""

    @get(
        "/v1/audit/deferred",
        operation_id="list_deferred",
        summary="What waits, and for what",
        description="Records that wait for others to arrive, oldest first.",
        tags=["audit"],
        responses=documented(400, 503),
    )
    async def list_deferred(
        request: Request[Any, Any, Any],
        tenant: TenantHeader = None,
        limit: Limit = None,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        del tenant, limit, cursor  # documented here, read and checked below
        query = Query(request, ("limit", "cursor"))
        limit_ = query.limit()
        start = query.cursor(tuple[int, int, str]) or (0, 0, "")
        found = await _history(service, request).deferred(start, limit_ + 1)
        last = found[limit_ - 1] if found[limit_:] else None
        behind = (last.waiting_since, last.own_position, last.zoho_id) if last else None
        return page([deferred_item(row) for row in found], limit_, cursor_of(behind))

    @get(
        "/v1/audit/explain/enrollments/{zoho_id:path}",
        operation_id="explain_enrollment",
        summary="Why a student is in a course, or not",
        description=(
            "The links from Zoho's record to Moodle's seat, each with the event it rests on; the "
            "first with `ok: false` is the reason. `code` names the sentence of `detail`."
        ),
        tags=["audit"],
        responses=documented(400, 404, 503),
    )
    async def explain(
        request: Request[Any, Any, Any],
        zoho_id: Annotated[str, PathParameter(examples=[Example(value=example_id("enrollment"))])],
        tenant: TenantHeader = None,
    ) -> dict[str, Any]:
        del tenant
        Query(request, ())
        tenant_id = tenant_of(request.scope["headers"], service.settings)
        zoho_id = id_in_path(request, "/v1/audit/explain/enrollments/")
        found = None
        if "\x00" not in zoho_id:
            async with service.database.transaction(tenant_id, snapshot=True) as connection:
                settings = service.settings.tenant(tenant_id)
                now = await Past.at(
                    connection, tenant_id, service.master_key, service.projection, position=END
                )
                found = await explain_enrollment(now, connection, tenant_id, settings, zoho_id)
        if found is None:
            raise ProblemError(404, f"The ledger never heard of an enrollment {zoho_id[:80]!r}.")
        return found

    @get(
        "/v1/audit/summary",
        operation_id="summarize",
        summary="How many events led to what",
        description=(
            "Counts by day or hour (UTC), entity and status. `unknown_statuses` has, as of now, the "
            "statuses of active and waiting records that neither MOODLE_INACTIVE_STATUSES nor "
            "MOODLE_KNOWN_STATUSES (of another college than the default one: inactive_statuses and "
            "known_statuses in TENANTS_FILE) names, with the number of records: they take a seat."
        ),
        tags=["audit"],
        responses=documented(400, 503),
    )
    async def summarize(
        request: Request[Any, Any, Any],
        tenant: TenantHeader = None,
        since: Since = None,
        until: Until = None,
        by: By = None,
    ) -> dict[str, Any]:
        del tenant, since, until, by
        query = Query(request, ("from", "to", "by"))
        tenant_id = tenant_of(request.scope["headers"], service.settings)
        span = SPANS[query.choice("by", tuple(SPANS)) or "day"]
        start, stop = query.instant("from"), query.instant("to")
        async with service.database.transaction(tenant_id, snapshot=True) as connection:
            items = await Summary().counts(connection, tenant_id, start, stop, span)
        return {"items": items, "next": None, "unknown_statuses": await service.statuses.of(tenant_id)}

    return [list_deferred, explain, summarize]


def shown(found: Page) -> dict[str, Any]:
    """A page as it is answered."""
    return {"items": found.items, "next": cursor_of(found.last) if found.more else None}


def _history(service: Service, request: Request[Any, Any, Any]) -> History:
    tenant_id = tenant_of(request.scope["headers"], service.settings)
    return History(service.database, tenant_id, service.master_key, service.entities)


def _filter(service: Service, query: Query, after: int = 0) -> Filter:
    return Filter(
        entity=query.choice("entity", service.entities.names()),
        zoho_id=query.text("zoho_id"),
        status=query.choice("status", STATUSES),
        reason=query.text("reason"),
        source=query.choice("source", SOURCES),
        delivery_id=query.text("delivery_id"),
        since=query.instant("from"),
        until=query.instant("to"),
        after=max(query.integer("after", 0, 0, END), after),
        warnings=query.choice("warnings", ("true",)) is not None,
    )


async def _chained(
    first: list[dict[str, Any]], rest: AsyncIterator[list[dict[str, Any]]]
) -> AsyncIterator[list[dict[str, Any]]]:
    if first:
        yield first
    async for items in rest:
        yield items


async def ndjson_pages(pages: AsyncIterator[list[dict[str, Any]]], *, payload: bool) -> AsyncIterator[bytes]:
    """One JSON object a line."""
    del payload
    async for items in pages:
        lines = [_line(item) async for item in in_turns(items)]
        yield b"\n".join([*lines, b""])


async def csv_pages(pages: AsyncIterator[list[dict[str, Any]]], *, payload: bool) -> AsyncIterator[bytes]:
    """RFC 4180 with a header line; `changes`, `errors`, `warnings` and `payload` as JSON text. In the
    place of a payload that cannot be read stands a JSON text that says why.
    """
    columns = (*CSV_COLUMNS, *(("payload",) if payload else ()), "warnings")
    yield (",".join(columns) + "\r\n").encode()
    async for items in pages:
        text = io.StringIO()
        writer = csv.writer(text)
        async for item in in_turns(items):
            if payload and item["payload"] is None and "unreadable" in item:
                item["payload"] = msgspec.Raw(_line(f"unreadable: {item['unreadable']}"))
            writer.writerow([cell(item[column]) for column in columns])
        yield text.getvalue().encode()
