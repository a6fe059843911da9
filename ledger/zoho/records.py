"""One record from Zoho, read: canonical values, flags, and what is worth keeping of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from ledger import clock
from ledger.codec import encode
from ledger.errors import ConfigurationError
from ledger.events import DELETION, NOT_APPROVED, REPORTS, UNUSABLE, RecordReceived
from ledger.settings import MoodleSettings, TenantSettings
from ledger.texts import clean, visible
from ledger.zoho import values
from ledger.zoho.amounts import currency_code, read_price
from ledger.zoho.dates import read_date, read_instant
from ledger.zoho.entities import Entities, Entity, Field
from ledger.zoho.kept import BUILT_IN_REDACTION, REDACTED, Keeping
from ledger.zoho.values import UnreadableError

FUTURE = 10 * clock.MINUTE
"""A `Modified_Time` further ahead than this is not believed."""

MAPPING = 2
"""The version of the rules by which records are read; it stands in each event."""

_DELETE_WORDS = frozenset({"delete", "deleted", "remove", "removed", "trash"})

_encode_record = msgspec.json.Encoder(decimal_format="number").encode


class Record(msgspec.Struct, gc=False):
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
    """Reads one tenant's records: its mapping, zone, date order, currency and redaction."""

    def __init__(self, entities: Entities, tenant: TenantSettings) -> None:
        self._tenant = tenant
        self._given = entities
        self._entities = {
            entity.name: entity.with_names(tenant.mapping.get(entity.name, {})) for entity in entities
        }
        redacted = BUILT_IN_REDACTION | tenant.redact_fields
        self._kept = {
            name: Keeping(entity, (*entities, *self._entities.values()), redacted)
            for name, entity in self._entities.items()
        }
        self._kinds: dict[str, _Read] = {**_KINDS, "date": _one(self._read_date), "price": self._read_price}
        self._fields = {
            name: [(field, self._reader(entity, field)) for field in entity.fields]
            for name, entity in self._entities.items()
        }
        self._decoders = {name: _decoders(entity) for name, entity in self._entities.items()}

    def __reduce__(self) -> tuple[type[Reader], tuple[Entities, TenantSettings]]:
        """How it goes to another process: without the college's Moodle and its token."""
        return Reader, (self._given, msgspec.structs.replace(self._tenant, moodle=MoodleSettings()))

    def zoho_names(self, entity_name: str) -> frozenset[str]:
        """The names under which this tenant's records keep the fields of an entity."""
        return self._entities[entity_name].zoho_names

    def read(self, entity_name: str, raw: Any, *, deletion: bool = False, suspect: bool = True) -> Record:
        """A record of this entity from a decoded JSON value.

        `deletion`: the envelope says that the record is gone. `suspect`: NUL or
        lone surrogates are possible in it. Never raises on bad input: what cannot be
        used is in `flags` and `problems`.
        """
        entity = self._entities[entity_name]
        if not isinstance(raw, dict):
            problem = ("id", f"missing, since the record is {values.masked(raw)} instead of an object")
            return self._unusable(entity, raw, [problem])
        problems: list[tuple[str, str]] = []
        raw = self._decoded(entity.name, raw)
        if suspect:
            raw, bad = _without_bad_characters(raw)
            problems = [(name, _REPLACED) for name in sorted({_canonical_name(entity, n) for n in bad})]
        zoho_id, unread, _ = _first(values.ID_NAMES, raw, _read_id)
        if zoho_id is None:
            return self._unusable(entity, raw, [("id", text) for text in unread[:1] or ["missing"]])
        problems += [("id", text) for text in unread]
        canonical, provisional = self._canonical(entity, raw, problems)
        received = RecordReceived(
            record=msgspec.Raw(_encode_record(self._kept[entity.name].of(raw))),
            values=canonical,
            provisional=provisional,
            mapping=MAPPING,
        )
        return Record(
            entity=entity.name,
            zoho_id=zoho_id,
            modified_at=self._modified_at(raw, problems),
            flags=(DELETION if deletion or says_deleted(raw) else 0)
            | (NOT_APPROVED if _is_not_approved(raw) else 0),
            values=canonical,
            provisional=provisional,
            problems=problems,
            payload=encode(received),
        )

    def _decoded(self, entity_name: str, raw: dict[str, Any]) -> dict[str, Any]:
        """A record in which no field that is read is JSON text."""
        decoders = self._decoders[entity_name]
        decoded = {}
        for name, value in raw.items():
            if type(value) is str:
                if value[:1].isalnum():
                    continue  # nearly every text
            elif type(value) is not list:
                continue
            if name in decoders and (found := decoders[name](value)) is not value:
                decoded[name] = found
        return {**raw, **decoded} if decoded else raw

    def _unusable(self, entity: Entity, raw: Any, problems: list[tuple[str, str]]) -> Record:
        kept = self._kept[entity.name].of(clean(raw))
        received = RecordReceived(record=msgspec.Raw(_encode_record(kept)), values={}, mapping=MAPPING)
        return Record(entity.name, None, None, UNUSABLE, {}, (), problems, encode(received))

    def _canonical(
        self, entity: Entity, raw: dict[str, Any], problems: list[tuple[str, str]]
    ) -> tuple[dict[str, str | None], tuple[str, ...]]:
        """The fields that came, and those of them that are stand-ins. A field that cannot be read
        counts as absent; a required one as empty, so that the record is not used.
        """
        canonical: dict[str, str | None] = {}
        provisional: list[str] = []
        for field, read in self._fields[entity.name]:
            found, unread, is_there = _first(field.names, raw, read)
            if found is None and field.fallback:
                found, more, _ = _first(field.fallback, raw, read)
                if found is not None and (unread or not is_there):
                    provisional.append(field.name)
                problems += [(field.name, text) for text in more]
            if unread:
                problems += [(field.name, text) for text in unread]
            if found is not None or (field.required if unread else is_there):
                canonical[field.name] = found
        return canonical, tuple(provisional)

    def _reader(self, entity: Entity, field: Field) -> _Read:
        """What reads a field from a record, under one of its names; None where it is empty."""
        read = self._kinds[field.kind]
        if field.kind == "lookup" and field.personal and entity.sealed_by is None:
            read = _read_person
        redacted = {n for n in (*field.names, *field.fallback) if self._kept[entity.name].is_redacted(n)}
        if not redacted:
            return read

        def read_unless_redacted(raw: dict[str, Any], name: str) -> str | None:
            if name not in redacted or values.is_empty(raw[name]):
                return read(raw, name)
            if field.kind in ("text", "code"):
                return REDACTED
            raise UnreadableError("is redacted by the configuration")

        return read_unless_redacted

    def _read_date(self, value: Any) -> str:
        return read_date(value, self._tenant.date_order, self._tenant.timezone)

    def _read_price(self, raw: dict[str, Any], name: str) -> str | None:
        value = values.single(raw[name])
        if values.is_empty(value):
            return None
        if not isinstance(value, str):
            return read_price(value)
        return read_price(value, currency_code(raw.get("Currency")) or self._tenant.currency)

    def _modified_at(self, raw: dict[str, Any], problems: list[tuple[str, str]]) -> int | None:
        given = values.single(raw.get("Modified_Time"))
        if values.is_empty(given):
            return None
        try:
            return read_instant(given, self._tenant.date_order, self._tenant.timezone)
        except UnreadableError as error:
            problems.append(
                ("modified_time", f"unreadable, Modified_Time {error}; the record is applied on arrival")
            )
            return None


_Read = Callable[[dict[str, Any], str], str | None]


def _decoders(entity: Entity) -> dict[str, Callable[[Any], Any]]:
    """How the value under each Zoho name is decoded where it came as JSON text, as forms carry
    objects and lists. A name may look like a list.
    """
    kinds = [(f.kind, n) for f in entity.fields for n in (*f.names, *f.fallback)]
    flags = (
        "Modified_Time",
        "Currency",
        "Record_Status__s",
        "$state",
        "$approved",
        "operation",
        "event_type",
    )
    return {
        **dict.fromkeys(flags, values.decoded_in),
        **{name: values.container_in if kind == "text" else values.decoded_in for kind, name in kinds},
    }


def _first(names: Iterable[str], raw: dict[str, Any], read: _Read) -> tuple[str | None, list[str], bool]:
    """The first of a field's names whose value is neither empty nor unreadable, as it is read; what
    was unreadable before it; and whether any of the names is there.
    """
    unread: list[str] = []
    is_there = False
    for name in names:
        if name not in raw:
            continue
        is_there = True
        try:
            found = read(raw, name)
        except UnreadableError as error:
            unread.append(f"unreadable, {name} {error}")
            continue
        if found is not None:
            return found, unread, True
    return None, unread, is_there


def _read_id(raw: dict[str, Any], name: str) -> str | None:
    return values.read_id(raw[name])


def _read_lookup(raw: dict[str, Any], name: str) -> str | None:
    return values.read_lookup(raw[name])


def _read_person(raw: dict[str, Any], name: str) -> str | None:
    """A lookup to a person in a record that no key seals: a name never counts as an id."""
    found = values.read_lookup(raw[name])
    is_bare = not isinstance(values.single(raw[name]), dict)
    if found is not None and (values.is_shown(found) or (is_bare and not values.has_figure(found))):
        raise UnreadableError(values.SHOWN)
    return found


def _one(read: Callable[[Any], str]) -> _Read:
    """What reads one value, also in a list of one; None where it is empty."""

    def read_one(raw: dict[str, Any], name: str) -> str | None:
        value = values.single(raw[name])
        return None if values.is_empty(value) else read(value)

    return read_one


_KINDS: dict[str, _Read] = {
    "text": _one(values.read_text),
    "code": _one(values.read_code),
    "lookup": _read_lookup,
    "moodle_id": _one(values.read_moodle_id),
}
"""How each kind of field is read; dates and amounts need the college's settings."""

_REPLACED = "held NUL or a lone surrogate, now U+FFFD"


def _without_bad_characters(value: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """NUL and lone surrogates, which PostgreSQL and UTF-8 cannot hold, become U+FFFD.
    Answers the keys below which one was, too.
    """
    cleaned = {clean(key): clean(inner) for key, inner in value.items()}
    bad = [clean(k) for k, inner in value.items() if clean(k) != k or cleaned[clean(k)] != inner]
    return cleaned, bad


def _canonical_name(entity: Entity, zoho_name: str) -> str:
    """The canonical field of a Zoho name, `id`, or `other`: never the name itself, which the
    sender may have made of anything.
    """
    for field in entity.fields:
        if zoho_name in field.names:
            return field.name
    return "id" if zoho_name in values.ID_NAMES else "other"


def _word(value: Any) -> str:
    """A flag of Zoho as it is compared: without blanks, invisible characters and case."""
    value = values.single(value)
    return visible(value).strip().lower() if isinstance(value, str) else ""


def says_deleted(raw: Mapping[str, Any]) -> bool:
    """Whether a record or an envelope says that the record is gone: by its operation, its kind of
    event, or Zoho's status.
    """
    status = values.single(raw.get("Record_Status__s"))
    if (status == 0 and not isinstance(status, bool)) or _word(status) in ("trash", "0"):
        return True
    if "operation" in raw and _word(raw["operation"]) in _DELETE_WORDS:
        return True
    return "event_type" in raw and _word(raw["event_type"]) in _DELETE_WORDS


def _is_not_approved(raw: dict[str, Any]) -> bool:
    approved = values.single(raw.get("$approved"))
    return (
        _word(raw.get("Record_Status__s")) == "draft"
        or _word(raw.get("$state")) == "draft"
        or approved is False
        or _word(approved) == "false"
    )
