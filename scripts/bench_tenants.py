"""`scripts/bench tenants`: what large colleges and many colleges cost a server that has nothing to do.

Resident memory is that of the server's one process, processor time that of this process and of the
PostgreSQL that it drives, backends that have ended included. Both are read from `/proc`, so this
runs on Linux only.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import uvloop

from api.answers import renderer
from ledger.database import Database
from ledger.installation import Installation, open_installation
from ledger.lane import Delivery, Lane
from ledger.seal import Origin
from ledger.settings import Settings, TenantSettings
from ledger.zoho.entities import ENTITIES
from ledger.zoho.payloads import read_payload, records_of
from ledger.zoho.records import Reader
from projections.followers import Followers
from projections.inline import InlineState
from projections.summary import Summary
from scripts.bench import Process, bodies, student
from scripts.bench_past import settle

BATCH = 1_000
AT_ONCE = 8
SETTLE_SECONDS = 15
"""After a start and after a load, before anything is counted: what runs once is not idle."""
_TICKS = os.sysconf("SC_CLK_TCK")


def _children(of: int) -> Iterable[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it has ended
            if parent == of:
                yield int(entry.name)


def _ticks(pid: int, *, with_ended_children: bool = False) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(int(field) for field in fields[11 : 15 if with_ended_children else 13])


def resident(pid: int) -> float:
    """Megabytes of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no VmRSS")


class Watched:
    """A server of the product on some LEDGER_HOME, and how long it took to come up."""

    def __init__(self, home: Path) -> None:
        started = time.perf_counter()
        self._server = Process(home, "scripts.cli", "serve", "--port", "0")
        self.serving = time.perf_counter() - started
        self.url = f"http://127.0.0.1:{self._server.port}"
        with httpx.Client(transport=httpx.HTTPTransport(retries=20), timeout=120) as client:
            client.get(f"{self.url}/v1/health").raise_for_status()
        self.healthy = time.perf_counter() - started
        self._pid = self._server.process.pid
        self._postmaster = int((home / "pgdata" / "postmaster.pid").read_text().split()[0])

    @property
    def resident(self) -> float:
        """Megabytes."""
        return resident(self._pid)

    def _cpu(self) -> tuple[int, int]:
        backends = sum(_ticks(pid) for pid in _children(self._postmaster))
        return _ticks(self._pid), backends + _ticks(self._postmaster, with_ended_children=True)

    def busy(self, seconds: float, probe_every: float | None = None) -> tuple[float, float]:
        """Shares of one core in percent that the server and its PostgreSQL use in so many seconds;
        `ready` is asked every so many seconds, if at all.
        """
        before, started = self._cpu(), time.monotonic()
        while (left := started + seconds - time.monotonic()) > 0:
            time.sleep(min(left, probe_every or left))
            if probe_every is not None:
                httpx.get(f"{self.url}/v1/ready", timeout=60)
        passed = time.monotonic() - started
        server, database = (a - b for a, b in zip(self._cpu(), before, strict=True))
        return server / _TICKS / passed * 100, database / _TICKS / passed * 100

    def stop(self) -> None:
        """SIGTERM."""
        self._server.stop()


def _say(what: str, figure: str) -> None:
    print(f"{what:64} {figure}", flush=True)


def idle(home: Path, named: str, seconds: float) -> None:
    """Starts a server, and says what it costs while nobody wants anything of it."""
    server = Watched(home)
    try:
        _say(
            f"{named}: until `serving on`, until the first answer",
            f"{server.serving:.1f} s, {server.healthy:.1f} s",
        )
        _share(f"{named}: from its first second on", server.busy(SETTLE_SECONDS))
        _share(f"{named}: idle for {seconds:.0f} s", server.busy(seconds))
        _say(f"{named}: memory", f"{server.resident:.0f} MB")
        started = time.perf_counter()
        httpx.get(f"{server.url}/v1/ready", timeout=600).raise_for_status()
        _say(f"{named}: the first `ready`", f"{time.perf_counter() - started:.2f} s")
        _share(f"{named}: behind it", server.busy(SETTLE_SECONDS))
        _share(f"{named}: `ready` asked every 5 s, {seconds:.0f} s", server.busy(seconds, 5))
        _say(f"{named}: memory", f"{server.resident:.0f} MB")
    finally:
        server.stop()


def _share(what: str, shares: tuple[float, float]) -> None:
    server, database = shares
    _say(what, f"{server + database:.1f} % of a core ({server:.1f} server, {database:.1f} PostgreSQL)")


def large(home: Path, colleges: int, students: int, quiet: float) -> None:
    """Colleges of many students, sent in batches, one college after the other."""
    server = Watched(home)
    try:
        time.sleep(SETTLE_SECONDS)
        _say("memory at first", f"{server.resident:.0f} MB")
        with httpx.Client(base_url=server.url, timeout=120) as client:
            for number in range(colleges):
                started = time.perf_counter()
                for body in bodies(student, students // BATCH, BATCH):
                    headers = {"X-Tenant-ID": f"large-{number}", "content-type": "application/json"}
                    client.post("/v1/sync/students", content=body, headers=headers).raise_for_status()
                took = time.perf_counter() - started
                _say(
                    f"memory with {number + 1} colleges of {students:,} students",
                    f"{server.resident:.0f} MB ({students / took:,.0f} /s)",
                )
        time.sleep(quiet)
        _say(f"memory {quiet:.0f} s later", f"{server.resident:.0f} MB")
    finally:
        server.stop()


async def found(home: Path, tenants: int) -> None:
    """Many colleges with a few records each, by the product's own append."""
    installation = await open_installation(Settings(home=home))
    database = installation.database(patient=True)
    await database.open()
    names = iter([f"college-{number:05}" for number in range(tenants)])

    async def some() -> None:
        for name in names:
            await _found(installation, database, name)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    await settle(installation)
    await database.close()
    installation.close()


_FEW: dict[str, list[dict[str, Any]]] = {
    "students": [{"id": f"S{n}", "Last_Name": "Nasser", "Status": "Active"} for n in range(3)],
    "classes": [{"id": "C1", "Class_Name": "Maths", "status": "Approved"}],
    "enrollments": [{"id": f"E{n}", "Student": f"S{n}", "Class": "C1"} for n in range(3)],
}


async def _found(installation: Installation, database: Database, name: str) -> None:
    render = renderer(ENTITIES, moodle_enabled=False)
    lane = Lane(name, database, installation.master_key, ENTITIES, InlineState(ENTITIES), render)
    reader = Reader(ENTITIES, TenantSettings())
    for plural, raws in _FEW.items():
        entity = ENTITIES.by_plural[plural].name
        payload = read_payload(json.dumps(raws).encode(), "application/json", b"", reader.zoho_names(entity))
        records = list(records_of(payload, reader, entity))
        origin = Origin(name, "sync", uuid.uuid4().hex)
        key = sha256(origin.delivery_id.encode())
        await lane.submit(Delivery(plural, key.hexdigest(), True, key.digest(), origin, records))
    await lane.close()
    await Followers(database, name, [Summary()]).catch_up(name)  # else the server has work at its start


def main(arguments: list[str]) -> None:
    """`scripts/bench tenants [--tenants N] [--colleges N] [--students N] [--idle SECONDS] [--quiet SECONDS]`.
    `--home DIR` is a ledger that has so many tenants already: only its idle server is looked at.
    """
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    tenants, colleges = int(options.get("--tenants", 10_000)), int(options.get("--colleges", 3))
    students, seconds = int(options.get("--students", 50_000)), float(options.get("--idle", 30))
    quiet = float(options.get("--quiet", 90))
    if "--home" in options:
        idle(Path(options["--home"]), f"{tenants:,} tenants", seconds)
        return
    home = Path(tempfile.mkdtemp(prefix="slb-", dir="/tmp"))
    home.chmod(0o711)
    try:
        idle(home, "1 tenant", seconds)
        large(home, colleges, students, quiet)
        uvloop.run(found(home, tenants))
        idle(home, f"{tenants:,} tenants", seconds)
    finally:
        shutil.rmtree(home, ignore_errors=True)
