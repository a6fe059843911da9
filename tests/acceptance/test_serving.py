"""When a server says that it serves, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from ledger.embedded import Embedded
from ledger.installation import open_installation
from ledger.settings import Settings
from scripts.processes import OneProcess
from scripts.server import bind, config_for, url_of
from tests.harness import Server, run_command
from tests.moodle.persistent import until


@pytest.fixture
async def superuser(own_home: Path) -> AsyncIterator[asyncpg.Connection]:
    """The superuser of a ledger of its own, which no server has opened yet."""
    installation = await open_installation(Settings(home=own_home))
    embedded = Embedded(own_home)
    connection = await asyncpg.connect(embedded.dsn(), password=embedded.password())
    yield connection
    await connection.close()
    installation.close()


def processes(server: Server) -> set[int]:
    """The processes below a server that serve."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(c) for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()}


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_process_that_cannot_open_the_ledger(
    own_home: Path, superuser: asyncpg.Connection, workers: str
) -> None:
    """The start opens the ledger, and the process that would serve cannot: one line that says why,
    exit 1, and nobody has heard that it serves.
    """
    await superuser.execute("alter role sync_ledger_app connection limit 1")  # a server has two pools
    done = run_command(own_home, "serve", "--port", "0", "--workers", workers)
    assert done.returncode == 1
    assert done.stderr == (
        'sync-ledger: TooManyConnectionsError: too many connections for role "sync_ledger_app"\n'
    )


async def test_the_order_of_things() -> None:
    """First the ledger is open, then requests are answered, then it is said."""
    happened: list[str] = []
    opening = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await opening.wait()
            happened.append("open")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    sockets = bind("127.0.0.1", 0)
    server = OneProcess(config_for(app, 1), lambda: happened.append("said"))
    serving = asyncio.create_task(server.serve(sockets))
    async with httpx.AsyncClient() as client:
        asked = asyncio.create_task(client.get(url_of(sockets[0])))
        await asyncio.sleep(0)
        assert happened == []
        opening.set()
        assert (await asked).status_code == 204
        assert happened == ["open", "said"]
    server.should_exit = True
    await serving


def test_the_first_start(own_home: Path) -> None:
    """What a start says, and nothing else: an empty ledger has nothing to rebuild."""
    made = ["starting the embedded PostgreSQL", "made the master key", "made the signing key", "serving on"]
    with Server(own_home) as server:
        assert [line.startswith(begin) for line, begin in zip(server.log, made, strict=True)] == [True] * 4
        assert server.stop() == 0


async def test_a_process_that_ended_is_replaced(own_home: Path, superuser: asyncpg.Connection) -> None:
    """One of two is killed while no new connection can be had: the other one serves, the reason is
    said, and when it is over there are two again.
    """
    with Server(own_home, "--workers", "2") as server, server.client("default") as client:
        first, second = processes(server)
        await superuser.execute("alter role sync_ledger_app connection limit 0")
        os.kill(first, signal.SIGKILL)
        await until(lambda: any("TooManyConnectionsError" in line for line in server.log))
        assert client.get("/v1/health").status_code == 200
        await superuser.execute("alter role sync_ledger_app connection limit -1")
        await until(lambda: len(processes(server)) == 2)
        os.kill(second, signal.SIGKILL)
        await until(lambda: _is_ready(server))
        assert server.stop() == 0
    assert not any("Traceback" in line for line in server.log)


def _is_ready(server: Server) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{server.url}/v1/ready", timeout=5).status_code == 200
    return False


@pytest.mark.soak
async def test_a_process_that_hangs_at_the_end(own_home: Path) -> None:
    """One of two stands still: the server ends all the same."""
    with Server(own_home, "--workers", "2") as server:
        os.kill(min(processes(server)), signal.SIGSTOP)
        assert server.stop() == 0
