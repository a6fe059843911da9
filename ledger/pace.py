"""Long work on the event loop, done so that nobody else waits for it.

What is made of many small pieces is done in turns, by time and not by number, since pieces
differ a thousandfold. One large piece that cannot be interrupted goes to a thread, one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Generic, ParamSpec, TypeVar

STEP_SECONDS = 0.005
"""After so long everybody else has a turn. Several tenants may be at work, each with its step."""

T = TypeVar("T")
P = ParamSpec("P")

_aside = ThreadPoolExecutor(1, thread_name_prefix="aside")


class InTurns(Generic[T]):
    """Items for `async for`: before one, and at the end, everybody else has a turn if it is due."""

    __slots__ = ("_items", "_until")

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)
        self._until = perf_counter() + STEP_SECONDS

    def __aiter__(self) -> InTurns[T]:
        return self

    async def __anext__(self) -> T:
        if perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = perf_counter() + STEP_SECONDS
        for item in self._items:
            return item
        raise StopAsyncIteration


def in_turns(items: Iterable[T]) -> InTurns[T]:
    """The same items, for `async for`, with turns for everybody else between them."""
    return InTurns(items)


async def aside(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """One large piece of work, in a thread: the loop goes on, and waits at most 5 ms (Python's own
    switching) for each of its steps. What the work touches must be its own until it has ended.

    Cancelled, it is not waited for, but goes on to its end.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_aside, lambda: work(*arguments, **options))
