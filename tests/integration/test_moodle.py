"""Moodle follows the ledger: the worker, against a double of Moodle over real HTTP."""

from __future__ import annotations

from tests.harness import Ledger
from tests.moodle.college import College, student
from tests.moodle.double import MoodleDouble


async def test_an_enrolled_student_sits_in_the_course(ledger: Ledger, moodle: MoodleDouble) -> None:
    course = moodle.site.add_course(fullname="Maths", shortname="M", idnumber="C1")
    college = College(ledger, moodle)
    await ledger.post("students", student("S1"))
    await ledger.post("classes", {"id": "C1", "BTEC_Class_Name": "Maths"})
    await ledger.post("enrollments", {"id": "E1", "Student": "S1", "BTEC_Class": "C1"})
    await college.settle()
    user = moodle.site.user_by_idnumber("S1")
    assert moodle.site.seats() == {(course, user.id): False}
    assert (user.email, user.firstname, user.lastname) == ("s1@college.test", "FS1", "LS1")
    assert await college.status("student", "S1") == ("SYNCED", str(user.id))
    assert await college.status("class", "C1") == ("SYNCED", str(course))
    assert await college.status("enrollment", "E1") == ("SYNCED", f"{course}:{user.id}")
    before = len(moodle.calls)
    await college.settle()
    assert len(moodle.calls) == before, "nothing is left to do"
