"""The fold: what one event makes of the state, and what is to be said of it.

A pure function without I/O. The live path and every rebuild call this handler and
no other. Statuses and reasons follow from the event's envelope; only values are
read from its payload (None where its key was destroyed).
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from ledger import digests
from ledger.digests import Macs
from ledger.events import ASKED_AGAIN, DELETION, NOT_APPROVED, REFUSED, REPORT, REPORTS, UNUSABLE, Event
from ledger.zoho.entities import Entities, Entity
from projections.state import (
    ACTIVE,
    DELETED,
    WAITING,
    Name,
    Row,
    View,
    fingerprint,
)

VERSION = 3
"""Of this projection; a change of its rules raises it and makes it be rebuilt."""

MISSING = "missing"
SKIPPED = ("erased", "deleted", "stale", "not_approved")
NOT_SYNCED = "_not_synced_yet"
"""The reasons of SKIPPED: those, and that a student or class is `student_not_synced_yet`."""
_ABSENT = object()

_TOPICS = ("RecordReceived.v", "MoodleReported.v")
_decode_refs = msgspec.json.Decoder(dict[str, str | None]).decode
_decode_problems = msgspec.json.Decoder(list[tuple[str, str]]).decode


class Values(Protocol):
    """What a fold reads of a payload: the canonical values that came."""

    @property
    def values(self) -> dict[str, str | None]:
        """Field -> text or null."""


class Effect(msgspec.Struct, frozen=True, gc=False):
    """What an event did to another record: released it, or made it wait again."""

    entity: str
    zoho_id: str
    status: str
    reason: str | None
    own_position: int


class Outcome(msgspec.Struct, gc=False):
    """What an event led to. `changes`: field -> (old, new)."""

    status: str
    reason: str | None = None
    changes: dict[str, tuple[str | None, str | None]] = {}
    errors: list[tuple[str, str]] = []
    warnings: list[tuple[str, str]] = []
    waiting_for: tuple[Name, ...] = ()
    effects: list[Effect] = []


class Reads(msgspec.Struct):
    """What a handler wants to see: records, and records whose dependents it wants."""

    records: set[Name] = msgspec.field(default_factory=set)
    dependents: set[Name] = msgspec.field(default_factory=set)


class CurrentState:
    """The inline projection: current rows, outcomes, and which record waits for what."""

    name = "state"
    version = VERSION

    def __init__(self, entities: Entities) -> None:
        self._entities = entities
        self._rules = {entity.name: _Rules(entity) for entity in entities}

    def handles(self, event: Event) -> bool:
        """Whether this projection knows the event's topic and entity."""
        return event.entity in self._rules and event.topic.startswith(_TOPICS)

    def needs_of(self, event: Event) -> set[Name]:
        """The records that an event names and that its record may have to wait for."""
        if not event.refs or event.flags & REPORT or not self.handles(event):
            return set()
        refs = _decode_refs(event.refs)
        needs = self._rules[event.entity or ""].needs
        return {(f.refers, value) for f in needs if f.refers and (value := refs.get(f.name))}

    def reads(self, name: Name, refs: dict[str, str | None], *, deletion: bool, view: View) -> Reads:
        """What applying a record's event may look at: its own row, what it needs, and
        its dependents where it may come or go.

        Called again when the own row is known, for what follows from it.
        """
        wanted = Reads()
        wanted.records.add(name)
        if (rules := self._rules.get(name[0])) is None:  # of a report: nothing else
            return wanted
        row = view.rows.get(name)
        for field in rules.needs:
            assert field.refers is not None
            known = row.fields.get(field.name) if row else None
            wanted.records.update((field.refers, r) for r in (refs.get(field.name), known) if r)
        stays = row is not None and row.state == ACTIVE and not deletion and not rules.needs
        if name[0] in self._entities.needed and not stays:
            frontier = [name]
            while frontier:
                wanted.dependents.add(needed := frontier.pop())
                frontier += [
                    dependent
                    for dependent in view.dependents.get(needed, ())
                    if dependent[0] in self._entities.needed and dependent not in wanted.dependents
                ]
        return wanted

    def apply(self, view: View, event: Event, payload: Values | None) -> Outcome:
        """Folds one event into the view. Raises `UndeclaredError` where a row that
        `reads` did not name is needed.
        """
        problems = _decode_problems(event.problems) if event.problems else []
        if event.flags & REPORT:
            return _report(view, event, payload, problems)
        if event.flags & UNUSABLE or event.zoho_id is None or event.entity is None:
            return Outcome("INVALID", errors=problems)
        rules = self._rules[event.entity]
        name = (event.entity, event.zoho_id)
        row = view.edit(name)
        row.version = event.version
        if event.flags & DELETION:
            return self._delete(view, row, event)
        return self._receive(view, row, event, rules, payload, problems)

    def fail(self, view: View, event: Event) -> Outcome:
        """The outcome of an event on which `apply` failed: it counts, the state stays."""
        if event.entity is not None and event.zoho_id is not None:
            view.count(row_of(event), event.version)
        return Outcome("ERROR")

    def _receive(  # noqa: C901  (one published rule after the other)
        self,
        view: View,
        row: Row,
        event: Event,
        rules: _Rules,
        payload: Values | None,
        problems: list[tuple[str, str]],
    ) -> Outcome:
        merged = _Merge(rules, row, event, payload)
        effective = event.effective_at
        if refused := self._refused(row, event, effective, merged, problems):
            return refused

        row.own_position = event.position
        if effective is not None:  # else no instant was stated, and the clock stays
            row.effective_at = effective
        if merged.repeats and row.state == ACTIVE:  # nothing can follow from it
            merged.store(row)
            return Outcome("UNCHANGED", warnings=problems)

        before_state, before_needs = row.state, _needs(rules, row.fields)
        after_needs = _needs(rules, merged.fields)
        waiting_for = tuple(n for n in after_needs if not _is_active(view, n))
        changes = merged.changes()
        merged.store(row)
        if row.created_at is None:
            row.created_at = event.recorded_at
        _relink(view, row.name, before_needs if before_state in (ACTIVE, WAITING) else (), after_needs)

        if waiting_for:
            changed = bool(changes) or before_state != WAITING or waiting_for != row.waiting_for
            if before_state != WAITING:
                row.waiting_since = event.recorded_at
            row.state, row.waiting_for, row.deleted_at = WAITING, waiting_for, None
            if changed:
                _mark(row, event)
            outcome = Outcome(
                "SKIPPED",
                waiting_for[0][0] + NOT_SYNCED,
                waiting_for=waiting_for,
                warnings=problems,
            )
            if before_state == ACTIVE:
                self._depart(view, row.name, event, outcome.effects)
            return outcome

        status = _activate(row, rules, merged.macs)
        if status == "UNCHANGED" and any(field in changes for field in rules.printed):
            status = "UPDATED"  # it differs from what was known last, if not from when it was active
        if status != "UNCHANGED" or changes or before_state != ACTIVE:
            _mark(row, event)
        outcome = Outcome(status, warnings=problems, changes={} if status == "NEW" else changes)
        if before_state != ACTIVE:
            self._arrive(view, row.name, event, outcome.effects)
        return outcome

    def _refused(
        self, row: Row, event: Event, effective: int | None, merged: _Merge, problems: list[tuple[str, str]]
    ) -> Outcome | None:
        """Why a record does not count, by the first rule that fits; None where it does."""
        if lacking := merged.lacking():
            said = dict(problems)
            return Outcome("INVALID", errors=[(f, said.get(f, MISSING)) for f in lacking])
        stated = row.effective_at
        if effective is not None and stated is not None:
            if row.state == DELETED and effective <= stated:
                return Outcome("SKIPPED", "deleted")
            if effective < stated:
                return Outcome("SKIPPED", "stale")
        if event.flags & NOT_APPROVED:
            return Outcome("SKIPPED", "not_approved")
        return None

    def _delete(self, view: View, row: Row, event: Event) -> Outcome:
        effective, stated = event.effective_at, row.effective_at
        if effective is None:  # an imported one; the ledger's own have the time of receipt
            effective = event.recorded_at
        if row.state == DELETED:
            row.effective_at = effective if stated is None else max(effective, stated)
            return Outcome("UNCHANGED")
        if stated is not None and effective < stated:
            return Outcome("SKIPPED", "stale")
        before_state = row.state
        _relink(view, row.name, _needs(self._rules[row.entity], row.fields), ())
        row.state, row.deleted_at, row.effective_at = DELETED, event.recorded_at, effective
        row.own_position = event.position
        row.waiting_for, row.waiting_since, row.active_fingerprint = (), None, None
        if row.created_at is None:
            row.created_at = event.recorded_at
        _mark(row, event)
        outcome = Outcome("DELETED")
        if before_state == ACTIVE:
            self._depart(view, row.name, event, outcome.effects)
        return outcome

    def _arrive(self, view: View, name: Name, event: Event, effects: list[Effect]) -> None:
        """Frees what waited for this record alone, and what waited for that."""
        if name[0] not in self._entities.needed:
            return
        for dependent in view.dependents_of(name):
            before = view.row(dependent)
            if before is None or name not in before.waiting_for:
                continue
            row = view.edit(dependent)
            row.waiting_for = tuple(n for n in row.waiting_for if n != name)
            _mark(row, event)
            if row.waiting_for:
                continue
            status = _activate(row, self._rules[row.entity])
            effects.append(Effect(*dependent, status, "released", row.own_position or 0))
            self._arrive(view, dependent, event, effects)

    def _depart(self, view: View, name: Name, event: Event, effects: list[Effect]) -> None:
        """Makes everything that needs this record wait for it."""
        if name[0] not in self._entities.needed:
            return
        for dependent in view.dependents_of(name):
            before = view.row(dependent)
            if before is None or before.damaged or name in before.waiting_for:
                continue
            row = view.edit(dependent)
            needs = _needs(self._rules[row.entity], row.fields)
            row.waiting_for = tuple(n for n in needs if n == name or n in row.waiting_for)
            _mark(row, event)
            if before.state != ACTIVE:
                continue
            row.state, row.waiting_since = WAITING, event.recorded_at
            reason = row.waiting_for[0][0] + NOT_SYNCED
            effects.append(Effect(*dependent, "SKIPPED", reason, row.own_position or 0))
            self._depart(view, dependent, event, effects)


class _Rules:
    """What the fold asks of an entity, computed once."""

    def __init__(self, entity: Entity) -> None:
        self.names = {f.number: f.name for f in entity.fields}
        self.lookups = frozenset(f.name for f in entity.fields if f.kind == "lookup")
        self.required = tuple(f for f in entity.fields if f.required)
        self.needs = tuple(f for f in entity.fields if f.needs)
        self.numbers = tuple(f.number for f in entity.fields if f.fingerprint)
        self.printed = tuple(f.name for f in entity.fields if f.fingerprint)


class _Merge:
    """A record laid over the state: absent fields keep what the state has.

    `repeats`: the record says nothing that the state does not say.
    """

    def __init__(self, rules: _Rules, row: Row, event: Event, payload: Values | None) -> None:
        self.rules, self._row, self._event = rules, row, event
        said = event.content_mac or b""
        if said and said == row.macs and row.key_id == event.key_id:  # most repeats, byte for byte
            self.repeats, self.packed, self.fields = True, said, row.fields
            self.macs: Macs | None = None
            return
        came, provisional = digests.unpack(said)
        known, stand_ins = digests.unpack(row.macs or b"")
        # digests under another key cannot be compared: the event then carries all it needs, but
        # where the former key was damaged; then they still say what has a value
        self._comparable = row.key_id == event.key_id or not row.macs
        foreign: Macs = {}
        if not self._comparable:
            foreign, known, stand_ins = known, {}, set()
        for number in provisional:  # a stand-in yields to what is known, unless that is one too
            if known.get(number) is not None and number not in stand_ins:
                del came[number]
        stand_ins = {n for n in stand_ins if n not in came} | (provisional & came.keys())
        other = [number for number, mac in came.items() if known.get(number, _ABSENT) != mac]
        self.repeats = not other and row.key_id == event.key_id
        self._known, self.macs, self._other = known, {**known, **came}, other
        if foreign:
            self.macs = {**foreign, **self.macs}
        self.packed = digests.pack(self.macs, stand_ins)
        self.fields = row.fields
        if other:  # only then is there anything to be opened
            self.fields = self._laid_over(payload, came)

    def _laid_over(self, payload: Values | None, said: Macs) -> dict[str, str | None]:
        refs = _decode_refs(self._event.refs) if self._event.refs else {}
        given = payload.values if payload is not None else {}
        fields = dict(self._row.fields)
        for number in self._other:
            name = self.rules.names[number]
            if name in refs:
                fields[name] = refs[name]
            elif name in self.rules.lookups:  # it did not come: the digest is of the value that is kept
                continue
            elif payload is None or said[number] is None:
                fields[name] = None
            elif name in given:
                fields[name] = given[name]
        return fields

    def lacking(self) -> list[str]:
        """Required fields without a value; what repeats an accepted record lacks none."""
        if not self.rules.required or (self.repeats and self._row.macs):
            return []
        assert self.macs is not None
        return [f.name for f in self.rules.required if self.macs.get(f.number) is None]

    def changes(self) -> dict[str, tuple[str | None, str | None]]:
        """Each canonical field that differs: (old, new)."""
        if self.repeats:
            return {}
        old, new, names = self._row.fields, self.fields, self.rules.names
        if not self._comparable:
            return {n: (old.get(n), new.get(n)) for n in names.values() if old.get(n) != new.get(n)}
        assert self.macs is not None
        known, macs = self._known, self.macs
        return {
            (name := names[number]): (old.get(name), new.get(name))
            for number in self._other
            if known.get(number) != macs[number]
        }

    def store(self, row: Row) -> None:
        """Makes the result the row's content."""
        row.macs, row.fields, row.key_id = self.packed or None, self.fields, self._event.key_id


def row_of(event: Event) -> Name:
    """The row that an event is folded into: its record's, or that of Moodle's part in it."""
    entity = REPORTS + (event.entity or "") if event.flags & REPORT else event.entity or ""
    return entity, event.zoho_id or ""


def _report(view: View, event: Event, payload: Values | None, problems: list[tuple[str, str]]) -> Outcome:
    """What Moodle did, or did not do, about a record. The row's fields: `asked`, the wanted state
    that the report is about; `done`, the newest one that Moodle has; `moodle_id`, its own id;
    `site`, whose id that is; `reason` and `said`, why it was not done.
    """
    row = view.edit(row_of(event))
    row.version, row.own_position, row.key_id = event.version, event.position, event.key_id
    row.state = ACTIVE
    if row.created_at is None:
        row.created_at = event.recorded_at
    fields = dict(row.fields)
    asked = payload.values.get("asked") if payload is not None else None
    reason, said = problems[0] if problems else (None, None)
    if event.flags & ASKED_AGAIN:
        status, asked = "QUEUED", None
    elif event.flags & REFUSED:
        status = "FAILED"
    else:
        status, fields["done"] = "SYNCED", asked
    before = fields.get("moodle_id")
    fields.update(_decode_refs(event.refs) if event.refs else {}, asked=asked, reason=reason, said=said)
    row.fields = {name: value for name, value in fields.items() if value is not None}
    _mark(row, event)
    changes = {"moodle_id": (before, fields.get("moodle_id"))} if before != fields.get("moodle_id") else {}
    return Outcome(status, reason, changes=changes, errors=[("moodle", said)] if said else [])


def _activate(row: Row, rules: _Rules, macs: Macs | None = None) -> str:
    """Makes a row active; NEW where it never was since its last deletion. `macs`: its own,
    where they are unpacked already.
    """
    if macs is None:
        macs, _ = digests.unpack(row.macs or b"")
    present = fingerprint(row.key_id, macs, rules.numbers)
    status = "UNCHANGED"
    if row.active_fingerprint is None:
        status = "NEW"
    elif row.active_fingerprint != present:
        status = "UPDATED"
    row.active_fingerprint = present
    row.state, row.waiting_for, row.waiting_since, row.deleted_at = ACTIVE, (), None, None
    return status


def _mark(row: Row, event: Event) -> None:
    """The event changed this row's state."""
    row.state_version += 1
    row.position = event.position
    row.updated_at = event.recorded_at


def _needs(rules: _Rules, fields: dict[str, str | None]) -> tuple[Name, ...]:
    """The records that must be there, in the order of declaration."""
    if not rules.needs:
        return ()
    return tuple((f.refers, value) for f in rules.needs if f.refers and (value := fields.get(f.name)))


def _is_active(view: View, name: Name) -> bool:
    row = view.row(name)
    return row is not None and row.state == ACTIVE


def _relink(view: View, name: Name, before: tuple[Name, ...], after: tuple[Name, ...]) -> None:
    if before == after:
        return
    for needed in before:
        if needed not in after:
            view.unlink(needed, name)
    for needed in after:
        if needed not in before:
            view.link(needed, name)


def outcome_columns(outcome: Outcome, event: Event) -> list[tuple[Any, ...]]:
    """The rows of `ledger.outcome_v1` for an event: its own, then its effects."""
    rows: list[tuple[Any, ...]] = [
        (
            event.position,
            event.entity or "",
            event.zoho_id or "",
            True,
            outcome.status,
            outcome.reason,
            msgspec.json.encode(outcome.changes) if outcome.changes else None,
            msgspec.json.encode(outcome.errors) if outcome.errors else None,
        )
    ]
    rows += [
        (event.position, e.entity, e.zoho_id, False, e.status, e.reason, None, None) for e in outcome.effects
    ]
    return rows
