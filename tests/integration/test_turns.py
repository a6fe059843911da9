"""The largest that is allowed keeps nobody waiting: what is done between two turns of the loop stays
as little as it is for a small part of it.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from api.app import create_app
from ledger import lane as lane_module
from ledger import pace, store
from ledger.database import Database
from ledger.installation import Installation
from projections.moodle import worker
from projections.rebuild import Rebuild, Replay
from projections.summary import Summary
from tests.harness import Ledger
from tests.integration.test_lane import consistent
from tests.moodle.college import College, class_
from tests.moodle.college import enrollment as moodle_enrollment
from tests.moodle.college import student as moodle_student
from tests.moodle.double import MoodleDouble
from tests.turns import counted_calls

MANY = 2_000
MOST_CALLS = 30_000
"""Some milliseconds. A record takes some 200, a piece of 500 rows for the database 10,000, what comes from
it at once (256 KB) 20,000.
"""
MOST_CALLS_OF_A_FORM = 200_000
"""A call to Moodle of 100 accounts is a form of 800 fields, which is written character by character; two
calls may begin at once. It takes some 6 ms.
"""

CLASS = {"id": "C", "Class_Name": "A"}
CLASS_IS_GONE = {"id": "C", "Record_Status__s": "Trash"}


@pytest.fixture(autouse=True)
def turns_as_often_as_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test counts work, and no clock decides."""
    monkeypatch.setattr(pace, "STEP_SECONDS", 0)


def student(number: int, word: str = "") -> dict[str, Any]:
    """A student of whom another word changes each field."""
    return {
        "id": f"S{number}", "Name": f"N{word}{number}", "First_Name": f"Layla{word}", "Status": f"Active{word}",
        "Academic_Email": f"s{number}{word}@college.example", "Program": {"id": f"P{word}{number % 40}"},
    }  # fmt: skip


def enrollment(number: int) -> dict[str, Any]:
    """An enrollment of the first student in the class."""
    return {"id": f"E{number}", "Student": "S0", "Class": "C"}


NEW = [student(i) for i in range(MANY)]
WAITING = [enrollment(i) for i in range(MANY)]
LARGE: dict[str, tuple[list[tuple[str, list[Any]]], str, list[Any], str]] = {
    # what comes before, then what is measured, and a status in its answer
    "new": ([], "students", NEW, "NEW"),
    "changed": ([("students", NEW)], "students", [student(i, "b") for i in range(MANY)], "UPDATED"),
    "deleted": ([("students", NEW)], "students",
                [{"id": f"S{i}", "Record_Status__s": "Trash"} for i in range(MANY)], "DELETED"),
    "one record again and again": ([], "students", [student(0, str(i)) for i in range(MANY)], "UPDATED"),
    "unusable": ([], "programs", [{"id": f"P{i}"} for i in range(MANY)], "INVALID"),
    "without an id": ([], "programs", [{} for _ in range(MANY)], "INVALID"),
    "waiting": ([], "enrollments", WAITING, "SKIPPED"),
    "released": ([("classes", [CLASS]), ("enrollments", WAITING)], "students", [student(0)], "NEW"),
    "to wait again": ([("classes", [CLASS]), ("students", [student(0)]), ("enrollments", WAITING)],
                      "classes", [CLASS_IS_GONE], "DELETED"),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("cached", [True, False])
async def test_one_request_of_many_records(ledger: Ledger, name: str, cached: bool) -> None:
    """From the queue to the answer, with a lane that knows the rows and with one that reads them."""
    before, plural, records, status = LARGE[name]
    for earlier, some in before:
        await ledger.post(earlier, *some)
    delivery = ledger.delivery(plural, records, uuid.uuid4().hex)
    lane = ledger.lane if cached else ledger.new_lane()
    async with counted_calls() as calls:
        answer = await lane.submit(delivery)
    assert calls.most < MOST_CALLS
    body = json.loads(answer.body)
    assert status in {result["status"] for result in body["results"]}
    assert len(body.get("released", ())) == (MANY if name == "released" else 0)
    if lane is not ledger.lane:
        await lane.close()
    await consistent(ledger)


async def test_an_answer_that_is_remembered(ledger: Ledger) -> None:
    """A derived key looks at all the records of the first time again."""
    first = await ledger.submit("students", NEW)
    delivery = ledger.delivery("students", NEW)
    async with counted_calls() as calls:
        again = await ledger.lane.submit(delivery)
    assert again.replayed
    assert again.body == first.body
    assert calls.most < MOST_CALLS


async def test_a_large_record_is_folded_aside(ledger: Ledger) -> None:
    """Digests, sealing and chain of one long text leave the loop alone; nothing else differs."""
    texts = ["a" * (2 * lane_module.LARGE_BYTES), "b" * (2 * lane_module.LARGE_BYTES)]
    threads: set[str] = set()
    record = ledger.lane._record

    def noted(*arguments: Any) -> Any:
        import threading

        threads.add(threading.current_thread().name.partition("_")[0])
        return record(*arguments)

    ledger.lane._record = noted  # type: ignore[method-assign]
    for text in texts:
        [result] = (await ledger.post("students", {"id": "S", "First_Name": text}))["results"]
    assert threads == {"aside"}
    assert result["changes"] == {"first_name": {"old": texts[0], "new": texts[1]}}
    await consistent(ledger)


@pytest.mark.parametrize("rows", [1, 3])
async def test_a_flush_in_parts_is_one(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """However many parts go to the database, the answer is the same, and all of it is there."""
    monkeypatch.setattr(store, "ROWS", rows)
    other = ledger.new_lane()
    await ledger.post("enrollments", *WAITING[:5])
    await ledger.post("classes", CLASS)
    body = await ledger.post("students", *NEW[:7])
    assert [r["status"] for r in body["results"]] == ["NEW"] * 7
    assert [r["position"] for r in body["released"]] == [1, 2, 3, 4, 5]
    again = [student(i, "b") for i in range(9)]
    answers = [await lane.submit(ledger.delivery("students", again, "k")) for lane in (other, ledger.lane)]
    assert [answer.replayed for answer in answers] == [False, True]
    assert len(await consistent(ledger)) == 22
    await other.close()


@pytest.mark.parametrize("part", range(6))
async def test_a_connection_that_breaks_between_parts(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """Nothing of the flush is there, and the next try writes all of it."""
    monkeypatch.setattr(store, "ROWS", 2)
    real, left = store._append_part, [part]

    async def broken(connection: Any, *arguments: Any) -> str:
        if left and not left[0]:
            left.clear()
            connection.terminate()
        elif left:
            left[0] -= 1
        return await real(connection, *arguments)

    monkeypatch.setattr(store, "_append_part", broken)
    body = await ledger.post("students", *NEW[:6])
    assert not left
    assert [r["position"] for r in body["results"]] == [1, 2, 3, 4, 5, 6]
    assert len(await consistent(ledger)) == 6


# -- reading


@pytest.fixture
async def past(ledger: Ledger) -> Ledger:
    """A college with so many events: students that changed, one enrollment that came again and again."""
    await ledger.post("classes", CLASS)
    await ledger.post("students", *NEW)
    await ledger.post("students", *[student(i, "b") for i in range(MANY)])
    await ledger.post("enrollments", *[{**enrollment(0), "Status": f"s{i % 7}"} for i in range(MANY)])
    return ledger


@pytest.fixture
async def client(past: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP face in this process."""
    app = create_app(past.installation, moodle_worker=False)
    up, done = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.lifespan():
            up.set()
            await done.wait()

    life = asyncio.create_task(live())
    await up.wait()
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
    headers = {"X-Tenant-ID": past.tenant}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client
    done.set()
    await life


PATHS = (
    "/v1/audit/events?limit=1000&payload=true",
    "/v1/audit/export",
    "/v1/audit/export?payload=true",
    "/v1/audit/export?format=csv&payload=true",
    "/v1/audit/records/enrollment/E0?limit=1000",
    "/v1/audit/explain/enrollments/E0",
    "/v1/audit/summary",
    "/v1/students?limit=1000",
    f"/v1/students?limit=1000&at_position={3 * MANY + 1}",
    f"/v1/enrollments/E0?at_position={3 * MANY + 1}",
)


@pytest.mark.parametrize("path", PATHS)
async def test_questions_about_a_long_past(client: httpx.AsyncClient, path: str) -> None:
    """Nobody waits until they are answered."""
    (await client.get(path)).raise_for_status()  # what is compiled or cached at first is there
    async with counted_calls() as calls:
        response = await client.get(path)
    assert response.status_code == 200
    assert calls.most < MOST_CALLS


async def test_a_rebuild_in_the_serving_process(
    past: Ledger, installation: Installation, database: Database
) -> None:
    """It shares the loop with requests."""
    before = await past.live()
    replay = Replay(database, past.tenant, installation.master_key, past.projection, [Summary()])
    async with counted_calls() as calls:
        assert await Rebuild(replay).run() == 3 * MANY + 1
    assert calls.most < MOST_CALLS
    assert await past.live() == before


async def test_a_worker_with_many_records(
    ledger: Ledger, moodle: MoodleDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it compares and plans, it does in turns; a call's form is made when the call is its turn."""
    monkeypatch.setattr(worker, "ROUND", MANY)
    college = College(ledger, moodle, create_courses=True)
    names = range(MANY // 2)
    await college.send(students=[moodle_student(f"S{i}") for i in names], classes=class_("C"))
    await college.send(enrollments=[moodle_enrollment(f"E{i}", f"S{i}", "C") for i in names])
    async with counted_calls() as calls:
        await college.settle()
    assert len(college.seats()) == len(names)
    assert calls.most < MOST_CALLS_OF_A_FORM
    async with counted_calls() as calls:
        await college.settle()
    assert calls.most < MOST_CALLS
