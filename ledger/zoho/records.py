"""One record from Zoho, read: canonical values, flags, and what is worth keeping of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ledger import clock
from ledger.codec import encode
from ledger.errors import ConfigurationError
from ledger.events import DELETION, NOT_APPROVED, REPORTS, UNUSABLE, RecordReceived
from ledger.settings import TenantSettings
from ledger.zoho import values
from ledger.zoho.entities import Entities, Entity, Field
from ledger.zoho.values import UnreadableError

FUTURE = 10 * clock.MINUTE
"""A `Modified_Time` further ahead than this is not believed."""

REDACTED = "[redacted]"
BUILT_IN_REDACTION = frozenset({
    "academic_password", "password", "passwd", "moodle_password", "portal_password",
    "passport", "passport_number", "passport_no",
    "national_number", "national_id", "national_id_number", "national_no",
    "client_secret", "access_token", "refresh_token", "secret",
})  # fmt: skip

_DROPPED = frozenset({"owner", "created_by", "modified_by"})
_LOOKUP_KEYS = frozenset({"id", "name", "email"})
_DELETE_WORDS = frozenset({"delete", "deleted", "remove", "removed", "trash"})
_ID_NAMES = ("id", "ID")

_encode_record = msgspec.json.Encoder(decimal_format="number").encode


class Record(msgspec.Struct):
    """A record as the lane takes it.

    `zoho_id` is None where there was no usable one. `modified_at` is None where
    `Modified_Time` was missing or unreadable. `values` holds the canonical fields
    that came; `provisional` those that count only while the state has none.
    `problems` are pairs of field and problem, values masked. `refs`: set where it is Moodle's
    report on the record, see `ledger.events.MoodleReported`.
    """

    entity: str
    zoho_id: str | None
    modified_at: int | None
    flags: int
    values: dict[str, str | None]
    provisional: tuple[str, ...]
    problems: list[tuple[str, str]]
    payload: bytes
    refs: dict[str, str | None] | None = None

    @property
    def row(self) -> tuple[str, str]:
        """The name of the row that its event is folded into: (entity, id)."""
        entity = self.entity if self.refs is None else REPORTS + self.entity
        return entity, self.zoho_id or ""


def check_mappings(entities: Entities, tenants: Mapping[str, TenantSettings]) -> None:
    """Raises `ConfigurationError` where a tenant maps an entity or field that is none."""
    for tenant_id, tenant in tenants.items():
        for name, fields in tenant.mapping.items():
            where = f"TENANTS_FILE [tenants.{tenant_id}.mapping.{name}]"
            if name not in entities:
                raise ConfigurationError(f"{where}: use one of {', '.join(entities.names())}")
            try:
                entities[name].with_names(fields)
            except KeyError as error:
                known = ", ".join(field.name for field in entities[name].fields)
                raise ConfigurationError(f"{where}: no field {error}, use {known}") from None


class Reader:
    """Reads one tenant's records: its mapping, zone, date order and redaction."""

    def __init__(self, entities: Entities, tenant: TenantSettings) -> None:
        self._tenant = tenant
        self._redacted = BUILT_IN_REDACTION | tenant.redact_fields
        self._fate: dict[str, int] = {}
        self._entities = {
            entity.name: entity.with_names(tenant.mapping.get(entity.name, {})) for entity in entities
        }
        self._lookups = {
            name: {zoho_name for f in entity.fields if f.kind == "lookup" for zoho_name in f.names}
            for name, entity in self._entities.items()
        }

    def read(self, entity_name: str, raw: Any, *, deletion: bool = False, suspect: bool = True) -> Record:
        """A record of this entity from a decoded JSON value.

        `deletion`: the envelope says that the records are gone. `suspect`: NUL or
        lone surrogates are possible in it. Never raises on bad input: what cannot be
        used is in `flags` and `problems`.
        """
        entity = self._entities[entity_name]
        if not isinstance(raw, dict):
            problem = ("id", f"missing, since the record is {values.masked(raw)} instead of an object")
            return self._unusable(entity, raw, problem)
        problems: list[tuple[str, str]] = []
        for name in self._lookups[entity.name] & raw.keys():
            if (value := raw[name]) is not (decoded := values.lookup_in(value)):
                raw = {**raw, name: decoded}
        if suspect:
            raw, bad = _without_bad_characters(raw)
            problems = [(name, _REPLACED) for name in sorted({_canonical_name(entity, n) for n in bad})]
        try:
            zoho_id = next((i for n in _ID_NAMES if (i := values.read_id(raw.get(n))) is not None), None)
        except UnreadableError as error:
            return self._unusable(entity, raw, ("id", str(error)))
        if zoho_id is None:
            return self._unusable(entity, raw, ("id", "missing"))
        canonical, provisional = self._canonical(entity, raw, problems)
        received = RecordReceived(
            record=msgspec.Raw(_encode_record(self._kept(entity, raw, problems))),
            values=canonical,
            provisional=provisional,
        )
        return Record(
            entity=entity.name,
            zoho_id=zoho_id,
            modified_at=self._modified_at(raw, problems),
            flags=(DELETION if deletion or _says_deleted(raw) else 0)
            | (NOT_APPROVED if _is_not_approved(raw) else 0),
            values=canonical,
            provisional=provisional,
            problems=problems,
            payload=encode(received),
        )

    def _unusable(self, entity: Entity, raw: Any, problem: tuple[str, str]) -> Record:
        kept = _clean(raw)
        strict = entity.sealed_by is None
        if isinstance(kept, dict):
            kept = self._reduced_object(kept, strict=strict)
        else:
            kept = self._reduced(kept, strict=strict)
        received = RecordReceived(record=msgspec.Raw(_encode_record(kept)), values={})
        return Record(entity.name, None, None, UNUSABLE, {}, (), [problem], encode(received))

    def _canonical(
        self, entity: Entity, raw: dict[str, Any], problems: list[tuple[str, str]]
    ) -> tuple[dict[str, str | None], tuple[str, ...]]:
        canonical: dict[str, str | None] = {}
        provisional: list[str] = []
        for field in entity.fields:
            is_empty = values.is_empty_lookup if field.kind == "lookup" else values.is_empty
            present = [self._source(raw, name) for name in field.names if name in raw]
            chosen = next((v for v in present if not is_empty(v)), None)
            if chosen is None and field.fallback:
                chosen = next(
                    (
                        s
                        for n in field.fallback
                        if n in raw and not values.is_empty(s := self._source(raw, n))
                    ),
                    None,
                )
                if chosen is not None and not present:
                    provisional.append(field.name)
            if chosen is None:
                if present:
                    canonical[field.name] = None
                continue
            try:
                canonical[field.name] = self._value(field, chosen)
            except UnreadableError as error:
                canonical[field.name] = None
                problems.append((field.name, str(error)))
        return canonical, tuple(provisional)

    def _source(self, raw: dict[str, Any], name: str) -> Any:
        """A field's value as it may be used: one that is redacted is so here too."""
        value = raw[name]
        if self._fate_of(name) == _REDACT and not values.is_empty(value):
            return REDACTED
        return value

    def _value(self, field: Field, value: Any) -> str | None:
        if value is REDACTED and field.kind != "text":
            raise UnreadableError("is redacted by the configuration")
        if field.kind == "text":
            return value if type(value) is str else values.read_text(value)
        if field.kind == "lookup":
            return values.read_lookup(value)
        if field.kind == "date":
            return values.read_date(value, self._tenant.date_order, self._tenant.timezone)
        if field.kind == "price":
            return values.read_price(value)
        return values.read_moodle_id(value)

    def _modified_at(self, raw: dict[str, Any], problems: list[tuple[str, str]]) -> int | None:
        given = raw.get("Modified_Time")
        if values.is_empty(given):
            return None
        try:
            return values.read_instant(given, self._tenant.date_order, self._tenant.timezone)
        except UnreadableError as error:
            problems.append(("modified_time", str(error)))
            return None

    def _kept(self, entity: Entity, raw: dict[str, Any], problems: list[tuple[str, str]]) -> Any:
        """What is stored of a record. One that is not sealed keeps no name of a person where
        a lookup should be.
        """
        kept = self._reduced_object(raw, strict=entity.sealed_by is None)
        if entity.sealed_by is None:
            unread = {field for field, _ in problems}
            for field in entity.fields:
                if field.kind == "lookup" and field.name in unread:
                    kept.update({name: REDACTED for name in field.names if kept.get(name)})
        return kept

    def _reduced(self, value: Any, *, strict: bool) -> Any:
        """What is kept of a value: no `$` fields, no users, lookups as their ids, secrets and
        identity numbers replaced. `strict`: whatever has an id and a name is a lookup.
        """
        if isinstance(value, dict):
            if _is_lookup(value, strict=strict):
                return {"id": next(value[name] for name in _ID_NAMES if name in value)}
            return self._reduced_object(value, strict=strict)
        if isinstance(value, list):
            return [self._reduced(inner, strict=strict) for inner in value]
        return value

    def _reduced_object(self, value: dict[str, Any], *, strict: bool) -> dict[str, Any]:
        kept = {}
        for key, inner in value.items():
            fate = self._fate.get(key)
            if fate is None:
                fate = self._fate_of(key)
            if fate == _KEEP:
                kind = type(inner)
                kept[key] = self._reduced(inner, strict=strict) if kind is dict or kind is list else inner
            elif fate == _REDACT:
                kept[key] = REDACTED if inner is not None else None
        return kept

    def _fate_of(self, key: str) -> int:
        if (known := self._fate.get(key)) is not None:
            return known
        low = key.lower()
        fate = _KEEP
        if low in self._redacted:
            fate = _REDACT
        elif low in _DROPPED or key.startswith("$"):
            fate = _DROP
        if len(self._fate) < _FATES:
            self._fate[key] = fate
        return fate


def _is_lookup(value: dict[str, Any], *, strict: bool) -> bool:
    if len(value) < 2 or not any(name in value for name in _ID_NAMES):
        return False
    low = {key.lower() for key in value}
    return low <= _LOOKUP_KEYS or (strict and any(key.endswith(("name", "email")) for key in low))


_KEEP, _DROP, _REDACT = range(3)
_FATES = 10_000  # distinct keys remembered; a bound against invented ones

_BAD = re.compile("[\x00\ud800-\udfff]")


_REPLACED = "held NUL or a lone surrogate, now U+FFFD"


def _without_bad_characters(value: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """NUL and lone surrogates, which PostgreSQL and UTF-8 cannot hold, become U+FFFD.
    Answers the keys below which one was, too.
    """
    cleaned = {_clean(key): _clean(inner) for key, inner in value.items()}
    bad = [_clean(k) for k, inner in value.items() if _clean(k) != k or cleaned[_clean(k)] != inner]
    return cleaned, bad


def _canonical_name(entity: Entity, zoho_name: str) -> str:
    """The canonical field of a Zoho name, `id`, or `other`: never the name itself, which the
    sender may have made of anything.
    """
    for field in entity.fields:
        if zoho_name in field.names:
            return field.name
    return "id" if zoho_name in _ID_NAMES else "other"


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _BAD.sub("\ufffd", value) if _BAD.search(value) else value
    if isinstance(value, dict):
        return {_clean(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    return value


def says_delete(envelope: Mapping[str, Any]) -> bool:
    """Whether an `operation` or `event_type` says that the record is gone."""
    for name in ("operation", "event_type"):
        word = envelope.get(name)
        if isinstance(word, str) and word.strip().lower() in _DELETE_WORDS:
            return True
    return False


def _says_deleted(raw: dict[str, Any]) -> bool:
    status = raw.get("Record_Status__s")
    if isinstance(status, str):
        status = status.strip().lower()
    gone = status in ("trash", "0") or (status == 0 and not isinstance(status, bool))
    return gone or says_delete(raw)


def _is_not_approved(raw: dict[str, Any]) -> bool:
    status, state, approved = raw.get("Record_Status__s"), raw.get("$state"), raw.get("$approved")
    return (
        (isinstance(status, str) and status.strip().lower() == "draft")
        or (isinstance(state, str) and state.strip().lower() == "draft")
        or approved is False
        or (isinstance(approved, str) and approved.strip().lower() == "false")
    )
