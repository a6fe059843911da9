"""What a fold works on: rows of the read models, and the view through which it sees them.

A view holds the rows that were declared and loaded, raises on anything else, and
collects what a fold changes, so that an event is applied whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from operator import methodcaller
from typing import Any

import msgspec

from ledger.digests import Macs
from ledger.errors import DamagedError
from ledger.vault import MAC_BYTES

Name = tuple[str, str]
"""(entity, zoho_id)"""

NONE, ACTIVE, WAITING, DELETED = "none", "active", "waiting", "deleted"


_NO_MAC = b"\x00" * (MAC_BYTES + 1)


def fingerprint(key_id: bytes | None, macs: Macs, numbers: Iterable[int]) -> bytes:
    """16 bytes over the digests of the fingerprinted fields: equal exactly where every
    one of them is equal. Each has its place and length, so none runs into the next.
    """
    parts = [key_id or b""]
    for number in numbers:
        mac = macs.get(number)
        parts.append(_NO_MAC if mac is None else b"\x01" + mac)
    return blake2b(b"".join(parts), digest_size=16).digest()


class Row(msgspec.Struct, gc=False):
    """One row of `ledger.records`, see the schema for what each column means. `damaged`: the columns
    `waiting_for` and `fields` as they stand there, where they cannot be read; then nothing is
    applied to the row, and a replay makes it anew.
    """

    entity: str
    zoho_id: str
    state: str = NONE
    version: int = 0
    state_version: int = 0
    position: int | None = None
    own_position: int | None = None
    effective_at: int | None = None
    created_at: int | None = None
    updated_at: int | None = None
    deleted_at: int | None = None
    waiting_since: int | None = None
    waiting_for: tuple[Name, ...] = ()
    key_id: bytes | None = None
    macs: bytes | None = None
    active_fingerprint: bytes | None = None
    fields: dict[str, str | None] = {}
    damaged: tuple[Any, Any] | None = None

    @property
    def name(self) -> Name:
        """(entity, zoho_id)"""
        return self.entity, self.zoho_id

    @property
    def problem(self) -> str | None:
        """What is wrong with it, and the way out; None where nothing is known to be."""
        if self.damaged is None:
            return None
        return f"the row of {self.entity} {self.zoho_id} was altered: sync-ledger replay makes it anew"


_ABSENT_BYTES, _ROW_BYTES, _CHARACTER_BYTES = 300, 1_250, 2


def weight_of(row: Row | None) -> int:
    """About how many bytes a row takes in memory with its place in a dictionary, measured on students
    and enrollments; None: a record that is known not to be there.
    """
    if row is None:
        return _ABSENT_BYTES
    return _ROW_BYTES + _CHARACTER_BYTES * sum(map(len, filter(None, row.fields.values())))


_encode = msgspec.json.Encoder().encode
_decode_names = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode
_decode_fields = msgspec.json.Decoder(dict[str, str | None]).decode


def to_columns(row: Row) -> tuple[Any, ...]:
    """The row in the order of `ledger.record_v1`."""
    waiting_for, fields = row.damaged or (
        _encode(row.waiting_for).decode() if row.waiting_for else None,
        _encode(row.fields) if row.fields else None,
    )
    return (
        row.entity,
        row.zoho_id,
        row.state,
        row.version,
        row.state_version,
        row.position,
        row.own_position,
        row.effective_at,
        row.created_at,
        row.updated_at,
        row.deleted_at,
        row.waiting_since,
        waiting_for,
        row.key_id,
        row.macs,
        row.active_fingerprint,
        fields,
    )


def from_columns(columns: Iterable[Any]) -> Row:
    """A row from columns in the order of `ledger.record_v1`."""
    row = Row(*columns)
    waiting_for: Any = row.waiting_for
    fields: Any = row.fields
    try:
        row.waiting_for = _decode_names(waiting_for) if waiting_for else ()
        row.fields = _decode_fields(fields) if fields else {}
    except (msgspec.MsgspecError, UnicodeDecodeError):
        row.waiting_for, row.fields, row.damaged = (), {}, (waiting_for, fields)
    return row


_copied = methodcaller("__copy__")  # a struct's own; the module `copy` takes four times as long


class UndeclaredError(Exception):
    """A handler looked at something that it had not declared to read."""


class View:
    """The rows a fold may see, and what it changed. Unknown records are None."""

    def __init__(self) -> None:
        self.rows: dict[Name, Row | None] = {}
        self.dependents: dict[Name, set[Name]] = {}
        self.changed: set[Name] = set()
        self.linked: set[tuple[Name, Name]] = set()
        self.unlinked: set[tuple[Name, Name]] = set()
        self._undo: list[Any] | None = None

    def knows(self, name: Name) -> bool:
        """Whether the record's row (or its absence) is loaded."""
        return name in self.rows

    def row(self, name: Name) -> Row | None:
        """A record's row. Raises `UndeclaredError`."""
        try:
            return self.rows[name]
        except KeyError:
            raise UndeclaredError(f"record {name}") from None

    def dependents_of(self, name: Name) -> list[Name]:
        """Active and waiting records that need this one. Raises `UndeclaredError`."""
        try:
            return sorted(self.dependents[name])
        except KeyError:
            raise UndeclaredError(f"dependents of {name}") from None

    def edit(self, name: Name) -> Row:
        """A copy of the row to change, in its place (a new one where there was none).

        Raises `DamagedError` where it cannot be read.
        """
        before = self.row(name)
        if before is not None and (problem := before.problem):
            raise DamagedError(problem)
        return self._copy(name, before)

    def count(self, name: Name, version: int) -> None:
        """A record's row counts an event that is not applied to it."""
        self._copy(name, self.row(name)).version = version

    def _copy(self, name: Name, before: Row | None) -> Row:
        row = Row(*name) if before is None else _copied(before)
        if self._undo is not None:
            self._undo.append((View._restore_row, name, before, name in self.changed))
        self.rows[name] = row
        self.changed.add(name)
        return row

    def link(self, needed: Name, dependent: Name) -> None:
        """`dependent` needs `needed` from now on."""
        self._relink(needed, dependent, present=True)

    def unlink(self, needed: Name, dependent: Name) -> None:
        """`dependent` does not need `needed` any more."""
        self._relink(needed, dependent, present=False)

    def _relink(self, needed: Name, dependent: Name, *, present: bool) -> None:
        pair = (needed, dependent)
        if self._undo is not None:
            self._undo.append((View._restore_link, pair, pair in self.linked, pair in self.unlinked))
        (self.linked if present else self.unlinked).add(pair)
        (self.unlinked if present else self.linked).discard(pair)
        if needed in self.dependents:
            before = self.dependents[needed]
            if self._undo is not None:
                self._undo.append((View._restore_dependent, needed, dependent, dependent in before))
            (before.add if present else before.discard)(dependent)

    def begin(self) -> None:
        """From here on changes can be undone."""
        self._undo = []

    def undo(self) -> None:
        """Takes back every change since `begin`. Its steps are plain functions: bound ones would make a
        circle, and all that a flush has read would wait for the collector.
        """
        for step, *arguments in reversed(self._undo or []):
            step(self, *arguments)
        self._undo = []

    def _restore_row(self, name: Name, before: Row | None, was_changed: bool) -> None:
        self.rows[name] = before
        if not was_changed:
            self.changed.discard(name)

    def _restore_link(self, pair: tuple[Name, Name], linked: bool, unlinked: bool) -> None:
        (self.linked.add if linked else self.linked.discard)(pair)
        (self.unlinked.add if unlinked else self.unlinked.discard)(pair)

    def _restore_dependent(self, needed: Name, dependent: Name, present: bool) -> None:
        (self.dependents[needed].add if present else self.dependents[needed].discard)(dependent)


class WholeView(View):
    """A view that holds everything from the first event on: what is not there is absent."""

    def knows(self, name: Name) -> bool:  # noqa: ARG002
        """Everything is known."""
        return True

    def row(self, name: Name) -> Row | None:
        """A record's row, or None where the ledger knows of no such record."""
        return self.rows.get(name)

    def dependents_of(self, name: Name) -> list[Name]:
        """Active and waiting records that need this one."""
        return sorted(self.dependents.get(name, ()))

    def _relink(self, needed: Name, dependent: Name, *, present: bool) -> None:
        self.dependents.setdefault(needed, set())
        super()._relink(needed, dependent, present=present)
