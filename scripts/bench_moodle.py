"""`scripts/bench moodle`: how fast a Moodle comes to the wanted state, and how soon after a 200.

Moodle is the double of the tests, as a process of its own that costs 30 ms a call and 8 ms
an item (a real 4.5 took 30 ms and 4 to 14 ms). The ledger is filled by the product's own append,
then a worker works off everything that is queued.
"""

from __future__ import annotations

import asyncio
import collections
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from ledger.installation import Installation, open_installation
from ledger.settings import MoodleSettings, Secret, Settings, TenantSettings
from projections.moodle.worker import Worker
from scripts.bench_past import Seed

ROOT = Path(__file__).resolve().parent.parent
CALL_MS, ITEM_MS = 30, 8
STUDENTS, COURSES, SEATS_EACH = 2_000, 100, 5
LATE = 100  # enrollments that come one by one
CONCURRENCY, BATCH = 2, 100
TENANT = "past"


class Double:
    """The double as a process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.moodle.double", "--port", "0", "--workers-limit", "4"]
        costs = ["--call-ms", str(CALL_MS), "--item-ms", str(ITEM_MS)]
        self._process = subprocess.Popen([*command, *costs], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        said = json.loads(self._process.stdout.readline())
        self.url, self.token = said["url"], said["token"]
        self._http = httpx.Client(base_url=self.url, timeout=60)

    def post(self, path: str, value: Any) -> None:
        """Changes its state."""
        self._http.post(f"/_double/{path}", json=value).raise_for_status()

    def get(self, path: str) -> Any:
        """Its state, or the calls that it got."""
        return self._http.get(f"/_double/{path}").json()

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()


def main() -> None:
    """Measures and prints."""
    home = Path(tempfile.mkdtemp(prefix="slm-", dir="/tmp"))
    home.chmod(0o711)
    double = Double()
    try:
        asyncio.run(_opened(home, double))
        _late(home, double)
    finally:
        double.close()
        shutil.rmtree(home, ignore_errors=True)


async def _opened(home: Path, double: Double) -> None:
    installation = await open_installation(Settings(home=home))
    try:
        await _bulk(installation, double)
    finally:
        installation.close()


async def _bulk(installation: Installation, double: Double) -> None:
    double.post(
        "courses",
        [{"fullname": f"Course {n}", "shortname": f"K{n}", "idnumber": f"C{n}"} for n in range(COURSES)],
    )
    database = installation.database(size=4, patient=True)
    await database.open()
    seed = Seed(installation, database)
    await seed.post("students", [_student(n) for n in range(STUDENTS)])
    await seed.post("classes", [{"id": f"C{n}", "Class_Name": f"Class {n}"} for n in range(COURSES)])
    seats = [(s, (s + 17 * k) % COURSES) for s in range(STUDENTS) for k in range(SEATS_EACH)]
    await seed.post(
        "enrollments",
        [{"id": f"E{n}", "Student": f"S{s}", "Class": f"C{c}"} for n, (s, c) in enumerate(seats)],
    )
    settings = TenantSettings(
        moodle=MoodleSettings(
            enabled=True,
            base_url=double.url,
            token=Secret(double.token),
            batch=BATCH,
            concurrency=CONCURRENCY,
        )
    )
    worker = Worker(database, TENANT, settings, seed.lane)
    print(
        f"{STUDENTS:,} students, {COURSES} courses, {len(seats):,} enrolments; {CALL_MS} ms a call, {ITEM_MS} ms an item,"
    )
    print(f"batches of {BATCH}, {CONCURRENCY} calls at once")
    started = time.perf_counter()
    await worker.settle()
    seconds = time.perf_counter() - started
    await worker.close()
    taken = [e for e in double.get("state")["enrolments"] if not e["suspended"]]
    if len(taken) != len(seats):
        raise RuntimeError(f"{len(taken)} of {len(seats)} seats")
    calls = double.get("calls")
    by_function: dict[str, list[int]] = collections.defaultdict(list)
    for call in calls:
        by_function[call["function"]].append(call["items"])
    writes = _minimum(STUDENTS) + _minimum(len(seats))
    asked = 2 * _minimum(STUDENTS) + COURSES * CALL_MS / 1000
    for function, items in sorted(by_function.items()):
        print(f"  {len(items):5} calls {sum(items):7,} items  {function}")
    print(f"{'seconds':52}{seconds:8.1f}")
    for what, least in (
        ("the writes alone, in full batches", writes),
        ("with the look-ups that adoption needs", writes + asked),
    ):
        print(
            f"{'minimum: ' + what:52}{least / CONCURRENCY:8.1f}   {seconds * CONCURRENCY / least:.2f}x (aim 1.3x)"
        )
    started = time.perf_counter()
    worker = Worker(database, TENANT, settings, seed.lane)
    await worker.settle()
    await worker.close()
    print(f"{'a new worker that finds nothing to do, seconds':52}{time.perf_counter() - started:8.1f}")
    await seed.close()
    await database.close()


def _minimum(items: int) -> float:
    """Seconds of Moodle's time for so many items in full batches."""
    return -(-items // BATCH) * CALL_MS / 1000 + items * ITEM_MS / 1000


def _student(number: int) -> dict[str, Any]:
    return {
        "id": f"S{number}", "First_Name": "Layla", "Last_Name": f"Nasser {number}",
        "Academic_Email": f"s{number}@college.example",
    }  # fmt: skip


def _late(home: Path, double: Double) -> None:
    """Enrollments that come one by one to a server that is idle: from the 200 to Moodle's call."""
    environment = {
        "LEDGER_HOME": str(home), "DEFAULT_TENANT_ID": TENANT, "MOODLE_ENABLED": "true",
        "MOODLE_BASE_URL": double.url, "MOODLE_TOKEN": double.token, "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    command = [sys.executable, "-m", "scripts.cli", "serve", "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = next(line for line in server.stderr if line.startswith("serving on "))
    url = line.split()[2].rstrip(",")
    waits: list[float] = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for number in range(LATE):
            record = {"id": f"L{number}", "Student": f"S{number}", "Class": f"C{(number + 50) % COURSES}"}
            before = len(double.get("calls"))
            client.post("/v1/sync/enrollments", json=record).raise_for_status()
            answered = time.monotonic()
            while True:
                calls = [
                    c for c in double.get("calls")[before:] if c["function"] == "enrol_manual_enrol_users"
                ]
                if calls:
                    break
                time.sleep(0.01)
            waits.append(calls[0]["started"] - answered)
            while client.get(f"/v1/enrollments/L{number}").json()["moodle_status"] != "SYNCED":
                time.sleep(0.01)
    server.terminate()
    server.wait()
    waits.sort()
    print(
        f"from a 200 to the enrolment's call, {LATE} one by one: median {statistics.median(waits) * 1000:.0f} ms, "
        f"p95 {waits[int(LATE * 0.95)] * 1000:.0f} ms (aim < 1000)"
    )
