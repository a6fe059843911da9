"""Whose turn it is to work on a college's Moodle: one process at a time, so that no two calls
ever make the same account. The worker has it as a rule; a command that applies a plan asks
for it, and the worker lets go between two rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ledger.database import Database
from ledger.errors import DatabaseAwayError
from projections.followers import Lease, LeaseLostError
from projections.queries import SQL

WORK, WISH = "moodle", "moodle-wish"
SECONDS = 10.0
"""So long the turn of a process that died is kept."""
_ASK_SECONDS = 0.2


class Turn:
    """The right to call one college's Moodle, for as long as it is renewed."""

    def __init__(self, database: Database, tenant_id: str, name: str = WORK) -> None:
        self._database = database
        self._tenant = tenant_id
        self._lease = Lease(tenant_id, name, seconds=SECONDS)
        self._until = 0.0

    def holds(self) -> bool:
        """Whether it is surely ours; asked before every call."""
        return _now() < self._until

    async def take(self) -> bool:
        """Whether it is ours now. Raises `DatabaseAwayError`."""
        now = _now()
        async with self._database.transaction(self._tenant) as connection:
            taken = await self._lease.take(connection)
        if taken:
            self._until = now + SECONDS
        return taken

    async def keep(self) -> None:
        """Renews it until cancelled; ends where it is lost."""
        while True:
            await asyncio.sleep(SECONDS / 4)
            now = _now()
            try:
                async with self._database.transaction(self._tenant) as connection:
                    await self._lease.renew(connection)
                self._until = now + SECONDS
            except LeaseLostError:
                self._until = 0.0
                return
            except DatabaseAwayError:
                continue

    async def give_back(self) -> None:
        """At the end, so that nobody waits for it to run out."""
        self._until = 0.0
        with contextlib.suppress(DatabaseAwayError):
            async with self._database.transaction(self._tenant) as connection:
                await self._lease.give_back(connection)

    async def is_wished_for(self) -> bool:
        """Whether a command waits for it."""
        async with self._database.transaction(self._tenant) as connection:
            return bool(await connection.fetchval(SQL["lease_is_held"], self._tenant, WISH))


@asynccontextmanager
async def ask_for(database: Database, tenant_id: str) -> AsyncIterator[Turn]:
    """A turn, after asking whoever has it to let go: waits as long as that one's round takes."""
    wish, turn = Turn(database, tenant_id, WISH), Turn(database, tenant_id)
    keepers: list[asyncio.Task[None]] = []
    try:
        for one in (wish, turn):
            while not await one.take():  # noqa: ASYNC110  (another process has it, which has no event)
                await asyncio.sleep(_ASK_SECONDS)
            keepers.append(asyncio.create_task(one.keep()))
        yield turn
    finally:
        for keeper in keepers:
            keeper.cancel()
        await turn.give_back()
        await wish.give_back()


def _now() -> float:
    return asyncio.get_running_loop().time()
