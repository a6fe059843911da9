"""Processes that work on a Moodle are killed at named points.

The points are reached with a double that holds the answer to a chosen call, or with a lock that
holds a report. After each crash another process goes on, and Moodle ends at the wanted state:
nothing is there twice, nothing is left to do, and the ledger replays to the same rows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.harness import ROOT, Ledger, Server
from tests.moodle.college import student
from tests.moodle.double import MoodleDouble
from tests.moodle.faults import Fault
from tests.moodle.outcomes import told, written
from tests.moodle.persistent import Persistent, moodle_environment, until

BEFORE, AFTER = Fault.timeout_before, Fault.timeout_after

POINTS = {
    "before accounts are made": ("core_user_create_users", BEFORE, 1),
    "after accounts were made": ("core_user_create_users", AFTER, 1),
    "between two batches of accounts": ("core_user_create_users", BEFORE, 2),
    "after an account was changed": ("core_user_update_users", AFTER, 1),
    "after a course was made": ("core_course_create_courses", AFTER, 1),
    "before a seat is suspended": ("enrol_manual_enrol_users", BEFORE, 1),
    "after a seat was suspended": ("enrol_manual_enrol_users", AFTER, 1),
    "before seats are taken": ("enrol_manual_enrol_users", BEFORE, 2),
    "after seats were taken": ("enrol_manual_enrol_users", AFTER, 2),
}
"""The function, whether its call is carried out, and which of its calls it is."""
WHOLE = [
    "between two batches of accounts",
    "after seats were taken",
    *(pytest.param(point, marks=pytest.mark.soak) for point in POINTS if point.startswith("after a")),
]
"""The points at which the commands for a whole Moodle are killed."""


@contextmanager
def command(home: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`sync-ledger` as a process, killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "LEDGER_HOME": str(home), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def college(ledger: Ledger, moodle: MoodleDouble) -> Any:
    """A college in which there is something to do of every kind."""
    college = Persistent(ledger, moodle, create_courses=True)
    await ledger.post("students", *(student(f"S{n}") for n in (1, 2)))
    await ledger.post("classes", {"id": "C1", "Class_Name": "C1"})
    await ledger.post("enrollments", *({"id": f"E{n}", "Student": f"S{n}", "Class": "C1"} for n in (1, 2)))
    await college.through()
    await ledger.post("enrollments", {"id": "E1", "status": "Withdrawn"})
    await ledger.post("students", {"id": "S2", "Last_Name": "Changed"}, *map(student, NEW))
    await ledger.post("classes", {"id": "C2", "Class_Name": "C2"})
    await ledger.post("enrollments", *({"id": f"E{s}", "Student": s, "Class": "C2"} for s in NEW))
    moodle.calls.clear()
    yield college
    moodle.let_go()
    await college.lasting.close()


NEW = [f"N{number}" for number in range(5)]


async def check(college: Persistent) -> None:
    """Moodle is as wanted, and the ledger knows it."""
    assert college.accounts() == Counter(["S1", "S2", *NEW])
    assert college.seats() == {
        ("C1", "S1"): "suspended",
        ("C1", "S2"): "active",
        **{("C2", s): "active" for s in NEW},
    }
    assert college.user("S2").lastname == "Changed"
    assert await college.is_settled()
    await college.check()


async def time_passes(admin: asyncpg.Connection, tenant: str) -> None:
    """The leases of those who died run out."""
    await admin.execute("delete from ledger.leases where tenant_id = $1", tenant)


def environment(tenant: str, moodle: MoodleDouble) -> dict[str, str]:
    """Small calls, one at a time, for whose answers a process waits long."""
    return moodle_environment(tenant, moodle, create_courses=True, batch=2, concurrency=1, timeout=200)


@pytest.mark.parametrize("point", POINTS)
async def test_worker_killed(
    home: Path, admin: asyncpg.Connection, college: Persistent, moodle: MoodleDouble, point: str
) -> None:
    """SIGKILL around a call, its outcome reported or not: the next worker ends where this one would have."""
    function, fault, nth = POINTS[point]
    tenant = college.ledger.tenant
    moodle.fail(fault, function, nth)
    with command(home, "moodle", "worker", **environment(tenant, moodle)) as process:
        await until(lambda: is_held(moodle, function, nth))
        if point.startswith("between"):
            await until(lambda: first_batch_is_told(college))
        process.kill()
    await time_passes(admin, tenant)
    await college.through()
    await check(college)
    made = [key for key in written(moodle.calls) if "create" in key[0]]
    assert len(made) == len(NEW) + 1


async def first_batch_is_told(college: Persistent) -> bool:
    """Whether two new accounts are in the ledger."""
    return len({t.zoho_id for t in await told(college.ledger)} & set(NEW)) == 2


def is_held(moodle: MoodleDouble, function: str, nth: int) -> bool:
    """Whether the nth call of a function waits for its answer, carried out or not."""
    calls = [call for call in moodle.calls if call.function == function]
    return len(calls) == nth and calls[-1].finished is not None


@pytest.mark.parametrize("name", ["apply", "rebuild"])
@pytest.mark.parametrize("point", WHOLE)
async def test_command_killed(
    home: Path, admin: asyncpg.Connection, college: Persistent, moodle: MoodleDouble, name: str, point: str
) -> None:
    """SIGKILL in the middle of a plan for the whole: a second run does what is left, and only that."""
    function, fault, nth = POINTS[point]
    tenant = college.ledger.tenant
    moodle.fail(fault, function, nth)
    with command(home, "moodle", name, "--yes", **environment(tenant, moodle)) as process:
        await until(lambda: is_held(moodle, function, nth))
        process.kill()
    await time_passes(admin, tenant)
    with command(home, "moodle", name, "--yes", **environment(tenant, moodle)) as process:
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0
    await college.through()
    await check(college)
    made = [key for key in written(moodle.calls) if "create" in key[0]]
    assert len(made) == len(NEW) + 1


async def test_killed_between_a_call_and_its_report(
    home: Path, admin: asyncpg.Connection, college: Persistent, moodle: MoodleDouble
) -> None:
    """SIGKILL after Moodle's answer came and before it is on disk: the account is found, not made again."""
    tenant = college.ledger.tenant
    moodle.fail(BEFORE, "core_user_create_users")
    transaction = admin.transaction()
    with command(home, "moodle", "worker", **environment(tenant, moodle)) as process:
        await until(lambda: is_held(moodle, "core_user_create_users", 1))
        await transaction.start()
        await admin.execute("lock table ledger.events in share mode")
        moodle.let_go()  # it is cut off and tries again, and what comes of that waits for the lock
        await until(lambda: college.accounts()[NEW[0]] == 1)
        process.kill()
    await transaction.rollback()
    await time_passes(admin, tenant)
    await college.through()
    await check(college)


async def test_server_and_workers_killed_in_turn(
    home: Path, admin: asyncpg.Connection, ledger: Ledger, tenant: str, moodle: MoodleDouble
) -> None:
    """A server and two workers beside it: one works, and when it is killed another goes on; no account
    is made twice.
    """
    college = Persistent(ledger, moodle, create_courses=True)
    variables = moodle_environment(tenant, moodle, create_courses=True)
    await ledger.post("classes", {"id": "C", "Class_Name": "C"})
    with (
        Server(home, **variables) as server,
        command(home, "moodle", "worker", **variables) as one,
        command(home, "moodle", "worker", **variables) as two,
    ):
        for number, victim in enumerate([one, server, two]):
            name = f"S{number}"
            await ledger.post("students", student(name))
            await ledger.post("enrollments", {"id": f"E{number}", "Student": name, "Class": "C"})
            await until(lambda name=name: ("C", name) in college.seats())
            await until(college.is_settled)
            victim.kill()
            await time_passes(admin, tenant)
        assert one.wait() == two.wait() == -9
    assert {key: count for key, count in written(moodle.calls).items() if count > 1} == {}
    await ledger.post("students", student("S3"))
    await college.through()
    assert college.accounts() == Counter(["S0", "S1", "S2", "S3"])
    await college.check()


async def test_replay_after_a_crash(
    home: Path, admin: asyncpg.Connection, college: Persistent, moodle: MoodleDouble
) -> None:
    """A replay finds the same rows, and neither it nor its check calls Moodle."""
    tenant = college.ledger.tenant
    variables = environment(tenant, moodle)
    moodle.fail(AFTER, "enrol_manual_enrol_users", 2)
    with command(home, "moodle", "worker", **variables) as process:
        await until(lambda: is_held(moodle, "enrol_manual_enrol_users", 2))
        process.kill()
    calls = len(moodle.calls)
    for arguments in ([], ["--check"]):
        with command(home, "replay", "--tenant", tenant, *arguments, **variables) as process:
            await until(lambda process=process: process.poll() is not None)
            assert process.returncode == 0
    assert len(moodle.calls) == calls
    await time_passes(admin, tenant)
    await college.through()
    await check(college)
