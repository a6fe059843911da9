"""`scripts/bench past`: what it costs to ask a long past, to rebuild it and to prove it.

The ledger is seeded by the product's own append. A record has five events: NEW, then
UNCHANGED, UPDATED, UNCHANGED, UPDATED; ten of twenty records are enrollments, eight
students, one a class, one a program. Everything is measured at the small size and at
the large one.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx

from api.answers import renderer
from ledger.database import ConnectionSettings, Database, connect
from ledger.installation import Installation, open_installation
from ledger.lane import Delivery, Lane
from ledger.seal import Origin
from ledger.settings import Settings, TenantSettings
from ledger.store import EVENT_COLUMNS
from ledger.zoho.entities import ENTITIES
from ledger.zoho.payloads import read_payload, records_of
from ledger.zoho.records import Reader
from projections.inline import InlineState
from projections.queries import SQL
from projections.state import Row, WholeView
from scripts.output import Meter

TENANT = "past"
BLOCK = 20_000  # records whose five events lie among each other's
BATCH = 1_000
ASKED = 400  # queries of each kind


def record(number: int, version: int) -> tuple[str, dict[str, Any]]:
    """One of a record's five events, about 1 KB as Zoho sends it."""
    place = number % 20
    base = number - place
    common = {
        "Modified_Time": f"2026-0{version + 1}-11T14:05:09+03:00",
        "Description": "x" * 640,
        "Owner": {"name": "Registry", "id": "7012345000001000001", "email": "registry@college.example"},
        "$approved": True,
    }
    status = ("Active", "Late")[version // 2 % 2] if version < 4 else "Active again"
    if place < 8:
        return "students", {
            "id": f"S{number}", "Name": f"S26B{number}", "First_Name": "Layla", "Last_Name": "Nasser",
            "Academic_Email": f"s{number}@college.example", "Status": status, **common,
        }  # fmt: skip
    if place == 8:
        return "classes", {"id": f"C{number}", "Class_Name": "Programming", "Class_Status": status, **common}
    if place == 9:
        return "programs", {
            "id": f"P{number}",
            "Product_Name": "BTEC",
            "Price": "199.5",
            "Status": status,
            **common,
        }
    student = base + random.Random(number).randrange(8)
    return "enrollments", {
        "id": f"E{number}", "Student": {"id": f"S{student}"}, "BTEC_Class": {"id": f"C{base + 8}"},
        "status": status, **common,
    }  # fmt: skip


class Seed:
    """Fills the ledger through a lane."""

    def __init__(self, installation: Installation, database: Database) -> None:
        self._reader = Reader(ENTITIES, TenantSettings())
        render = renderer(ENTITIES, moodle_enabled=False)
        self.lane = Lane(
            TENANT, database, installation.master_key, ENTITIES, InlineState(ENTITIES), render, ttl_seconds=0
        )
        self.records = 0

    async def fill(self, events: int, meter: Meter) -> None:
        """Grows the ledger to so many events."""
        first = self.records
        while self.records * 5 < events:
            size = min(BLOCK, events // 5 - self.records)
            for version in range(5):
                for start in range(self.records, self.records + size, BATCH):
                    numbers = range(start, min(start + BATCH, self.records + size))
                    by_plural: dict[str, list[dict[str, Any]]] = {}
                    for number in numbers:
                        plural, raw = record(number, version)
                        by_plural.setdefault(plural, []).append(raw)
                    for plural, raws in by_plural.items():
                        await self.post(plural, raws)
                    done = 5 * (self.records - first) + version * size + (numbers.stop - self.records)
                    meter.tell(TENANT, 5 * first + done, events)
            self.records += size

    async def post(self, plural: str, raws: list[dict[str, Any]]) -> None:
        """Appends records as one delivery."""
        body = json.dumps({"data": raws}).encode()
        entity = ENTITIES.by_plural[plural]
        payload = read_payload(body, "application/json", b"", self._reader.zoho_names(entity.name))
        records = list(records_of(payload, self._reader, entity.name))
        origin = Origin(TENANT, "sync", uuid.uuid4().hex)
        await self.lane.submit(
            Delivery(plural, origin.delivery_id, True, sha256(body).digest(), origin, records, remember=False)
        )

    async def close(self) -> None:
        """Ends the lane."""
        await self.lane.close()


def command(home: Path, *arguments: str) -> tuple[float, float, bytes]:
    """Seconds, peak resident MB and (where it is JSON) the output of one `sync-ledger` command."""
    started = time.perf_counter()
    with Path(os.devnull).open("wb") as nowhere, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.cli", *arguments],
            cwd=Path(__file__).resolve().parent.parent,
            env={**os.environ, "LEDGER_HOME": str(home)},
            stdout=said if "--json" in arguments else nowhere,
            stderr=nowhere,
        )
        peak = 0
        while process.poll() is None:  # `ru_maxrss` would begin at this process's own size
            peak = max(peak, _resident(process.pid))
            time.sleep(0.02)
        seconds = time.perf_counter() - started
        said.seek(0)
        output = said.read()
    if process.returncode != 0:
        raise RuntimeError(f"sync-ledger {' '.join(arguments)} ended with {process.returncode}")
    return seconds, peak / 1024, output


def _resident(pid: int) -> int:
    """The most KB that a process has held so far (Linux)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


async def raw_read(database: Database) -> float:
    """Rows a second of a keyset read of every event, nothing done with them."""
    rows, after, started = 0, 0, time.perf_counter()
    columns = ", ".join(EVENT_COLUMNS)
    while True:
        async with database.transaction(TENANT) as connection:
            page = await connection.fetch(
                f"select {columns} from ledger.events where tenant_id = $1 and position > $2"
                " order by position limit 5000",
                TENANT,
                after,
            )
        if not page:
            return rows / (time.perf_counter() - started)
        rows += len(page)
        after = page[-1]["position"]


def ask(url: str, records: int, events: int) -> dict[str, float]:
    """Median milliseconds of each kind of question over HTTP, records and moments at random."""
    chance = random.Random(7)
    times: dict[str, list[float]] = {}
    with httpx.Client(base_url=url, headers={"X-Tenant-ID": TENANT}, timeout=60) as client:
        for _ in range(ASKED):
            number = chance.randrange(records // 20) * 20 + chance.randrange(10, 20)
            then = chance.randrange(events // 20, events)
            for name, path in (
                ("one record's history", f"/v1/audit/records/enrollment/E{number}"),
                ("one record as of then", f"/v1/enrollments/E{number}?at_position={then}"),
                ("explain", f"/v1/audit/explain/enrollments/E{number}"),
                (
                    "a page as of then (100 enrollments)",
                    f"/v1/enrollments?at_position={then}&cursor={_cursor(number)}",
                ),
            ):
                started = time.perf_counter()
                response = client.get(path)
                times.setdefault(name, []).append(time.perf_counter() - started)
                if response.status_code not in (200, 404):
                    raise RuntimeError(response.text)
    return {name: statistics.median(values) * 1000 for name, values in times.items()}


def _cursor(number: int) -> str:
    from api.queries import cursor_of

    return cursor_of(f"E{number}")


def state_megabytes(records: int) -> float:
    """What the rows of so many records weigh in memory, in a process that holds nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.bench_past", str(records)],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def _hold_state(records: int) -> None:
    """Prints how many MB the rows and links of so many enrollments take."""
    before = _resident(os.getpid())
    view = WholeView()
    for i in range(records):
        fields: dict[str, str | None] = {
            "student_zoho_id": f"S{i}", "class_zoho_id": f"C{i}", "status": f"Active{i}"
        }  # fmt: skip
        row = Row(
            "enrollment", f"E{i}", "active", 5, 3, i, i, i, i, i, None, None, (),
            os.urandom(16), os.urandom(27), os.urandom(16), fields,
        )  # fmt: skip
        view.rows[row.name] = row
        view.dependents.setdefault(("student", f"S{i}"), set()).add(row.name)
    print((_resident(os.getpid()) - before) / 1024)


async def settle(installation: Installation) -> None:
    """Does at once what the database would do in the background after so many inserts."""
    assert installation.embedded is not None
    dsn, password = installation.embedded.dsn(), installation.embedded.password()
    admin = await connect(ConnectionSettings(dsn, password=password, command_timeout=600))
    await admin.execute("vacuum (analyze)")
    await admin.execute("checkpoint")
    await admin.close()


async def measure(home: Path, seed: Seed, database: Database, events: int) -> dict[str, float]:
    """Everything at one size."""
    from scripts.bench import Process

    found: dict[str, float] = {}
    server = Process(home, "scripts.cli", "serve", "--port", "0")
    try:
        found |= await asyncio.to_thread(ask, f"http://127.0.0.1:{server.port}", seed.records, events)
    finally:
        server.stop()
    found["raw keyset read /s"] = await raw_read(database)
    for name, arguments in (
        ("rebuild", ("replay", "--tenant", TENANT, "--json")),
        ("check", ("replay", "--check", "--tenant", TENANT)),
        ("export", ("audit", "export", "--tenant", TENANT)),
        ("verify", ("verify", "--tenant", TENANT)),
    ):
        seconds, megabytes, said = await asyncio.to_thread(command, home, *arguments)
        if name == "rebuild":  # to the switch, as it says itself
            seconds = json.loads(said)["tenants"][0]["seconds"]
        found[f"{name} /s"], found[f"{name} MB"] = events / seconds, megabytes
    found["state MB"] = await asyncio.to_thread(state_megabytes, seed.records)
    return found


async def run(sizes: list[int], home: Path) -> None:
    """Seeds, measures and prints."""
    installation = await open_installation(Settings(home=home))
    database = installation.database()
    await database.open()
    seed = Seed(installation, database)
    async with database.transaction(TENANT) as connection:
        head = await connection.fetchrow(SQL["head"], TENANT)
    seed.records = head["position"] // 5 if head else 0
    sizes = [size for size in sizes if size >= 5 * seed.records]  # a home that is seeded already
    results: list[dict[str, float]] = []
    for size in sizes:
        started = time.perf_counter()
        with Meter("seeding") as meter:
            await seed.fill(size, meter)
        print(
            f"seeded to {size:,} events in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True
        )
        await settle(installation)
        results.append(await measure(home, seed, database, size))
    await seed.close()
    await database.close()
    installation.close()
    print(f"{'what':42}" + "".join(f"{size:>14,}" for size in sizes) + "  aim")
    for name in results[0]:
        values = "".join(f"{result[name]:14,.1f}" for result in results)
        print(f"{name:42}{values}  {AIMS.get(name, '')}")


AIMS = {
    "one record's history": "< 5 ms, within 1.5x",
    "one record as of then": "< 5 ms, within 1.5x",
    "explain": "< 5 ms, within 1.5x",
    "a page as of then (100 enrollments)": "< 50 ms, within 1.5x",
    "rebuild /s": ">= 60,000",
    "rebuild MB": "<= 300 + state",
    "export /s": ">= 60,000",
    "export MB": "within 1.2x",
    "verify /s": ">= 150,000",
    "verify MB": "within 1.2x",
}


def main(arguments: list[str]) -> None:
    """`scripts/bench past [--events 1000000] [--home DIR]`."""
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    events = int(options.get("--events", 1_000_000))
    home = Path(options.get("--home") or tempfile.mkdtemp(prefix="slb-", dir="/tmp"))
    home.chmod(0o711)
    asyncio.run(run([events // 10, events], home))


if __name__ == "__main__":
    _hold_state(int(sys.argv[1]))
