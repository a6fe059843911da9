"""Behind pgbouncer in transaction mode: every transaction may meet another server process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ledger import database as database_
from ledger.database import Database, Limits
from ledger.embedded import Embedded
from ledger.errors import DatabaseAwayError
from ledger.installation import open_installation
from ledger.settings import Secret, Settings
from tests.cluster import Cluster, Pooler
from tests.harness import Server, run_command, statuses
from tests.moodle.double import MoodleDouble
from tests.moodle.persistent import until

STUDENT = {"id": "S1", "First_Name": "Layla", "Last_Name": "Nasser", "Academic_Email": "l@college.example"}
CLASS = {"id": "C1", "Class_Name": "Python"}
ENROLLMENT = {"id": "E1", "Student": "S1", "Class": "C1"}


@pytest.fixture
def pooler(own_home: Path, cluster: Cluster) -> Iterator[Pooler]:
    """A pooler with two servers for each login and database."""
    with Pooler(own_home, cluster) as pooler:
        yield pooler


@pytest.mark.parametrize("logins", ["owner", "creator", "two"])
async def test_everything_works(
    own_home: Path, hosted: Embedded, cluster: Cluster, pooler: Pooler, logins: str, moodle: MoodleDouble
) -> None:
    """One URL of an owner, one of a login that makes roles, two URLs: starts, records, readers,
    Moodle and all commands.
    """
    before = len((hosted.home / "supervisor.log").read_text().splitlines())
    owner = await cluster.login("createrole" if logins == "creator" else "")
    database = await cluster.database(owner)
    urls = {"DATABASE_URL": pooler.url(owner, database)}
    if logins == "two":
        app = await cluster.login()
        urls = {
            "DATABASE_URL": pooler.url(app, database),
            "MIGRATE_DATABASE_URL": pooler.url(owner, database),
        }
    environment = {
        **urls,
        "DB_POOLER": "transaction",
        "MOODLE_ENABLED": "true",
        "MOODLE_BASE_URL": moodle.url,
        "MOODLE_TOKEN": moodle.token,
        "MOODLE_CREATE_COURSES": "true",
    }
    with Server(own_home, "--workers", "2", **environment) as server, server.client("default") as client:
        assert statuses(client.post("/v1/sync/enrollments", json=ENROLLMENT)) == ["SKIPPED"]
        assert statuses(client.post("/v1/sync/students", json=STUDENT)) == ["NEW"]
        assert statuses(client.post("/v1/sync/classes", json=CLASS)) == ["NEW"]
        for number in range(20):
            program = {"id": f"P{number % 3}", "Product_Name": f"N{number}"}
            assert client.post("/v1/sync/programs", json=program).status_code == 200
        await until(lambda: client.get("/v1/enrollments/E1").json()["moodle_status"] == "SYNCED")
        assert client.get("/v1/audit/explain/enrollments/E1").json()["answer"] == "enrolled"
        assert client.get("/v1/ready").json()["status"] == "ready"
        assert server.stop() == 0
    with Server(own_home, **environment) as server, server.client("default") as client:
        assert statuses(client.post("/v1/sync/students", json={**STUDENT, "Last_Name": "N"})) == ["UPDATED"]
        last = client.get("/v1/students/S1").json()["position"]
        exported = client.get("/v1/audit/export").text.splitlines()
        assert [json.loads(line)["position"] for line in exported][:last] == list(range(1, last + 1))
        await until(lambda: client.get("/v1/students/S1").json()["moodle_status"] == "SYNCED")
        anchor = str(own_home / "anchor")
        commands = [
            ("replay", "--check"), ("verify",), ("tenants", "--json"), ("anchor", anchor),
            ("verify", "--anchor", anchor), ("replay",), ("replay", "--projection", "summary"),
            ("audit", "explain", "E1"), ("audit", "events"), ("audit", "export"), ("audit", "summary"),
            ("audit", "record", "class", "C1"), ("audit", "deferred"), ("moodle", "check"),
            ("moodle", "plan"), ("moodle", "apply", "--yes"), ("moodle", "failed"), ("moodle", "retry"),
            ("moodle", "rebuild", "--yes"),
        ]  # fmt: skip
        for arguments in commands if logins == "owner" else commands[:1]:
            done = run_command(own_home, *arguments, **environment)
            assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    # nor behind the back of whoever tries again
    assert [
        line
        for line in (hosted.home / "supervisor.log").read_text().splitlines()[before:]
        if "prepared statement" in line
    ] == []


@pytest.mark.parametrize("patient", [True, False])
async def test_a_pooler_whose_servers_are_at_work(
    own_home: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, *, patient: bool
) -> None:
    """The question whether the server works waits like all else: that is no reason to break off what
    it works on, but nobody waits for ever.
    """
    monkeypatch.setattr(database_, "_PATIENT_TICKS", 1_000_000 if patient else 1)
    owner = await cluster.login()
    name = await cluster.database(owner)
    with Pooler(own_home, cluster, size=1) as pooler:
        url = Secret(pooler.url(owner, name))
        installation = await open_installation(Settings(home=own_home, database_url=url, pooled=True))
        database = Database(installation.application, limits=Limits(patience=0.02, probe=0.01))
        await database.open()
        asked, looked = 0, asyncio.Event()
        silent = database._watch._silent

        async def counted(*arguments: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked > 3:
                looked.set()
            return await silent(*arguments)

        monkeypatch.setattr(database._watch, "_silent", counted)
        blocker = await asyncpg.connect(cluster.url("postgres", name))
        await blocker.execute("begin; lock ledger.tenants")

        async def read() -> int:
            async with database.transaction("t") as connection:
                return int(await connection.fetchval("select count(*) from ledger.tenants"))

        reading = asyncio.create_task(read())
        if patient:
            looking = asyncio.create_task(looked.wait())
            await asyncio.wait({looking, reading}, return_when=asyncio.FIRST_COMPLETED)
            assert not reading.done()
            await blocker.execute("commit")
            assert await reading == 1
        else:
            with pytest.raises(DatabaseAwayError, match="no word"):
                await reading
        await blocker.close()
        await database.close()
        installation.close()
