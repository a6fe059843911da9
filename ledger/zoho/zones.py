"""Zones as people and machines write them after a day or a time."""

from __future__ import annotations

import re
from datetime import UTC, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

MAX_OFFSET = timedelta(hours=15)

_OFFSET = re.compile(
    r"(?:(?:utc|gmt)\s?)?(?P<sign>[+-])(?P<hours>\d{1,2}+)"
    r"(?::?(?P<minutes>[0-5]\d)(?::?(?P<seconds>[0-5]\d)(?:\.\d+)?+)?+)?+(?![0-9a-z])"
    r"|(?P<utc>z|utc?|gmt|\((?:utc|gmt)\))(?![0-9a-z])",
    re.IGNORECASE | re.ASCII,
)
# The same zone once more: `+0300 (Arabian Standard Time)`, `+03:00[Asia/Amman]`, `GMT+0300 (GMT+03:00)`
_AGAIN = re.compile(
    r"\s?(?:\((?:[^()\d]*|(?:gmt|utc)?[+-]\d{1,2}(?::?\d{2})?)\)|\[[a-z0-9_/+-]+\])", re.IGNORECASE
)
_PLACE = re.compile(r"[\[(]?(?P<name>[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)+)[\])]?", re.ASCII)
_COUNTRY = re.compile(r"(?P<name>[A-Z][a-z]{3,})(?![A-Za-z])", re.ASCII)  # Turkey, Egypt
_WORD = re.compile(r"\(?(?P<word>[A-Za-z]{2,5})\)?(?![A-Za-z])", re.ASCII)
_PHRASE = re.compile(r"\(?(?:[A-Z][A-Za-z.]* ){1,4}(?:Standard|Daylight|Summer) Time\)?", re.ASCII)

# Words that mean one offset today, in hours. The American ones are those of RFC 2822 (section 4.3), the
# others those on which every zone of the IANA database that uses the word agrees.
_ONE = {
    "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7, "HST": -10,
    "AKST": -9, "AKDT": -8, "WET": 0, "WEST": 1, "CET": 1, "CEST": 2, "EET": 2, "EEST": 3, "MSK": 3,
    "WAT": 1, "CAT": 2, "SAST": 2, "EAT": 3, "PKT": 5, "WIB": 7, "WITA": 8, "WIT": 9, "HKT": 8, "JST": 9,
    "KST": 9, "AWST": 8, "ACST": 9.5, "ACDT": 10.5, "AEST": 10, "AEDT": 11, "NZST": 12, "NZDT": 13,
}  # fmt: skip
# Words of several zones, or of zones that have changed
_SEVERAL = frozenset({
    "ADT", "ALMT", "AMT", "ART", "AST", "AZT", "BDT", "BRST", "BRT", "BST", "CHAST", "CLST", "CLT", "COT", "ECT",
    "FJT", "GST", "ICT", "IDT", "IRDT", "IRKT", "IRST", "IST", "KGT", "KRAT", "LKT", "MAGT", "MMT", "MUT", "MVT",
    "MYT", "NDT", "NOVT", "NPT", "NST", "OMST", "PHT", "PYST", "PYT", "SAMT", "SGT", "SLT", "THA", "TJT", "TMT",
    "TRT", "UYT", "UZT", "VLAT", "YAKT", "YEKT",
})  # fmt: skip


_WORDS = _ONE.keys() | _SEVERAL


def read_zone(text: str, at: int, *, behind_time: bool) -> tuple[tzinfo | str, int] | None:
    """The zone that stands at a place of a text, and where it ends; None where none does. A word is
    itself (see `zone_of`). `behind_time`: names of countries and phrases are taken, too.
    """
    if (found := _OFFSET.match(text, at)) is not None:
        zone = _offset(found)
        return None if zone is None else (zone, _end_of_the_same(text, found.end()))
    if (found := _PLACE.match(text, at)) is not None:
        place = _place(found["name"])
        return None if place is None else (place, found.end())
    return _named(text, at, behind_time=behind_time)


def zone_of(word: str, own: str | None, own_zone: tzinfo) -> tzinfo | None:
    """The zone that a word means: the college's own where that is called so at that time, else the one
    that it means everywhere; None where it may be several.
    """
    if word == own:
        return own_zone
    return timezone(timedelta(hours=_ONE[word])) if word in _ONE else None


def _named(text: str, at: int, *, behind_time: bool) -> tuple[tzinfo | str, int] | None:
    found = _WORD.match(text, at)
    if found is not None and (word := found["word"].upper()) in _WORDS:
        return word, found.end()
    if not behind_time:
        return None
    if (found := _PHRASE.match(text, at)) is not None:
        return found[0], found.end()
    found = _COUNTRY.match(text, at)
    place = None if found is None else _place(found["name"])
    return None if found is None or place is None else (place, found.end())


def _offset(found: re.Match[str]) -> tzinfo | None:
    if found["utc"]:
        return UTC
    offset = timedelta(
        hours=int(found["hours"]), minutes=int(found["minutes"] or 0), seconds=int(found["seconds"] or 0)
    )
    return None if offset > MAX_OFFSET else timezone(-offset if found["sign"] == "-" else offset)


def _end_of_the_same(text: str, at: int) -> int:
    """Where the zone ends that an offset names, if it is named once more after it."""
    if (again := _AGAIN.match(text, at)) is not None:
        return again.end()
    named = _named(text, at + 1 if text[at : at + 1] == " " else at, behind_time=True)
    return at if named is None else named[1]


def _place(name: str) -> tzinfo | None:
    try:
        return None if name == "Factory" else ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return None
