"""Waiting that counts only the time in which the event loop ran.

A process that computes for three seconds reads nothing meanwhile. Whatever was to come in those
three seconds is there, unread: that is no time that the other side took.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

STEPS = 50
"""A wait has so many steps, and each counts once, however long the loop was kept from ending it."""


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """What is awaited. Raises `TimeoutError` after so many seconds of a loop that runs."""
    task = asyncio.ensure_future(awaitable)
    try:
        for _ in range(STEPS):
            done, _ = await asyncio.wait((task,), timeout=seconds / STEPS)
            if done:
                return task.result()
        raise TimeoutError("no answer in time")
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(_forget)
            await asyncio.wait((task,), timeout=seconds / STEPS)


def _forget(task: asyncio.Future[T]) -> None:
    """What a task raises after nobody waits for it, nobody wants to know, the event loop neither."""
    if not task.cancelled():
        task.exception()
