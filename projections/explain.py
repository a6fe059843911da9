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
from ledger.events import stream_name
from ledger.settings import TenantSettings
from projections.queries import SQL
from projections.state import ACTIVE, DELETED, NONE, WAITING, Row, from_columns

ENROLLED, NOT_ENROLLED, UNKNOWN = "enrolled", "not_enrolled", "unknown"

_BOOKKEEPING = 2  # tenant_id and generation come first in `select *`
_FIRST_OF_A_LIFE = 200
"""So many of a record's newest events are looked at for when something began."""

_decode = msgspec.json.Decoder(list[tuple[str, str]]).decode
_decode_changes = msgspec.json.Decoder(dict[str, Any]).decode
_UNUSED = {
    "stale": "it is older than what the ledger already had",
    "deleted": "it is not newer than the deletion of the record",
    "not_approved": "it is a draft or not approved in Zoho",
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
    since: int | None = None

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
        return NONE if self.row is None else self.row.state


async def explain_enrollment(
    connection: Connection, tenant_id: str, settings: TenantSettings, zoho_id: str
) -> dict[str, Any] | None:
    """The explanation of one enrollment, None where the ledger never heard of it."""
    enrollment = await _known(connection, tenant_id, "enrollment", zoho_id)
    if not enrollment.events:
        return None
    row = enrollment.row
    fields = row.fields if row is not None else {}
    links = [_record(enrollment), _valid(enrollment, settings)]
    links.append(await _needed(connection, tenant_id, settings, "student", fields))
    links.append(await _needed(connection, tenant_id, settings, "class", fields))
    links.append(await _program(connection, tenant_id, fields))
    links += _moodle(enrollment, links, settings)
    return _answer(zoho_id, enrollment, links)


def _answer(zoho_id: str, enrollment: _Known, links: list[Link]) -> dict[str, Any]:
    broken = next((link for link in links if link.ok is False), None)
    open_ = next((link for link in links if link.ok is None and link.link == "moodle_enrolment"), None)
    deciding = broken or open_ or links[-1]
    answer = NOT_ENROLLED if broken else UNKNOWN if open_ else ENROLLED
    row = enrollment.row
    if broken and row is not None and row.state == WAITING:
        since = row.waiting_since  # whatever has come to stand in the way later
    else:
        since = deciding.at if deciding.since is None else deciding.since
    if since is None:
        since = enrollment.events[-1]["recorded_at"]
    return {
        "enrollment": zoho_id,
        "answer": answer,
        "since": clock.to_text(since),
        "because": deciding.detail,
        "next_step": deciding.next_step or "Nothing: all is as it should be.",
        "links": [link.shown() for link in links],
    }


def _record(enrollment: _Known) -> Link:
    row, first, last = enrollment.row, enrollment.events[-1], enrollment.events[0]
    if row is not None and row.state == DELETED:
        return Link(
            "record", False, row.own_position, row.deleted_at,
            "Zoho deleted this enrollment.",
            "If it should still count, restore it in Zoho: the ledger takes it up by itself.",
        )  # fmt: skip
    position = row.own_position if row is not None and row.own_position else last["position"]
    times = "once" if len(enrollment.events) == 1 else f"{len(enrollment.events)} times"
    if len(enrollment.events) == _FIRST_OF_A_LIFE:
        times = f"{_FIRST_OF_A_LIFE} times or more"
    at = next(
        (e["recorded_at"] for e in enrollment.events if e["position"] == position), first["recorded_at"]
    )
    return Link("record", True, position, at, f"Zoho sent this enrollment {times}.")


def _valid(enrollment: _Known, settings: TenantSettings) -> Link:
    row, last = enrollment.row, enrollment.events[0]
    if row is None or row.state == NONE:
        detail, step = _why_unused(last, "enrollment")
        return Link("valid", False, last["position"], last["recorded_at"], detail, step, _since(enrollment))
    if row.state == DELETED:
        return Link("valid", None, None, None, "A deleted enrollment is not looked at further.")
    used = next((e for e in enrollment.events if e["position"] == row.own_position), last)
    if _is_inactive(row, settings):
        position, at = _said(enrollment, "status")
        return Link(
            "valid", False, position, at,
            f"The enrollment's status in Zoho is {row.fields['status']}, which takes no seat in a course.",
            "If the student should attend, set the enrollment's status in Zoho to an active one.",
        )  # fmt: skip
    detail = "The newest version that counts is complete and approved."
    if last["position"] > used["position"]:
        why, _ = _why_unused(last, "enrollment")
        detail = f"An earlier version counts; position {last['position']} does not: {why}"
    return Link("valid", True, used["position"], used["recorded_at"], detail)


async def _needed(
    connection: Connection,
    tenant_id: str,
    settings: TenantSettings,
    entity: str,
    fields: dict[str, str | None],
) -> Link:
    zoho_id = fields.get(f"{entity}_zoho_id")
    if not zoho_id:
        return Link(entity, None, None, None, f"No usable version of the enrollment names a {entity}.")
    title = f"{entity.capitalize()} {zoho_id}"
    known = await _known(connection, tenant_id, entity, zoho_id)
    row = known.row
    if row is not None and row.state == ACTIVE:
        if _is_inactive(row, settings):
            position, at = _said(known, "status")
            return Link(
                entity, False, position, at,
                f"{title} has the status {row.fields['status']} in Zoho, which takes no seat in a course.",
                f"If that is wrong, set the status of the {entity} in Zoho to an active one.",
            )  # fmt: skip
        at = next(
            (e["recorded_at"] for e in known.events if e["position"] == row.own_position), row.updated_at
        )
        return Link(entity, True, row.own_position, at, f"{title} is known and active.")
    if row is not None and row.state == DELETED:
        return Link(
            entity, False, row.own_position, row.deleted_at,
            f"{title} was deleted in Zoho.",
            f"Restore the {entity} in Zoho, or point the enrollment to another one.",
        )  # fmt: skip
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
        return Link(entity, False, last["position"], last["recorded_at"], f"{title}: {why}", step)
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


def _moodle(enrollment: _Known, links: list[Link], settings: TenantSettings) -> list[Link]:
    if any(link.ok is False for link in links):
        what = "Not looked at: the enrollment does not ask for a seat."
        return [
            Link(name, None, None, None, what)
            for name in ("moodle_user", "moodle_course", "moodle_enrolment")
        ]
    row = enrollment.row
    assert row is not None
    since = row.updated_at
    if not settings.moodle.enabled:
        what = "No Moodle is connected for this college."
        step = "Connect Moodle (MOODLE_ENABLED): all that waits is then worked off by itself."
        seat = Link(
            "moodle_enrolment", None, None, None,
            "Zoho's records ask for a seat, but no Moodle is connected for this college, so the ledger "
            "cannot tell who sits in the course.", step, since,
        )  # fmt: skip
        return [Link(name, None, None, None, what) for name in ("moodle_user", "moodle_course")] + [seat]
    what = "Moodle has not reported on it yet."
    seat = Link(
        "moodle_enrolment", False, None, None,
        "The seat is queued: Moodle has not confirmed it yet.",
        "Wait for the Moodle worker; where it stays so, look at /v1/ready.", since,
    )  # fmt: skip
    return [Link(name, None, None, None, what) for name in ("moodle_user", "moodle_course")] + [seat]


def _why_unused(event: Any, entity: str) -> tuple[str, str]:
    """Why an event of a record was not used, and what to do."""
    status, reason = event["status"], event["reason"]
    if status == "INVALID":
        problems = _decode(event["errors"]) if event["errors"] else []
        named = "; ".join(f"{field} is {problem}" for field, problem in problems)
        return (
            f"what Zoho sent cannot be used: {named}.",
            f"Mend {', '.join(f for f, _ in problems) or 'the record'} of the {entity} in Zoho and save it again.",
        )
    if status == "ERROR":
        return (
            "it was recorded, but could not be applied.",
            "Tell the administrator: sync-ledger replay --parked applies it again.",
        )
    if reason == "not_approved":
        return f"{_UNUSED[reason]}.", f"Approve the {entity} in Zoho."
    if reason in _UNUSED:
        return f"{_UNUSED[reason]}.", f"If the newer version is wrong, save the {entity} in Zoho again."
    return "it led to nothing.", f"Save the {entity} in Zoho again."


def _said(known: _Known, field: str) -> tuple[int | None, int | None]:
    """The event (position, instant) that gave a field the value that it has."""
    for event in known.events:
        if event["status"] == "NEW" or (event["changes"] and field in _decode_changes(event["changes"])):
            return event["position"], event["recorded_at"]
    row = known.row
    return (None, None) if row is None else (row.position, row.updated_at)


def _since(enrollment: _Known) -> int | None:
    """When the row of unusable versions that lasts until now began."""
    return enrollment.events[-1]["recorded_at"] if enrollment.events else None


def _is_inactive(row: Row, settings: TenantSettings) -> bool:
    status = row.fields.get("status")
    return status is not None and status.strip().lower() in settings.moodle.inactive_statuses


async def _known(connection: Connection, tenant_id: str, entity: str, zoho_id: str) -> _Known:
    found = await connection.fetchrow(SQL["one_record"], tenant_id, entity, zoho_id)
    stream = stream_name(entity, zoho_id)
    events = await connection.fetch(SQL["last_events_of_stream"], tenant_id, stream, _FIRST_OF_A_LIFE)
    return _Known(None if found is None else from_columns(found[_BOOKKEEPING:]), list(events))
