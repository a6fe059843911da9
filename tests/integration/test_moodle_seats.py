"""Who keeps a seat and who gives it up, where more than one enrollment or person has a say."""

from __future__ import annotations

from typing import Any

import pytest

from projections.moodle.client import AwayError
from tests.harness import Ledger
from tests.moodle.college import College, class_, deleted, enrollment, student
from tests.moodle.double import MoodleDouble
from tests.moodle.faults import Fault

ACTIONS = {"create_users", "update_users", "create_courses", "enrol", "suspend", "unenrol"}
MODES = pytest.mark.parametrize("mode", ["suspend", "unenrol"])


@pytest.fixture
def college(ledger: Ledger, moodle: MoodleDouble) -> College:
    """A college whose Moodle has a course for C1."""
    moodle.site.add_course(shortname="C1", idnumber="C1", id=11)
    return College(ledger, moodle)


async def known(college: College) -> int:
    """S1 and C1 are known to Moodle; the account's id."""
    await college.send(students=student("S1"), classes=class_("C1"))
    await college.settle()
    return college.user("S1").id


async def enrolled(college: College, *enrollments: dict[str, Any]) -> None:
    """S1 sits in C1, by E1 or by these enrollments."""
    await known(college)
    await college.send(enrollments=[*enrollments] or enrollment("E1", "S1", "C1"))
    await college.settle()
    assert college.seats() == {("C1", "S1"): "active"}


MOVES: dict[str, dict[str, Any]] = {
    "to a class without a course": {"BTEC_Class": "C9"},
    "to a student without an account": {"Student": "S9"},
}


@MODES
@pytest.mark.parametrize("to", MOVES)
async def test_moving_to_where_no_seat_is(college: College, to: str, mode: str) -> None:
    """An enrollment that moves to where it cannot have a seat gives the old one up all the same."""
    college = college.but(on_withdraw=mode)
    await enrolled(college)
    await college.send(students=student("S9") | {"Academic_Email": None}, classes=class_("C9"))
    await college.send(enrollments={"id": "E1", **MOVES[to]})
    plan = await college.plan()
    assert [item["zoho_id"] for item in plan[mode]] == ["E1"]
    await college.settle()
    assert college.seats() == ({("C1", "S1"): "suspended"} if mode == "suspend" else {})
    assert await college.status("enrollment", "E1") == ("FAILED", f"11:{college.user('S1').id}")
    assert ACTIONS.isdisjoint(await college.plan())
    assert await college.calls() == []


async def test_the_shorter_of_two_stays(college: College) -> None:
    """A seat ends when the last enrollment that still asks for it does."""
    long, short = ({"Start_Date": "2025-01-01", "End_Date": f"{year}-12-31"} for year in (2090, 2080))
    await enrolled(college, enrollment("E1", "S1", "C1", **long), enrollment("E2", "S1", "C1", **short))
    until = college.enrolment(11, "S1").timeend
    await college.send(enrollments={"id": "E1", "status": "Withdrawn"})
    await college.settle()
    assert until - college.enrolment(11, "S1").timeend == (10 * 365 + 2) * 86_400  # two leap years
    assert college.seats() == {("C1", "S1"): "active"}
    assert await college.plan() == {}


@MODES
@pytest.mark.parametrize("same_worker", [True, False])
async def test_a_seat_of_which_no_answer_told(college: College, mode: str, *, same_worker: bool) -> None:
    """A seat that was given without the ledger's hearing of it is given up when its class is deleted."""
    college = college.but(on_withdraw=mode)
    await known(college)
    await college.send(enrollments=enrollment("E1", "S1", "C1"))
    college.moodle.fail(Fault.reset_after, "enrol_manual_enrol_users")
    async with college.worker() as worker:
        with pytest.raises(AwayError):
            await worker.settle()
        assert college.seats() == {("C1", "S1"): "active"}
        await college.send(classes=deleted("C1"))
        await (worker if same_worker else college).settle()
    assert college.seats() == ({("C1", "S1"): "suspended"} if mode == "suspend" else {})
    assert await college.failure("enrollment", "E1") is None
    assert await college.plan() == {}


@MODES
async def test_a_seat_that_the_ledger_did_not_give(college: College, mode: str) -> None:
    """A withdrawn enrollment takes a plain student's seat away, never a teacher's, and leaves one of
    both roles to a person.
    """
    college = college.but(on_withdraw=mode)
    roles = {"S1": [5], "S2": [3], "S3": [3, 5]}
    await college.send(students=[student(s) for s in roles], classes=class_("C1"))
    await college.settle()
    for zoho_id, some in roles.items():
        for role in some:
            college.moodle.site.enrol(11, college.user(zoho_id).id, role)
    await college.send(enrollments=[enrollment(f"E{s}", s, "C1", status="Withdrawn") for s in roles])
    await college.settle()
    left = {("C1", "S1"): "suspended"} if mode == "suspend" else {}
    assert college.seats() == left | {("C1", "S2"): "active", ("C1", "S3"): "active"}
    assert [await college.failure("enrollment", f"E{s}") for s in roles] == [None, None, "other_roles"]
    assert ACTIONS.isdisjoint(await college.plan())


async def test_one_that_moodle_refused_still_wants_it(college: College) -> None:
    """A seat stays when the enrollment that has it is withdrawn and one that was refused asks for it."""
    await enrolled(college)
    college.moodle.site.change_course(11, manual_enrol=False)
    await college.send(enrollments=enrollment("E2", "S1", "C1", Start_Date="2025-01-01"))
    await college.settle()
    assert await college.failure("enrollment", "E2") == "moodle_wsnoinstance"
    college.moodle.site.change_course(11, manual_enrol=True)
    await college.send(enrollments={"id": "E1", "status": "Withdrawn"})
    await college.settle()
    assert college.seats() == {("C1", "S1"): "active"}
    assert await college.failure("enrollment", "E1") is None


@MODES
@pytest.mark.parametrize("by", ["worker", "apply"])
async def test_who_came_by_another_way(college: College, mode: str, by: str) -> None:
    """A person who stays in the course after a withdrawal is for a person to look at, once."""
    college = college.but(on_withdraw=mode)
    await enrolled(college)
    site, user_id = college.moodle.site, college.user("S1").id
    carry_out = site.call

    def stays(function: str | None, params: Any, token: str | None) -> Any:
        answer = carry_out(function, params, token)
        if function is not None and function.startswith("enrol_manual"):
            site.enrol(11, user_id)
        return answer

    site.call = stays  # type: ignore[method-assign,assignment]
    await college.send(enrollments={"id": "E1", "status": "Withdrawn"})
    await (college.settle() if by == "worker" else college.apply())
    assert await college.failure("enrollment", "E1") == "moodle_other_enrolment"
    assert set(await college.plan()) == {"blocked"}
    assert await college.calls() == []


@MODES
async def test_outsiders_where_nobody_is_wanted(college: College, mode: str) -> None:
    """A plan sees, and --prune takes away, who sits in a course in which the ledger wants nobody."""
    college = college.but(on_withdraw=mode)
    await known(college)
    outsider = college.moodle.site.add_user(username="outsider")
    college.moodle.site.enrol(11, outsider)
    plan = await college.plan()
    assert {kind: [item["moodle_id"] for item in items] for kind, items in plan.items()} == {
        "unknown_to_ledger": [f"11:{outsider}"]
    }
    assert await college.apply(prune=True) == (1, 0)
    assert college.seats() == ({("C1", "outsider"): "suspended"} if mode == "suspend" else {})
    assert await college.plan() == {}


async def test_a_former_student_who_teaches(college: College) -> None:
    """A seat that the ledger took away and somebody gave again to a teacher is the teacher's."""
    college = college.but(on_withdraw="unenrol")
    await enrolled(college)
    await college.send(enrollments={"id": "E1", "status": "Withdrawn"})
    await college.settle()
    assert college.seats() == {}
    college.moodle.site.enrol(11, college.user("S1").id, 3)
    assert await college.plan() == {}


@MODES
async def test_a_student_who_teaches(college: College, mode: str) -> None:
    """A seat that the ledger gave is given up once, whatever else the person is in the course."""
    college = college.but(on_withdraw=mode)
    await enrolled(college, enrollment("E1", "S1", "C1", Start_Date="2090-01-01"))
    college.moodle.site.enrol(11, college.user("S1").id, 3, timestart=college.enrolment(11, "S1").timestart)
    await college.send(enrollments={"id": "E1", "status": "Withdrawn"})
    await college.settle()
    assert college.seats() == ({("C1", "S1"): "suspended"} if mode == "suspend" else {})
    assert await college.plan() == {}
