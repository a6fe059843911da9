"""The largest bodies over HTTP: others are served meanwhile, and whoever stops the server stops all of it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts import bench_loop
from tests.harness import Server, results

NAMES = [
    {"id": f"S{i}", "Name": f"N{i}", "First_Name": "Layla", "Rows": [["x"] * 20] * 20} for i in range(2_000)
]
LARGE = json.dumps({"data": NAMES}).encode()


def readers_of(process: int) -> list[int]:
    """The processes that read bodies for a server (Linux)."""
    found = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        found += (thread / "children").read_text().split()
    return [int(child) for child in found if b"anyio" in Path(f"/proc/{child}/cmdline").read_bytes()]


def in_thread(work: Any) -> tuple[threading.Thread, list[Any]]:
    """Starts it; the list gets what it returns."""
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    return thread, done


def test_interrupted_while_it_reads(own_home: Path) -> None:
    """Ctrl-C reaches all processes of the terminal: what was sent is read, recorded and answered."""
    with Server(own_home) as server, server.client("default") as client:
        assert len(results(client.post("/v1/sync/students", content=LARGE))) == len(NAMES)
        [reader] = readers_of(server.process.pid)
        thread, done = in_thread(lambda: client.post("/v1/sync/students", content=LARGE + b" "))
        before = Path(f"/proc/{reader}/stat").read_text()
        while Path(f"/proc/{reader}/stat").read_text() == before:
            time.sleep(0.001)
        for process in (reader, server.process.pid):
            os.kill(process, signal.SIGINT)
        assert server.process.wait(timeout=15) == 0
        thread.join()
        assert {r["status"] for r in results(done[0])} == {"UNCHANGED"}
        assert not Path(f"/proc/{reader}").exists()


def test_a_server_that_dies_leaves_no_reader(own_home: Path) -> None:
    """Killed at any moment, nothing of it goes on."""
    with Server(own_home) as server, server.client("default") as client:
        client.post("/v1/sync/students", content=LARGE).raise_for_status()
        [reader] = readers_of(server.process.pid)
        thread, _ = in_thread(lambda: _lost(client))
        server.kill()
        thread.join()
        while Path(f"/proc/{reader}/cmdline").exists() and Path(f"/proc/{reader}/cmdline").read_bytes():
            time.sleep(0.01)


def _lost(client: httpx.Client) -> None:
    with pytest.raises(httpx.HTTPError):
        client.post("/v1/sync/students", content=LARGE + b" ")


def test_others_are_served_meanwhile(own_home: Path) -> None:
    """The slowest answer to anybody else takes a small part of the time that one large record takes."""
    body = bench_loop.one(f'"Rows":[{bench_loop.listed("{}", 3 * 2**20)}]')
    with Server(own_home) as server, server.client("default") as client, server.client("default") as other:
        client.post("/v1/sync/students", content=LARGE).raise_for_status()  # the reader is there
        started = time.monotonic()
        thread, done = in_thread(lambda: client.post("/v1/sync/students", content=body))
        slowest = 0.0
        while thread.is_alive():
            asked = time.monotonic()
            other.get("/v1/health").raise_for_status()
            slowest = max(slowest, time.monotonic() - asked)
        whole = time.monotonic() - started
        assert len(results(done[0])) == 1
        assert slowest < whole / 4


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_nobody_waits_for_100_ms(own_home: Path) -> None:
    """No case of the benchmark takes the loop for so long without a turn for others."""
    found = bench_loop.run(own_home, list(bench_loop.CASES))
    assert {name: figures for name, figures in found.items() if figures["step"] > 0.1} == {}
