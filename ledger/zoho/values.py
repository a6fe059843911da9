"""Single values as Zoho writes them, made canonical: texts, ids, lookups.

Each parser answers text, or None for an empty value, and raises `UnreadableError`
with a problem that never repeats the value itself (it may be personal). Dates and
amounts have modules of their own.
"""

from __future__ import annotations

import json
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
_NOTHING_BUT_PLACEHOLDERS = re.compile(r"\s*(?:\$\{[^}]*\}\s*)+")
_EMPTY = frozenset({"", "null", "-None-"})
_SPREADSHEET = re.compile(r"\d+(?:[.,]\d+[eE][+-]?|[eE]\+)\d+|\d{16,}[.,]0+")  # 7.01E+17
MAX_DEPTH = 64
SHOWN = "looks like a display name or an address, not like an id"
_OF_THE_ROW = frozenset({"owner", "layout", "created_by", "modified_by", "parent_id"})
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


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
    start, end = 0, len(text)
    while start < end and _is_unseen(text[start]):
        start += 1
    while start < end and _is_unseen(text[end - 1]):
        end -= 1
    return visible(text[:start]) + text[start:end] + visible(text[end:])


def _is_unseen(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cf"


def is_empty(value: Any) -> bool:
    """Null, `""` (blanks and invisible characters too), `"null"`, `-None-`, nothing but
    unsubstituted `${...}`, and a list of nothing else.
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
    return isinstance(value, list) and all(map(is_empty, value))


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
    """The value in a list of one, as multi-select fields send it, also with empty ones beside it.
    Anything else as it is.
    """
    if type(value) is not list:
        return value
    others = [inner for inner in value if not is_empty(inner)]
    return others[0] if len(others) == 1 else value


def container_in(value: Any) -> Any:
    """The same as `decoded_in`, but a list of nothing but numbers and the like stays text, since a
    class may be called `[1]`.
    """
    decoded = decoded_in(value)
    if decoded is value or not isinstance(decoded, list):
        return decoded
    return decoded if not decoded or any(isinstance(i, str | dict | list) for i in decoded) else value


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
    if "${" in text and "}" in text[text.index("${") :]:
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
    if text[0] in '{["' or len(text.splitlines()) > 1:
        raise UnreadableError(f"should be an id, is {masked(value)} that holds something else")
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
        value = [inner for inner in value if not is_empty(inner)]
    if isinstance(value, list) and len(value) > 1:
        raise UnreadableError(f"should be one lookup, is {masked(value)}")
    value = _target(value)
    if isinstance(value, dict):
        return _own_id(value)
    found = read_id(value)
    if found is not None and is_shown(found):
        raise UnreadableError(SHOWN)
    return found


def _own_id(value: dict[str, Any]) -> str | None:
    """The first of an object's ids that is readable and not empty. Raises `UnreadableError`."""
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


def has_figure(text: str) -> bool:
    """Whether a figure of any script stands in a text: a name has none."""
    return any(map(str.isdecimal, text))


def is_shown(text: str) -> bool:
    """Whether a text is one for people, a name, an address or a telephone number, so no id."""
    return "@" in text or text[:1] == "+" or len(text.split()) > 1


def decoded_in(value: Any) -> Any:
    """An object or a list that came as JSON text, as forms carry them, decoded, as often as it was
    encoded; also alone in a list. Anything else as it is.
    """
    if type(value) is list and len(value) == 1:
        inner = decoded_in(value[0])
        return value if inner is value[0] else [inner]
    if type(value) is not str or value[:1].isalnum() or not is_structured(value):
        return value
    found: Any = value
    for _ in range(MAX_DEPTH):
        if not isinstance(found, str) or not is_structured(found):
            break
        if (found := _json(visible(found).strip())) is _NOTHING:
            return value
    if not isinstance(found, dict | list) or is_deeper(found, MAX_DEPTH):
        return value
    return decoded_in(found)


_NOTHING = object()


def _json(text: str) -> Any:
    try:
        return _decode(text)
    except (msgspec.MsgspecError, RecursionError, ValueError, ArithmeticError):
        pass
    try:  # lone surrogates
        return json.loads(text, parse_float=Decimal)
    except (RecursionError, ValueError, ArithmeticError):
        return _NOTHING


def is_deeper(value: Any, levels: int) -> bool:
    """Whether objects and lists stand in each other more than so many levels deep."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        level = [
            inner
            for container in level
            for inner in (container.values() if type(container) is dict else container)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return bool(level)


def is_structured(text: str) -> bool:
    """Whether a text begins as JSON that holds other values, or is encoded once more."""
    return visible(text).lstrip()[:1] in ("{", "[", '"')


def _target(value: Any) -> Any:
    """What a lookup stands for. In a list, a row that holds exactly one object with an id
    (besides its owner, layout, parent and the like) is a linking row and stands for that
    object; outside a list an object stands for itself. Raises `UnreadableError` for a row of a
    parent that links to nothing or to several: its own id is no lookup.
    """
    if not isinstance(value, list):
        return value
    row = single(value)
    if not isinstance(row, dict):
        return row
    linked = list(_linked(row))
    filled = [inner for inner in linked if not all(is_empty(inner.get(name)) for name in ID_NAMES)]
    found = filled or linked
    if len(found) == 1:
        return found[0]
    if any(name.lower() == "parent_id" for name in row):
        raise UnreadableError(f"is a linking row that names {'several records' if found else 'no record'}")
    return row


def looked_up(value: Any) -> Any:
    """What a lookup's id is read from: an object, or the bare id; None where nothing is."""
    try:
        return _target(value) if not isinstance(value, list) or len(value) == 1 else None
    except UnreadableError:
        return None


def _linked(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict) and has_id(value) and not _is_of_the_row(name):
            yield value


def _is_of_the_row(name: str) -> bool:
    return name.startswith("$") or name.lower() in _OF_THE_ROW


_EMPTY_FRACTION = re.compile(r"^(\d+)\.0+$")


def read_moodle_id(value: Any) -> str:
    """Stripped text; a number without its empty fraction: `42.0` -> `"42"`."""
    text = read_code(value).strip()
    return _EMPTY_FRACTION.sub(r"\1", text) if "." in text else text
