"""Hot queries prepared on empty tables keep their index while the tables grow.

The plans are those of the server's own connections: prepared once on empty tables,
then generic, and never refreshed, since autovacuum is kept off these tables.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import asyncpg
import pytest

from ledger.database import Connection, Database
from ledger.embedded import Embedded
from ledger.installation import Installation, open_installation
from ledger.settings import Settings
from ledger.store import Wanted, create_tenant, load
from projections.queries import SQL
from tests.conftest import fresh_home, remove_home
from tests.harness import Ledger

ROWS = 100_000
BUFFERS = 250  # 8 KiB pages that one execution may touch: twenty rows, some ten pages each
READS = (
    "one_record", "list_active_records", "list_waiting_records", "list_deleted_records", "list_all_records",
    "deferred", "position_at", "position_before", "recorded_at", "events_by_position", "events_of_stream",
    "events_of_delivery", "events_of_stream_by_outcome", "events_of_delivery_by_outcome",
    "events_of_rare_source", "events_with_warnings", "payloads_at", "events_by_outcome",
    "events_by_rare_status", "effects_on_record", "events_of_streams", "ids_known_at", "last_events_of_stream",
    "outcomes_in_order", "outcomes_between", "events_behind", "head", "checkpoint", "records_of", "links_of",
    "statuses_besides", "places", "behind", "statuses_of",
)  # fmt: skip

_FILL = """
insert into ledger.events
  select $1, i, 'program-' || i, 1, 'RecordReceived.v1', 'program', i::text, case when i % 1000 = 0 then 'pull' else 'sync' end, 'd' || i,
         now() + i * interval '1 microsecond', null, null, 0,
         case when i % 1000 = 1 then '[["price","is unreadable"]]' end, null, null, 'x', 'y'
    from generate_series($2::int, $3::int) i;
"""
_FILL_RECORDS = """
insert into ledger.records (tenant_id, generation, entity, zoho_id, state, version, state_version, own_position, waiting_since, created_at)
  select $1, 1, case when i % 2 = 0 then 'program' else 'enrollment' end, i::text,
         case when i % 7 = 0 then 'deleted' when i % 5 = 0 then 'waiting' else 'active' end, 1, 1, i, now(), now()
    from generate_series($2::int, $3::int) i;
"""
_FILL_OUTCOMES = """
insert into ledger.outcomes
  select $1, 1, i, 'program', i::text, i % 11 > 0, case when i % 9 = 0 then 'INVALID' else 'NEW' end, null, null, null
    from generate_series($2::int, $3::int) i;
"""
_FILL_LINKS = """
insert into ledger.links
  select $1, 1, 'class', 'C' || i % 1000, 'enrollment', i::text from generate_series($2::int, $3::int) i;
"""
_FILL_ANSWERS = """
insert into ledger.idempotency
  select $1, 'programs', 'k' || i, false, 'h', 'd', 'a', '[]', now() from generate_series($2::int, $3::int) i;
"""
_FILL_KEYS = """
insert into vault.keys (tenant_id, key_id, subject, wrapped)
  select $1, decode(lpad(to_hex(i), 32, '0'), 'hex'), 'person:' || i, 'w' from generate_series($2::int, $3::int) i;
"""


def arguments(name: str, tenant: str, near: int) -> tuple[Any, ...]:
    """Arguments of a read that asks about rows near a number."""
    common: tuple[Any, ...] = (tenant, near, 2**62, None, None, 20)
    special: dict[str, tuple[Any, ...]] = {
        "one_record": (tenant, "program", str(near)),
        "deferred": (tenant, 0, near, "", 20),
        "position_at": (tenant, 0),
        "position_before": (tenant, 2**51),
        "events_of_stream": (tenant, 0, *common[2:], f"program-{near}"),
        "events_of_delivery": (tenant, 0, *common[2:], f"d{near}"),
        "events_by_outcome": (*common, "NEW", None),
        "events_by_rare_status": (tenant, 0, *common[2:], "INVALID", None),
        "events_of_stream_by_outcome": (tenant, 0, *common[2:], f"program-{near}", "NEW", None, None, True),
        "events_of_delivery_by_outcome": (tenant, 0, *common[2:], f"d{near}", "NEW", None, None, True),
        "events_with_warnings": (tenant, 0, *common[2:], None, None),
        "events_of_rare_source": (tenant, 0, *common[2:4], "pull", 20),
        "payloads_at": (tenant, list(range(near, near + 20))),
        "events_by_position": common,
        "effects_on_record": (tenant, "program", str(near), 0, 20),
        "events_of_streams": (tenant, [f"program-{near - n}" for n in range(20)], [True] * 20, 2**62),
        "ids_known_at": (tenant, "program", str(near), 2**51, 20),
        "last_events_of_stream": (tenant, f"program-{near}", 20),
        "outcomes_in_order": (tenant, 1, near, near + 20, 20),
        "outcomes_between": (tenant, 1, near, near + 20),
        "events_behind": (tenant, near, 20),
        "recorded_at": (tenant, near),
        "head": (tenant,),
        "places": (),
        "behind": ("summary", "summary.v1.g"),
        "statuses_of": ([tenant], ["student", "class"], ["active"], 2**62),
        "checkpoint": (tenant, "summary.v1.g1"),
        "records_of": (tenant, 1, "program", str(near), 20),
        "statuses_besides": (tenant, 1, "enrollment", str(near), 20, ["active", "withdrawn"]),
        "links_of": (tenant, 1, "class", "C7", "enrollment", str(near), 20),
    }
    return special.get(name, (tenant, "program", str(near), 20))


async def buffers(connection: Connection, sql: str, values: tuple[Any, ...]) -> int:
    """Pages that one execution of a prepared statement touches."""
    plan = await connection.fetchval(f"explain (analyze, buffers, format json) {sql}", *values)
    top = json.loads(plan)[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


@pytest.fixture(scope="module")
def quiet_home() -> Any:
    """A cluster without autovacuum: nothing refreshes a plan."""
    import os
    from pathlib import Path

    home = fresh_home()
    bindir = os.environ.get("TEST_POSTGRES_BINDIR")
    embedded = Embedded(home, Path(bindir) if bindir else None)
    embedded.start()
    yield home
    embedded.stop_using()
    remove_home(home)


async def _admin(installation: Installation) -> asyncpg.Connection:
    assert installation.embedded is not None
    return await asyncpg.connect(installation.embedded.dsn(), password=installation.embedded.password())


async def test_plans_keep_their_index(quiet_home: Any) -> None:
    """Reads of the HTTP face, and the load and append of a lane."""
    installation = await open_installation(Settings(home=quiet_home))
    admin = await _admin(installation)
    await admin.execute("alter system set autovacuum = off")
    await admin.execute("select pg_reload_conf()")
    database = Database(installation.application, size=1)
    await database.open()
    tenant = f"t-{uuid.uuid4().hex[:8]}"
    ledger = Ledger(installation, database, tenant)
    # prepared on empty tables, and executed often enough to become generic
    for number in range(8):
        await ledger.post("students", {"id": f"warm{number}"})
        async with database.transaction(tenant) as connection:
            for name in READS:
                await connection.fetch(SQL[name], *arguments(name, tenant, 1))
                await buffers(connection, SQL[name], arguments(name, tenant, 1))
    wanted = Wanted(
        records=[("program", "77777"), ("enrollment", "55555")],
        dependents=[("class", "C7")],
        subjects=["person:4321"],
        answers=[("programs", "k321")],
    )
    load_sql = (
        f"select * from ledger.load_v1('{tenant}', false, '{{program,enrollment}}', '{{77777,55555}}',"
        " '{class}', '{C7}', '{person:4321}', '{programs}', '{k321}')"
    )
    for start, stop in ((1001, 10_000), (10_001, ROWS)):
        for fill in (_FILL, _FILL_RECORDS, _FILL_OUTCOMES, _FILL_LINKS, _FILL_ANSWERS, _FILL_KEYS):
            await admin.execute(_inlined(fill, tenant, start, stop))
        async with database.transaction(tenant) as connection:
            for name in READS:
                touched = await buffers(connection, SQL[name], arguments(name, tenant, stop - 500))
                assert touched <= BUFFERS, (
                    name,
                    touched,
                    stop,
                    await plan_of(connection, SQL[name], arguments(name, tenant, stop - 500)),
                )
        async with database.connection() as connection:
            found = await load(connection, tenant, wanted)
            assert found.head is not None
            assert len(found.dependents) == pytest.approx(stop / 1000, abs=12)
            await connection.fetch(load_sql)
        async with database.transaction(tenant) as connection:
            touched = await buffers(connection, load_sql, ())
            assert touched <= BUFFERS + 6 * stop // 1000, touched
    reads_before = await _sequential(admin)
    await ledger.post("students", {"id": "last"}, {"id": "warm1", "Last_Name": "N"})
    await ledger.post("enrollments", {"id": "E", "Student": "last", "Class": "C1"})
    await ledger.post("classes", {"id": "C1", "Class_Name": "A"})
    await ledger.post("enrollments", {"id": "E", "Student": "last", "Class": "C2"})
    assert await _sequential(admin) == reads_before, "an append scanned a whole table"
    await ledger.close()
    await database.close()
    await admin.close()
    installation.close()


async def test_tidying_leaves_the_keys_of_persons_alone(quiet_home: Any) -> None:
    """Old keys of unreadable deliveries are found among very many others, in a tenant without answers."""
    installation = await open_installation(Settings(home=quiet_home))
    admin = await _admin(installation)
    database = Database(installation.application, size=1)
    await database.open()
    tenant = f"t-{uuid.uuid4().hex[:8]}"
    async with database.transaction(tenant) as connection:
        await create_tenant(connection, tenant, installation.master_key)
    await admin.execute(_inlined(_FILL_KEYS, tenant, 1, ROWS))
    tidy = f"select ledger.tidy_v1('{tenant[:-1]}', 1, $1, $1)"
    async with database.transaction(tenant) as connection:
        for _ in range(2):
            touched = await buffers(connection, tidy, (2**50,))
    assert touched <= BUFFERS, touched
    await database.close()
    await admin.close()
    installation.close()


def _inlined(sql: str, tenant: str, start: int, stop: int) -> str:
    return sql.replace("$1", f"'{tenant}'").replace("$2::int", str(start)).replace("$3::int", str(stop))


async def _sequential(admin: asyncpg.Connection) -> list[tuple[str, int]]:
    """Sequential scans so far of each table that grows."""
    await admin.execute("select pg_stat_clear_snapshot()")
    rows = await admin.fetch(
        "select relname, seq_scan from pg_stat_user_tables where schemaname in ('ledger', 'vault')"
        " and relname not in ('heads', 'tenants', 'migrations', 'parked', 'tracking') order by relname"
    )
    return [(row["relname"], row["seq_scan"]) for row in rows]


async def plan_of(connection: Connection, sql: str, values: tuple[Any, ...]) -> str:
    """The plan as text, for the message of a failure."""
    rows = await connection.fetch(f"explain (analyze, buffers) {sql}", *values)
    return "\n".join(row[0] for row in rows)
