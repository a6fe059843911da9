"""Who is to sit where: every seat that an enrollment asks for, or has, or had, looked at once.

A seat is one person in one course. Several enrollments may ask for it, others may have
ceased to; it stays as long as one asks for it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ledger import clock
from ledger.pace import in_turns
from projections.moodle.client import RefusedError
from projections.moodle.draft import Draft
from projections.moodle.plan import SeatChange, Unknown, seat_id
from projections.moodle.rules import Reason
from projections.moodle.site import Occupied, together
from projections.moodle.wanted import Known, Seat, values_of
from projections.state import Name

Key = tuple[Any, Any]
"""(course id, user id); in the place of what is still to be made its idnumber, as text."""


class _Place(msgspec.Struct):
    """A seat, and the enrollments that ask for it, that would if Moodle had not refused them, and
    that are not to have it (any more).
    """

    asking: list[Seat] = []
    refused: list[Seat] = []
    leaving: list[Seat] = []


class Seats:
    """Plans seats. `unsure`: enrollments whose call had no answer; their seats are looked for before
    they are asked for again. Everything raises as `Site` does.
    """

    def __init__(self, draft: Draft, unsure: frozenset[str] = frozenset()) -> None:
        self._draft = draft
        self._wanted = draft.wanted
        self._site = draft.site
        self._unsure = unsure
        self._places: dict[Key, _Place] = {}
        self._made: dict[Name, str | None] = {}
        self._unreadable: dict[int, Reason] = {}
        self._taken: dict[int, dict[int, Occupied]] = {}
        self._now = clock.now() // clock.SECOND
        self._unenrol = draft.wanted.moodle.on_withdraw == "unenrol"
        self._role = draft.wanted.moodle.student_role_id

    async def make(self, seats: list[Seat]) -> None:
        """Plans the seats of some enrollments, among them all of every student who is named."""
        self._made = {c.name: c.idnumber for c in self._draft.plan.create_courses}
        async for seat in in_turns(seats):
            self._sort(seat)
        await self._look()
        settled = {seat.zoho_id for seat in seats if not seat.active} - await self._with_changes()
        for seat in seats:
            name = ("enrollment", seat.zoho_id)
            if seat.zoho_id in settled and name not in self._draft.blocked:
                self._draft.settle(name, self._wanted.known(name).moodle_id, seat.asked)
        if self._draft.whole:
            self._report_unknown(seats)

    # -- sorting enrollments by seats

    def _sort(self, seat: Seat) -> None:
        name = ("enrollment", seat.zoho_id)
        if seat.asked is None:
            return
        refused = self._draft.refused_before(name, seat.asked)
        key = self._key(seat)
        if not seat.active:
            if refused:
                self._draft.block(name, refused)
                return
        elif lacking := self._lacking(seat):
            self._draft.block(name, lacking)
        elif refused:
            self._draft.block(name, refused)
            self._place(key).refused.append(seat)
        else:
            self._place(key).asking.append(seat)
        if self._draft.whole or self._moves(seat):
            for left in self._had(seat):
                if left != key or not seat.active:
                    self._place(left).leaving.append(seat)

    def _moves(self, seat: Seat) -> bool:
        """Whether an enrollment's seat is to change, be it that its course is another one than before."""
        name = ("enrollment", seat.zoho_id)
        if self._draft.is_open(name):
            return True
        has = self._wanted.known(name).moodle_id
        return seat.active and has is not None and has != seat_id(*self._key(seat))

    def _place(self, key: Key) -> _Place:
        return self._places.setdefault(key, _Place())

    def _key(self, seat: Seat) -> Key:
        course, student = seat.course or ("class", ""), seat.student or ""
        course_id: Any = self._draft.courses.get(course)
        if course_id is None:
            course_id = self._made.get(course)
        return course_id, self._draft.users.get(student) or student

    def _lacking(self, seat: Seat) -> Reason | None:
        """Why there is no account or no course for a seat."""
        for name in (("student", seat.student or ""), seat.course or ("class", "")):
            ids: dict[Any, int] = self._draft.users if name[0] == "student" else self._draft.courses
            has = ids.get(name[1] if name[0] == "student" else name)
            if has is None and (why := self._draft.blocked.get(name)):
                return why[0], f"{name[0]} {name[1]}: {why[1]}"
        return None

    def _had(self, seat: Seat) -> set[Key]:
        """The seats that an enrollment may have: that of its student in its class's course where it
        asks for none, and the one that Moodle acknowledged, perhaps another student's.
        """
        known = self._wanted.known(("enrollment", seat.zoho_id))
        users = self._draft.users
        had: set[Key] = set()
        user_id = users.get(seat.student or "")
        if not seat.active and seat.course in self._draft.courses and user_id is not None:
            had.add((self._draft.courses[seat.course], user_id))
        if known.moodle_id:
            course, _, user = known.moodle_id.partition(":")
            if int(user) in (user_id, users.get(former_student(known) or "")):
                had.add((int(course), int(user)))
        return had

    # -- looking

    async def _look(self) -> None:
        """Reads who sits where, as far as it matters."""
        there = {key: place for key, place in self._places.items() if _is_there(key)}
        if self._draft.whole:
            whole = {course_id for course_id, _ in there} | set(self._draft.courses.values())
            one_by_one: set[Key] = set()
        else:
            left = {key: p for key, p in there.items() if p.leaving and not (p.asking or p.refused)}
            whole = {key[0] for key, place in left.items() if not self._is_plain(key, place)}
            one_by_one = {key for key in left if key[0] not in whole}
            one_by_one |= {key for key, place in there.items() if self._is_unsure(place)}
        course_ids = sorted(whole)
        found = await together(self._seats_in, course_ids)
        self._taken = dict(zip(course_ids, found, strict=True))
        for course_id, user_id in await self._site.occupied(one_by_one):
            self._taken.setdefault(course_id, {})[user_id] = Occupied(False, roles=frozenset({self._role}))

    async def _seats_in(self, course_id: int) -> dict[int, Occupied]:
        try:
            return await self._site.seats_in(course_id)
        except RefusedError as error:
            said = f"the token may not see who sits in course {course_id} ({error.code})"
            self._unreadable[course_id] = ("unreadable_course", said)
            return {}

    def _is_plain(self, key: Key, place: _Place) -> bool:
        """Whether it is enough to know that a seat is active: Moodle acknowledged it as such, as the
        ledger's, and its times let it be.
        """
        had = [has for seat in place.leaving if (has := self._acknowledged(seat, key)) is not None]
        return any(has.get("active") and not self._is_outside(*_times(has)) for has in had)

    def _is_unsure(self, place: _Place) -> bool:
        """Whether a call that had no answer may have given this seat: it is looked for. Not where times
        are asked for, which cannot be seen: then the call is made again.
        """
        known = [self._wanted.known(("enrollment", seat.zoho_id)) for seat in place.asking]
        return (
            bool(place.asking)
            and all(s.zoho_id in self._unsure and not (s.start or s.end) for s in place.asking)
            and not any(values_of(k.done).get("active") for k in known)
        )

    def _acknowledged(self, seat: Seat, key: Key) -> dict[str, Any] | None:
        """The wanted state of an enrollment to which Moodle brought a seat, None where it did not."""
        known = self._wanted.known(("enrollment", seat.zoho_id))
        if known.done is None or known.moodle_id != seat_id(*key):
            return None
        return values_of(known.done)

    def _is_outside(self, start: int, end: int) -> bool:
        """Whether a seat with these times is not active for them, now; Moodle shows it as suspended."""
        return start >= self._now or 0 < end <= self._now

    # -- deciding

    async def _with_changes(self) -> set[str]:
        """Plans what is to be done; answers the enrollments of which that will be reported."""
        reported: set[str] = set()
        leave: list[SeatChange] = []
        self._hold_back()
        async for key, place in in_turns(self._places.items()):
            if place.asking:
                reported |= self._ask(key, place)
            elif place.leaving and not place.refused and _is_there(key):
                reported |= self._leave(key, place, leave)
        self._draft.plan.seats[:0] = leave  # before others are taken
        return reported

    def _hold_back(self) -> None:
        """Who has a seat that cannot be given up does not get another one, or the first is forgotten."""
        stay: set[str] = set()
        for key, place in self._places.items():
            if place.leaving and not (place.asking or place.refused) and key[0] in self._unreadable:
                stay.update(seat.zoho_id for seat in place.leaving)
        for place in self._places.values():
            place.asking = [seat for seat in place.asking if seat.zoho_id not in stay]

    def _ask(self, key: Key, place: _Place) -> set[str]:
        course_id, user_id = key if _is_there(key) else (None, None)
        if why := self._unreadable.get(key[0]):
            for seat in place.asking:
                self._draft.block(("enrollment", seat.zoho_id), why, seat.asked)
            return set()
        start, end = merged_times(place.asking)
        has = self._taken.get(course_id or 0, {}).get(user_id or 0)
        was = "none" if has is None else "suspended" if has.suspended else "active"
        names = [("enrollment", seat.zoho_id) for seat in place.asking]
        leaving = [s for s in place.leaving if self._moves(s)]
        if self._draft.whole:
            acknowledged = [self._acknowledged(seat, key) for seat in place.asking]
            if (
                was == "suspended"
                and self._is_outside(start, end)
                and any(known is not None and known.get("active") for known in acknowledged)
            ):
                was = "active"  # it will be when its time comes
            has_times = [_times(known or {}) for known in acknowledged]
            is_open = was != "active" or has_times != [(s.start, s.end) for s in place.asking]
            is_open = is_open or (has is not None and self._role not in has.roles)
        else:
            known_ids = [self._wanted.known(name).moodle_id for name in names]
            is_open = any(map(self._draft.is_open, names))
            is_open = is_open or any(known != seat_id(course_id, user_id) for known in known_ids)
            if self._is_unsure(place) and has is not None:
                is_open = False
        if not is_open and not leaving:  # else its times may be others now
            for seat, name in zip(place.asking, names, strict=True):
                self._draft.settle(name, seat_id(course_id, user_id), seat.asked)
            return set()
        first = place.asking[0]
        sharing = [*place.asking, *(seat for seat in leaving if not seat.active)]
        self._draft.plan.seats.append(
            SeatChange(
                "enrol",
                first.student or "",
                first.course,
                key[0] if isinstance(key[0], int) else None,
                key[1] if isinstance(key[1], int) else None,
                start,
                end,
                was,
                sharing,
            )
        )
        return {seat.zoho_id for seat in sharing}

    def _leave(self, key: Key, place: _Place, leave: list[SeatChange]) -> set[str]:
        if why := self._unreadable.get(key[0]):
            return self._keep(place, why)
        has = self._taken.get(key[0], {}).get(key[1])
        known = [self._acknowledged(seat, key) or {} for seat in place.leaving]
        acknowledged = [values for values in known if values.get("active")]
        if has is None and acknowledged and self._unenrol and not self._draft.whole:
            # only active ones were looked for: one that somebody suspended is taken away, too
            has = Occupied(suspended=True, roles=frozenset({self._role}))
        if has is None:
            return set()
        if has.suspended and not self._unenrol and not any(map(self._moves, place.leaving)):
            return set()  # it was given up before
        sleeps = any(self._is_outside(*_times(values)) for values in acknowledged)
        if not acknowledged:  # somebody else gave it: as what?
            if self._role not in has.roles:
                return set()
            if has.roles != {self._role}:
                said = (
                    "the person has other roles in the course, too, which the ledger did not give: see there"
                )
                return self._keep(place, ("other_roles", said))
            sleeps = self._is_outside(*merged_times(place.leaving))
        if has.suspended and not sleeps and not self._unenrol:
            return set()
        start, end = _times(acknowledged[0]) if acknowledged else merged_times(place.leaving)
        was, kind = "suspended" if has.suspended else "active", "unenrol" if self._unenrol else "suspend"
        first = place.leaving[0]
        leave.append(
            SeatChange(kind, first.student or "", first.course, *key, start, end, was, place.leaving)
        )
        return {seat.zoho_id for seat in place.leaving}

    def _keep(self, place: _Place, why: Reason) -> set[str]:
        """A seat that cannot be given up."""
        for seat in place.leaving:
            self._draft.block(("enrollment", seat.zoho_id), why, seat.asked)
        return set()

    def _report_unknown(self, seats: list[Seat]) -> None:
        """Seats of the student's role in the ledger's courses that no enrollment speaks of."""
        students = {user_id: zoho_id for zoho_id, user_id in self._draft.users.items()}
        ours = self._places.keys() | {self._key(seat) for seat in seats}
        for course_id, people in self._taken.items():
            for user_id, has in people.items():
                known = (course_id, user_id) in ours or has.roles != {self._role}
                if not known and (self._unenrol or not has.suspended):
                    self._draft.plan.unknown.append(
                        Unknown(course_id, user_id, has.idnumber, students.get(user_id))
                    )


def former_student(known: Known) -> str | None:
    """The student of whom Moodle acknowledged an enrollment, None where it did not yet."""
    found: str | None = values_of(known.done).get("student")
    return found


def merged_times(sharing: list[Seat]) -> tuple[int, int]:
    """The times of a seat that several enrollments ask for: from the first to the last; one without
    a time leaves that end open.
    """
    start = min(seat.start for seat in sharing)
    end = 0 if any(seat.end == 0 for seat in sharing) else max(seat.end for seat in sharing)
    return start, end


def _is_there(key: Key) -> bool:
    """Whether both the course and the account are in Moodle already."""
    return isinstance(key[0], int) and isinstance(key[1], int)


def _times(values: dict[str, Any]) -> tuple[int, int]:
    return values.get("start", 0), values.get("end", 0)
