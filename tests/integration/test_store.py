"""What is stored, and who may touch it."""

from __future__ import annotations

import asyncio
import itertools
import uuid

import asyncpg
import msgspec
import pytest

from ledger import chain, clock
from ledger.database import Database, connect
from ledger.events import Event
from ledger.installation import Installation
from ledger.store import EventStore, Flush, Head, Wanted, append, load, tidy
from ledger.verify import BrokenChainError, follow
from tests.harness import Ledger

PERSONAL = {"id": "S", "First_Name": "Laylaaa", "Last_Name": "Nasserrr", "Email": "l@college.example"}


async def events(ledger: Ledger) -> list[Event]:
    """Every event of the tenant."""
    store = EventStore(ledger.database, ledger.tenant, ledger.installation.master_key)
    return await store.events()


async def fill(ledger: Ledger) -> None:
    """A few events of each kind."""
    await ledger.post("programs", {"id": "P", "Product_Name": "x"}, {"id": "P"}, 7)
    await ledger.post("enrollments", {"id": "E", "Student": "S", "Class": "C", "Student_Name": "Laylaaa"})
    await ledger.post("students", PERSONAL, PERSONAL)
    await ledger.post("classes", {"id": "C", "Class_Name": "A"})


async def test_positions_times_and_chain(ledger: Ledger) -> None:
    """Contiguous, strictly later, and chained from the genesis to the head."""
    await fill(ledger)
    found = await events(ledger)
    assert [e.position for e in found] == list(range(1, len(found) + 1))
    assert all(a.recorded_at < b.recorded_at for a, b in itertools.pairwise(found))
    async with ledger.database.transaction(ledger.tenant) as connection:
        loaded = await load(connection, ledger.tenant, Wanted())
    assert loaded.head is not None
    assert follow(chain.GENESIS, found) == loaded.head.chain
    assert (loaded.head.position, loaded.head.recorded_at) == (len(found), found[-1].recorded_at)


@pytest.mark.parametrize("column", [f for f in Event.__struct_fields__ if f != "chain"])
async def test_every_column_is_proved(ledger: Ledger, column: str) -> None:
    """Another value in any one column breaks the chain at that position."""
    await fill(ledger)
    found = await events(ledger)
    event = found[4]
    old = getattr(event, column)
    new = {str: lambda: old + "x", int: lambda: old + 1, bytes: lambda: old + b"x", type(None): lambda: "x"}
    setattr(event, column, new[type(old)]())
    with pytest.raises(BrokenChainError) as caught:
        follow(chain.GENESIS, found)
    assert caught.value.position == (6 if column == "position" else 5)
    setattr(event, column, None)
    if old is not None:
        with pytest.raises(BrokenChainError):
            follow(chain.GENESIS, found)


async def test_time_never_runs_backwards(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is set back does not take the ledger with it."""
    await ledger.post("programs", {"id": "P", "Product_Name": "x"})
    before = clock.now()
    monkeypatch.setattr(clock, "now", lambda: before - clock.DAY)
    await ledger.post("programs", {"id": "P", "Product_Name": "y"})
    first, second = await events(ledger)
    assert second.recorded_at == first.recorded_at + 1


async def test_personal_values_are_sealed(ledger: Ledger) -> None:
    """No table holds a person's values in clear but the read models, and none in the
    events; programs and classes are readable.
    """
    await fill(ledger)
    found = await events(ledger)
    for event in found:
        blob = msgspec.msgpack.encode(event)
        assert b"Laylaaa" not in blob
        assert b"Nasserrr" not in blob
        sealed = event.entity in ("student", "enrollment") or event.zoho_id is None
        assert (event.key_id is not None) == sealed
    student, again = (e for e in found if e.entity == "student")
    assert student.payload != again.payload  # a fresh nonce each
    assert student.content_mac == again.content_mac  # equal values compare equal
    enrollment = next(e for e in found if e.entity == "enrollment")
    assert enrollment.key_id == student.key_id


async def test_keys_differ_between_people_and_tenants(installation: Installation, database: Database) -> None:
    """Equal values of two people, or of two tenants, cannot be told to be equal."""
    macs = set()
    for tenant in (f"t-{uuid.uuid4().hex[:8]}", f"t-{uuid.uuid4().hex[:8]}"):
        ledger = Ledger(installation, database, tenant)
        await ledger.post("students", PERSONAL, {**PERSONAL, "id": "T"})
        macs |= {e.content_mac for e in await events(ledger)}
        await ledger.close()
    assert len(macs) == 4


@pytest.mark.parametrize(
    "statement",
    ["update ledger.events set source = 'x'", "delete from ledger.events", "truncate ledger.events",
     "update ledger.events set payload = '' where position = 1", "truncate vault.keys",
     "delete from vault.keys", "delete from ledger.heads", "drop table ledger.events",
     "alter table ledger.events disable row level security", "delete from ledger.tenants",
     "update ledger.tenants set key_check = ''", "set role postgres",
     "create table ledger.x (i int)"],
)  # fmt: skip
async def test_the_application_may_not(ledger: Ledger, statement: str) -> None:
    """The application's role can append, and never change or remove what happened."""
    await fill(ledger)
    async with ledger.database.connection() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("select set_config('ledger.tenant', $1, true)", ledger.tenant)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
        await transaction.rollback()


async def test_row_level_security(installation: Installation, ledger: Ledger) -> None:
    """Forced on every table but the two that hold no tenant's data; without a tenant, or
    as another one, nothing is seen and nothing can be written.
    """
    await fill(ledger)
    admin = await connect(
        type(installation.application)(
            installation.application.dsn,
            password=installation.embedded.password(),  # type: ignore[union-attr]
        )
    )
    try:
        tables = await admin.fetch(
            "select n.nspname || '.' || c.relname as name, c.relrowsecurity and c.relforcerowsecurity as forced"
            " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname in ('ledger', 'vault') and c.relkind = 'r'"
        )
    finally:
        await admin.close()
    exempt = {row["name"] for row in tables if not row["forced"]}
    assert exempt == {"ledger.tenants", "ledger.migrations"}
    bound = sorted(row["name"] for row in tables if row["forced"])
    assert len(bound) == 12
    async with ledger.database.connection() as connection:
        me = await connection.fetchrow(
            "select rolsuper, rolbypassrls, (select count(*) from pg_class where relowner = r.oid) as owns"
            " from pg_roles r where rolname = current_user"
        )
        assert tuple(me) == (False, False, 0)
        for table in bound:
            assert await connection.fetchval(f"select count(*) from {table}") == 0, table
    async with ledger.database.transaction("another") as connection:
        for table in bound:
            others = await connection.fetchval(
                f"select count(*) from {table} where tenant_id = $1",
                ledger.tenant,
            )
            assert others == 0, table
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("insert into ledger.tracking values ($1, 'f', 1)", ledger.tenant)


async def test_append_is_refused_where_the_head_has_moved(ledger: Ledger) -> None:
    """Nothing is written by a process that does not know the newest head."""
    await ledger.post("programs", {"id": "P", "Product_Name": "x"})
    async with ledger.database.connection() as connection:
        head = (await load(connection, ledger.tenant, Wanted())).head
        assert head is not None
        old = Head(head.position - 1, 0, chain.GENESIS, head.generation)
        other = msgspec.structs.replace(head, generation=head.generation + 1)
        for wrong in (old, other):
            answer = await append(connection, ledger.tenant, wrong, head, clock.now(), Flush())
            assert answer == "moved"


async def test_two_processes_on_one_tenant(ledger: Ledger) -> None:
    """Lanes of two processes take turns; no post is lost, none is applied twice."""
    other = ledger.new_lane()
    lanes = [ledger.lane, other]
    posts = [
        lanes[i % 2].submit(
            ledger.delivery("programs", [{"id": f"P{i % 7}", "Product_Name": str(i)}], str(i))
        )
        for i in range(60)
    ]
    await asyncio.gather(*posts)
    found = await events(ledger)
    assert [e.position for e in found] == list(range(1, 61))
    assert follow(chain.GENESIS, found) == found[-1].chain
    assert await ledger.live() == await ledger.rebuilt()
    await other.close()


async def test_keys_of_a_failed_flush_are_forgotten(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's key that was made in a flush that did not commit is never used again."""
    await ledger.post("programs", {"id": "P", "Product_Name": "x"})
    async with ledger.database.transaction(ledger.tenant) as connection:
        await connection.execute(
            "insert into ledger.events select tenant_id, position + 1, 'clash', 1, topic, entity,"
            " zoho_id, source, delivery_id, recorded_at, effective_at, refs, flags, problems,"
            " key_id, content_mac, payload, chain from ledger.events where tenant_id = $1",
            ledger.tenant,
        )
    with pytest.raises(Exception, match="UniqueViolation"):
        await ledger.post("students", PERSONAL)
    del monkeypatch
    admin_dsn = ledger.installation.embedded
    assert admin_dsn is not None
    admin = await asyncpg.connect(admin_dsn.dsn(), password=admin_dsn.password())
    await admin.execute("delete from ledger.events where tenant_id = $1 and position = 2", ledger.tenant)
    await admin.close()
    await ledger.post("students", PERSONAL)
    async with ledger.database.transaction(ledger.tenant) as connection:
        keys = await connection.fetch("select key_id from vault.keys where tenant_id = $1", ledger.tenant)
    assert [row["key_id"] for row in keys] == [(await events(ledger))[1].key_id]
    assert await ledger.live() == await ledger.rebuilt()


async def test_quarantine_keys_are_destroyed_in_time(ledger: Ledger) -> None:
    """The key of a day's unreadable deliveries goes; the fold does not need it."""
    await fill(ledger)

    async def kept(before: int) -> int:
        async with ledger.database.transaction(ledger.tenant) as connection:
            assert await tidy(connection, ledger.tenant[:-1], 1, 0, before) == ledger.tenant
            keys = "select count(*) from vault.keys where subject like 'quarantine:%' and wrapped is not null"
            count: int = await connection.fetchval(keys)
            return count

    assert await kept(clock.now() - clock.DAY) == 1
    assert await kept(clock.now() + clock.DAY) == 0
    assert await ledger.live() == await ledger.rebuilt()
