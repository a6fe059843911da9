"""Instants are integers: microseconds since 1970-01-01T00:00:00Z.

They compare, hash and digest exactly, and one format leaves the house:
`YYYY-MM-DDTHH:MM:SS.ffffffZ`.
"""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, tzinfo

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now() -> int:
    """The present instant by this machine's clock."""
    return time.time_ns() // 1000


def from_datetime(moment: datetime) -> int:
    """The instant of an aware `datetime`.

    Integer arithmetic: `datetime.timestamp()` is a float and loses microseconds.
    """
    return (moment - _EPOCH) // _MICROSECOND


def to_text(instant: int) -> str:
    """`1700000000000000` -> `"2023-11-14T22:13:20.000000Z"`."""
    moment = _EPOCH + timedelta(microseconds=instant)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def day(instant: int, zone: tzinfo) -> date:
    """The day that an instant lies in."""
    return (_EPOCH + timedelta(microseconds=instant)).astimezone(zone).date()


def parse(text: str) -> int:
    """An ISO 8601 instant with an offset or `Z`. Raises `ValueError`."""
    # a `+` in a query that was not escaped arrives as a blank
    moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return from_datetime(moment)
