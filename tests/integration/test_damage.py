"""One row that was altered, or is gone, never stops its neighbours: it is named, and they go on."""

from __future__ import annotations

import asyncio
import base64
import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from api.app import create_app
from ledger import clock
from ledger.embedded import Embedded
from ledger.errors import ConfigurationError, DamagedError
from ledger.installation import Installation, open_installation
from ledger.seal import seal
from ledger.settings import Secret, Settings
from ledger.store import tidy
from ledger.verify import Verdict, verify
from projections.check import check
from projections.history import Filter, History
from projections.rebuild import Rebuild
from tests.harness import Ledger, Server, run_command
from tests.integration.test_rebuild import consistent, everything, followed, head, parked, replay
from tests.moodle.college import College, class_, enrollment, student
from tests.moodle.double import MoodleDouble

PERSON = "person:S1"


def execute_as_admin(home: Path, sql: str) -> None:
    """Executes a statement as the superuser."""

    async def execute() -> None:
        embedded = Embedded(home)
        admin = await asyncpg.connect(embedded.dsn(), password=embedded.password())
        await admin.execute(sql)
        await admin.close()

    asyncio.run(execute())


_OF_S1 = "tenant_id = $1 and subject = 'person:S1'"
_OTHER = "(select wrapped from vault.keys where tenant_id = $1 and subject = 'person:S2')"
KEYS = {
    "a bit": f"update vault.keys set wrapped = set_bit(wrapped, 200, 1 - get_bit(wrapped, 200)) where {_OF_S1}",
    "the nonce": f"update vault.keys set wrapped = set_bit(wrapped, 3, 1 - get_bit(wrapped, 3)) where {_OF_S1}",
    "no bytes": f"update vault.keys set wrapped = '' where {_OF_S1}",
    "one byte": f"update vault.keys set wrapped = '\\x31' where {_OF_S1}",
    "cut": f"update vault.keys set wrapped = substr(wrapped, 1, 20) where {_OF_S1}",
    "longer": f"update vault.keys set wrapped = wrapped || '\\x00' where {_OF_S1}",
    "another one's bytes": f"update vault.keys set wrapped = {_OTHER} where {_OF_S1}",
    "key id": f"update vault.keys set key_id = '\\x00' where {_OF_S1}",
    "deleted": f"delete from vault.keys where {_OF_S1}",
}
"""What makes the key of S1 useless."""


async def told(ledger: Ledger) -> None:
    """Two students with an enrollment each, a class, some changes, something unusable."""
    await ledger.post("students", {"id": "S1", "First_Name": "Ann", "Last_Name": "One", "Status": "Active"})
    await ledger.post("students", {"id": "S2", "First_Name": "Bob", "Last_Name": "Two"}, 7)
    await ledger.post("classes", {"id": "C", "Class_Name": "x"})
    await ledger.post(
        "enrollments",
        {"id": "E1", "Student": "S1", "Class": "C", "status": "Active", "Start_Date": "2026-01-01"},
        {"id": "E2", "Student": "S2", "Class": "C", "status": "Active"},
    )
    await ledger.post("students", {"id": "S1", "Last_Name": "Uno"}, {"id": "S2", "Last_Name": "Dos"})
    await ledger.post("enrollments", {"id": "E1", "status": "Completed"})
    await followed(ledger)


async def proof(ledger: Ledger) -> Verdict:
    """What `verify` finds."""
    return await verify(ledger.database, ledger.tenant, ledger.installation.master_key)


@asynccontextmanager
async def kept(admin: asyncpg.Connection, tenant: str) -> AsyncIterator[None]:
    """Keeps the keys, and puts them back from this backup at the end."""
    rows = await admin.fetch("select * from vault.keys where tenant_id = $1", tenant)
    yield
    ids, subjects = [row["key_id"] for row in rows], [row["subject"] for row in rows]
    await admin.execute(
        "delete from vault.keys where tenant_id = $1 and (key_id = '\\x00' or key_id = any ($2))", tenant, ids
    )
    await admin.executemany(
        "insert into vault.keys values ($1, $2, $3, $4, $5)", [tuple(row) for row in rows]
    )
    assert len(subjects) == len(set(subjects))


@asynccontextmanager
async def serving(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP face in this process."""
    app = create_app(ledger.installation, moodle_worker=False)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.state.service.running(),
        httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers={"X-Tenant-ID": ledger.tenant}
        ) as client,
    ):
        yield client


@pytest.mark.parametrize("kind", KEYS)
async def test_a_damaged_key(ledger: Ledger, admin: asyncpg.Connection, kind: str) -> None:
    """Proof, replay, reads and writes name it and go on; a backup brings everything back."""
    await told(ledger)
    before = await everything(ledger)
    async with kept(admin, ledger.tenant):
        assert (await admin.execute(KEYS[kind], ledger.tenant)).endswith(" 1")

        verdict = await proof(ledger)
        assert (verdict.ok, verdict.first_bad_position) == (False, None)
        assert PERSON in {key.subject for key in verdict.keys}
        assert all(PERSON in key.problem for key in verdict.keys), verdict.keys
        assert verdict.reason == verdict.keys[0].problem

        report = await check(replay(ledger))
        assert report.differences == []
        assert {(u.entity, u.zoho_id, u.position) for u in report.unread} == {
            ("student", "S1", 1),
            ("enrollment", "E1", 5),
        }
        rebuild = Rebuild(replay(ledger))
        await rebuild.run()
        assert (await head(ledger))["generation"] == 2
        assert await everything(ledger) == before, "a value was lost"
        assert rebuild.unread == report.unread

        history = History(ledger.database, ledger.tenant, ledger.installation.master_key, ledger.entities)
        items = (await history.events(Filter(), 100, payload=True)).items
        unreadable = {item["position"] for item in items if "unreadable" in item}
        assert unreadable == {item["position"] for item in items if item["zoho_id"] in ("S1", "E1")}
        assert all((item["payload"] is None) == (item["position"] in unreadable) for item in items)

        lane = ledger.new_lane()  # of a process that has not seen the key
        records = [
            {"id": "S1", "Last_Name": "Eins"},
            {"id": "S2", "Last_Name": "Zwei"},
            {"id": "S3", "Last_Name": "Drei"},
        ]
        answer = await lane.submit(ledger.delivery("students", records, "k1"))
        assert [r["status"] for r in json.loads(answer.body)["results"]] == ["ERROR", "UPDATED", "NEW"]
        records = [{"id": "E1", "status": "Gone"}, {"id": "E2", "status": "Gone"}]
        answer = await lane.submit(ledger.delivery("enrollments", records, "k2"))
        assert [r["status"] for r in json.loads(answer.body)["results"]] == ["ERROR", "UPDATED"]
        answer = await lane.submit(ledger.delivery("students", [{"id": "S1", "First_Name": "Anna"}], "k3"))
        await lane.close()
        assert [r["status"] for r in json.loads(answer.body)["results"]] == ["ERROR"]
        assert [position for position, _ in await parked(ledger)] == [10, 13, 15]
        assert all(PERSON in reason for _, reason in await parked(ledger))
        await followed(ledger)
        assert (await check(replay(ledger))).differences == []

    verdict = await proof(ledger)
    assert (verdict.ok, verdict.keys) == (True, [])
    await consistent(ledger)
    await Rebuild(replay(ledger), retry_parked=True).run()
    assert await parked(ledger) == []
    await consistent(ledger)
    rows = {row[:2]: row for row in await ledger.rows("records")}
    fields = json.loads(rows["student", "S1"][-1])
    assert (fields["first_name"], fields["last_name"], fields["status"]) == ("Anna", "Eins", "Active")
    fields = json.loads(rows["enrollment", "E1"][-1])
    assert (fields["status"], fields["start_date"]) == ("Gone", "2026-01-01")
    same = {"id": "E1", "status": "Gone"}  # its digests are made anew under its own key first
    assert await ledger.statuses("enrollments", same, same) == ["UPDATED", "UNCHANGED"]
    assert await ledger.statuses("students", {"id": "S1", "Status": "Blocked"}) == ["UPDATED"]
    await followed(ledger)
    await consistent(ledger)


MOVED = {
    "swapped": [
        f"update vault.keys set subject = 'person:x' where {_OF_S1}",
        "update vault.keys set subject = 'person:S1' where tenant_id = $1 and subject = 'person:S2'",
        "update vault.keys set subject = 'person:S2' where tenant_id = $1 and subject = 'person:x'",
    ],
    "renamed": [f"update vault.keys set subject = 'person:S10' where {_OF_S1}"],
    "to be destroyed some day": [f"update vault.keys set subject = 'quarantine:2020-01-01' where {_OF_S1}"],
}
"""What files the key of S1 under another subject."""


@pytest.mark.parametrize("kind", MOVED)
async def test_a_moved_key(ledger: Ledger, admin: asyncpg.Connection, kind: str) -> None:
    """It still opens what it sealed, but nobody seals anything more under it, or makes another one."""
    await told(ledger)
    before = await everything(ledger)
    both = kind == "swapped"
    async with kept(admin, ledger.tenant):
        for sql in MOVED[kind]:
            await admin.execute(sql, ledger.tenant)
        verdict = await proof(ledger)
        assert (verdict.ok, verdict.first_bad_position) == (False, None)
        assert {key.subject for key in verdict.keys} == {PERSON, *(["person:S2"] if both else [])}
        assert "is filed under" in verdict.keys[0].problem

        rebuild = Rebuild(replay(ledger))
        await rebuild.run()
        assert (rebuild.unread, await everything(ledger)) == ([], before)

        lane = ledger.new_lane()
        for records in (
            [{"id": "S3"}],
            [{"id": "S1", "Last_Name": "Eins"}, {"id": "S2", "Last_Name": "Zwei"}],
        ):
            answer = await lane.submit(ledger.delivery("students", records, str(len(records))))
        statuses = [r["status"] for r in json.loads(answer.body)["results"]]
        assert statuses == ["ERROR", "ERROR" if both else "UPDATED"]
        records = [{"id": "E1", "status": "Gone"}, {"id": "E2", "status": "Gone"}]
        answer = await lane.submit(ledger.delivery("enrollments", records, "k"))
        statuses = [r["status"] for r in json.loads(answer.body)["results"]]
        assert statuses == ["ERROR", "ERROR" if both else "UPDATED"]
        await lane.close()
    assert (await proof(ledger)).ok
    await Rebuild(replay(ledger), retry_parked=True).run()
    assert await parked(ledger) == []
    await followed(ledger)
    await consistent(ledger)
    [row] = [row for row in await ledger.rows("records") if row[:2] == ("student", "S2")]
    assert json.loads(row[-1])["last_name"] == "Zwei"


async def test_keys_that_nobody_made(ledger: Ledger, admin: asyncpg.Connection) -> None:
    """A key that was put in, one of another college, a second one of the same person."""
    await told(ledger)
    other = Ledger(ledger.installation, ledger.database, f"{ledger.tenant}-b")
    await other.post("students", {"id": "S9"})
    add = "insert into vault.keys (tenant_id, key_id, subject, wrapped) "
    await admin.execute(f"{add} values ($1, '\\x01', 'person:S7', '\\x0102')", ledger.tenant)
    await admin.execute(
        f"{add} select $1, key_id, subject, wrapped from vault.keys where tenant_id = $2",
        ledger.tenant,
        other.tenant,
    )
    assert {key.subject for key in (await proof(ledger)).keys} == {"person:S7", "person:S9"}
    assert (await proof(other)).ok
    assert await ledger.statuses("students", {"id": "S7"}, {"id": "S8"}) == ["ERROR", "NEW"]
    await admin.execute("drop index vault.keys_by_subject")
    try:
        await admin.execute(
            f"{add} select tenant_id, '\\x02', subject, wrapped from vault.keys where {_OF_S1}", ledger.tenant
        )
        problems = [key.problem for key in (await proof(ledger)).keys if key.subject == PERSON]
        assert sorted("more than one" in problem for problem in problems) == [False, True]
    finally:
        await admin.execute("delete from vault.keys where key_id = '\\x02'")
        await admin.execute(
            "create unique index keys_by_subject on vault.keys (tenant_id, subject) where wrapped is not null"
        )
    await other.close()


async def test_many_bad_keys(
    ledger: Ledger, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every one is named once, page by page; a list that gets too long says that there are more."""
    monkeypatch.setattr("ledger.keyring._PAGE", 7)
    monkeypatch.setattr("ledger.keyring._REMEMBERED", 3)
    monkeypatch.setattr("ledger.verify.PAGE", 5)
    people = [f"S{number:02}" for number in range(30)]
    for _ in range(2):
        await ledger.post("students", *({"id": person} for person in people))
    assert (await proof(ledger)).ok
    await admin.execute(
        "update vault.keys set wrapped = wrapped || 'x' where tenant_id = $1 and subject <> 'person:S03'",
        ledger.tenant,
    )
    await admin.execute(
        "delete from vault.keys where tenant_id = $1 and subject = 'person:S07'", ledger.tenant
    )
    verdict = await proof(ledger)
    assert sorted(key.subject for key in verdict.keys) == [f"person:{p}" for p in people if p != "S03"]
    assert not verdict.more_keys
    monkeypatch.setattr("ledger.keyring.NAMED", 10)
    verdict = await proof(ledger)
    assert (len(verdict.keys), verdict.more_keys, verdict.ok) == (10, True, False)


async def test_a_broken_chain_hides_no_key(ledger: Ledger, admin: asyncpg.Connection) -> None:
    """Both are told, apart from each other."""
    await told(ledger)
    await admin.execute(
        "update ledger.events set source = 'cli' where tenant_id = $1 and position = 2", ledger.tenant
    )
    await admin.execute(KEYS["deleted"], ledger.tenant)
    verdict = await proof(ledger)
    assert (verdict.first_bad_position, verdict.events) == (2, 1)
    assert verdict.reason == "does not follow from what is before it"
    assert [key.subject for key in verdict.keys] == [PERSON]


async def test_a_destroyed_key_is_no_damage(ledger: Ledger, admin: asyncpg.Connection) -> None:
    """Its values are null after a replay, nobody is alarmed, and what comes has a key of its own."""
    await told(ledger)
    await admin.execute(f"update vault.keys set wrapped = null where {_OF_S1}", ledger.tenant)
    assert (await proof(ledger)).ok
    rebuild = Rebuild(replay(ledger))
    await rebuild.run()
    assert rebuild.unread == []
    await consistent(ledger)
    rows = {row[:2]: json.loads(row[-1]) for row in await ledger.rows("records")}
    assert rows["student", "S1"] == {"first_name": None, "last_name": None, "status": None}
    assert rows["enrollment", "E1"]["class_zoho_id"] == "C"
    lane = ledger.new_lane()
    answer = await lane.submit(ledger.delivery("students", [{"id": "S1", "Last_Name": "Neu"}], "k"))
    await lane.close()
    assert json.loads(answer.body)["results"][0]["status"] == "UPDATED"
    assert await parked(ledger) == []
    assert (await proof(ledger)).ok


async def test_without_a_backup(ledger: Ledger, admin: asyncpg.Connection) -> None:
    """What is parked can be applied all the same; then the rows are what a replay gives."""
    await told(ledger)
    await admin.execute(KEYS["a bit"], ledger.tenant)
    lane = ledger.new_lane()
    for number, record in enumerate(({"id": "S1", "Last_Name": "Eins"}, {"id": "S1", "Status": "Gone"})):
        await lane.submit(ledger.delivery("students", [record], str(number)))
    gone = await lane.submit(ledger.delivery("enrollments", [{"id": "E1", "operation": "delete"}], "gone"))
    assert json.loads(gone.body)["results"][0]["status"] == "DELETED"  # nothing is to be compared for it
    assert len(await parked(ledger)) == 2
    await Rebuild(replay(ledger), retry_parked=True).run()
    assert await parked(ledger) == []
    await followed(ledger)
    report = await check(replay(ledger))
    assert report.differences == []
    assert ("student", "S1") in {(u.entity, u.zoho_id) for u in report.unread}
    [row] = [row for row in await ledger.rows("records") if row[:2] == ("student", "S1")]
    assert json.loads(row[-1]) == {"first_name": "Ann", "last_name": "Eins", "status": "Gone"}
    changes = [
        json.loads(row[6])
        for row in await ledger.rows("outcomes")
        if row[1:3] == ("student", "S1") and row[6]
    ]
    assert {"status": [None, "Gone"]} in changes  # and nothing else: no field that did not come
    answer = await lane.submit(ledger.delivery("students", [{"id": "S1", "Last_Name": "x"}], "again"))
    assert json.loads(answer.body)["results"][0]["status"] == "ERROR"
    await lane.close()


@pytest.mark.parametrize("sql", [KEYS["cut"], f"update vault.keys set wrapped = null where {_OF_S1}"])
async def test_an_enrollment_that_moved(ledger: Ledger, admin: asyncpg.Connection, sql: str) -> None:
    """To a student whose key cannot be used, or was destroyed: it stays in the class that it kept."""
    await told(ledger)
    assert await ledger.statuses("enrollments", {"id": "E2", "Student": "S1"}) == ["UPDATED"]
    before = await ledger.rows("links")
    await admin.execute(sql, ledger.tenant)
    await Rebuild(replay(ledger)).run()
    assert await ledger.rows("links") == before
    rows = {row[:2]: row for row in await ledger.rows("records")}
    assert rows["enrollment", "E2"][2] == "active"
    assert json.loads(rows["enrollment", "E2"][-1])["class_zoho_id"] == "C"
    await followed(ledger)
    assert (await check(replay(ledger))).differences == []


@pytest.mark.parametrize("cut", [1, 2])
async def test_a_killed_replay_goes_on(
    ledger: Ledger, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """What it could not read before it was killed is taken from the live rows all the same."""
    monkeypatch.setattr("ledger.store._PAGE", 3)
    monkeypatch.setattr("projections.rebuild.SAVE_SECONDS", 0.0)
    await ledger.post("students", {"id": "S0", "Last_Name": "Early"})
    await told(ledger)
    before = await everything(ledger)
    await admin.execute("update vault.keys set wrapped = '' where tenant_id = $1", ledger.tenant)
    said = 0

    def tell(_: object) -> None:
        nonlocal said
        said += 1
        if said > cut:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        await Rebuild(replay(ledger, tell=tell)).run()
    rebuild = Rebuild(replay(ledger))
    assert await rebuild.run() < 10
    assert await everything(ledger) == before
    assert {u.zoho_id for u in rebuild.unread} == {"S0", "S1", "S2", "E1", "E2"}


async def test_the_key_of_unusable_records(ledger: Ledger, admin: asyncpg.Connection) -> None:
    """They are INVALID as ever, sealed under a spare key which is destroyed like the other."""
    await told(ledger)
    await admin.execute(
        "update vault.keys set wrapped = 'x' where tenant_id = $1 and subject like 'quarantine:%'",
        ledger.tenant,
    )
    [bad] = (await proof(ledger)).keys
    assert bad.subject.startswith("quarantine:")
    assert await ledger.new_lane().submit(ledger.delivery("students", [8, {"id": "S1"}], "k"))
    subjects = await admin.fetch("select subject from vault.keys where tenant_id = $1", ledger.tenant)
    assert f"spare:{bad.subject}" in {row["subject"] for row in subjects}
    async with ledger.database.transaction(ledger.tenant) as connection:
        await tidy(connection, ledger.tenant[:-1], 1, 0, clock.now() + clock.DAY)
    destroyed = "select count(*) from vault.keys where tenant_id = $1 and wrapped is null"
    assert await admin.fetchval(destroyed, ledger.tenant) == 2


# -- over HTTP, and what is not a key


async def test_reads_over_http(ledger: Ledger, admin: asyncpg.Connection) -> None:
    """Every read answers, and names what it cannot read; nothing says that the database is away."""
    await told(ledger)
    async with serving(ledger) as client:

        async def get(path: str) -> Any:
            response = await client.get(path)
            assert response.status_code == 200, (path, response.text)
            return response.json()

        present = [await get(path) for path in ("/v1/students", "/v1/students/S1", "/v1/enrollments/E1")]
        explained = await get("/v1/audit/explain/enrollments/E1")
        await admin.execute(KEYS["cut"], ledger.tenant)
        assert present == [
            await get(path) for path in ("/v1/students", "/v1/students/S1", "/v1/enrollments/E1")
        ]
        for when in ("at_position=6", "at_position=9", "as_of=2999-01-01T00:00:00Z"):
            item = await get(f"/v1/students/S1?{when}")
            assert (item["last_name"], item["state"]) == (None, "active")
            assert PERSON in item["unreadable"]
            items = {i["zoho_id"]: i for i in (await get(f"/v1/students?{when}"))["items"]}
            assert "unreadable" not in items["S2"]
            assert items["S2"]["first_name"] == "Bob"
            assert items["S1"] == item
            assert (await get(f"/v1/enrollments/E1?{when}"))["class_zoho_id"] == "C"
        items = (await get("/v1/audit/events?payload=true"))["items"]
        assert {i["position"] for i in items if PERSON in i.get("unreadable", "")} == {1, 5, 7, 9}
        assert all(i["payload"]["id"] == i["zoho_id"] for i in items if i["zoho_id"] in ("S2", "E2", "C"))
        assert all("unreadable" not in i for i in (await get("/v1/audit/events"))["items"])
        lines = (await client.get("/v1/audit/export?payload=true")).text.splitlines()
        assert [json.loads(line) for line in lines] == items
        text = (await client.get("/v1/audit/export?payload=true&format=csv")).text
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        assert list(rows[0])[-2:] == ["payload", "warnings"]
        assert PERSON in json.loads(rows[0]["payload"])
        assert json.loads(rows[1]["payload"])["id"] == "S2"
        await get("/v1/audit/records/student/S1")
        after = await get("/v1/audit/explain/enrollments/E1")
        assert PERSON in after.pop("unreadable")
        assert after["answer"] == explained["answer"]
        for now, then in zip(after["links"], explained["links"], strict=True):
            assert (now["link"], now["ok"], now["code"]) == (then["link"], then["ok"], then["code"])

        records = [{"id": "S1", "Last_Name": "x"}, {"id": "S2", "Last_Name": "y"}, {"id": "S4"}, 9]
        response = await client.post("/v1/sync/students", json=records)
        assert response.status_code == 200
        results = response.json()["results"]
        assert [r["status"] for r in results] == ["ERROR", "UPDATED", "NEW", "INVALID"]
        assert PERSON not in response.text
        again = await client.post("/v1/sync/students", json=records)
        assert "idempotency-replayed" not in again.headers


PAYLOADS = {
    "a bit": "set_bit(payload, 200, 1 - get_bit(payload, 200))",
    "no bytes": "''",
    "one byte": "'x'",
    "other json": "'{\"record\": 1}'",
    "no json": "'{'",
    "no text": "'\\xff'",
}


@pytest.mark.parametrize(
    ("kind", "position"),
    # a bit in the clear may make another value, which the chain alone can tell
    [(k, p) for k in PAYLOADS for p in (4, 7, 9) if (k, p) != ("a bit", 4)],
)
async def test_a_damaged_payload(ledger: Ledger, admin: asyncpg.Connection, kind: str, position: int) -> None:
    """Of a class (in the clear), a student, an enrollment: the same as with a key."""
    await told(ledger)
    before = await everything(ledger)
    await admin.execute(
        f"update ledger.events set payload = {PAYLOADS[kind]} where tenant_id = $1 and position = $2",
        ledger.tenant,
        position,
    )
    verdict = await proof(ledger)
    assert (verdict.first_bad_position, verdict.keys) == (position, [])
    name = {4: ("class", "C"), 7: ("student", "S1"), 9: ("enrollment", "E1")}[position]
    report = await check(replay(ledger))
    assert [(u.entity, u.zoho_id, u.position) for u in report.unread] == [(*name, position)]
    assert report.differences == []
    rebuild = Rebuild(replay(ledger))
    await rebuild.run()
    assert await everything(ledger) == before
    assert await parked(ledger) == []
    async with serving(ledger) as client:
        items = (await client.get("/v1/audit/events?payload=true")).json()["items"]
        assert [i["position"] for i in items if "unreadable" in i] == [position]
        path = {"class": "classes"}.get(name[0], f"{name[0]}s")
        item = (await client.get(f"/v1/{path}/{name[1]}?at_position=9")).json()
        assert "payload was altered" in item["unreadable"]
        explained = (await client.get("/v1/audit/explain/enrollments/E1")).json()
        assert "payload was altered" in explained["unreadable"]
    await consistent(ledger)


ANSWERS = {"records": ["'x'", "''", "'[[1]]'", "'\\xff'"], "answer": ["'x'", "''", "'\\xff'"]}


@pytest.mark.parametrize(("column", "value"), [(c, v) for c, values in ANSWERS.items() for v in values])
async def test_a_damaged_answer(ledger: Ledger, admin: asyncpg.Connection, column: str, value: str) -> None:
    """A remembered answer that cannot be read: never an old record applied over a newer one."""
    async with serving(ledger) as client:
        record, other = {"id": "P", "Product_Name": "x"}, {"id": "P", "Product_Name": "y"}
        key = {"X-Idempotency-Key": "k"}
        with_key = await client.post("/v1/sync/programs", json=record, headers=key)
        derived = await client.post("/v1/sync/programs", json=record)
        await client.post("/v1/sync/programs", json=other)
        await admin.execute(
            f"update ledger.idempotency set {column} = {value} where tenant_id = $1", ledger.tenant
        )
        again = await client.post("/v1/sync/programs", json=record, headers=key)
        if column == "records":
            assert (again.status_code, again.content) == (200, with_key.content)
        else:
            assert again.status_code == 409
            assert with_key.headers["x-delivery-id"] in again.json()["detail"]
        assert (await client.get("/v1/programs/P")).json()["name"] == "y"
        again = await client.post("/v1/sync/programs", json=record)
        assert again.status_code == 200
        assert "idempotency-replayed" not in again.headers
        assert derived.status_code == 200
        answer = await client.post("/v1/sync/programs", json=[record, {"id": "Q", "Product_Name": "z"}])
        assert [r["status"] for r in answer.json()["results"]] == ["UNCHANGED", "NEW"]
    await consistent(ledger)


ROWS = {
    "fields": ["'x'", "'[]'", "'{\"last_name\": 1}'", "'\\xff'"],
    "waiting_for": ["'x'", "'[1]'", "'{}'"],
}


@pytest.mark.parametrize(("column", "value"), [(c, v) for c, values in ROWS.items() for v in values])
async def test_a_damaged_row(ledger: Ledger, admin: asyncpg.Connection, column: str, value: str) -> None:
    """Lists go on, its own record is parked, the others are recorded, a replay mends it."""
    await told(ledger)
    await admin.execute(
        f"update ledger.records set {column} = {value} where tenant_id = $1 and zoho_id = 'S1' and entity = 'student'",
        ledger.tenant,
    )
    async with serving(ledger) as client:
        items = {i["zoho_id"]: i for i in (await client.get("/v1/students")).json()["items"]}
        assert "sync-ledger replay" in items["S1"]["unreadable"]
        assert items["S2"]["first_name"] == "Bob"
        assert (await client.get("/v1/students/S1")).json() == items["S1"]
        for path in ("/v1/audit/summary", "/v1/audit/deferred", "/v1/audit/explain/enrollments/E1"):
            assert (await client.get(path)).status_code == 200
        records = [{"id": "S1", "Last_Name": "x"}, {"id": "S2", "Last_Name": "y"}, {"id": "S5"}]
        results = (await client.post("/v1/sync/students", json=records)).json()["results"]
        assert [r["status"] for r in results] == ["ERROR", "UPDATED", "NEW"]
        again = (await client.post("/v1/sync/students", json=records[0])).json()["results"]
        assert [r["status"] for r in again] == ["ERROR"]
        records = [{"id": "E1", "status": "Gone"}, {"id": "E2", "status": "Gone"}]
        results = (await client.post("/v1/sync/enrollments", json=records)).json()["results"]
        assert [r["status"] for r in results] == ["UPDATED", "UPDATED"]
    await followed(ledger)
    assert {d.zoho_id for d in (await check(replay(ledger))).differences} == {"S1"}
    await Rebuild(replay(ledger)).run()
    await consistent(ledger)
    await Rebuild(replay(ledger), retry_parked=True).run()
    assert await parked(ledger) == []
    assert await ledger.statuses("students", {"id": "S1", "Last_Name": "x"}) == ["UNCHANGED"]


async def test_a_damaged_row_of_others(ledger: Ledger, admin: asyncpg.Connection) -> None:
    """Whoever comes and goes beside it is answered; a replay then frees or holds what it should."""
    await told(ledger)
    await ledger.post("enrollments", *({"id": f"W{n}", "Student": "S1", "Class": "D"} for n in range(3)))
    await admin.execute(
        "update ledger.records set waiting_for = 'x', fields = 'x' where tenant_id = $1 and zoho_id = any ($2)",
        ledger.tenant,
        ["W1", "E1"],
    )
    await admin.execute(
        "insert into ledger.links values ($1, 1, 'class', 'C', 'enrollment', 'ghost')", ledger.tenant
    )
    lane = ledger.new_lane()
    answer = await lane.submit(ledger.delivery("classes", [{"id": "D", "Class_Name": "d"}], "d"))
    assert [r["zoho_enrollment_id"] for r in json.loads(answer.body)["released"]] == ["W0", "W2"]
    answer = await lane.submit(ledger.delivery("classes", [{"id": "C", "operation": "delete"}], "c"))
    assert json.loads(answer.body)["results"][0]["status"] == "DELETED"
    await lane.close()
    await followed(ledger)
    await Rebuild(replay(ledger)).run()
    await consistent(ledger)
    rows = {row[1]: row[2] for row in await ledger.rows("records") if row[0] == "enrollment"}
    assert rows == {"W0": "active", "W1": "active", "W2": "active", "E1": "waiting", "E2": "waiting"}


@pytest.mark.parametrize("column", ["changes", "errors"])
@pytest.mark.parametrize("value", ["'x'", "'[1]'", "'\\xff'"])
async def test_a_damaged_outcome(ledger: Ledger, admin: asyncpg.Connection, column: str, value: str) -> None:
    """Lists and the explanation go on, and say so."""
    await told(ledger)
    await ledger.post("enrollments", {"id": "E3", "Class": "C"})
    await admin.execute(
        f"update ledger.outcomes set {column} = {value} where tenant_id = $1 and own", ledger.tenant
    )
    async with serving(ledger) as client:
        items = (await client.get("/v1/audit/events")).json()["items"]
        assert len(items) == 10
        assert all("sync-ledger replay" in item["unreadable"] for item in items)
        for path in ("records/enrollment/E3", "explain/enrollments/E3", "export", "export?format=csv"):
            assert (await client.get(f"/v1/audit/{path}")).status_code == 200, path
        if column == "errors" and value != "'[1]'":  # JSON that the database cannot read
            assert (await client.get("/v1/audit/events?warnings=true&limit=9")).json()["items"] == items[:9]
    await Rebuild(replay(ledger)).run()
    await followed(ledger)
    await consistent(ledger)


async def test_the_check_of_the_master_key(own_home: Path) -> None:
    """One that was altered keeps no college from work where anything else proves the key; where nothing
    does, or the key is another one, nothing starts.
    """
    said: list[str] = []

    async def start(master_key: bytes | None = None) -> Installation:
        key = Secret(base64.b64encode(master_key).decode()) if master_key is not None else None
        return await open_installation(Settings(home=own_home, master_key=key), said.append)

    installation = await start()
    database = installation.database()
    await database.open()
    ledger = Ledger(installation, database, "amman")
    assert installation.embedded is not None
    admin = await asyncpg.connect(installation.embedded.dsn(), password=installation.embedded.password())
    damage = "update ledger.tenants set key_check = $2 where tenant_id = $1"
    await admin.execute(damage, "default", b"")
    with pytest.raises(ConfigurationError, match="LEDGER_MASTER_KEY is not the key"):
        await start()  # nothing proves it
    await ledger.post("students", {"id": "S"})
    (await start()).close()
    assert [line for line in said if "default" in line]
    said.clear()
    await admin.execute(damage, "amman", b"x" * 60)
    (await start()).close()  # a person's key proves it
    assert len(said) == 2
    [bad] = (await proof(ledger)).keys
    assert "ledger.tenants" in bad.problem
    for key in (bytes(32), bytes(range(32))):
        with pytest.raises(ConfigurationError, match="LEDGER_MASTER_KEY is not the key"):
            await start(key)
    await admin.close()
    await ledger.close()
    await database.close()
    installation.close()


def test_on_the_command_line(server: Server, home: Path, tenant: str) -> None:
    """`verify` and `replay` name the person, the others go on, and the exit code tells."""
    other = f"{tenant}-b"
    for name in (tenant, other):
        with server.client(name) as client:
            client.post("/v1/sync/students", json=[{"id": "S1", "Last_Name": "N"}, {"id": "S2"}])
    execute_as_admin(home, KEYS["one byte"].replace("$1", f"'{tenant}'"))
    done = run_command(home, "verify", "--tenant", tenant)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{tenant}: 2 events, none altered, removed or inserted",
        f"{tenant}: the key of person:S1 in vault.keys was altered",
    ]
    document = json.loads(run_command(home, "verify", "--tenant", tenant, "--json").stdout)
    assert (document["ok"], document["events"], document["first_bad_position"]) == (False, 2, None)
    assert [(key["tenant"], key["subject"]) for key in document["keys"]] == [(tenant, PERSON)]
    assert document["tenants"][0]["keys"][0]["problem"] == document["tenants"][0]["reason"]
    assert run_command(home, "verify", "--tenant", other).returncode == 0
    for arguments, word in ((("--check",), "could not be compared"), ((), "were taken from the rows")):
        done = run_command(home, "replay", "--tenant", tenant, *arguments)
        assert done.returncode == 1
        assert f"{tenant}: student S1: the key of person:S1" in done.stderr
        assert word in done.stderr
        assert "S2" not in done.stderr
        assert run_command(home, "replay", "--tenant", other, *arguments).returncode == 0
    document = json.loads(run_command(home, "replay", "--tenant", tenant, "--check", "--json").stdout)
    assert (document["differences"], document["errors"]) == ([], [])
    assert [(u["tenant"], u["zoho_id"]) for u in document["unread"]] == [(tenant, "S1")]
    document = json.loads(run_command(home, "replay", "--tenant", tenant, "--json").stdout)
    assert [u["zoho_id"] for u in document["tenants"][0]["unread"]] == ["S1"]
    with server.client(tenant) as client:
        assert client.get("/v1/students/S1").json()["last_name"] == "N"


async def test_problems_that_were_altered(ledger: Ledger, admin: asyncpg.Connection) -> None:
    """Warnings are found all the same, page by page."""
    for number in range(6):
        await ledger.post("programs", {"id": f"P{number}", "Product_Name": "x", "Price": "free"}, {"id": "?"})
    async with serving(ledger) as client:
        path = "/v1/audit/events?warnings=true"
        before = (await client.get(path)).json()["items"]
        await admin.execute(
            "update ledger.events set problems = 'x' where tenant_id = $1 and position in (3, 4)",
            ledger.tenant,
        )
        found = (await client.get(f"{path}&limit=4")).json()
        rest = (await client.get(f"{path}&limit=4&cursor={found['next']}")).json()
        assert (len(found["items"]), rest["next"]) == (4, None)
        items = found["items"] + rest["items"]
        assert [i["position"] for i in items if "unreadable" in i] == [3, 4]
        assert [i for i in items if "unreadable" not in i] == [i for i in before if i["position"] != 3]
        lines = (await client.get("/v1/audit/export?warnings=true")).text.splitlines()
        assert [json.loads(line) for line in lines] == items
    assert (await proof(ledger)).first_bad_position == 3


@pytest.mark.parametrize(
    "sql",
    [
        "update ledger.records set version = 1 where tenant_id = $1",
        "update ledger.records set key_id = '\\x01' where tenant_id = $1",
        "update ledger.records set macs = '\\xff' where tenant_id = $1",
        "delete from ledger.records where tenant_id = $1",
    ],
)
async def test_rows_that_can_be_read_but_are_wrong(
    ledger: Ledger, admin: asyncpg.Connection, sql: str
) -> None:
    """Nobody is told that the database is away; a replay makes them right again."""
    await told(ledger)
    await admin.execute(f"{sql} and zoho_id = 'S1' and entity = 'student'", ledger.tenant)
    lane = ledger.new_lane()
    for number in range(2):
        records = [{"id": "S1", "Last_Name": "x"}, {"id": f"N{number}"}, {"id": "S1", "Status": "y"}]
        answer = await lane.submit(ledger.delivery("students", records, str(number)))
        statuses = [result["status"] for result in json.loads(answer.body)["results"]]
        assert statuses[1] == "NEW"
        assert set(statuses) <= {"NEW", "UPDATED", "UNCHANGED", "ERROR"}
    await lane.close()
    await followed(ledger)
    await Rebuild(replay(ledger), retry_parked=True).run()
    await consistent(ledger)
    [row] = [row for row in await ledger.rows("records") if row[:2] == ("student", "S1")]
    assert json.loads(row[-1]) == {"first_name": "Ann", "last_name": "x", "status": "y"}


async def test_a_request_that_fails(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """By our own defect: the others are recorded, and nobody says that the database is away."""

    def broken(record: Any, *arguments: Any, **options: Any) -> Any:
        if record.zoho_id == "BOOM":
            raise ValueError
        return seal(record, *arguments, **options)

    monkeypatch.setattr("ledger.lane.seal", broken)
    async with serving(ledger) as client:
        posts = [client.post("/v1/sync/students", json={"id": i}) for i in ("S1", "BOOM", "S2")]
        answers = await asyncio.gather(*posts)
        assert [answer.status_code for answer in answers] == [200, 503, 200]
        assert "could not be recorded" in answers[1].json()["detail"]
        assert "database" not in answers[1].json()["detail"]
    await consistent(ledger)


# -- Moodle


async def test_moodle_goes_on_beside_a_damaged_key(
    ledger: Ledger, admin: asyncpg.Connection, moodle: MoodleDouble
) -> None:
    """What was done for the person is known, so that it is not done again and again."""
    college = College(ledger, moodle, create_courses=True)
    await college.send(
        students=[student("S1"), student("S2")], classes=class_("C"), enrollments=enrollment("E1", "S1", "C")
    )
    await admin.execute(KEYS["cut"], ledger.tenant)
    ledger.lane = ledger.new_lane()
    await college.settle()
    assert college.seats() == {("Class C", "S1"): "active"}
    for name in (("student", "S1"), ("student", "S2"), ("enrollment", "E1")):
        assert (await college.status(*name))[0] == "SYNCED"
    assert await college.calls() == []
    assert await parked(ledger) == []
    await followed(ledger)
    assert (await check(replay(ledger))).differences == []


async def test_moodle_is_asked_for_nothing_of_a_damaged_row(
    ledger: Ledger, admin: asyncpg.Connection, moodle: MoodleDouble
) -> None:
    """Nobody loses a seat because a row cannot be read, nor waits for it; after a replay its turn comes."""
    college = College(ledger, moodle, create_courses=True)
    seats = [enrollment("E1", "S1", "C"), enrollment("E2", "S2", "C"), enrollment("F2", "S2", "C")]
    await college.send(students=[student("S1"), student("S2")], classes=class_("C"), enrollments=seats)
    await college.settle()
    async with college.worker() as worker:
        await worker.settle()
        await admin.execute(
            "update ledger.records set fields = 'x' where tenant_id = $1 and"
            " ((entity, zoho_id) in (('student', 'S1'), ('enrollment', 'F2')))",
            ledger.tenant,
        )
        ledger.lane = ledger.new_lane()
        await college.send(
            students=[student("S3")],
            enrollments=[enrollment("E3", "S3", "C"), {"id": "E1", "status": "Withdrawn"}],
        )
        await college.send(enrollments=[{"id": "E2", "status": "Withdrawn"}])
        await worker.settle()
        await college.settle()  # one that looks at everything
        assert college.seats() == {("Class C", name): "active" for name in ("S1", "S2", "S3")}
        with pytest.raises(DamagedError, match="sync-ledger replay"):
            await college.planned()
        await Rebuild(replay(ledger)).run()
        await worker.settle()
    assert college.seats() == {
        ("Class C", "S1"): "suspended",
        ("Class C", "S2"): "active",
        ("Class C", "S3"): "active",
    }
    assert await college.plan() == {}
