"""Single values as Zoho writes them, made canonical: text, price, date, lookup, instant.

Each parser answers text, or None for an empty value, and raises `UnreadableError`
with a problem that never repeats the value itself (it may be personal).
"""

from __future__ import annotations

import re
import unicodedata
from datetime import date, datetime, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from ledger import clock

MAX_ID_LENGTH = 255
_MAX_DIGITS = 40
_MAX_AMOUNT = 100  # characters

_UNSUBSTITUTED = re.compile(r"\$\{[^}]*\}")
_PREFIX = "zcrm_"  # old Deluge and Analytics exports write zcrm_<id>


_EMPTY = frozenset({"", "null", "-None-"})
_LOOKUP_KEYS = frozenset({"id", "ID", "name", "email"})
_MAX_BRACKETS = 64
_OF_THE_ROW = frozenset({"Owner", "Created_By", "Modified_By", "Parent_Id"})
_decode_lookup = msgspec.json.Decoder(float_hook=Decimal).decode


class UnreadableError(Exception):
    """A value is there but cannot be read. The text is the problem, without the value."""


def is_empty(value: Any) -> bool:
    """Null, `""` (blanks too), `"null"`, `-None-`, an unsubstituted `${...}`, `[]`."""
    if value is None:
        return True
    if isinstance(value, str):
        text = value.strip()
        if text[:1] == "$":
            return bool(_UNSUBSTITUTED.fullmatch(text))
        return text in _EMPTY
    return isinstance(value, list) and not value


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


def read_text(value: Any) -> str:
    """Text as it is; numbers and booleans as their text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal) and abs(value.adjusted()) <= _MAX_DIGITS:
        return f"{value:f}"
    raise UnreadableError(f"should be text, is {masked(value)}")


def read_id(value: Any) -> str | None:
    """A record's id: text, or exact digits as a JSON integer; None where empty."""
    if is_empty(value):
        return None
    if isinstance(value, Decimal):
        raise UnreadableError(
            "is a number with a fraction or exponent, its digits are lost: send the id as text"
        )
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UnreadableError(f"should be text or whole digits, is {masked(value)}")
    text = str(value).strip()
    text = text.removeprefix(_PREFIX).strip()
    if is_empty(text):
        return None
    if len(text) > MAX_ID_LENGTH:
        raise UnreadableError(f"is longer than {MAX_ID_LENGTH} characters")
    return text


def read_lookup(value: Any) -> str | None:
    """`{"id": ..}`, a bare id, or a one-element multi-select row
    `[{"id": <row>, "<inner>": {"id": ..}}]`, whose inner name may differ.
    """
    if isinstance(value, list):
        if len(value) != 1:
            raise UnreadableError(f"should be one lookup, is {masked(value)}")
        value = _inner_lookup(value[0])
    if isinstance(value, dict):
        if "id" not in value and "ID" not in value:
            raise UnreadableError("is a lookup without an id")
        return read_id(value.get("id", value.get("ID")))
    found = read_id(value)
    if found is not None and found[0] in "{[":  # see `lookup_in`
        raise UnreadableError(f"should be a lookup, is {masked(value)}")
    if found is not None and (len(found.split()) > 1 or "@" in found):
        raise UnreadableError("looks like a display name or an address, not like an id")
    return found


def lookup_in(value: Any) -> Any:
    """A lookup that came as JSON text, as forms carry it, decoded; anything else as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    if value.count("{") + value.count("[") > _MAX_BRACKETS:
        return value
    try:
        return _decode_lookup(value)
    except (msgspec.MsgspecError, RecursionError, ValueError, ArithmeticError):
        return value


def is_empty_lookup(value: Any) -> bool:
    """An empty value, or a lookup whose id is one."""
    if isinstance(value, list) and len(value) == 1:
        return is_empty_lookup(value[0])
    if isinstance(value, dict):
        ids = [value[name] for name in ("id", "ID") if name in value]
        return bool(ids) and all(is_empty(inner) for inner in ids)
    return is_empty(value)


def _inner_lookup(row: Any) -> Any:
    """What a linking row links to: its own id is the row's, not the record's."""
    if isinstance(row, dict) and not row.keys() <= _LOOKUP_KEYS:
        inner = [
            value
            for name, value in row.items()
            if name not in _OF_THE_ROW and isinstance(value, dict) and ("id" in value or "ID" in value)
        ]
        if len(inner) != 1:
            what = "several records" if inner else "no record"
            raise UnreadableError(f"is a linking row that names {what}")
        return inner[0]
    return row


_EMPTY_FRACTION = re.compile(r"^(\d+)\.0+$")


def read_moodle_id(value: Any) -> str | None:
    """Stripped text; a number without its empty fraction: `42.0` -> `"42"`."""
    text = read_text(value).strip()
    return _EMPTY_FRACTION.sub(r"\1", text) if "." in text else text


# Grouping as people write it: blanks of any kind, apostrophes, the Arabic separator.
_GROUPING = dict.fromkeys(map(ord, " \u00a0\u202f\u2009'\u2019\u066c"), "")
_AMOUNT = re.compile(r"([+-]?)(\d*(?:[.,]\d*)*)")
# ISO codes and the like (`JOD`, `US`), and signs written as dotted letters (the Jordanian one)
_SIGN = r"(?:[A-Z]{2,3}|[^\W\d_](?:\.[^\W\d_])+\.?)"
_CODES = re.compile(rf"^{_SIGN}(?=[\s\d.,+-])|(?<=[\s\d.,]){_SIGN}$")


def read_price(value: Any) -> str:
    """An exact decimal amount: plain, at least two places, no other trailing zeros.

    Currency signs, ISO codes and grouping are understood: `"$ 1,299.00"`,
    `"1.299,00"`. With one separator, exactly three digits behind one to three
    leading ones are a thousands group.
    """
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise UnreadableError(f"should be an amount, is {masked(value)}")
    amount = Decimal(value) if isinstance(value, int | Decimal) else _amount(value)
    if (
        not amount.is_finite()
        or len(amount.as_tuple().digits) > _MAX_DIGITS
        or abs(amount.adjusted()) > _MAX_DIGITS
    ):
        raise UnreadableError("is not an amount of money")
    return _plain(amount)


def _amount(text: str) -> Decimal:
    if len(text) > _MAX_AMOUNT:  # before any pattern looks at it
        raise UnreadableError(f"should be an amount, is {masked(text)}")
    stripped = "".join(c for c in text if unicodedata.category(c) not in {"Sc", "Cf"})
    stripped = _CODES.sub("", stripped.strip()).translate(_GROUPING).replace("\u066b", ".")
    if not (match := _AMOUNT.fullmatch(stripped)):
        raise UnreadableError(f"should be an amount, is {masked(text)}")
    sign, digits = match.groups()
    try:
        return Decimal(sign + _with_point(digits))
    except (InvalidOperation, ValueError):
        raise UnreadableError(f"should be an amount, is {masked(text)}") from None


def _with_point(digits: str) -> str:
    """Grouping removed, the decimal separator a point. Raises `ValueError` where the
    groups are not of three digits (two in the middle, as in India).
    """
    separators = [c for c in digits if c in ".,"]
    if not separators:
        return digits
    last = separators[-1]
    whole, _, fraction = digits.rpartition(last)
    groups = re.split(r"[.,]", whole)
    if len(set(separators)) == 1:
        # one kind of separator: repeated it groups, alone it groups exactly three digits
        if len(separators) > 1 or (len(fraction) == 3 and re.fullmatch(r"[1-9]\d{0,2}", whole)):
            groups, fraction = [*groups, fraction], ""
    elif separators.count(last) > 1:
        raise ValueError(digits)
    if len(groups) > 1 and not re.fullmatch(r"\d{1,3}(,\d{2,3})*,\d{3}", ",".join(groups)):
        raise ValueError(digits)
    return "".join(groups) + "." + fraction


def _plain(amount: Decimal) -> str:
    text = f"{amount:f}"
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0").ljust(2, "0")
    if not amount:
        whole = whole.lstrip("-")
    return f"{whole}.{fraction}"


_DATE_FORMATS = {
    "dmy": ("%d/%m/%Y",),
    "mdy": ("%m/%d/%Y",),
    "ymd": ("%Y/%m/%d",),
}
# Display formats that Zoho's webhooks write besides figures
_NAMED_MONTHS = ("%d/%b/%Y", "%d/%B/%Y", "%b/%d/%Y", "%B/%d/%Y")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")


def _western(text: str) -> str:
    """Figures of any script as 0 to 9."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def _displayed(text: str, order: str) -> datetime | None:
    """A date, perhaps with a time, in one of Zoho's display formats."""
    day, *rest = re.split(r"(?<=\d{4})[\s,T]+", text.strip(), maxsplit=1)
    normal = re.sub(r"[\s,./-]+", "/", day.strip())
    moment = f"{normal} {rest[0].strip()}" if rest else normal
    for date_format in (*_DATE_FORMATS[order], "%Y/%m/%d", *_NAMED_MONTHS):
        for time_format in _TIMES:
            try:
                return datetime.strptime(moment, date_format + time_format)  # noqa: DTZ007
            except ValueError:
                continue
    return None


def read_date(value: Any, order: str, zone: tzinfo) -> str:
    """A calendar date as ISO text. A time behind it is dropped, not converted: the
    date that Zoho shows is the one that counts. Numbers are epoch milliseconds.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value / 1000, zone).date().isoformat()
        except (ValueError, OverflowError, OSError):
            raise UnreadableError("is a number out of the range of dates") from None
    if not isinstance(value, str):
        raise UnreadableError(f"should be a date, is {masked(value)}")
    text = _western(value.strip())
    if re.match(r"\d{4}-\d{2}-\d{2}", text):
        try:
            return (
                date.fromisoformat(text).isoformat()
                if len(text) == 10
                else datetime.fromisoformat(text).date().isoformat()
            )
        except ValueError:
            raise UnreadableError("is not a date of the calendar") from None
    if found := _displayed(text, order):
        return found.date().isoformat()
    raise UnreadableError(f"should be a date ({order} or ISO), is {masked(value)}")


def read_instant(value: Any, order: str, zone: tzinfo) -> int:
    """`Modified_Time` as microseconds since 1970 UTC: ISO text (without an offset in
    the tenant's zone), a display format, or a number of epoch milliseconds.
    """
    try:
        if isinstance(value, str):
            value = _western(value)
        if isinstance(value, str) and re.fullmatch(r"\s*\d{10,14}\s*", value):
            value = int(value)
        if isinstance(value, Decimal) and abs(value.adjusted()) > _MAX_DIGITS:
            raise UnreadableError("is a number out of the range of instants")
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            instant = int(value * 1000)
            clock.to_text(instant)  # refuses what no calendar holds
            return instant
        if isinstance(value, str):
            try:
                moment: datetime | None = datetime.fromisoformat(value.strip())
            except ValueError:
                moment = _displayed(value, order)
            if moment is not None:
                return clock.from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=zone))
    except (ValueError, ArithmeticError):
        pass
    raise UnreadableError(f"should be an instant, is {masked(value)}")
