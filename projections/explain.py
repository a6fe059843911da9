"""Why a student is in a course or not: the links from Zoho's record to Moodle's seat.

Every link says whether it holds (null: not known, or of no matter), by which event,
since when, and what that means, in words for a registrar (`projections/sentences.py`).
The first that does not hold is the reason.
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
from projections.moodle.wanted import FAILED, QUEUED, SYNCED, Wanted, report_name, takes_no_seat, values_of
from projections.past import Past
from projections.period import Moment, Period, since_when
from projections.queries import SQL
from projections.sentences import SENTENCES
from projections.state import ACTIVE, DELETED, NONE, WAITING, Name, Row, WholeView, from_columns

ENROLLED, NOT_ENROLLED, UNKNOWN = "enrolled", "not_enrolled", "unknown"

_NEWEST = 200
"""So many of a record's newest events are looked at."""

_decode = msgspec.json.Decoder(list[tuple[str, str]]).decode
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError)
_BY_ITSELF = "When that is mended in Zoho, the ledger takes it up by itself."
_TRY_AGAIN = "When that is mended, the administrator runs sync-ledger moodle retry --entity {} --zoho-id {}."
_LOOK_THERE = (
    "Look into Moodle itself, or ask where this college's Moodle is connected (MOODLE_ENABLED=true)."
)


class Link(msgspec.Struct):
    """One link of the chain. `at` is an instant in microseconds; `code` names the sentence that
    `detail` is; `next_step` says what to do where the link does not hold.
    """

    link: str
    ok: bool | None
    position: int | None
    at: int | None
    code: str
    detail: str
    next_step: str | None = None

    def shown(self) -> dict[str, Any]:
        """As the contract has it."""
        return {
            "link": self.link,
            "ok": self.ok,
            "position": self.position,
            "at": None if self.at is None else clock.to_text(self.at),
            "code": self.code,
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
    """What the events of an enrollment and of those that it needs tell of time: from when on it
    did (not) ask for a seat, since which event (position and instant) it has its dates, and since
    which one a record has a status that takes none. `rows`: as the events have them now.
    """

    rows: dict[Name, Row | None] = {}
    moments: list[Moment] = []
    dated: tuple[int, int] | None = None
    inactive: dict[Name, tuple[int, int]] = {}


class _Why(msgspec.Struct):
    """Why a version does not count: the code of its sentence, what is to be done, what is filled in."""

    code: str
    step: str
    problems: str = ""


class _Moodle(msgspec.Struct):
    """What Moodle is asked for and has reported. Where it is not `connected` here, its settings are
    those that its reports tell of.
    """

    wanted: Wanted
    connected: bool


async def explain_enrollment(
    past: Past,
    connection: Connection,
    tenant_id: str,
    settings: TenantSettings,
    zoho_id: str,
    *,
    now: int | None = None,
) -> dict[str, Any] | None:
    """The explanation of one enrollment, None where the ledger never heard of it. `past` is that
    of the present moment; `now` the instant whose day is today (by default the clock's).
    """
    now = clock.now() if now is None else now
    enrollment = await _known(connection, tenant_id, "enrollment", zoho_id)
    if not enrollment.events:
        return None
    story = await _story(past, connection, tenant_id, ("enrollment", zoho_id), settings)
    problems = [f"{u.entity} {u.zoho_id}: {u.problem}" for u in past.unread.values()]
    if enrollment.row is not None and enrollment.row.problem:
        problems.append(enrollment.row.problem)
    row = enrollment.row = _readable(enrollment.row, story)
    fields = row.fields if row is not None else {}
    links = [_record(enrollment), _valid(enrollment, story)]
    links.append(await _needed(connection, tenant_id, story, "student", fields))
    links.append(await _needed(connection, tenant_id, story, "class", fields))
    links.append(await _program(connection, tenant_id, fields))
    asks = all(link.ok is not False for link in links)
    links.append(_period(enrollment, story, now))
    links += _moodle_links(await _moodle(connection, tenant_id, settings, zoho_id), zoho_id, asks=asks)
    since = since_when(story.moments, now)
    answer = _answer(zoho_id, enrollment.events[-1]["recorded_at"] if since is None else since, links)
    return {**answer, "unreadable": "; ".join(problems)} if problems else answer


async def _story(
    past: Past, connection: Connection, tenant_id: str, name: Name, settings: TenantSettings
) -> _Story:
    """Folds the streams once more, looking behind every event."""
    story = _Story()
    before: tuple[Any, ...] | None = None
    newest: dict[Name, Event] = {}

    def look(event: Event, view: WholeView) -> None:
        nonlocal before
        changed = (event.entity or "", event.zoho_id or "")
        newest[changed] = event
        row = view.row(changed)
        if row is None or not takes_no_seat(row, settings):
            story.inactive.pop(changed, None)
        else:
            story.inactive.setdefault(changed, (event.position, event.recorded_at))
        if (own := view.row(name)) is None:
            return
        needed = [(e, own.fields.get(f"{e}_zoho_id") or "") for e in ("student", "class")]
        asks = own.state == ACTIVE and not any(n in story.inactive for n in (name, *needed))
        dates = own.fields.get("start_date"), own.fields.get("end_date")
        if own.state != NONE and (story.dated is None or before is None or before[1] != dates):
            story.dated = event.position, event.recorded_at
        if before != (asks, dates):
            before = asks, dates
            story.moments.append(Moment(event.recorded_at, asks, Period.read(*dates, settings.timezone)))

    view = await past.fold([name], open_all=True, each=look)
    for unread in past.unread.keys() & newest.keys():  # what its events do not tell its present row does
        found = await connection.fetchrow(SQL["one_record"], tenant_id, *unread)
        row, live = view.row(unread), from_columns(found[BOOKKEEPING:]) if found is not None else None
        if row is not None and live is not None and not live.damaged:
            view.rows[unread] = msgspec.structs.replace(row, fields=live.fields)
            look(newest[unread], view)
    story.rows = view.rows
    return story


def _readable(row: Row | None, story: _Story) -> Row | None:
    """A record's row, from the events where the present one cannot be read."""
    return row if row is None or not row.damaged else story.rows.get(row.name, row)


def _answer(zoho_id: str, since: int, links: list[Link]) -> dict[str, Any]:
    broken = next((link for link in links if link.ok is False), None)
    open_ = next((link for link in links if link.ok is None and link.link == "moodle_enrolment"), None)
    deciding = broken or open_ or links[-1]
    return {
        "enrollment": zoho_id,
        "answer": NOT_ENROLLED if broken else UNKNOWN if open_ else ENROLLED,
        "since": clock.to_text(since),
        "because": deciding.detail,
        "next_step": deciding.next_step or "Nothing: all is as it should be.",
        "links": [link.shown() for link in links],
    }


def _link(
    link: str,
    ok: bool | None,
    code: str,
    event: tuple[int | None, int | None] = (None, None),
    next_step: str | None = None,
    **values: Any,
) -> Link:
    """A link that says the sentence of a code. `event`: the position and instant that it rests on."""
    return Link(link, ok, *event, code, SENTENCES[code].format(**values), next_step)


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
    return _link("record", True, "came", (position, at), times=times)


def _deleted(link: str, what: str, known: _Known) -> Link:
    """A record that Zoho deleted, and perhaps sent again in a version that is not newer."""
    row, last = known.row, known.events[0]
    assert row is not None
    event, title = (row.own_position, row.deleted_at), what[0].upper() + what[1:]
    if last["reason"] == "deleted":
        step = f"If it should count, save {what} in Zoho again, so that it is newer than the deletion."
        return _link(link, False, "deleted_and_sent_again", event, step, title=title)
    step = f"If it should count, restore {what} in Zoho: the ledger takes it up by itself."
    return _link(link, False, "deleted", event, step, title=title)


def _valid(enrollment: _Known, story: _Story) -> Link:
    row, last = enrollment.row, enrollment.events[0]
    if row is None or row.state == NONE:
        why = _why_unused(last, "enrollment")
        return _link("valid", False, why.code, _of(last), why.step, problems=why.problems)
    if row.state == DELETED:
        return _link("valid", None, "not_looked_at_deleted")
    if found := story.inactive.get(row.name):
        step = "If the student should attend, set the enrollment's status in Zoho to an active one."
        status = row.fields.get("status")
        return _link("valid", False, "takes_no_seat", found, step, title="The enrollment", status=status)
    used = next((e for e in enrollment.events if e["position"] == row.own_position), last)
    if last["position"] > used["position"]:
        why = _why_unused(last, "enrollment")
        newest = last["position"]
        return _link(
            "valid", True, f"earlier_counts_{why.code}", _of(used), newest=newest, problems=why.problems
        )
    return _link("valid", True, "valid", _of(used))


async def _needed(
    connection: Connection, tenant_id: str, story: _Story, entity: str, fields: dict[str, str | None]
) -> Link:
    zoho_id = fields.get(f"{entity}_zoho_id")
    if not zoho_id:
        return _link(entity, None, "none_named", entity=entity)
    title = f"{entity.capitalize()} {zoho_id}"
    known = await _known(connection, tenant_id, entity, zoho_id)
    row = known.row = _readable(known.row, story)
    if row is not None and row.state == ACTIVE:
        if found := story.inactive.get(row.name):
            step = f"If that is wrong, set the status of the {entity} in Zoho to an active one."
            status = row.fields.get("status")
            return _link(entity, False, "takes_no_seat", found, step, title=title, status=status)
        at = next(
            (e["recorded_at"] for e in known.events if e["position"] == row.own_position), row.updated_at
        )
        return _link(entity, True, "known", (row.own_position, at), title=title)
    if row is not None and row.state == DELETED:
        return _deleted(entity, f"{entity} {zoho_id}", known)
    if row is not None and row.state == WAITING:
        named = ", ".join(f"{e} {i}" for e, i in row.waiting_for)
        event, step = (row.own_position, row.waiting_since), f"Send {named} from Zoho."
        return _link(entity, False, "waits", event, step, title=title, named=named)
    if known.events:
        why, event = _why_unused(known.events[0], entity), _of(known.events[0])
        return _link(
            entity, False, f"cannot_count_{why.code}", event, why.step, title=title, problems=why.problems
        )
    step = f"Send {entity} {zoho_id} from Zoho; the enrollment is then applied by itself."
    return _link(entity, False, "not_come", next_step=step, title=title)


async def _program(connection: Connection, tenant_id: str, fields: dict[str, str | None]) -> Link:
    zoho_id = fields.get("program_zoho_id")
    if not zoho_id:
        return _link("program", None, "no_program")
    title = f"Program {zoho_id}"
    known = await _known(connection, tenant_id, "program", zoho_id)
    if known.row is not None and known.row.state == ACTIVE:
        row = known.row
        return _link("program", True, "known", (row.own_position, row.updated_at), title=title)
    if known.state == DELETED:
        return _link("program", None, "program_deleted", title=title)
    return _link("program", None, "program_not_come", title=title)


def _period(enrollment: _Known, story: _Story, now: int) -> Link:
    """Whether today is one of the enrollment's days. Its position is that of the event that brought them."""
    if enrollment.state == DELETED:
        return _link("period", None, "not_looked_at_deleted")
    if story.dated is None:
        return _link("period", None, "no_usable_version")
    period, event = story.moments[-1].period, story.dated
    start, end, zone = period.start, period.end, period.zone
    today = clock.day(now, zone)
    if start is None and end is None:
        return _link("period", True, "no_dates", event)
    if start is not None and end is not None and end < start:
        step = "Correct the start date or the end date of the enrollment in Zoho."
        return _link("period", False, "end_before_start", event, step, start=start, end=end)
    if period.holds(now):
        dates = " ".join(f"{word} {day}" for word, day in (("from", start), ("to", end)) if day is not None)
        return _link("period", True, "within_dates", event, today=today, zone=zone, dates=dates)
    if start is not None and today < start:
        step = (
            "Nothing: it counts from that day on. If the day is wrong, correct the enrollment's start "
            "date in Zoho."
        )
        return _link("period", False, "not_begun", event, step, start=start, today=today, zone=zone)
    step = "If the student should still attend, correct the end date of the enrollment in Zoho."
    return _link("period", False, "ended", event, step, end=end, today=today, zone=zone)


async def _moodle(
    connection: Connection, tenant_id: str, settings: TenantSettings, zoho_id: str
) -> _Moodle | None:
    """Moodle's part in an enrollment; None where none is connected, and none ever reported on it."""
    name, rows = ("enrollment", zoho_id), dict[Name, Row | None]()
    await read(connection, tenant_id, [name], rows)
    if settings.moodle.enabled:
        return _Moodle(Wanted(settings, rows), connected=True)
    told = _as_reported(settings, rows, name)
    return None if told is None else _Moodle(Wanted(told, rows), connected=False)


def _as_reported(settings: TenantSettings, rows: dict[Name, Row | None], name: Name) -> TenantSettings | None:
    """The settings of the Moodle that reported on an enrollment, its student or its class, as far as
    they stand in the wanted states that it reported on: with them a report covers a record exactly
    where its text is the one that is asked for now. None where there is no report.
    """
    own = rows.get(name)
    fields = own.fields if own is not None else {}
    names = [name, *((e, fields.get(f"{e}_zoho_id") or "") for e in ("student", "class"))]
    reports = [rows.get(report_name(n)) for n in names]
    if not any(reports):
        return None
    seat, student, class_ = (
        values_of(row.fields.get("asked") or row.fields.get("done")) if row is not None else {}
        for row in reports
    )
    newest = max((row.position or 0, n) for n, row in enumerate(reports) if row is not None)[1]
    moodle = msgspec.structs.replace(
        settings.moodle,
        base_url=(seat, student, class_)[newest].get("site"),
        create_courses=class_.get("new", settings.moodle.create_courses),
        student_role_id=seat.get("role", settings.moodle.student_role_id),
        on_withdraw=seat.get("how", settings.moodle.on_withdraw),
    )
    return msgspec.structs.replace(settings, moodle=moodle)


def _moodle_links(moodle: _Moodle | None, zoho_id: str, *, asks: bool) -> list[Link]:
    """The links of Moodle's part. `asks`: the records ask for a seat, whatever its days are."""
    names = ("moodle_user", "moodle_course")
    if not asks:
        left = _given_up(moodle, ("enrollment", zoho_id)) if moodle is not None else None
        others = [_link(name, None, "no_seat_asked") for name in names]
        return [*others, left or _link("moodle_enrolment", None, "no_seat_asked")]
    if moodle is None:
        step = "Look into Moodle itself: this college has none connected to the ledger."
        seat = _link("moodle_enrolment", None, "seat_not_known", next_step=step)
        return [*(_link(name, None, "no_moodle") for name in names), seat]
    wanted = moodle.wanted.seat(zoho_id)
    assert wanted is not None
    course = wanted.course or ("class", "")
    return [
        _part(moodle, "moodle_user", ("student", wanted.student or ""), "The student's account"),
        _part(moodle, "moodle_course", course, "The class's course"),
        _seat(moodle, ("enrollment", zoho_id)),
    ]


def _untold(moodle: _Moodle, link: str, name: Name, what: str) -> Link | None:
    """That Moodle's reports do not cover what is asked for now, where none is connected to ask."""
    if moodle.connected or moodle.wanted.status(name) != QUEUED:
        return None
    known = moodle.wanted.known(name)
    if known.position is None:
        return _link(link, None, "not_reported", next_step=_LOOK_THERE, what=what)
    return _link(link, None, "report_outdated", (known.position, known.at), _LOOK_THERE, what=what)


def _part(moodle: _Moodle, link: str, name: Name, what: str) -> Link:
    """An account or a course, as Moodle reported on it."""
    if untold := _untold(moodle, link, name, what):
        return untold
    known = moodle.wanted.known(name)
    event, moodle_id, said = (known.position, known.at), known.moodle_id, known.said
    is_refused = known.reason is not None and moodle.wanted.status(name) == FAILED
    if is_refused and moodle_id is None:
        step = _BY_ITSELF if known.reason in rules.REASONS else _TRY_AGAIN.format(*name)
        return _link(link, False, "not_in_moodle", event, step, what=what, said=said)
    if moodle_id is None:
        return _link(link, None, "queued", what=what)
    if is_refused:
        return _link(link, True, "in_moodle_change_refused", event, what=what, moodle_id=moodle_id, said=said)
    return _link(link, True, "in_moodle", event, what=what, moodle_id=moodle_id)


def _seat(moodle: _Moodle, name: Name) -> Link:
    """The seat itself, as Moodle reported on it."""
    link = "moodle_enrolment"
    if untold := _untold(moodle, link, name, "The seat"):
        return untold
    known, status = moodle.wanted.known(name), moodle.wanted.status(name)
    event = known.position, known.at
    if status == SYNCED:
        return _link(link, True, "seat_confirmed", event, moodle_id=known.moodle_id)
    if status == FAILED:
        step = _TRY_AGAIN.format(*name)
        if known.said:
            return _link(link, False, "seat_refused", event, step, said=known.said)
        return _link(link, False, "seat_blocked", event, step)
    step = "Nothing, unless it stays so: then see degraded in /v1/ready, whether Moodle can be reached."
    return _link(link, False, "seat_queued", next_step=step)


def _given_up(moodle: _Moodle, name: Name) -> Link | None:
    """What became of the seat of an enrollment that asks for none (any more)."""
    link, known = "moodle_enrolment", moodle.wanted.known(name)
    if known.moodle_id is None:
        return None
    if untold := _untold(moodle, link, name, "The seat"):
        return untold
    event = known.position, known.at
    if moodle.wanted.status(name) == SYNCED:
        return _link(link, None, "seat_given_up", event, moodle_id=known.moodle_id)
    return _link(link, None, "seat_still_there", event, moodle_id=known.moodle_id)


def _why_unused(event: Any, entity: str) -> _Why:
    """Why an event of a record was not used, and what to do."""
    status, reason = event["status"], event["reason"]
    if status == "INVALID":
        try:
            problems = _decode(event["errors"]) if event["errors"] else []
        except _UNDECODABLE:  # the list of events says so
            problems = []
        named = "; ".join(f"{_label(field)}: {problem}" for field, problem in problems)
        fields = " and ".join(_label(field) for field, _ in problems) or "the record"
        step = f"Correct {fields} of the {entity} in Zoho, or what sends it (a lookup is sent by its id)"
        return _Why("unusable", f"{step}, and save it again.", named)
    if status == "ERROR":
        step = "Tell the administrator: sync-ledger replay --parked applies it again."
        return _Why("not_applied", step)
    if reason == "not_approved":
        return _Why("not_approved", f"Approve the {entity} in Zoho.")
    step = f"If that version is the right one, save the {entity} in Zoho again."
    if reason == "stale":
        return _Why("stale", step)
    if reason == "deleted":
        return _Why("not_newer_than_deletion", step)
    return _Why("led_to_nothing", f"Save the {entity} in Zoho again.")


def _of(event: Any) -> tuple[int, int]:
    """The position and instant of an event."""
    return event["position"], event["recorded_at"]


def _label(field: str) -> str:
    """A field in the words of Zoho's forms: `student_zoho_id` -> `Student`."""
    return field.removesuffix("_zoho_id").replace("_", " ").capitalize()


async def _known(connection: Connection, tenant_id: str, entity: str, zoho_id: str) -> _Known:
    found = await connection.fetchrow(SQL["one_record"], tenant_id, entity, zoho_id)
    stream = stream_name(entity, zoho_id)
    events = await connection.fetch(SQL["last_events_of_stream"], tenant_id, stream, _NEWEST)
    return _Known(None if found is None else from_columns(found[BOOKKEEPING:]), list(events))
