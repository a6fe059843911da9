"""A status that no list has: in `ready`, in the summary, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from ledger.embedded import Embedded
from tests.harness import Server, results, run_command

STUDENT = {"id": "S1", "Last_Name": "N", "Status": "Active"}
CLASS = {"id": "C1", "Class_Name": "Maths", "status": "Approved"}
ENROLLMENT = {"id": "E1", "Student": "S1", "Class": "C1", "status": "waiting\u00a0 ASSESSMENT \u200f"}


@pytest.fixture
def tenants_file(own_home: Path) -> Path:
    """Two colleges besides the default one."""
    file = own_home / "tenants.toml"
    file.write_text("[tenants.amman]\n[tenants.zarqa.moodle]\nknown_statuses = ['Active', 'Approved']\n")
    return file


def send(client: httpx.Client, **records: dict[str, Any]) -> None:
    """Posts one record by endpoint; each must be usable."""
    for plural, record in records.items():
        assert results(client.post(f"/v1/sync/{plural}", json=record))[0]["status"] in ("NEW", "UPDATED")


def reasons(client: httpx.Client) -> dict[str, str]:
    """What `ready`, which is a 200, says of statuses: by tenant, how many and what to do."""
    response = client.get("/v1/ready")
    assert response.status_code == 200
    found = {}
    for entry in response.json()["degraded"]:
        assert entry["part"] == "statuses"
        what, _, to_do = entry["reason"].partition(" not known: ")
        count, _, _, _, tenant, _ = what.split()
        found[tenant] = f"{count}: {to_do}"
    return found


def wait_for(client: httpx.Client, **counts: int) -> dict[str, str]:
    """`ready` says so at last (on a machine that is busy not at the first call)."""
    while {tenant: int(reason.partition(":")[0]) for tenant, reason in reasons(client).items()} != counts:
        pass
    return reasons(client)


def unknown(client: httpx.Client) -> list[tuple[str, str, int]]:
    """What the summary says."""
    body = client.get("/v1/audit/summary").json()
    assert set(body) == {"items", "next", "unknown_statuses"}
    assert all(set(item) == {"entity", "status", "records"} for item in body["unknown_statuses"])
    return [(item["entity"], item["status"], item["records"]) for item in body["unknown_statuses"]]


def command(home: Path, *arguments: str, **environment: str) -> str:
    """What `sync-ledger` prints beside the running server."""
    done = run_command(home, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_unknown_statuses(own_home: Path, tenants_file: Path) -> None:
    """They are counted per tenant, never spelled in `ready`, named where the tenant asks, seen by every
    process, and gone when a list has them or no record does.
    """
    given = {"TENANTS_FILE": str(tenants_file)}
    with Server(own_home, **given) as server, Server(own_home, **given) as other:
        with server.client("default") as client, other.client("default") as elsewhere:
            send(client, students=STUDENT, classes=CLASS, enrollments=ENROLLMENT)
            wait_for(client)
            assert unknown(client) == []
            send(client, students={"id": "S1", "Status": "Blocked by fees"})
            send(client, classes={"id": "C1", "status": "Postponed"})
            send(elsewhere, students={"id": "S2", "Status": "blocked  by FEES"})
            for each in (client, elsewhere):
                to_do = wait_for(each, default=2)["default"]
                for word in (
                    "sync-ledger audit summary",
                    "MOODLE_KNOWN_STATUSES",
                    "MOODLE_INACTIVE_STATUSES",
                ):
                    assert word in to_do
                for word in ("fees", "postponed"):
                    assert word not in each.get("/v1/ready").text.lower()
                assert unknown(each) == [("student", "Blocked by fees", 2), ("class", "Postponed", 1)]
        with server.client("amman") as client, server.client("zarqa") as third:
            assert unknown(client) == []
            send(client, students={"id": "S1", "Status": "Active"})
            send(third, students={"id": "S1", "Status": "Enrolled"})
            assert "[tenants.zarqa.moodle] in TENANTS_FILE" in wait_for(client, default=2, zarqa=1)["zarqa"]
            assert (unknown(client), unknown(third)) == ([], [("student", "Enrolled", 1)])
            send(third, students={"id": "S1", "Status": "Active"})
        with server.client("default") as client:
            wait_for(client, default=2)
            as_json = json.loads(command(own_home, "audit", "summary", "--json", **given))
            assert as_json == client.get("/v1/audit/summary").json()
            printed = command(own_home, "audit", "summary", **given)
            assert "MOODLE_KNOWN_STATUSES" in printed
            assert [line.split() for line in printed.splitlines()][-1] == ["class", "Postponed", "1"]
            assert "Postponed" not in command(own_home, "audit", "summary", "--tenant", "amman", **given)
            send(client, classes={"id": "C1", "status": "Approved"})
            wait_for(client, default=1)
    settings = {"MOODLE_INACTIVE_STATUSES": "Blocked By Fees, Gone"}
    with Server(own_home, **settings) as server, server.client("default") as client:
        wait_for(client)
        assert unknown(client) == []
        because = client.get("/v1/audit/explain/enrollments/E1").json()["because"]
        assert "Blocked by fees" in because


async def test_a_college_of_an_earlier_release(own_home: Path) -> None:
    """Server and commands go by the list that it was founded with, until one is set."""
    with Server(own_home) as server:
        with server.client("default") as client, server.client("later") as later:
            for each in (client, later):
                send(each, students=STUDENT, classes=CLASS, enrollments={**ENROLLMENT, "status": "Expelled"})
                assert each.get("/v1/audit/explain/enrollments/E1").json()["answer"] == "not_enrolled"
        embedded = Embedded(own_home)
        admin = await asyncpg.connect(embedded.dsn(), password=embedded.password())
        await admin.execute("update ledger.tenants set statuses = 1 where tenant_id = 'default'")
        await admin.close()
        assert "Expelled" in command(own_home, "audit", "summary")
        assert "Expelled" not in command(own_home, "audit", "summary", "--tenant", "later")
        answer = json.loads(command(own_home, "audit", "explain", "E1", "--json"))["answer"]
        assert answer == "unknown"  # it asks for a seat, and no Moodle is connected
    with Server(own_home) as server, server.client("default") as client, server.client("later") as later:
        wait_for(client, default=1)
        assert client.get("/v1/audit/explain/enrollments/E1").json()["answer"] == "unknown"
        assert later.get("/v1/audit/explain/enrollments/E1").json()["answer"] == "not_enrolled"
    answer = json.loads(
        command(own_home, "audit", "explain", "E1", "--json", MOODLE_INACTIVE_STATUSES="expelled")
    )["answer"]
    assert answer == "not_enrolled"
