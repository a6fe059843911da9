"""What the log tells of an outage, and waits that count only the time in which the loop ran."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from ledger.outage import Outage
from ledger.patience import STEPS, within


class Told:
    """An outage under a clock of the test's own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.outage = Outage(60, 3, lambda: self.now)

    def lines(self, *steps: tuple[float, str | None]) -> list[str]:
        """What is logged when at these seconds something failed for a reason, or worked."""
        with capture_logs() as logged:
            for seconds, reason in steps:
                self.now = seconds
                if reason is None:
                    self.outage.worked()
                else:
                    self.outage.failed(reason)
        return [line["event"] for line in logged]


AWAY, STILL, BACK = (
    "the database does not work",
    "the database still does not work",
    "the database works again",
)


def test_one_line_when_it_begins_one_a_minute_one_at_its_end() -> None:
    every_second = [(float(second), "refused") for second in range(130)]
    assert Told().lines(*every_second, (140.0, None), (141.0, None)) == [AWAY, STILL, STILL, BACK]


def test_connections_that_are_lost_one_by_one_are_one_outage() -> None:
    steps = [(0.0, "a"), (1.0, None), (1.5, "b"), (2.0, None), (4.0, "c"), (6.9, None), (7.0, None)]
    assert Told().lines(*steps) == [AWAY, BACK]


def test_a_second_outage_is_told_anew() -> None:
    assert Told().lines((0, "a"), (5, None), (6, "a"), (10, None)) == [AWAY, BACK, AWAY, BACK]


def test_what_works_says_nothing() -> None:
    assert Told().lines((0, None), (9, None)) == []


def test_why_it_is_not_brought_back_is_told_once_an_outage() -> None:
    told = Told()
    told.lines((0, "a"))
    with capture_logs() as logged:
        for _ in range(3):
            told.outage.not_repaired("no such file")
        told.now = 9
        told.outage.worked()
        told.outage.failed("a")
        told.outage.not_repaired("no such file")
    events = [line["event"] for line in logged]
    assert events.count("the database cannot be brought back") == 2


def spin(seconds: float) -> None:
    """Keeps the loop."""
    end = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < end:
        pass


async def test_time_that_the_loop_lost_does_not_count() -> None:
    """The loop is kept for longer than the limit, and then what is awaited comes."""
    come = asyncio.Event()

    async def keep() -> None:
        spin(0.05)
        await asyncio.sleep(0)
        spin(0.05)
        asyncio.get_running_loop().call_later(0, come.set)

    keeping = asyncio.create_task(keep())
    assert await within(0.04, come.wait()) is True
    await keeping


async def test_what_never_comes_is_given_up() -> None:
    """It is cancelled before the caller goes on."""
    broken_off: list[Any] = []

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            broken_off.append(True)

    with pytest.raises(TimeoutError):
        await within(STEPS / 10_000, never())
    assert broken_off == [True]


async def test_errors_pass() -> None:
    async def fails() -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        await within(1, fails())


async def test_whoever_waits_may_be_cancelled() -> None:
    inner: list[str] = []

    async def never() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            inner.append("cancelled")
            raise

    waiting = asyncio.create_task(within(60, never()))
    while not inner:
        await asyncio.sleep(0)
        waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert inner == ["cancelled"]
