"""Courses: made once, whatever becomes of the call, and never where it is not clear which one is meant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from projections.moodle.client import AwayError
from projections.moodle.turn import Turn
from projections.moodle.worker import Worker
from tests.harness import Ledger
from tests.integration.test_moodle_running import running, short_pauses
from tests.moodle.college import class_, enrollment, student
from tests.moodle.double import MoodleDouble
from tests.moodle.faults import Fault
from tests.moodle.persistent import Persistent, until

CREATE = "core_course_create_courses"

__all__ = ["short_pauses"]


@pytest.fixture
async def college(ledger: Ledger, moodle: MoodleDouble) -> AsyncIterator[Persistent]:
    """A college that makes courses, and waits a short time for answers."""
    college = Persistent(ledger, moodle, create_courses=True, timeout=0.5)
    yield college
    await college.lasting.close()


def created(college: Persistent) -> int:
    """How often courses were asked for."""
    return [call.function for call in college.moodle.calls].count(CREATE)


def idnumbers(college: Persistent) -> list[str]:
    """The courses' idnumbers, in order."""
    return sorted(
        course.idnumber for course in college.moodle.site.tables.courses.values() if course.idnumber
    )


@pytest.mark.parametrize("fault", [Fault.timeout_before, Fault.timeout_after])
async def test_a_course_of_which_no_answer_tells(college: Persistent, fault: Fault) -> None:
    """While a call that makes courses may still be under way none is made, and all else goes on; when
    its time is over, what is missing is made.
    """
    college.moodle.site.add_course(shortname="C1", idnumber="C1")
    await college.send(students=student("S1"), classes=[class_("C1"), class_("C2")])
    college.moodle.fail(fault, CREATE)
    async with running(college.lasting):
        await until(lambda: college.lasting.trouble is not None)
        await college.send(students=student("S2"), classes=class_("C3"))
        await college.send(enrollments=[enrollment(f"E{s}", f"S{s}", "C1") for s in (1, 2)])
        college.lasting.wake()
        await until(lambda: college.seats() == {("C1", "S1"): "active", ("C1", "S2"): "active"})
        assert college.lasting.trouble is not None
        failures = college.lasting.trouble.failures
        await until(lambda: college.lasting.trouble is None or college.lasting.trouble.failures > failures)
        assert created(college) == 1
        assert (await college.status("class", "C3"))[0] == "QUEUED"
        await college.let_time_pass()
        await until(lambda: idnumbers(college) == ["C1", "C2", "C3"])
    await college.through()
    await college.check()


async def test_who_takes_over_does_not_make_it_again(college: Persistent) -> None:
    """A worker that is stopped while a call makes courses leaves its time to the one that follows."""
    await college.send(classes=class_("C1"))
    college.moodle.fail(Fault.timeout_before, CREATE)
    async with running(college.lasting):
        await until(lambda: created(college))
    await college.restart()
    with pytest.raises(AwayError, match="an earlier call"):
        await college.lasting.settle()
    assert created(college) == 1
    await college.through()
    assert idnumbers(college) == ["C1"]


async def test_calls_that_make_courses_do_not_overlap(
    ledger: Ledger, moodle: MoodleDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers never have such calls under way at once, even where each thinks that it is its turn."""
    monkeypatch.setattr(moodle, "call_seconds", 0.02)
    college = Persistent(ledger, moodle, create_courses=True, batch=2)
    names = [f"C{number}" for number in range(9)]
    await college.send(classes=[class_(name) for name in names])
    lane = ledger.new_lane()
    other = Worker(ledger.database, ledger.tenant, college.settings, lane)
    other._turn = Turn(ledger.database, ledger.tenant, "moodle-of-another-kind")
    other._client._may_call = other._turn.holds
    async with running(college.lasting, other):
        await until(lambda: idnumbers(college) == names)
    calls = [call for call in moodle.calls if call.function == CREATE]
    for first, second in pairwise(calls):
        assert first.finished is not None
        assert first.finished <= second.started
    await college.lasting.close()
    await other.close()
    await lane.close()


async def test_names_that_are_no_names(college: Persistent) -> None:
    """A class whose name holds a tag gets no course, and says why."""
    tag = "Year <b>1</b>"
    await college.send(
        classes=[
            class_("C1", BTEC_Class_Name=tag),
            class_("C2", Class_Short_Name=tag),
            class_("C3", BTEC_Class_Name="1 < 2"),
        ]
    )
    await college.through()
    assert [await college.failure("class", f"C{n}") for n in (1, 2, 3)] == ["bad_name", "bad_name", None]
    assert idnumbers(college) == ["C3"]


@pytest.mark.parametrize("create", [True, False])
async def test_two_courses_of_one_idnumber(college: Persistent, *, create: bool) -> None:
    """Where it is not clear which course is meant nobody is seated, and none is made, until it is."""
    again = college.but(create_courses=create)
    ids = [college.moodle.site.add_course(shortname=f"c{n}", idnumber="C1") for n in (1, 2)]
    await college.send(students=student("S1"), classes=class_("C1"), enrollments=enrollment("E1", "S1", "C1"))
    await again.settle()
    assert await again.failure("class", "C1") == "ambiguous"
    assert (await again.status("enrollment", "E1"))[0] == "FAILED"
    assert college.seats() == {}
    assert set(await again.plan()) == {"blocked"}
    college.moodle.site.change_course(ids[1], idnumber="")
    await again.apply()
    assert college.seats() == {("c1", "S1"): "active"}
