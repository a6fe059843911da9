"""The wanted state: what the ledger asks of Moodle, a pure function of its read models.

Every student is to have an account, every class a course, every enrollment that counts a
seat in it. A record's wanted state has a text (`asked`); Moodle's reports carry the one
that they acted on. Where the two are equal nothing is left to do, and a record whose text
differs is queued: so whatever was missed, or changed in the settings, is seen by comparing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any

import msgspec

from ledger.events import REPORTS
from ledger.settings import TenantSettings
from projections.moodle import rules
from projections.moodle.rules import Reason
from projections.state import ACTIVE, NONE, WAITING, Name, Row

QUEUED, SYNCED, FAILED = "QUEUED", "SYNCED", "FAILED"

Place = tuple[str, str]
"""Where a course is looked for: a field (`id` or `idnumber`) and its value."""

_encode = msgspec.json.Encoder(order="deterministic").encode


class User(msgspec.Struct, frozen=True):
    """A student's account. `active` false: none is made, one that is there is suspended.

    `values`: `email`, `first_name`, `last_name` as Zoho has them (null: Moodle's own stays),
    `problem`: why Moodle would not take them; `lacking`: why no account can be made of them.
    """

    zoho_id: str
    active: bool
    values: dict[str, str | None]
    username: str | None
    problem: Reason | None
    lacking: Reason | None
    asked: str


class Course(msgspec.Struct, frozen=True):
    """A class's course, or the one that a program names: the first of `places` that Moodle has;
    else, where `idnumber` is not None, a new one.
    """

    name: Name
    places: tuple[Place, ...]
    idnumber: str | None
    fullname: str
    shortname: str
    start: int
    end: int
    asked: str | None


class Seat(msgspec.Struct, frozen=True):
    """An enrollment's seat. `course` is the record whose course it is in. Times are epoch
    seconds, 0 for none.
    """

    zoho_id: str
    active: bool
    student: str | None
    course: Name | None
    start: int
    end: int
    asked: str | None


class Known(msgspec.Struct, frozen=True):
    """What Moodle reported on a record: the wanted state that it acted on, why it was not done,
    and Moodle's own id (on the site that is asked now).
    """

    asked: str | None = None
    done: str | None = None
    moodle_id: str | None = None
    reason: str | None = None
    said: str | None = None
    position: int | None = None
    at: int | None = None


_NOTHING = Known()


class Wanted:
    """The wanted state of one tenant's records. `rows` holds the records that are asked for and
    those that they depend on (`depends_on`), with the rows of Moodle's reports.
    """

    def __init__(self, settings: TenantSettings, rows: Mapping[Name, Row | None], *, since: int = -1) -> None:
        """`since`: what Moodle reported up to this position is void, since it is another Moodle now."""
        self.settings = settings
        self.moodle = settings.moodle
        self.rows = rows
        self._since = since
        self._site = self.moodle.base_url or ""

    def row(self, name: Name) -> Row | None:
        """A record that was ever accepted, else None."""
        row = self.rows.get(name)
        return None if row is None or row.state == NONE else row

    def is_readable(self, name: Name) -> bool:
        """Whether the rows that a record's wanted state follows from can be read. Of one that cannot
        nothing is asked of Moodle until a replay has made its row anew.
        """
        row = self.rows.get(name)
        if any(r is not None and r.damaged for r in (row, self.rows.get(report_name(name)))):
            return False
        return row is None or all(self.is_readable(needed) for needed in depends_on(row))

    def known(self, name: Name) -> Known:
        """What Moodle reported on a record."""
        row = self.rows.get(report_name(name))
        if row is None or (row.position or 0) <= self._since:
            return _NOTHING
        fields = row.fields
        return Known(
            fields.get("asked"),
            fields.get("done"),
            fields.get("moodle_id") if fields.get("site") == self._site else None,
            fields.get("reason"),
            fields.get("said"),
            row.position,
            row.updated_at,
        )

    def user(self, zoho_id: str) -> User | None:
        """A student's account, None where the ledger never accepted the student."""
        row = self.row(("student", zoho_id))
        if row is None:
            return None
        if not self.counts(row):
            return User(zoho_id, False, {}, None, None, None, self._text(active=False))
        values = {f: _stripped(row.fields.get(f)) for f in ("email", "first_name", "last_name")}
        parts = {**values, "student_number": row.fields.get("student_number"), "zoho_id": zoho_id}
        login = rules.username(self.moodle.username, parts)
        problem = rules.user_problem({**values, "zoho_id": zoho_id})
        asked = self._text(active=True, **values)
        return User(zoho_id, True, values, login, problem, rules.lacking(values, login), asked)

    def course(self, name: Name) -> Course | None:
        """The course of a class or program, None where the ledger never accepted it."""
        row = self.row(name)
        if row is None:
            return None
        entity, zoho_id = name
        own = self._place(row)
        places: tuple[Place, ...] = (own,) if own else ()
        idnumber = None
        if entity == "class":
            if own is None:
                program = self.row(("program", row.fields.get("program_zoho_id") or ""))
                theirs = self._place(program) if program is not None and program.state == ACTIVE else None
                places = (("idnumber", zoho_id), *((theirs,) if theirs else ()))
            if self.moodle.create_courses and places[0][0] == "idnumber":
                idnumber = places[0][1]
        counts = self.counts(row) and bool(places)
        name_, short = row.fields.get("name") or "", row.fields.get("short_name")
        return Course(
            name,
            places,
            idnumber,
            name_.strip(),
            (short or name_).strip()[: rules.SHORTNAME_CHARACTERS],
            self._instant(row.fields.get("start_date"), time.min),
            self._instant(row.fields.get("end_date"), time.max),
            self._text(active=True, places=places, new=idnumber is not None) if counts else None,
        )

    def seat(self, zoho_id: str) -> Seat | None:
        """An enrollment's seat, None where the ledger never accepted the enrollment."""
        row = self.row(("enrollment", zoho_id))
        if row is None:
            return None
        student, class_ = row.fields.get("student_zoho_id"), row.fields.get("class_zoho_id")
        course = self.course(("class", class_)) if class_ else None
        needed = [self.row(("student", student or "")), self.row(("class", class_ or ""))]
        start = self._instant(row.fields.get("start_date"), time.min)
        end = self._instant(row.fields.get("end_date"), time.max)
        if course is not None and all(r is not None and self.counts(r) for r in (row, *needed)):
            role = self.moodle.student_role_id
            text = self._text(
                active=True, student=student, places=course.places, start=start, end=end, role=role
            )
            return Seat(zoho_id, True, student, course.name, start, end, text)
        asked: str | None = None
        known = self.known(row.name)
        never_asked = row.state == WAITING and row.active_fingerprint is None and not known.done
        if student and class_ and not never_asked:
            asked = self._text(active=False, student=student, how=self.moodle.on_withdraw)
        name = course.name if course is not None else None
        return Seat(zoho_id, False, student, name, start, end, asked)

    def status(self, name: Name) -> str | None:
        """`QUEUED`, `SYNCED` or `FAILED`; None for what the ledger never accepted, or cannot read."""
        if (row := self.row(name)) is None or not self.is_readable(name):
            return None
        asked, known = self.asked(name), self.known(name)
        if asked is None:
            return SYNCED
        blocked = name[0] == "enrollment" and self.blocked_by(name) is not None
        if known.asked == asked and not self._is_outdated(row, known):
            return FAILED if known.reason or blocked else SYNCED
        if blocked and not values_of(known.done).get("active"):  # else it has another seat to give up first
            return FAILED
        return QUEUED

    def _is_outdated(self, row: Row, known: Known) -> bool:
        """Whether a refusal holds no more: a newer version came, or a rule says something else under
        other settings.
        """
        if known.reason is None:
            return False
        if (row.own_position or 0) > (known.position or 0):
            return True
        user = self.user(row.zoho_id) if row.entity == "student" and known.reason in rules.REASONS else None
        return user is not None and known.reason not in {r[0] for r in (user.problem, user.lacking) if r}

    def blocked_by(self, enrollment: Name) -> Name | None:
        """The student or class whose account or course Moodle refused, so that an enrollment that
        asks for a seat cannot have one.
        """
        seat = self.seat(enrollment[1])
        if seat is None or not seat.active:
            return None
        for name in (("student", seat.student or ""), seat.course or ("class", "")):
            known = self.known(name)
            if known.reason and known.asked == self.asked(name) and known.moodle_id is None:
                return name
        return None

    def student_of(self, name: Name) -> str | None:
        """The student whom an enrollment names; None for other records."""
        row = self.row(name) if name[0] == "enrollment" else None
        return row.fields.get("student_zoho_id") if row is not None else None

    def counts(self, row: Row) -> bool:
        """Whether a record is active and has no status that takes no seat."""
        return row.state == ACTIVE and not takes_no_seat(row, self.settings)

    def asked(self, name: Name) -> str | None:
        """The text of a record's wanted state; None where nothing is asked of Moodle."""
        wanted: User | Course | Seat | None
        if name[0] == "student":
            wanted = self.user(name[1])
        elif name[0] == "enrollment":
            wanted = self.seat(name[1])
        else:
            wanted = self.course(name)
        return wanted.asked if wanted is not None else None

    def _place(self, row: Row | None) -> Place | None:
        moodle_id = row.fields.get("moodle_id") if row is not None else None
        if not moodle_id:
            return None
        return ("id" if moodle_id.isascii() and moodle_id.isdigit() else "idnumber", moodle_id)

    def _instant(self, text: str | None, at: time) -> int:
        """A day's first or last second in the college's zone."""
        if not text:
            return 0
        day = date.fromisoformat(text)
        return max(1, int(datetime.combine(day, at, self.settings.timezone).timestamp()))

    def _text(self, **values: Any) -> str:
        return _encode({"site": self._site, **values}).decode()


def takes_no_seat(row: Row, settings: TenantSettings) -> bool:
    """Whether a record has one of the statuses that take no seat in a course."""
    return settings.moodle.takes_no_seat(row.fields.get("status"))


def values_of(asked: str | None) -> dict[str, Any]:
    """What a wanted state's text says; nothing where there is none."""
    values: dict[str, Any] = {} if asked is None else msgspec.json.decode(asked)
    return values


def report_name(name: Name) -> Name:
    """The row of Moodle's part in a record."""
    return REPORTS + name[0], name[1]


def depends_on(row: Row) -> list[Name]:
    """The records that a record's wanted state is read from, besides its own."""
    fields = row.fields
    entities = {"enrollment": ("student", "class"), "class": ("program",)}.get(row.entity, ())
    return [(entity, zoho_id) for entity in entities if (zoho_id := fields.get(f"{entity}_zoho_id"))]


def _stripped(text: str | None) -> str | None:
    return (text or "").strip() or None
