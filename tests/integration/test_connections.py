"""Connections that break, fall silent, or only wait: each is judged by its own progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, get_args

import asyncpg
import pytest

from ledger.database import ConnectionSettings, Database, Limits, connect, telling_apart
from ledger.errors import DatabaseAwayError
from ledger.events import Event, RecordReceived
from ledger.installation import Installation
from ledger.zoho.entities import ENTITIES
from projections.fold import CurrentState, Outcome
from projections.queries import SQL
from projections.state import View
from tests.harness import Ledger
from tests.integration.test_lane import consistent
from tests.proxy import Loses, Proxy

PROGRAM = {"id": "P", "Product_Name": "x"}
LOCK = "select position from ledger.heads where tenant_id = $1 for update"
FAST = Limits(connect=1.0, patience=0.02, probe=1.0, close=0.1)
"""Patience as short as it may be: whoever is judged wrongly is judged so at once."""


@pytest.fixture
def proxy(installation: Installation) -> Iterator[Proxy]:
    """A network between the tests and the server."""
    assert installation.embedded is not None
    with Proxy(installation.embedded.socket_dir / ".s.PGSQL.5432") as proxy:
        yield proxy


@pytest.fixture
async def far(installation: Installation, proxy: Proxy) -> AsyncIterator[Database]:
    """A pool behind that network."""
    url = f"postgresql://127.0.0.1:{proxy.port}/ledger"
    database = Database(ConnectionSettings(url, **installation.application.overrides), size=3, limits=FAST)
    await database.open()
    yield database
    await database.close()


async def all_open(database: Database, tenant: str) -> None:
    """Every connection of the pool exists."""
    async with AsyncExitStack() as stack:
        for _ in range(3):
            connection = await stack.enter_async_context(database.transaction(tenant))
            await connection.fetchval("select 1")


async def until_it_works(attempt: Callable[[], Awaitable[Any]]) -> Any:
    """The first result that is no refusal; it may refuse as often as the pool has connections."""
    for _ in range(3):
        try:
            return await attempt()
        except DatabaseAwayError:
            continue
    return await attempt()


@pytest.mark.parametrize("loses", get_args(Loses))
async def test_a_silent_connection_is_given_up(
    far: Database, proxy: Proxy, tenant: str, loses: Loses
) -> None:
    """Whoever waits on one hears of it, and new ones take the place of all that are like it."""
    await all_open(far, tenant)
    proxy.mute(loses)

    async def read() -> Any:
        async with far.transaction(tenant) as connection:
            return await connection.fetchval("select 1")

    assert await until_it_works(read) == 1
    assert await read() == 1


async def test_a_silent_session_keeps_no_lock(
    far: Database, database: Database, installation: Installation, proxy: Proxy, tenant: str
) -> None:
    """The server is told to end it: nobody else would, since nobody closes the connection."""
    ledger = Ledger(installation, database, tenant)
    await ledger.post("programs", PROGRAM)
    with pytest.raises(DatabaseAwayError, match="silent"):
        async with far.transaction(tenant) as connection:
            await connection.fetchval(LOCK, tenant)
            proxy.mute()
            await connection.fetchval("select 1")
    assert (await ledger.post("programs", PROGRAM))["status"] == "success"
    await ledger.close()


@pytest.mark.parametrize("loses", get_args(Loses))
async def test_a_lane_goes_on_after_silence(
    far: Database, installation: Installation, proxy: Proxy, tenant: str, loses: Loses
) -> None:
    """What was refused may be recorded or not; the same key tells, and nothing is doubled."""
    ledger = Ledger(installation, far, tenant)
    await ledger.post("programs", PROGRAM)
    await all_open(far, tenant)
    for price in range(3):
        proxy.mute(loses)
        record = {**PROGRAM, "Price": price}
        answer = await until_it_works(
            lambda record=record, price=price: ledger.submit("programs", [record], f"k{price}")  # type: ignore[misc]
        )
        assert b'"UPDATED"' in answer.body
    assert len(await consistent(ledger)) == 4
    await ledger.close()


async def test_a_network_that_loses_everything(far: Database, proxy: Proxy, tenant: str) -> None:
    """New connections are silent too: refused, until the network works again."""
    await all_open(far, tenant)
    far._limits = far._watch._limits = Limits(connect=0.1, patience=0.02, probe=0.1, close=0.1)
    proxy.mute(new_ones=True)
    for _ in range(4):
        with pytest.raises(DatabaseAwayError):
            async with far.transaction(tenant):
                pass
    proxy.mute()
    far._limits = far._watch._limits = FAST

    async def read() -> Any:
        async with far.transaction(tenant) as connection:
            return await connection.fetchval("select 1")

    assert await until_it_works(read) == 1


async def test_close_ends_what_hangs(far: Database, proxy: Proxy, tenant: str) -> None:
    """Connections in use and idle ones are all silent: the pool is closed all the same."""
    await all_open(far, tenant)
    assert far._watching is not None
    far._watching.cancel()  # so that nothing but the end itself ends them
    proxy.mute()

    async def read() -> None:
        async with far.transaction(tenant) as connection:
            await connection.fetchval("select 1")

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    await far.close()
    with pytest.raises(DatabaseAwayError):
        await reading


async def test_a_statement_that_waits_is_left_alone(
    installation: Installation, admin: asyncpg.Connection, tenant: str
) -> None:
    """Another session holds the lock, for as long as ten looks: the server works on the statement."""
    database = Database(installation.application, limits=FAST)
    await database.open()
    ledger = Ledger(installation, database, tenant)
    await ledger.post("programs", PROGRAM)
    looks, look = 0, database._watch._look

    async def counted(suspects: Any) -> None:
        nonlocal looks
        looks += 1
        await look(suspects)

    database._watch._look = counted  # type: ignore[method-assign]
    async with admin.transaction():
        await admin.execute("select from ledger.heads where tenant_id = $1 for update", tenant)
        post = asyncio.create_task(ledger.post("programs", {**PROGRAM, "Price": 1}))
        while looks < 10:
            await asyncio.sleep(0)
        assert not post.done()
    assert (await post)["results"][0]["status"] == "UPDATED"
    await ledger.close()
    await database.close()


class Slow(CurrentState):
    """A projection that computes for long: nothing else runs meanwhile."""

    seconds = 0.0

    def apply(self, view: View, event: Event, payload: RecordReceived) -> Outcome:
        end = asyncio.get_running_loop().time() + self.seconds
        while asyncio.get_running_loop().time() < end:
            pass
        return super().apply(view, event, payload)


async def test_a_busy_loop_is_no_outage(installation: Installation, tenant: str) -> None:
    """The fold keeps the loop for longer than every limit, while other work waits for the database,
    its connections, and new ones: all of it is done.
    """
    limits = Limits(connect=0.5, patience=0.05, probe=0.1, close=0.1)
    database = Database(installation.application, size=3, limits=limits)
    await database.open()
    slow = Slow(ENTITIES)
    slow.seconds = 0.2
    ledger = Ledger(installation, database, tenant, projection=slow)
    await ledger.post("programs", PROGRAM)
    done = False

    async def read() -> int:
        reads = 0
        while not done:
            async with database.transaction(tenant) as connection:
                await connection.fetchval("select count(*) from ledger.events")
                reads += 1
            await database._expire()  # so that connections are made all the time
        return reads

    readers = [asyncio.create_task(read()) for _ in range(4)]
    records = [{**PROGRAM, "id": f"P{number}"} for number in range(8)]
    answer = await ledger.post("programs", *records)
    done = True
    assert [result["status"] for result in answer["results"]] == ["NEW"] * 8
    assert min(await asyncio.gather(*readers)) > 0
    await ledger.close()
    await database.close()


STATES = {
    "08006": True, "53100": True, "53200": True, "57014": True, "57P01": True, "57P05": True,
    "58030": True, "25006": True, "25P03": True, "40001": True, "40P01": True, "55P03": True,
    "22012": False, "23505": False, "42P01": False, "P0001": False,
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
async def test_errors_are_told_apart_by_kind(database: Database, tenant: str, state: str) -> None:
    """By the state that the server names, whatever asyncpg calls it."""
    expected = DatabaseAwayError if STATES[state] else asyncpg.PostgresError
    with pytest.raises(expected):
        async with database.transaction(tenant) as connection:
            await connection.execute(f"do $$ begin raise exception using errcode = '{state}'; end $$")
    async with database.transaction(tenant) as connection:  # nothing of it is left
        assert await connection.fetchval("select 1") == 1


@pytest.mark.parametrize("moment", ["idle", "in a transaction", "in a statement"])
async def test_a_session_that_the_server_ends(
    installation: Installation, admin: asyncpg.Connection, tenant: str, moment: str
) -> None:
    """The reader hears that the database is away, and the next one has a new connection."""
    database = Database(installation.application, size=1)
    await database.open()
    async with database.connection() as connection:
        pid = await connection.fetchval("select pg_backend_pid()")

    async def end() -> None:
        await admin.execute(f"select pg_terminate_backend({pid}, 60000)")

    if moment == "idle":
        await end()  # which this process may have seen before it asks, and then nobody hears of it
        with contextlib.suppress(DatabaseAwayError):
            async with database.transaction(tenant):
                pass
    elif moment == "in a transaction":
        with pytest.raises(DatabaseAwayError):
            async with database.transaction(tenant) as connection:
                await end()
                await connection.fetchval("select 1")
    else:
        await admin.execute("begin")
        await admin.execute("lock table ledger.events in access exclusive mode")

        async def read() -> None:
            async with database.transaction(tenant) as connection:
                await connection.fetchval("select count(*) from ledger.events")

        reading = asyncio.create_task(read())
        while not await admin.fetchval(
            "select exists (select from pg_stat_activity where pid = $1 and wait_event_type = 'Lock')", pid
        ):
            await asyncio.sleep(0)
        await end()
        await admin.execute("rollback")
        with pytest.raises(DatabaseAwayError):
            await reading
    async with database.transaction(tenant) as connection:
        assert await connection.fetchval("select 1") == 1
    await database.close()


async def test_a_fault_of_our_own_is_no_outage(database: Database, tenant: str) -> None:
    """A call that asyncpg refuses says nothing about the server."""
    with pytest.raises(asyncpg.InterfaceError):
        async with database.transaction(tenant) as connection:
            await connection.fetchval("select $1::int", 1, 2)
    with pytest.raises(asyncpg.InterfaceError), telling_apart():
        raise asyncpg.InterfaceError("ours")


async def test_a_transaction_that_says_nothing_ends(
    installation: Installation, database: Database, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that has gone keeps no lock: the server ends what it left open."""
    del installation
    async with database.transaction(tenant) as connection:
        assert await connection.fetchval("show idle_in_transaction_session_timeout") == "1min"
    async with database.transaction(tenant, snapshot=True) as connection:  # read at a client's pace
        assert await connection.fetchval("show idle_in_transaction_session_timeout") == "0"
    monkeypatch.setattr("ledger.database.IDLE_IN_TRANSACTION_SECONDS", "0.02")
    with pytest.raises(DatabaseAwayError):
        async with database.transaction(tenant) as connection:
            while not connection.is_closed():
                await asyncio.sleep(0)
            await connection.fetchrow(SQL["head"], tenant)


async def test_a_connection_outside_the_pool_ends(installation: Installation, proxy: Proxy) -> None:
    """Its clean end would wait for an answer that never comes."""
    url = f"postgresql://127.0.0.1:{proxy.port}/ledger"
    connection: Any = await connect(ConnectionSettings(url, **installation.application.overrides))
    connection.close_seconds = 0.02
    proxy.mute()
    await connection.close()
    assert connection.is_closed()


async def test_a_session_that_ends_as_it_is_acquired(
    installation: Installation, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the pool's answer and the caller's turn: refused, and the next one has a new connection."""
    database = Database(installation.application, size=1)
    await database.open()
    assert database._pool is not None
    await database._expire()  # so that the connection is acquired in a task of its own
    acquire, ended = asyncpg.Pool.acquire, False

    def ending(pool: Any) -> Any:
        async def acquired() -> Any:
            nonlocal ended
            proxy = await acquire(pool)
            if not ended:
                ended = True
                asyncio.get_running_loop().call_soon(proxy.itself.terminate)
            return proxy

        return acquired()

    monkeypatch.setattr(asyncpg.Pool, "acquire", ending)
    monkeypatch.setattr(asyncpg.Pool, "get_idle_size", lambda _: 0)
    with pytest.raises(DatabaseAwayError):
        async with database.transaction(tenant):
            pass
    async with database.transaction(tenant) as connection:
        assert await connection.fetchval("select 1") == 1
    await database.close()
