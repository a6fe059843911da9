"""Many requests at once, over many connections and two server processes."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger import chain
from ledger.database import Database
from ledger.installation import Installation
from ledger.store import EventStore
from ledger.verify import follow
from tests.harness import Ledger, Server


@pytest.fixture(scope="module")
def pair(server: Server, home: Path) -> Iterator[list[Server]]:
    """Two server processes on one ledger."""
    with Server(home) as other:
        yield [server, other]


async def _post_all(servers: list[Server], tenant: str, posts: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Posts everything over 64 connections, turn by turn at each server; 503 is tried again,
    as a sender would.
    """
    limits = httpx.Limits(max_connections=64)
    clients = [
        httpx.AsyncClient(base_url=s.url, headers={"X-Tenant-ID": tenant}, limits=limits, timeout=120)
        for s in servers
    ]
    answers: list[dict[str, Any]] = []
    queue = list(enumerate(posts))

    async def worker() -> None:
        while queue:
            number, (plural, body) = queue.pop()
            while True:
                client = clients[number % len(clients)]
                try:
                    response = await client.post(f"/v1/sync/{plural}", content=body)
                except httpx.ReadError:
                    continue  # an idle connection that was closed just now
                if response.status_code != 503:
                    break
            assert response.status_code == 200, response.text
            answers.append(response.json())

    await asyncio.gather(*(worker() for _ in range(64)))
    for client in clients:
        await client.aclose()
    return answers


async def test_three_thousand_triples(
    pair: list[Server], installation: Installation, database: Database, tenant: str
) -> None:
    """Students, classes and enrollments in random order: every enrollment is released
    (or applied) exactly once, and what is live equals a replay.
    """
    count = 3000
    posts = []
    for i in range(count):
        posts += [
            ("students", json.dumps({"id": f"S{i}", "Last_Name": "N"}).encode()),
            ("classes", json.dumps({"id": f"C{i}", "Class_Name": "A"}).encode()),
            ("enrollments", json.dumps({"id": f"E{i}", "Student": f"S{i}", "Class": f"C{i}"}).encode()),
        ]
    random.Random(7).shuffle(posts)
    answers = await _post_all(pair, tenant, posts)
    applied: Counter[str] = Counter()
    for answer in answers:
        applied.update(r["zoho_enrollment_id"] for r in answer.get("released", []))
        applied.update(
            r["zoho_enrollment_id"]
            for r in answer["results"]
            if "zoho_enrollment_id" in r and r["status"] == "NEW"
        )
    assert applied == Counter({f"E{i}": 1 for i in range(count)})
    ledger = Ledger(installation, database, tenant)
    store = EventStore(database, tenant, installation.master_key)
    previous, after = chain.GENESIS, 0
    while page := await store.events(after):
        previous, after = follow(previous, page), page[-1].position
    assert after == 3 * count
    live = await ledger.live()
    assert {row[2] for row in live.records} == {"active"}
    assert live == await ledger.rebuilt()


async def test_one_class_frees_ten_thousand(
    server: Server, installation: Installation, database: Database, tenant: str
) -> None:
    """In one transaction, in ledger order, complete."""
    count = 10_000
    async with httpx.AsyncClient(base_url=server.url, headers={"X-Tenant-ID": tenant}, timeout=120) as client:
        await client.post("/v1/sync/students", json={"id": "S"})
        for start in range(0, count, 1000):
            batch = [{"id": f"E{i}", "Student": "S", "Class": "C"} for i in range(start, start + 1000)]
            response = await client.post("/v1/sync/enrollments", json=batch)
            assert {r["status"] for r in response.json()["results"]} == {"SKIPPED"}
        body = (await client.post("/v1/sync/classes", json={"id": "C", "Class_Name": "A"})).json()
    assert [r["zoho_enrollment_id"] for r in body["released"]] == [f"E{i}" for i in range(count)]
    assert [r["position"] for r in body["released"]] == list(range(2, count + 2))
    ledger = Ledger(installation, database, tenant)
    live = await ledger.live()
    assert sum(row[2] == "active" for row in live.records) == count + 2
    assert live == await ledger.rebuilt()


async def test_two_hundred_posts_of_one_record(pair: list[Server], tenant: str) -> None:
    """One NEW; the others are its answer again."""
    body = json.dumps({"id": "P", "Product_Name": "x"}).encode()
    answers = await _post_all(pair, tenant, [("programs", body)] * 200)
    assert {a["results"][0]["status"] for a in answers} == {"NEW"}
    with pair[0].client(tenant) as client:
        assert len(client.get("/v1/audit/events").json()["items"]) == 1
