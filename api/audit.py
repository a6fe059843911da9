"""The past: `GET /v1/audit/events` and `GET /v1/audit/deferred`."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from api.answers import changes_of, problems_of
from api.guards import TenantHeader, tenant_of
from api.problems import documented
from api.queries import LIMIT, MOST, Query, cursor_of, page
from api.service import Service
from api.state import waiting_for
from ledger import clock
from ledger.codec import UnknownTopicError, decode
from ledger.database import Connection
from ledger.events import SOURCES
from ledger.queries import load_queries
from projections.rebuild import Unsealer
from projections.state import from_columns

_SQL = load_queries("projections")
_BOOKKEEPING = 2  # tenant_id and generation come first in `select *`
_END = 2**62
STATUSES = ("INVALID", "DELETED", "SKIPPED", "NEW", "UPDATED", "UNCHANGED", "ERROR")
_RARE = ("INVALID", "SKIPPED", "ERROR", "DELETED")  # as in the index outcomes_by_status
_FILTERS = (
    "entity", "zoho_id", "status", "reason", "source", "delivery_id",
    "from", "to", "after", "cursor", "payload", "limit",
)  # fmt: skip


# As the document shows them; `Query` reads and checks them.
Entity = Annotated[str | None, QueryParameter(description="student, program, class or enrollment")]
ZohoId = Annotated[str | None, QueryParameter(description="one record's id")]
Status = Annotated[str | None, QueryParameter(description=", ".join(STATUSES))]
Reason = Annotated[str | None, QueryParameter(description="such as stale, deleted, not_approved")]
Source = Annotated[str | None, QueryParameter(description=", ".join(SOURCES))]
DeliveryId = Annotated[str | None, QueryParameter(description="the X-Delivery-ID of an answer")]
Since = Annotated[str | None, QueryParameter(name="from", description="an instant, inclusive")]
Until = Annotated[str | None, QueryParameter(name="to", description="an instant, exclusive")]
After = Annotated[str | None, QueryParameter(description="a position, exclusive")]
Cursor = Annotated[str | None, QueryParameter(description="the text of `next`")]
Payload = Annotated[str | None, QueryParameter(description="true: with the record as stored")]
Limit = Annotated[str | None, QueryParameter(description=f"items a page, 1 to {MOST}, default {LIMIT}")]


def audit_handlers(service: Service) -> list[HTTPRouteHandler]:
    """The audit routes."""
    entities = service.entities

    @get(
        "/v1/audit/events",
        operation_id="list_events",
        summary="What happened, in order",
        description="Every recorded event by ascending position, with what it led to.",
        tags=["audit"],
        responses=documented(400, 403, 503),
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
        payload: Payload = None,
        limit: Limit = None,
    ) -> dict[str, Any]:
        # documented here, read and checked below
        del tenant, entity, zoho_id, status, reason, source, delivery_id, since, until, after, cursor
        del payload, limit
        query = Query(request, _FILTERS)
        tenant_id = tenant_of(request.scope["headers"], service.settings)
        limit_ = query.limit()
        entity_ = query.choice("entity", entities.names())
        source_ = query.choice("source", SOURCES)
        status_ = query.choice("status", STATUSES)
        start, stop = query.instant("from"), query.instant("to")
        after_ = max(query.integer("after", 0, 0, _END), query.cursor(int) or 0)
        async with service.database.transaction(tenant_id) as connection:
            if start is not None:
                after_ = max(after_, await _position_at(connection, tenant_id, start) - 1)
            before = _END if stop is None else await _position_at(connection, tenant_id, stop)
            common = (tenant_id, after_, before, entity_, source_, limit_ + 1)
            rows = []
            for stream in _streams(entities.names(), entity_, query.text("zoho_id")):
                rows += await _select(
                    connection, common, stream, query.text("delivery_id"), status_, query.text("reason")
                )
        rows.sort(key=lambda row: row["position"])
        with_payload = query.boolean("payload")
        records: list[Any] = [None] * len(rows)
        if with_payload:
            records = await _payloads(service, tenant_id, rows)
        items = [
            _event(row, {"payload": record} if with_payload else {})
            for row, record in zip(rows, records, strict=True)
        ]
        return page(items, limit_, cursor_of(items[limit_ - 1]["position"]) if items[limit_:] else None)

    @get(
        "/v1/audit/deferred",
        operation_id="list_deferred",
        summary="What waits, and for what",
        description="Records that wait for others to arrive, oldest first.",
        tags=["audit"],
        responses=documented(400, 403, 503),
    )
    async def list_deferred(
        request: Request[Any, Any, Any],
        tenant: TenantHeader = None,
        limit: Limit = None,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        del tenant, limit, cursor  # documented here, read and checked below
        query = Query(request, ("limit", "cursor"))
        tenant_id = tenant_of(request.scope["headers"], service.settings)
        limit_ = query.limit()
        start = query.cursor(tuple[int, int, str]) or (0, 0, "")
        async with service.database.transaction(tenant_id) as connection:
            rows = await connection.fetch(_SQL["deferred"], tenant_id, *start, limit_ + 1)
        found = [from_columns(row[_BOOKKEEPING:]) for row in rows]
        items = [
            {
                "zoho_id": row.zoho_id,
                "entity": row.entity,
                "waiting_for": waiting_for(row),
                "since": clock.to_text(row.waiting_since or 0),
                "position": row.own_position,
            }
            for row in found
        ]
        last = found[limit_ - 1] if found[limit_:] else None
        behind = (last.waiting_since, last.own_position, last.zoho_id) if last else None
        return page(items, limit_, cursor_of(behind))

    return [list_events, list_deferred]


def _streams(names: list[str], entity: str | None, zoho_id: str | None) -> list[str | None]:
    """The streams that a filter by id names; one None where it names none."""
    if zoho_id is None:
        return [None]
    return [f"{name}-{zoho_id}" for name in names if entity in (None, name)]


async def _select(
    connection: Connection,
    common: tuple[Any, ...],
    stream: str | None,
    delivery_id: str | None,
    status: str | None,
    reason: str | None,
) -> list[Any]:
    """The query whose index fits the narrowest filter."""
    if status is not None or reason is not None or (stream and delivery_id):
        name = "events_by_rare_status" if status in _RARE else "events_by_outcome"
        arguments = (*common, stream, delivery_id, status, reason)
        return list(await connection.fetch(_SQL[name], *arguments))
    if stream is not None:
        return list(await connection.fetch(_SQL["events_of_stream"], *common, stream))
    if delivery_id is not None:
        return list(await connection.fetch(_SQL["events_of_delivery"], *common, delivery_id))
    return list(await connection.fetch(_SQL["events_by_position"], *common))


async def _position_at(connection: Connection, tenant_id: str, instant: int) -> int:
    found: int | None = await connection.fetchval(_SQL["position_at"], tenant_id, instant)
    return _END if found is None else found


async def _payloads(service: Service, tenant_id: str, rows: list[Any]) -> list[Any]:
    unsealer = Unsealer(service.database, tenant_id, service.master_key)
    await unsealer.learn({row["key_id"] for row in rows if row["key_id"] is not None})
    records: list[Any] = []
    for row in rows:
        plain = unsealer.open(row["key_id"], row["payload"], tenant_id, row["stream"], row["version"])
        try:
            records.append(None if plain is None else decode(row["topic"], plain).record)
        except (UnknownTopicError, AttributeError):
            records.append(None)
    return records


def _event(row: Any, extra: dict[str, Any]) -> dict[str, Any]:
    return {
        "position": row["position"],
        "recorded_at": clock.to_text(row["recorded_at"]),
        "entity": row["entity"],
        "zoho_id": row["zoho_id"],
        "version": row["version"],
        "topic": row["topic"],
        "status": row["status"],
        "reason": row["reason"],
        "changes": changes_of(msgspec.json.decode(row["changes"])) if row["changes"] else None,
        "errors": problems_of(msgspec.json.decode(row["errors"])) if row["errors"] else None,
        "source": row["source"],
        "delivery_id": row["delivery_id"],
        **extra,
    }
