"""The worker as it runs: through outages, beside others, and after one that died."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from projections.moodle import worker as module
from projections.moodle.worker import Worker
from tests.harness import Ledger, Server, statuses
from tests.integration.test_moodle import student
from tests.moodle.college import Persistent, until
from tests.moodle.double import MoodleDouble
from tests.moodle.faults import Fault
from tests.moodle.outcomes import told, written


@pytest.fixture(scope="module")
def shared_moodle() -> Iterator[MoodleDouble]:
    with MoodleDouble() as double:
        yield double


@pytest.fixture
def moodle(shared_moodle: MoodleDouble) -> Iterator[MoodleDouble]:
    shared_moodle.reset()
    yield shared_moodle
    shared_moodle.let_go()
    shared_moodle.listen()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)


@pytest.fixture
async def college(ledger: Ledger, moodle: MoodleDouble) -> AsyncIterator[Persistent]:
    college = Persistent(ledger, moodle, create_courses=True)
    yield college
    await college.worker.close()


@asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Workers at work, until the end."""
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def enrolled(ledger: Ledger, number: int) -> None:
    """One more student with a class of their own."""
    await ledger.post("students", student(f"S{number}"))
    await ledger.post("classes", {"id": f"C{number}", "Class_Name": f"C{number}"})
    await ledger.post(
        "enrollments", {"id": f"E{number}", "Student": f"S{number}", "BTEC_Class": f"C{number}"}
    )


def seats(*numbers: int) -> dict[tuple[str, str], bool]:
    """The seats of these students in their classes."""
    return {(f"C{n}", f"S{n}"): False for n in numbers}


def set_(**values: Any) -> tuple[Callable[[MoodleDouble], None], Callable[[MoodleDouble], None]]:
    """How settings of the site are changed, and changed back."""

    def change(moodle: MoodleDouble) -> None:
        before.update({name: getattr(moodle.site.settings, name) for name in values})
        for name, value in values.items():
            setattr(moodle.site.settings, name, value)

    def back(moodle: MoodleDouble) -> None:
        for name, value in before.items():
            setattr(moodle.site.settings, name, value)

    before: dict[str, Any] = {}
    return change, back


def lose(capability: str) -> tuple[Callable[[MoodleDouble], None], Callable[[MoodleDouble], None]]:
    """How the token's user loses a capability, and gets it again."""

    def change(moodle: MoodleDouble) -> None:
        moodle.site.tokens["sync"].capabilities -= {capability}

    def back(moodle: MoodleDouble) -> None:
        moodle.site.tokens["sync"].capabilities |= {capability}

    return change, back


OUTAGES = {
    "refused": (MoodleDouble.refuse, MoodleDouble.listen),
    "token revoked": (MoodleDouble.revoke_token, MoodleDouble.restore_token),
    "maintenance": set_(maintenance="setting"),
    "maintenance from the shell": set_(maintenance="cli"),
    "upgrade": set_(upgrade_running=True),
    "database down": set_(database_down=True),
    "web services off": set_(webservices_enabled=False),
    "service off": set_(service_enabled=False),
    "sees nobody": lose("moodle/user:viewalldetails"),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage(college: Persistent, moodle: MoodleDouble, outage: str) -> None:
    """While Moodle does not work the worker says so, tries with pauses, and asks for one thing at a
    time; when it works again the worker catches up by itself.
    """
    begin, end = OUTAGES[outage]
    async with running(college.worker):
        await enrolled(college.ledger, 1)
        await until(lambda: college.seats() == seats(1))
        begin(moodle)
        calls = len(moodle.calls)
        await enrolled(college.ledger, 2)
        college.worker.wake()
        await until(lambda: college.worker.trouble is not None and college.worker.trouble.failures > 3)
        assert not written(moodle.calls[calls:])
        assert (await college.status("student", "S2"))[0] == "QUEUED"
        end(moodle)
        await until(lambda: college.seats() == seats(1, 2))
        await until(lambda: college.worker.trouble is None)
        await enrolled(college.ledger, 3)
        await until(lambda: college.seats() == seats(1, 2, 3))
    await college.check()


async def test_pauses_grow(college: Persistent, moodle: MoodleDouble, monkeypatch: Any) -> None:
    """Each try that fails doubles the pause before the next, up to the longest."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 60.0)
    await enrolled(college.ledger, 1)
    moodle.refuse()
    clock = asyncio.get_running_loop().time
    pauses = []
    await college.worker._look_at_all()
    for _ in range(9):
        await college.worker._try()
        assert college.worker.trouble is not None
        pauses.append(college.worker.trouble.not_before - clock())
    for number, pause in enumerate(pauses):
        longest = min(60.0, 2.0**number)
        assert longest / 2 - 0.5 < pause <= longest
