"""Every change in Zoho that means something in Moodle, brought there by the worker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ledger.database import Database
from ledger.installation import Installation
from tests.harness import Ledger
from tests.moodle.college import College, class_, deleted, enrollment, student
from tests.moodle.double import MoodleDouble

READING = frozenset(
    {
        "core_webservice_get_site_info",
        "core_user_get_users_by_field",
        "core_user_get_users",
        "core_course_get_courses_by_field",
        "core_enrol_get_enrolled_users",
        "core_enrol_get_users_courses",
    }
)


@pytest.fixture
def college(ledger: Ledger, moodle: MoodleDouble) -> College:
    """A college whose Moodle has the courses of the classes C1 and C2."""
    for name in ("C1", "C2"):
        moodle.site.add_course(fullname=name, shortname=name, idnumber=name)
    return College(ledger, moodle)


async def enrolled(college: College, **more: Any) -> None:
    """S1 sits in C1, by E1."""
    await college.send(students=student("S1"), classes=[class_("C1"), class_("C2")])
    await college.send(enrollments=enrollment("E1", "S1", "C1", **more))
    await college.settle()
    assert college.seats() == {("C1", "S1"): "active"}


def day(text: str, hour: int = 0, minute: int = 0, second: int = 0) -> int:
    """Epoch seconds of a time of a day in UTC."""
    return int(
        datetime.fromisoformat(text).replace(hour=hour, minute=minute, second=second, tzinfo=UTC).timestamp()
    )


# -- accounts


async def test_changes_of_a_person(college: College) -> None:
    """Address and names follow Zoho in the same account; an emptied value leaves Moodle's own."""
    changes: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "S1": ({"Academic_Email": "new@college.test"}, ("new@college.test", "FS1", "LS1")),
        "S2": ({"Academic_Email": "S2@College.Test"}, ("S2@College.Test", "FS2", "LS2")),
        "S3": ({"First_Name": "Layla", "Last_Name": " Nasser "}, ("s3@college.test", "Layla", "Nasser")),
        "S4": ({"First_Name": ""}, ("s4@college.test", "FS4", "LS4")),
    }
    await college.send(students=[student(zoho_id) for zoho_id in changes])
    await college.settle()
    before = {zoho_id: college.user(zoho_id).id for zoho_id in changes}
    await college.send(students=[{"id": zoho_id, **change} for zoho_id, (change, _) in changes.items()])
    await college.settle()
    for zoho_id, (_, expected) in changes.items():
        user = college.user(zoho_id)
        assert (user.id, user.email, user.firstname, user.lastname) == (before[zoho_id], *expected)
        assert await college.status("student", zoho_id) == ("SYNCED", str(user.id))


@pytest.mark.parametrize(
    ("count", "between"),
    [(2, "nothing"), (2, "same worker"), (2, "new worker"), (3, "nothing"), (3, "new worker")],
)
async def test_addresses_go_round(college: College, count: int, between: str) -> None:
    """Students who swap addresses, or pass them round, all get theirs, whether Moodle is told in
    between or not.
    """
    students = [f"S{number}" for number in range(count)]
    await college.send(students=[student(s, f"{s}@college.test") for s in students])
    wanted = {s: f"{students[(n + 1) % count]}@college.test" for n, s in enumerate(students)}
    async with college.worker() as worker:
        await worker.settle()
        for zoho_id, email in wanted.items():
            await college.send(students={"id": zoho_id, "Academic_Email": email})
            if between == "same worker":
                await worker.settle()
            elif between == "new worker":
                await college.settle()
        await worker.settle()
    assert college.emails() == wanted
    assert {await college.failure("student", s) for s in students} == {None}


@pytest.mark.parametrize("newcomer_first", [True, False])
@pytest.mark.parametrize("between", ["nothing", "same worker", "new worker"])
async def test_an_address_that_another_leaves(
    ledger: Ledger, moodle: MoodleDouble, between: str, *, newcomer_first: bool
) -> None:
    """A new student gets the address of one who has a new one, whichever of the two comes first."""
    college = College(ledger, moodle, username="{zoho_id}")
    await college.send(students=student("S5", "a@college.test"))
    sent = [student("S5", "b@college.test"), student("S1", "a@college.test")]
    async with college.worker() as worker:
        await worker.settle()
        for one in reversed(sent) if newcomer_first else sent:
            await college.send(students=one)
            if between == "same worker":
                await worker.settle()
            elif between == "new worker":
                await college.settle()
        await worker.settle()
    assert college.emails() == {"S1": "a@college.test", "S5": "b@college.test"}


async def test_a_username_of_another(college: College) -> None:
    """Usernames stay as they were made, so one that is taken is for a person to decide on."""
    await college.send(students=student("S1", "a@college.test"))
    await college.settle()
    await college.send(students=[student("S1", "b@college.test"), student("S2", "a@college.test")])
    await college.settle()
    assert await college.failure("student", "S2") == "id_of_another"
    assert college.emails() == {"S1": "b@college.test"}


async def test_two_students_with_one_address(college: College) -> None:
    """One gets it, the other is FAILED until the first has another address or it has one itself."""
    await college.send(students=[student("S1", "x@college.test"), student("S2", "X@college.test")])
    await college.settle()
    assert await college.failure("student", "S1") is None
    assert await college.failure("student", "S2") == "email_taken"
    await college.send(students={"id": "S2", "Academic_Email": "y@college.test"})
    await college.settle()
    assert college.emails() == {"S1": "x@college.test", "S2": "y@college.test"}
    assert await college.failure("student", "S2") is None


@pytest.mark.parametrize(
    ("account", "settings"),
    [
        ({"idnumber": "S1", "username": "someone", "email": "old@college.test"}, {}),
        ({"username": "s1@college.test", "email": "old@college.test"}, {}),
        ({"username": "fs1.ls1", "email": "old@college.test"}, {"username": "{first_name}.{last_name}"}),
        ({"username": "someone", "email": "s1@college.test"}, {}),
        ({"username": "someone", "email": "S1@College.TEST"}, {}),
        ({"username": "s1@college.test", "email": "s1@college.test"}, {}),
        ({"idnumber": "S1", "username": "someone", "email": "s1@college.test", "suspended": True}, {}),
    ],
)
async def test_an_account_that_is_there(
    ledger: Ledger, moodle: MoodleDouble, account: dict[str, Any], settings: dict[str, Any]
) -> None:
    """It is taken over by idnumber, then username, then e-mail in any case; nobody gets a second one."""
    user_id = moodle.site.add_user(**account)
    college = College(ledger, moodle, **settings)
    before = len(moodle.site.tables.users)
    await college.send(students=student("S1"))
    await college.settle()
    user = college.user("S1")
    assert (user.id, len(moodle.site.tables.users)) == (user_id, before)
    assert (user.email, user.firstname, user.suspended) == ("s1@college.test", "FS1", False)
    assert await college.status("student", "S1") == ("SYNCED", str(user_id))
    assert user.username == account["username"], "people keep the name they log in with"


async def test_accounts_that_may_be_anothers(college: College) -> None:
    """Two hits, or another's idnumber: nothing is changed, and the reason says what a person may do."""
    cases: list[tuple[list[dict[str, Any]], str]] = [
        ([{"idnumber": "S0", "username": "a0"}, {"idnumber": "S0", "username": "b0"}], "ambiguous"),
        ([{"username": "s1@college.test"}, {"username": "b1", "email": "s1@college.test"}], "ambiguous"),
        ([{"username": "s2@college.test"}, {"username": "b2", "email": "S2@COLLEGE.test"}], "ambiguous"),
        ([{"username": "s3@college.test", "idnumber": "S9"}], "id_of_another"),
        ([{"username": "b4", "email": "s4@college.test", "idnumber": "S9"}], "id_of_another"),
        ([{"username": "b5", "email": "S5@college.TEST", "idnumber": "S9"}], "id_of_another"),
    ]
    for accounts, _ in cases:
        for account in accounts:
            college.moodle.site.add_user(**account)
    before = dict(college.moodle.site.tables.users)
    numbers = range(len(cases))
    await college.send(students=[student(f"S{n}") for n in numbers], classes=class_("C1"))
    await college.send(enrollments=[enrollment(f"E{n}", f"S{n}", "C1") for n in numbers])
    await college.settle()
    for number, (_, reason) in enumerate(cases):
        assert await college.failure("student", f"S{number}") == reason
        assert await college.status("enrollment", f"E{number}") == ("FAILED", None)
    assert college.moodle.site.tables.users == before


@pytest.mark.parametrize(
    ("email", "settings"),
    [
        ("guest@college.test", {"username": "{local}"}),
        ("wssync@example.test", {}),
        ("WSSYNC@example.test", {}),
    ],
)
async def test_accounts_that_are_nobodys(
    ledger: Ledger, moodle: MoodleDouble, email: str, settings: dict[str, Any]
) -> None:
    """The guest's account and the ledger's own are never a student's."""
    college = College(ledger, moodle, **settings)
    before = dict(moodle.site.tables.users)
    await college.send(students=student("S1", email))
    await college.settle()
    assert await college.failure("student", "S1") == "reserved"
    assert moodle.site.tables.users == before


async def test_what_moodle_does_not_take(college: College) -> None:
    """Such students are FAILED with the reason, and their enrollments are; all others go on; mended
    in Zoho, they are taken up by themselves.
    """
    lacks: dict[str, dict[str, Any]] = {
        "no_email": {"Academic_Email": None},
        "no_first_name": {"First_Name": " "},
        "no_last_name": {"Last_Name": None},
        "bad_email": {"Academic_Email": "layla at college"},
        "bad_name": {"First_Name": "<b>Layla</b>"},
        "name_too_long": {"Last_Name": "N" * 101},
    }
    await college.send(students=[student(reason) | lacking for reason, lacking in lacks.items()])
    await college.send(students=student("S1"), classes=class_("C1"))
    await college.send(enrollments=[enrollment(f"E {s}", s, "C1") for s in ("S1", *lacks)])
    await college.settle()
    for reason in lacks:
        assert await college.failure("student", reason) == reason
        assert await college.status("enrollment", f"E {reason}") == ("FAILED", None)
    assert college.seats() == {("C1", "S1"): "active"}
    assert await college.calls() == [], "they are not tried again by themselves"
    await college.send(students=[student(reason) for reason in lacks])
    await college.settle()
    assert college.seats() == {("C1", s): "active" for s in ("S1", *lacks)}
    assert {await college.failure("student", reason) for reason in lacks} == {None}
    assert {await college.failure("enrollment", f"E {reason}") for reason in lacks} == {None}


# -- withdrawals


WITHDRAWALS: dict[str, dict[str, Any]] = {
    "enrollment's status": {"enrollments": {"id": "E1", "status": "Withdrawn"}},
    "student's status": {"students": {"id": "S1", "Status": "freeze "}},
    "class's status": {"classes": {"id": "C1", "status": "CANCELLED"}},
    "enrollment deleted": {"enrollments": deleted("E1")},
    "student deleted": {"students": deleted("S1")},
    "class deleted": {"classes": deleted("C1")},
}
BACK: dict[str, Any] = {
    "students": student("S1", Status="Active"),
    "classes": class_("C1", status="Active"),
    "enrollments": enrollment("E1", "S1", "C1", status="Active"),
}


@pytest.mark.parametrize("mode", ["suspend", "unenrol"])
@pytest.mark.parametrize("how", WITHDRAWALS)
async def test_withdrawn_and_back(college: College, how: str, mode: str) -> None:
    """Whatever ends an enrollment suspends its seat (or takes it away), an inactive student's account
    is suspended and never deleted, and what comes back gets the same seat again.
    """
    college = college.but(on_withdraw=mode)
    await enrolled(college)
    user_id = college.user("S1").id
    await college.send(**WITHDRAWALS[how])
    await college.settle()
    assert college.seats() == ({("C1", "S1"): "suspended"} if mode == "suspend" else {})
    assert college.user("S1").suspended is how.startswith("student")
    assert await college.failure("enrollment", "E1") is None
    assert await college.failure("student", "S1") is None
    assert await college.calls() == []
    await college.send(**BACK)
    await college.settle()
    assert college.seats() == {("C1", "S1"): "active"}
    assert (college.user("S1").id, college.user("S1").suspended) == (user_id, False)
    assert (await college.status("enrollment", "E1"))[0] == "SYNCED"


@pytest.mark.parametrize("how", WITHDRAWALS)
async def test_withdrawn_before_moodle_heard_of_it(college: College, how: str) -> None:
    """Who was withdrawn before the worker came gets no seat, and an inactive student no account."""
    await college.send(**BACK)
    await college.send(**WITHDRAWALS[how])
    await college.settle()
    assert college.seats() == {}
    assert (college.moodle.site.user_by_idnumber("S1") is None) is how.startswith("student")
    assert await college.failure("enrollment", "E1") is None


@pytest.mark.parametrize("mode", ["suspend", "unenrol"])
async def test_withdrawn_before_the_seat_s_time(college: College, mode: str) -> None:
    """A seat whose time has not come, or is over, is given up like any other: Moodle shows it as not
    active, and it would become so by itself.
    """
    college = college.but(on_withdraw=mode)
    await enrolled(college, Start_Date="2090-01-01")
    await college.send(enrollments={"id": "E1", "status": "Withdrawn"})
    await college.settle()
    assert college.seats() == ({("C1", "S1"): "suspended"} if mode == "suspend" else {})


async def test_seats_of_times_to_come(college: College) -> None:
    """Many seats whose time has not come, or is over, are counted back as those of now."""
    students = [f"S{number:02}" for number in range(40)]
    await college.send(students=[student(s) for s in students], classes=class_("C1"))
    times = [{"Start_Date": "2090-01-01"}, {"End_Date": "2000-01-01"}]
    await college.send(
        enrollments=[enrollment("E" + s, s, "C1", **times[n % 2]) for n, s in enumerate(students)]
    )
    await college.settle()
    assert {await college.failure("enrollment", "E" + s) for s in students} == {None}
    assert college.seats() == {("C1", s): "active" for s in students}


async def test_another_class(college: College) -> None:
    """An enrollment that moves to another class leaves its old seat and takes the new one."""
    await enrolled(college)
    await college.send(enrollments={"id": "E1", "BTEC_Class": "C2"})
    await college.settle()
    assert college.seats() == {("C1", "S1"): "suspended", ("C2", "S1"): "active"}
    await college.send(enrollments={"id": "E1", "BTEC_Class": "C1"})
    await college.settle()
    assert college.seats() == {("C1", "S1"): "active", ("C2", "S1"): "suspended"}


async def test_another_student(college: College) -> None:
    """An enrollment that turns out to be another student's takes the first one's seat away."""
    await enrolled(college)
    await college.send(students=student("S2"))
    await college.send(enrollments={"id": "E1", "Student": "S2"})
    await college.settle()
    assert college.seats() == {("C1", "S1"): "suspended", ("C1", "S2"): "active"}


@pytest.mark.parametrize("who", ["class", "program"])
async def test_another_course(college: College, who: str) -> None:
    """Where the course that a class or its program names changes, its students move there."""
    first, second = (college.moodle.site.add_course(shortname=name) for name in ("first", "second"))
    key = "Moodle_Class_ID" if who == "class" else "Moodle_ID"

    async def name(course_id: int) -> None:
        if who == "class":
            await college.send(classes=class_("C", Moodle_Class_ID=str(course_id)))
        else:
            await college.send(
                programs={"id": "P", "Product_Name": "P", key: str(course_id)},
                classes=class_("C", BTEC_Program="P"),
            )

    async with college.worker() as worker:
        await name(first)
        await college.send(students=student("S1"), enrollments=enrollment("E1", "S1", "C"))
        await worker.settle()
        assert college.seats() == {("first", "S1"): "active"}
        await name(second)
        await worker.settle()
    assert college.seats() == {("first", "S1"): "suspended", ("second", "S1"): "active"}
    assert await college.status("class", "C") == ("SYNCED", str(second))
    assert await college.calls() == []


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"Moodle_Class_ID": "17"}, {"id": 17}),
        ({"Moodle_Class_ID": "maths-17"}, {"idnumber": "maths-17"}),
        ({}, {"idnumber": "C"}),
        ({"BTEC_Program": "P"}, {"idnumber": "whole"}),
    ],
)
async def test_where_a_course_is(college: College, more: dict[str, Any], place: dict[str, Any]) -> None:
    """Digits of the class are a course id, a text an idnumber; else the class's Zoho id; else the program's."""
    course_id = college.moodle.site.add_course(shortname="it", **place)
    await college.send(programs={"id": "P", "Product_Name": "P", "Moodle_ID": "whole"})
    await college.send(
        students=student("S1"), classes=class_("C", **more), enrollments=enrollment("E1", "S1", "C")
    )
    await college.settle()
    assert college.seats() == {("it", "S1"): "active"}
    assert await college.status("class", "C") == ("SYNCED", str(course_id))


# -- one seat for several enrollments


async def test_two_enrollments_of_one_seat(college: College) -> None:
    """The seat stays as long as one of them asks for it, with the times of those that do."""
    site = college.moodle.site
    await college.send(students=student("S1"), classes=class_("C1"))
    await college.send(
        enrollments=[
            enrollment("E1", "S1", "C1", Start_Date="2026-01-10", End_Date="2026-06-30"),
            enrollment("E2", "S1", "C1", Start_Date="2026-07-01", End_Date="2099-12-31"),
        ]
    )
    await college.settle()
    [(course_id, _)] = site.seats()
    seat = college.enrolment(course_id, "S1")
    assert (seat.timestart, seat.timeend) == (day("2026-01-10"), day("2099-12-31", 23, 59, 59))
    await college.send(enrollments={"id": "E1", "status": "Dropped"})
    await college.settle()
    seat = college.enrolment(course_id, "S1")
    assert not seat.suspended
    assert (seat.timestart, seat.timeend) == (day("2026-07-01"), day("2099-12-31", 23, 59, 59))
    assert await college.status("enrollment", "E1") == await college.status("enrollment", "E2")
    await college.send(enrollments={"id": "E2", "status": "Dropped"})
    await college.settle()
    assert college.seats() == {("C1", "S1"): "suspended"}
    await college.send(enrollments={"id": "E1", "status": "Active"})
    await college.settle()
    assert college.seats() == {("C1", "S1"): "active"}


async def test_an_open_end_wins(college: College) -> None:
    """An enrollment without dates keeps a shared seat open."""
    await college.send(students=student("S1"), classes=class_("C1"))
    await college.send(
        enrollments=[
            enrollment("E1", "S1", "C1", Start_Date="2026-01-10", End_Date="2026-06-30"),
            enrollment("E2", "S1", "C1"),
        ]
    )
    await college.settle()
    [(course_id, _)] = college.moodle.site.seats()
    seat = college.enrolment(course_id, "S1")
    assert (seat.timestart, seat.timeend) == (0, 0)


async def test_one_of_two_moves(college: College) -> None:
    """The one that moves to another class leaves the shared seat to the other."""
    await enrolled(college, Start_Date="2026-01-10")
    await college.send(enrollments=enrollment("E2", "S1", "C1"))
    await college.settle()
    await college.send(enrollments={"id": "E2", "BTEC_Class": "C2"})
    await college.settle()
    assert college.seats() == {("C1", "S1"): "active", ("C2", "S1"): "active"}


# -- times


async def test_times_are_kept(ledger: Ledger, moodle: MoodleDouble) -> None:
    """A seat has the enrollment's first and last second in the college's zone, and every later
    change sends them again, since Moodle forgets what is left out.
    """
    course_id = moodle.site.add_course(shortname="C1", idnumber="C1")
    college = College(ledger, moodle, zone="Asia/Amman")
    await enrolled(college, Start_Date="2026-01-10", End_Date="2099-06-30")
    times = day("2026-01-09", 21), day("2099-06-30", 20, 59, 59)
    for change, suspended in (
        (None, False),
        ({"enrollments": {"id": "E1", "status": "Withdrawn"}}, True),
        ({"enrollments": {"id": "E1", "status": "Active"}}, False),
        ({"students": {"id": "S1", "Status": "Freeze"}}, True),
        ({"students": {"id": "S1", "Status": "Active"}}, False),
        ({"classes": {"id": "C1", "BTEC_Class_Name": "Other"}}, False),
    ):
        if change is not None:
            await college.send(**change)
            await college.settle()
        seat = college.enrolment(course_id, "S1")
        assert (seat.suspended, (seat.timestart, seat.timeend)) == (suspended, times), change
    await college.send(enrollments={"id": "E1", "End_Date": None})
    await college.settle()
    seat = college.enrolment(course_id, "S1")
    assert (seat.timestart, seat.timeend) == (times[0], 0)


# -- courses


async def test_courses_are_made_where_allowed(ledger: Ledger, moodle: MoodleDouble) -> None:
    """With MOODLE_CREATE_COURSES a class without a course gets one, under a short name that is free."""
    moodle.site.add_category(id=7, name="Classes")
    dates = {"Start_Date": "2026-01-10", "End_Date": "2026-06-30"}
    college = College(ledger, moodle)
    await college.send(
        students=student("S1"),
        classes=[
            class_("C1", Class_Short_Name="MA", **dates),
            class_("C2", Class_Short_Name="MA"),
            class_("C3", Moodle_Class_ID="own"),
            class_("C4", Moodle_Class_ID="4711"),
        ],
        enrollments=[enrollment(f"E{n}", "S1", f"C{n}") for n in range(1, 5)],
    )
    await college.settle()
    assert {await college.failure("class", f"C{n}") for n in range(1, 5)} == {"no_course"}
    assert {(await college.status("enrollment", f"E{n}"))[0] for n in range(1, 5)} == {"FAILED"}
    assert len(moodle.site.tables.courses) == 1
    college = college.but(create_courses=True, category_id=7)
    await college.settle()
    made = {c.idnumber: c for c in moodle.site.tables.courses.values() if c.id != 1}
    assert sorted(made) == ["C1", "C2", "own"], "a course id cannot be chosen"
    assert {c.shortname for c in made.values()} == {"MA", "MA (C2)", "Class C3"}
    assert {c.categoryid for c in made.values()} == {7}
    assert (made["C1"].startdate, made["C1"].enddate) == (day("2026-01-10"), day("2026-06-30", 23, 59, 59))
    assert await college.failure("class", "C4") == "no_course"
    assert set(college.seats()) == {("MA", "S1"), ("MA (C2)", "S1"), ("Class C3", "S1")}
    assert await college.calls() == []


async def test_classes_of_one_course(ledger: Ledger, moodle: MoodleDouble) -> None:
    """Classes that name the same idnumber share one new course, and a student of both has one seat."""
    college = College(ledger, moodle, create_courses=True)
    await college.send(
        students=student("S1"),
        classes=[class_("C1", Moodle_Class_ID="both"), class_("C2", Moodle_Class_ID="both")],
        enrollments=[enrollment("E1", "S1", "C1"), enrollment("E2", "S1", "C2")],
    )
    await college.settle()
    assert list(college.seats().values()) == ["active"]
    assert await college.status("class", "C1") == await college.status("class", "C2")
    await college.send(enrollments={"id": "E1", "status": "Withdrawn"})
    await college.settle()
    assert list(college.seats().values()) == ["active"]


async def test_a_hidden_course(college: College) -> None:
    """A course that students cannot see is used all the same; one that the token cannot see is not
    made a second time.
    """
    college = college.but(create_courses=True)
    college.moodle.site.add_course(shortname="C3", idnumber="C3", visible=0)
    await college.send(students=student("S1"), classes=class_("C3"), enrollments=enrollment("E3", "S1", "C3"))
    await college.settle()
    assert college.seats() == {("C3", "S1"): "active"}
    college.moodle.site.tokens["sync"].capabilities -= {"moodle/course:viewhiddencourses"}
    college.moodle.site.add_course(shortname="C4", idnumber="C4", visible=0)
    await college.send(classes=class_("C4"), enrollments=enrollment("E4", "S1", "C4"))
    await college.settle()
    assert await college.failure("class", "C4") == "moodle_courseidnumbertaken"
    assert len(college.moodle.site.tables.courses) == 5


# -- what was done in Moodle by hand


@pytest.mark.parametrize("same_worker", [True, False])
async def test_an_account_deleted_in_moodle(college: College, *, same_worker: bool) -> None:
    """It is made anew as soon as the student is needed again, with all the seats that it had."""
    await enrolled(college)
    first = college.user("S1").id
    async with college.worker() as worker:
        await worker.settle()
        await college.send(enrollments=enrollment("E0", "S1", "C1"))
        await worker.settle()  # it knows the account now
        college.moodle.site.delete_user(first)
        await college.send(enrollments=enrollment("E2", "S1", "C2"))
        await (worker if same_worker else college).settle()
    assert college.user("S1").id != first
    assert college.seats() == {("C1", "S1"): "active", ("C2", "S1"): "active"}
    assert await college.status("student", "S1") == ("SYNCED", str(college.user("S1").id))
    assert await college.failure("enrollment", "E2") is None


@pytest.mark.parametrize("same_worker", [True, False])
async def test_a_course_deleted_in_moodle(ledger: Ledger, moodle: MoodleDouble, *, same_worker: bool) -> None:
    """It is made anew, where courses are made, as soon as somebody is to sit in it, and all who sat in
    the old one do so in it.
    """
    college = College(ledger, moodle, create_courses=True)
    await college.send(students=[student("S1"), student("S2")], classes=class_("C1"))
    await college.send(enrollments=enrollment("E1", "S1", "C1"))
    async with college.worker() as worker:
        await worker.settle()
        with moodle.locked() as site:
            [(course_id, user_id)] = site.seats()
            del site.tables.courses[course_id], site.tables.enrolments[course_id, user_id]
        await college.send(enrollments=enrollment("E2", "S2", "C1"))
        await (worker if same_worker else college).settle()
    assert college.seats() == {("Class C1", "S1"): "active", ("Class C1", "S2"): "active"}
    [made] = {course for course, _ in moodle.site.seats()}
    assert made != course_id
    assert await college.status("class", "C1") == ("SYNCED", str(made))


async def test_an_account_suspended_in_moodle(college: College) -> None:
    """An active student's account is opened again when something of the student changes."""
    await enrolled(college)
    site = college.moodle.site
    user = college.user("S1")
    site.tables.users[user.id] = type(user)(
        id=user.id, username=user.username, email=user.email, idnumber="S1", suspended=True
    )
    await college.send(students={"id": "S1", "First_Name": "Layla"})
    await college.settle()
    assert (college.user("S1").firstname, college.user("S1").suspended) == ("Layla", False)


# -- settings


async def test_moodle_comes_later(ledger: Ledger, moodle: MoodleDouble) -> None:
    """What came while there was no Moodle is worked off when there is one."""
    moodle.site.add_course(shortname="C1", idnumber="C1")
    college = College(ledger, moodle, enabled=False)
    await college.send(**BACK)
    await college.send(students=student("S2", Status="Withdrawn"))
    college = college.but(enabled=True)
    await college.settle()
    assert college.seats() == {("C1", "S1"): "active"}
    assert {
        await college.failure(*name) for name in (("student", "S1"), ("class", "C1"), ("enrollment", "E1"))
    } == {None}


async def test_other_inactive_statuses(college: College) -> None:
    """A new worker works off what other MOODLE_INACTIVE_STATUSES mean, and nothing else."""
    await enrolled(college, status="Paused")
    paused = college.but(inactive_statuses=frozenset({"paused"}))
    await paused.settle()
    assert college.seats() == {("C1", "S1"): "suspended"}
    assert await paused.calls() == []
    await college.settle()
    assert college.seats() == {("C1", "S1"): "active"}


async def test_another_role(college: College) -> None:
    """Another MOODLE_STUDENT_ROLE_ID is given to those who sit there already."""
    await enrolled(college)
    await college.but(student_role_id=4).settle()
    [enrolment] = college.moodle.site.tables.enrolments.values()
    assert 4 in enrolment.roles


async def test_another_moodle(college: College, other_moodle: MoodleDouble) -> None:
    """With another base URL the ids of the old Moodle mean nothing, and the new one gets all."""
    await enrolled(college)
    other_moodle.site.add_user(username="somebody")
    other_moodle.site.add_course(shortname="C1", idnumber="C1", id=40)
    other_moodle.site.add_course(shortname="C2", idnumber="C2")
    before = len(college.moodle.calls)
    there = college.but(moodle=other_moodle)
    assert await there.status("student", "S1") == ("QUEUED", None)
    await there.settle()
    assert there.seats() == {("C1", "S1"): "active"}
    assert await there.status("enrollment", "E1") == ("SYNCED", f"40:{there.user('S1').id}")
    assert len(college.moodle.calls) == before


async def test_two_colleges(
    installation: Installation, database: Database, moodle: MoodleDouble, other_moodle: MoodleDouble
) -> None:
    """Tenants with equal Zoho ids have Moodles of their own: nothing of one reaches the other's."""
    ledgers = [Ledger(installation, database, f"t-{moodle.token[:8]}{number}") for number in range(2)]
    colleges = [
        College(ledger, double) for ledger, double in zip(ledgers, (moodle, other_moodle), strict=True)
    ]
    moodle.site.add_course(shortname="C1", idnumber="C1")
    other_moodle.site.add_course(shortname="C1", idnumber="C1")
    for number, college in enumerate(colleges):
        await college.send(
            students=student("S1", f"only{number}@college.test"),
            classes=class_("C1"),
            enrollments=enrollment("E1", "S1", "C1", status=("Active", "Withdrawn")[number]),
        )
        await college.settle()
    assert [college.seats() for college in colleges] == [{("C1", "S1"): "active"}, {}]
    assert [college.emails() for college in colleges] == [{"S1": f"only{n}@college.test"} for n in range(2)]
    for number, college in enumerate(colleges):
        sent = " ".join(value for call in college.moodle.calls for value in call.params.values())
        assert f"only{1 - number}" not in sent
    for ledger in ledgers:
        await ledger.close()


# -- rest


async def test_a_second_run_calls_nothing(college: College) -> None:
    """Where all is done, or failed, or waits, a new worker does not call Moodle at all."""
    await enrolled(college)
    await college.send(
        students=[student("S2") | {"Academic_Email": None}, student("S3", Status="Withdrawn")],
        classes=class_("C9"),
        programs={"id": "P", "Product_Name": "P"},
        enrollments=[
            enrollment("E2", "S2", "C1"),
            enrollment("E3", "S3", "C1"),
            enrollment("E4", "S1", "C9"),
            enrollment("E5", "S1", "unknown"),
        ],
    )
    await college.settle()
    assert await college.calls() == []
    assert {call.function for call in college.moodle.calls} <= READING | {
        "core_user_create_users",
        "enrol_manual_enrol_users",
    }


async def test_a_renamed_student_without_an_account(college: College) -> None:
    """An account that was deleted in Moodle comes back with its seats when anything of the student changes."""
    await enrolled(college)
    college.moodle.site.delete_user(college.user("S1").id)
    await college.send(students={"id": "S1", "First_Name": "Layla"})
    await college.settle()
    assert (college.user("S1").firstname, college.seats()) == ("Layla", {("C1", "S1"): "active"})
    assert await college.calls() == []


async def test_an_idnumber_given_to_another_course(college: College) -> None:
    """Where an administrator gives a class's idnumber to another course, its students move there as soon
    as somebody new is to sit in it.
    """
    await enrolled(college)
    site = college.moodle.site
    [course_id] = [c.id for c in site.tables.courses.values() if c.idnumber == "C1"]
    site.change_course(course_id, idnumber="")
    site.add_course(shortname="new", idnumber="C1")
    await college.send(students=student("S2"), enrollments=enrollment("E2", "S2", "C1"))
    await college.settle()
    assert college.seats() == {("C1", "S1"): "suspended", ("new", "S1"): "active", ("new", "S2"): "active"}
    assert await college.calls() == []


async def test_a_class_that_names_another_course_while_it_is_away(college: College) -> None:
    """A worker forgets where it found a course when the class names another one, deleted or not."""
    await enrolled(college)
    await college.send(classes=class_("C1", Moodle_Class_ID="C2"))
    await college.send(classes=deleted("C1"))
    async with college.worker() as worker:
        await worker.settle()
        assert college.seats() == {("C1", "S1"): "suspended"}
        await college.send(classes=class_("C1", Moodle_Class_ID=None))
        await worker.settle()
    assert college.seats() == {("C1", "S1"): "active"}
