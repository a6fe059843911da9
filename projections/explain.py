"""Why a student is in a course or not: the links from Zoho's record to Moodle's seat.

Every link says whether it holds (null: not known, or of no matter), by which event,
since when, and what that means, in words for a registrar. The first that does not
hold is the reason.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ledger import clock
from ledger.database import Connection
from ledger.events import Event, stream_name
from ledger.settings import TenantSettings
from projections.history import BOOKKEEPING
from projections.moodle import rules
from projections.moodle.known import read
from projections.moodle.wanted import FAILED, SYNCED, Wanted, takes_no_seat
from projections.past import Past
from projections.queries import SQL
from projections.state import ACTIVE, DELETED, NONE, WAITING, Name, Row, WholeView, from_columns

ENROLLED, NOT_ENROLLED, UNKNOWN = "enrolled", "not_enrolled", "unknown"

_NEWEST = 200
"""So many of a record's newest events are looked at."""

_decode = msgspec.json.Decoder(list[tuple[str, str]]).decode
_BY_ITSELF = "When that is mended in Zoho, the ledger takes it up by itself."
_TRY_AGAIN = "When that is mended, the administrator runs sync-ledger moodle retry --entity {} --zoho-id {}."
_UNUSED = {
    "stale": "It is older than what the ledger already had.",
    "deleted": "It is not newer than the deletion of the record.",
}


class Link(msgspec.Struct):
    """One link of the chain. `at` is an instant in microseconds; `next_step` says what to
    do where the link does not hold.
    """

    link: str
    ok: bool | None
    position: int | None
    at: int | None
    detail: str
    next_step: str | None = None

    def shown(self) -> dict[str, Any]:
        """As the contract has it."""
        return {
            "link": self.link,
            "ok": self.ok,
            "position": self.position,
            "at": None if self.at is None else clock.to_text(self.at),
            "detail": self.detail,
        }


class _Known(msgspec.Struct):
    """A record: its present row, and its newest events with what they led to."""

    row: Row | None
    events: list[Any]

    @property
    def state(self) -> str:
        """Of the row, `none` where there is none."""
        return NONE if self.row is None else self.row.state


class _Story(msgspec.Struct):
    """What the events of an enrollment and of those that it needs tell of time: since when
    it does (not) ask for a seat, and since which event a record has a status that takes none.
    """

    asks: bool = False
    since: int | None = None
    inactive: dict[Name, tuple[int, int]] = {}


async def explain_enrollment(
    past: Past, connection: Connection, tenant_id: str, settings: TenantSettings, zoho_id: str
) -> dict[str, Any] | None:
    """The explanation of one enrollment, None where the ledger never heard of it. `past` is that
    of the present moment.
    """
    enrollment = await _known(connection, tenant_id, "enrollment", zoho_id)
    if not enrollment.events:
        return None
    story = await _story(past, ("enrollment", zoho_id), settings)
    row = enrollment.row
    fields = row.fields if row is not None else {}
    links = [_record(enrollment), _valid(enrollment, story)]
    links.append(await _needed(connection, tenant_id, story, "student", fields))
    links.append(await _needed(connection, tenant_id, story, "class", fields))
    links.append(await _program(connection, tenant_id, fields))
    moodle = await _wanted(connection, tenant_id, settings, zoho_id) if settings.moodle.enabled else None
    links += _moodle(links, moodle, zoho_id)
    return _answer(zoho_id, story, links)


async def _story(past: Past, name: Name, settings: TenantSettings) -> _Story:
    """Folds the streams once more, looking behind every event."""
    story = _Story()

    def look(event: Event, view: WholeView) -> None:
        changed = (event.entity or "", event.zoho_id or "")
        row = view.row(changed)
        if row is None or not takes_no_seat(row, settings):
            story.inactive.pop(changed, None)
        else:
            story.inactive.setdefault(changed, (event.position, event.recorded_at))
        if (own := view.row(name)) is None:
            return
        needed = [(e, own.fields.get(f"{e}_zoho_id") or "") for e in ("student", "class")]
        asks = own.state == ACTIVE and not any(n in story.inactive for n in (name, *needed))
        if story.since is None or asks != story.asks:
            story.asks, story.since = asks, event.recorded_at

    await past.fold([name], open_all=True, each=look)
    return story


def _answer(zoho_id: str, story: _Story, links: list[Link]) -> dict[str, Any]:
    broken = next((link for link in links if link.ok is False), None)
    open_ = next((link for link in links if link.ok is None and link.link == "moodle_enrolment"), None)
    deciding = broken or open_ or links[-1]
    return {
        "enrollment": zoho_id,
        "answer": NOT_ENROLLED if broken else UNKNOWN if open_ else ENROLLED,
        "since": clock.to_text(story.since or 0),
        "because": deciding.detail,
        "next_step": deciding.next_step or "Nothing: all is as it should be.",
        "links": [link.shown() for link in links],
    }


def _record(enrollment: _Known) -> Link:
    row, first, last = enrollment.row, enrollment.events[-1], enrollment.events[0]
    if row is not None and row.state == DELETED:
        return _deleted("record", "this enrollment", enrollment)
    position = row.own_position if row is not None and row.own_position else last["position"]
    times = "once" if len(enrollment.events) == 1 else f"{len(enrollment.events)} times"
    if len(enrollment.events) == _NEWEST:
        times = f"{_NEWEST} times or more"
    at = next(
        (e["recorded_at"] for e in enrollment.events if e["position"] == position), first["recorded_at"]
    )
    return Link("record", True, position, at, f"Zoho sent this enrollment {times}.")


def _deleted(link: str, what: str, known: _Known) -> Link:
    """A record that Zoho deleted, and perhaps sent again in a version that is not newer."""
    row, last = known.row, known.events[0]
    assert row is not None
    title = what[0].upper() + what[1:]
    detail = f"{title} was deleted in Zoho."
    step = f"If it should count, restore {what} in Zoho: the ledger takes it up by itself."
    if last["reason"] == "deleted":
        detail += " A version that came afterwards is not newer than that, so it does not count."
        step = f"If it should count, save {what} in Zoho again, so that it is newer than the deletion."
    return Link(link, False, row.own_position, row.deleted_at, detail, step)


def _valid(enrollment: _Known, story: _Story) -> Link:
    row, last = enrollment.row, enrollment.events[0]
    if row is None or row.state == NONE:
        detail, step = _why_unused(last, "enrollment")
        return Link("valid", False, last["position"], last["recorded_at"], detail, step)
    if row.state == DELETED:
        return Link("valid", None, None, None, "A deleted enrollment is not looked at further.")
    if found := story.inactive.get(row.name):
        return Link(
            "valid", False, *found,
            f"The enrollment's status in Zoho is {row.fields['status']}, which takes no seat in a course.",
            "If the student should attend, set the enrollment's status in Zoho to an active one.",
        )  # fmt: skip
    used = next((e for e in enrollment.events if e["position"] == row.own_position), last)
    detail = "The newest version that counts is complete and approved."
    if last["position"] > used["position"]:
        why, _ = _why_unused(last, "enrollment")
        detail = f"An earlier version counts; that of position {last['position']} does not. {why}"
    return Link("valid", True, used["position"], used["recorded_at"], detail)


async def _needed(
    connection: Connection, tenant_id: str, story: _Story, entity: str, fields: dict[str, str | None]
) -> Link:
    zoho_id = fields.get(f"{entity}_zoho_id")
    if not zoho_id:
        return Link(entity, None, None, None, f"No usable version of the enrollment names a {entity}.")
    title = f"{entity.capitalize()} {zoho_id}"
    known = await _known(connection, tenant_id, entity, zoho_id)
    row = known.row
    if row is not None and row.state == ACTIVE:
        if found := story.inactive.get(row.name):
            return Link(
                entity, False, *found,
                f"{title} has the status {row.fields['status']} in Zoho, which takes no seat in a course.",
                f"If that is wrong, set the status of the {entity} in Zoho to an active one.",
            )  # fmt: skip
        at = next(
            (e["recorded_at"] for e in known.events if e["position"] == row.own_position), row.updated_at
        )
        return Link(entity, True, row.own_position, at, f"{title} is known and active.")
    if row is not None and row.state == DELETED:
        return _deleted(entity, f"{entity} {zoho_id}", known)
    if row is not None and row.state == WAITING:
        named = ", ".join(f"{e} {i}" for e, i in row.waiting_for)
        return Link(
            entity, False, row.own_position, row.waiting_since,
            f"{title} waits itself for {named}.",
            f"Send {named} from Zoho.",
        )  # fmt: skip
    if known.events:
        last = known.events[0]
        why, step = _why_unused(last, entity)
        return Link(
            entity, False, last["position"], last["recorded_at"], f"{title} cannot count. {why}", step
        )
    return Link(
        entity, False, None, None,
        f"{title} has not come from Zoho yet.",
        f"Send {entity} {zoho_id} from Zoho; the enrollment is then applied by itself.",
    )  # fmt: skip


async def _program(connection: Connection, tenant_id: str, fields: dict[str, str | None]) -> Link:
    zoho_id = fields.get("program_zoho_id")
    if not zoho_id:
        return Link("program", None, None, None, "The enrollment names no program; none is needed.")
    known = await _known(connection, tenant_id, "program", zoho_id)
    if known.row is not None and known.row.state == ACTIVE:
        row = known.row
        return Link(
            "program", True, row.own_position, row.updated_at, f"Program {zoho_id} is known and active."
        )
    what = "was deleted in Zoho" if known.state == DELETED else "has not come from Zoho yet"
    return Link("program", None, None, None, f"Program {zoho_id} {what}; that keeps nobody out of a course.")


async def _wanted(connection: Connection, tenant_id: str, settings: TenantSettings, zoho_id: str) -> Wanted:
    rows: dict[Name, Row | None] = {}
    await read(connection, tenant_id, [("enrollment", zoho_id)], rows)
    return Wanted(settings, rows)


def _moodle(links: list[Link], moodle: Wanted | None, zoho_id: str) -> list[Link]:
    names = ("moodle_user", "moodle_course")
    if any(link.ok is False for link in links):
        what = "Not looked at: the enrollment does not ask for a seat."
        seat = Link("moodle_enrolment", None, None, None, what)
        if moodle is not None and (left := _given_up(moodle, zoho_id)):
            seat = left
        return [*(Link(name, None, None, None, what) for name in names), seat]
    if moodle is None:
        what = "No Moodle is connected for this college."
        seat = Link(
            "moodle_enrolment", None, None, None,
            "Zoho's records ask for a seat, but no Moodle is connected for this college, so the ledger "
            "cannot tell who sits in the course.",
            "Look into Moodle itself: this college has none connected to the ledger.",
        )  # fmt: skip
        return [*(Link(name, None, None, None, what) for name in names), seat]
    wanted = moodle.seat(zoho_id)
    assert wanted is not None
    course = wanted.course or ("class", "")
    return [
        _part(moodle, "moodle_user", ("student", wanted.student or ""), "The student's account"),
        _part(moodle, "moodle_course", course, "The class's course"),
        _seat(moodle, ("enrollment", zoho_id)),
    ]


def _part(moodle: Wanted, link: str, name: Name, what: str) -> Link:
    """An account or a course, as Moodle reported on it."""
    known = moodle.known(name)
    is_refused = known.reason is not None and moodle.status(name) == FAILED
    if is_refused and known.moodle_id is None:
        return Link(
            link, False, known.position, known.at,
            f"{what} is not in Moodle: {known.said}.",
            _BY_ITSELF if known.reason in rules.REASONS else _TRY_AGAIN.format(*name),
        )  # fmt: skip
    if known.moodle_id is None:
        return Link(link, None, None, None, f"{what} is queued: Moodle has not reported on it yet.")
    detail = f"{what} in Moodle has the id {known.moodle_id}."
    if is_refused:
        detail += f" Its newest change was not made: {known.said}."
    return Link(link, True, known.position, known.at, detail)


def _seat(moodle: Wanted, name: Name) -> Link:
    """The seat itself, as Moodle reported on it."""
    known, status = moodle.known(name), moodle.status(name)
    if status == SYNCED:
        return Link(
            "moodle_enrolment", True, known.position, known.at,
            f"Moodle confirmed the seat {known.moodle_id} (course and user).",
        )  # fmt: skip
    if status == FAILED:
        why = known.said or "its account or its course is not there"
        return Link(
            "moodle_enrolment", False, known.position, known.at,
            f"Moodle does not give the seat: {why}.",
            _TRY_AGAIN.format(*name),
        )  # fmt: skip
    return Link(
        "moodle_enrolment", False, None, None,
        "The seat is queued: Moodle has not confirmed it yet.",
        "Nothing, unless it stays so: then see degraded in /v1/ready, whether Moodle can be reached.",
    )  # fmt: skip


def _given_up(moodle: Wanted, zoho_id: str) -> Link | None:
    """What became of the seat of an enrollment that asks for none (any more)."""
    name = ("enrollment", zoho_id)
    known = moodle.known(name)
    if known.moodle_id is None:
        return None
    if moodle.status(name) == SYNCED:
        detail = (
            f"No seat is asked for. Moodle acknowledged that for {known.moodle_id} (course and user), "
            "which stays only where another enrollment asks for it."
        )
        return Link("moodle_enrolment", None, known.position, known.at, detail)
    detail = f"The seat {known.moodle_id} is still to be taken back in Moodle."
    return Link("moodle_enrolment", None, known.position, known.at, detail)


def _why_unused(event: Any, entity: str) -> tuple[str, str]:
    """Why an event of a record was not used, and what to do; in sentences."""
    status, reason = event["status"], event["reason"]
    if status == "INVALID":
        problems = _decode(event["errors"]) if event["errors"] else []
        named = "; ".join(f"{_label(field)}: {problem}" for field, problem in problems)
        fields = " and ".join(_label(field) for field, _ in problems) or "the record"
        return (
            f"What Zoho sent cannot be used ({named}).",
            f"Fill in {fields} of the {entity} in Zoho and save it again.",
        )
    if status == "ERROR":
        return (
            "It was recorded, but could not be applied.",
            "Tell the administrator: sync-ledger replay --parked applies it again.",
        )
    if reason == "not_approved":
        return "It is a draft or not approved in Zoho.", f"Approve the {entity} in Zoho."
    if reason in _UNUSED:
        return _UNUSED[reason], f"If that version is the right one, save the {entity} in Zoho again."
    return "It led to nothing.", f"Save the {entity} in Zoho again."


def _label(field: str) -> str:
    """A field in the words of Zoho's forms: `student_zoho_id` -> `Student`."""
    return field.removesuffix("_zoho_id").replace("_", " ").capitalize()


async def _known(connection: Connection, tenant_id: str, entity: str, zoho_id: str) -> _Known:
    found = await connection.fetchrow(SQL["one_record"], tenant_id, entity, zoho_id)
    stream = stream_name(entity, zoho_id)
    events = await connection.fetch(SQL["last_events_of_stream"], tenant_id, stream, _NEWEST)
    return _Known(None if found is None else from_columns(found[BOOKKEEPING:]), list(events))
