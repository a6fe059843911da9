"""How long a loop is kept from everybody else, measured in work and not in time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


class Calls:
    """Calls of functions in the loop's thread; `most` is how many there were between two turns."""

    def __init__(self) -> None:
        self.most = self._since = 0

    def count(self, *_: Any) -> None:
        """One more, for `sys.setprofile`."""
        self._since += 1

    def turn(self) -> None:
        """Everybody had a turn."""
        self.most, self._since = max(self.most, self._since), 0


@asynccontextmanager
async def counted_calls() -> AsyncIterator[Calls]:
    """Counts what is called while somebody else always waits for a turn."""
    calls = Calls()

    async def wait_for_turns() -> None:
        while True:
            await asyncio.sleep(0)
            calls.turn()

    waiting = asyncio.create_task(wait_for_turns())
    await asyncio.sleep(0)
    sys.setprofile(calls.count)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        calls.turn()
        waiting.cancel()
