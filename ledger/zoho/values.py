"""Single values as Zoho writes them, made canonical: texts, ids, lookups.

Each parser answers text, or None for an empty value, and raises `UnreadableError`
with a problem that never repeats the value itself (it may be personal). Dates and
amounts have modules of their own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec

from ledger.texts import visible

MAX_ID_LENGTH = 255
MAX_DIGITS = 40

ID_NAMES = ("id", "ID")
_PREFIX = "zcrm_"  # old Deluge and Analytics exports write zcrm_<id>
_PLACEHOLDER = re.compile(r"\$\{[^}]*\}")
_NOTHING_BUT_PLACEHOLDERS = re.compile(r"\s*(?:\$\{[^}]*\}\s*)+")
_EMPTY = frozenset({"", "null", "-None-"})
_SPREADSHEET = re.compile(r"\d+(?:[.,]\d+[eE][+-]?|[eE]\+)\d+")  # 7.01E+17
_MAX_BRACKETS = 64
_OF_THE_ROW = frozenset({"owner", "layout", "created_by", "modified_by", "parent_id"})
_decode_lookup = msgspec.json.Decoder(float_hook=Decimal).decode


class UnreadableError(Exception):
    """A value is there but cannot be read. The text is the problem, without the value."""


def western(text: str) -> str:
    """Figures of any script as 0 to 9."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def trimmed(text: str) -> str:
    """A text without invisible characters at its ends, blanks or not between them. Inside
    they stay: some names are written with joiners.
    """
    if text.isascii():
        return text
    start, end = _inner(text)
    head, tail = text[:start], text[end:]
    return visible(head) + text[start:end] + visible(tail)


def _inner(text: str) -> tuple[int, int]:
    """Where the first and behind where the last character stands that can be seen."""
    seen = [i for i, c in enumerate(text) if not (c.isspace() or unicodedata.category(c) == "Cf")]
    return (seen[0], seen[-1] + 1) if seen else (len(text), len(text))


def is_empty(value: Any) -> bool:
    """Null, `""` (blanks and invisible characters too), `"null"`, `-None-`, nothing but
    unsubstituted `${...}`, and a list of nothing or of one such value.
    """
    if value is None:
        return True
    if isinstance(value, str):
        if value[:1] > "-" and value[0] != "n" and value.isascii():
            return False  # nearly every text: no blank, `$`, `-None-` or `null` begins so
        text = visible(value).strip()
        if text[:1] == "$":
            return bool(_NOTHING_BUT_PLACEHOLDERS.fullmatch(text))
        return text in _EMPTY
    return isinstance(value, list) and (not value or (len(value) == 1 and is_empty(value[0])))


def masked(value: Any) -> str:
    """What may be said of a value in an error: its kind and size."""
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | Decimal):
        return "a number"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, dict) else "null"


def single(value: Any) -> Any:
    """The value in a list of one, as multi-select fields send it; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def read_text(value: Any) -> str:
    """Text, without invisible characters at its ends; numbers and booleans as their text."""
    if isinstance(value, str):
        return trimmed(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal) and abs(value.adjusted()) <= MAX_DIGITS:
        return f"{value:f}"
    raise UnreadableError(f"should be text, is {masked(value)}")


def read_code(value: Any) -> str:
    """Text that machines compare (a status, a number, an e-mail address): without invisible
    characters, and never partly a placeholder.
    """
    text = visible(read_text(value))
    _refuse_placeholder(text)
    return text


def _refuse_placeholder(text: str) -> None:
    if "${" in text and _PLACEHOLDER.search(text):
        raise UnreadableError("holds a placeholder ${...} that the sender did not fill in")


def read_id(value: Any) -> str | None:
    """A record's id: text, or exact digits as a JSON integer; None where empty."""
    if type(value) is str and value.isalnum() and value.isascii() and value[0] != "n" and len(value) < 100:
        return value  # nearly every id: nothing in it to be removed or refused
    if is_empty(value):
        return None
    if isinstance(value, Decimal):
        raise UnreadableError(
            "is a number with a fraction or exponent, its digits are lost: send the id as text"
        )
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnreadableError(f"should be text or whole digits, is {masked(value)}")
    text = visible(str(value)).strip()
    text = text.removeprefix(_PREFIX).strip()
    if is_empty(text):
        return None
    _refuse_placeholder(text)
    if _SPREADSHEET.fullmatch(text):
        raise UnreadableError("was shortened by a spreadsheet, its digits are lost: send all digits as text")
    if len(text) > MAX_ID_LENGTH:
        raise UnreadableError(f"is longer than {MAX_ID_LENGTH} characters")
    return text


def read_lookup(value: Any) -> str | None:
    """`{"id": ..}` (or `ID`), a bare id, or a list of one of these; see `_target` for rows. None
    where it is empty, or its id is.
    """
    if isinstance(value, list) and len(value) > 1:
        raise UnreadableError(f"should be one lookup, is {masked(value)}")
    value = _target(value)
    if isinstance(value, dict):
        return _own_id(value)
    found = read_id(value)
    if found is not None and found[0] in "{[":  # see `lookup_in`
        raise UnreadableError(f"should be a lookup, is {masked(value)}")
    if found is not None and is_shown(found):
        raise UnreadableError("looks like a display name or an address, not like an id")
    return found


def _own_id(value: dict[str, Any]) -> str | None:
    """The first of an object's ids that is readable and not empty."""
    if not has_id(value):
        raise UnreadableError("is a lookup without an id")
    problem: UnreadableError | None = None
    for name in ID_NAMES:
        try:
            if (found := read_id(value.get(name))) is not None:
                return found
        except UnreadableError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return None


def has_id(value: dict[str, Any]) -> bool:
    """Whether an object has a key for its id."""
    return "id" in value or "ID" in value


def is_shown(text: str) -> bool:
    """Whether a text is one for people, a name or an address, so that it is no id."""
    return "@" in text or len(text.split()) > 1


def lookup_in(value: Any) -> Any:
    """A lookup that came as JSON text, as forms carry it, decoded; anything else as it is."""
    if isinstance(value, list) and len(value) == 1:
        inner = lookup_in(value[0])
        return value if inner is value[0] else [inner]
    if not isinstance(value, str) or (text := visible(value).strip())[:1] not in ("{", "["):
        return value
    if text.count("{") + text.count("[") > _MAX_BRACKETS:
        return value
    try:
        return _decode_lookup(text)
    except (msgspec.MsgspecError, RecursionError, ValueError, ArithmeticError):
        return value


def _target(value: Any) -> Any:
    """What a lookup stands for. In a list, a row that holds exactly one object with an id
    (besides its owner, layout, parent and the like) is a linking row and stands for that
    object; outside a list an object stands for itself.
    """
    if not isinstance(value, list):
        return value
    row = single(value)
    if not isinstance(row, dict):
        return row
    linked = list(_linked(row))
    filled = [inner for inner in linked if not all(is_empty(inner.get(name)) for name in ID_NAMES)]
    found = filled or linked
    return found[0] if len(found) == 1 else row


def _linked(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict) and has_id(value) and name.lower() not in _OF_THE_ROW:
            yield value


_EMPTY_FRACTION = re.compile(r"^(\d+)\.0+$")


def read_moodle_id(value: Any) -> str:
    """Stripped text; a number without its empty fraction: `42.0` -> `"42"`."""
    text = read_code(value).strip()
    return _EMPTY_FRACTION.sub(r"\1", text) if "." in text else text
