"""Values that a fold cannot read, since a key or a payload was damaged, and where they still stand.

What is damaged is not erased: it may come back from a backup, and the live rows hold the
values in clear. So a rebuild folds such an event by its envelope, which gives every status and
state, marks the values that it could not read, and takes them from the live rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from projections.state import Row

UNREAD = "\0unread"
"""In the place of a value that could not be read. No value is like it: none holds a NUL."""

_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.decode
_MARK = _encode(UNREAD)[1:-1]  # in JSON
_CHANGES = 6  # the column of an outcome


class Unread(msgspec.Struct, frozen=True):
    """A record of which something cannot be read: why, and since which event."""

    entity: str
    zoho_id: str
    position: int | None
    problem: str


class _Every(dict[str, str | None]):
    """Whatever is asked for is unread."""

    def __contains__(self, _: object) -> bool:
        return True

    def __missing__(self, _: str) -> str:
        return UNREAD

    def get(self, _: str, __: Any = None) -> Any:
        """The same."""
        return UNREAD


class UnreadValues:
    """Stands in for the values of a payload that cannot be read."""

    values: dict[str, str | None] = _Every()


def has_unread(row: Row) -> bool:
    """Whether a value of the row could not be read."""
    return UNREAD in row.fields.values()


def filled(row: Row, live: Row | None) -> Row:
    """The row with the values of the live one where its own could not be read; what that one
    does not have either is left out.
    """
    theirs = live.fields if live is not None else {}
    fields = {
        name: theirs.get(name) if value == UNREAD else value
        for name, value in row.fields.items()
        if value != UNREAD or name in theirs
    }
    return msgspec.structs.replace(row, fields=fields)


def are_unread(outcome: tuple[Any, ...]) -> bool:
    """Whether the changes of an outcome (as in `ledger.outcome_v1`) tell of a value that could not be read."""
    changes = outcome[_CHANGES]
    return changes is not None and _MARK in changes


def filled_outcomes(
    outcomes: Iterable[tuple[Any, ...]], live: Mapping[int, bytes | None]
) -> list[tuple[Any, ...]]:
    """Outcomes with the changes of the live ones where theirs could not be read. `live`: the changes
    of each position's own outcome.
    """
    return [
        (*row[:_CHANGES], live.get(row[0]) or _without_unread(row[_CHANGES]), *row[_CHANGES + 1 :])
        if are_unread(row)
        else row
        for row in outcomes
    ]


def _without_unread(changes: bytes) -> bytes:
    known = _decode(changes, type=dict[str, tuple[str | None, str | None]])
    return _encode({name: [None if v == UNREAD else v for v in pair] for name, pair in known.items()})
