"""Rebuilding beside the live rows: the same rows, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import asyncpg
import httpx
import pytest
import uvicorn

from api.app import create_app
from ledger.errors import MissingEventError, OtherVersionError
from ledger.events import Event
from projections import rebuild as rebuilding
from projections.check import check
from projections.fold import CurrentState, Outcome
from projections.followers import Followers, Lease, LeaseLostError, position_of
from projections.queries import SQL
from projections.rebuild import Progress, Rebuild, Replay, bring_up_to_date, is_outdated, rebuild_follower
from projections.state import View
from projections.summary import SPANS, Summary
from tests.harness import ROOT, Ledger


def replay(ledger: Ledger, projection: CurrentState | None = None, **options: Any) -> Replay:
    """What replays of the test's tenant work with."""
    key = ledger.installation.master_key
    return Replay(
        ledger.database, ledger.tenant, key, projection or ledger.projection, [Summary()], **options
    )


async def story(ledger: Ledger, count: int = 30) -> None:
    """A history with every kind of outcome."""
    for number in range(count):
        await ledger.post(
            "enrollments", {"id": f"E{number}", "Student": f"S{number}", "Class": "C"}, {"id": "?"}
        )
        await ledger.post("students", {"id": f"S{number}", "Last_Name": "N"}, {"id": f"S{number}"})
        if number % 5 == 0:
            await ledger.post("classes", {"id": "C", "Class_Name": f"A{number}"})
        if number % 7 == 0:
            await ledger.post("classes", {"id": "C", "operation": "delete"}, 7)
    await followed(ledger)


async def followed(ledger: Ledger) -> None:
    """The summary has come to the head, by this process or by a server of this run."""
    runner = Followers(ledger.database, "default", [Summary()])
    runner._owner = "followed"  # or each call would wait until the lease of the last one is over
    while True:
        await runner.catch_up(ledger.tenant)
        position, generation, _ = await head(ledger)
        async with ledger.database.transaction(ledger.tenant) as connection:
            if await position_of(connection, ledger.tenant, Summary(), generation) == position:
                return


async def head(ledger: Ledger) -> Any:
    """Position, generation and version."""
    async with ledger.database.transaction(ledger.tenant) as connection:
        return await connection.fetchrow(
            "select position, generation, version from ledger.heads where tenant_id = $1", ledger.tenant
        )


async def everything(ledger: Ledger) -> dict[str, set[Any]]:
    """Every read-model row but for its generation."""
    return {table: await ledger.rows(table) for table in ("records", "links", "outcomes", "summary")}


async def consistent(ledger: Ledger) -> None:
    """The live rows are what a replay gives, and there are no others."""
    report = await check(replay(ledger))
    assert report.differences == []
    generation = (await head(ledger))["generation"]
    async with ledger.database.transaction(ledger.tenant) as connection:
        for table in ("records", "links", "outcomes"):
            found = await connection.fetch(
                f"select distinct generation from ledger.{table} where tenant_id = $1", ledger.tenant
            )
            assert [row["generation"] for row in found] in ([], [generation]), table


async def test_the_same_rows(ledger: Ledger) -> None:
    """A new generation with the same rows, one after the other; the lane goes on."""
    await story(ledger)
    before = await everything(ledger)
    for generation in (2, 3):
        assert await Rebuild(replay(ledger)).run() == (await head(ledger))["position"]
        assert (await head(ledger))["generation"] == generation
        assert await everything(ledger) == before
        await consistent(ledger)
    assert await ledger.statuses("students", {"id": "S1", "Last_Name": "M"}) == ["UPDATED"]
    await consistent(ledger)


async def test_an_empty_tenant(ledger: Ledger) -> None:
    """Nothing to fold is no obstacle."""
    await ledger.post("programs", {"id": "P", "Product_Name": "x"})
    await Rebuild(replay(ledger)).run()
    await consistent(ledger)


async def test_traffic_goes_on(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Posts before, during and behind each page, save and switch: none is lost or refused."""
    monkeypatch.setattr(rebuilding, "NEARLY", 3)
    monkeypatch.setattr(rebuilding, "SAVE_SECONDS", 0.0)
    await story(ledger, 10)
    posts: list[asyncio.Task[Any]] = []

    def tell(_: Progress) -> None:
        number = len(posts)
        if number < 20:
            records = [{"id": f"L{number}", "Last_Name": "x"}, {"id": "S1", "Last_Name": str(number)}]
            posts.append(asyncio.create_task(ledger.post("students", *records)))

    for _ in range(3):
        await Rebuild(replay(ledger, tell=tell)).run()
    for answer in await asyncio.gather(*posts):
        assert [r["status"] for r in answer["results"]] == ["NEW", "UPDATED"]
    await followed(ledger)
    await consistent(ledger)


class _CutError(Exception):
    pass


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
async def test_resumed(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    """One that was broken off goes on from what it had saved, and ends with the same rows."""
    monkeypatch.setattr("ledger.store._PAGE", 20)
    monkeypatch.setattr(rebuilding, "SAVE_SECONDS", 0.0)
    await story(ledger)
    before, told = await everything(ledger), 0

    def tell(_: Progress) -> None:
        nonlocal told
        told += 1
        if told == cut:
            raise _CutError

    with pytest.raises(_CutError):
        await Rebuild(replay(ledger, tell=tell)).run()
    assert (await head(ledger))["generation"] == 1
    assert await check(replay(ledger)) is not None
    total = (await head(ledger))["position"]
    assert await Rebuild(replay(ledger)).run() == total - 20 * (cut - 1)
    assert await everything(ledger) == before
    await consistent(ledger)


POINTS = {"filling": "ledger.outcomes", "saving": "ledger.records", "switching": "ledger.heads"}


@pytest.mark.parametrize("point", POINTS)
async def test_killed(ledger: Ledger, point: str) -> None:
    """SIGKILL of `sync-ledger replay` where it writes: the live rows are untouched, the next
    one does the work.
    """
    await story(ledger, 5)
    before = await everything(ledger)
    embedded = ledger.installation.embedded
    assert embedded is not None
    admin = await asyncpg.connect(embedded.dsn(), password=embedded.password())
    watcher = await asyncpg.connect(embedded.dsn(), password=embedded.password())
    await admin.execute("begin")
    if point == "switching":
        await admin.execute("select from ledger.heads where tenant_id = $1 for share", ledger.tenant)
    else:
        await admin.execute(f"lock table {POINTS[point]} in share mode")
    command = [sys.executable, "-m", "scripts.cli", "replay", "--tenant", ledger.tenant]
    environment = {**os.environ, "LEDGER_HOME": str(ledger.installation.settings.home)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    while not await watcher.fetchval("select exists (select from pg_locks where not granted)"):
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    await admin.execute("rollback")
    assert (await head(ledger))["generation"] == 1
    assert await ledger.statuses("students", {"id": "S1", "Last_Name": "N"}) == ["UNCHANGED"]
    await admin.execute("delete from ledger.leases where tenant_id = $1", ledger.tenant)  # it has run out
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    await followed(ledger)
    assert before["records"] - await ledger.rows("records") == {
        row for row in before["records"] if row[:2] == ("student", "S1")
    }
    await consistent(ledger)
    await admin.close()
    await watcher.close()


async def test_two_at_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one waits, and is refused while the first one lives."""
    monkeypatch.setattr(rebuilding, "LEASE_SECONDS", 0.2)
    await story(ledger, 2)
    async with ledger.database.transaction(ledger.tenant) as connection:
        assert await Lease(ledger.tenant, "rebuild", seconds=3600).take(connection)
    with pytest.raises(rebuilding.ReplayRunningError):
        await Rebuild(replay(ledger)).run()


class Shouting(CurrentState):
    """The next release: whoever is deleted is not there at all (the second version)."""

    version = CurrentState.version + 1

    def apply(self, view: View, event: Event, payload: Any) -> Outcome:
        """As before, but what was SKIPPED as stale is INVALID."""
        outcome = super().apply(view, event, payload)
        if outcome.reason == "stale":
            return Outcome("INVALID", errors=[("modified_time", "is stale")])
        return outcome


async def test_a_new_version_of_a_projection(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new process rebuilds while the old one serves; then the old one refuses to write."""
    stale = {"id": "S1", "Modified_Time": "2001-01-01T00:00:00Z"}
    await story(ledger, 5)
    await ledger.post("students", {**stale, "Modified_Time": "2002-01-01T00:00:00Z"})
    assert await ledger.statuses("students", stale) == ["SKIPPED"]
    new = Ledger(ledger.installation, ledger.database, ledger.tenant, projection=Shouting(ledger.entities))
    with pytest.raises(OtherVersionError) as refused:
        await new.post("students", stale)
    assert not refused.value.is_newer
    assert await is_outdated(replay(ledger, new.projection))

    monkeypatch.setattr("ledger.store._PAGE", 5)
    # two new processes at once: one of them does it
    told: list[str] = []
    work = [bring_up_to_date(replay(ledger, new.projection), told.append) for _ in range(2)]
    rebuilding_ = asyncio.ensure_future(asyncio.gather(*work))
    served = 0
    with contextlib.suppress(OtherVersionError):
        while not rebuilding_.done():  # the old process serves meanwhile
            await ledger.post("students", {"id": "S2", "Last_Name": str(served)})
            served += 1
    await rebuilding_
    assert set(told) == {f"rebuilding the read models of tenant {ledger.tenant}"}
    assert served
    assert tuple(await head(ledger))[1:] == (2, Shouting.version)  # one new generation, not two
    assert not await is_outdated(replay(ledger, new.projection))
    with pytest.raises(OtherVersionError) as refused:
        await ledger.post("students", {"id": "S3"})
    assert refused.value.is_newer
    assert await new.statuses("students", stale) == ["INVALID"]
    assert (await check(replay(ledger, new.projection))).differences == []
    rows = await ledger.rows("outcomes")
    assert not any(row[5] == "stale" for row in rows)
    await new.close()


class Failing(CurrentState):
    """A handler that fails on one name, until it is mended."""

    mended = False

    def apply(self, view: View, event: Event, payload: Any) -> Outcome:
        """Fails on `boom`."""
        if not self.mended and payload is not None and "boom" in payload.values.values():
            raise RuntimeError("boom")
        return super().apply(view, event, payload)


async def parked(ledger: Ledger) -> list[tuple[int, str]]:
    """Positions and reasons of what is parked."""
    async with ledger.database.transaction(ledger.tenant) as connection:
        rows = await connection.fetch(
            "select position, reason from ledger.parked where tenant_id = $1 order by position", ledger.tenant
        )
    return [tuple(row) for row in rows]


async def test_parked_events(ledger: Ledger) -> None:
    """A failed event stays out of every rebuild until it is retried; then it counts at its place."""
    failing = Failing(ledger.entities)
    ledger = Ledger(ledger.installation, ledger.database, ledger.tenant, projection=failing)
    assert await ledger.statuses("students", {"id": "S"}, {"id": "S", "Last_Name": "boom"}) == [
        "NEW",
        "ERROR",
    ]
    assert await ledger.statuses("students", {"id": "S", "First_Name": "A"}) == ["UPDATED"]
    await followed(ledger)
    await Rebuild(replay(ledger)).run()
    assert await parked(ledger) == [(2, "RuntimeError")]
    await consistent(ledger)
    await Rebuild(replay(ledger), retry_parked=True).run()
    assert await parked(ledger) == [(2, "RuntimeError")]
    failing.mended = True
    await Rebuild(replay(ledger)).run()
    assert await parked(ledger) == [(2, "RuntimeError")]  # not before it is asked for
    await Rebuild(replay(ledger), retry_parked=True).run()
    assert await parked(ledger) == []
    await consistent(ledger)
    [row] = [r for r in await ledger.rows("records") if r[0] == "student"]
    assert b'"last_name":"boom"' in row[-1]
    assert b'"first_name":"A"' in row[-1]
    await ledger.close()


async def test_one_follower_alone(ledger: Ledger) -> None:
    """The summary is counted anew in its place, whatever stood there."""
    await story(ledger, 5)
    before = await ledger.rows("summary")
    async with ledger.database.transaction(ledger.tenant) as connection:
        await connection.execute(
            "update ledger.summary set count = count + 1 where tenant_id = $1", ledger.tenant
        )
    assert (await check(replay(ledger))).differences
    await rebuild_follower(replay(ledger), Summary())
    assert await ledger.rows("summary") == before
    await consistent(ledger)
    async with ledger.database.transaction(ledger.tenant, snapshot=True) as connection:
        counts = await Summary().counts(connection, ledger.tenant, None, None, SPANS["day"])
    assert sum(item["count"] for item in counts) == (await head(ledger))["position"]


async def test_a_new_version_over_http(ledger: Ledger) -> None:
    """A college that an older process made is rebuilt when its first request comes, which is
    told to come again; `ready` says so meanwhile.
    """
    await story(ledger, 3)
    await ledger.post("students", {"id": "S1", "Modified_Time": "2002-01-01T00:00:00Z"})
    app = create_app(ledger.installation, ledger.entities, Shouting(ledger.entities))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    serving = asyncio.create_task(server.serve([listening]))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    headers = {"X-Tenant-ID": ledger.tenant}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        record = {"id": "S1", "Modified_Time": "2001-01-01T00:00:00Z"}
        first = await client.post("/v1/sync/students", json=record)
        assert (first.status_code, first.headers["retry-after"]) == (503, "2")
        assert "another release" in first.json()["detail"]
        assert (await client.get("/v1/students/S1")).status_code == 200  # reading goes on
        while (again := await client.post("/v1/sync/students", json=record)).status_code == 503:
            await asyncio.sleep(0.01)
        assert again.json()["results"][0]["status"] == "INVALID"
        degraded = (await client.get("/v1/ready")).json()["degraded"]
        assert [d for d in degraded if d["part"] != "statuses"] == []  # those are of other tests' tenants
    server.should_exit = True
    await serving
    with pytest.raises(OtherVersionError):
        await ledger.post("students", record)


async def test_more_keys_than_are_kept(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come and go with the pages; a value is null only where its key was destroyed."""
    monkeypatch.setattr("ledger.store._PAGE", 7)
    monkeypatch.setattr("ledger.unseal.CACHED_KEYS", 8)
    for version in range(6):
        people = [{"id": f"S{n}", "Last_Name": f"L{n}-{version}"} for n in range(12)]
        await ledger.post("students", *people)
    await followed(ledger)
    before = await everything(ledger)
    await consistent(ledger)
    await Rebuild(replay(ledger)).run()
    assert await everything(ledger) == before


@pytest.mark.parametrize("gone", [3, 20])
async def test_an_event_that_is_missing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, gone: int) -> None:
    """At the end or in the middle: neither check nor rebuild ends well, and nothing is switched."""
    monkeypatch.setattr(rebuilding, "NEARLY", 2)
    await ledger.post("students", *({"id": f"S{n}"} for n in range(20)))
    embedded = ledger.installation.embedded
    assert embedded is not None
    admin = await asyncpg.connect(embedded.dsn(), password=embedded.password())
    await admin.execute(
        "delete from ledger.events where tenant_id = $1 and position >= $2", ledger.tenant, gone
    )
    await admin.close()
    for work in (check(replay(ledger)), Rebuild(replay(ledger)).run()):
        with pytest.raises(MissingEventError, match=f"position {gone} "):
            await work
    assert (await head(ledger))["generation"] == 1


async def test_what_a_follower_has_parked(ledger: Ledger) -> None:
    """A rebuild counts it with all the rest, so it is not parked any more."""
    await story(ledger, 2)
    async with ledger.database.transaction(ledger.tenant) as connection:
        await connection.execute(SQL["park"], ledger.tenant, "summary", "student-S1", 4, "x", 0)
        await connection.execute(
            "update ledger.summary set count = count - 1 where tenant_id = $1 and status = 'NEW'"
            " and entity = 'student'", ledger.tenant,
        )  # fmt: skip
    await Rebuild(replay(ledger)).run()
    assert await parked(ledger) == []
    await consistent(ledger)


async def test_one_follower_alone_under_traffic(ledger: Ledger) -> None:
    """Its own lease is held by a server that follows; it is made anew all the same, and goes on."""
    await story(ledger, 3)
    async with ledger.database.transaction(ledger.tenant) as connection:
        await connection.execute(
            "insert into ledger.leases values ($1, 'summary', 'a server', now() + interval '1 hour')"
            " on conflict (tenant_id, name) do update set owner = excluded.owner, until = excluded.until",
            ledger.tenant,
        )
    await ledger.post("students", {"id": "late"})
    applied = await rebuild_follower(replay(ledger), Summary())
    assert applied == (await head(ledger))["position"]
    async with ledger.database.transaction(ledger.tenant) as connection:
        await connection.execute("delete from ledger.leases where tenant_id = $1", ledger.tenant)
    await ledger.post("students", {"id": "later"})
    await followed(ledger)
    await consistent(ledger)


async def test_a_rebuild_that_slept(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stood still behind its switch, while another one switched again, removes nothing
    that is live.
    """
    await story(ledger, 3)
    before = await everything(ledger)
    remove, slept = Rebuild._remove, False

    async def sleep_first(self: Rebuild, old: int) -> None:
        nonlocal slept
        if not slept:
            slept = True
            async with ledger.database.transaction(ledger.tenant) as connection:  # it has run out
                await connection.execute("delete from ledger.leases where tenant_id = $1", ledger.tenant)
            await Rebuild(replay(ledger)).run()
        await remove(self, old)

    monkeypatch.setattr(Rebuild, "_remove", sleep_first)
    with pytest.raises(LeaseLostError):
        await Rebuild(replay(ledger)).run()
    assert (await head(ledger))["generation"] == 3
    assert await everything(ledger) == before
    await consistent(ledger)


async def test_resumed_with_another_follower(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that the killed rebuild did not know has no history in what that one saved."""
    await story(ledger, 3)

    async def broken(_: Rebuild) -> int:
        raise _CutError

    with monkeypatch.context() as patch:
        patch.setattr(Rebuild, "_switch", broken)
        with pytest.raises(_CutError):
            await Rebuild(replay(ledger)).run()
    monkeypatch.setattr(Summary, "version", 2)
    assert await Rebuild(replay(ledger)).run() == (await head(ledger))["position"]
    report = await check(replay(ledger))
    assert report.differences == []


async def test_a_follower_and_a_replay_do_not_block_each_other(ledger: Ledger) -> None:
    """Both lock the checkpoint first: no deadlock, and nothing counted twice."""
    await story(ledger, 3)
    await ledger.post("students", {"id": "late"})
    inside, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Summary):
        name = "slow"
        version = 8

        async def write(self, connection: Any, tenant_id: str, generation: int, batch: Any) -> None:
            await super().write(connection, tenant_id, generation, batch)
            if not inside.is_set():
                inside.set()
                await go_on.wait()

    slow = Slow()
    runner = Followers(ledger.database, "default", [slow])
    following = asyncio.create_task(runner.step(ledger.tenant, slow))
    await inside.wait()
    rebuilding_ = asyncio.create_task(rebuild_follower(replay(ledger), slow))
    async with ledger.database.transaction(ledger.tenant) as connection:
        while not await connection.fetchval("select exists (select from pg_locks where not granted)"):
            await asyncio.sleep(0.01)
    go_on.set()
    await asyncio.gather(following, rebuilding_)
    counts = [row for row in await ledger.rows("summary") if row[0] == 8]
    assert sum(row[-1] for row in counts) == (await head(ledger))["position"]
