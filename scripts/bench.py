"""The benchmark: what a durable post costs beside an empty endpoint and a raw insert.

Everything is measured side by side on this machine, in interleaved rounds, and the
medians are printed. Nothing is switched off: chain, sealing, head row, idempotency,
deferral and limits are those of the product, started as the product is.
"""

from __future__ import annotations

import asyncio
import cProfile
import io
import json
import os
import pstats
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import uvloop

from api.answers import renderer
from ledger.database import ConnectionSettings, connect
from ledger.embedded import Embedded
from ledger.installation import open_installation
from ledger.lane import Delivery, Lane
from ledger.seal import Origin
from ledger.settings import Settings, TenantSettings
from ledger.zoho.entities import ENTITIES
from ledger.zoho.payloads import read_payload, records_of
from ledger.zoho.records import Reader
from projections.inline import InlineState

ROOT = Path(__file__).resolve().parent.parent
TENANT = "bench"


class Load(asyncio.Protocol):
    """One keep-alive connection that posts one body after the other."""

    def __init__(self, requests: Iterator[bytes], times: list[float], done: asyncio.Future[None]) -> None:
        self._requests, self._times, self._done = requests, times, done
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        """Sends the first request."""
        self._transport = transport
        self._next()

    def _next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Sends the next request when the answer is complete."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        low = head.lower()
        at = low.index(b"content-length:") + 15
        length = int(low[at:].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        if b" 200 " not in head[:16] and b" 201 " not in head[:16]:
            self._done.set_exception(RuntimeError(self._buffer[:500].decode()))
            return
        self._times.append(time.perf_counter() - self._sent)
        self._buffer = b""
        self._next()


async def _drive(port: int, requests: list[bytes], connections: int) -> tuple[float, list[float]]:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    source = iter(requests)
    futures = [loop.create_future() for _ in range(connections)]
    started = time.perf_counter()
    for future in futures:
        await loop.create_connection(partial(Load, source, times, future), "127.0.0.1", port)
    await asyncio.gather(*futures)
    return time.perf_counter() - started, times


def drive(port: int, requests: list[bytes], connections: int) -> tuple[float, list[float]]:
    """Seconds for all requests, and seconds of each."""
    return uvloop.run(_drive(port, requests, connections))


def request(path: str, body: bytes, tenant: str = TENANT) -> bytes:
    """One POST as bytes."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Tenant-ID: {tenant}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


_COMMON = {
    "Owner": {"name": "Registry", "id": "7012345000001000001", "email": "registry@college.example"},
    "Created_Time": "2026-01-12T09:15:02+03:00",
    "Modified_Time": "2026-02-11T14:05:09+03:00",
    "Record_Status__s": "Available",
    "$approved": True,
    "$state": "save",
    "Tag": [],
}


def program() -> dict[str, Any]:
    """A program record of about 600 bytes, as Zoho sends it."""
    return {
        "id": uuid.uuid4().hex, "Product_Name": "BTEC Level 5 Computing", "Program_Price": 1299.95,
        "Status": "Enabled", "Program_Type": "Level 5", "Program_Major": "IT",
        "Program_Sub_Major": "Software Engineering", "MoodleID": "41", **_COMMON,
    }  # fmt: skip


def student() -> dict[str, Any]:
    """A student record of about 700 bytes, as Zoho sends it."""
    return {
        "id": uuid.uuid4().hex, "Name": "S26B100001", "First_Name": "Layla", "Last_Name": "Nasser",
        "Academic_Email": "layla.nasser@college.example", "Phone_Number": "+962790000000",
        "Status": "Active", "Birth_Date": "2004-05-17", "Nationality": "Jordan",
        "Program": {"name": "BTEC Level 5 Computing", "id": "7012345000001200001"}, **_COMMON,
    }  # fmt: skip


def bodies(make: Callable[[], dict[str, Any]], count: int, size: int = 1) -> list[bytes]:
    """`count` bodies of `size` records."""
    return [json.dumps({"data": [make() for _ in range(size)]}).encode() for _ in range(count)]


class Process:
    """A server of this benchmark, as the product starts it."""

    def __init__(self, home: Path, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env={**os.environ, "LEDGER_HOME": str(home)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("serving on"):
                self.port = int(line.split(",")[0].split(" ")[2].rsplit(":", 1)[1])
                return
            print(line, end="", file=sys.stderr)
        raise RuntimeError(f"{' '.join(command)} did not start")

    def stop(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


async def raw_inserts(dsn: str, password: str, size: int, count: int) -> list[float]:
    """Seconds of each durable insert of `size` stored events by `unnest`: the same bytes,
    into a table like `ledger.events` with its indexes, on one connection.
    """
    connection = await connect(ConnectionSettings(dsn, password=password))
    try:
        rows = await connection.fetch("select * from ledger.events order by position desc limit $1", size)
        columns = list(rows[0].keys())
        types = {
            r["attname"]: r["type"]
            for r in await connection.fetch(
                "select attname, atttypid::regtype::text as type from pg_attribute"
                " where attrelid = 'ledger.events'::regclass and attnum > 0"
            )
        }
        await connection.execute("create schema if not exists bench")
        await connection.execute("create table if not exists bench.events (like ledger.events including all)")
        arrays = ", ".join(f"${i}::{types[c]}[]" for i, c in enumerate(columns, 1))
        statement = await connection.prepare(f"insert into bench.events select * from unnest({arrays})")
        position, stream = columns.index("position"), columns.index("stream")
        values = [list(column) for column in zip(*(tuple(r) for r in rows), strict=True)]
        highest = await connection.fetchval("select coalesce(max(position), 0) from bench.events")
        times = []
        for _ in range(count):
            values[position] = list(range(highest + 1, highest + size + 1))
            values[stream] = [f"raw-{i}" for i in values[position]]
            highest += size
            started = time.perf_counter()
            await statement.fetch(*values)
            times.append(time.perf_counter() - started)
        return times
    finally:
        await connection.close()


async def profile(home: Path, make: Callable[[], dict[str, Any]], plural: str) -> None:
    """Where the time of batches of 100 goes: one lane in this process, without HTTP."""
    installation = await open_installation(Settings(home=home))
    database = installation.database()
    await database.open()
    entity = ENTITIES.by_plural[plural]
    reader = Reader(ENTITIES, TenantSettings())
    render = renderer(ENTITIES, moodle_enabled=False)
    lane = Lane("profile", database, installation.master_key, ENTITIES, InlineState(ENTITIES), render)

    async def post(body: bytes) -> None:
        payload = read_payload(body, "application/json", b"", reader.zoho_names(entity.name))
        records = list(records_of(payload, reader, entity.name))
        digest = sha256(body).digest()
        origin = Origin("profile", "sync", digest.hex()[:32])
        await lane.submit(Delivery(plural, digest.hex(), True, digest, origin, records))

    warm, timed, profiled = bodies(make, 10, 100), bodies(make, 20, 100), bodies(make, 20, 100)
    for body in warm:
        await post(body)
    wall, cpu = time.perf_counter(), time.process_time()
    for body in timed:
        await post(body)
    wall, cpu = (time.perf_counter() - wall) / 20 * 1000, (time.process_time() - cpu) / 20 * 1000
    print(f"\n{plural}, a batch of 100: {wall:.1f} ms, {cpu:.1f} ms of it Python, the rest PostgreSQL")
    with cProfile.Profile() as profiler:
        for body in profiled:
            await post(body)
    out = io.StringIO()
    pstats.Stats(profiler, stream=out).sort_stats("tottime").print_stats(12)
    lines = out.getvalue().splitlines()
    start = next(i for i, line in enumerate(lines) if "ncalls" in line)
    print("\n".join(line.replace(str(ROOT) + "/", "") for line in lines[start:] if line.strip()))
    await lane.close()
    await database.close()
    installation.close()


class Bench:
    """One run of the benchmark: rounds of everything, then the table."""

    def __init__(self, rounds: int, scale: float) -> None:
        self.rounds, self.scale = rounds, scale
        self.figures: dict[str, list[float]] = {}
        self.home = Path(tempfile.mkdtemp(prefix="slb-", dir="/tmp"))
        self.home.chmod(0o711)
        self.embedded = Embedded(self.home)
        self.embedded.start()

    def note(self, name: str, value: float) -> None:
        """One measurement."""
        self.figures.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        """The median of a figure's rounds."""
        return statistics.median(self.figures[name])

    def run(self) -> None:
        """Measures and prints."""
        product = Process(self.home, "scripts.cli", "serve", "--port", "0")
        floor = Process(self.home, "scripts.bench", "--floor")
        try:
            drive(product.port, [request("/v1/sync/programs", b) for b in bodies(program, 500)], 16)
            drive(product.port, [request("/v1/sync/students", b) for b in bodies(student, 500)], 16)
            for number in range(self.rounds):
                print(f"round {number + 1} of {self.rounds}", file=sys.stderr, flush=True)
                self._round(product.port, floor.port)
        finally:
            product.stop()
            floor.stop()
        self._print()
        for plural, make in (("programs", program), ("students", student)):
            uvloop.run(profile(self.home, make, plural))
        self.embedded.stop_using()

    def _round(self, port: int, floor_port: int) -> None:
        many, few = int(6000 * self.scale), int(400 * self.scale)
        for connections, count in ((64, many), (1, few)):
            plain = bodies(program, count)
            seconds, times = drive(floor_port, [request("/floor", b) for b in plain], connections)
            self.note(f"floor {connections}", count / seconds)
            self.note(f"floor {connections} ms", statistics.median(times) * 1000)
            for name, make in (("programs", program), ("students", student)):
                posts = [request(f"/v1/sync/{name}", b) for b in bodies(make, count)]
                seconds, times = drive(port, posts, connections)
                self.note(f"{name} {connections}", count / seconds)
                self.note(f"{name} {connections} ms", statistics.median(times) * 1000)
                self.note(f"{name} {connections} p99", statistics.quantiles(times, n=100)[98] * 1000)
        for size in (100, 1000):
            count = max(int(6000 * self.scale) // size, 3)
            for name, make in (("programs", program), ("students", student)):
                posts = [request(f"/v1/sync/{name}", b) for b in bodies(make, count, size)]
                seconds, _ = drive(port, posts, 1)
                self.note(f"{name} x{size}", count * size / seconds)
                # right behind it, so that the newest stored bytes are of this kind
                raw = self._raw(size, count)
                self.note(f"raw {name} x{size}", count * size / sum(raw))
        self.note("raw 1 ms", statistics.median(self._raw(1, few)) * 1000)

    def _raw(self, size: int, count: int) -> list[float]:
        dsn, password = self.embedded.dsn(), self.embedded.password()
        return uvloop.run(raw_inserts(dsn, password, size, count))

    def _print(self) -> None:
        m = self.median
        print(f"{'what':44} {'figure':>14} {'ratio':>7}  aim")
        print(f"{'floor: empty endpoint, 64 connections':44} {m('floor 64'):10.0f} /s {1:7.2f}")
        for name in ("programs", "students"):
            ratio = m(f"{name} 64") / m("floor 64")
            print(
                f"{f'{name}: single posts, 64 connections':44} {m(f'{name} 64'):10.0f} /s {ratio:7.2f}  >= 0.50"
            )
            print(f"{'  p99':44} {m(f'{name} 64 p99'):10.2f} ms {'':7}  <= 30 ms")
        base = m("floor 1 ms") + m("raw 1 ms")
        print(f"{'floor + one raw durable insert, 1 connection':44} {base:10.2f} ms {1:7.2f}")
        for name in ("programs", "students"):
            value = m(f"{name} 1 ms")
            print(f"{f'{name}: single posts, 1 connection':44} {value:10.2f} ms {value / base:7.2f}  <= 2.20")
        for size in (100, 1000):
            for name, aim in (("programs", "0.30"), ("students", "0.20")):
                raw, ours = m(f"raw {name} x{size}"), m(f"{name} x{size}")
                print(f"{f'raw unnest of the same bytes, {size} a time':44} {raw:10.0f} /s {1:7.2f}")
                aimed = f">= {aim}" if size == 100 else ""
                print(f"{f'{name}: batches of {size}':44} {ours:10.0f} /s {ours / raw:7.2f}  {aimed}")


def serve_floor() -> None:
    """The floor: an empty Litestar endpoint under the product's server and settings."""
    from litestar import Litestar, Request, post

    from scripts import server

    @post("/floor", status_code=200)
    async def empty(request: Request[Any, Any, Any]) -> dict[str, str]:
        await request.body()
        return {"status": "success"}

    sockets = server.bind("localhost", 0)
    server.tell(f"serving on {server.url_of(sockets[0])}, ")
    server.run(server.config_for(Litestar([empty], openapi_config=None), 1), sockets)


def main() -> None:
    """`scripts/bench [--rounds N] [--scale X]`."""
    if "--floor" in sys.argv:
        serve_floor()
        return
    if "--help" in sys.argv or "-h" in sys.argv:
        print(
            "usage: scripts/bench [--rounds 5] [--scale 1.0]        what a durable post costs\n"
            "       scripts/bench past [--events 1000000]           what asking a long past costs\n"
            "       scripts/bench moodle                            how fast a Moodle is filled\n"
            "       scripts/bench tenants [--tenants 10000]         what many and large colleges cost\n"
            "       scripts/bench loop [WORD...]                    how long large requests keep others waiting\n\n"
            "example: scripts/bench --rounds 3"
        )
        return
    if sys.argv[1:2] == ["past"]:
        from scripts import bench_past

        bench_past.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["loop"]:
        from scripts import bench_loop

        bench_loop.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["moodle"]:
        from scripts import bench_moodle

        bench_moodle.main()
        return
    if sys.argv[1:2] == ["tenants"]:
        from scripts import bench_tenants

        bench_tenants.main(sys.argv[2:])
        return
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    bench = Bench(int(options.get("--rounds", 5)), float(options.get("--scale", 1)))
    try:
        bench.run()
    finally:
        shutil.rmtree(bench.home, ignore_errors=True)


if __name__ == "__main__":
    main()
