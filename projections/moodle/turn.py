"""Whose turn it is to work on a college's Moodle: one process at a time, so that no two calls
ever make the same account. The worker has it as a rule; a command that applies a plan asks
for it, and the worker lets go between two rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from ledger.database import Database
from ledger.errors import DatabaseAwayError
from projections.followers import Lease, LeaseLostError
from projections.moodle.client import AwayError, MoodleError, WaitError
from projections.queries import SQL

WORK, WISH, COURSES = "moodle", "moodle-wish", "moodle-courses"
SECONDS = 10.0
"""So long the turn of a process that died is kept."""
_ASK_SECONDS = 0.2
MARGIN_SECONDS = 5.0
"""So long behind its time-out a call may still be under way."""


class Seen(msgspec.Struct, frozen=True):
    """Whether a command waits for the turn, whether anybody has it, and what that one says."""

    wished: bool
    held: bool
    note: str | None


class Turn:
    """The right to call one college's Moodle, for as long as it is renewed."""

    def __init__(
        self, database: Database, tenant_id: str, name: str = WORK, seconds: float = SECONDS
    ) -> None:
        self._database = database
        self._tenant = tenant_id
        self._seconds = seconds
        self._lease = Lease(tenant_id, name, seconds=seconds)
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
            self._until = now + self._seconds
        return taken

    async def keep(self) -> None:
        """Renews it until cancelled; ends where it is lost."""
        while True:
            await asyncio.sleep(self._seconds / 4)
            now = _now()
            try:
                async with self._database.transaction(self._tenant) as connection:
                    await self._lease.renew(connection)
                self._until = now + self._seconds
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

    async def look(self) -> Seen:
        """How it stands with everybody's."""
        async with self._database.transaction(self._tenant) as connection:
            rows = await connection.fetch(SQL["held_leases"], self._tenant, [WISH, WORK])
        notes = {row["name"]: row["note"] for row in rows}
        return Seen(WISH in notes, WORK in notes, notes.get(WORK))

    async def note(self, text: str | None) -> None:
        """Says something to the processes that do not have it."""
        async with self._database.transaction(self._tenant) as connection:
            await self._lease.note(connection, text)


@asynccontextmanager
async def making_courses(database: Database, tenant_id: str, timeout_seconds: float) -> AsyncIterator[None]:
    """Around one call that makes courses, of which Moodle would make two where two such calls are
    under way at once. Where one has no answer, nobody makes courses before it must have ended.

    Raises `WaitError` where such a one is waited for.
    """
    turn = Turn(database, tenant_id, COURSES, timeout_seconds + MARGIN_SECONDS)
    if not await turn.take():
        said = "an earlier call that makes courses had no answer: what came of it is waited for"
        raise WaitError(said, timeout_seconds + MARGIN_SECONDS)
    try:
        yield
    except MoodleError as error:
        if not (isinstance(error, AwayError) and error.under_way):
            await turn.give_back()
        raise
    await turn.give_back()


@asynccontextmanager
async def ask_for(
    database: Database, tenant_id: str, tell: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Turn]:
    """A turn, after asking whoever has it to let go: waits as long as that one's round takes."""
    wish, turn = Turn(database, tenant_id, WISH), Turn(database, tenant_id)
    keepers: list[asyncio.Task[None]] = []
    try:
        for one, holder in ((wish, "another command has ended"), (turn, "the worker has ended its round")):
            taken = await one.take()
            if not taken:
                tell(f"waiting until {holder}")
            while not taken:
                await asyncio.sleep(_ASK_SECONDS)  # another process has it, which has no event
                taken = await one.take()
            keepers.append(asyncio.create_task(one.keep()))
        yield turn
    finally:
        for keeper in keepers:
            keeper.cancel()
        await turn.give_back()
        await wish.give_back()


def _now() -> float:
    return asyncio.get_running_loop().time()
