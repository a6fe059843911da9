"""Lanes under failure: what was answered is there, what was not leaves no trace."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Coroutine, Generator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from ledger import chain
from ledger import lane as lane_module
from ledger.cache import Budget
from ledger.database import Database
from ledger.errors import DatabaseAwayError, KeyConflictError, KeyInFlightError, QueueFullError
from ledger.events import Event, RecordReceived
from ledger.installation import Installation
from ledger.store import tidy
from ledger.verify import follow
from projections.fold import CurrentState, Outcome
from projections.state import View
from tests.harness import Ledger
from tests.integration.test_store import events

ENROLLMENT = {"id": "E", "Student": "S", "Class": "C"}
PROGRAM = {"id": "P", "Product_Name": "x"}


async def consistent(ledger: Ledger) -> list[Event]:
    """Positions, chain and read models agree; answers every event."""
    found = await events(ledger)
    assert [e.position for e in found] == list(range(1, len(found) + 1))
    follow(chain.GENESIS, found)
    assert await ledger.live() == await ledger.rebuilt()
    return found


async def settled(database: Database) -> None:
    """Returns when the server has ended the sessions of connections that were terminated: what they
    had sent may have been done after that.
    """
    gone = [c.name for c in database._watch._connections if c.is_closed()]
    async with database.connection() as connection:
        while await connection.fetchval(
            "select exists (select from pg_stat_activity where application_name = any ($1))", gone
        ):
            await asyncio.sleep(0)


class _Cut:
    """Awaits a coroutine and cancels it at its k-th suspension."""

    def __init__(self, inner: Coroutine[Any, Any, Any], at: int) -> None:
        self._inner, self._at = inner, at

    def __await__(self) -> Generator[Any, Any, Any]:
        step = self._inner.__await__()
        suspensions, resume = 0, lambda: next(step)
        while True:
            try:
                waits_for = resume()
            except StopIteration as end:
                return end.value
            suspensions += 1
            if suspensions == self._at and waits_for is not None:
                waits_for.cancel()
            try:
                yield waits_for
                if suspensions == self._at and waits_for is None:
                    raise asyncio.CancelledError  # noqa: TRY301
                resume = lambda: next(step)  # noqa: E731
            except BaseException as error:  # noqa: BLE001
                resume = lambda error=error: step.throw(error)  # noqa: E731


@pytest.mark.parametrize("contended", [False, True])
async def test_cancelled_at_every_suspension(ledger: Ledger, contended: bool) -> None:
    """The append is cancelled at its 1st, 2nd, ... suspension until it completes: no half
    state, no stuck lane, and the same key tells what became of it.
    """
    await ledger.post("students", {"id": "S"})
    await ledger.post("enrollments", ENROLLMENT)
    other = ledger.new_lane()
    completed = False
    suspension = 1
    assert ledger.database._watching is not None
    ledger.database._watching.cancel()  # so that it keeps what was terminated
    while not completed:
        if contended:  # the head moves, so the lane takes its locked path
            await other.submit(ledger.delivery("programs", [{**PROGRAM, "Price": suspension}]))
        delivery = ledger.delivery("classes", [{"id": "C", "Class_Name": "A"}], f"k{suspension}")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiting = lane_module._Waiting(delivery, future, delivery.size)
        cut = _Cut(ledger.lane.flush([waiting]), suspension)

        async def run(cut: _Cut = cut) -> None:
            await cut

        try:
            await asyncio.create_task(run())
        except asyncio.CancelledError:
            # answered already (the connection was on its way back), or told to ask again
            assert future.exception() is None or isinstance(future.exception(), DatabaseAwayError)
        else:
            completed = True
            assert json.loads(future.result().body)["results"][0]["status"]
        await settled(ledger.database)
        before = len(await consistent(ledger))
        again = await ledger.submit("classes", [{"id": "C", "Class_Name": "A"}], f"k{suspension}")
        found = await consistent(ledger)
        assert len(found) == (before if again.replayed else before + 1)
        suspension += 1
    assert suspension > 3
    assert sum(e.zoho_id == "C" and e.entity == "class" for e in found) == suspension - 1
    await other.close()


async def test_a_client_that_leaves_changes_nothing(ledger: Ledger) -> None:
    """A request that is cancelled while its flush runs is recorded; the next ones go on."""
    posts = [asyncio.create_task(ledger.submit("programs", [{**PROGRAM, "id": str(i)}])) for i in range(20)]
    await asyncio.sleep(0)
    for post in posts[::2]:
        post.cancel()
    done = await asyncio.gather(*posts, return_exceptions=True)
    kept = [d for d in done if not isinstance(d, BaseException)]
    assert len(kept) == 10
    assert len(await consistent(ledger)) >= 10


async def test_one_bad_request_fails_alone(ledger: Ledger) -> None:
    """Others of its batch are recorded."""

    def poisoned(delivery: Any, results: Any) -> Any:
        if delivery.records[0].zoho_id == "POISON":
            raise ValueError("poison")
        return render(delivery, results)

    render, ledger.lane._render = ledger.lane._render, poisoned
    ids = ["a", "POISON", "b"]
    posts = [ledger.submit("programs", [{**PROGRAM, "id": i}]) for i in ids]
    done = await asyncio.gather(*posts, return_exceptions=True)
    assert [isinstance(d, DatabaseAwayError) for d in done] == [False, True, False]
    assert [e.zoho_id for e in await consistent(ledger)] == ["a", "b"]


class _Failing(CurrentState):
    """A projection with a defect."""

    def apply(self, view: View, event: Event, payload: RecordReceived | None) -> Outcome:
        outcome = super().apply(view, event, payload)
        if payload is not None and payload.values.get("name") == "BOOM":
            raise RuntimeError("a defect")
        return outcome


async def test_a_failing_handler(installation: Installation, database: Database, tenant: str) -> None:
    """ERROR: recorded and parked, state untouched, the answer not remembered."""
    ledger = Ledger(
        installation, database, tenant, projection=_Failing(Ledger(installation, database, tenant).entities)
    )
    await ledger.post("programs", PROGRAM)
    boom = [{**PROGRAM, "Product_Name": "BOOM"}, {**PROGRAM, "id": "Q"}]
    first = await ledger.submit("programs", boom)
    assert [r["status"] for r in json.loads(first.body)["results"]] == ["ERROR", "NEW"]
    assert b"defect" not in first.body
    again = await ledger.submit("programs", boom)
    assert not again.replayed
    assert [r["status"] for r in json.loads(again.body)["results"]] == ["ERROR", "UNCHANGED"]
    [row] = [row for row in await ledger.rows("records") if row[1] == "P"]
    assert row[2:5] == ("active", 3, 1)
    async with database.transaction(tenant) as connection:
        parked = await connection.fetch(
            "select stream, position, reason from ledger.parked where tenant_id = $1", tenant
        )
    assert [tuple(p) for p in parked] == [("program-P", 2, "RuntimeError"), ("program-P", 4, "RuntimeError")]
    await ledger.post("programs", {**PROGRAM, "Product_Name": "fine"})
    assert len(await events(ledger)) == 6
    assert await ledger.live() == await ledger.rebuilt()
    await ledger.close()


async def test_full_queue(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused at once; what was queued is recorded."""
    monkeypatch.setattr(lane_module, "QUEUE_RECORDS", 5)
    posts = [asyncio.create_task(ledger.submit("programs", [{**PROGRAM, "id": str(i)}])) for i in range(30)]
    done = await asyncio.gather(*posts, return_exceptions=True)
    refused = [d for d in done if isinstance(d, QueueFullError)]
    assert 0 < len(refused) < 30
    assert len(await consistent(ledger)) == 30 - len(refused)


async def test_a_lane_lets_go_of_every_delivery_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answered, refused, given up while another process holds the head, or cut off: not before the
    lane keeps it no longer.
    """
    let_go: list[str] = []

    def delivery(name: str) -> lane_module.Delivery:
        delivery = ledger.delivery("programs", [{**PROGRAM, "id": name}], name)
        delivery.let_go = lambda: let_go.append(name)
        return delivery

    await ledger.lane.submit(delivery("answered"))
    assert let_go == ["answered"]
    monkeypatch.setattr(lane_module, "QUEUE_RECORDS", 2)
    monkeypatch.setattr(lane_module, "WAIT_SECONDS", 0.1)
    async with ledger.database.transaction(ledger.tenant) as connection:
        await connection.execute("select from ledger.heads where tenant_id = $1 for update", ledger.tenant)
        first = asyncio.create_task(ledger.lane.submit(delivery("in flight")))
        while not ledger.lane._in_flight:
            await asyncio.sleep(0)
        names = ["queued", "queued, too", "refused"]
        outcomes = await asyncio.gather(
            first, *(ledger.lane.submit(delivery(n)) for n in names), return_exceptions=True
        )
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [DatabaseAwayError, DatabaseAwayError, DatabaseAwayError, QueueFullError]
        assert let_go == ["answered", "refused"]
    while ledger.lane._in_flight or ledger.lane._queue:
        await asyncio.sleep(0.001)
    assert sorted(let_go) == ["answered", "in flight", "queued", "queued, too", "refused"]
    last = asyncio.create_task(ledger.lane.submit(delivery("cut off")))
    while not ledger.lane._in_flight:
        await asyncio.sleep(0)
    assert ledger.lane._task is not None
    ledger.lane._task.cancel()
    await asyncio.gather(last, ledger.lane._task, return_exceptions=True)
    ledger.lane = ledger.new_lane()
    assert let_go[-1] == "cut off"
    assert len(let_go) == 6


async def test_same_key_at_once(ledger: Ledger) -> None:
    """Two hundred posts of one record under one key: one event, one answer, also over two
    processes; another body under the key is refused.
    """
    other = ledger.new_lane()
    delivery = [PROGRAM]
    posts = [lane.submit(ledger.delivery("programs", delivery, "k")) for lane in [ledger.lane, other] * 100]
    answers = await asyncio.gather(*posts)
    assert len({a.body for a in answers}) == 1
    assert sum(not a.replayed for a in answers) == 1
    with pytest.raises(KeyConflictError):
        await ledger.submit("programs", [{**PROGRAM, "Price": "6"}], "k")
    assert len(await consistent(ledger)) == 1
    await other.close()


@asynccontextmanager
async def _breaking(database: Database, when: str) -> AsyncIterator[list[int]]:
    """The next append's connection breaks before or after the database has done it."""
    broken: list[int] = []
    real = lane_module.append

    async def append(connection: Any, *arguments: Any) -> str:
        if broken:
            return await real(connection, *arguments)
        broken.append(1)
        if when == "after":
            await real(connection, *arguments)
        connection.terminate()
        raise asyncpg.ConnectionDoesNotExistError("connection was closed")

    lane_module.append = append  # type: ignore[assignment]
    try:
        yield broken
    finally:
        lane_module.append = real
    del database


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("key", ["k", None])
async def test_connection_breaks_around_the_commit(ledger: Ledger, when: str, key: str | None) -> None:
    """Whether the commit happened is found out: recorded once, answered as recorded."""
    await ledger.post("programs", {**PROGRAM, "id": "first"})
    async with _breaking(ledger.database, when) as broken:
        answer = await ledger.submit("programs", [PROGRAM], key)
    assert broken
    assert not answer.replayed
    [result] = json.loads(answer.body)["results"]
    assert (result["status"], result["position"]) == ("NEW", 2)
    assert len(await consistent(ledger)) == 2


async def test_first_request_under_a_key_has_no_answer(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process holds the head: the first request gives up as the database's fault, the
    second one, under the same key, because of the first. Later the key works.
    """
    await ledger.post("programs", {**PROGRAM, "id": "first"})
    monkeypatch.setattr(lane_module, "WAIT_SECONDS", 0.3)
    async with ledger.database.transaction(ledger.tenant) as connection:
        await connection.execute("select from ledger.heads where tenant_id = $1 for update", ledger.tenant)
        posts = [ledger.submit("programs", [PROGRAM], "k") for _ in range(2)]
        first, second = await asyncio.gather(*posts, return_exceptions=True)
    assert isinstance(first, DatabaseAwayError)
    assert isinstance(second, KeyInFlightError | DatabaseAwayError)
    monkeypatch.setattr(lane_module, "WAIT_SECONDS", 30)
    await ledger.submit("programs", [PROGRAM], "k")
    assert [e.zoho_id for e in await consistent(ledger)] == ["first", "P"]


async def test_commit_of_an_answer_that_is_not_remembered(ledger: Ledger) -> None:
    """Nothing tells its sender what it led to, but it is not recorded twice."""
    ledger.lane._ttl = 0
    async with _breaking(ledger.database, "after"):
        with pytest.raises(DatabaseAwayError):
            await ledger.submit("programs", [PROGRAM], "k")
    assert len(await consistent(ledger)) == 1


async def test_a_senders_key_cannot_take_a_derived_ones_place(ledger: Ledger) -> None:
    """Even when it is the very key that the other body's answer would echo."""
    derived = ledger.delivery("programs", [PROGRAM]).key
    await ledger.submit("programs", [{**PROGRAM, "id": "Q"}], derived)
    answer = await ledger.submit("programs", [PROGRAM])
    assert json.loads(answer.body)["results"][0]["status"] == "NEW"


async def test_more_busy_tenants_than_connections(installation: Installation, database: Database) -> None:
    """They take turns; nobody is told that the database is away."""
    del database
    small = Database(installation.application, size=2)
    await small.open()
    ledgers = [Ledger(installation, small, f"t-{uuid.uuid4().hex[:12]}") for _ in range(8)]
    posts = [
        ledger.submit("programs", [{**PROGRAM, "id": f"{n}-{i}"} for i in range(200)], f"{n}")
        for n in range(8)
        for ledger in ledgers
    ]
    await asyncio.gather(*posts)
    for ledger in ledgers:
        await ledger.close()
    await small.close()


async def test_answers_expire(ledger: Ledger) -> None:
    """After its time a key is free again."""
    ledger.lane._ttl = 1
    await ledger.submit("programs", [PROGRAM], "k")
    again = await ledger.submit("programs", [{**PROGRAM, "Price": "6"}], "k")
    assert json.loads(again.body)["results"][0]["status"] == "UPDATED"
    async with ledger.database.transaction(ledger.tenant) as connection:
        [second] = await connection.fetch("select expires_at from ledger.idempotency")
        for now, left in ((second["expires_at"] - 1, 1), (second["expires_at"], 0)):
            assert await tidy(connection, ledger.tenant[:-1], 1, now, 0) == ledger.tenant
            assert await connection.fetchval("select count(*) from ledger.idempotency") == left


async def test_empty_state_cache_gives_the_same(ledger: Ledger) -> None:
    """The cache is an optimisation: without it every answer is the same."""
    ledger.lane._budget = Budget(0)
    await ledger.post("enrollments", ENROLLMENT)
    await ledger.post("students", {"id": "S"})
    body = await ledger.post("classes", {"id": "C", "Class_Name": "A"})
    assert body["released"] == [{"zoho_enrollment_id": "E", "status": "NEW", "position": 1}]
    await consistent(ledger)
