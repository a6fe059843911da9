"""Reading records with what their wanted state depends on, and with Moodle's reports on them."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.database import Connection
from ledger.pace import in_turns
from ledger.store import Wanted as Wish
from ledger.store import in_parts, load
from projections.history import BOOKKEEPING
from projections.moodle.wanted import depends_on, report_name
from projections.past import Past
from projections.queries import SQL
from projections.state import Name, Row, from_columns

ENTITIES = ("student", "program", "class", "enrollment")
"""The kinds of records of which Moodle has a part, each behind those that it depends on."""
_AT_ONCE = 5_000


async def some_records(
    connection: Connection, tenant_id: str, entity: str, after: str
) -> tuple[list[Row], str | None]:
    """Some accepted records of an entity behind an id, bytewise, and the id to go on behind; None at
    the end.
    """
    found = await connection.fetch(SQL["list_all_records"], tenant_id, entity, after, _AT_ONCE)
    rows = [from_columns(row[BOOKKEEPING:]) async for row in in_turns(found)]
    return rows, rows[-1].zoho_id if len(rows) == _AT_ONCE else None


async def read(
    connection: Connection, tenant_id: str, names: Iterable[Name], into: dict[Name, Row | None]
) -> None:
    """Adds the rows of records, of what they depend on, and of Moodle's reports on all of these.
    Needs a transaction.
    """
    pending = [name for name in dict.fromkeys(names) if name not in into]
    while pending:
        some, pending = pending[:_AT_ONCE], pending[_AT_ONCE:]
        wanted = [*some, *map(report_name, some)]
        into.update(dict.fromkeys(wanted))
        rows = [
            from_columns(columns)
            for part in in_parts(Wish(records=wanted))
            async for columns in in_turns((await load(connection, tenant_id, part)).records)
        ]
        into.update({row.name: row for row in rows})
        needed = dict.fromkeys([name async for row in in_turns(rows) for name in depends_on(row)])
        pending += [name for name in needed if name not in into]


async def read_past(past: Past, names: Iterable[Name], into: dict[Name, Row | None]) -> None:
    """The same as they were at a position."""
    pending = set(names)
    while pending:
        into.update(dict.fromkeys(pending))
        known = list(into)
        view = await past.fold([*known, *map(report_name, known)], open_all=True)
        pending = {n for name in known if (row := view.row(name)) for n in depends_on(row)} - into.keys()
    if into:
        into.update({name: view.row(name) for n in list(into) for name in (n, report_name(n))})


async def dependents(connection: Connection, tenant_id: str, names: Iterable[Name]) -> list[Name]:
    """Active and waiting records that need one of these; of a program, the classes that name it."""
    names = list(names)
    loaded = await load(connection, tenant_id, Wish(dependents=names))
    found = [(entity, zoho_id) for _, _, entity, zoho_id in loaded.dependents]
    programs = {zoho_id for entity, zoho_id in names if entity == "program"}
    after: str | None = "" if programs else None
    while after is not None:
        classes, after = await some_records(connection, tenant_id, "class", after)
        found += [row.name for row in classes if row.fields.get("program_zoho_id") in programs]
    return found
