"""Every tenant of an installation: who they are, and where their histories end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from ledger.database import Database
from projections.queries import SQL

POLL_SECONDS = 2.0
POLL_SHARE = 0.005
"""So much of the time a process may spend on asking whether anything has happened."""
POLL_LONGEST_SECONDS = 300.0


class Place(msgspec.Struct, frozen=True):
    """Where a tenant's history ends: in which generation of its read models, made by which version."""

    position: int
    generation: int
    version: int


async def tenants(database: Database, default_tenant: str) -> list[str]:
    """Every tenant's name, in order. Raises `DatabaseAwayError`."""
    async with database.transaction(default_tenant) as connection:
        rows = await connection.fetch(SQL["tenants"])
    return [row["tenant_id"] for row in rows]


async def places(database: Database, default_tenant: str) -> dict[str, Place]:
    """Where every tenant stands. One round trip, some 10 microseconds for each tenant. Raises
    `DatabaseAwayError`.
    """
    async with database.transaction(default_tenant) as connection:
        rows = await connection.fetch(SQL["places"])
    return {tenant_id: Place(*place) for tenant_id, *place in rows}


class Pace:
    """How often a round over all tenants is made: the longer a round takes, the longer the pause
    behind it, so that rounds take no more than a share of the time, however many tenants there are.
    """

    def __init__(self, least: float = 0.0, share: float = POLL_SHARE) -> None:
        """`least` is the shortest pause, in seconds."""
        self._least = least
        self._share = share
        self.due = 0.0
        """When the next round may begin, by `time.monotonic`."""

    @property
    def is_due(self) -> bool:
        """Whether a round may be made now."""
        return time.monotonic() >= self.due

    @contextmanager
    def round(self) -> Iterator[None]:
        """Around a round; one that fails is made again after as long as it took."""
        begun = time.monotonic()
        share, least = 1.0, 0.0
        try:
            yield
            share, least = self._share, self._least
        finally:
            ended = time.monotonic()
            self.due = ended + min(max(least, (ended - begun) / share), POLL_LONGEST_SECONDS)
