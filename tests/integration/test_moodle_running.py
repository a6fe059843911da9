"""The worker as it runs: through outages, beside others, and after one that died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from projections.moodle import worker as module
from projections.moodle.client import MoodleError
from projections.moodle.report import Report, Reporter
from projections.moodle.turn import ask_for
from projections.moodle.worker import Worker
from tests.harness import Ledger, Server, statuses
from tests.moodle.college import student
from tests.moodle.double import HTML, MoodleDouble, Reply, Request
from tests.moodle.faults import Fault
from tests.moodle.form import flatten
from tests.moodle.outcomes import written
from tests.moodle.persistent import Persistent, moodle_environment, until


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.02)


@pytest.fixture
async def college(ledger: Ledger, moodle: MoodleDouble) -> AsyncIterator[Persistent]:
    college = Persistent(ledger, moodle, create_courses=True)
    yield college
    await college.lasting.close()


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


def seats(*numbers: int) -> dict[tuple[str, str], str]:
    """The seats of these students in their classes."""
    return {(f"C{n}", f"S{n}"): "active" for n in numbers}


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


async def test_an_idle_worker_keeps_nothing(college: Persistent, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had found in Moodle is given back when there is no work, and looked up again where the next
    record needs it.
    """
    worker = college.lasting
    async with running(worker):
        await enrolled(college.ledger, 1)
        await until(lambda: college.seats() == seats(1))
        assert worker._users == {"S1": college.user("S1").id}
        monkeypatch.setattr(module, "FOUND_SECONDS", 0)
        await until(lambda: not (worker._users or worker._courses or worker._sought))
        await college.ledger.post("enrollments", {"id": "E9", "Student": "S1", "BTEC_Class": "C1"})
        await enrolled(college.ledger, 2)
        await until(lambda: college.seats() == seats(1, 2))
        await until(college.is_settled)
        await until(lambda: not (worker._queue or worker._users or worker._courses or worker._sought))
    await college.check()


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage(college: Persistent, moodle: MoodleDouble, outage: str) -> None:
    """While Moodle does not work the worker says so, tries with pauses, and asks for one thing at a
    time; when it works again the worker catches up by itself.
    """
    begin, end = OUTAGES[outage]
    async with running(college.lasting):
        await enrolled(college.ledger, 1)
        await until(lambda: college.seats() == seats(1))
        begin(moodle)
        calls = len(moodle.calls)
        await enrolled(college.ledger, 2)
        college.lasting.wake()
        await until(lambda: college.lasting.trouble is not None and college.lasting.trouble.failures > 3)
        assert not written(moodle.calls[calls:])
        assert (await college.status("student", "S2"))[0] == "QUEUED"
        end(moodle)
        await until(lambda: college.seats() == seats(1, 2))
        await until(lambda: college.lasting.trouble is None)
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
    await college.lasting._look_at_all()
    for _ in range(9):
        await college.lasting._try()
        assert college.lasting.trouble is not None
        pauses.append(college.lasting.trouble.not_before - clock())
    for number, pause in enumerate(pauses):
        longest = min(60.0, 2.0**number)
        assert longest / 2 - 0.5 < pause <= longest


def once(moodle: MoodleDouble) -> None:
    """Nothing was asked of Moodle twice."""
    assert {key: count for key, count in written(moodle.calls).items() if count > 1} == {}


async def test_two_workers_share_the_work(college: Persistent, moodle: MoodleDouble) -> None:
    """Two workers with lanes of their own, whatever comes from either side: no call is made twice."""
    ledger = college.ledger
    lane = ledger.new_lane()
    other = Worker(ledger.database, ledger.tenant, college.settings, lane)
    async with running(college.lasting, other):
        for number in range(8):
            await enrolled(ledger, number)
            (other if number % 2 else college.lasting).wake()
        await until(lambda: college.seats() == seats(*range(8)))
        await until(college.is_settled)
    once(moodle)
    await college.check()
    await other.close()
    await lane.close()


async def test_one_takes_over_from_one_that_ends(college: Persistent, moodle: MoodleDouble) -> None:
    """A worker that is stopped gives the turn back, and the other goes on; again and again."""
    ledger = college.ledger
    lane = ledger.new_lane()
    other = Worker(ledger.database, ledger.tenant, college.settings, lane)
    for number, worker in enumerate([college.lasting, other] * 3):
        async with running(worker):
            await enrolled(ledger, number)
            await until(lambda number=number: college.seats() == seats(*range(number + 1)))
    await college.through()
    # stopped between a call and its report, one may find its seat taken and write it again
    accounts = [key for key in written(moodle.calls) if key[0] == "core_user_create_users"]
    assert len(accounts) == 6
    await college.check()
    await other.close()
    await lane.close()


async def test_one_that_lost_its_turn_calls_no_more(college: Persistent, moodle: MoodleDouble) -> None:
    """A worker whose lease has run out, and which does not know it yet, is stopped at its next call."""
    await enrolled(college.ledger, 1)
    moodle.fail(Fault.timeout_before, "core_user_create_users")
    settling = asyncio.create_task(college.lasting.settle())
    await until(lambda: any(call.function == "core_user_create_users" for call in moodle.calls))
    college.lasting._turn._until = 0.0
    moodle.let_go()
    with pytest.raises(MoodleError):
        await settling
    assert sum(written(moodle.calls).values()) == 1, "the one that was under way"
    await college.through()
    await college.check()


def answers(moodle: MoodleDouble, reply: Reply, function: str, about: str, monkeypatch: Any) -> None:
    """Lets a Moodle answer in this way whenever a function is called with a value."""
    real = moodle._reply

    async def answer(request: Request, fault: Fault | None) -> Reply | None:
        if request.function == function and about in flatten(request.params).values():
            return reply
        return await real(request, fault)

    monkeypatch.setattr(moodle, "_reply", answer)


BROKEN = {"error": Reply(500, HTML, b""), "garbage": Reply(200, HTML, b"<b>Fatal error</b>")}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("what", ["student", "enrollment"])
async def test_one_record_without_an_answer(
    college: Persistent, moodle: MoodleDouble, what: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record on whose call Moodle fails each time is parked after some rounds, and all others go on."""
    numbers = range(6)
    for number in numbers:
        await enrolled(college.ledger, number)
    if what == "student":
        answers(moodle, BROKEN[how], "core_user_create_users", "s3@college.test", monkeypatch)
    else:
        await college.through()
        await college.ledger.post("enrollments", *({"id": f"E{n}", "status": "Withdrawn"} for n in numbers))
        user_id = str(college.user("S3").id)
        answers(moodle, BROKEN[how], "enrol_manual_enrol_users", user_id, monkeypatch)
    names = [(entity, f"{entity[0].upper()}{n}") for n in numbers for entity in ("student", "enrollment")]
    parked = [("student", "S3"), ("enrollment", "E3")] if what == "student" else [("enrollment", "E3")]
    async with running(college.lasting):
        for name in names:
            wanted = "FAILED" if name in parked else "SYNCED"
            await until(lambda name=name, wanted=wanted: has_status(college, name, wanted))
        await until(lambda: college.lasting.trouble is None)
    assert await college.reason(*parked[0]) == ("FAILED", "no_answer")
    assert set(await college.plan()) == ({"suspend"} if what == "enrollment" else {"create_users", "enrol"})


async def has_status(college: Persistent, name: tuple[str, str], status: str) -> bool:
    """Whether a record has a status."""
    return (await college.status(*name))[0] == status


async def test_a_moodle_too_slow_for_a_batch(
    ledger: Ledger, moodle: MoodleDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Moodle needs longer for a batch than it is given, batches shrink until all is done."""
    monkeypatch.setattr(moodle, "item_seconds", 0.01)
    moodle.site.add_course(shortname="C", idnumber="C")
    college = Persistent(ledger, moodle, batch=32, timeout=0.3)
    students = [f"S{number}" for number in range(40)]
    await college.send(students=[student(s) for s in students], classes={"id": "C", "Class_Name": "C"})
    await college.send(enrollments=[{"id": f"E{s}", "Student": s, "Class": "C"} for s in students])
    async with running(college.lasting):
        await until(college.is_settled)
        await until(lambda: college.lasting.trouble is None)
    assert college.seats() == {("C", s): "active" for s in students}
    sizes = [call.items for call in moodle.calls if call.function == "enrol_manual_enrol_users"]
    assert 1 < max(sizes) < 32
    monkeypatch.undo()
    await college.check()
    await college.lasting.close()


async def test_what_another_process_reported(college: Persistent, moodle: MoodleDouble) -> None:
    """A late report of a process that had the turn before makes a worker look at the record again."""
    lane = college.ledger.new_lane()
    async with running(college.lasting):
        await enrolled(college.ledger, 1)
        await until(college.is_settled)
        asked = (await college.known("enrollment", "E1")).asked
        await college.ledger.post("enrollments", {"id": "E1", "status": "Withdrawn"})
        await until(lambda: college.seats() == {("C1", "S1"): "suspended"})
        await until(college.is_settled)
        [(course_id, user_id)] = moodle.site.seats()
        moodle.site.enrol(course_id, user_id)
        late = Report(("enrollment", "E1"), asked, {"call": None}, f"{course_id}:{user_id}", student="S1")
        await Reporter(lane, college.ledger.tenant, moodle.url)([late])
        await until(lambda: college.seats() == {("C1", "S1"): "suspended"})
        await until(college.is_settled)
    await college.check()
    await lane.close()


async def test_many_reports_are_many_deliveries(college: Persistent, moodle: MoodleDouble) -> None:
    """What is found done already is told in parts of 500, so that others get between them."""
    students = [f"S{number:04}" for number in range(1_100)]
    await college.send(students=[student(s, Status="Withdrawn") for s in students])
    await college.through()
    async with college.ledger.database.transaction(college.ledger.tenant) as connection:
        counts = await connection.fetch(
            "select count(*) from ledger.events where tenant_id = $1 and source = 'moodle' group by delivery_id",
            college.ledger.tenant,
        )
    assert sorted(row["count"] for row in counts) == [100, 500, 500]
    assert await college.is_settled()


async def test_trouble_that_is_over(college: Persistent, moodle: MoodleDouble) -> None:
    """A worker whose work another one did, while Moodle was away for this one, has no trouble any more."""
    ledger = college.ledger
    moodle.refuse()
    async with running(college.lasting):
        await enrolled(ledger, 1)
        await until(lambda: college.lasting.trouble is not None)
        async with ask_for(ledger.database, ledger.tenant) as turn:
            moodle.listen()
            async with college.whole(turn) as whole:
                assert await whole.apply(ledger.lane) == (3, 0)
        calls = len(moodle.calls)
        await until(lambda: college.lasting.degraded is None)
        await until(lambda: not college.lasting._queue)
        assert college.lasting.degraded is None
        assert len(moodle.calls) == calls
    await college.check()


async def test_trouble_of_the_one_that_works(college: Persistent, moodle: MoodleDouble) -> None:
    """A process that waits for its turn names what keeps the one that has it, and only as long."""
    ledger = college.ledger
    other = Worker(ledger.database, ledger.tenant, college.settings, ledger.lane)
    async with running(college.lasting):
        await enrolled(ledger, 1)
        await until(lambda: college.seats() == seats(1))
        async with running(other):
            moodle.revoke_token()
            await enrolled(ledger, 2)
            await until(lambda: other.degraded is not None)
            assert other.trouble is None
            assert other.degraded == college.lasting.degraded
            moodle.restore_token()
            await until(lambda: other.degraded is None)
            await until(lambda: college.lasting.degraded is None)
            assert college.seats() == seats(1, 2)
    await other.close()
    await college.check()


async def test_a_server_beside_a_moodle_that_is_away(
    home: Path, ledger: Ledger, tenant: str, moodle: MoodleDouble
) -> None:
    """`/v1/ready` names the Moodle and stays 200, records are accepted as ever, and the server's
    worker catches up by itself.
    """
    college = Persistent(ledger, moodle, create_courses=True)
    token = moodle.token
    moodle.refuse()
    environment = moodle_environment(tenant, moodle, create_courses=True)
    with Server(home, **environment) as server, server.client(tenant) as client:

        def degraded() -> list[str]:
            ready = client.get("/v1/ready")
            assert ready.status_code == 200
            parts = [part["part"] for part in ready.json()["degraded"]]
            return [part for part in parts if part != "statuses"]  # those are of other tests' tenants

        assert statuses(client.post("/v1/sync/students", json=student("S1"))) == ["NEW"]
        await until(lambda: degraded() == ["moodle"])
        assert statuses(client.post("/v1/sync/classes", json={"id": "C1", "Class_Name": "C1"})) == ["NEW"]
        seat = {"id": "E1", "Student": "S1", "BTEC_Class": "C1"}
        sent = client.post("/v1/sync/enrollments", json=seat).json()["results"]
        assert [(r["status"], r["moodle_status"]) for r in sent] == [("NEW", "QUEUED")]
        moodle.listen()
        await until(lambda: degraded() == [])
        await until(lambda: client.get("/v1/enrollments/E1").json()["moodle_status"] == "SYNCED")
        assert college.seats() == seats(1)
        life = client.get("/v1/audit/records/enrollment/E1").json()["items"]
        assert [(e["source"], e["status"]) for e in life] == [("sync", "NEW"), ("moodle", "SYNCED")]
        moodle.revoke_token()
        changed = {"id": "S1", "Last_Name": "Changed"}
        assert statuses(client.post("/v1/sync/students", json=changed)) == ["UPDATED"]
        await until(lambda: degraded() == ["moodle"])
        assert token not in client.get("/v1/ready").text + "".join(server.log)
        moodle.restore_token()
        await until(lambda: degraded() == [])
        assert college.user("S1").lastname == "Changed"
        assert server.stop() == 0
    await college.check()
