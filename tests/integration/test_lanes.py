"""The lanes of one process together: one bound for what they keep, and an end for those that are idle."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest

from ledger import lane as lane_module
from ledger.cache import KEY_BYTES, Budget
from ledger.database import Database
from ledger.errors import KeyInFlightError, QueueFullError
from ledger.installation import Installation
from ledger.lane import Lane, Lanes
from projections.inline import InlineState
from projections.moodle.report import Report, Reporter
from projections.state import weight_of
from tests.harness import Ledger
from tests.integration.test_lane import consistent


class College(Ledger):
    """A tenant whose deliveries go through the lanes of a process, as in the server."""

    def __init__(self, lanes: Lanes, installation: Installation, database: Database) -> None:
        super().__init__(installation, database, f"t-{uuid.uuid4().hex[:12]}")
        self.lanes = lanes

    async def submit(self, plural: str, records: Any, key: str | None = None) -> Any:
        return await self.lanes.submit(self.delivery(plural, records, key))


class Process:
    """Lanes with one budget, and all that were ever made."""

    def __init__(self, installation: Installation, database: Database, *, budget: int, idle: float) -> None:
        self._installation, self._database = installation, database
        self.budget = Budget(budget)
        self.made: list[Lane] = []
        self.lanes = Lanes(self._make, idle_seconds=idle)
        self.at_work: list[int] = []
        """At each append, how many lanes had work."""

    def _make(self, tenant_id: str) -> Lane:
        ledger = Ledger(self._installation, self._database, tenant_id)
        lane = Lane(
            tenant_id,
            self._database,
            self._installation.master_key,
            ledger.entities,
            InlineState(ledger.entities, ledger.projection),
            ledger.lane._render,
            appended=self._note,
            budget=self.budget,
        )
        self.made.append(lane)
        return lane

    def _note(self, _: str) -> None:
        self.at_work.append(sum(not lane.is_idle for lane in self.made))

    def college(self) -> College:
        """A new tenant of this process."""
        return College(self.lanes, self._installation, self._database)

    @property
    def open(self) -> list[Lane]:
        """Lanes that take deliveries."""
        return list(self.lanes._lanes.values())

    def weigh(self) -> int:
        """What all lanes keep, counted anew."""
        rows = sum(weight_of(row) for lane in self.made for row in lane._rows.values())
        return rows + sum(len(lane._keys) for lane in self.made) * KEY_BYTES


def students(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"S{number}", "Last_Name": "Nasser"} for number in range(start, start + count)]


async def test_one_bound_over_all_lanes(installation: Installation, database: Database) -> None:
    """However many colleges send, no more is kept than fits; what was given up is read again, with the
    keys that persons have.
    """
    room = 25 * (weight_of(None) + KEY_BYTES + 1_500)
    process = Process(installation, database, budget=room, idle=3600)
    colleges = [process.college() for _ in range(4)]
    for start in (0, 5, 0, 10):
        for college in colleges:
            await college.post("students", *students(10, start))
            assert process.budget.total == process.weigh() <= room
    kept = [bool(lane._rows) for lane in process.made]
    assert kept[-1]
    assert not all(kept)
    assert all((lane._head is None) == (not lane._rows and not lane._keys) for lane in process.made)
    for college in colleges:
        assert await college.statuses("students", *students(20)) == ["UNCHANGED"] * 20
        found = await consistent(college)
        keys = {(event.zoho_id, event.key_id) for event in found}
        assert len(keys) == 20
    await process.lanes.close()
    assert process.budget.total == process.weigh() == 0


async def test_a_college_larger_than_the_bound(installation: Installation, database: Database) -> None:
    """It works without a cache of its own, and leaves the bound alone."""
    process = Process(installation, database, budget=20_000, idle=3600)
    college = process.college()
    for _ in range(3):
        await college.post("students", *students(30))
        assert process.budget.total == process.weigh() <= 20_000
    await consistent(college)
    await process.lanes.close()


async def test_long_texts_count(installation: Installation, database: Database) -> None:
    """A few records can weigh as much as very many, from the beginning or since their last change."""
    process = Process(installation, database, budget=300_000, idle=3600)
    college = process.college()
    for length, all_fit in ((10, True), (9_000, False)):
        for start in range(0, 30, 3):
            names = [{"id": f"C{n}", "Class_Name": f"{n} " * (length // 2)} for n in range(start, start + 3)]
            await college.post("classes", *names)
            kept = [row for row in process.made[0]._rows.values() if row is not None]
            assert sum(len(row.fields["name"]) for row in kept) <= 300_000
            assert process.budget.total == process.weigh() <= 300_000
        assert (len(kept) == 30) == all_fit
    await consistent(college)
    await process.lanes.close()


async def test_a_lane_at_work_keeps_its_cache(installation: Installation, database: Database) -> None:
    """Another college needs the room while a flush waits for the database: the keys with which that
    flush was begun stay, so that nobody gets a second key.
    """
    process = Process(installation, database, budget=50_000, idle=3600)
    busy, other = process.college(), process.college()
    await busy.post("students", *students(20))
    async with database.transaction(busy.tenant) as connection:
        await connection.execute("select from ledger.heads where tenant_id = $1 for update", busy.tenant)
        waiting = asyncio.create_task(busy.post("students", *students(20)))
        while not process.made[0]._in_flight:
            await asyncio.sleep(0)
        await other.post("students", *students(20))
        assert process.made[0]._keys
        assert not process.made[1]._rows
        assert process.budget.total == process.weigh() <= 50_000
    assert {r["status"] for r in (await waiting)["results"]} == {"UNCHANGED"}
    await consistent(busy)
    await process.lanes.close()


async def test_idle_lanes_end(installation: Installation) -> None:
    """They give back what they kept, their task and their connection; the next delivery gets a new one."""
    database = Database(installation.application, size=2)
    await database.open()
    process = Process(installation, database, budget=1_000_000, idle=0)
    college = process.college()
    await college.post("students", *students(3))
    [lane] = process.open
    assert await process.lanes.end_idle() == 1
    assert process.open == []
    assert (lane._rows, lane._keys, lane._head, process.budget.total) == ({}, {}, None, 0)
    assert lane._task is not None
    assert lane._task.done()
    assert database._pool is not None
    assert database._pool.get_idle_size() == database._pool.get_size()
    with pytest.raises(QueueFullError):  # nobody gets here any more: this would be a second lane
        await lane.submit(college.delivery("students", students(1)))
    assert await college.statuses("students", *students(4)) == ["UNCHANGED"] * 3 + ["NEW"]
    assert len({event.key_id for event in await consistent(college)}) == 4
    await process.lanes.close()
    await database.close()


async def test_a_lane_that_was_used_lately_stays(installation: Installation, database: Database) -> None:
    """Only one that had no work for so long ends."""
    process = Process(installation, database, budget=1_000_000, idle=3600)
    old, new = process.college(), process.college()
    await old.post("students", *students(1))
    await new.post("students", *students(1))
    process.made[0].used_at -= 3601
    assert await process.lanes.end_idle() == 1
    assert process.open == [process.made[1]]
    await process.lanes.close()


async def test_a_lane_with_work_does_not_end(
    installation: Installation, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second request under a key is told of the first one, however long that one waits."""
    process = Process(installation, database, budget=1_000_000, idle=0)
    college = process.college()
    await college.post("students", *students(1))
    monkeypatch.setattr(lane_module, "WAIT_SECONDS", 0.3)
    async with database.transaction(college.tenant) as connection:
        await connection.execute("select from ledger.heads where tenant_id = $1 for update", college.tenant)
        first = asyncio.create_task(college.submit("students", students(2), "k"))
        await asyncio.sleep(0)
        await process.lanes.end_idle()
        second = asyncio.create_task(college.submit("students", students(2), "k"))
        _, answer = await asyncio.gather(first, second, return_exceptions=True)
        await process.lanes.end_idle()
        assert len(process.made) == 1
    assert isinstance(answer, KeyInFlightError)
    monkeypatch.setattr(lane_module, "WAIT_SECONDS", 30)
    await college.submit("students", students(2), "k")
    await consistent(college)
    await process.lanes.close()


@pytest.mark.parametrize("pauses", range(12))
async def test_a_delivery_at_the_very_moment_of_the_end(
    installation: Installation, database: Database, pauses: int
) -> None:
    """Lanes end whenever they can, while deliveries come at each possible moment: all are answered,
    none is refused, and no two lanes of a tenant have work at a time.
    """
    process = Process(installation, database, budget=1_000_000, idle=0)
    college = process.college()

    async def end() -> None:
        while True:
            await process.lanes.end_idle()
            await asyncio.sleep(0)

    async def send(sender: int) -> None:
        for number in range(5):
            await college.post("students", {"id": f"S{sender}-{number}", "Last_Name": "Nasser"})
            for _ in range(pauses + sender):
                await asyncio.sleep(0)

    ending = asyncio.create_task(end())
    await asyncio.gather(*(send(sender) for sender in range(3)))
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    assert len(await consistent(college)) == 15
    assert len(process.made) > 1, "no lane has ended on the way"
    assert set(process.at_work) == {1}
    await process.lanes.close()


async def test_reports_find_the_lane_of_the_moment(installation: Installation, database: Database) -> None:
    """What reports on Moodle outlives every lane of its college."""
    process = Process(installation, database, budget=1_000_000, idle=0)
    college = process.college()
    await college.post("students", *students(1))
    report = Reporter(process.lanes, college.tenant, "https://moodle.college.example")
    for number in range(2):
        await process.lanes.end_idle()
        await report([Report(("student", "S0"), "{}", {"call": None}, str(number))])
    assert len(process.made) == 3
    assert [event.topic for event in await consistent(college)][1:] == ["MoodleReported.v1"] * 2
    await process.lanes.close()


async def test_lanes_that_are_closed_take_nothing(installation: Installation, database: Database) -> None:
    """What was accepted is finished; a tenant without a lane does not get one."""
    process = Process(installation, database, budget=1_000_000, idle=3600)
    college, late = process.college(), process.college()
    accepted = asyncio.create_task(college.submit("students", students(1)))
    await asyncio.sleep(0)
    await process.lanes.close()
    assert json.loads((await accepted).body)["status"] == "success"
    for each in (college, late):
        with pytest.raises(QueueFullError):
            await each.submit("students", students(2))
    assert len(process.made) == 1
