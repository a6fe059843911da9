"""The present: `GET /v1/{plural}` and `GET /v1/{plural}/{zoho_id}`."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import PathParameter

from api.answers import PENDING
from api.guards import TenantHeader, tenant_of
from api.problems import ProblemError, documented
from api.queries import Cursor, Limit, Query, cursor_of, id_in_path, one_of, page, parameter
from api.service import Service
from ledger import clock
from ledger.database import Connection
from ledger.pace import in_turns
from ledger.zoho.entities import Entity
from projections.history import BOOKKEEPING, PAGE_BYTES, waiting_for
from projections.moodle.known import read, read_past
from projections.moodle.wanted import Wanted
from projections.past import Past
from projections.queries import SQL
from projections.state import ACTIVE, DELETED, WAITING, Name, Row, from_columns

_STATES = (ACTIVE, WAITING, DELETED, "all")
_MOODLE_ID = {
    "student": "moodle_user_id",
    "class": "moodle_course_id",
    "program": "moodle_course_id",
    "enrollment": "moodle_enrollment_id",
}

AsOf = Annotated[
    str | None,
    parameter("an instant: the state as the ledger knew it then, inclusive", "2100-01-01T00:00:00Z"),
]
AtPosition = Annotated[
    str | None, parameter("a position: the state right after that event (then without `as_of`)")
]
State = Annotated[str | None, parameter(f"{one_of(_STATES)}; default {ACTIVE}", ACTIVE, name="state")]


def state_handlers(service: Service, entity: Entity) -> list[HTTPRouteHandler]:
    """The two routes of one entity."""

    @get(
        f"/v1/{entity.plural}",
        operation_id=f"list_{entity.plural}",
        summary=f"List {entity.plural}",
        description=(
            "Active ones by `zoho_id`, bytewise; other states with `state`. A record of which something "
            "stored was altered has `unreadable`, which says what."
        ),
        tags=["state"],
        responses=documented(400, 503),
    )
    async def list_records(
        request: Request[Any, Any, Any],
        tenant: TenantHeader = None,
        shown_state: State = None,
        limit: Limit = None,
        cursor: Cursor = None,
        as_of: AsOf = None,
        at_position: AtPosition = None,
    ) -> dict[str, Any]:
        # documented here, read and checked below
        del tenant, shown_state, limit, cursor, as_of, at_position
        query = Query(request, ("state", "limit", "cursor", "as_of", "at_position"))
        tenant_id = tenant_of(request.scope["headers"], service.settings)
        state = query.choice("state", _STATES) or ACTIVE
        limit_ = query.limit()
        after = query.cursor(str) or ""
        when = query.moment()
        async with service.database.transaction(tenant_id, snapshot=True) as connection:
            if when is None:
                past = None
                found = await connection.fetch(
                    SQL[f"list_{state}_records"], tenant_id, entity.name, after, limit_ + 1
                )
                rows = [from_columns(row[BOOKKEEPING:]) async for row in in_turns(found)]
                moodle = await _moodle(service, connection, tenant_id, rows)
            else:
                past = await _past(service, connection, tenant_id, when)
                states = (ACTIVE, WAITING, DELETED) if state == "all" else (state,)
                rows = await past.rows(entity.name, states, after, limit_ + 1)
                moodle = await _moodle(service, connection, tenant_id, rows, past)
        limit_ = min(limit_, _fitting(rows))
        items = [_item(entity, row, moodle, past) async for row in in_turns(rows[: limit_ + 1])]
        return page(items, limit_, cursor_of(items[limit_ - 1]["zoho_id"]) if items[limit_:] else None)

    @get(
        f"/v1/{entity.plural}/{{zoho_id:path}}",
        operation_id=f"get_{entity.name}",
        summary=f"One {entity.name}",
        description="Whatever its state; 404 where the ledger never accepted such a record.",
        tags=["state"],
        responses=documented(400, 404, 503),
    )
    async def one_record(
        request: Request[Any, Any, Any],
        zoho_id: Annotated[str, PathParameter(description="the id in Zoho")],
        tenant: TenantHeader = None,
        as_of: AsOf = None,
        at_position: AtPosition = None,
    ) -> dict[str, Any]:
        del tenant, as_of, at_position  # documented here, read and checked below
        when = Query(request, ("as_of", "at_position")).moment()
        tenant_id = tenant_of(request.scope["headers"], service.settings)
        zoho_id = id_in_path(request, f"/v1/{entity.plural}/")
        row = past = moodle = None
        if "\x00" not in zoho_id:
            async with service.database.transaction(tenant_id, snapshot=True) as connection:
                if when is not None:
                    past = await _past(service, connection, tenant_id, when)
                    row = await past.row((entity.name, zoho_id))
                elif found := await connection.fetchrow(SQL["one_record"], tenant_id, entity.name, zoho_id):
                    row = from_columns(found[BOOKKEEPING:])
                if row is not None:
                    moodle = await _moodle(service, connection, tenant_id, [row], past)
        if row is None:
            knows, then = ("knows", "") if when is None else ("knew", " then")
            raise ProblemError(
                404, f"The ledger of {tenant_id} {knows} no {entity.name} {zoho_id[:80]!r}{then}."
            )
        return _item(entity, row, moodle, past)

    return [list_records, one_record]


def _fitting(rows: list[Row]) -> int:
    """How many rows fit into a page, at least one."""
    size = 0
    for number, row in enumerate(rows):
        size += sum(map(len, filter(None, row.fields.values())))
        if size > PAGE_BYTES:
            return max(1, number)
    return max(1, len(rows))


async def _past(
    service: Service, connection: Connection, tenant_id: str, when: tuple[int | None, int | None]
) -> Past:
    instant, position = when
    return await Past.at(
        connection,
        tenant_id,
        service.master_key,
        service.projection,
        instant=instant,
        position=position,
    )


async def _moodle(
    service: Service, connection: Connection, tenant_id: str, rows: list[Row], past: Past | None = None
) -> Wanted | None:
    """What Moodle has of some records, now or in the past; None where the college has no Moodle."""
    settings = service.settings.tenant(tenant_id)
    if not settings.moodle.enabled:
        return None
    names = [row.name for row in rows]
    found: dict[Name, Row | None] = {}
    if past is not None:
        await read_past(past, names, found)
    else:
        await read(connection, tenant_id, names, found)
    return Wanted(settings, found)


def _item(entity: Entity, row: Row, moodle: Wanted | None, past: Past | None) -> dict[str, Any]:
    """A record as it is shown. `unreadable`: why some of its values are null although they may not be."""
    item: dict[str, Any] = {"zoho_id": row.zoho_id, "state": row.state}
    item.update({f.name: row.fields.get(f.name) for f in entity.fields})
    if row.state == WAITING:
        item["waiting_for"] = waiting_for(row)
    item.update(
        version=row.version,
        state_version=row.state_version,
        position=row.position,
        created_at=_text(row.created_at),
        updated_at=_text(row.updated_at),
        deleted_at=_text(row.deleted_at),
        moodle_status=None,
    )
    if row.state != WAITING:
        item["moodle_status"] = PENDING if moodle is None else moodle.status(row.name)
    if entity.name in _MOODLE_ID:
        item[_MOODLE_ID[entity.name]] = None if moodle is None else moodle.known(row.name).moodle_id
    if problem := row.problem:
        item["unreadable"] = problem
    elif past is not None and (unread := past.unread.get(row.name)):
        item["unreadable"] = unread.problem
    return item


def _text(instant: int | None) -> str | None:
    return None if instant is None else clock.to_text(instant)
