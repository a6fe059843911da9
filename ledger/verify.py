"""Recomputes the digest chain of a tenant and compares it with what is stored."""

from __future__ import annotations

import msgspec

from ledger import chain
from ledger.events import Event


class BrokenChainError(Exception):
    """An event was altered, removed, inserted or moved. Names the first bad position."""

    def __init__(self, position: int) -> None:
        super().__init__(f"position {position} does not follow from what is before it")
        self.position = position


def follow(previous: bytes, events: list[Event]) -> bytes:
    """The chain value behind these events. Raises `BrokenChainError`."""
    for event in events:
        previous = chain.link(previous, msgspec.structs.astuple(event)[:-1])
        if previous != event.chain:
            raise BrokenChainError(event.position)
    return previous
