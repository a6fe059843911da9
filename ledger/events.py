"""What a fact is: the envelope in clear, and the payloads that events carry.

An event is written once and never changes, so neither does the meaning of a field
here. A payload type that must change gets `class_version` + 1 and an
`upcast_vN_vM` static method (see `ledger/codec.py`).
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

DELETION = 1
"""Flag: the record says that it is gone."""
NOT_APPROVED = 2
"""Flag: a draft, or waiting for approval in Zoho."""
UNUSABLE = 4
"""Flag: without a usable id (or no object at all); the record is quarantined."""
REPORT = 8
"""Flag: Moodle's part in a record, not the record itself (`MoodleReported`)."""
REFUSED = 16
"""Flag of a report: it was not done, and is not tried again by itself."""
ASKED_AGAIN = 32
"""Flag of a report: a person asked to try again what was refused."""

SOURCES = ("sync", "webhook", "notification", "pull", "reconcile", "moodle", "cli")


REPORTS = "moodle_"
"""Moodle's part in a record has a stream and a row of its own: entity `moodle_student`."""


def stream_name(entity: str, zoho_id: str) -> str:
    """The stream of a record's events: `student-<id>`."""
    return f"{entity}-{zoho_id}"


class Event(msgspec.Struct, gc=False):
    """One row of `ledger.events`: the envelope in clear and the payload's bytes.

    Instants are microseconds since 1970 UTC. `refs` is JSON text: canonical lookup
    field -> id, null where it came empty, no entry where it did not come.
    `problems` is JSON text: pairs of field and problem, values masked (of a report: the
    reason's code, and the reason in words).
    `payload` is sealed where `key_id` is set. `chain` is sha256(previous || digest).
    The order of the fields is the order in which they are digested.
    """

    tenant_id: str
    position: int
    stream: str
    version: int
    topic: str
    entity: str | None
    zoho_id: str | None
    source: str
    delivery_id: str | None
    recorded_at: int
    effective_at: int | None
    refs: str | None
    flags: int
    problems: str | None
    key_id: bytes | None
    content_mac: bytes | None
    payload: bytes
    chain: bytes = b""


class RecordReceived(msgspec.Struct, gc=False):
    """A record came from Zoho.

    `record`: the record as received, redacted, lookups reduced to their ids.
    `values`: the canonical values that the fold reads, text or null; a field that
    did not come has no entry. `provisional`: those that count only while the state
    has no value of its own. `mapping`: version of the rules that made `values`.
    """

    class_version: ClassVar[int] = 1

    record: msgspec.Raw
    values: dict[str, str | None]
    provisional: tuple[str, ...] = ()
    mapping: int = 1


class MoodleReported(msgspec.Struct):
    """What came of bringing one record to Moodle.

    `record`: what was asked of Moodle and what it answered. `values`: `asked`, the wanted
    state that was acted on, as text. Moodle's own id stands in the envelope's `refs`.
    """

    class_version: ClassVar[int] = 1

    record: msgspec.Raw
    values: dict[str, str | None]
