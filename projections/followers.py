"""Followers: projections that come after the append, each with its checkpoint.

A follower reads what events led to (`Item`) behind its checkpoint, and writes its rows
and the next checkpoint in one transaction, the checkpoint by compare-and-set: so two
processes never apply an event twice, whatever happens to either. A lease keeps them
from doing the same work in vain; one that is not renewed passes on.

An item on which a follower fails is tried again with growing pauses, then parked (dead
letter) together with what its stream brings later, so that order holds within it;
everything else goes on. Parked items are listed, counted, and can be tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import structlog

from ledger import clock
from ledger.database import Connection, Database
from ledger.errors import DatabaseAwayError
from ledger.pace import in_turns
from projections.queries import SQL
from projections.tenants import POLL_SECONDS, Pace

log = structlog.get_logger()

PAGE = 5_000
ATTEMPTS = 5
FIRST_PAUSE = 0.1  # seconds, doubled at each attempt
LEASE_SECONDS = 5.0
LINGER_SECONDS = 0.5
"""After an append more is likely to come, and a page costs what an item costs."""


class Item(msgspec.Struct, frozen=True, gc=False):
    """What one event led to, in the envelope's words. `recorded_at` is microseconds."""

    position: int
    stream: str
    recorded_at: int
    entity: str
    status: str


class Follower(Protocol):
    """A projection that follows. `apply` is pure; only `write` touches the database."""

    name: str
    version: int
    columns: tuple[str, ...]
    """Of its table, behind tenant, generation and version; `entity` is one of them."""

    def batch(self) -> Any:
        """An empty batch."""

    def apply(self, batch: Any, item: Item) -> None:
        """Folds one item into a batch."""

    def take_back(self, batch: Any, item: Item) -> None:
        """The opposite of `apply`."""

    async def write(self, connection: Connection, tenant_id: str, generation: int, batch: Any) -> None:
        """Adds a batch to the rows of a generation."""

    async def rows(
        self, connection: Connection, tenant_id: str, generation: int
    ) -> dict[Any, tuple[Any, ...]]:
        """The rows of a generation by key, each in the order of `columns`."""

    def expected(self, batch: Any) -> dict[Any, tuple[Any, ...]]:
        """The rows that a batch of everything makes."""

    async def forget(self, connection: Connection, tenant_id: str, generation: int) -> None:
        """Removes the rows of a generation."""


class LeaseLostError(Exception):
    """Somebody else does this work now."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the work on {name} has passed to another process")


class Lease:
    """The right to do a tenant's work of one kind for a while. Needs transactions."""

    def __init__(
        self, tenant_id: str, name: str, owner: str | None = None, seconds: float = LEASE_SECONDS
    ) -> None:
        self._place = (tenant_id, name)
        self._owner = owner or secrets.token_hex(8)
        self._seconds = seconds

    async def take(self, connection: Connection) -> bool:
        """Whether it is ours now."""
        taken = await connection.fetchval(SQL["take_lease"], *self._place, self._owner, self._seconds)
        return bool(taken)

    async def renew(self, connection: Connection) -> None:
        """Keeps it, in the transaction that does the work. Raises `LeaseLostError`."""
        if not await connection.fetchval(SQL["renew_lease"], *self._place, self._owner, self._seconds):
            raise LeaseLostError(self._place[1])

    async def note(self, connection: Connection, text: str | None) -> None:
        """Says something to those who do not have it; it goes with the lease."""
        await connection.execute(SQL["note_lease"], *self._place, self._owner, text)

    async def give_back(self, connection: Connection) -> None:
        """At a clean end."""
        await connection.execute(SQL["give_lease_back"], *self._place, self._owner)


def checkpoint_of(follower: Follower, generation: int) -> str:
    """The name under which a follower's checkpoint is kept: a new version, or other read
    models, start over.
    """
    return f"{_checkpoints_of(follower)}{generation}"


def _checkpoints_of(follower: Follower) -> str:
    """The same up to the generation."""
    return f"{follower.name}.v{follower.version}.g"


async def position_of(connection: Connection, tenant_id: str, follower: Follower, generation: int) -> int:
    """How far a follower has come."""
    found = await connection.fetchval(SQL["checkpoint"], tenant_id, checkpoint_of(follower, generation))
    return found or 0


async def move(
    connection: Connection, tenant_id: str, follower: Follower, generation: int, before: int, after: int
) -> None:
    """Compare and set. Raises `LeaseLostError` where the checkpoint is not where it was left."""
    name = checkpoint_of(follower, generation)
    if not await connection.fetchval(SQL["move_checkpoint"], tenant_id, name, before, after):
        raise LeaseLostError(follower.name)


async def items_behind(
    connection: Connection, tenant_id: str, generation: int, after: int, until: int, limit: int
) -> list[Item]:
    """What events led to, by position; `until` is inclusive."""
    rows = await connection.fetch(SQL["outcomes_in_order"], tenant_id, generation, after, until, limit)
    return [Item(*row) async for row in in_turns(rows)]


class Trouble(msgspec.Struct, frozen=True):
    """A follower that failed on what lies behind a place (generation, position): how many items
    it takes next, how often one alone has failed there, and when it may try again.
    """

    place: tuple[int, int] = (0, -1)
    limit: int = PAGE
    failures: int = 0
    not_before: float = 0.0


class Followers:
    """Runs followers for every tenant, in this process and beside others."""

    def __init__(
        self,
        database: Database,
        default_tenant: str,
        followers: Sequence[Follower],
        *,
        attempts: int = ATTEMPTS,
    ) -> None:
        self._database = database
        self._default_tenant = default_tenant
        self._followers = followers
        self._attempts = attempts
        self._owner = secrets.token_hex(8)
        self._trouble: dict[tuple[str, str], Trouble] = {}
        self._wake = asyncio.Event()
        self._appended: set[str] = set()
        self._poll = Pace(POLL_SECONDS)
        self.parked: Counter[tuple[str, str]] = Counter()
        """(tenant, follower) -> how many items are parked, where there are any."""

    def wake(self, tenant_id: str) -> None:
        """Something was appended here: look before the next poll."""
        self._appended.add(tenant_id)
        self._wake.set()

    async def run(self) -> None:
        """Follows until cancelled. Asks now and then who is behind, so that what other processes
        append, and what one that died has left, is seen too.
        """
        while True:
            todo, self._appended = self._appended, set()
            self._wake.clear()
            try:
                if self._poll.is_due:
                    with self._poll.round():
                        todo |= await self.behind()
                for tenant_id in sorted(todo | {tenant_id for tenant_id, _ in self._trouble}):
                    await self.catch_up(tenant_id)
                    todo.discard(tenant_id)
            except DatabaseAwayError:
                self._appended |= todo
                await asyncio.sleep(FIRST_PAUSE)
            except Exception:
                log.exception("following failed; it is tried again")
                await asyncio.sleep(FIRST_PAUSE)
            left = self._poll.due - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, POLL_SECONDS) if self._trouble or todo else left):
                    await self._wake.wait()
                    await asyncio.sleep(LINGER_SECONDS)

    async def behind(self) -> set[str]:
        """The tenants in which a follower has work left; what is parked is counted on the way. Raises
        `DatabaseAwayError`.
        """
        found, parked = set[str](), Counter[tuple[str, str]]()
        for follower in self._followers:
            async with self._database.transaction(self._default_tenant) as connection:
                rows = await connection.fetch(SQL["behind"], follower.name, _checkpoints_of(follower))
            found |= {row["tenant_id"] for row in rows if row["is_behind"]}
            parked.update({(row["tenant_id"], follower.name): row["parked"] for row in rows})
        self.parked = +parked
        return found

    async def catch_up(self, tenant_id: str) -> None:
        """Brings every follower of a tenant to the head, as far as it can go now."""
        for follower in self._followers:
            while await self.step(tenant_id, follower):
                pass

    async def step(self, tenant_id: str, follower: Follower) -> bool:
        """One page at the most. Whether there may be more to do at once."""
        key = (tenant_id, follower.name)
        trouble = self._trouble.get(key, _NO_TROUBLE)
        now = asyncio.get_running_loop().time()
        if now < trouble.not_before:
            return False
        page = _Page(tenant_id, follower, trouble, self._attempts)
        try:
            async with self._database.transaction(tenant_id) as connection:
                moved = await page.advance(connection, Lease(tenant_id, follower.name, self._owner))
                parked: int = await connection.fetchval(SQL["count_parked"], tenant_id, follower.name)
            self._note_parked(key, parked)
        except LeaseLostError:
            return False
        except DatabaseAwayError:
            raise
        except Exception:
            log.exception("a follower failed", tenant=tenant_id, follower=follower.name)
            if page.limit > 1:  # which item it is shows when they come one by one
                self._trouble[key] = Trouble(page.place, max(1, page.limit // 8))
                return True
            failures = page.failures + 1
            self._trouble[key] = Trouble(page.place, 1, failures, now + FIRST_PAUSE * 2**failures)
            return False
        if moved and page.limit < PAGE:
            self._trouble[key] = Trouble(limit=min(PAGE, page.limit * 2))
        elif moved:
            self._trouble.pop(key, None)
        return moved

    async def retry_parked(self, tenant_id: str, follower: Follower) -> tuple[int, int]:
        """Applies what is parked, in order; answers how many were applied and how many stay."""
        applied, stuck = 0, set[str]()
        async with self._database.transaction(tenant_id) as connection:
            head = await connection.fetchrow(SQL["head"], tenant_id)
            parked = await connection.fetch(SQL["parked_events"], tenant_id, follower.name)
        generation = head["generation"] if head else 0
        for row in parked:
            if row["stream"] in stuck:
                continue
            position = row["position"]
            try:
                async with self._database.transaction(tenant_id) as connection:
                    items = await items_behind(connection, tenant_id, generation, position - 1, position, 1)
                    if not await connection.fetchval(SQL["unpark"], tenant_id, follower.name, position):
                        continue  # somebody else was faster
                    batch = follower.batch()
                    for item in items:
                        follower.apply(batch, item)
                    await follower.write(connection, tenant_id, generation, batch)
                    applied += 1
            except DatabaseAwayError:
                raise
            except Exception:
                log.exception("a parked event failed again", tenant=tenant_id, position=position)
                stuck.add(row["stream"])
        async with self._database.transaction(tenant_id) as connection:
            left = await connection.fetchval(SQL["count_parked"], tenant_id, follower.name)
        self._note_parked((tenant_id, follower.name), left)
        return applied, left

    def _note_parked(self, key: tuple[str, str], count: int) -> None:
        self.parked[key] = count
        if not count:
            del self.parked[key]


class _Page:
    """One page of one follower on its way."""

    def __init__(self, tenant_id: str, follower: Follower, trouble: Trouble, attempts: int) -> None:
        self._tenant = tenant_id
        self._follower = follower
        self._attempts = attempts
        self.place = trouble.place
        self.limit, self.failures = trouble.limit, trouble.failures

    async def advance(self, connection: Connection, lease: Lease) -> bool:
        """Applies items, or parks the one that has failed too often. Whether it has moved."""
        tenant_id, follower = self._tenant, self._follower
        head = await connection.fetchrow(SQL["head"], tenant_id)
        if head is None:
            return False
        generation, until = head["generation"], head["position"]
        before = await position_of(connection, tenant_id, follower, generation)
        if before >= until or not await lease.take(connection):
            return False
        # the checkpoint first, then the rows: in the order in which a replay locks them
        checkpoint = checkpoint_of(follower, generation)
        await connection.execute(SQL["hold_checkpoint"], tenant_id, checkpoint)
        before = await connection.fetchval(SQL["lock_checkpoint"], tenant_id, checkpoint)
        if self.failures and self.place != (generation, before):
            self.failures = 0  # somebody else has come past what failed here
        self.place = (generation, before)
        items = await items_behind(connection, tenant_id, generation, before, until, self.limit)
        after = items[-1].position if len(items) == self.limit else until
        parked = await connection.fetch(SQL["parked_events"], tenant_id, follower.name)
        blocked = {row["stream"] for row in parked}
        for item in items:
            if item.stream in blocked:
                await _park(connection, tenant_id, follower, item, "behind a parked one")
        free = [item for item in items if item.stream not in blocked]
        if self.failures < self._attempts:
            await self._apply(connection, generation, free)
        else:
            for item in free:  # one at the most
                await self._apply_or_park(connection, generation, item)
        await move(connection, tenant_id, follower, generation, before, after)
        return True

    async def _apply(self, connection: Connection, generation: int, items: list[Item]) -> None:
        batch = self._follower.batch()
        async for item in in_turns(items):
            self._follower.apply(batch, item)
        await self._follower.write(connection, self._tenant, generation, batch)

    async def _apply_or_park(self, connection: Connection, generation: int, item: Item) -> None:
        await connection.execute("savepoint item")
        try:
            await self._apply(connection, generation, [item])
        except Exception as error:
            log.exception("a follower parks an event", tenant=self._tenant, position=item.position)
            await connection.execute("rollback to savepoint item")
            await _park(connection, self._tenant, self._follower, item, type(error).__name__)


_NO_TROUBLE = Trouble()


async def _park(connection: Connection, tenant_id: str, follower: Follower, item: Item, reason: str) -> None:
    await connection.execute(
        SQL["park"], tenant_id, follower.name, item.stream, item.position, reason, clock.now()
    )
