"""The state at any position is what a replay up to that position gives."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.database import Database
from ledger.installation import Installation
from ledger.store import EventStore
from ledger.verify import verify
from ledger.zoho.entities import ENTITIES
from projections import history as history_module
from projections import past
from projections.history import Filter, History
from projections.moodle.report import Report, Reporter
from projections.past import Past
from projections.state import ACTIVE, DELETED, NONE, WAITING, Row, from_columns
from tests.harness import Ledger, rebuild
from tests.model.machine import PLURALS, deliveries

STATES = (ACTIVE, WAITING, DELETED)


@pytest.fixture(scope="module")
def loop_and_database(installation: Installation) -> Iterator[tuple[asyncio.AbstractEventLoop, Database]]:
    """A loop and a pool for all examples of a test."""
    loop = asyncio.new_event_loop()
    database = installation.database()
    loop.run_until_complete(database.open())
    yield loop, database
    loop.run_until_complete(database.close())
    loop.close()


async def lists(past_: Past, entity: str, states: tuple[str, ...], page: int) -> list[Row]:
    """All pages of a list."""
    found: list[Row] = []
    while rows := await past_.rows(entity, states, found[-1].zoho_id if found else "", page):
        found += rows
    return found


async def compare(ledger: Ledger, page: int) -> None:
    """Every position of a history, alone and in lists; and the instants of every event, one
    before, and one that no event has.
    """
    async with ledger.database.transaction(ledger.tenant) as connection:
        events = await connection.fetch(
            "select position, recorded_at from ledger.events where tenant_id = $1 order by position",
            ledger.tenant,
        )
    key = ledger.installation.master_key
    for number, event in enumerate(events):
        position, recorded_at = event
        then = await rebuild(ledger.database, ledger.tenant, key, ledger.projection, position)
        expected = {row.name: row for row in map(from_columns, then.records) if row.state != NONE}
        instant = recorded_at  # inclusive
        if number + 1 < len(events) and events[number + 1]["recorded_at"] > recorded_at + 1:
            instant = recorded_at + 1  # between two events
        async with ledger.database.transaction(ledger.tenant, snapshot=True) as connection:
            for when in ({"position": position}, {"instant": instant}):
                past_ = await Past.at(connection, ledger.tenant, key, ledger.projection, **when)
                for entity in ENTITIES:
                    names = sorted(n for n in expected if n[0] == entity.name)
                    found = await lists(past_, entity.name, STATES, page)
                    assert [row.name for row in found] == names, (position, when)
                    assert found == [expected[name] for name in names], (position, when)
                    for state in STATES:
                        some = await lists(past_, entity.name, (state,), page)
                        assert some == [expected[n] for n in names if expected[n].state == state]
                    for name in [*names[:2], (entity.name, "nobody")]:
                        assert await past_.row(name) == expected.get(name)


@pytest.mark.parametrize("young", [past.YOUNG, 0], ids=["ids from events", "ids from records"])
def test_every_moment(
    loop_and_database: Any, installation: Installation, monkeypatch: pytest.MonkeyPatch, young: int
) -> None:
    """Random histories, every moment of them, pages of one to three."""
    loop, database = loop_and_database
    monkeypatch.setattr(past, "YOUNG", young)

    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(deliveries(), min_size=1, max_size=6), st.integers(1, 3))
    def example(history: list[Any], page: int) -> None:
        async def play() -> None:
            ledger = Ledger(installation, database, f"past-{uuid.uuid4().hex[:12]}")
            for entity, records in history:
                await ledger.post(PLURALS[entity], *records)
            await compare(ledger, page)
            await ledger.close()

        loop.run_until_complete(play())

    example()


async def test_edges(ledger: Ledger) -> None:
    """Before the first event there is nothing, behind the last one it is the present."""
    await ledger.post("programs", {"id": "P", "Product_Name": "x"})
    key = ledger.installation.master_key
    async with ledger.database.transaction(ledger.tenant, snapshot=True) as connection:
        for when in ({"position": 0}, {"instant": 0}):
            past_ = await Past.at(connection, ledger.tenant, key, ledger.projection, **when)
            assert await past_.row(("program", "P")) is None
            assert await past_.rows("program", STATES, "", 10) == []
        for when in ({"position": 10**15}, {"instant": 2**51}):
            past_ = await Past.at(connection, ledger.tenant, key, ledger.projection, **when)
            [row] = await past_.rows("program", STATES, "", 10)
            assert row.fields["name"] == "x"


async def test_life_of_a_record(ledger: Ledger) -> None:
    """Its own events and what others did to it, in pages of any size."""
    await ledger.post("enrollments", {"id": "E", "Student": "S", "Class": "C"})
    await ledger.post("students", {"id": "S"})
    await ledger.post("classes", {"id": "C", "Class_Name": "x"})
    await ledger.post("enrollments", {"id": "E", "status": "Late"})
    await ledger.post("classes", {"id": "C", "operation": "delete"})
    history = History(ledger.database, ledger.tenant, ledger.installation.master_key, ENTITIES)
    items = (await history.life(("enrollment", "E"), 0, 100)).items
    assert [(i["position"], i["status"], i["reason"], i["version"]) for i in items] == [
        (1, "SKIPPED", "student_not_synced_yet", 1),
        (3, "NEW", "released", None),
        (4, "UPDATED", None, 2),
        (5, "SKIPPED", "class_not_synced_yet", None),
    ]
    assert items[1]["caused_by"] == {"entity": "class", "zoho_id": "C"}
    for size in (1, 2, 3):
        found: list[Any] = []
        while True:
            page = await history.life(("enrollment", "E"), found[-1]["position"] if found else 0, size)
            found += page.items
            if not page.more:
                break
        assert found == items


async def test_a_page_sees_one_moment(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is appended between two statements of a page is on the next one, not lost."""
    await ledger.post("students", {"id": "X"})
    select, appended = history_module._select, False

    async def and_append(*arguments: Any) -> list[Any]:
        nonlocal appended
        found = await select(*arguments)
        if not appended:  # behind the first stream's statement
            appended = True
            await ledger.post("students", {"id": "X", "Last_Name": "N"})
            await ledger.post("programs", {"id": "X", "Product_Name": "x"})
        return found

    monkeypatch.setattr(history_module, "_select", and_append)
    history = History(ledger.database, ledger.tenant, ledger.installation.master_key, ENTITIES)
    positions, page = list[int](), None
    while page is None or page.items:
        page = await history.events(Filter(zoho_id="X", after=positions[-1] if positions else 0), 10)
        positions += [item["position"] for item in page.items]
    assert positions == [1, 2, 3]


async def test_large_payloads_make_small_pages(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the records are, a page holds so many bytes, and at least one event."""
    monkeypatch.setattr(history_module, "PAGE_BYTES", 5_000)
    monkeypatch.setattr("ledger.store.PAGE_BYTES", 5_000)
    for number in range(6):
        await ledger.post(
            "programs", {"id": f"P{number}", "Product_Name": "x", "Notes": "n" * 2_000 * number}
        )
    history = History(ledger.database, ledger.tenant, ledger.installation.master_key, ENTITIES)
    pages = [page async for page in history.export(Filter(), payload=True)]
    assert [[item["position"] for item in page] for page in pages] == [[1, 2], [3], [4], [5], [6]]
    assert (await history.events(Filter(), 10)).more is False
    page = await history.events(Filter(), 10, payload=True)
    assert (len(page.items), page.more) == (2, True)
    events = EventStore(ledger.database, ledger.tenant, ledger.installation.master_key)
    assert [event.position for event in await events.events()] == [1, 2, 3]
    assert (await verify(ledger.database, ledger.tenant, ledger.installation.master_key)).events == 6


async def test_filters_by_outcome_within_a_stream(ledger: Ledger) -> None:
    """An id or a delivery together with a status, a reason, a source."""
    stated = {"id": "X", "Modified_Time": "2002-01-01T00:00:00Z"}
    await ledger.post("students", stated, {"id": "X"}, {"id": "X", "Modified_Time": "2001-01-01T00:00:00Z"})
    await ledger.post("programs", {"id": "X"}, {"id": "X", "Product_Name": "x"})
    history = History(ledger.database, ledger.tenant, ledger.installation.master_key, ENTITIES)
    delivery = (await history.events(Filter(), 1)).items[0]["delivery_id"]

    async def found(**wanted: Any) -> list[int]:
        return [item["position"] for item in (await history.events(Filter(**wanted), 10)).items]

    assert await found(zoho_id="X", status="UNCHANGED") == [2]
    assert await found(zoho_id="X", status="NEW") == [1, 5]
    assert await found(zoho_id="X", entity="student", status="NEW") == [1]
    assert await found(zoho_id="X", reason="stale") == [3]
    assert await found(reason="stale") == [3]
    assert await found(reason="stale", status="NEW") == []
    assert await found(delivery_id=delivery) == [1, 2, 3]
    assert await found(delivery_id=delivery, status="NEW") == [1]
    assert await found(delivery_id=delivery, zoho_id="X", status="NEW") == [1]
    assert await found(delivery_id=delivery, zoho_id="X") == [1, 2, 3]
    assert await found(source="pull") == []
    assert await found(source="sync", zoho_id="X", status="INVALID") == [4]


def selections(items: list[Any]) -> list[dict[str, Any]]:
    """Every filter that some items have, alone and two and two."""
    keys = ("entity", "zoho_id", "status", "reason", "source", "delivery_id")
    single = {(key, item[key]) for item in items for key in keys if item[key] is not None}
    pairs = {(one, other) for one in single for other in single if one[0] < other[0]}
    chosen = [{}, *({k: v} for k, v in sorted(single)), *(dict(pair) for pair in sorted(pairs))]
    return [*chosen, *({**selection, "after": items[len(items) // 2]["position"]} for selection in chosen)]


async def warned(ledger: Ledger) -> list[dict[str, Any]]:
    """Every event of a ledger; a filter by warnings finds those that have some, with every other
    filter, in pages of any size, and in the export.
    """
    history = History(ledger.database, ledger.tenant, ledger.installation.master_key, ENTITIES)
    items = (await history.events(Filter(), 1000)).items
    for chosen in selections(items):
        wanted = Filter(warnings=True, **chosen)
        expected = [i for i in (await history.events(Filter(**chosen), 1000)).items if i["warnings"]]
        assert [item async for page in history.export(wanted) for item in page] == expected, chosen
        found: list[Any] = []
        while True:
            after = found[-1]["position"] if found else wanted.after
            page = await history.events(msgspec.structs.replace(wanted, after=after), 2)
            found += page.items
            if not page.more:
                break
        assert found == expected, chosen
    return items


async def test_warnings(ledger: Ledger) -> None:
    """What could not be read of an event stands in it, but not what are its errors, and not what
    Moodle reported.
    """
    await ledger.post(
        "programs",
        {"id": "P", "Product_Name": "x", "Price": "free"},
        {"id": "P", "Product_Name": "x", "Price": "1.00"},
        {"id": "Q", "Price": "free"},
        {"id": "Q"},
        5,
        {"id": "P", "Price": 'a "quoted" word', "Modified_Time": "soon"},
        {"id": "P", "Product_Name": "\x00", "Modified_Time": "2001-01-01T00:00:00Z"},
    )
    await ledger.post("enrollments", {"id": "E", "Student": "Layla N", "Class": "C", "Start_Date": "soon"})
    report = Reporter(ledger.lane, ledger.tenant, "https://moodle.college.example")
    await report([Report(("program", "P"), "{}", {"call": None}, None, ("no_course", "not there"))])
    items = await warned(ledger)
    fields = [[w["field"] for w in item["warnings"] or []] for item in items]
    assert fields == [
        ["price"],
        [],
        ["price"],
        [],
        [],
        ["price", "modified_time"],
        ["name"],
        ["start_date"],
        [],
    ]
    errors = [[e["field"] for e in item["errors"] or []] for item in items]
    assert errors == [[], [], ["name"], ["name"], ["id"], [], [], ["student_zoho_id"], ["moodle"]]
    assert all(item["warnings"] is None for item, names in zip(items, fields, strict=True) if not names)
    history = History(ledger.database, ledger.tenant, ledger.installation.master_key, ENTITIES)
    life = (await history.life(("program", "P"), 0, 10)).items
    assert [item["warnings"] for item in life] == [items[n]["warnings"] for n in (0, 1, 5, 6, 8)]


def test_warnings_of_any_history(loop_and_database: Any, installation: Installation) -> None:
    """The filter finds exactly the events that have warnings."""
    loop, database = loop_and_database

    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(deliveries(), min_size=1, max_size=4))
    def example(delivered: list[Any]) -> None:
        async def play() -> None:
            ledger = Ledger(installation, database, f"warned-{uuid.uuid4().hex[:12]}")
            for entity, records in delivered:
                await ledger.post(PLURALS[entity], *records[:8])
            await warned(ledger)
            await ledger.close()

        loop.run_until_complete(play())

    example()
