"""How often a process asks about all tenants."""

from __future__ import annotations

import pytest

from projections import tenants
from projections.tenants import POLL_LONGEST_SECONDS, Pace


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(tenants.time, "monotonic", lambda: self.now)


def after(clock: Clock, pace: Pace, seconds: float) -> float:
    """The pause behind a round that takes so many seconds."""
    with pace.round():
        clock.now += seconds
    return round(pace.due - clock.now, 6)


def test_a_round_takes_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longer one takes, the longer the pause; never shorter than the least one, nor without end."""
    clock = Clock(monkeypatch)
    pace = Pace(2.0, share=0.01)
    assert pace.is_due
    assert after(clock, pace, 0.0) == 2.0
    assert not pace.is_due
    assert after(clock, pace, 0.02) == 2.0
    assert after(clock, pace, 0.25) == 25.0
    clock.now += 24.9
    assert not pace.is_due
    clock.now += 0.1
    assert pace.is_due
    assert after(clock, pace, 59.0) == POLL_LONGEST_SECONDS


def test_a_round_that_fails_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database was away: nobody waits for the next turn, and nobody hurries a database that is slow."""
    clock = Clock(monkeypatch)
    pace = Pace(2.0)

    def fail() -> None:
        with pace.round():
            clock.now += 1.5
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    assert pace.due - clock.now == 1.5
