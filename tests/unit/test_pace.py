"""Turns for everybody else in the middle of long work."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ledger import pace
from ledger.pace import aside, in_turns


async def _with_a_neighbour(items: int) -> list[str]:
    """What happens, in order, while somebody else wants a turn."""
    happened: list[str] = []

    async def neighbour() -> None:
        while True:
            happened.append("neighbour")
            await asyncio.sleep(0)

    beside = asyncio.create_task(neighbour())
    await asyncio.sleep(0)
    happened.clear()
    async for item in in_turns(range(items)):
        happened.append(str(item))
    beside.cancel()
    return happened


async def test_a_turn_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a step's time is over, others come before the next item, and before what follows the last."""
    monkeypatch.setattr(pace, "STEP_SECONDS", 0)
    turn = ["neighbour"]
    assert await _with_a_neighbour(3) == [*turn, "0", *turn, "1", *turn, "2", *turn]


async def test_little_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its time nobody comes between."""
    monkeypatch.setattr(pace, "STEP_SECONDS", 1000)
    assert await _with_a_neighbour(3) == ["0", "1", "2"]


async def test_the_clock_counts_from_the_last_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns come by time, whatever an item costs."""
    now = 0.0
    monkeypatch.setattr(pace, "STEP_SECONDS", 10)
    monkeypatch.setattr(pace, "perf_counter", lambda: now)
    happened: list[str] = []
    loop = asyncio.get_running_loop()
    async for seconds in in_turns([4, 4, 4, 4, 30, 1]):
        happened.append(str(seconds))
        now += seconds
        loop.call_soon(happened.append, "turn")
    assert " ".join(happened) == "4 4 4 turn turn turn 4 30 turn turn 1"


async def test_what_fails_in_it_fails_as_ever() -> None:
    """Errors of the items come through, and an end is an end."""

    def items() -> object:
        yield 1
        raise KeyError("x")

    with pytest.raises(KeyError):
        assert [item async for item in in_turns(items())] == []  # type: ignore[arg-type]
    assert [item async for item in in_turns(())] == []


async def test_aside_the_loop_goes_on() -> None:
    """The work waits for something that only the loop can do."""
    told = threading.Event()

    def work(word: str, *, twice: bool) -> tuple[str, bool]:
        return (word * 2 if twice else word), told.wait(60)

    done = asyncio.create_task(aside(work, "a", twice=True))
    await asyncio.sleep(0)
    told.set()
    assert await done == ("aa", True)


async def test_aside_one_at_a_time() -> None:
    """Several pieces would share the interpreter with the loop, each for its own time."""
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.001)
        inside -= 1

    await asyncio.gather(*(aside(work) for _ in range(20)))
    assert most == 1
