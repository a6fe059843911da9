"""Since when an answer holds, by events and by the calendar between them."""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import clock
from projections.period import Moment, Period, since_when

UTC, HAVANA = ZoneInfo("UTC"), ZoneInfo("America/Havana")
HOUR = 60 * clock.MINUTE
DAYS = st.none() | st.integers(1, 6).map(lambda day: date(1970, 1, day))
PERIODS = st.builds(Period, DAYS, DAYS, st.just(UTC))


@given(st.lists(st.tuples(st.integers(0, 140), st.booleans(), PERIODS), min_size=1), st.integers(0, 160))
def test_since_when(found: list[tuple[int, bool, Period]], now: int) -> None:
    """As who looks at the clock every hour has it: back to the hour in which it became so."""
    found = sorted({moment[0]: moment for moment in found}.values(), key=lambda moment: moment[0])
    now = max(now, found[-1][0])

    def answer(hour: int) -> bool:
        _, asks, period = next(moment for moment in reversed(found) if moment[0] <= hour)
        day = date(1970, 1, 1 + hour // 24)
        begun = period.start is None or period.start <= day
        return asks and begun and (period.end is None or day <= period.end)

    since = now
    while since > found[0][0] and answer(since - 1) == answer(now):
        since -= 1
    moments = [Moment(hour * HOUR, asks, period) for hour, asks, period in found]
    assert since_when(moments, now * HOUR) == since * HOUR


def test_no_moment() -> None:
    """Nothing is known, since never."""
    assert since_when([], 0) is None


@pytest.mark.parametrize(
    ("zone", "day", "begins", "ends"),
    [
        ("Asia/Amman", "2026-03-01", "2026-02-28T21:00:00Z", "2026-03-01T21:00:00Z"),
        # the clocks go forward at midnight, so the day begins at one o'clock
        ("America/Havana", "2026-03-08", "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"),
        # they go back at one o'clock, so that midnight comes twice; the first one counts
        ("America/Havana", "2026-11-01", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
    ],
)
def test_days_of_a_zone(zone: str, day: str, begins: str, ends: str) -> None:
    """From the first instant of a day to the first one of the next day."""
    period = Period.read(day, day, ZoneInfo(zone))
    assert (period.begins, period.ends) == (clock.parse(begins), clock.parse(ends))
    assert [period.holds(clock.parse(t)) for t in (begins, ends)] == [True, False]
    assert not period.holds(clock.parse(begins) - 1)


def test_the_first_and_the_last_day_of_all() -> None:
    """Dates that stand for never have no end, and break nothing."""
    period = Period.read("0001-01-01", "9999-12-31", HAVANA)
    assert period.ends is None
    assert period.holds(0)
