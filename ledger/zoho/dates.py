"""Days and instants as Zoho and people write them.

A day is what was written; a time, a zone or AM/PM after it is dropped for a date and
used for an instant. Numbers are epoch milliseconds (13 digits) or seconds (10 digits).
Nothing is guessed: two dates, words, a year of no college, or a day of another order of
figures are unreadable.
"""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any

import msgspec

from ledger import clock
from ledger.texts import visible
from ledger.zoho.values import UnreadableError, masked, western
from ledger.zoho.zones import MAX_OFFSET, read_zone, zone_of

FIRST_YEAR, LAST_YEAR = 1900, 2200

_LONGEST = 120  # characters; JavaScript's longest form has about 70
_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan january", "feb february", "mar march", "apr april", "may", "jun june", "jul july",
            "aug august", "sep sept september", "oct october", "nov november", "dec december",
        ),
        start=1,
    )
    for name in names.split()
}  # fmt: skip
_WEEKDAYS = r"(?:mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:day)?"
_SEP = r"[\s,./-]+"
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_DAY = re.compile(
    rf"(?:{_WEEKDAYS}\b[\s,.]*)?(?:"
    rf"(?P<y1>\d{{4}}){_SEP}(?:(?P<m1>\d{{1,2}})|(?P<n1>{_MONTH})){_SEP}(?P<d1>\d{{1,2}})"
    r"|(?P<y2>\d{4})(?P<m2>\d{2})(?P<d2>\d{2})"
    rf"|(?P<a3>\d{{1,2}}){_SEP}(?P<b3>\d{{1,2}}){_SEP}(?P<y3>\d{{4}})"
    rf"|(?P<d4>\d{{1,2}})(?:st|nd|rd|th)?[\s,./-]*(?:of\s)?(?P<n4>{_MONTH})[\s,./-]*(?P<y4>\d{{4}})"
    rf"|(?P<n5>{_MONTH}){_SEP}(?P<d5>\d{{1,2}})(?:st|nd|rd|th)?{_SEP}(?P<y5>\d{{4}})"
    r")(?!\d)",
    re.IGNORECASE | re.ASCII,
)
_HALF = r"(?:[ap]\.?\s?m\.?|\u0635|\u0645)"  # the letters are those of Arabic clocks
_BETWEEN = re.compile(r"\s?[.,]?\s?(?:at\s|[t_](?=\d))?", re.IGNORECASE)
_TIME = re.compile(
    r"(?:(?P<h1>\d{1,2}):(?P<m1>\d{1,2})(?::(?P<s1>\d{1,2})(?:[.,:](?P<part1>\d{1,9})\d*)?)?"
    r"|(?P<h2>\d{1,2})\.(?P<m2>\d{2})(?:\.(?P<s2>\d{2})(?:[.,](?P<part2>\d{1,9})\d*)?)?"
    r"|(?P<h3>\d{2})(?P<m3>\d{2})(?P<s3>\d{2})(?:[.,](?P<part3>\d{1,9})\d*)?"
    r"|(?<=t)(?P<h4>\d{2})(?P<m4>\d{2})?)(?!\d)"
    rf"(?:\s*(?P<half1>{_HALF})(?![a-z]))?"
    rf"|(?P<h5>\d{{1,2}})\s*(?P<half2>{_HALF})(?![a-z])"
    rf"|(?P<half3>{_HALF})(?![a-z])",
    re.IGNORECASE | re.ASCII,
)
_EPOCH = re.compile(r"(\d{13}|\d{10})(?:\.\d+)?", re.ASCII)
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"), "-") | {0x060C: ","}
_SHORTEST = len("2026-06-24T06:00")


class _Moment(msgspec.Struct):
    """A day with what stands after it. `zone` is None where none is named, and the word
    itself where a word names it.
    """

    day: date
    time: time | None = None
    next_day: bool = False
    zone: tzinfo | str | None = None


def read_date(value: Any, order: str, zone: tzinfo) -> str:
    """A calendar date as ISO text. `order` of figures is `dmy`, `mdy` or `ymd`; `zone` is the
    one in which an epoch number is a day. Raises `UnreadableError`.
    """
    if type(value) is str and len(value) == 10 and value.isascii() and value[4] == "-" == value[7]:
        try:
            day = date.fromisoformat(value)  # nearly every date
        except ValueError:
            pass
        else:
            _check_year(day.year)
            return value
    instant = _epoch(value)
    if instant is not None:
        return clock.day(instant, zone).isoformat()
    return _moment(value, order, "a date").day.isoformat()


def read_instant(value: Any, order: str, zone: tzinfo) -> int:
    """`Modified_Time` as microseconds since 1970 UTC, in all the forms of a date; without an
    offset in the tenant's zone. Raises `UnreadableError`.
    """
    if type(value) is str and value[4:5] == "-" == value[7:8] and value[10:11] in ("T", " "):
        with contextlib.suppress(ValueError):
            moment = datetime.fromisoformat(value)  # nearly every instant
            if len(value) >= _SHORTEST and abs(moment.utcoffset() or timedelta()) <= MAX_OFFSET:
                _check_year(moment.year)
                return clock.from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=zone))
    instant = _epoch(value)
    if instant is not None:
        return instant
    found = _moment(value, order, "an instant")
    try:
        here = datetime.combine(found.day, found.time or time(), zone)
        said = found.zone or zone
        named = zone_of(said, here.tzname(), zone) if isinstance(said, str) else said
        if named is None:
            raise UnreadableError(
                "names its zone by a word that means several: send an offset such as +03:00"
            )
        at = here.replace(tzinfo=named)
        return clock.from_datetime(at + timedelta(days=1) if found.next_day else at)
    except (ValueError, OverflowError):
        raise UnreadableError("is out of the range of instants") from None


def _epoch(value: Any) -> int | None:
    """Microseconds, where a number or a text is epoch milliseconds or seconds. Raises
    `UnreadableError` for a year of no college.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, Decimal):
        value = f"{value:f}" if -9 < value.adjusted() < 20 and len(value.as_tuple().digits) < 40 else ""
    elif isinstance(value, int):
        value = str(value) if value.bit_length() < 64 else ""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return None
    found = _EPOCH.fullmatch(western(visible(value)).strip())
    if found is None:
        return None
    instant = int(Decimal(found[0]) * (1000 if len(found[1]) == 13 else 1_000_000))
    _check_year(clock.day(instant, UTC).year)
    return instant


def _check_year(year: int) -> None:
    if not FIRST_YEAR <= year <= LAST_YEAR:
        raise UnreadableError(f"is in a year outside {FIRST_YEAR} to {LAST_YEAR}")


def _moment(value: Any, order: str, what: str) -> _Moment:
    problem = UnreadableError(f"should be {what} ({order} or ISO), is {masked(value)}")
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if value.bit_length() < 64 else ""  # 20260624
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise problem
    text = " ".join(western(visible(value)).translate(_DASHES).split())
    found = _DAY.match(text)
    if found is None:
        raise problem
    moment = _Moment(_day(found, order))
    _tail(text, found.end(), moment, problem, is_iso=bool(found["y1"] or found["y2"]))
    return moment


def _day(found: re.Match[str], order: str) -> date:
    """The day that the figures and words mean."""
    part = _parts(found)
    if "a" in part:
        return _ordered(int(part["y"]), int(part["a"]), int(part["b"]), order)
    year, day = int(part["y"]), int(part["d"])
    month = _MONTHS[part["n"].lower()] if "n" in part else int(part["m"])
    _check_year(year)
    try:
        return date(year, month, day)
    except ValueError:
        raise UnreadableError("is not a date of the calendar") from None


def _parts(found: re.Match[str]) -> dict[str, str]:
    """The groups that were found, without the figure that tells of which form each is."""
    return {name[:-1]: text for name, text in found.groupdict().items() if text is not None}


def _ordered(year: int, first: int, second: int, order: str) -> date:
    """Two figures before a year, in the college's order."""
    _check_year(year)
    readings: dict[str, date] = {}
    for name, (day, month) in (("dmy", (first, second)), ("mdy", (second, first))):
        with contextlib.suppress(ValueError):
            readings[name] = date(year, month, day)
    if order in readings:
        return readings[order]
    if readings:
        other = " or ".join(readings)
        raise UnreadableError(f"is no date in the order {order}, but one in {other}: see date_order")
    raise UnreadableError("is not a date of the calendar")


def _tail(text: str, at: int, moment: _Moment, problem: UnreadableError, *, is_iso: bool) -> None:
    """Reads what stands after the day: a time, then a zone, then nothing."""
    if (found := _BETWEEN.match(text, at)) is not None:
        at = found.end()
    if (found := _TIME.match(text, at)) is not None:
        if found["h3"] and not (is_iso or text[at - 1] in "tT"):
            raise problem  # six figures after a blank are a time only after an ISO day
        _set_time(found, moment, problem)
        at = found.end()
    at = _blank(text, at)
    if at < len(text) and (zone := read_zone(text, at, behind_time=moment.time is not None)) is not None:
        moment.zone, at = zone
    if _blank(text, at) < len(text):
        raise problem


def _blank(text: str, at: int) -> int:
    return at + 1 if text[at : at + 1] == " " else at


def _set_time(found: re.Match[str], moment: _Moment, problem: UnreadableError) -> None:
    part = _parts(found)
    if "h" not in part:
        return
    hour, minute, second = (int(part.get(name, 0)) for name in ("h", "m", "s"))
    if (half := part.get("half")) is not None:
        is_late = half[0] in "pP\u0645"
        if hour <= 12:
            hour = hour % 12 + (12 if is_late else 0)
        elif not is_late:
            raise problem  # 14:05 AM
    if (hour, minute, second) == (24, 0, 0):
        hour, moment.next_day = 0, True
    try:
        moment.time = time(hour, minute, second, int(part.get("part", "0").ljust(6, "0")[:6]))
    except ValueError:
        raise problem from None
