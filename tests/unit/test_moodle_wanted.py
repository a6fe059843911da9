"""The wanted state: which records ask for what in Moodle, and what makes it another wish."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.settings import MoodleSettings, TenantSettings
from projections.moodle.wanted import FAILED, QUEUED, SYNCED, Wanted, depends_on, report_name
from projections.state import ACTIVE, DELETED, NONE, WAITING, Name, Row

SITE = "https://moodle.college.example"
SETTINGS = TenantSettings(moodle=MoodleSettings(enabled=True, base_url=SITE))
STUDENT, CLASS, PROGRAM, ENROLLMENT = ("student", "S"), ("class", "C"), ("program", "P"), ("enrollment", "E")
ALL = (STUDENT, CLASS, PROGRAM, ENROLLMENT)


class Story:
    """Rows as the read models have them: an enrolled student, changed as a test needs it."""

    def __init__(self, **settings: Any) -> None:
        zone = ZoneInfo(settings.pop("zone", "UTC"))
        moodle = msgspec.structs.replace(SETTINGS.moodle, **settings)
        self.settings = TenantSettings(timezone=zone, moodle=moodle)
        self.rows: dict[Name, Row | None] = {}
        self.put(STUDENT, email="s@college.test", first_name="Layla", last_name="Nasser")
        self.put(CLASS, name="Maths")
        self.put(ENROLLMENT, student_zoho_id="S", class_zoho_id="C")

    def put(self, name: Name, /, state: str = ACTIVE, **fields: str | None) -> Story:
        """Adds fields to a record, and gives it a state."""
        row = self.rows.get(name)
        old = row.fields if row is not None else {}
        self.rows[name] = Row(*name, state=state, fields={**old, **fields})
        return self

    def report(self, name: Name, /, **fields: str | None) -> Story:
        """What Moodle reported; `asked` of now, where it is not given."""
        given_ = {"asked": self.wanted.asked(name), "site": self.settings.moodle.base_url, **fields}
        given_.setdefault("done", None if "reason" in given_ else given_["asked"])
        row = Row(*report_name(name), state=ACTIVE, fields={k: v for k, v in given_.items() if v is not None})
        self.rows[report_name(name)] = row
        return self

    @property
    def wanted(self) -> Wanted:
        """What follows from the rows."""
        return Wanted(self.settings, self.rows)

    def asked(self) -> dict[str, str | None]:
        """What is asked of each record."""
        return {name[0]: self.wanted.asked(name) for name in ALL}

    def differing(self, other: Story) -> set[str]:
        """The entities of which another story asks something else."""
        mine, theirs = self.asked(), other.asked()
        return {entity for entity in mine if mine[entity] != theirs[entity]}


def seconds(text: str) -> int:
    """Epoch seconds of an instant in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def test_who_qualifies() -> None:
    """An active enrollment of an active student in an active class asks for a seat."""
    seat = Story().wanted.seat("E")
    assert seat is not None
    assert (seat.active, seat.student, seat.course, seat.start, seat.end) == (True, "S", CLASS, 0, 0)
    user = Story().wanted.user("S")
    assert user is not None
    assert (user.active, user.username, user.problem, user.lacking) == (True, "s@college.test", None, None)


@pytest.mark.parametrize("name", [STUDENT, CLASS, ENROLLMENT])
@pytest.mark.parametrize("status", ["Withdrawn", "wIthdrawn", "  CANCELLED ", "dropped", "Freeze", "Freezed"])
def test_inactive_statuses(name: Name, status: str) -> None:
    """A status of the list, in any case and with blanks, of any of the three: no seat."""
    wanted = Story().put(name, status=status).wanted
    seat = wanted.seat("E")
    assert seat is not None
    assert not seat.active
    user, course = wanted.user("S"), wanted.course(CLASS)
    assert user is not None
    assert course is not None
    assert user.active is (name != STUDENT)
    assert (course.asked is None) is (name == CLASS)


@pytest.mark.parametrize("status", [None, "", "Active", "Not withdrawn", "Withdrawn 2025", "drop"])
def test_other_statuses(status: str | None) -> None:
    """Any other status, and none at all, takes its seat."""
    story = Story()
    for name in (STUDENT, CLASS, ENROLLMENT):
        story.put(name, status=status)
    seat = story.wanted.seat("E")
    assert seat is not None
    assert seat.active


def test_the_list_is_the_college_s() -> None:
    """MOODLE_INACTIVE_STATUSES replaces the list."""
    story = Story(inactive_statuses=frozenset({"paused"})).put(ENROLLMENT, status="Withdrawn")
    assert story.wanted.seat("E").active  # type: ignore[union-attr]
    assert not story.put(ENROLLMENT, status="Paused").wanted.seat("E").active  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "state"),
    [(n, s) for n in (STUDENT, CLASS, ENROLLMENT) for s in (DELETED, WAITING, NONE)],
)
def test_other_states(name: Name, state: str) -> None:
    """A deleted, waiting or never accepted one of the three takes the seat away."""
    seat = Story().put(name, state=state).wanted.seat("E")
    if name == ENROLLMENT and state == NONE:
        assert seat is None
    else:
        assert seat is not None
        assert not seat.active


def test_unknown_records() -> None:
    """Nothing is asked of what the ledger never accepted, nor of what waits and never had a seat."""
    wanted = Wanted(SETTINGS, {})
    assert [wanted.asked(name) for name in ALL] == [None] * 4
    assert [wanted.status(name) for name in ALL] == [None] * 4
    story = Story().put(ENROLLMENT, state=WAITING)
    assert story.wanted.asked(ENROLLMENT) is None
    assert story.wanted.status(ENROLLMENT) == SYNCED
    was = Story().report(ENROLLMENT, moodle_id="7:8").put(ENROLLMENT, state=WAITING)
    assert was.wanted.asked(ENROLLMENT) is not None, "it had a seat, which is to be given up"
    assert was.wanted.status(ENROLLMENT) == QUEUED


def test_a_program_keeps_nobody_out() -> None:
    """A program that is unknown, deleted or inactive is none of the three."""
    for change in ({"state": DELETED}, {"status": "Inactive"}):
        story = Story().put(CLASS, program_zoho_id="P").put(PROGRAM, name="P", **change)
        assert story.wanted.seat("E").active  # type: ignore[union-attr]
    assert Story().put(CLASS, program_zoho_id="gone").wanted.seat("E").active  # type: ignore[union-attr]


# -- courses


@pytest.mark.parametrize(
    ("class_fields", "program_fields", "places", "made"),
    [
        ({}, None, (("idnumber", "C"),), "C"),
        ({"moodle_id": "42"}, None, (("id", "42"),), None),
        ({"moodle_id": "maths-42"}, None, (("idnumber", "maths-42"),), "maths-42"),
        ({"moodle_id": "\u0664\u0662"}, None, (("idnumber", "\u0664\u0662"),), "\u0664\u0662"),
        ({"moodle_id": "-1"}, None, (("idnumber", "-1"),), "-1"),
        ({"program_zoho_id": "P"}, {"moodle_id": "77"}, (("idnumber", "C"), ("id", "77")), "C"),
        ({"program_zoho_id": "P"}, {"moodle_id": "b"}, (("idnumber", "C"), ("idnumber", "b")), "C"),
        ({"program_zoho_id": "P"}, {}, (("idnumber", "C"),), "C"),
        ({"program_zoho_id": "P", "moodle_id": "42"}, {"moodle_id": "77"}, (("id", "42"),), None),
        ({"program_zoho_id": "P"}, {"moodle_id": "77", "state": DELETED}, (("idnumber", "C"),), "C"),
        ({"program_zoho_id": "P"}, None, (("idnumber", "C"),), "C"),
    ],
)
def test_where_a_course_is(
    class_fields: dict[str, str],
    program_fields: dict[str, Any] | None,
    places: tuple[tuple[str, str], ...],
    made: str | None,
) -> None:
    """The class's own id (digits: a course id, else an idnumber); without one its Zoho id as the
    idnumber, then the program's; a course is made only under an idnumber, and only where allowed.
    """
    for create in (False, True):
        story = Story(create_courses=create).put(CLASS, **class_fields)
        if program_fields is not None:
            story.put(PROGRAM, **program_fields)
        course = story.wanted.course(CLASS)
        assert course is not None
        assert (course.places, course.idnumber) == (places, made if create else None)


def test_a_program_s_course() -> None:
    """A program has the course that it names, and asks for none without an id."""
    story = Story(create_courses=True).put(PROGRAM, name="BTEC")
    assert story.wanted.asked(PROGRAM) is None
    assert story.wanted.status(PROGRAM) == SYNCED
    course = story.put(PROGRAM, moodle_id="b").wanted.course(PROGRAM)
    assert course is not None
    assert (course.places, course.idnumber) == ((("idnumber", "b"),), None), "none is made for a program"


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"name": " Maths ", "short_name": None}, ("Maths", "Maths")),
        ({"name": "Maths", "short_name": " MA "}, ("Maths", "MA")),
        ({"name": "M" * 300, "short_name": ""}, ("M" * 300, "M" * 255)),
    ],
)
def test_names_of_courses(fields: dict[str, str | None], names: tuple[str, str]) -> None:
    """The class's name and short name, which is cut; a full name that is too long is refused later."""
    course = Story().put(CLASS, **fields).wanted.course(CLASS)
    assert course is not None
    assert (course.fullname, course.shortname) == names


# -- times


@pytest.mark.parametrize(
    ("zone", "day", "start", "end"),
    [
        ("UTC", "2026-01-10", "2026-01-10T00:00:00", "2026-01-10T23:59:59"),
        ("Asia/Amman", "2026-01-10", "2026-01-09T21:00:00", "2026-01-10T20:59:59"),
        ("America/New_York", "2026-01-10", "2026-01-10T05:00:00", "2026-01-11T04:59:59"),
        ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00:00", "2026-03-29T21:59:59"),  # 23 hours
        ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00:00", "2026-10-25T22:59:59"),  # 25 hours
    ],
)
def test_times(zone: str, day: str, start: str, end: str) -> None:
    """The first and the last second of the days, in the college's zone."""
    story = (
        Story(zone=zone)
        .put(ENROLLMENT, start_date=day, end_date=day)
        .put(CLASS, start_date=day, end_date=day)
    )
    for found in (story.wanted.seat("E"), story.wanted.course(CLASS)):
        assert found is not None
        assert (found.start, found.end) == (seconds(start), seconds(end))


@given(st.dates(), st.sampled_from(["UTC", "Asia/Amman", "Pacific/Kiritimati", "America/St_Johns"]))
def test_any_day(day: Any, zone: str) -> None:
    """Every date that Zoho may hold has a time that Moodle takes."""
    seat = (
        Story(zone=zone)
        .put(ENROLLMENT, start_date=day.isoformat(), end_date=day.isoformat())
        .wanted.seat("E")
    )
    assert seat is not None
    assert 0 <= seat.start <= seat.end or seat.end == 0


# -- what is asked

SEATS = {"enrollment"}
CHANGES: list[tuple[Name, dict[str, Any], set[str]]] = [
    (STUDENT, {"email": "new@college.test"}, {"student"}),
    (STUDENT, {"email": None}, {"student"}),
    (STUDENT, {"first_name": "L"}, {"student"}),
    (STUDENT, {"last_name": "N"}, {"student"}),
    (STUDENT, {"email": " s@college.test "}, set()),
    (STUDENT, {"student_number": "4711"}, set()),
    (STUDENT, {"program_zoho_id": "P"}, set()),
    (STUDENT, {"status": "Active"}, set()),
    (STUDENT, {"status": "Freeze"}, {"student", *SEATS}),
    (STUDENT, {"state": DELETED}, {"student", *SEATS}),
    (CLASS, {"name": "Other"}, set()),
    (CLASS, {"start_date": "2026-01-01"}, set()),
    (CLASS, {"teacher_zoho_id": "T"}, set()),
    (CLASS, {"moodle_id": "42"}, {"class", *SEATS}),
    (CLASS, {"program_zoho_id": "P"}, {"class", *SEATS}),
    (CLASS, {"status": "Cancelled"}, {"class", *SEATS}),
    (PROGRAM, {"moodle_id": "78"}, {"program"}),
    (PROGRAM, {"name": "Other", "price": "1.00"}, set()),
    (ENROLLMENT, {"start_date": "2026-01-01"}, SEATS),
    (ENROLLMENT, {"end_date": "2026-01-01"}, SEATS),
    (ENROLLMENT, {"program_zoho_id": "P"}, set()),
    (ENROLLMENT, {"status": "Active"}, set()),
    (ENROLLMENT, {"status": "Dropped"}, SEATS),
    (ENROLLMENT, {"state": DELETED}, SEATS),
]


@pytest.mark.parametrize(("name", "change", "entities"), CHANGES)
def test_what_changes_the_wish(name: Name, change: dict[str, Any], entities: set[str]) -> None:
    """Only what Moodle is to hear of makes another text, and it does so for all whom it concerns."""
    before = Story().put(PROGRAM, name="P", moodle_id="77")
    after = Story().put(PROGRAM, name="P", moodle_id="77").put(name, **change)
    assert before.differing(after) == entities


SETTING_CHANGES: list[tuple[dict[str, Any], set[str]]] = [
    ({"base_url": "https://new.example"}, {"student", "class", "program", "enrollment"}),
    ({"student_role_id": 9}, {"enrollment"}),
    ({"create_courses": True}, {"class"}),
    ({"inactive_statuses": frozenset({"active"})}, {"student", "class", "program", "enrollment"}),
    ({"on_withdraw": "unenrol"}, set()),
    ({"batch": 7, "concurrency": 1, "timeout": 1.0, "auth": "oauth2", "username": "{zoho_id}"}, set()),
    ({"zone": "Asia/Amman"}, {"enrollment"}),
]


@pytest.mark.parametrize(("settings", "entities"), SETTING_CHANGES)
def test_settings_that_change_the_wish(settings: dict[str, Any], entities: set[str]) -> None:
    """A setting that means another state in Moodle makes another text; how it is brought there does not."""
    stories = [Story(), Story(**settings)]
    for story in stories:
        story.put(PROGRAM, name="P", moodle_id="77", status="Active")
        for name in (STUDENT, CLASS):
            story.put(name, status="Active")
        story.put(ENROLLMENT, status="Active", start_date="2026-01-01")
    assert stories[0].differing(stories[1]) == entities


def test_how_a_seat_is_given_up() -> None:
    """MOODLE_ON_WITHDRAW is part of the wish of a withdrawn enrollment."""
    stories = [Story(**s).put(ENROLLMENT, status="Dropped") for s in ({}, {"on_withdraw": "unenrol"})]
    assert stories[0].differing(stories[1]) == {"enrollment"}


# -- statuses


@pytest.mark.parametrize("name", [STUDENT, CLASS, ENROLLMENT])
def test_statuses(name: Name) -> None:
    """QUEUED until Moodle reported on exactly this wish: then SYNCED, or FAILED where it said why not."""
    story = Story()
    assert story.wanted.status(name) == QUEUED
    assert story.report(name, moodle_id="7:8").wanted.status(name) == SYNCED
    story.report(name, reason="moodle_x", said="x")
    assert story.wanted.status(name) == FAILED
    assert story.report(name, asked="another").wanted.status(name) == QUEUED
    assert story.report(name, asked="another", reason="moodle_x").wanted.status(name) == QUEUED


def test_an_id_of_another_site() -> None:
    """Moodle's ids count only on the site that gave them."""
    story = Story().report(STUDENT, moodle_id="7")
    assert story.wanted.known(STUDENT).moodle_id == "7"
    story.report(STUDENT, moodle_id="7", site="https://old.example")
    assert story.wanted.known(STUDENT).moodle_id is None


@pytest.mark.parametrize("name", [STUDENT, CLASS])
def test_blocked(name: Name) -> None:
    """An enrollment whose account or course was refused is FAILED for it, as long as it asks for a seat,
    the refusal is of now, and there is no older account or course.
    """
    story = Story().report(name, reason="x", said="x")
    assert story.wanted.blocked_by(ENROLLMENT) == name
    assert story.wanted.status(ENROLLMENT) == FAILED
    assert Story().report(name, reason="x", moodle_id="7").wanted.blocked_by(ENROLLMENT) is None
    assert Story().report(name, reason="x", asked="another").wanted.blocked_by(ENROLLMENT) is None
    assert Story().report(name, asked=None).wanted.blocked_by(ENROLLMENT) is None
    story.put(ENROLLMENT, status="Dropped")
    assert story.wanted.blocked_by(ENROLLMENT) is None
    assert story.wanted.status(ENROLLMENT) == QUEUED


def test_dependencies() -> None:
    """What a wish is read from: of an enrollment its student and class, of a class its program."""
    story = Story().put(CLASS, program_zoho_id="P").put(PROGRAM, name="P")
    rows = {name: row for name in ALL if (row := story.rows[name]) is not None}
    assert depends_on(rows[ENROLLMENT]) == [STUDENT, CLASS]
    assert depends_on(rows[CLASS]) == [PROGRAM]
    assert depends_on(rows[STUDENT]) == depends_on(rows[PROGRAM]) == []
    needed = {ENROLLMENT, *depends_on(rows[ENROLLMENT]), *depends_on(rows[CLASS])}
    assert Wanted(story.settings, {n: rows[n] for n in needed}).asked(ENROLLMENT) == story.wanted.asked(
        ENROLLMENT
    )


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_wishes_do_not_run_into_each_other(a: str, b: str, c: str, d: str) -> None:
    """Two persons ask for the same exactly where their values are the same."""
    first, second = (Story().put(STUDENT, first_name=x, last_name=y) for x, y in ((a, b), (c, d)))
    same = (a.strip(), b.strip()) == (c.strip(), d.strip())
    assert (first.asked()["student"] == second.asked()["student"]) is same
