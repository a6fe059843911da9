"""How much all lanes of a process keep in memory together, from one flush to the next."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

CACHED_BYTES = 64 * 1024 * 1024
"""Some 40,000 students with their keys."""
KEY_BYTES = 450
"""What a cached key weighs with its place in a dictionary, measured."""


class Cached(Protocol):
    """What one lane keeps. Nothing is lost with it: it can be read again."""

    def give_up(self) -> bool:
        """Empties it, unless it is in use now. Whether it did."""


class Budget:
    """Bounds what several lanes keep: those that were used longest ago give up first."""

    def __init__(self, size: int = CACHED_BYTES) -> None:
        """`size` is in bytes."""
        self._size = size
        self._weights: OrderedDict[Cached, int] = OrderedDict()  # the one used last at the end
        self.total = 0
        """Bytes that are kept now."""

    def used(self, cached: Cached, weight: int) -> bool:
        """One was used just now, and weighs so many bytes. False where there is no room for it: then
        the caller is to give up itself.
        """
        self.forget(cached)
        self._weights[cached] = weight
        self.total += weight
        while self.total > self._size:
            oldest = next(iter(self._weights))
            if oldest is cached:
                return False
            if oldest.give_up():
                self.forget(oldest)
            else:
                self._weights.move_to_end(oldest)
        return True

    def forget(self, cached: Cached) -> None:
        """One keeps nothing any more."""
        self.total -= self._weights.pop(cached, 0)
