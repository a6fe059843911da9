"""A plan: what it takes to bring a Moodle to the wanted state, as things and as a document."""

from __future__ import annotations

from typing import Any

import msgspec

from projections.moodle.rules import Reason
from projections.moodle.wanted import Course, Seat, User
from projections.state import Name

REFUSED_BY_MOODLE = "moodle_"
"""Reasons that begin so were Moodle's own and cannot be foreseen; they hold until somebody asks
to try again, or the record changes.
"""


class AccountChange(msgspec.Struct):
    """An account that differs. `changes`: Moodle's field -> (old, new). `reason`: why that is not all."""

    user: User
    account_id: int
    changes: dict[str, tuple[Any, Any]]
    reason: Reason | None = None


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
                {"zoho_id": e.zoho_id, "moodle_id": seat_id(seat.course_id, seat.user_id), "changes": new}
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
                    "moodle_id": seat_id(seat.course_id, seat.user_id),
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


def new_account(user: User) -> dict[str, Any]:
    """A new account's fields, but for how its owner comes to a password."""
    return {
        "username": user.username,
        "firstname": user.values["first_name"],
        "lastname": user.values["last_name"],
        "email": user.values["email"],
        "idnumber": user.zoho_id,
    }


def seat_id(course_id: Any, user_id: Any) -> str | None:
    """How the ledger names a seat: Moodle has no name for it."""
    return None if course_id is None or user_id is None else f"{course_id}:{user_id}"
