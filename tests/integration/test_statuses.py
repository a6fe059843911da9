"""Which statuses a tenant has by default, and what becomes of a word that no list has."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from api.app import create_app
from ledger import statuses
from ledger.database import ConnectionSettings, Database, connect
from ledger.embedded import DATABASE, Embedded
from ledger.errors import DatabaseAwayError
from ledger.installation import Installation, open_installation
from ledger.settings import MoodleSettings, Secret, Settings, TenantSettings
from ledger.store import create_tenant
from projections import statuses as following
from projections.rebuild import Rebuild, Replay
from projections.statuses import Unknown, UnknownStatuses
from projections.summary import Summary
from tests.golden import FOLDER, lay_out, restore
from tests.harness import Ledger
from tests.moodle.college import College, class_, deleted, enrollment, student
from tests.moodle.double import MoodleDouble
from tests.moodle.persistent import until

FIRST_DUMPS = [FOLDER / "ledger_v1.json", FOLDER / "ledger_v2.json"]
"""Of releases that knew one list only."""
SETTINGS = Settings(home=Path())
ONLY_LATER = ("Withdraw", "Canceled", "Blocked", "Expelled", "Terminated")


# -- the list of a tenant


@pytest.fixture
async def empty_database(own_home: Path) -> AsyncIterator[asyncpg.Connection]:
    """The superuser of a cluster in which nobody has opened a ledger yet."""
    embedded = Embedded(own_home)
    embedded.start()
    server = ConnectionSettings(embedded.dsn("postgres"), password=embedded.password())
    admin = await connect(server)
    await admin.execute(f"create database {DATABASE}")
    await admin.close()
    admin = await connect(ConnectionSettings(embedded.dsn(), password=embedded.password()))
    yield admin
    await admin.close()
    embedded.stop_using()


def inactive(settings: Settings, tenant: str) -> set[str]:
    """Which of the words that came later, and of those of the beginning, take no seat."""
    moodle = settings.tenant(tenant).moodle
    return {word for word in (*ONLY_LATER, "Withdrawn", "Freeze", "Gone") if moodle.takes_no_seat(word)}


FIRST, WIDER = {"Withdrawn", "Freeze"}, {"Withdrawn", "Freeze", *ONLY_LATER}


@pytest.mark.parametrize("path", FIRST_DUMPS, ids=lambda path: path.stem)
async def test_a_ledger_of_an_earlier_release(
    path: Path, own_home: Path, empty_database: asyncpg.Connection
) -> None:
    """It keeps its list through the upgrade and every later start; a tenant that comes afterwards has
    the wider one; a list that is set wins.
    """
    document = json.loads(path.read_text())
    tenant, key = document["tenant"], document["master_key"]
    await lay_out(empty_database, before="0006")
    await restore(empty_database, document)
    settings = Settings(home=own_home, master_key=Secret(key))
    for _ in range(2):
        opened = await open_installation(settings)
        assert inactive(opened.settings, tenant) == FIRST
        for word in ("Free ze", "Freeze\u200f"):  # compared as it was, so that no seat is taken away
            assert not opened.settings.tenant(tenant).moodle.takes_no_seat(word)
            assert opened.settings.tenant("later").moodle.takes_no_seat(word)
        assert inactive(opened.settings, settings.default_tenant) == WIDER
        assert inactive(opened.settings, "later") == WIDER
        database = opened.database(size=1)
        await database.open()
        async with database.transaction("later") as connection:
            await create_tenant(connection, "later", opened.master_key)
        await database.close()
        opened.close()
    set_ = TenantSettings(moodle=MoodleSettings(inactive_statuses=statuses.words(["Gone", "Blocked"])))
    own = TenantSettings(date_order="mdy")
    settings = msgspec.structs.replace(settings, tenants={tenant: set_, "later": own})
    opened = await open_installation(settings)
    assert inactive(opened.settings, tenant) == {"Gone", "Blocked"}
    assert (inactive(opened.settings, "later"), opened.settings.tenant("later")) == (WIDER, own)
    opened.close()


async def test_a_new_ledger(installation: Installation, database: Database, tenant: str) -> None:
    """The default tenant and one that comes with its first record have the wider list."""
    assert installation.settings.first_statuses.isdisjoint({"default", tenant})
    ledger = Ledger(installation, database, tenant)
    await ledger.post("students", student("S1"))
    opened = await open_installation(installation.settings)
    for name in ("default", tenant):
        assert inactive(opened.settings, name) == WIDER
    opened.close()
    await ledger.close()


@pytest.mark.parametrize(("is_old", "seat"), [(True, "active"), (False, "suspended")])
async def test_the_worker_of_a_server(
    ledger: Ledger, moodle: MoodleDouble, *, is_old: bool, seat: str
) -> None:
    """It works with the list that its tenant was founded with, as what the API says does."""
    moodle.site.add_course(shortname="C1", idnumber="C1")
    college = College(ledger, moodle)
    await college.send(students=student("S1"), classes=class_("C1"), enrollments=enrollment("E1", "S1", "C1"))
    await college.settle()
    await college.send(enrollments={"id": "E1", "status": "Blocked"})
    settings = msgspec.structs.replace(
        ledger.installation.settings,
        tenants={ledger.tenant: college.settings},
        first_statuses=frozenset({ledger.tenant} if is_old else ()),
    )
    app = create_app(msgspec.structs.replace(ledger.installation, settings=settings), moodle_worker=False)
    async with app.state.service.running():
        await app.state.service.moodle_workers[ledger.tenant].settle()
    assert college.seats() == {("C1", "S1"): seat}


# -- words that no list has


def words_of(found: list[Unknown]) -> set[tuple[str, str, int]]:
    """As tuples."""
    return {(unknown.entity, unknown.status, unknown.records) for unknown in found}


async def test_a_spelling_that_the_first_list_does_not_have(ledger: Ledger) -> None:
    """A college with that list is told of it, since it goes on taking a seat there."""
    await ledger.post("students", student("S1", Status="With drawn"), student("S2", Status=" withdrawn "))
    old = msgspec.structs.replace(SETTINGS, first_statuses=frozenset({ledger.tenant}))
    found = await UnknownStatuses(ledger.database, old).of(ledger.tenant)
    assert found == [Unknown("student", "With drawn", 1)]
    assert await UnknownStatuses(ledger.database, SETTINGS).of(ledger.tenant) == []


async def test_a_word_comes_and_goes(ledger: Ledger) -> None:
    """It counts from the record that brings it, active or waiting, to the last that loses it."""
    watch = UnknownStatuses(ledger.database, SETTINGS)
    assert await watch.of(ledger.tenant) == []  # a tenant that nobody has founded
    await ledger.post("programs", {"id": "P", "Product_Name": "x", "Status": "Odd"})
    await ledger.post(
        "students",
        *(student(f"S{n}", Status="On leave") for n in range(2)),
        student("S3", Status=" on\u00a0LEAVE\u200f"),
        student("S4", Status="waiting assessment\u200f"),
        student("S5", Status="Frozen"),
        student("S6", Status="Blocked"),
        student("S7"),
    )
    await ledger.post("classes", class_("C1", status="Planned"))
    await ledger.post("enrollments", enrollment("E1", "S1", "C9", status="Reserved"))
    assert watch.counts() == {}  # nobody has looked since
    assert await watch.of(ledger.tenant) == [
        Unknown("student", "On leave", 3),
        Unknown("student", "Frozen", 1),
        Unknown("class", "Planned", 1),
        Unknown("enrollment", "Reserved", 1),
    ]
    assert watch.counts() == {ledger.tenant: 4}
    await ledger.post("students", {"id": "S1", "Status": "Frozen"}, {"id": "S5", "Status": "Active"})
    await ledger.post("students", {"id": "S3", "Status": None}, deleted("S0"))
    await ledger.post("classes", {"id": "C1", "status": "FROZEN"}, {"id": "C2", "status": "Never accepted"})
    await ledger.post("enrollments", {"id": "E1", "status": "Dropped"})
    assert await watch.of(ledger.tenant) == [Unknown("student", "Frozen", 1), Unknown("class", "FROZEN", 1)]
    assert watch.counts() == {ledger.tenant: 1}  # one word to decide on
    await ledger.post("students", {"id": "S1", "Status": "Active"}, student("S0", Status="On leave"))
    await ledger.post("classes", deleted("C1"))
    assert await watch.of(ledger.tenant) == [Unknown("student", "On leave", 1)]
    await ledger.post("students", deleted("S0"))
    assert await watch.of(ledger.tenant) == []
    assert watch.counts() == {}


async def test_the_lists_are_the_college_s(ledger: Ledger) -> None:
    """A word in either list is not named; a default word that a set list leaves out is."""
    await ledger.post("students", student("S1", Status="On leave"), student("S2", Status="Withdrawn"))
    for given, expected in (
        ({}, {("student", "On leave", 1)}),
        ({"known_statuses": statuses.words(["on  LEAVE"])}, set()),
        ({"inactive_statuses": statuses.words(["On leave"])}, {("student", "Withdrawn", 1)}),
    ):
        own = TenantSettings(moodle=MoodleSettings(**given))
        settings = msgspec.structs.replace(SETTINGS, tenants={ledger.tenant: own})
        assert words_of(await UnknownStatuses(ledger.database, settings).of(ledger.tenant)) == expected
    await ledger.post("students", {"id": "S1", "Status": "Blocked"})
    first = msgspec.structs.replace(SETTINGS, first_statuses=frozenset({ledger.tenant}))
    for settings, expected in ((SETTINGS, set()), (first, {("student", "Blocked", 1)})):
        assert words_of(await UnknownStatuses(ledger.database, settings).of(ledger.tenant)) == expected


async def test_tenants_do_not_see_each_other(
    installation: Installation, database: Database, ledger: Ledger
) -> None:
    """Equal ids, each with a word of its own, and a third without any."""
    other = Ledger(installation, database, f"t-{uuid.uuid4().hex[:12]}")
    third = Ledger(installation, database, f"t-{uuid.uuid4().hex[:12]}")
    watch = UnknownStatuses(database, SETTINGS)
    for own, status in ((ledger, "Mine"), (other, "Theirs"), (third, "Active")):
        await own.post("students", student("S1", Status=status))
    for _ in range(2):
        assert words_of(await watch.of(ledger.tenant)) == {("student", "Mine", 1)}
        assert words_of(await watch.of(other.tenant)) == {("student", "Theirs", 1)}
        assert await watch.of(third.tenant) == []
        assert watch.counts() == {ledger.tenant: 1, other.tenant: 1}
    await other.post("students", {"id": "S1", "Status": "Active"})
    assert await watch.of(other.tenant) == []
    assert words_of(await watch.of(ledger.tenant)) == {("student", "Mine", 1)}
    await other.close()
    await third.close()


def counted(records: set[tuple[Any, ...]]) -> Counter[tuple[str, str]]:
    """What the rows of the read model say: active and waiting records by entity and unknown word."""
    found: Counter[tuple[str, str]] = Counter()
    for entity, _, state, *_, fields in records:
        status = json.loads(fields).get("status") if fields else None
        word = statuses.normal(status)
        is_there = entity != "program" and state in ("active", "waiting")
        if is_there and word and word not in statuses.KNOWN | statuses.INACTIVE:
            found[entity, word] += 1
    return found


async def test_random_histories(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever follows from the beginning, whoever begins now, and the rows themselves say the same,
    page by page, before and after the read models were rebuilt.
    """
    monkeypatch.setattr(following, "_PAGE", 3)
    monkeypatch.setattr(following, "_SCAN", 2)
    draw = random.Random(20)
    choices = ("Odd", "odd\u200f ", "Else", "Active", "Withdrawn", None, "\u00c9trange", "")
    watch = UnknownStatuses(ledger.database, SETTINGS)

    def some(plural: str) -> dict[str, Any]:
        number = draw.randrange(7)
        if draw.random() < 0.15:
            return deleted(f"{plural}{number}")
        if plural == "students":
            return student(f"{plural}{number}", Status=draw.choice(choices))
        if plural == "classes":
            return class_(f"{plural}{number}", status=draw.choice(choices))
        who, where = draw.randrange(7), draw.randrange(7)
        return enrollment(
            f"{plural}{number}", f"students{who}", f"classes{where}", status=draw.choice(choices)
        )

    for step in range(60):
        plural = draw.choice(("students", "classes", "enrollments"))
        await ledger.post(plural, *(some(plural) for _ in range(draw.randrange(1, 6))))
        if step == 40:
            key = ledger.installation.master_key
            replay = Replay(ledger.database, ledger.tenant, key, ledger.projection, [Summary()])
            await Rebuild(replay).run()
        if step % 3:
            continue
        expected = counted(await ledger.rows("records"))
        for found in (
            await watch.of(ledger.tenant),
            await UnknownStatuses(ledger.database, SETTINGS).of(ledger.tenant),
        ):
            assert {(u.entity, statuses.normal(u.status)): u.records for u in found} == expected, step


async def test_looks_that_are_broken_off(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a look is cancelled, the next one finds all, and so do several at a time."""
    monkeypatch.setattr(following, "_PAGE", 2)
    monkeypatch.setattr(following, "_SCAN", 2)
    watch = UnknownStatuses(ledger.database, SETTINGS)
    cancelled = 0
    for posted, steps in enumerate(range(0, 60, 2), 1):
        await ledger.post("students", *(student(f"S{posted}-{n}", Status="Odd") for n in range(3)))
        look = asyncio.create_task(watch.of(ledger.tenant))
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelled += look.cancel()
        await asyncio.gather(look, return_exceptions=True)
        if steps % 8 == 0:
            found = await asyncio.gather(*(watch.of(ledger.tenant) for _ in range(3)))
            assert found == [[Unknown("student", "Odd", 3 * posted)]] * 3
    assert cancelled > 5


async def test_a_look_that_takes_long(own_home: Path) -> None:
    """Nobody waits for it: it goes on, and the next one who asks has what it found."""
    installation = await open_installation(Settings(home=own_home))  # of its own, since tables are locked
    assert installation.embedded is not None
    admin = await asyncpg.connect(installation.embedded.dsn(), password=installation.embedded.password())
    database = installation.database(size=2)
    await database.open()
    ledger = Ledger(installation, database, "t")
    await ledger.post("students", student("S1", Status="Odd"))
    watch = UnknownStatuses(database, SETTINGS)
    async with admin.transaction():
        await admin.execute("lock table ledger.records in access exclusive mode")
        await watch.look_at_all(0.01)
        assert watch.counts() == {}
        assert watch._round is not None
        assert not watch._round.done()
    await until(lambda: watch._round is not None and watch._round.done())
    assert watch.counts() == {"t": 1}
    async with admin.transaction():
        await admin.execute("lock table ledger.heads in access exclusive mode")
        await watch.look_at_all(0.01)
        assert watch.counts() == {"t": 1}
        await watch.close()
    await ledger.close()
    await database.close()
    await admin.close()
    installation.close()


async def test_a_database_that_is_away(ledger: Ledger) -> None:
    """What was found stays; whoever asks for one tenant hears of it."""
    await ledger.post("students", student("S1", Status="Odd"))
    database = ledger.installation.database(size=1)
    await database.open()
    watch = UnknownStatuses(database, SETTINGS)
    await watch.of(ledger.tenant)
    await database.close()
    await watch.look_at_all(30)
    assert watch.counts() == {ledger.tenant: 1}
    with pytest.raises(DatabaseAwayError):
        await watch.of(ledger.tenant)
