"""Whatever goes wrong with a call, Moodle ends at the wanted state, nothing is made twice, and the
ledger tells what came of each call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from projections.moodle.client import MoodleError
from projections.moodle.whole import Whole
from projections.moodle.worker import Worker
from tests.harness import Ledger
from tests.integration.test_moodle import College, student
from tests.moodle.double import MoodleDouble
from tests.moodle.faults import Fault
from tests.moodle.outcomes import ITEMS, told, written

TIMEOUT = 0.3
SLOW = {Fault.slow, Fault.timeout_before, Fault.timeout_after}


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


class Persistent(College):
    """A college whose worker stays the same, whatever its Moodle does."""

    def __init__(self, ledger: Ledger, moodle: MoodleDouble, **settings: Any) -> None:
        super().__init__(ledger, moodle, **settings)
        self.worker = self._new_worker()

    def _new_worker(self) -> Worker:
        return Worker(self.ledger.database, self.ledger.tenant, self.settings, self.ledger.lane)

    async def restart(self) -> None:
        """Another process takes over."""
        await self.worker.close()
        self.worker = self._new_worker()

    async def through(self) -> list[MoodleError]:
        """Settles, again after each error, when Moodle can be reached again; the errors."""
        errors: list[MoodleError] = []
        while True:
            try:
                await self.worker.settle()
            except MoodleError as error:
                errors.append(error)
                assert len(errors) < 5, errors
                self.moodle.listen()
                self.moodle.restore_token()
            else:
                return errors

    async def plan(self) -> dict[str, list[Any]]:
        """The kinds of things that a whole plan finds to do."""
        whole = Whole(self.ledger.database, self.ledger.tenant, self.settings)
        try:
            plan, _, _ = await whole.plan(await whole.rows())
        finally:
            await whole.client.close()
        return {kind: items for kind, items in plan.document().items() if items}

    def accounts(self) -> Counter[str]:
        """How many accounts there are by idnumber."""
        return Counter(user.idnumber for user in self.moodle.site.live_users() if user.idnumber)

    def seats(self) -> dict[tuple[str, str], bool]:
        """By the idnumbers of course and account, whether the seat is suspended."""
        tables = self.moodle.site.tables
        return {
            (tables.courses[course].idnumber, tables.users[user].idnumber): suspended
            for (course, user), suspended in self.moodle.site.seats().items()
        }


@pytest.fixture
async def make(ledger: Ledger, moodle: MoodleDouble) -> AsyncIterator[Any]:
    """Makes the college, with settings."""
    made: list[Persistent] = []

    def make(**settings: Any) -> Persistent:
        made.append(Persistent(ledger, moodle, **settings))
        return made[-1]

    yield make
    for college in made:
        await college.worker.close()


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
    await ledger.post("classes", {"id": "C3", "BTEC_Class_Name": "New"})
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
    left = {**{("C1", s): True for s in LEAVERS}, ("C2", "S6"): True} if on_withdraw == "suspend" else {}
    assert college.seats() == {**left, ("C1", "S6"): False, ("C3", "N1"): False, ("C1", "N2"): False}
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
