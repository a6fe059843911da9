"""What it takes to bring a Moodle to the wanted state: reads what Moodle has, compares, writes nothing.

The worker plans for the records that changed, `sync-ledger moodle plan` for all of them; both
are this one comparison. Accounts are found anew by the student's Zoho id, courses by their
places: Moodle's ids of former days are not trusted, since a Moodle may have been replaced.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

import msgspec

from ledger import clock
from projections.moodle import rules
from projections.moodle.client import RefusedError
from projections.moodle.rules import Reason
from projections.moodle.site import Account, Occupied, Site, together
from projections.moodle.wanted import FAILED, Course, Known, Place, Seat, User, Wanted
from projections.state import Name

GUEST = 1
REFUSED_BY_MOODLE = "moodle_"
"""Reasons that begin so were Moodle's own and cannot be foreseen; they hold until somebody asks
to try again, or the record changes.
"""

_ID_OF_ANOTHER: Reason = (
    "id_of_another",
    (
        "the account with this e-mail address or username has another student's idnumber: "
        "correct the address in Zoho, or the account in Moodle"
    ),
)
_AMBIGUOUS: Reason = (
    "ambiguous",
    "more than one account in Moodle may be this student's: put the Zoho id into the idnumber of the right one",
)
_EMAIL_TAKEN: Reason = (
    "email_taken",
    "another account in Moodle has this e-mail address: correct it in Zoho, or the account in Moodle",
)
_USERNAME_TAKEN: Reason = ("username_taken", "another student has the same username: see MOODLE_USERNAME")
_RESERVED: Reason = (
    "reserved",
    "the account with this e-mail address or username is the guest's or the ledger's own",
)


class AccountChange(msgspec.Struct):
    """An account that differs. `changes`: Moodle's field -> (old, new)."""

    user: User
    account_id: int
    changes: dict[str, tuple[Any, Any]]


class SeatChange(msgspec.Struct):
    """A seat to be taken (`enrol`), suspended or given up (`unenrol`), for some enrollments: those
    that ask for it, and of one that others still ask for, those that just ceased to. The ids are
    None where the course or account is still to be made.
    """

    kind: str
    student: str
    course: Name | None
    course_id: int | None
    user_id: int | None
    start: int
    end: int
    was: str
    enrollments: list[Seat]


class Unknown(msgspec.Struct):
    """A seat that Moodle has and the ledger does not know of."""

    course_id: int
    user_id: int
    idnumber: str
    student: str | None


class Blocked(msgspec.Struct):
    """What cannot be done, and why. `asked` None: it is not to be reported."""

    name: Name
    moodle_id: str | None
    reason: Reason
    asked: str | None


class Settled(msgspec.Struct):
    """A record of which Moodle has all that is wanted."""

    name: Name
    moodle_id: str | None
    asked: str


class Plan(msgspec.Struct):
    """Everything to be done, in the order in which it is done."""

    update_users: list[AccountChange] = []
    create_users: list[User] = []
    create_courses: list[Course] = []
    seats: list[SeatChange] = []
    unknown: list[Unknown] = []
    blocked: list[Blocked] = []
    settled: list[Settled] = []

    @property
    def count(self) -> int:
        """How many things are to be done."""
        return len(self.update_users) + len(self.create_users) + len(self.create_courses) + len(self.seats)

    def document(self) -> dict[str, list[dict[str, Any]]]:
        """As `sync-ledger moodle plan --json` prints it."""
        of_kind: dict[str, list[dict[str, Any]]] = {"enrol": [], "suspend": [], "unenrol": []}
        for seat in self.seats:
            new: dict[str, Any] = {"seat": {"old": seat.was, "new": _STATES[seat.kind]}}
            if seat.kind == "enrol":
                new |= {
                    k: {"old": None, "new": v}
                    for k, v in (("timestart", seat.start), ("timeend", seat.end))
                    if v
                }
            of_kind[seat.kind] += [
                {"zoho_id": e.zoho_id, "moodle_id": _seat_id(seat.course_id, seat.user_id), "changes": new}
                for e in seat.enrollments
                if e.active or seat.kind != "enrol"
            ]
        return {
            "create_users": [
                {
                    "zoho_id": user.zoho_id,
                    "moodle_id": None,
                    "changes": {k: {"old": None, "new": v} for k, v in new_account(user).items()},
                }
                for user in self.create_users
            ],
            "update_users": [
                {
                    "zoho_id": change.user.zoho_id,
                    "moodle_id": str(change.account_id),
                    "changes": {k: {"old": old, "new": new} for k, (old, new) in change.changes.items()},
                }
                for change in self.update_users
            ],
            "create_courses": [
                {
                    "zoho_id": course.name[1],
                    "moodle_id": None,
                    "changes": {
                        "fullname": {"old": None, "new": course.fullname},
                        "idnumber": {"old": None, "new": course.idnumber},
                    },
                }
                for course in self.create_courses
            ],
            **of_kind,
            "unknown_to_ledger": [
                {
                    "zoho_id": seat.student,
                    "moodle_id": _seat_id(seat.course_id, seat.user_id),
                    "reason": f"a seat in course {seat.course_id} that no enrollment of the ledger asks for"
                    + (f" (idnumber {seat.idnumber})" if seat.idnumber and not seat.student else ""),
                }
                for seat in self.unknown
            ],
            "blocked": [
                {
                    "zoho_id": blocked.name[1],
                    "moodle_id": blocked.moodle_id,
                    "entity": blocked.name[0],
                    "reason": blocked.reason[1],
                }
                for blocked in self.blocked
            ],
        }


_STATES = {"enrol": "active", "suspend": "suspended", "unenrol": "none"}

Load = Callable[[Iterable[Name]], Awaitable[None]]
"""Reads more records into the wanted state, with those that they depend on."""


class Planner:
    """Plans for one Moodle. `users` and `courses`: Moodle's ids that were found so far, by student
    and by record; they hold as long as the planner is used.

    `unsure`: enrollments whose call had no answer; their seats are looked for before they are asked
    for again. `whole`: everything is read and compared, seats too. Otherwise what Moodle has acknowledged
    is not read again. `fresh`: Moodle is another one, so that what it acknowledged is void.
    """

    def __init__(
        self,
        site: Site,
        wanted: Wanted,
        load: Load,
        *,
        whole: bool = False,
        fresh: bool = False,
        own_id: int = 0,
        unsure: Collection[str] = (),
        users: dict[str, int] | None = None,
        courses: dict[Name, int] | None = None,
    ) -> None:
        self._site = site
        self._wanted = wanted
        self._load = load
        self._whole = whole
        self._fresh = fresh
        self._unsure = unsure
        self._reserved = {GUEST, own_id}
        self.users = {} if users is None else users
        self.courses = {} if courses is None else courses
        self.plan = Plan()
        self._done_users: set[str] = set()
        self._blocked: set[Name] = set()
        self._unreadable: dict[int, Reason] = {}
        self._left_to_others: set[str] = set()

    async def make(
        self, students: Iterable[str], courses: Iterable[Name], enrollments: Iterable[str]
    ) -> Plan:
        """The plan for some records. For an enrollment that is named, all enrollments of its student
        must be named, since they may share a seat. Raises as `Site` does.
        """
        seats = [seat for e in enrollments if (seat := self._wanted.seat(e)) is not None]
        students, courses = set(students), set(courses)
        for seat in seats:
            if seat.student and self._wanted.user(seat.student):
                if seat.active:
                    students.add(seat.student)
                if seat.course is not None:
                    courses.add(seat.course)
        if not self._whole:
            students = {s for s in students if s not in self.users or self._open(("student", s))}
        await self._plan_users(students)
        released = {
            s for seat in seats for s in (seat.student, self._former(seat)) if s and s not in self.users
        }
        await self._find(released - self._done_users)
        await self._plan_courses(sorted(courses))
        await self._plan_seats(seats)
        return self.plan

    def _former(self, seat: Seat) -> str | None:
        """The student for whom Moodle acknowledged an enrollment's seat, who may be another one now."""
        return former_student(self._wanted.known(("enrollment", seat.zoho_id)))

    async def _find(self, students: Iterable[str]) -> None:
        """Accounts of students of whom nothing is wanted but that they leave a seat."""
        found: dict[str, list[Account]] = {}
        for account in await self._site.users_by("idnumber", sorted(students)):
            found.setdefault(account.idnumber, []).append(account)
        self.users.update({s: accounts[0].id for s, accounts in found.items() if len(accounts) == 1})

    def _open(self, name: Name) -> bool:
        return self._fresh or self._wanted.status(name) != "SYNCED"

    def _block(self, name: Name, reason: Reason, asked: str | None, moodle_id: str | None = None) -> None:
        self._blocked.add(name)
        if reason[0].startswith(REFUSED_BY_MOODLE):  # it was reported when Moodle refused it
            asked, moodle_id = None, moodle_id or self._wanted.known(name).moodle_id
        self.plan.blocked.append(Blocked(name, moodle_id, reason, asked))

    def _refused_before(self, name: Name, asked: str | None) -> Reason | None:
        """Why Moodle itself refused exactly this before."""
        known = self._wanted.known(name)
        if self._fresh or known.asked != asked or not (known.reason or "").startswith(REFUSED_BY_MOODLE):
            return None
        return known.reason or "", known.said or ""

    # -- accounts

    async def _plan_users(self, students: Iterable[str]) -> None:
        pending = [s for s in sorted(students) if s not in self._done_users]
        self._done_users.update(pending)
        users = [user for s in pending if (user := self._wanted.user(s)) is not None]
        found: dict[str, list[Account]] = {}
        for account in await self._site.users_by("idnumber", [user.zoho_id for user in users]):
            found.setdefault(account.idnumber, []).append(account)
        missing: list[User] = []
        moved: list[AccountChange] = []
        for user in users:
            accounts = found.get(user.zoho_id, [])
            name = ("student", user.zoho_id)
            if len(accounts) > 1:
                self._block(name, _AMBIGUOUS, user.asked)
            elif accounts:
                self.take(user, accounts[0], moved)
            elif not user.active:
                self.plan.settled.append(Settled(name, None, user.asked))
            elif reason := user.problem or user.lacking or self._refused_before(name, user.asked):
                self._block(name, reason, user.asked)
            else:
                missing.append(user)
        await self._plan_missing(missing, moved)
        await self._plan_moved(moved)

    def take(
        self, user: User, account: Account, moved: list[AccountChange] | None = None
    ) -> AccountChange | None:
        """An account is this student's: what of it differs. Changes of the e-mail address go into
        `moved`, all others into the plan.
        """
        name, moodle_id = ("student", user.zoho_id), str(account.id)
        self.users[user.zoho_id] = account.id
        changes: dict[str, tuple[Any, Any]] = {}
        if account.suspended == user.active:
            changes["suspended"] = (account.suspended, not user.active)
        if user.active:
            if reason := user.problem or self._refused_before(name, user.asked):
                self._block(name, reason, user.asked, moodle_id)
                return None
            wanted = {
                "idnumber": user.zoho_id,
                "email": user.values["email"],
                "firstname": user.values["first_name"],
                "lastname": user.values["last_name"],
            }
            has = {
                "idnumber": account.idnumber,
                "email": account.email,
                "firstname": account.first_name,
                "lastname": account.last_name,
            }
            changes |= {f: (has[f], value) for f, value in wanted.items() if value and value != has[f]}
        if not changes:
            self.plan.settled.append(Settled(name, moodle_id, user.asked))
            return None
        change = AccountChange(user, account.id, changes)
        (self.plan.update_users if moved is None or "email" not in changes else moved).append(change)
        return change

    async def _plan_missing(self, missing: list[User], moved: list[AccountChange]) -> None:
        """Accounts that no idnumber names: found by username or e-mail address, or made."""
        holders = await self._by_email(missing)
        logins: dict[str, Account] = {}
        if self._whole:
            accounts = await self._site.users_by("username", [user.username or "" for user in missing])
            logins = {account.username: account for account in accounts}
        emails: set[str] = set()
        names: set[str] = set()
        for user in missing:
            name, email, login = (
                ("student", user.zoho_id),
                (user.values["email"] or "").lower(),
                user.username or "",
            )
            hits = {a.id: a for a in holders.get(email, [])}
            if login in logins:
                hits[logins[login].id] = logins[login]
            elif hits:  # one more look before an account is taken over
                hits |= {a.id: a for a in await self._site.users_by("username", [login])}
            if email in emails or login in names:
                self._block(name, _EMAIL_TAKEN if email in emails else _USERNAME_TAKEN, user.asked)
                continue
            emails.add(email)
            names.add(login)
            if hits and await self._all_leave(hits.values(), email, login):
                hits = {}
            if not hits:
                self.plan.create_users.append(user)
            elif reason := self.not_theirs(list(hits.values())):
                self._block(name, reason, user.asked)
            else:
                self.take(user, next(iter(hits.values())), moved)

    def not_theirs(self, accounts: list[Account]) -> Reason | None:
        """Why accounts found by username or e-mail address cannot be taken over; None where there is
        just one, and it is nobody's.
        """
        if any(account.idnumber for account in accounts):
            return _ID_OF_ANOTHER
        if len(accounts) > 1:
            return _AMBIGUOUS
        return _RESERVED if accounts[0].id in self._reserved else None

    async def by_hand(self, user: User) -> Account | Reason | None:
        """Why no account could be made: the account that is the student's after all, why none is to
        be taken over, or None where no reason is to be found.
        """
        hits = {a.id: a for a in await self._site.users_by("username", [user.username or ""])}
        hits |= {a.id: a for a in await self._site.holders_of(user.values["email"] or "")}
        found = list(hits.values())
        own = [account for account in found if account.idnumber == user.zoho_id]
        if own:
            return own[0]
        return (self.not_theirs(found) or found[0]) if found else None

    async def _by_email(self, users: Iterable[User]) -> dict[str, list[Account]]:
        """Accounts by the e-mail addresses of some users, in lower case. Moodle's look-up is exact, so
        both forms are asked for; where that was not enough before, any other form, too.
        """
        emails = {user.zoho_id: user.values["email"] or "" for user in users}
        exact = {form for email in emails.values() for form in (email, email.lower())}
        accounts = {account.id: account for account in await self._site.users_by("email", sorted(exact))}
        for zoho_id, email in emails.items():
            if email and self._wanted.status(("student", zoho_id)) == FAILED:
                accounts |= {account.id: account for account in await self._site.holders_of(email)}
        found: dict[str, list[Account]] = {}
        for account in accounts.values():
            found.setdefault(account.email.lower(), []).append(account)
        return found

    async def _all_leave(self, accounts: Iterable[Account], email: str, login: str) -> bool:
        """Whether every account that holds an e-mail address is a student's who is to have another."""
        for account in accounts:
            if account.username == login or not await self._leaves(account, email):
                return False
        return True

    async def _leaves(self, account: Account, email: str) -> bool:
        if not account.idnumber or account.email.lower() != email:
            return False
        await self._load([("student", account.idnumber)])
        user = self._wanted.user(account.idnumber)
        wants = (user.values.get("email") or "").lower() if user is not None and not user.problem else ""
        if not wants or wants == email:
            return False
        await self._plan_users([account.idnumber])
        return any(change.account_id == account.id for change in self.plan.update_users)

    async def _plan_moved(self, moved: list[AccountChange]) -> None:
        """Changes of e-mail addresses: each address must be free, or be left by whoever has it."""
        holders = await self._by_email([change.user for change in moved])
        self.plan.update_users += moved  # so that two who swap see each other leave
        for change in moved:
            email = change.changes["email"][1].lower()
            others = [a for a in holders.get(email, []) if a.id != change.account_id]
            if all([await self._leaves(account, email) for account in others]):
                continue
            self.plan.update_users.remove(change)
            self._block(
                ("student", change.user.zoho_id), _EMAIL_TAKEN, change.user.asked, str(change.account_id)
            )

    # -- courses

    async def _plan_courses(self, names: list[Name]) -> None:
        wanted = [course for name in names if (course := self._wanted.course(name)) is not None]
        looked = [
            c
            for c in wanted
            if c.places and (self._whole or c.name not in self.courses or self._open(c.name))
        ]
        places: dict[Place, int | None] = {}

        async def look(course: Course) -> None:
            for place in course.places:
                if place not in places:
                    found = await self._site.course_at(place)
                    places[place] = found.id if found is not None else None
                if (course_id := places[place]) is not None:
                    self.courses[course.name] = course_id
                    return
            self.courses.pop(course.name, None)

        await together(look, looked)
        for course in wanted:
            if course.asked is None:
                continue
            course_id = self.courses.get(course.name)
            if course_id is not None:
                self.plan.settled.append(Settled(course.name, str(course_id), course.asked))
            elif course.idnumber is None:
                tried = " or ".join(f"{field} {value}" for field, value in course.places)
                reason = ("no_course", f"Moodle has no course with {tried}: make one, or correct it in Zoho")
                self._block(course.name, reason, course.asked)
            elif refused := (
                rules.course_problem(course.fullname, course.idnumber)
                or self._refused_before(course.name, course.asked)
            ):
                self._block(course.name, refused, course.asked)
            else:
                self.plan.create_courses.append(course)

    # -- seats

    async def _plan_seats(self, seats: list[Seat]) -> None:
        wishes: dict[tuple[Any, str], list[Seat]] = {}
        for seat in seats:
            if not seat.active or seat.student is None or seat.course is None:
                continue
            if lacking := self._lacking(seat):
                self._block(("enrollment", seat.zoho_id), *lacking)
                continue
            place = self.courses.get(seat.course) or self._to_be_made(seat.course)
            wishes.setdefault((place, seat.student), []).append(seat)
        wished = {(place, self.users.get(student)) for place, student in wishes}
        had = self._had(seats)
        left = {zoho_id: sorted(keys - wished) for zoho_id, keys in had.items()}
        taken = await self._taken(seats, left, wishes)
        leavers = self._leavers(seats, had)
        for (place, student), sharing in wishes.items():
            course_id = place if isinstance(place, int) else None
            self._wish(course_id, student, sharing, leavers, taken)
        self._leave(seats, left, taken)
        if self._whole:
            self._report_unknown(seats, wished, {key for keys in left.values() for key in keys}, taken)

    def _lacking(self, seat: Seat) -> tuple[Reason, str | None] | None:
        """Why there is no account or no course for a seat, or why Moodle refused it before."""
        for name in (("student", seat.student or ""), seat.course or ("class", "")):
            has = self.users.get(name[1]) if name[0] == "student" else self.courses.get(name)
            if name in self._blocked and has is None:
                why = next(b.reason for b in self.plan.blocked if b.name == name)
                return (why[0], f"{name[0]} {name[1]}: {why[1]}"), None
        if refused := self._refused_before(("enrollment", seat.zoho_id), seat.asked):
            return refused, seat.asked
        return None

    def _to_be_made(self, course: Name) -> str:
        return next(c.idnumber or "" for c in self.plan.create_courses if c.name == course)

    def _had(self, seats: list[Seat]) -> dict[str, set[tuple[Any, Any]]]:
        """The seats that each enrollment may have, as (course id, user id): that in the class's
        course where it asks for none, and the one that Moodle acknowledged.
        """
        had: dict[str, set[tuple[Any, Any]]] = {}
        for seat in seats:
            name = ("enrollment", seat.zoho_id)
            user_id, former_id = self.users.get(seat.student or ""), self.users.get(self._former(seat) or "")
            if seat.asked is None or (not self._whole and not self._open(name)):
                continue
            if not seat.active and (refused := self._refused_before(name, seat.asked)):
                self._block(name, refused, seat.asked)
                continue
            keys = had.setdefault(seat.zoho_id, set())
            if not seat.active and seat.course in self.courses and user_id is not None:
                keys.add((self.courses[seat.course], user_id))
            known = self._wanted.known(name)
            if known.moodle_id and not self._fresh:
                course, _, user = known.moodle_id.partition(":")
                if int(user) in (user_id, former_id):
                    keys.add((int(course), int(user)))
        return had

    def _leavers(
        self, seats: list[Seat], had: dict[str, set[tuple[Any, Any]]]
    ) -> dict[tuple[Any, Any], list[Seat]]:
        """Enrollments that just ceased to ask for a seat; another one may still ask for it, but
        perhaps not for as long.
        """
        leavers: dict[tuple[Any, Any], list[Seat]] = {}
        for seat in seats:
            place = self.courses.get(seat.course or ("", "")), self.users.get(seat.student or "")
            if not self._fresh and self._open(("enrollment", seat.zoho_id)):
                for key in had.get(seat.zoho_id, ()):
                    if not seat.active or key != place:
                        leavers.setdefault(key, []).append(seat)
        return leavers

    async def _taken(
        self,
        seats: list[Seat],
        left: dict[str, list[tuple[int, int]]],
        wishes: dict[tuple[Any, str], list[Seat]],
    ) -> dict[int, dict[int, Occupied]]:
        """Who sits where, as far as it matters."""
        keys = {key for some in left.values() for key in some}
        courses = {course_id for course_id, _ in keys} | {p for p, _ in wishes if isinstance(p, int)}
        if not self._whole:
            courses = {k[0] for s in seats for k in left.get(s.zoho_id, ()) if self._must_look(s, k)}
        course_ids = sorted(courses)
        found = await together(self._seats_in, course_ids)
        taken = dict(zip(course_ids, found, strict=True))
        if not self._whole:
            keys |= {key for place in wishes if (key := self._unsure_key(place, wishes[place]))}
            for course_id, user_id in await self._site.occupied(k for k in keys if k[0] not in courses):
                taken.setdefault(course_id, {})[user_id] = Occupied(suspended=False)
        return taken

    def _unsure_key(self, place: tuple[Any, str], sharing: list[Seat]) -> tuple[int, int] | None:
        """A seat that may have been taken by a call that had no answer: it is looked for. Not where
        times are asked for, which cannot be seen: then the call is made again.
        """
        course_id, user_id = place[0], self.users.get(place[1])
        known = [self._wanted.known(("enrollment", seat.zoho_id)) for seat in sharing]
        if not isinstance(course_id, int) or user_id is None or any(s.start or s.end for s in sharing):
            return None
        if any(_values(k.done).get("active") for k in known):
            return None
        return (course_id, user_id) if all(s.zoho_id in self._unsure for s in sharing) else None

    async def _seats_in(self, course_id: int) -> dict[int, Occupied]:
        try:
            return await self._site.seats_in(course_id)
        except RefusedError as error:
            said = f"the token may not see who sits in course {course_id} ({error.code})"
            self._unreadable[course_id] = ("unreadable_course", said)
            return {}

    def _must_look(self, seat: Seat, key: tuple[int, int]) -> bool:
        """Whether a seat that is to be given up may be there without being active."""
        if self._wanted.moodle.on_withdraw != "unenrol":
            return self._may_become_active(seat, key)
        has = _acknowledged(self._wanted.known(("enrollment", seat.zoho_id)), key)
        return self._may_become_active(seat, key) or (has is not None and not has.get("active"))

    def _may_become_active(self, seat: Seat, key: tuple[int, int]) -> bool:
        """Whether a seat that Moodle shows as not active may be so only for its times."""
        known = self._wanted.known(("enrollment", seat.zoho_id))
        has = None if self._fresh else _acknowledged(known, key)
        if has is None:
            return _is_outside(seat.start, seat.end)
        return bool(has.get("active")) and _is_outside(has.get("start", 0), has.get("end", 0))

    def _wish(
        self,
        course_id: int | None,
        student: str,
        sharing: list[Seat],
        leavers: dict[tuple[Any, Any], list[Seat]],
        taken: dict[int, dict[int, Occupied]],
    ) -> None:
        user_id = self.users.get(student)
        leaving = leavers.get((course_id, user_id), [])
        names = [("enrollment", seat.zoho_id) for seat in sharing]
        known = [self._wanted.known(name) for name in names]
        start, end = merged_times(sharing)
        if why := self._unreadable.get(course_id or 0):
            for seat in sharing:
                self._block(("enrollment", seat.zoho_id), why, seat.asked)
            return
        if self._whole:
            has = taken.get(course_id or 0, {}).get(user_id or 0)
            was = "none" if has is None else "suspended" if has.suspended else "active"
            if was == "suspended" and not self._fresh and _is_outside(start, end):
                done = [_acknowledged(k, (course_id or 0, user_id or 0)) for k in known]
                if any(d is not None and d.get("active") for d in done):
                    was = "active"  # it will be when its time comes
            has_times = [(0, 0) if self._fresh else _times(k.done) for k in known]
            is_open = was != "active" or has_times != [(s.start, s.end) for s in sharing]
            is_open = is_open or (has is not None and self._wanted.moodle.student_role_id not in has.roles)
        else:
            was = "none"
            is_open = any(self._open(name) for name in names)
            if key := self._unsure_key((course_id, student), sharing):
                is_open &= key[1] not in taken.get(key[0], {})
        if not is_open and not leaving:
            moodle_id = _seat_id(course_id, user_id)
            self.plan.settled += [
                Settled(("enrollment", seat.zoho_id), moodle_id, seat.asked) for seat in sharing if seat.asked
            ]
            return
        self._left_to_others.update(seat.zoho_id for seat in leaving)
        sharing = [*sharing, *(seat for seat in leaving if not seat.active)]
        self.plan.seats.append(
            SeatChange("enrol", student, sharing[0].course, course_id, user_id, start, end, was, sharing)
        )

    def _leave(
        self, seats: list[Seat], left: dict[str, list[tuple[int, int]]], taken: dict[int, dict[int, Occupied]]
    ) -> None:
        unenrol = self._wanted.moodle.on_withdraw == "unenrol"
        given_up: dict[tuple[int, int], SeatChange] = {}
        for seat in seats:
            name = ("enrollment", seat.zoho_id)
            if seat.asked is None or name in self._blocked or (seat.active and not left.get(seat.zoho_id)):
                continue
            if why := [w for c, _ in left.get(seat.zoho_id, ()) if (w := self._unreadable.get(c))]:
                self._block(name, why[0], seat.asked)
                continue
            open_keys = [
                (key, has)
                for key in left.get(seat.zoho_id, ())
                if (has := taken.get(key[0], {}).get(key[1])) is not None
                and (unenrol or not has.suspended or self._may_become_active(seat, key))
            ]
            for key, has in open_keys:
                if key in given_up:
                    given_up[key].enrollments.append(seat)
                    continue
                was = "suspended" if has.suspended else "active"
                kind = "unenrol" if unenrol else "suspend"
                change = SeatChange(kind, seat.student or "", seat.course, *key, 0, 0, was, [seat])
                change.start, change.end = _times(self._wanted.known(("enrollment", seat.zoho_id)).done)
                given_up[key] = change
            if not open_keys and not seat.active and seat.zoho_id not in self._left_to_others:
                self.plan.settled.append(Settled(name, self._seat_of(seat), seat.asked))
        self.plan.seats[:0] = given_up.values()  # before others are taken

    def _seat_of(self, seat: Seat) -> str | None:
        course_id, user_id = self.courses.get(seat.course or ("", "")), self.users.get(seat.student or "")
        return self._wanted.known(("enrollment", seat.zoho_id)).moodle_id or _seat_id(course_id, user_id)

    def _report_unknown(
        self,
        seats: list[Seat],
        wished: set[tuple[Any, Any]],
        left: set[tuple[int, int]],
        taken: dict[int, dict[int, Occupied]],
    ) -> None:
        """Seats of students' role in the ledger's courses that no enrollment speaks of."""
        role = self._wanted.moodle.student_role_id
        students = {user_id: zoho_id for zoho_id, user_id in self.users.items()}
        ours = (
            wished
            | left
            | {(self.courses.get(s.course or ("", "")), self.users.get(s.student or "")) for s in seats}
        )
        unenrol = self._wanted.moodle.on_withdraw == "unenrol"
        for course_id, people in taken.items():
            for user_id, has in people.items():
                if (course_id, user_id) in ours or role not in has.roles or (has.suspended and not unenrol):
                    continue
                self.plan.unknown.append(Unknown(course_id, user_id, has.idnumber, students.get(user_id)))


def new_account(user: User) -> dict[str, Any]:
    """A new account's fields, but for how its owner comes to a password."""
    return {
        "username": user.username,
        "firstname": user.values["first_name"],
        "lastname": user.values["last_name"],
        "email": user.values["email"],
        "idnumber": user.zoho_id,
    }


def former_student(known: Known) -> str | None:
    """The student of whom Moodle acknowledged an enrollment, None where it did not yet."""
    found: str | None = msgspec.json.decode(known.done).get("student") if known.done else None
    return found


def merged_times(sharing: list[Seat]) -> tuple[int, int]:
    """The times of a seat that several enrollments ask for: from the first to the last; one without
    a time leaves that end open.
    """
    start = min(seat.start for seat in sharing)
    end = 0 if any(seat.end == 0 for seat in sharing) else max(seat.end for seat in sharing)
    return start, end


def _times(done: str | None) -> tuple[int, int]:
    """The times that Moodle acknowledged."""
    if done is None:
        return 0, 0
    values = msgspec.json.decode(done)
    return values.get("start", 0), values.get("end", 0)


def _values(asked: str | None) -> dict[str, Any]:
    """What a wanted state's text says."""
    values: dict[str, Any] = {} if asked is None else msgspec.json.decode(asked)
    return values


def _acknowledged(known: Known, key: tuple[int, int]) -> dict[str, Any] | None:
    """The wanted state that Moodle brought a seat to, None where it is not known to have."""
    if known.done is None or known.moodle_id != _seat_id(*key):
        return None
    values: dict[str, Any] = msgspec.json.decode(known.done)
    return values


def _is_outside(start: int, end: int) -> bool:
    """Whether a seat with these times is not active for them, now."""
    now = clock.now() // clock.SECOND
    return start > now or 0 < end <= now


def _seat_id(course_id: int | None, user_id: int | None) -> str | None:
    return None if course_id is None or user_id is None else f"{course_id}:{user_id}"
