"""What it takes to bring a Moodle to the wanted state: reads what Moodle has, compares, writes nothing.

The worker plans for the records that changed, `sync-ledger moodle plan` for all of them; both
are this one comparison. Accounts are found anew by the student's Zoho id, courses by their
places: Moodle's ids of former days are not trusted, since a Moodle may have been replaced.
"""

from __future__ import annotations

from collections.abc import Iterable

from ledger.pace import in_turns
from projections.moodle import rules
from projections.moodle.accounts import Accounts, Load
from projections.moodle.draft import Draft
from projections.moodle.plan import Plan
from projections.moodle.seats import Seats, former_student
from projections.moodle.site import Site, together
from projections.moodle.wanted import FAILED, Course, Place, Seat, Wanted
from projections.state import Name


class Planner:
    """Plans for one Moodle. `users` and `courses`: Moodle's ids that were found so far, by student
    and by record; they hold as long as they are kept, courses while they are sought at the places
    in `sought`. `whole`: everything is read and compared, seats too. Otherwise what Moodle has
    acknowledged is not read again. `unsure`: enrollments whose call had no answer. `doubtful`:
    records whose such a call may have landed late.
    """

    def __init__(
        self,
        site: Site,
        wanted: Wanted,
        load: Load,
        *,
        whole: bool = False,
        own_id: int = 0,
        unsure: Iterable[str] = (),
        doubtful: Iterable[Name] = (),
        users: dict[str, int] | None = None,
        courses: dict[Name, int] | None = None,
        sought: dict[Name, tuple[Place, ...]] | None = None,
    ) -> None:
        self._site = site
        self._wanted = wanted
        self.users: dict[str, int] = {} if users is None else users
        self.courses: dict[Name, int] = {} if courses is None else courses
        self._sought: dict[Name, tuple[Place, ...]] = {} if sought is None else sought
        self._draft = Draft(site, wanted, self.users, self.courses, whole=whole, doubtful=frozenset(doubtful))
        self.plan = self._draft.plan
        self._seats = Seats(self._draft, frozenset(unsure))
        self.accounts = Accounts(self._draft, load, own_id)

    async def make(
        self, students: Iterable[str], courses: Iterable[Name], enrollments: Iterable[str]
    ) -> Plan:
        """The plan for some records. For an enrollment that is named, all enrollments of its student
        must be named, since they may share a seat. Raises as `Site` does.
        """
        draft = self._draft
        seats = [
            seat
            async for enrollment in in_turns(enrollments)
            if (seat := self._wanted.seat(enrollment)) is not None
        ]
        named, named_courses = frozenset(students), frozenset(courses)
        students, courses = set(named), set(named_courses)
        async for seat in in_turns(seats):
            if seat.student and self._wanted.user(seat.student):
                if seat.active:
                    students.add(seat.student)
                if seat.course is not None:
                    courses.add(seat.course)
        if not draft.whole:
            students = {
                s async for s in in_turns(students) if s not in self.users or draft.is_open(("student", s))
            }
            students = {s async for s in in_turns(students) if s in named or not self._failed(("student", s))}
            courses = {c for c in courses if c in named_courses or not self._failed(c)}
        await self.accounts.make(students)
        leaving = {s for seat in seats for s in (seat.student, self._former(seat)) if s}
        await self.accounts.find(leaving - self.users.keys())
        await self._plan_courses(sorted(courses))
        await self._seats.make(seats)
        return draft.plan

    def _failed(self, name: Name) -> bool:
        """Whether it is known that there is no account or course: then it is not looked for again for a
        seat's sake.
        """
        known = self._wanted.known(name)
        if known.reason is None or known.moodle_id is not None or self._wanted.status(name) != FAILED:
            return False
        self._draft.blocked[name] = (known.reason, known.said or "")
        return True

    def _former(self, seat: Seat) -> str | None:
        """The student for whom Moodle acknowledged an enrollment's seat, who may be another one now."""
        return former_student(self._wanted.known(("enrollment", seat.zoho_id)))

    async def _plan_courses(self, names: list[Name]) -> None:
        """Courses: the first of a record's places that Moodle has; else one that is to be made."""
        draft = self._draft
        wanted = [course for name in names if (course := self._wanted.course(name)) is not None]
        places: dict[Place, list[int]] = {}

        async def look(course: Course) -> None:
            self.courses.pop(course.name, None)
            self._sought[course.name] = course.places
            found: list[int] = []
            for place in course.places:
                if place not in places:
                    places[place] = [at.id for at in await self._site.courses_at(place)]
                found = places[place]
                if len(found) > 1:
                    said = (
                        f"Moodle has several courses with {place[0]} {place[1]}: give it to one of them alone"
                    )
                    draft.block(course.name, ("ambiguous", said), course.asked)
                if found:
                    break
            if len(found) == 1:
                self.courses[course.name] = found[0]

        await together(look, [course for course in wanted if course.places and self._is_sought(course)])
        for course in wanted:
            if course.asked is not None and course.name not in draft.blocked:
                self._plan_course(course)

    def _is_sought(self, course: Course) -> bool:
        """Whether a course is to be looked for, and not just where it was found before."""
        found = course.name in self.courses and self._sought.get(course.name) == course.places
        return self._draft.whole or not found or self._draft.is_open(course.name)

    def _plan_course(self, course: Course) -> None:
        draft = self._draft
        course_id = self.courses.get(course.name)
        if course_id is not None:
            draft.settle(course.name, str(course_id), course.asked)
        elif course.idnumber is None:
            tried = " or ".join(f"{field} {value}" for field, value in course.places)
            reason = ("no_course", f"Moodle has no course with {tried}: make one, or correct it in Zoho")
            draft.block(course.name, reason, course.asked)
        elif refused := (
            rules.course_problem(course.fullname, course.shortname, course.idnumber)
            or draft.refused_before(course.name, course.asked)
        ):
            draft.block(course.name, refused, course.asked)
        else:
            draft.plan.create_courses.append(course)
