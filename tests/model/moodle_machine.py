"""Random histories of a college, of its Moodle and of what goes wrong between them; at the end, when
nothing goes wrong any more, Moodle is as a small model of the contract has it.
"""

from __future__ import annotations

import unicodedata
import uuid
from collections import Counter
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from projections.moodle.client import MoodleError
from tests.harness import Ledger
from tests.model.machine import World
from tests.moodle.college import College
from tests.moodle.double import MoodleDouble
from tests.moodle.faults import Fault
from tests.moodle.outcomes import ITEMS, told, written
from tests.moodle.persistent import Persistent
from tests.moodle.tables import User

STUDENTS, CLASSES = ["S1", "S2", "S3", "S4"], ["C1", "C2", "C3"]
PROGRAMS, ENROLLMENTS = ["P1", "P2"], ["E1", "E2", "E3", "E4", "E5"]
EMAILS = ["a@x.test", "A@X.test", "b@x.test", "c@x.test", "d@x.test", "e@x.test"]
STATUSES = ["Active", "Active", "Active", None, "Odd", "withdrawn", " Free\u00a0ze \u200f", "EXPELLED"]
TAKES_NO_SEAT = {
    "withdrawn", "withdraw", "cancelled", "canceled", "dropped", "suspended", "blocked", "freeze", "freezed",
    "inactive", "expelled", "terminated",
}  # fmt: skip
BY_HAND = ["Hand 1", "Hand 2"]  # short names and idnumbers of courses that somebody made
PLACES = [None, None, None, "2", "Hand 1", "Hand 2", "3"]
NOWHERE, NEW_COURSE = "99", "Another"
TIMEOUT = 0.3

QUICK = [fault for fault in Fault if not {"timeout", "slow"} & set(fault.split("_"))]
AFTER = {Fault.reset_after, Fault.garbage_after, Fault.timeout_after, Fault.slow}
FUNCTIONS = [
    *ITEMS,
    *ITEMS,
    "core_webservice_get_site_info",
    "core_user_get_users_by_field",
    "core_user_get_users",
    "core_course_get_courses_by_field",
    "core_enrol_get_enrolled_users",
    "core_enrol_get_users_courses",
]


class MoodleWorld(World):
    """A Moodle, too, is shared by the examples."""

    moodle: MoodleDouble


class Student(msgspec.Struct):
    """As Zoho has it; None where it was never sent or is deleted, as with the other kinds."""

    first: str | None
    last: str | None
    email: str | None
    status: str | None


class Class(msgspec.Struct):
    name: str
    status: str | None
    program: str | None
    moodle_id: str | None


class Enrollment(msgspec.Struct):
    student: str
    class_: str
    status: str | None


def counts(status: str | None) -> bool:
    """Whether a status takes part."""
    seen = [c for c in (status or "").lower() if not c.isspace() and unicodedata.category(c) != "Cf"]
    return "".join(seen) not in TAKES_NO_SEAT


class Model:
    """What the contract says of the wanted state, read off records and a Moodle."""

    def __init__(self, site: Any, template: str) -> None:
        self.site = site
        self._template = template
        self.students: dict[str, Student] = {}
        self.classes: dict[str, Class] = {}
        self.programs: dict[str, str | None] = {}
        self.enrollments: dict[str, Enrollment] = {}

    def account(self, student: str) -> User | None:
        """The account of a student; never are there two."""
        found = [user for user in self.site.live_users() if user.idnumber == student]
        assert len(found) < 2, f"two accounts of {student}"
        return found[0] if found else None

    def _at(self, moodle_id: str | None) -> int | None:
        courses = self.site.tables.courses
        if moodle_id is None:
            return None
        if moodle_id.isdigit():
            return int(moodle_id) if int(moodle_id) in courses else None
        found = [course.id for course in courses.values() if course.idnumber == moodle_id]
        assert len(found) < 2, f"two courses {moodle_id}"
        return found[0] if found else None

    def course(self, name: str) -> int | None:
        """A class's course."""
        class_ = self.classes[name]
        if class_.moodle_id is not None:
            return self._at(class_.moodle_id)
        return self._at(name) or self._at(self.programs.get(class_.program or ""))

    def seats(self) -> set[tuple[int, int]]:
        """The seats that are to be taken, as (course id, user id)."""
        found = set()
        for enrollment in self.enrollments.values():
            student, class_ = self.students.get(enrollment.student), self.classes.get(enrollment.class_)
            if student is None or class_ is None:
                continue
            if not all(counts(record.status) for record in (enrollment, student, class_)):
                continue
            user, course = self.account(enrollment.student), self.course(enrollment.class_)
            if user is not None and course is not None:
                found.add((course, user.id))
        return found

    def stuck(self) -> set[str]:
        """Students who cannot have their account as it is to be: a value is missing, or another account
        has the address or the username, and does not leave it.
        """
        stuck: set[str] = set()
        while True:
            more = {s for s in self.students if s not in stuck and self._is_stuck(s, stuck)}
            if not more:
                return stuck
            stuck |= more

    def _is_stuck(self, name: str, stuck: set[str]) -> bool:
        student, own = self.students[name], self.account(name)
        if not counts(student.status):
            return False
        if own is None and not (student.first and student.last and student.email):
            return True
        email = (student.email or "").lower()
        if not email or (own is not None and own.email.lower() == email):
            return False
        login = self._template.format(email=email, zoho_id=name.lower())
        for user in self.site.live_users():
            if user is own:
                continue
            if own is None and user.username == login:
                return True
            if user.email.lower() == email and not self._leaves(user, stuck):
                return True
        return False

    def _leaves(self, user: User, stuck: set[str]) -> bool:
        other = self.students.get(user.idnumber)
        return (
            other is not None
            and counts(other.status)
            and other.email is not None
            and other.email.lower() != user.email.lower()
            and user.idnumber not in stuck
        )


class MoodleMachine(RuleBasedStateMachine):
    """A college and its Moodle."""

    world: type[MoodleWorld] = MoodleWorld

    def run(self, coroutine: Any) -> Any:
        """Runs a coroutine in the shared loop."""
        return self.world.loop.run_until_complete(coroutine)

    @initialize(
        on_withdraw=st.sampled_from(["suspend", "unenrol"]),
        template=st.sampled_from(["{zoho_id}", "{email}"]),
        batch=st.sampled_from([2, 100]),
        hands=st.booleans(),
    )
    def found(self, on_withdraw: str, template: str, batch: int, hands: bool) -> None:
        """A college with two courses that somebody has made. `hands`: somebody works in Moodle, too, of
        which nothing tells the worker.
        """
        self.moodle = self.world.moodle
        self.moodle.reset()
        self.moodle.slow_seconds = 2 * TIMEOUT
        for name in BY_HAND:
            self.moodle.site.add_course(shortname=name, fullname=name, idnumber=name)
        tenant = f"m-{uuid.uuid4().hex[:12]}"
        self.ledger = Ledger(self.world.installation, self.world.database, tenant)
        self.college = Persistent(
            self.ledger,
            self.moodle,
            create_courses=True,
            on_withdraw=on_withdraw,
            username=template,
            batch=batch,
            concurrency=1,
            timeout=TIMEOUT,
        )
        self.model = Model(self.moodle.site, template)
        self.strays: set[tuple[int, int]] = set()
        self.on_withdraw = on_withdraw
        self.hands = hands

    # -- Zoho

    def _post(self, plural: str, record: dict[str, Any]) -> None:
        [result] = self.run(self.ledger.post(plural, record))["results"]
        assert result["status"] in ("NEW", "UPDATED", "UNCHANGED", "DELETED") or "waiting_for" in result

    @rule(
        name=st.sampled_from(STUDENTS),
        first=st.sampled_from(["Anna", "Ben", "Anna", None]),
        last=st.sampled_from(["Abel", "Bell"]),
        email=st.sampled_from([*EMAILS, *EMAILS, None]),
        status=st.sampled_from(STATUSES),
    )
    def student(self, name: str, **values: Any) -> None:
        """A student comes or changes."""
        self.model.students[name] = student = Student(**values)
        self._post(
            "students",
            {
                "id": name,
                "First_Name": student.first,
                "Last_Name": student.last,
                "Academic_Email": student.email,
                "Status": student.status,
            },
        )

    @rule(one=st.sampled_from(STUDENTS), other=st.sampled_from(STUDENTS))
    def swap(self, one: str, other: str) -> None:
        """Two students change their addresses for each other's."""
        students = self.model.students
        if one in students and other in students and one != other:
            first, second = students[one], students[other]
            for name, now, email in ((one, first, second.email), (other, second, first.email)):
                self.student(name, **{**msgspec.structs.asdict(now), "email": email})

    @rule(
        name=st.sampled_from(CLASSES),
        title=st.sampled_from(["Maths", "Art", "Hand 1"]),
        status=st.sampled_from(STATUSES),
        program=st.sampled_from([None, *PROGRAMS]),
        moodle_id=st.sampled_from([*PLACES, *PLACES, NOWHERE, NEW_COURSE]),
    )
    def class_(self, name: str, title: str, **values: Any) -> None:
        """A class comes or changes."""
        self.model.classes[name] = class_ = Class(title, **values)
        self._post(
            "classes",
            {
                "id": name,
                "Class_Name": title,
                "Class_Status": class_.status,
                "BTEC_Program": class_.program,
                "Moodle_Class_ID": class_.moodle_id,
            },
        )

    @rule(name=st.sampled_from(PROGRAMS), moodle_id=st.sampled_from(PLACES))
    def program(self, name: str, moodle_id: str | None) -> None:
        """A program comes or changes."""
        self.model.programs[name] = moodle_id
        self._post("programs", {"id": name, "Product_Name": name, "Moodle_ID": moodle_id})

    @rule(
        name=st.sampled_from(ENROLLMENTS),
        student=st.sampled_from(STUDENTS),
        class_=st.sampled_from(CLASSES),
        status=st.sampled_from(STATUSES),
    )
    def enrollment(self, name: str, **values: Any) -> None:
        """An enrollment comes, changes or moves."""
        self.model.enrollments[name] = enrollment = Enrollment(**values)
        self._post(
            "enrollments",
            {
                "id": name,
                "Student": enrollment.student,
                "BTEC_Class": enrollment.class_,
                "status": enrollment.status,
            },
        )

    @rule(
        name=st.sampled_from(ENROLLMENTS),
        student=st.sampled_from(STUDENTS[:2]),
        class_=st.sampled_from(CLASSES[:2]),
        soon=st.booleans(),
    )
    def join(self, name: str, student: str, class_: str, soon: bool) -> None:
        """Somebody joins a class, perhaps once more, with all that it takes to have a seat."""
        if student not in self.model.students:
            self.student(student, first="F", last="L", email=f"{student.lower()}@x.test", status="Active")
        if class_ not in self.model.classes:
            self.class_(class_, class_, status="Active", program=None, moodle_id=None)
        self.enrollment(name, student=student, class_=class_, status="Active")
        if soon:
            self.settle()

    @precondition(lambda self: self.model.enrollments)
    @rule(data=st.data(), soon=st.booleans())
    def withdraw(self, data: Any, soon: bool) -> None:
        """Somebody leaves a class."""
        name = data.draw(st.sampled_from(sorted(self.model.enrollments)))
        now = msgspec.structs.asdict(self.model.enrollments[name])
        self.enrollment(name, **{**now, "status": "withdrawn"})
        if soon:
            self.settle()

    @rule(data=st.data())
    def move(self, data: Any) -> None:
        """An enrollment that is there moves to another class, or becomes another student's."""
        if enrollments := self.model.enrollments:
            name = data.draw(st.sampled_from(sorted(enrollments)))
            now = msgspec.structs.asdict(enrollments[name])
            key, pool = data.draw(st.sampled_from([("class_", CLASSES), ("student", STUDENTS)]))
            self.enrollment(name, **{**now, key: data.draw(st.sampled_from(pool))})

    @rule(data=st.data(), plural=st.sampled_from(["students", "classes", "programs", "enrollments"]))
    def delete(self, data: Any, plural: str) -> None:
        """A record is deleted in Zoho."""
        records: dict[str, Any] = getattr(self.model, plural)
        if records:
            name = data.draw(st.sampled_from(sorted(records)))
            del records[name]
            self._post(plural, {"id": name, "Record_Status__s": "Trash"})

    # -- somebody in Moodle

    def _known(self) -> list[User]:
        return [user for user in self.moodle.site.live_users() if user.idnumber] if self.hands else []

    @precondition(lambda self: self._known())
    @rule(
        data=st.data(),
        change=st.sampled_from(
            [{"suspended": True}, {"suspended": False}, {"firstname": "Hand"}, {"lastname": "Hand"}, {}, {}]
        ),
        email=st.sampled_from(EMAILS),
    )
    def edit_account(self, data: Any, change: dict[str, Any], email: str) -> None:
        """Somebody edits an account."""
        user = data.draw(st.sampled_from(self._known()), label="account")
        others = {u.email.lower() for u in self.moodle.site.live_users() if u.id != user.id}
        if not change and email.lower() not in others:
            change = {"email": email}
        self.moodle.site.tables.users[user.id] = msgspec.structs.replace(user, **change)

    @precondition(lambda self: self._known())
    @rule(data=st.data())
    def delete_account(self, data: Any) -> None:
        """Somebody deletes an account."""
        user = data.draw(st.sampled_from(self._known()), label="account")
        self.moodle.site.delete_user(user.id)

    @precondition(lambda self: self.hands)
    @rule(email=st.sampled_from(EMAILS))
    def make_account(self, email: str) -> None:
        """Somebody makes an account without an idnumber."""
        users = list(self.moodle.site.live_users())
        if email.lower() not in {user.email.lower() for user in users}:
            self.moodle.site.add_user(email=email)

    @precondition(lambda self: self.hands and self.moodle.site.seats())
    @rule(data=st.data(), how=st.sampled_from(["take away", "suspend", "activate"]))
    def edit_seat(self, data: Any, how: str) -> None:
        """Somebody takes a seat away, suspends it, or lets a person in again."""
        seats = self.moodle.site.tables.enrolments
        key = data.draw(st.sampled_from(sorted(seats)), label="seat")
        if how == "take away":
            del seats[key]
            return
        seats[key] = msgspec.structs.replace(seats[key], suspended=how == "suspend")
        if how == "activate":
            self.strays.add(key)

    # -- between the two

    @rule(
        fault=st.sampled_from([*QUICK, *QUICK, *QUICK, *Fault]),
        function=st.sampled_from(FUNCTIONS),
        nth=st.sampled_from([1, 1, 1, 2, 3]),
    )
    def fault(self, fault: Fault, function: str, nth: int) -> None:
        """Something will go wrong."""
        self.moodle.fail(fault, function, nth)

    @rule()
    def settle(self) -> None:
        """The worker works, until something goes wrong; each write of a run without trouble is told."""
        self._attempt(self.college.lasting.settle())

    @rule()
    def apply(self) -> None:
        """Somebody lets the whole of Moodle be brought to the wanted state."""
        self._attempt(self.college.apply(), forgets=True)

    def _attempt(self, work: Any, *, forgets: bool = False) -> None:
        calls, before = len(self.moodle.calls), self._told()
        try:
            self.run(work)
        except MoodleError:
            self.moodle.listen()
            self.moodle.restore_token()
            if forgets:
                self._forget(calls)
        else:
            made = [c for c in self.moodle.calls[calls:] if c.fault is None and not c.errorcode]
            # an address that is not free yet is asked for again: twice asked, told once
            asked = {key for c in made if not _makes_way(c.params) for key in written([c])}
            untold = asked - (self._told() - before).keys()
            assert not untold, f"an outcome is not in the ledger: {untold}"
            if not self.hands:
                self._check_seats()

    def _told(self) -> Counter[Any]:
        return Counter(t.key for t in self.run(told(self.ledger)))

    def _forget(self, since: int) -> None:
        """Nobody remembers seats that were given without an answer: if their enrollments move before they
        are looked at again, they stay, and a plan names them.
        """
        for call in self.moodle.calls[since:]:
            if call.function == "enrol_manual_enrol_users" and call.fault in AFTER:
                self.strays |= {(int(key[1]), int(key[2])) for key in written([call]) if key[3] == "0"}

    @rule()
    def time_passes(self) -> None:
        """A call without an answer must have ended by now."""
        self.run(self.college.let_time_pass())

    @rule()
    def restart(self) -> None:
        """Another process takes over."""
        self.run(self.college.restart())
        self._forget(0)

    # -- the end

    def teardown(self) -> None:
        """Nothing goes wrong any more: Moodle comes to the wanted state."""
        if not hasattr(self, "college"):
            return
        try:
            self.moodle.spare()
            self.college.wait_longer()
            self.restart()
            self.time_passes()
            self.run(self.college.lasting.settle())
            if not self.hands:
                self._check()
            self.run(self.college.apply())
            self._check()
        finally:
            self.run(self.college.lasting.close())
            self.run(self.ledger.close())

    def _check(self) -> None:
        model = self.model
        stuck = model.stuck()
        plan = self.run(self.college.plan())
        blocked = {(item["entity"], item["zoho_id"]) for item in plan.pop("blocked", [])}
        unknown = {item["moodle_id"] for item in plan.pop("unknown_to_ledger", [])}
        assert plan == {}, f"a plan after an apply is empty: {plan}"
        assert unknown <= {f"{course}:{user}" for course, user in self.strays}
        for name, student in model.students.items():
            user = model.account(name)
            if not counts(student.status):
                assert user is None or user.suspended
            elif name in stuck:
                assert ("student", name) in blocked
            else:
                assert user is not None, f"{name} has no account"
                assert ("student", name) not in blocked
                assert not user.suspended
                for wanted, has in (
                    (student.email, user.email),
                    (student.first, user.firstname),
                    (student.last, user.lastname),
                ):
                    assert wanted in (None, has)
        for name, class_ in model.classes.items():
            assert not counts(class_.status) or class_.moodle_id == NOWHERE or model.course(name) is not None
        self._check_seats()
        assert self.run(self.ledger.live()) == self.run(self.ledger.rebuilt())
        self._ids()

    def _check_seats(self) -> None:
        wanted = self.model.seats()
        seats = self.moodle.site.seats()
        assert {key for key in wanted if seats.get(key) is not False} == set(), "a seat is missing"
        others = {key: suspended for key, suspended in seats.items() if key not in wanted | self.strays}
        left = others if self.on_withdraw == "unenrol" else [key for key in others if not others[key]]
        assert not left, f"seats are left: {left}"

    def _ids(self) -> None:
        """The ledger knows Moodle's id of whatever is as it is to be."""
        for name in self.model.students:
            status, moodle_id = self.run(self.college.status("student", name))
            user = self.model.account(name)
            if status == "SYNCED" and user is not None:
                assert moodle_id == str(user.id)
            assert status != "QUEUED"


def _makes_way(params: dict[str, str]) -> bool:
    """Whether an account gets an address of nobody's for a moment, which nobody is told of."""
    return any(value.endswith("@moving.invalid") for value in params.values())


__all__ = ["College", "MoodleMachine", "MoodleWorld"]
