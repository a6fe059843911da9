"""A server whose network loses bytes, whose disk is full, or that does not end by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import asyncpg
import httpx
import pytest

from ledger.installation import Installation
from ledger.store import try_to_write
from tests.harness import ROOT, Server, statuses
from tests.proxy import Loses, Proxy

PROGRAM = {"id": "P", "Product_Name": "x"}


@pytest.fixture
def proxy(installation: Installation) -> Iterator[Proxy]:
    """A network between a server and its database."""
    assert installation.embedded is not None
    with Proxy(installation.embedded.socket_dir / ".s.PGSQL.5432") as proxy:
        yield proxy


@pytest.fixture
def far(installation: Installation, proxy: Proxy) -> Iterator[Server]:
    """A server behind that network."""
    assert installation.embedded is not None
    url = f"postgresql://postgres:{installation.embedded.password()}@127.0.0.1:{proxy.port}/ledger"
    with Server(installation.settings.home, DATABASE_URL=url) as server:
        yield server


def many_connections(server: Server, tenant: str) -> None:
    """Requests side by side, so that both pools have several connections."""

    def both(number: int) -> list[int]:
        with server.client(f"{tenant}-{number % 4}") as client:
            return [
                client.post("/v1/sync/programs", json={**PROGRAM, "id": str(number)}).status_code,
                client.get("/v1/programs").status_code,
            ]

    with ThreadPoolExecutor(8) as threads:
        assert {code for codes in threads.map(both, range(40)) for code in codes} == {200}


def tries(client: httpx.Client, method: str, path: str, **options: object) -> int:
    """How often a request is refused before it is done."""
    refused = 0
    while (response := client.request(method, path, **options)).status_code != 200:  # type: ignore[arg-type]
        assert response.status_code == 503
        assert response.headers["retry-after"] == "2"
        refused += 1
    return refused


@pytest.mark.parametrize("loses", get_args(Loses))
def test_a_network_that_loses_bytes(far: Server, proxy: Proxy, tenant: str, loses: Loses) -> None:
    """Every connection falls silent at once: a few refusals, then all is well, and nothing is doubled."""
    many_connections(far, tenant)
    with far.client(tenant) as client:
        assert statuses(client.post("/v1/sync/programs", json=PROGRAM)) == ["NEW"]
        proxy.mute(loses)
        refused = tries(client, "POST", "/v1/sync/programs", json={**PROGRAM, "Price": 1})
        refused += tries(client, "GET", "/v1/programs")
        assert refused <= 4
        assert tries(client, "GET", "/v1/ready") == 0
        items = client.get("/v1/audit/events").json()["items"]
        assert [item["status"] for item in items if item["status"] != "UNCHANGED"] == ["NEW", "UPDATED"]


def test_the_end_comes_while_the_network_is_silent(far: Server, proxy: Proxy, tenant: str) -> None:
    """Nobody answers any more, new connections neither: SIGTERM ends the server all the same, with 0."""
    many_connections(far, tenant)
    proxy.mute(new_ones=True)
    with far.client(tenant) as client, ThreadPoolExecutor(4) as threads:
        posts = [threads.submit(client.post, "/v1/sync/programs", json=PROGRAM) for _ in range(4)]
        assert far.stop() == 0
        for post in posts:
            with contextlib.suppress(httpx.TransportError):  # it came too late
                assert post.result().status_code == 503


async def test_sessions_that_the_server_ends(far: Server, admin: asyncpg.Connection, tenant: str) -> None:
    """Again and again, wherever a request is: it is done or refused, and nobody gets a 500."""
    await asyncio.to_thread(many_connections, far, tenant)
    with far.client(tenant) as first:
        first.post("/v1/sync/programs", json=PROGRAM)
    asking = True

    async def ask(client: httpx.AsyncClient, method: str, path: str) -> set[int]:
        codes = set()
        while asking:
            codes.add((await client.request(method, path, json=PROGRAM)).status_code)
        return codes

    headers = {"X-Tenant-ID": tenant}
    async with httpx.AsyncClient(base_url=far.url, headers=headers, timeout=60) as client:
        paths = (
            "/v1/programs",
            "/v1/programs/P",
            "/v1/audit/events",
            "/v1/audit/records/program/P",
            "/v1/ready",
        )
        work = [asyncio.create_task(ask(client, "GET", path)) for path in paths]
        work.append(asyncio.create_task(ask(client, "POST", "/v1/sync/programs")))
        for _ in range(100):
            await admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'sync_ledger_app'"
            )
        asking = False
        codes = set().union(*await asyncio.gather(*work))
        assert codes <= {200, 503}, far.log
        assert 503 in codes
        for path in paths:
            await until_200(client, path)


async def until_200(client: httpx.AsyncClient, path: str) -> None:
    """Asks again where it is refused."""
    while (response := await client.get(path)).status_code != 200:
        assert response.status_code == 503


@pytest.mark.soak
@pytest.mark.parametrize("loses", get_args(Loses))
def test_how_long_silence_lasts(far: Server, proxy: Proxy, tenant: str, loses: Loses) -> None:
    """A refusal within two seconds, the first 200 within five, the end within ten."""
    many_connections(far, tenant)
    with far.client(tenant) as client:
        proxy.mute(loses)
        for method, path in (("POST", "/v1/sync/programs"), ("GET", "/v1/programs")):
            begun = time.monotonic()
            while (response := client.request(method, path, json=PROGRAM)).status_code != 200:
                assert response.elapsed.total_seconds() < 2
            assert time.monotonic() - begun < 5
        proxy.mute(loses, new_ones=True)
        begun = time.monotonic()
        assert far.stop() == 0
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize("state", ["53100", "25006", "58030"])
async def test_ready_writes_a_row(own_home: object, state: str) -> None:
    """A database that answers and cannot write is not ready; nothing is left of the trial."""
    from ledger.installation import open_installation
    from ledger.settings import Settings

    with Server(own_home) as server, server.client("default") as client:  # type: ignore[arg-type]
        installation = await open_installation(Settings(home=own_home))  # type: ignore[arg-type]
        assert installation.embedded is not None
        admin = await asyncpg.connect(installation.embedded.dsn(), password=installation.embedded.password())
        assert client.get("/v1/ready").status_code == 200
        assert not await admin.fetchval("select exists (select from ledger.leases where name like 'trial%')")
        await admin.execute(
            "create function ledger.full_disk() returns trigger language plpgsql as"
            f" $$ begin raise exception using errcode = '{state}'; end $$;"
            " create trigger full_disk before insert on ledger.leases for each row"
            " when (octet_length(new.note) > 8000) execute function ledger.full_disk()"
        )
        response = client.get("/v1/ready")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "2"
        assert client.get("/v1/health").status_code == 200
        await admin.execute("drop trigger full_disk on ledger.leases")
        assert client.get("/v1/ready").status_code == 200
        await admin.close()
        installation.close()


async def test_the_trial_needs_room(installation: Installation, admin: asyncpg.Connection) -> None:
    """Its row is stored out of line: free room beside other leases is not enough for it."""
    toast = await admin.fetchval("select reltoastrelid from pg_class where oid = 'ledger.leases'::regclass")
    written = "select pg_stat_get_tuples_inserted($1) + pg_stat_get_xact_tuples_inserted($1)"
    async with admin.transaction():
        await admin.execute("select set_config('ledger.tenant', 'default', true)")
        before = await admin.fetchval(written, toast)
        await try_to_write(admin, installation.settings.default_tenant)
        assert await admin.fetchval(written, toast) - before > 3


def test_whatever_hangs_is_cut_off() -> None:
    """A process that never ends by itself ends with 1, and says why."""
    code = (
        "import signal, sys, threading\n"
        "from scripts.ending import bound_the_end\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "bound_the_end(0.05)\n"
        "print('ready', flush=True)\n"
        "threading.Event().wait()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cut off" in output
