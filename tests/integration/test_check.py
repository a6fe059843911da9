"""`replay --check` finds any changed cell of any read model."""

from __future__ import annotations

import uuid
from typing import Any

import asyncpg
import pytest

from ledger.database import Database
from ledger.installation import Installation
from projections.check import check
from tests.harness import Ledger
from tests.integration.test_rebuild import replay, story

TABLES = {
    "records": (
        "tenant_id", "generation", "entity", "zoho_id", "state", "version", "state_version", "position",
        "own_position", "effective_at", "created_at", "updated_at", "deleted_at", "waiting_since",
        "waiting_for", "key_id", "macs", "active_fingerprint", "fields",
    ),
    "links": ("tenant_id", "generation", "needs_entity", "needs_id", "entity", "zoho_id"),
    "outcomes": (
        "tenant_id", "generation", "position", "entity", "zoho_id", "own", "status", "reason", "changes", "errors",
    ),
    "summary": ("tenant_id", "generation", "version", "hour", "entity", "status", "count"),
}  # fmt: skip
CELLS = [(table, column) for table, columns in TABLES.items() for column in columns]
# whatever the value was, it is another one afterwards
CHANGES = {
    "text": "coalesce({0}, '') || 'x'",
    "integer": "{0} + 7",
    "bigint": "coalesce({0}, 0) + 1000000",
    "boolean": "not {0}",
    "timestamp with time zone": "coalesce({0}, now()) + interval '1 microsecond'",
    "bytea": "coalesce({0}, '') || '\\x31'",
}


async def test_every_column_is_listed(admin: asyncpg.Connection) -> None:
    """A new column of a read model is to be checked, too."""
    rows = await admin.fetch(
        "select table_name, array_agg(column_name::text order by ordinal_position) as columns"
        " from information_schema.columns where table_schema = 'ledger' and table_name = any($1)"
        " group by table_name",
        list(TABLES),
    )
    assert {row["table_name"]: tuple(row["columns"]) for row in rows} == TABLES


@pytest.mark.parametrize(("table", "column"), CELLS, ids=lambda value: value)
async def test_a_changed_cell(ledger: Ledger, admin: asyncpg.Connection, table: str, column: str) -> None:
    """One cell of one row: reported with its table, and nothing else is."""
    await story(ledger, 3)
    assert (await check(replay(ledger))).differences == []
    kind = await admin.fetchval(
        "select data_type from information_schema.columns"
        " where table_schema = 'ledger' and table_name = $1 and column_name = $2",
        table,
        column,
    )
    change = CHANGES[kind].format(column)
    if (table, column) == ("records", "state"):
        change = "case state when 'active' then 'deleted' else 'active' end"
    done = await admin.execute(
        f"update ledger.{table} set {column} = {change} where ctid ="
        f" (select ctid from ledger.{table} where tenant_id = $1 order by random() limit 1)",
        ledger.tenant,
    )
    assert done == "UPDATE 1"
    found = (await check(replay(ledger))).differences
    assert found
    assert {difference.table for difference in found} == {table}
    if "row" not in {difference.field for difference in found}:
        assert {difference.field for difference in found} == {column}


async def test_rows_missing_and_too_many(ledger: Ledger, admin: asyncpg.Connection) -> None:
    """A row that is gone, and one that no event made."""
    await story(ledger, 3)
    await admin.execute("delete from ledger.records where tenant_id = $1 and entity = 'class'", ledger.tenant)
    await admin.execute(
        "insert into ledger.outcomes select tenant_id, generation, 10^9, entity, 'ghost', own, status"
        " from ledger.outcomes where tenant_id = $1 limit 1",
        ledger.tenant,
    )
    found = {(d.table, d.zoho_id, d.field) for d in (await check(replay(ledger))).differences}
    assert found == {("records", "C", "row"), ("outcomes", "ghost", "row")}


async def test_another_tenants_rows_do_not_count(
    installation: Installation, database: Database, ledger: Ledger, admin: asyncpg.Connection
) -> None:
    """A change in one college is not reported for another."""
    other = Ledger(installation, database, f"t-{uuid.uuid4().hex[:12]}")
    await story(other, 2)
    await story(ledger, 2)
    await admin.execute("update ledger.records set version = 99 where tenant_id = $1", other.tenant)
    assert (await check(replay(ledger))).differences == []
    report: Any = await check(replay(other))
    assert {d.field for d in report.differences} == {"version"}
    await other.close()
