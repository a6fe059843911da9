"""The days of an enrollment: whether an instant lies within them, and since when an answer holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec

from ledger import clock


class Period(msgspec.Struct, frozen=True):
    """From the first to the last day, both inclusive, in the college's zone; None is no limit."""

    start: date | None
    end: date | None
    zone: ZoneInfo

    @classmethod
    def read(cls, start: str | None, end: str | None, zone: ZoneInfo) -> Period:
        """From the ISO dates of a record."""
        return cls(_day(start), _day(end), zone)

    @property
    def begins(self) -> int | None:
        """The first instant that lies within."""
        return None if self.start is None else _midnight(self.start, self.zone)

    @property
    def ends(self) -> int | None:
        """The first instant after the last day."""
        if self.end is None or self.end == date.max:
            return None
        return _midnight(self.end + timedelta(days=1), self.zone)

    def holds(self, instant: int) -> bool:
        """Whether an instant lies within; none does where the end is before the start."""
        return (self.begins is None or self.begins <= instant) and (self.ends is None or instant < self.ends)


class Moment(msgspec.Struct, frozen=True):
    """From an instant on: whether the records ask for a seat, and the days for which they do."""

    at: int
    asks: bool
    period: Period


def since_when(moments: Sequence[Moment], now: int) -> int | None:
    """Since when it has been as it is now: that a seat is asked for and its days are there, or not. It
    changes by an event, or by the calendar between two. None where there is no moment.
    """
    since, before = None, None
    for number, moment in enumerate(moments):
        until = moments[number + 1].at if moments[number + 1 :] else now + 1
        turns = (t for t in (moment.period.begins, moment.period.ends) if t is not None)
        for at in (moment.at, *sorted(t for t in turns if moment.at < t < until)):
            answer = moment.asks and moment.period.holds(min(at, now))
            if answer is not before:
                since, before = at, answer
    return since


def _day(text: str | None) -> date | None:
    return date.fromisoformat(text) if text else None


def _midnight(day: date, zone: ZoneInfo) -> int:
    return clock.from_datetime(datetime.combine(day, time.min, zone))
