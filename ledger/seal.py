"""From a record that was read to the event that is stored: digests, key, sealed payload."""

from __future__ import annotations

import msgspec

from ledger import digests, vault
from ledger.codec import topic_of
from ledger.digests import Macs
from ledger.events import DELETION, Event, MoodleReported, RecordReceived, stream_name
from ledger.vault import SubjectKey
from ledger.zoho.entities import Entity
from ledger.zoho.records import FUTURE, Record

_RECEIVED, _REPORTED = topic_of(RecordReceived), topic_of(MoodleReported)
_encode = msgspec.json.Encoder().encode


class Origin(msgspec.Struct, frozen=True):
    """Where a record came from: `source` is one of `ledger.events.SOURCES`."""

    tenant_id: str
    source: str
    delivery_id: str


class Known(msgspec.Struct, frozen=True, gc=False):
    """What the state knows of a record before its event: the key and the values that
    its digests were made with.
    """

    key_id: bytes | None = None
    values: dict[str, str | None] = {}


def stream_of(record: Record, delivery_id: str, index: int) -> str:
    """`student-<id>`; each unusable record is a stream of its own."""
    if record.zoho_id is None:
        return f"quarantine-{delivery_id}-{index}"
    return stream_name(*record.row)


def seal(
    record: Record,
    entity: Entity,
    origin: Origin,
    key: SubjectKey | None,
    known: Known,
    *,
    stream: str,
    version: int,
    position: int,
    recorded_at: int,
) -> Event:
    """The event of a record, its `chain` still empty.

    A `Modified_Time` that is missing or more than ten minutes ahead states nothing: the
    event has no `effective_at`, but for a deletion the time of receipt. Where the record moves
    under another key, the digests of the values that it keeps are made anew, since digests
    compare under one key only.
    """
    problems = record.problems
    effective_at = record.modified_at
    if effective_at is not None and effective_at > recorded_at + FUTURE:
        effective_at = None
        problems = [*problems, ("modified_time", "is in the future: the record is applied on arrival")]
    if effective_at is None and record.flags & DELETION:
        effective_at = recorded_at
    payload = record.payload
    if key is not None:
        payload = key.seal(payload, vault.bound_to(origin.tenant_id, stream, version))
    return Event(
        tenant_id=origin.tenant_id,
        position=position,
        stream=stream,
        version=version,
        topic=_RECEIVED if record.refs is None else _REPORTED,
        entity=record.entity,
        zoho_id=record.zoho_id,
        source=origin.source,
        delivery_id=origin.delivery_id,
        recorded_at=recorded_at,
        effective_at=effective_at,
        refs=_refs(record, entity),
        flags=record.flags,
        problems=_encode(problems).decode() if problems else None,
        key_id=key.key_id if key is not None else None,
        content_mac=_digests(record, entity, key, known) if record.refs is None else None,
        payload=payload,
    )


def _refs(record: Record, entity: Entity) -> str | None:
    if record.refs is not None:
        return _encode(record.refs).decode()
    values = record.values
    refs = {f.name: values[f.name] for f in entity.fields if f.kind == "lookup" and f.name in values}
    return _encode(refs).decode() if refs else None


def _digests(record: Record, entity: Entity, key: SubjectKey | None, known: Known) -> bytes | None:
    """The digests of the fields that came; None where no field came."""
    mac_key = key.mac_key if key is not None else b""
    moved = bool(known.values) and known.key_id != (key.key_id if key is not None else None)
    values = {**known.values, **record.values} if moved else record.values
    macs: Macs = {}
    provisional = set()
    for field in entity.fields:
        if field.name in values:
            value = values[field.name]
            macs[field.number] = None if value is None else vault.mac(mac_key, field.number, value)
            if field.name in record.provisional:
                provisional.add(field.number)
    return digests.pack(macs, provisional) or None
