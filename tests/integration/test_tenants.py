"""Many tenants: what a process asks of all of them takes as many round trips as for one."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from api.service import Service
from ledger import clock
from ledger.database import Connection, Database
from ledger.errors import ConfigurationError
from ledger.installation import Installation, open_installation
from ledger.settings import Secret, Settings
from ledger.store import create_tenant
from ledger.vault import QUARANTINE_DAYS, MasterKey
from ledger.zoho.entities import ENTITIES
from projections import statuses as following
from projections.fold import CurrentState
from projections.followers import Followers
from projections.rebuild import outdated_tenants
from projections.statuses import UnknownStatuses
from projections.tenants import places, tenants
from tests.harness import Ledger
from tests.integration.test_followers import Own, Picky, until_parked

MANY = 30


class Counting(Database):
    """A pool that counts transactions."""

    count = 0

    @asynccontextmanager
    async def transaction(self, tenant_id: str, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        self.count += 1
        async with super().transaction(tenant_id, snapshot=snapshot) as connection:
            yield connection

    async def since(self) -> int:
        """Transactions since the last question."""
        count, self.count = self.count, 0
        return count


@pytest.fixture
async def counting(installation: Installation) -> AsyncIterator[Counting]:
    """Such a pool."""
    database = Counting(installation.application)
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def many(installation: Installation, database: Database, tenant: str) -> AsyncIterator[list[Ledger]]:
    """Some tenants with a few records each."""
    ledgers = [Ledger(installation, database, f"{tenant}-{number:02}") for number in range(MANY)]
    for ledger in ledgers:
        await ledger.post("students", {"id": "S", "Status": "Active"}, {"id": ""})
    yield ledgers
    for ledger in ledgers:
        await ledger.close()


async def test_places(many: list[Ledger], counting: Counting) -> None:
    """Every tenant's head in one transaction, which afterwards belongs to whom it belonged before."""
    found = await places(counting, many[3].tenant)
    assert await counting.since() == 1
    assert list(found) == await tenants(counting, "default")
    for ledger in many:
        place = found[ledger.tenant]
        assert (place.position, place.generation, place.version) == (2, 1, CurrentState.version)
    for call in (
        "ledger.heads_v1()",
        "ledger.behind_v1('own', 'own.v7.g')",
        f"ledger.statuses_v1('{{{many[5].tenant}}}', '{{student}}', '{{}}', 100)",
        "ledger.tidy_v1('', 5, '1970-01-01', '1970-01-01')",
    ):
        async with counting.transaction(many[3].tenant) as connection:
            await connection.fetch(f"select * from {call}")
            rows = await connection.fetch("select tenant_id from ledger.heads")
        assert [row["tenant_id"] for row in rows] == [many[3].tenant], call


async def test_functions_have_no_more_rights_than_their_callers(admin: asyncpg.Connection) -> None:
    """Row-level security binds whoever calls them."""
    rows = await admin.fetch(
        "select p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
        " where n.nspname in ('ledger', 'vault') and p.prosecdef"
    )
    assert rows == []


async def test_followers_ask_who_is_behind(many: list[Ledger], counting: Counting) -> None:
    """One transaction for all tenants, and some for each that has work left, whoever appended."""
    ours = {ledger.tenant for ledger in many}
    followers = Followers(counting, "default", [Own()])
    assert ours <= await followers.behind()
    for ledger in many:
        await followers.catch_up(ledger.tenant)
    await counting.since()
    assert not ours & await followers.behind()
    assert await counting.since() == 1
    await many[7].post("students", {"id": "S2"})
    assert ours & await followers.behind() == {many[7].tenant}


async def test_a_poll_costs_the_same_for_many_tenants(
    many: list[Ledger], counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has just started leaves the tenants alone that have nothing to do."""
    behind, rounds = {many[2].tenant, many[9].tenant}, asyncio.Event()
    first = Followers(counting, "default", [Own()])
    for tenant_id in await first.behind():
        await first.catch_up(tenant_id)
    for ledger in many:
        if ledger.tenant in behind:
            await ledger.post("students", {"id": "S2"})
    looked: list[str] = []

    class Watched(Followers):
        async def behind(self) -> set[str]:
            found = await super().behind()
            if not found:
                rounds.set()
            return found

        async def catch_up(self, tenant_id: str) -> None:
            looked.append(tenant_id)
            await super().catch_up(tenant_id)
            self._poll.due = 0.0

    running = asyncio.create_task(Watched(counting, "default", [Own()]).run())
    await asyncio.wait_for(rounds.wait(), 60)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert {name for name in looked if name.startswith(many[0].tenant[:-3])} == behind


async def test_parked_events_are_known_from_the_start(ledger: Ledger) -> None:
    """A new process counts what is parked in tenants that have nothing to do."""
    await ledger.post("students", {"id": "S3"})
    picky = Picky()
    await until_parked(Followers(ledger.database, "default", [picky], attempts=1), ledger)
    fresh = Followers(ledger.database, "default", [picky])
    assert ledger.tenant not in await fresh.behind()
    assert {key: n for key, n in fresh.parked.items() if key[0] == ledger.tenant} == {
        (ledger.tenant, "picky"): 1
    }
    picky.mended = True
    assert await fresh.retry_parked(ledger.tenant, picky) == (1, 0)
    await fresh.behind()
    assert all(tenant_id != ledger.tenant for tenant_id, _ in fresh.parked)


async def test_statuses_are_looked_at_together(
    many: list[Ledger], counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Young tenants at first sight, then those alone that have moved; what is found is the same as one
    by one.
    """
    for number in (4, 11):
        await many[number].post("students", {"id": "S", "Status": "On  leave"}, {"id": "T", "Status": "Gone"})
    monkeypatch.setattr(following, "_YOUNG", 3)
    await many[20].post("students", {"id": "S", "Status": "Away"})
    await many[20].post("students", {"id": "S2", "Status": "Away"})
    ours = {ledger.tenant for ledger in many}

    async def places_of_ours(database: Any, default_tenant: str) -> Any:
        """Other tests have left tenants with rows that cannot be read."""
        found = await places(database, default_tenant)
        return {name: place for name, place in found.items() if name in ours}

    monkeypatch.setattr(following, "places", places_of_ours)
    statuses = UnknownStatuses(counting, Settings(home=Path()))
    await statuses.look_at_all(60)
    first = await counting.since()
    old = [name for name, place in (await places_of_ours(counting, "default")).items() if place.position > 3]
    at_once = -(-len(ours) // following._AT_ONCE)
    await counting.since()
    assert first == 1 + at_once + 5 * len(old)
    found = {name: count for name, count in statuses.counts().items() if name in ours}
    assert found == {many[4].tenant: 2, many[11].tenant: 2, many[20].tenant: 1}
    for ledger in many:
        alone = UnknownStatuses(ledger.database, Settings(home=Path()))
        assert await alone.of(ledger.tenant) == statuses._seen[ledger.tenant].unknown()
    statuses._pace.due = 0.0
    await statuses.look_at_all(60)
    assert await counting.since() == 1
    await many[4].post("students", {"id": "T", "Status": "Active"})
    statuses._pace.due = 0.0
    await statuses.look_at_all(60)
    assert await counting.since() == 1 + 2
    assert statuses.counts()[many[4].tenant] == 1
    await statuses.look_at_all(60)
    assert await counting.since() == 0, "it was asked a moment ago"


async def test_the_start_asks_once(many: list[Ledger], counting: Counting) -> None:
    """Which read models are to be made anew: one transaction, however many tenants there are."""

    class Later(CurrentState):
        version = CurrentState.version + 1

    ours = {ledger.tenant for ledger in many}
    assert not ours & set(await outdated_tenants(counting, "default", CurrentState(ENTITIES)))
    assert await counting.since() == 1
    assert ours <= set(await outdated_tenants(counting, "default", Later(ENTITIES)))


async def test_tidying(
    many: list[Ledger], installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tenant's old answers and old keys of unreadable deliveries go, some tenants at a time."""
    monkeypatch.setattr("api.service._TIDY_AT_ONCE", 7)
    service = Service(installation, ENTITIES)
    service.database = database = Counting(installation.application)
    await database.open()

    async def left(ledger: Ledger) -> tuple[int, int]:
        async with database.transaction(ledger.tenant) as connection:
            answers = await connection.fetchval("select count(*) from ledger.idempotency")
            keys = await connection.fetchval(
                "select count(*) from vault.keys where subject like 'quarantine:%' and wrapped is not null"
            )
        return answers, keys

    assert {await left(ledger) for ledger in many} == {(1, 1)}
    count = len(await tenants(database, "default"))
    await database.since()
    await service.tidy(clock.now())
    assert await database.since() == -(-count // 7) + 1
    assert {await left(ledger) for ledger in many} == {(1, 1)}
    await service.tidy(clock.now() + clock.DAY)
    assert {await left(ledger) for ledger in many} == {(0, 1)}
    await service.tidy(clock.now() + (QUARANTINE_DAYS + 1) * clock.DAY)
    assert {await left(ledger) for ledger in many} == {(0, 0)}
    await database.close()


async def test_every_tenant_proves_the_master_key(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each; the one with another key is named."""
    settings = Settings(home=own_home)
    opened = await open_installation(settings)
    database = opened.database()
    await database.open()

    async def found(tenant_id: str, key: MasterKey) -> None:
        async with database.transaction(tenant_id) as connection:
            await create_tenant(connection, tenant_id, key)

    for number in range(5):
        await found(f"college-{number}", opened.master_key)
    checked: list[Any] = []
    require = MasterKey.require

    def counted(self: MasterKey, check: bytes) -> None:
        checked.append(check)
        require(self, check)

    monkeypatch.setattr(MasterKey, "require", counted)
    (await open_installation(settings)).close()
    assert len(checked) == len(set(checked)) == 6
    await found("college-9", MasterKey(bytes(32)))
    told: list[str] = []
    (await open_installation(settings, told.append)).close()
    assert ["college-9" in line for line in told] == [True]
    other = msgspec.structs.replace(settings, master_key=Secret(base64.b64encode(bytes(range(32))).decode()))
    with pytest.raises(ConfigurationError, match="LEDGER_MASTER_KEY"):
        await open_installation(other)
    await database.close()
    opened.close()
