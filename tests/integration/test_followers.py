"""Followers: each event once, in order within its stream, whoever dies or fails."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

from ledger import clock
from ledger.database import Connection
from projections import followers as following
from projections.followers import Followers, Item, Lease, LeaseLostError
from projections.queries import SQL
from projections.summary import HOUR, SPANS, Summary
from tests.harness import Ledger


class Own(Summary):
    """A summary that no server of this run keeps."""

    name = "own"
    version = 7


async def counts(ledger: Ledger, **bounds: Any) -> Counter[tuple[str, str]]:
    """What the summary answers, without the days."""
    async with ledger.database.transaction(ledger.tenant, snapshot=True) as connection:
        items = await Own().counts(
            connection, ledger.tenant, bounds.get("since"), bounds.get("until"), SPANS["day"]
        )
    total: Counter[tuple[str, str]] = Counter()
    for item in items:
        total[item["entity"], item["status"]] += item["count"]
    return total


async def stored(ledger: Ledger) -> Counter[tuple[str, str]]:
    """What the follower has written."""
    total: Counter[tuple[str, str]] = Counter()
    for version, _, entity, status, count in await ledger.rows("summary"):
        if version == Own.version:
            total[entity, status] += count
    return total


async def events(ledger: Ledger, count: int) -> Counter[tuple[str, str]]:
    """Some events, and what is to be counted."""
    for number in range(count):
        await ledger.post("students", {"id": f"S{number % 7}", "Last_Name": str(number)}, {"id": ""})
        await ledger.post("enrollments", {"id": f"E{number}", "Student": "nobody", "Class": "none"})
    return Counter((row[1], row[4]) for row in await ledger.rows("outcomes") if row[3])


async def test_the_summary_is_complete_at_every_moment(ledger: Ledger) -> None:
    """Before the follower has run, half way, and behind it."""
    expected = await events(ledger, 10)
    assert await counts(ledger) == expected
    runner = Followers(ledger.database, "default", [Own()])
    await runner.catch_up(ledger.tenant)
    assert await counts(ledger) == await stored(ledger) == expected
    expected = await events(ledger, 12)
    assert await counts(ledger) == expected != await stored(ledger)


async def test_bounds(ledger: Ledger) -> None:
    """`since` is inclusive, `until` exclusive, to the microsecond, in hours that are stored and
    in parts of hours alike.
    """
    await events(ledger, 5)
    runner = Followers(ledger.database, "default", [Own()])
    await runner.catch_up(ledger.tenant)
    async with ledger.database.transaction(ledger.tenant) as connection:
        rows = await connection.fetch(
            "select recorded_at from ledger.events where tenant_id = $1 order by position", ledger.tenant
        )
    instants = [row["recorded_at"] for row in rows]
    for first in (0, 3, 7, len(instants) - 1):
        for last in (first, 8, len(instants) - 1):
            found = await counts(ledger, since=instants[first], until=instants[last])
            assert sum(found.values()) == max(0, last - first)
    hour = instants[0] - instants[0] % HOUR
    assert sum((await counts(ledger, since=hour, until=instants[-1] + 1)).values()) == len(instants)
    assert sum((await counts(ledger, since=hour - HOUR, until=hour)).values()) == 0
    assert sum((await counts(ledger, since=instants[4])).values()) == len(instants) - 4
    assert sum((await counts(ledger, until=instants[4])).values()) == 4


async def test_many_processes_count_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several runners at once, pages of three, while more is appended."""
    monkeypatch.setattr(following, "PAGE", 3)
    runners = [Followers(ledger.database, "default", [Own()]) for _ in range(4)]

    async def follow(runner: Followers) -> None:
        for _ in range(30):
            await runner.catch_up(ledger.tenant)
            await asyncio.sleep(0)

    await asyncio.gather(events(ledger, 20), *(follow(runner) for runner in runners))
    expected = await events(ledger, 1)
    async with ledger.database.transaction(ledger.tenant) as connection:
        await connection.execute("delete from ledger.leases where tenant_id = $1", ledger.tenant)
    await runners[0].catch_up(ledger.tenant)
    assert await stored(ledger) == expected


async def test_the_work_passes_on(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that died holds its lease for a while, then another one does its work."""
    monkeypatch.setattr(following, "LEASE_SECONDS", 0.5)
    expected = await events(ledger, 3)
    async with ledger.database.transaction(ledger.tenant) as connection:
        assert await Lease(ledger.tenant, "own", "dead", seconds=0.5).take(connection)
    runner = Followers(ledger.database, "default", [Own()])
    await runner.catch_up(ledger.tenant)
    assert await stored(ledger) == Counter()
    while not await stored(ledger):
        await runner.catch_up(ledger.tenant)
    assert await stored(ledger) == expected


async def test_leases(ledger: Ledger) -> None:
    """One owner at a time; one who lost it is told in the transaction that does the work."""
    await ledger.post("students", {"id": "S"})
    first, second = Lease(ledger.tenant, "x", seconds=0.01), Lease(ledger.tenant, "x", seconds=60)
    async with ledger.database.transaction(ledger.tenant) as connection:
        assert await first.take(connection)
        await first.renew(connection)
    taken = False
    while not taken:
        async with ledger.database.transaction(ledger.tenant) as connection:
            taken = await second.take(connection)
    async with ledger.database.transaction(ledger.tenant) as connection:
        assert not await first.take(connection)
        with pytest.raises(LeaseLostError):
            await first.renew(connection)
        await second.give_back(connection)
        assert await first.take(connection)


class Picky(Own):
    """Fails on what one student brings, until it is mended."""

    name = "picky"
    mended = False

    def apply(self, batch: Any, item: Item) -> None:
        """Fails on the stream student-S3."""
        if item.stream == "student-S3" and not self.mended:
            raise RuntimeError(item.stream)
        super().apply(batch, item)


async def until_parked(runner: Followers, ledger: Ledger) -> None:
    """Runs without the pauses until the follower has come to the head."""
    done = time.monotonic() + 60
    while time.monotonic() < done:
        for key, trouble in runner._trouble.items():
            runner._trouble[key] = msgspec.structs.replace(trouble, not_before=0.0)
        await runner.catch_up(ledger.tenant)
        async with ledger.database.transaction(ledger.tenant) as connection:
            head = await connection.fetchrow(SQL["head"], ledger.tenant)
            reached = await following.position_of(connection, ledger.tenant, Picky(), 1)
        if head is not None and reached == head["position"]:
            return
    raise AssertionError("it never came to the head")


async def test_a_poisoned_event_is_parked(ledger: Ledger) -> None:
    """It and what its stream brings later; all else goes on; retried, it counts."""
    expected = await events(ledger, 15)
    picky = Picky()
    runner = Followers(ledger.database, "default", [picky], attempts=2)
    await until_parked(runner, ledger)
    async with ledger.database.transaction(ledger.tenant) as connection:
        parked = await connection.fetch(SQL["parked_events"], ledger.tenant, "picky")
    assert {row["stream"] for row in parked} == {"student-S3"}
    assert [row["reason"] for row in parked] == ["RuntimeError", "behind a parked one"]
    assert runner.parked[ledger.tenant, "picky"] == 2
    assert await stored(ledger) == expected - Counter({("student", "NEW"): 1, ("student", "UPDATED"): 1})
    assert await runner.retry_parked(ledger.tenant, picky) == (0, 2)
    picky.mended = True
    assert await runner.retry_parked(ledger.tenant, picky) == (2, 0)
    assert await stored(ledger) == expected
    assert runner.parked[ledger.tenant, "picky"] == 0


async def test_a_write_that_fails_changes_nothing(ledger: Ledger) -> None:
    """Rows and checkpoint are one transaction."""
    expected = await events(ledger, 3)

    class Broken(Own):
        times = 0

        async def write(self, connection: Connection, tenant_id: str, generation: int, batch: Any) -> None:
            await super().write(connection, tenant_id, generation, batch)
            self.times += 1
            if self.times < 3:
                raise RuntimeError("after the rows")

    runner = Followers(ledger.database, "default", [Broken()])
    await runner.catch_up(ledger.tenant)
    assert await stored(ledger) == expected


async def test_it_runs_by_itself(ledger: Ledger) -> None:
    """Woken by an append, or by its own poll."""
    runner = Followers(ledger.database, "default", [Own()])
    task = asyncio.create_task(runner.run())
    expected = await events(ledger, 3)
    runner.wake(ledger.tenant)
    while await stored(ledger) != expected:
        await asyncio.sleep(0.01)
    task.cancel()
    assert clock.now()


async def test_another_process_parks_nothing_innocent(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runners fail on one event; one parks it. The other one then tries what comes next."""
    monkeypatch.setattr(following, "LEASE_SECONDS", 0.01)
    picky = Picky()
    first, second = (Followers(ledger.database, "default", [picky], attempts=1) for _ in range(2))
    await ledger.post("students", {"id": "S3"})
    for runner in (second, first):
        while not (runner._trouble.get((ledger.tenant, "picky")) or following.Trouble()).failures:
            await runner.catch_up(ledger.tenant)
    await until_parked(first, ledger)
    expected = await events(ledger, 2)
    await until_parked(second, ledger)
    async with ledger.database.transaction(ledger.tenant) as connection:
        parked = await connection.fetch(SQL["parked_events"], ledger.tenant, "picky")
    assert [row["position"] for row in parked] == [1]
    assert await stored(ledger) == expected - Counter({("student", "NEW"): 1})
