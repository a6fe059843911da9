"""The past over HTTP and on the command line, and proof and replay beside a running server."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from ledger.installation import open_installation
from ledger.settings import Settings
from tests.harness import ROOT, Ledger, Server, run_command


@pytest.fixture
def client(server: Server, tenant: str) -> Iterator[httpx.Client]:
    """A client for a fresh tenant with a short story."""
    with server.client(tenant) as client:
        client.post("/v1/sync/enrollments", json={"id": "E", "Student": "S", "Class": "C"})
        client.post(
            "/v1/sync/students", json=[{"id": "S", "Last_Name": '"N",\n'}, {"id": "S", "Last_Name": "M"}]
        )
        client.post("/v1/sync/classes", json=[{"id": "C", "Class_Name": "x"}, {"id": "D"}, 5])
        yield client


def command(home: Path, tenant: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`sync-ledger` beside the running server."""
    return run_command(home, *arguments, "--tenant", tenant)


def test_as_of(client: httpx.Client) -> None:
    """Single records and lists, by position and by instant."""
    events = client.get("/v1/audit/events").json()["items"]
    then = events[1]["recorded_at"]
    for when in ({"at_position": "2"}, {"as_of": then}):
        assert client.get("/v1/students/S", params=when).json()["last_name"] == '"N",\n'
        assert client.get("/v1/enrollments/E", params=when).json()["waiting_for"] == [
            {"entity": "class", "zoho_id": "C"}
        ]
        assert client.get("/v1/enrollments", params=when).json()["items"] == []
        waiting = client.get("/v1/enrollments", params={**when, "state": "waiting"}).json()["items"]
        assert [item["zoho_id"] for item in waiting] == ["E"]
        assert client.get("/v1/classes/C", params=when).status_code == 404
        now = client.get("/v1/students/S", params={"as_of": "2999-01-01T00:00:00Z"}).json()
        assert now == client.get("/v1/students/S").json()
    assert client.get("/v1/students?at_position=0").json() == {"items": [], "next": None}


@pytest.mark.parametrize(
    "path",
    ["/v1/students/S?as_of=yesterday", "/v1/students?as_of=2026-01-01T00:00:00Z&at_position=1",
     "/v1/students?at_position=-1", "/v1/students/S?state=all", "/v1/audit/summary?by=week",
     "/v1/audit/summary?from=x", "/v1/audit/export?format=xml", "/v1/audit/export?limit=3",
     "/v1/audit/export?status=FINE", "/v1/audit/records/student/S?x=1",
     "/v1/audit/events?warnings=false", "/v1/audit/events?warnings=", "/v1/audit/export?warnings=1",
     "/v1/audit/explain/enrollments/E?as_of=2026-01-01T00:00:00Z"],
)  # fmt: skip
def test_bad_parameters(client: httpx.Client, path: str) -> None:
    """400, as a problem."""
    response = client.get(path)
    assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")


@pytest.mark.parametrize(
    "path",
    ["/v1/audit/records/student/X", "/v1/audit/records/unit/S", "/v1/audit/explain/enrollments/X",
     "/v1/students/X?at_position=2", "/v1/audit/records/student/%00"],
)  # fmt: skip
def test_unknown_records(client: httpx.Client, path: str) -> None:
    """404, as a problem."""
    response = client.get(path)
    assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")


def test_records_and_paging(client: httpx.Client) -> None:
    """The life of one record, a page at a time."""
    whole = client.get("/v1/audit/records/enrollment/E").json()
    assert [(item["position"], item["status"]) for item in whole["items"]] == [(1, "SKIPPED"), (4, "NEW")]
    first = client.get("/v1/audit/records/enrollment/E?limit=1").json()
    rest = client.get(f"/v1/audit/records/enrollment/E?cursor={first['next']}").json()
    assert first["items"] + rest["items"] == whole["items"]
    assert rest["next"] is None


def test_summary(client: httpx.Client) -> None:
    """Counts by day and by hour."""
    for by in ("day", "hour"):
        items = client.get(f"/v1/audit/summary?by={by}").json()["items"]
        assert {(i["entity"], i["status"]): i["count"] for i in items} == {
            ("class", "INVALID"): 2, ("class", "NEW"): 1, ("enrollment", "SKIPPED"): 1,
            ("student", "NEW"): 1, ("student", "UPDATED"): 1,
        }  # fmt: skip
    nothing = {"items": [], "next": None, "unknown_statuses": []}
    assert client.get("/v1/audit/summary?to=2020-01-01T00:00:00Z").json() == nothing


def test_export(client: httpx.Client) -> None:
    """Every event once, in both formats; filters and payloads as in the list."""
    listed = client.get("/v1/audit/events?payload=true").json()["items"]
    response = client.get("/v1/audit/export?payload=true")
    assert response.headers["content-type"] == "application/x-ndjson; charset=utf-8"
    assert [json.loads(line) for line in response.text.splitlines()] == listed
    response = client.get("/v1/audit/export?format=csv")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(response.text, newline="")))
    assert [int(row["position"]) for row in rows] == [item["position"] for item in listed]
    changed = next(row for row in rows if row["status"] == "UPDATED")
    assert json.loads(changed["changes"]) == {"last_name": {"old": '"N",\n', "new": "M"}}
    assert client.get("/v1/audit/export?entity=program").text == ""
    some = client.get("/v1/audit/export?status=INVALID&after=5").text.splitlines()
    assert [json.loads(line)["position"] for line in some] == [6]


def test_warnings(client: httpx.Client, home: Path, tenant: str) -> None:
    """What could not be read is listed, filtered and exported, over HTTP and by the command."""
    said = client.post(
        "/v1/sync/programs",
        json=[{"id": "P", "Product_Name": "x"}, {"id": "P", "Price": "free"}, {"id": "Q", "Price": "free"}],
    ).json()
    events = client.get("/v1/audit/events").json()["items"]
    found = client.get("/v1/audit/events?warnings=true").json()["items"]
    assert [item["position"] for item in found] == [8, 9]
    assert found == [item for item in events if item["warnings"]]
    assert found[0]["warnings"] == said["results"][1]["warnings"]
    assert client.get("/v1/audit/records/program/P").json()["items"][-1] == found[0]
    invalid = client.get("/v1/audit/export?warnings=true&status=INVALID&format=csv")
    [row] = csv.DictReader(io.StringIO(invalid.text, newline=""))
    assert list(row)[-1] == "warnings"
    assert json.loads(row["warnings"]) == found[1]["warnings"]
    with_payload = client.get("/v1/audit/export?warnings=true&payload=true&format=csv").text
    assert with_payload.splitlines()[0].endswith(",payload,warnings")
    done = command(home, tenant, "audit", "events", "--warnings", "--json")
    assert json.loads(done.stdout)["items"] == found
    done = command(home, tenant, "audit", "export", "--warnings")
    assert [json.loads(line) for line in done.stdout.splitlines()] == found
    table = command(home, tenant, "audit", "record", "program", "P").stdout
    assert found[0]["warnings"][0]["problem"] in table


def test_an_export_is_a_file_with_a_name(client: httpx.Client, tenant: str) -> None:
    """It tells the college, the day and the kind."""
    for kind in ("ndjson", "csv"):
        response = client.get(f"/v1/audit/export?format={kind}")
        day = datetime.now(UTC).date()
        days = "|".join(str(day - timedelta(days=back)) for back in (0, 1))  # midnight may have passed
        name = rf'attachment; filename="{tenant}-events-({days})\.{kind}"'
        assert re.fullmatch(name, response.headers["content-disposition"])
        assert not response.content.startswith(b"\xef\xbb\xbf")


def test_no_cell_of_an_export_is_a_formula(client: httpx.Client, home: Path, tenant: str) -> None:
    """Texts are disarmed, over HTTP and on the command line; JSON lines stay exact."""
    ids = ["=1+1", "+962", "-5", "@SUM(A1)"]
    client.post("/v1/sync/programs", json=[{"id": i, "Product_Name": "=x"} for i in ids])
    query = "/v1/audit/export?entity=program&payload=true"
    rows = list(csv.DictReader(io.StringIO(client.get(f"{query}&format=csv").text, newline="")))
    assert [row["zoho_id"] for row in rows] == [f"'{i}" for i in ids]
    assert [row["position"] for row in rows] == ["7", "8", "9", "10"]
    assert json.loads(rows[0]["payload"])["Product_Name"] == "=x"
    assert [json.loads(line)["zoho_id"] for line in client.get(query).text.splitlines()] == ids
    done = command(home, tenant, "audit", "export", "--entity", "program", "--format", "csv")
    assert [row["zoho_id"] for row in csv.DictReader(io.StringIO(done.stdout))] == [f"'{i}" for i in ids]


def test_commands_say_what_the_endpoints_say(client: httpx.Client, home: Path, tenant: str) -> None:
    """The same JSON from `audit`, beside the running server."""
    for arguments, path in (
        (("events",), "/v1/audit/events"),
        (("events", "--status", "INVALID", "--limit", "1"), "/v1/audit/events?status=INVALID&limit=1"),
        (("events", "--payload", "--entity", "student"), "/v1/audit/events?payload=true&entity=student"),
        (("record", "enrollment", "E"), "/v1/audit/records/enrollment/E"),
        (("explain", "E"), "/v1/audit/explain/enrollments/E"),
        (("deferred",), "/v1/audit/deferred"),
        (("summary", "--by", "hour"), "/v1/audit/summary?by=hour"),
    ):
        done = command(home, tenant, "audit", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == client.get(path).json(), arguments
    table = command(home, tenant, "audit", "explain", "E").stdout
    assert [line.split()[:2] for line in table.splitlines()[6:]][5] == ["period", "yes"]
    done = command(home, tenant, "audit", "export", "--format", "csv")
    assert done.stdout == client.get("/v1/audit/export?format=csv").text.replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("audit", "events", "--status", "FINE"), "--status"),
        (("audit", "events", "--from", "yesterday"), "--from"),
        (("audit", "events", "--limit", "0"), "--limit"),
        (("audit", "events", "--after", "-1"), "--after"),
        (("audit", "events", "--after", "\u0663"), "--after"),
        (("audit", "events", "--limit", "1_0"), "--limit"),
        (("audit", "events", "--limit", "1.5"), "--limit"),
        (("replay", "--jobs", "\u0663"), "--jobs"),
        (("audit", "events", "--after", "99999999999999999999999"), "--after"),
        (("audit", "events", "--cursor", "!"), "--cursor"),
        (("audit", "record", "unit", "U"), "unit"),
        (("audit", "record", "student", "X"), "X"),
        (("audit", "explain", "X"), "X"),
        (("audit", "explain"), "audit explain"),
        (("replay", "--projection", "all"), "projection"),
        (("replay", "--check", "--parked"), "--check"),
        (("replay", "--jobs", "0"), "--jobs"),
        (("verify", "--anchor", "/nowhere"), "/nowhere"),
        (("anchor", "/nowhere/x"), "/nowhere/x"),
        (("anchor",), "FILE"),
    ],
)
def test_wrong_usage(server: Server, home: Path, arguments: tuple[str, ...], named: str) -> None:
    """Exit 1 and one line on stderr that names what is wrong."""
    del server
    done = command(home, "default", *arguments)
    assert done.returncode == 1
    assert named in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stdout == ""


def test_an_unknown_tenant(server: Server, home: Path) -> None:
    """Every command that takes one refuses it in one line."""
    del server
    for arguments in (("audit", "events"), ("replay",), ("verify",), ("tenants",)):
        done = command(home, "nobody", *arguments)
        assert (done.returncode, "nobody" in done.stderr, done.stdout) == (1, True, "")


def test_proof_and_replay(client: httpx.Client, home: Path, tenant: str, tmp_path: Path) -> None:
    """verify, anchor, replay and its check, for one tenant and with two at once."""
    anchor = tmp_path / "a.anchor"
    assert command(home, tenant, "anchor", str(anchor)).returncode == 0
    assert command(home, tenant, "anchor", str(anchor)).returncode == 1
    done = command(home, tenant, "verify", "--anchor", str(anchor), "--json")
    found: Any = json.loads(done.stdout)
    assert (done.returncode, found["ok"], found["events"]) == (0, True, 6)
    assert found["tenants"][0]["first_bad_position"] is None
    before = client.get("/v1/students/S").json()
    done = command(home, tenant, "replay")
    assert (done.returncode, "6 events" in done.stdout) == (0, True), done.stderr
    assert command(home, tenant, "replay", "--projection", "summary").returncode == 0
    assert command(home, tenant, "replay", "--parked").returncode == 0
    assert client.get("/v1/students/S").json() == before
    done = command(home, tenant, "replay", "--check", "--json")
    assert (done.returncode, json.loads(done.stdout)["differences"]) == (0, [])
    assert json.loads(done.stdout)["rows"] > 10
    listed = json.loads(command(home, tenant, "tenants", "--json").stdout)["items"]
    assert [(item["tenant"], item["events"]) for item in listed] == [(tenant, 6)]


def test_tenants_side_by_side(own_home: Path) -> None:
    """Without a tenant all of them are replayed, each in a process of its own."""
    with Server(own_home) as server:
        for tenant in ("amman", "aqaba", "irbid"):
            with server.client(tenant) as client:
                client.post("/v1/sync/programs", json=[{"id": "P", "Product_Name": "x"}, {"id": "Q"}])
        for arguments in (("replay",), ("replay", "--check")):
            done = subprocess.run(
                [sys.executable, "-m", "scripts.cli", *arguments, "--jobs", "2", "--json"],
                cwd=ROOT,
                env={**os.environ, "LEDGER_HOME": str(own_home)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["differences"] == []
        with server.client("aqaba") as client:
            assert client.get("/v1/programs/P").json()["name"] == "x"
            assert (
                client.post("/v1/sync/programs", json={"id": "P"}).json()["results"][0]["status"]
                == "UNCHANGED"
            )


async def test_workers_end_with_their_parent(own_home: Path) -> None:
    """SIGKILL of a replay of several tenants, or Ctrl-C, leaves nobody behind."""
    installation = await open_installation(Settings(home=own_home))
    assert installation.embedded is not None
    admin = await asyncpg.connect(installation.embedded.dsn(), password=installation.embedded.password())
    database = installation.database()
    await database.open()
    for tenant in ("amman", "aqaba"):
        ledger = Ledger(installation, database, tenant)
        await ledger.post("programs", {"id": "P", "Product_Name": "x"})
        await ledger.close()
    for number in (signal.SIGKILL, signal.SIGINT):
        await admin.execute("begin")
        await admin.execute("lock table ledger.records in share mode")  # so that they cannot end
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.cli", "replay", "--jobs", "2"],
            cwd=ROOT,
            env={**os.environ, "LEDGER_HOME": str(own_home)},
            stderr=subprocess.PIPE,
            text=True,
        )
        waiting = "select count(*) from pg_locks where not granted"
        watcher = await asyncpg.connect(
            installation.embedded.dsn(), password=installation.embedded.password()
        )
        while await watcher.fetchval(waiting) < 2:
            await asyncio.sleep(0.01)
        process.send_signal(number)
        code = process.wait()
        assert process.stderr is not None
        said = process.stderr.read()
        assert code in (-number, 130), said
        assert "Traceback" not in said
        await admin.execute("rollback")
        clients = "select count(*) from pg_stat_activity where usename = 'sync_ledger_app'"
        while await watcher.fetchval(clients) > 1:  # this test's pool has one
            await asyncio.sleep(0.01)
        heads = await watcher.fetch("select generation from ledger.heads")
        assert {row["generation"] for row in heads} == {1}
        await watcher.execute("delete from ledger.leases")
        await watcher.close()
    await admin.close()
    await database.close()
    installation.close()


def test_odd_texts_on_a_terminal(server: Server, home: Path, tenant: str) -> None:
    """What Zoho sends is neither markup nor control characters to the terminal."""
    odd = "a\\[/] w[/red]x :smile: \x1b[31m"
    with server.client(tenant) as client:
        client.post("/v1/sync/enrollments", json={"id": odd, "Student": "S[/]", "Class": "C"})
        client.post("/v1/sync/enrollments", json={"id": odd, "status": "[bold]"})
    for arguments in (("events",), ("deferred",), ("explain", odd), ("record", "enrollment", odd)):
        done = command(home, tenant, "audit", *arguments)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        if arguments[0] != "explain":
            assert "a\\[/] w[/red]x :smile: \\x1b[31m" in done.stdout


def test_help() -> None:
    """Every command explains itself with an example."""
    for words in ((), ("audit",)):
        done = subprocess.run(
            [sys.executable, "-m", "scripts.cli", *words, "--help"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Example: sync-ledger" in done.stdout
    for words in (
        ("audit", "events"), ("audit", "record"), ("audit", "explain"), ("audit", "deferred"),
        ("audit", "summary"), ("audit", "export"), ("replay",), ("verify",), ("anchor",), ("tenants",),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "scripts.cli", *words, "--help"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, f"Example: sync-ledger {' '.join(words)}" in done.stdout) == (0, True), words
        assert "--tenant" in done.stdout


def test_no_ledger_there(own_home: Path) -> None:
    """A command that asks makes no ledger where there is none: it says where it looked."""
    for arguments in (("audit", "events"), ("verify",), ("replay",), ("tenants",)):
        done = command(own_home, "default", *arguments)
        assert (done.returncode, str(own_home) in done.stderr, done.stdout) == (1, True, "")
    assert list(own_home.iterdir()) == []
