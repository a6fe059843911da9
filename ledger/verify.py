"""Proof that no event was altered, removed, inserted or moved: the chain, computed anew; and that
the keys which open the events are whole (`ledger.keyring`).

The chain in the events proves that they follow from each other, the head row where
they end, and an anchor (`ledger.anchor`), kept elsewhere, that nobody with power over
the whole database has rewritten all three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import asyncpg
import msgspec

from ledger import chain, clock
from ledger.database import Database
from ledger.events import Event
from ledger.keyring import BadKey, Keyring
from ledger.store import page_of_events
from ledger.vault import MasterKey

PAGE = 5_000
_BREATH = 500  # events followed before the database gets a turn

_HEAD = (
    "select coalesce(h.position, 0), h.recorded_at, h.chain, coalesce(e.newest, 0)"
    " from (select max(position) as newest from ledger.events where tenant_id = $1) e"
    " left join ledger.heads h on h.tenant_id = $1"
)


class BrokenChainError(Exception):
    """An event was altered, removed, inserted or moved. Names the first bad position."""

    def __init__(self, position: int, reason: str = "does not follow from what is before it") -> None:
        super().__init__(f"position {position} {reason}")
        self.position = position
        self.reason = reason


class Anchored(msgspec.Struct, frozen=True):
    """A head as an anchor has it. `chain` is hexadecimal."""

    tenant: str
    position: int
    recorded_at: str
    chain: str


class Verdict(msgspec.Struct):
    """What a verification found: how many events hold, and the first position that does not (None:
    all do); the keys that are not as they should be, or some of them where there are `more_keys`.
    `ok`: both are well; `reason`: what is not.
    """

    tenant: str
    ok: bool
    events: int
    first_bad_position: int | None = None
    reason: str | None = None
    keys: list[BadKey] = []
    more_keys: bool = False


def follow(previous: bytes, events: Iterable[Event]) -> bytes:
    """The chain value behind these events. Raises `BrokenChainError`."""
    for event in events:
        previous = chain.link(previous, msgspec.structs.astuple(event)[:-1])
        if previous != event.chain:
            raise BrokenChainError(event.position)
    return previous


async def verify(
    database: Database,
    tenant_id: str,
    master_key: MasterKey,
    anchored: Anchored | None = None,
    tell: Callable[[int, int], None] = lambda _position, _head: None,
) -> Verdict:
    """Follows a tenant's chain from the first event to the head of now, and opens its keys, page by
    page, so that memory stays flat. A chain that is broken hides no key. `tell` hears (position,
    head). Raises `DatabaseAwayError`.
    """
    async with database.transaction(tenant_id) as connection:
        head = await connection.fetchrow(_HEAD, tenant_id)
    assert head is not None
    position = head[0]
    checked, keyring = _Follower(anchored), Keyring(tenant_id, master_key)
    broken: BrokenChainError | None = None
    coming = asyncio.create_task(_page(database, tenant_id, keyring, 0, position))
    while rows := await coming:
        # the next page is on its way while this one is followed
        coming = asyncio.create_task(_page(database, tenant_id, keyring, rows[-1][1], position))
        try:
            for at in range(0, len(rows) if broken is None else 0, _BREATH):
                checked.follow(rows[at : at + _BREATH])
                await asyncio.sleep(0)
        except BrokenChainError as error:
            broken = error
        except BaseException:
            coming.cancel()
            raise
        tell(rows[-1][1], position)
    try:
        if broken is None:
            checked.require_end(*head)
    except BrokenChainError as error:
        broken = error
    await keyring.open_all(database)
    return _verdict(tenant_id, checked.position, broken, keyring)


def _verdict(tenant_id: str, events: int, broken: BrokenChainError | None, keyring: Keyring) -> Verdict:
    verdict = Verdict(tenant_id, broken is None and not keyring.bad, events)
    verdict.keys, verdict.more_keys = keyring.bad, keyring.more
    if broken is not None:
        verdict.first_bad_position, verdict.reason = broken.position, broken.reason
    elif keyring.bad:
        verdict.reason = keyring.bad[0].problem
    return verdict


class _Follower:
    """Where a verification has come to."""

    def __init__(self, anchored: Anchored | None) -> None:
        self.position = 0
        self.value = chain.GENESIS
        self.recorded_at = 0
        self._anchored = anchored

    def follow(self, rows: list[asyncpg.Record]) -> None:
        """Raises `BrokenChainError`."""
        value, expected, link = self.value, self.position, chain.link
        for row in rows:
            expected += 1
            if row[1] != expected:
                self.position, self.value = expected - 1, value
                raise BrokenChainError(expected, "is missing")
            value = link(value, row[:-1])
            if value != row[-1]:
                self.position = expected - 1
                raise BrokenChainError(expected)
            if self._anchored is not None and expected == self._anchored.position:
                self._require_anchor(value, row["recorded_at"])
        self.position, self.value, self.recorded_at = expected, value, rows[-1]["recorded_at"]

    def require_end(self, position: int, recorded_at: int | None, value: bytes | None, newest: int) -> None:
        """The events end where the head says. Raises `BrokenChainError`."""
        if self.position < position:
            raise BrokenChainError(self.position + 1, "is missing")
        if newest > position:
            raise BrokenChainError(position + 1, "stands behind the head of the ledger")
        if self._anchored is not None and self._anchored.position > position:
            raise BrokenChainError(
                position + 1, f"is missing: the anchor saw {self._anchored.position} events"
            )
        if position and (self.value, self.recorded_at) != (value, recorded_at):
            raise BrokenChainError(position, "is not what the head of the ledger says")

    def _require_anchor(self, value: bytes, recorded_at: int) -> None:
        assert self._anchored is not None
        if value.hex() != self._anchored.chain or clock.to_text(recorded_at) != self._anchored.recorded_at:
            raise BrokenChainError(
                self._anchored.position, "or one before it is not what the anchor saw: history was rewritten"
            )


async def _page(
    database: Database, tenant_id: str, keyring: Keyring, after: int, until: int
) -> list[asyncpg.Record]:
    async with database.transaction(tenant_id) as connection:
        rows = await page_of_events(connection, tenant_id, after, until, PAGE)
        await keyring.find(connection, rows)
        return rows
