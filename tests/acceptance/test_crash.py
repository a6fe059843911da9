"""The server and the database are killed at named points of an append.

The points are reached with locks of another session: the append stops where it needs
what that session holds. After each crash: every record that was answered 200 is
there, nothing twice, no gap, and the same key tells what became of the others.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from ledger import chain
from ledger.embedded import Embedded
from ledger.installation import Installation, open_installation
from ledger.settings import Settings
from ledger.store import EventStore
from ledger.verify import follow
from tests.conftest import fresh_home, remove_home
from tests.harness import Ledger, Server

# where the append stops: the table that the other session locks against writers
POINTS = {
    "head locked": "ledger.events",
    "events inserted": "ledger.outcomes",
    "state written, during a release": "ledger.links",
    "before COMMIT": "ledger.idempotency",
}


@pytest.fixture(scope="module")
def crash_home() -> Iterator[Path]:
    """A cluster of its own: it is killed."""
    home = fresh_home()
    bindir = os.environ.get("TEST_POSTGRES_BINDIR")
    embedded = Embedded(home, Path(bindir) if bindir else None)
    embedded.start()
    yield home
    embedded.stop_using()
    remove_home(home)


@pytest.fixture
async def crashing(crash_home: Path) -> AsyncIterator[Installation]:
    """The ledger of that cluster."""
    installation = await open_installation(Settings(home=crash_home))
    yield installation
    installation.close()


@pytest.fixture
def victim(crash_home: Path) -> Iterator[Server]:
    """A server to be killed."""
    with Server(crash_home) as server:
        yield server


async def admin(installation: Installation) -> asyncpg.Connection:
    """The superuser."""
    assert installation.embedded is not None
    return await asyncpg.connect(installation.embedded.dsn(), password=installation.embedded.password())


async def until(condition: Any) -> None:
    """Returns when an awaited condition is true."""
    while not await condition():
        await asyncio.sleep(0.01)


async def check(installation: Installation, tenant: str) -> list[str | None]:
    """Contiguous, chained, equal to a replay; answers the ids in order."""
    database = installation.database()
    await database.open()
    try:
        ledger = Ledger(installation, database, tenant)
        found = await EventStore(database, tenant, installation.master_key).events()
        assert [e.position for e in found] == list(range(1, len(found) + 1))
        follow(chain.GENESIS, found)
        assert await ledger.live() == await ledger.rebuilt()
        return [e.zoho_id for e in found]
    finally:
        await database.close()


@asynccontextmanager
async def posting(server: Server, tenant: str, plural: str, record: Any) -> AsyncIterator[dict[str, Any]]:
    """A request under the key `k` in the background; `answer` is None until there is one."""
    seen: dict[str, Any] = {"answer": None}

    async def post() -> None:
        headers = {"X-Tenant-ID": tenant, "X-Idempotency-Key": "k"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
            seen["answer"] = await client.post(f"/v1/sync/{plural}", json=record)

    task = asyncio.create_task(post())
    yield seen
    await asyncio.gather(task, return_exceptions=True)


CLASS = {"id": "C", "Class_Name": "A"}


@pytest.mark.parametrize("point", POINTS)
async def test_server_killed(victim: Server, crashing: Installation, tenant: str, point: str) -> None:
    """SIGKILL inside the transaction: nothing of it is there, and a second try does it."""
    with victim.client(tenant) as client:
        client.post("/v1/sync/students", json={"id": "S"})
        client.post("/v1/sync/enrollments", json={"id": "E", "Student": "S", "Class": "C"})
        if point.startswith("state"):  # so that the append has a link to write
            client.post("/v1/sync/classes", json={"id": "C2", "Class_Name": "B"})
    plural, record = "classes", CLASS
    if point.startswith("state"):
        plural, record = "enrollments", {"id": "E", "Student": "S", "Class": "C2"}
    blocker = await admin(crashing)
    watcher = await admin(crashing)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute(f"lock table {POINTS[point]} in share mode")

    async def stopped() -> bool:
        return bool(
            await watcher.fetchval(
                "select exists (select from pg_locks where not granted and relation = $1::regclass)",
                POINTS[point],
            )
        )

    async with posting(victim, tenant, plural, record) as seen:
        await until(stopped)
        victim.kill()
    assert seen["answer"] is None
    await transaction.rollback()

    async def gone() -> bool:
        return not await watcher.fetchval(
            "select exists (select from pg_stat_activity where usename = 'sync_ledger_app'"
            " and state = 'active' and pid not in (select pid from pg_locks where not granted)"
            " and query like '%append_v1%')"
        )

    await until(gone)
    await blocker.close()
    await watcher.close()
    before = await check(crashing, tenant)
    victim.start()
    with victim.client(tenant) as client:
        answer = client.post(f"/v1/sync/{plural}", json=record, headers={"X-Idempotency-Key": "k"})
    after = await check(crashing, tenant)
    # the backend may have gone on to its end before it noticed: then the key replays
    replayed = answer.headers.get("idempotency-replayed") == "true"
    assert len(after) == len(before) + (not replayed)
    assert after.count(record["id"]) == (1 if plural == "classes" else 2)
    assert answer.status_code == 200


async def test_server_killed_after_commit(victim: Server, crashing: Installation, tenant: str) -> None:
    """The commit is on disk, the answer never left: the key gives it, nothing is doubled."""
    connection = await admin(crashing)
    with victim.client(tenant) as client:
        client.post("/v1/sync/students", json={"id": "S"})
    # a standby that does not exist: a commit is flushed to disk, then waits for ever
    await connection.execute("alter system set synchronous_standby_names = 'nobody'")
    await connection.execute("select pg_reload_conf()")

    async def waits() -> bool:
        return bool(
            await connection.fetchval(
                "select exists (select from pg_stat_activity where wait_event = 'SyncRep'"
                " and usename = 'sync_ledger_app')"
            )
        )

    async def reloaded() -> bool:
        return await connection.fetchval("show synchronous_standby_names") == "nobody"

    await until(reloaded)
    async with posting(victim, tenant, "classes", CLASS) as seen:
        await until(waits)
        victim.kill()
    assert seen["answer"] is None
    await connection.execute("alter system reset synchronous_standby_names")
    await connection.execute("select pg_reload_conf()")

    async def over() -> bool:
        return not await waits()

    await until(over)
    await connection.close()
    assert await check(crashing, tenant) == ["S", "C"]
    victim.start()
    with victim.client(tenant) as client:
        answer = client.post("/v1/sync/classes", json=CLASS, headers={"X-Idempotency-Key": "k"})
    assert answer.headers["idempotency-replayed"] == "true"
    assert answer.json()["results"][0]["status"] == "NEW"
    assert await check(crashing, tenant) == ["S", "C"]


def _load(
    server: Server, tenant: str, stop: threading.Event, acknowledged: list[str]
) -> list[threading.Thread]:
    """Eight senders that post until told to stop, and keep what was answered 200."""

    def send(sender: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            zoho_id = f"{sender}-{number}"
            try:
                with httpx.Client(timeout=30) as client:
                    response = client.post(
                        f"{server.url}/v1/sync/students",
                        content=json.dumps({"id": zoho_id}),
                        headers={"X-Tenant-ID": tenant},
                    )
            except httpx.HTTPError:
                continue
            if response.status_code == 200:
                acknowledged.append(zoho_id)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(8)]
    for thread in threads:
        thread.start()
    return threads


async def test_server_killed_between_flushes(victim: Server, crashing: Installation, tenant: str) -> None:
    """Under load, wherever it is: what was answered is there, once."""
    stop, acknowledged = threading.Event(), list[str]()
    threads = _load(victim, tenant, stop, acknowledged)
    for _ in range(2):
        wanted = len(acknowledged) + 100
        while len(acknowledged) < wanted:
            await asyncio.sleep(0.01)
        victim.kill()
        victim.start()
    stop.set()
    for thread in threads:
        thread.join()
    recorded = await check(crashing, tenant)
    assert len(recorded) == len(set(recorded))
    assert set(acknowledged) <= set(recorded)


def postmaster(embedded: Embedded) -> int | None:
    """PostgreSQL's process id, None while it is between two lives."""
    try:
        return int((embedded.home / "pgdata" / "postmaster.pid").read_text().split()[0])
    except (OSError, IndexError):
        return None


async def test_postgres_killed_under_load(victim: Server, crashing: Installation, tenant: str) -> None:
    """The supervisor starts it again, the server goes on, nothing that was answered is lost."""
    assert crashing.embedded is not None
    stop, acknowledged = threading.Event(), list[str]()
    threads = _load(victim, tenant, stop, acknowledged)
    for _ in range(2):
        wanted = len(acknowledged) + 100
        while len(acknowledged) < wanted:
            await asyncio.sleep(0.01)
        pid = postmaster(crashing.embedded)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        while postmaster(crashing.embedded) in (pid, None):
            await asyncio.sleep(0.01)
    wanted = len(acknowledged) + 50
    while len(acknowledged) < wanted:
        await asyncio.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert victim.process.poll() is None
    recorded = await check(crashing, tenant)
    assert len(recorded) == len(set(recorded))
    assert set(acknowledged) <= set(recorded)
