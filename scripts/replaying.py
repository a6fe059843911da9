"""`sync-ledger replay`: rebuilds, checks and repairs read models, tenants side by side."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import msgspec

from ledger.settings import Settings
from projections.check import Report, SwitchedError, check
from projections.followers import Followers
from projections.queries import SQL
from projections.rebuild import Progress, Rebuild, ReplayRunningError, rebuild_follower
from projections.replay import AlteredError
from scripts.opened import CommandError, Opened, opened
from scripts.output import Meter, print_json, print_table

PROJECTIONS = ("state", "summary")
REFUSALS = (ReplayRunningError, SwitchedError, AlteredError)


class Work(msgspec.Struct, frozen=True):
    """What is to be done for each tenant."""

    projection: str | None = None
    check: bool = False
    parked: bool = False


class Done(msgspec.Struct):
    """What was done for one tenant."""

    tenant: str
    events: int = 0
    seconds: float = 0.0
    report: Report | None = None
    applied: int = 0
    left: int = 0


async def replay_all(
    ledger: Opened, tenant: str | None, work: Work, jobs: int | None, *, as_json: bool
) -> int:
    """Replays one tenant or all of them; the exit code."""
    names = await ledger.tenants(tenant)
    workers = min(jobs or os.cpu_count() or 1, len(names))
    with Meter("checking" if work.check else "replaying") as meter:
        if workers <= 1:
            done = [await _one(ledger, name, work, meter.tell) for name in names]
        else:
            done = await asyncio.to_thread(_in_processes, ledger.settings, names, work, workers, meter)
    return _print_checks(done, as_json=as_json) if work.check else _print_replays(done, as_json=as_json)


async def _one(ledger: Opened, name: str, work: Work, tell: Any) -> Done:
    def hear(progress: Progress) -> None:
        tell(progress.tenant_id, progress.position, progress.head)

    replay = ledger.replay(name, hear)
    done = Done(name)
    started = time.monotonic()
    try:
        if work.check:
            done.report = await check(replay)
        elif work.projection == "summary":
            [follower] = replay.followers
            done.events = await rebuild_follower(replay, follower)
        else:
            before = await _parked(ledger, name)
            rebuild = Rebuild(replay, retry_parked=work.parked)
            done.events = await rebuild.run()
            done.seconds = rebuild.seconds
            if work.parked:
                done.left = await _parked(ledger, name)
                done.applied = before - done.left
                followers = Followers(ledger.database, name, replay.followers)
                for follower in replay.followers:
                    applied, left = await followers.retry_parked(name, follower)
                    done.applied += applied
                    done.left += left
    except REFUSALS as error:
        raise CommandError(str(error)) from None
    done.seconds = done.seconds or time.monotonic() - started
    return done


async def _parked(ledger: Opened, name: str) -> int:
    async with ledger.database.transaction(name) as connection:
        count: int = await connection.fetchval(SQL["count_parked"], name, "state")
    return count


_progress: Any = None


def _remember(queue: Any) -> None:
    global _progress  # noqa: PLW0603  (what a worker process is given once)
    _progress = queue


def _work(settings: Settings, name: str, work: Work) -> Done:
    async def command() -> Done:
        async with opened(settings) as ledger:
            return await _one(ledger, name, work, lambda *told: _progress.put(told))

    return asyncio.run(command())


def _in_processes(settings: Settings, names: list[str], work: Work, workers: int, meter: Meter) -> list[Done]:
    """Each tenant in a process of its own, so many at once."""
    context = multiprocessing.get_context("spawn")
    queue: Any = context.SimpleQueue()

    def listen() -> None:
        while (told := queue.get()) is not None:
            meter.tell(*told)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    with ProcessPoolExecutor(workers, context, _remember, (queue,)) as pool:
        futures = [pool.submit(_work, settings, name, work) for name in names]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            queue.put(None)


def _print_replays(done: list[Done], *, as_json: bool) -> int:
    if as_json:
        print_json({"tenants": [_shown(d) for d in done]})
        return 0
    for each in done:
        rate = each.events / each.seconds if each.seconds else 0
        parked = (
            f", {each.applied} parked events applied, {each.left} still parked"
            if each.applied or each.left
            else ""
        )
        print(f"{each.tenant}: {each.events:,} events in {each.seconds:.1f} s ({rate:,.0f} events/s){parked}")
    return 0


def _shown(done: Done) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(done)
    del shown["report"]
    return shown


def _print_checks(done: list[Done], *, as_json: bool) -> int:
    reports = [(each.tenant, each.report) for each in done if each.report is not None]
    found = [(name, difference) for name, report in reports for difference in report.differences]
    if as_json:
        print_json(
            {
                "rows": sum(report.rows for _, report in reports),
                "differences": [{**msgspec.to_builtins(d), "tenant": name} for name, d in found],
            }
        )
        return 1 if found else 0
    for name, report in reports:
        what = (
            f"{len(report.differences)} differences" if report.differences else "all as a replay gives them"
        )
        print(f"{name}: {report.rows:,} rows, {what}", file=sys.stdout if not found else sys.stderr)
    if found:
        columns = ("tenant", "table", "entity", "zoho_id", "field", "live", "rebuilt")
        print_table(
            columns,
            [(name, *(getattr(difference, column) for column in columns[1:])) for name, difference in found],
        )
    return 1 if found else 0
