"""Whatever goes wrong with a call, Moodle ends at the wanted state, nothing is made twice, and the
ledger tells what came of each call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from projections.moodle.client import AwayError, MoodleError
from projections.moodle.report import Report, Reporter
from projections.moodle.site import FoundCourse, Site
from tests.harness import Ledger
from tests.moodle.college import student
from tests.moodle.double import MoodleDouble
from tests.moodle.faults import Fault
from tests.moodle.outcomes import ITEMS, told, written
from tests.moodle.persistent import Persistent

TIMEOUT = 0.3
SLOW = {Fault.slow, Fault.timeout_before, Fault.timeout_after}


@pytest.fixture
async def make(ledger: Ledger, moodle: MoodleDouble) -> AsyncIterator[Any]:
    """Makes the college, with settings."""
    made: list[Persistent] = []

    def make(**settings: Any) -> Persistent:
        made.append(Persistent(ledger, moodle, **settings))
        return made[-1]

    yield make
    for college in made:
        await college.lasting.close()


LEAVERS = ["S1", "S2", "S3", "S4", "S5"]
FUNCTIONS = [
    "core_webservice_get_site_info",
    "core_user_get_users_by_field",
    "core_user_get_users",
    "core_user_create_users",
    "core_user_update_users",
    "core_course_get_courses_by_field",
    "core_course_create_courses",
    "core_enrol_get_enrolled_users",
    "core_enrol_get_users_courses",
    "enrol_manual_enrol_users",
    "enrol_manual_unenrol_users",
]


async def changed(ledger: Ledger, college: Persistent) -> None:
    """A college in which every function of Moodle's is needed to follow what has changed."""
    site = college.moodle.site
    for name in ("C1", "C2"):
        site.add_course(fullname=name, shortname=name, idnumber=name)
        await ledger.post("classes", {"id": name, "BTEC_Class_Name": name})
    everybody = [*LEAVERS, "S6"]
    await ledger.post("students", *map(student, everybody))
    seats = [{"id": f"E{s}", "Student": s, "BTEC_Class": "C1", "status": "Active"} for s in LEAVERS]
    await ledger.post("enrollments", *seats, {"id": "ES6", "Student": "S6", "BTEC_Class": "C2"})
    assert await college.through() == []
    await college.restart()
    # found by nothing but a look-up that does not tell upper from lower case
    site.add_user(username="by-hand", email="N2@College.test")
    withdrawn = [{"id": f"E{s}", "status": "Withdrawn"} for s in LEAVERS]
    await ledger.post("enrollments", *withdrawn, {"id": "ES6", "BTEC_Class": "C1"})
    await ledger.post("students", {"id": "S6", "Last_Name": "Changed"}, student("N1"), student("N2"))
    await ledger.post("classes", {"id": "C3", "BTEC_Class_Name": "C3"})
    await ledger.post(
        "enrollments",
        {"id": "EN1", "Student": "N1", "BTEC_Class": "C3"},
        {"id": "EN2", "Student": "N2", "BTEC_Class": "C1"},
    )


async def check(college: Persistent, on_withdraw: str) -> None:
    """Moodle is as wanted, nothing is there twice, the ledger knows it, and nothing is left to do."""
    everybody = [*LEAVERS, "S6", "N1", "N2"]
    assert college.accounts() == Counter(everybody)
    courses = Counter(c.idnumber for c in college.moodle.site.tables.courses.values() if c.idnumber)
    assert courses == Counter(["C1", "C2", "C3"])
    for name in everybody:
        user = college.moodle.site.user_by_idnumber(name)
        assert user is not None
        assert (user.email, user.firstname, user.suspended) == (
            f"{name.lower()}@college.test",
            "F" + name,
            False,
        )
        assert user.lastname == ("Changed" if name == "S6" else "L" + name)
        assert await college.status("student", name) == ("SYNCED", str(user.id))
        assert (await college.status("enrollment", "E" + name))[0] == "SYNCED"
    gone = [*(("C1", s) for s in LEAVERS), ("C2", "S6")] if on_withdraw == "suspend" else []
    taken = [("C1", "S6"), ("C3", "N1"), ("C1", "N2")]
    assert college.seats() == {**dict.fromkeys(gone, "suspended"), **dict.fromkeys(taken, "active")}
    assert await college.plan() == {}
    assert await college.ledger.live() == await college.ledger.rebuilt()


WRITES = [function for function in FUNCTIONS if function in ITEMS]
AFTER = [Fault.reset_after, Fault.slow, Fault.timeout_after, Fault.garbage_after]
"""Those that hide what was done."""
ALWAYS = {
    **{f: [Fault.reset_before, Fault.token_revoked, Fault.dmlwriteexception] for f in FUNCTIONS},
    **{f: [Fault.timeout_before, Fault.dmlwriteexception, *AFTER] for f in WRITES},
    "core_user_create_users": list(Fault),
}
"""The faults that no run leaves out; the others are much like one of these."""


def cases() -> Iterator[Any]:
    """Each fault at each function; a seat is taken, suspended and given up."""
    ways = [(function, "unenrol") for function in FUNCTIONS] + [("enrol_manual_enrol_users", "suspend")]
    for function, on_withdraw in ways:
        for fault in Fault:
            marks = () if fault in ALWAYS[function] else pytest.mark.soak
            yield pytest.param(fault, function, on_withdraw, marks=marks)


@pytest.mark.parametrize(("fault", "function", "on_withdraw"), [*cases()])
async def test_a_fault_at_any_call(
    ledger: Ledger, moodle: MoodleDouble, make: Any, fault: Fault, function: str, on_withdraw: str
) -> None:
    """The run after a fault ends where a run without one ends; each answered write is told."""
    timeout = TIMEOUT if fault in SLOW else 5.0
    college = make(create_courses=True, on_withdraw=on_withdraw, timeout=timeout)
    await changed(ledger, college)
    before, calls_before = Counter(t.key for t in await told(ledger)), len(moodle.calls)
    moodle.fail(fault, function)
    errors = await college.through()
    calls = moodle.calls[calls_before:]
    hit = next(call for call in calls if call.function == function)
    harmless = fault is Fault.dmlwriteexception and function in WRITES
    assert bool(errors) != harmless, "Moodle's trouble is noticed, a lost race is tried again"
    await check(college, on_withdraw)
    answered = [call for call in calls if call is not hit and call.status == 200 and not call.errorcode]
    news = Counter(t.key for t in await told(ledger)) - before
    assert not written(answered) - news, "an outcome is not in the ledger"


MANY = [f"S{number}" for number in range(9)]


async def test_a_bad_account_in_a_batch(ledger: Ledger, moodle: MoodleDouble, make: Any) -> None:
    """Moodle makes none of a batch in which one username is taken; all but that one are made."""
    moodle.site.add_user(username="s4@college.test", email="other@college.test", idnumber="OTHER")
    college = make()
    await ledger.post("students", *map(student, MANY))
    await college.through()
    assert college.accounts() == Counter([*MANY, "OTHER"]) - Counter(["S4"])
    found = {s: await college.reason("student", s) for s in MANY}
    assert found.pop("S4") == ("FAILED", "id_of_another")
    assert set(found.values()) == {("SYNCED", None)}


async def test_a_bad_change_in_a_batch(ledger: Ledger, moodle: MoodleDouble, make: Any) -> None:
    """An administrator's account is not to be changed; the others are."""
    admin = moodle.site.tables.users[2]
    moodle.site.tables.users[2] = msgspec.structs.replace(admin, idnumber="S4")
    college = make()
    await ledger.post("students", *map(student, MANY))
    await college.through()
    await ledger.post("students", *({"id": s, "Last_Name": "Changed"} for s in MANY))
    await college.through()
    assert await college.reason("student", "S4") == ("FAILED", "moodle_usernotupdatedadmin")
    changed = {u.idnumber: u.lastname for u in moodle.site.live_users() if u.idnumber}
    assert changed.pop("S4") == "User"
    assert changed == dict.fromkeys((s for s in MANY if s != "S4"), "Changed")


async def test_a_bad_course_in_a_batch(ledger: Ledger, moodle: MoodleDouble, make: Any) -> None:
    """A course that the token cannot see has the idnumber of one; the others are made."""
    sync = moodle.site.tokens["sync"]
    sync.capabilities -= {"moodle/course:viewhiddencourses"}
    moodle.site.add_course(idnumber="C4", visible=0)
    college = make(create_courses=True)
    names = [f"C{number}" for number in range(9)]
    await ledger.post("classes", *({"id": name, "Class_Name": name} for name in names))
    await college.through()
    found = {name: await college.reason("class", name) for name in names}
    assert found.pop("C4") == ("FAILED", "moodle_courseidnumbertaken")
    assert set(found.values()) == {("SYNCED", None)}


@pytest.mark.parametrize("on_withdraw", ["suspend", "unenrol"])
async def test_a_bad_seat_in_a_batch(
    ledger: Ledger, moodle: MoodleDouble, make: Any, on_withdraw: str
) -> None:
    """A course without manual enrolment gives and takes no seat; those in others are given and taken."""
    courses = [f"C{number}" for number in range(4)]
    ids = {name: moodle.site.add_course(idnumber=name, shortname=name) for name in courses}
    college = make(on_withdraw=on_withdraw)
    await ledger.post("students", *map(student, MANY))
    await ledger.post("classes", *({"id": name, "Class_Name": name} for name in courses))
    pairs = {f"E{s}{c}": (c, s) for s in MANY for c in courses}
    bad = {e for e, (c, _) in pairs.items() if c == "C2"}
    moodle.site.change_course(ids["C2"], manual_enrol=False)
    await ledger.post("enrollments", *({"id": e, "Student": s, "Class": c} for e, (c, s) in pairs.items()))
    await college.through()
    good = {pairs[e]: "active" for e in pairs if e not in bad}
    assert college.seats() == good
    for e in pairs:
        assert await college.reason("enrollment", e) == (
            ("FAILED", "moodle_wsnoinstance") if e in bad else ("SYNCED", None)
        )
    moodle.site.change_course(ids["C2"], manual_enrol=True)
    moodle.site.change_course(ids["C3"], manual_enrol=False)
    await ledger.post("enrollments", *({"id": e, "status": "Withdrawn"} for e in pairs))
    await college.through()
    stuck = {key: "active" for key in good if key[0] == "C3"}
    left = {key: "suspended" for key in good if key[0] != "C3"} if on_withdraw == "suspend" else {}
    assert college.seats() == {**stuck, **left}
    for e, (c, _) in pairs.items():
        assert await college.reason("enrollment", e) == (
            ("FAILED", "moodle_wsnoinstance") if c == "C3" else ("SYNCED", None)
        )


@pytest.mark.parametrize("most", [99, 100, 101, 102, 150])
async def test_a_site_that_drops_fields(ledger: Ledger, moodle: MoodleDouble, make: Any, most: int) -> None:
    """PHP's max_input_vars drops what is too much without a word: that is noticed, and once it is as
    Moodle demands, everybody has one account and one seat.
    """
    college = make()
    names = [f"S{number}" for number in range(40)]
    moodle.site.add_course(idnumber="C", shortname="C")
    await ledger.post("students", *map(student, names))
    await ledger.post("classes", {"id": "C", "Class_Name": "C"})
    await ledger.post("enrollments", *({"id": f"E{s}", "Student": s, "Class": "C"} for s in names))
    moodle.site.settings.max_input_vars = most
    with pytest.raises(MoodleError):
        await college.lasting.settle()
    moodle.site.settings.max_input_vars = 5000
    await college.through()
    assert college.accounts() == Counter(names)
    assert college.seats() == {("C", s): "active" for s in names}
    assert await college.plan() == {}


async def test_silently_dropped_seats_are_counted(ledger: Ledger, moodle: MoodleDouble, make: Any) -> None:
    """Seats that Moodle said it gave, and did not give, are not reported as given."""
    college = make()
    names = [f"S{number}" for number in range(40)]
    moodle.site.add_course(idnumber="C", shortname="C")
    await ledger.post("students", *map(student, names))
    await ledger.post("classes", {"id": "C", "Class_Name": "C"})
    await college.through()
    await ledger.post("enrollments", *({"id": f"E{s}", "Student": s, "Class": "C"} for s in names))
    carry_out = moodle.site.call

    def forgetful(function: str | None, params: Any, token: str | None) -> Any:
        if function == "enrol_manual_enrol_users":
            seats = list(params["enrolments"].items())
            params = {"enrolments": dict(seats[:16])}
        return carry_out(function, params, token)

    moodle.site.call = forgetful  # type: ignore[method-assign,assignment]
    with pytest.raises(AwayError, match="max_input_vars"):
        await college.lasting.settle()
    assert {(await college.reason("enrollment", f"E{s}"))[0] for s in names} == {"QUEUED"}
    moodle.site.call = carry_out  # type: ignore[method-assign]
    await college.through()
    assert college.seats() == {("C", s): "active" for s in names}


async def test_batches_of_any_size_fit_a_call(ledger: Ledger, moodle: MoodleDouble, make: Any) -> None:
    """MOODLE_BATCH may be set to more than a call to Moodle may have."""
    college = make(batch=10_000)
    names = [f"S{number}" for number in range(900)]
    await ledger.post("students", *({"id": name, "status": "Active"} for name in names))
    await college.through()
    assert await college.reason("student", names[-1]) == ("FAILED", "no_email")
    assert (await college.plan()).keys() == {"blocked"}


class BrokenSite(Site):
    """A site on which a defect of the ledger's own shows: it fails on one course."""

    async def courses_at(self, place: Any) -> list[FoundCourse]:
        if place == ("idnumber", "C2"):
            raise ZeroDivisionError
        return await super().courses_at(place)


async def test_a_defect_parks_one_record(ledger: Ledger, moodle: MoodleDouble, make: Any) -> None:
    """Records on which the ledger itself fails are parked with a report, and the others go on."""
    college = make()
    for name in ("C1", "C2"):
        moodle.site.add_course(idnumber=name, shortname=name)
        await ledger.post("classes", {"id": name, "Class_Name": name})
    await ledger.post("students", student("S1"), student("S2"))
    await ledger.post("enrollments", *({"id": f"E{n}", "Student": f"S{n}", "Class": f"C{n}"} for n in (1, 2)))
    college.lasting._site = BrokenSite(college.lasting._client, college.settings.moodle)
    await college.through()
    assert college.accounts() == Counter(["S1", "S2"])
    assert college.seats() == {("C1", "S1"): "active"}
    assert await college.reason("class", "C2") == ("FAILED", "error")
    assert await college.reason("enrollment", "E2") == ("FAILED", None), "its class has no course"
    assert await college.reason("enrollment", "E1") == ("SYNCED", None)
    await college.restart()
    again = [Report(("class", "C2"), None, {"call": None}, again=True)]
    await Reporter(ledger.lane, ledger.tenant, moodle.url)(again, source="cli")
    await college.through()
    assert college.seats() == {("C1", "S1"): "active", ("C2", "S2"): "active"}
    assert await college.plan() == {}


@pytest.mark.parametrize("has_account", [False, True])
async def test_an_address_taken_in_other_letters(
    ledger: Ledger, moodle: MoodleDouble, make: Any, has_account: bool
) -> None:
    """Moodle's exact look-up does not find `Taken@` for `taken@`, and Moodle refuses it all the same:
    that is said once, and planned again only when the address is free.
    """
    college = make()
    holder = moodle.site.add_user(email="Taken@College.test", idnumber="OTHER")
    if has_account:
        await ledger.post("students", student("S1"))
        await college.through()
    await ledger.post("students", student("S1", "taken@college.test"))
    await college.through()
    assert (await college.status("student", "S1"))[0] == "FAILED"
    assert (await college.plan()).keys() == {"blocked"}
    moodle.site.delete_user(holder)
    assert (await college.plan()).keys() == {"update_users" if has_account else "create_users"}
    await college.apply()
    assert college.user("S1").email == "taken@college.test"
