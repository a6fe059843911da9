"""`sync-ledger replay`: rebuilds, checks and repairs read models, tenants side by side.

Several tenants are worked on by processes of their own (this module, run as a program),
which report in lines of JSON and end with the one that started them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from projections.check import Report, check
from projections.followers import Followers
from projections.queries import SQL
from projections.rebuild import Progress, Rebuild, rebuild_follower
from projections.unread import Unread
from scripts.opened import Opened, run
from scripts.output import Meter, harmless, one_line, print_json, print_table
from scripts.server import die_with
from scripts.streams import open_standard_streams

NAMED = 20
"""So many records that cannot be read are named in words; JSON names all."""
TABLES = {"state": ("records", "links", "outcomes"), "summary": ("summary",)}

Tell = Callable[[str, int, int], None]


class Work(msgspec.Struct, frozen=True):
    """What is to be done for each tenant."""

    projection: str | None = None
    check: bool = False
    parked: bool = False


class Done(msgspec.Struct):
    """What was done for one tenant. `left`: events that are parked; `unread`: records of which not
    everything could be read; `error`: why it was not done.
    """

    tenant: str
    events: int = 0
    seconds: float = 0.0
    applied: int = 0
    left: int = 0
    unread: list[Unread] = []
    report: Report | None = None
    error: str | None = None


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
            limit = asyncio.Semaphore(workers)
            done = await asyncio.gather(*(_in_a_process(name, work, meter.tell, limit) for name in names))
    for each in done:
        if each.error is not None:
            print(f"sync-ledger: {harmless(each.error)}", file=sys.stderr)
        _print_unread(each, work)
    code = _print_checks(done, as_json=as_json) if work.check else _print_replays(done, as_json=as_json)
    return 1 if any(each.error or each.unread for each in done) else code


async def _one(ledger: Opened, name: str, work: Work, tell: Tell) -> Done:
    done = Done(name)
    started = time.monotonic()
    try:
        await _replay(ledger, work, done, tell)
    except Exception as error:  # noqa: BLE001  (one college never stops the others)
        done.error = one_line(error)
    done.seconds = done.seconds or time.monotonic() - started
    return done


async def _replay(ledger: Opened, work: Work, done: Done, tell: Tell) -> None:
    def hear(progress: Progress) -> None:
        tell(progress.tenant_id, progress.position, progress.head)

    name = done.tenant
    replay = ledger.replay(name, hear)
    if work.check:
        done.report = await check(replay)
        done.unread = done.report.unread
        if work.projection is not None:
            tables = TABLES[work.projection]
            done.report.differences = [d for d in done.report.differences if d.table in tables]
        return
    before = await _parked(ledger, name)
    if work.projection == "summary":
        [follower] = replay.followers
        done.events = await rebuild_follower(replay, follower)
    else:
        rebuild = Rebuild(replay, retry_parked=work.parked)
        done.events = await rebuild.run()
        done.seconds, done.unread = rebuild.seconds, rebuild.unread
    if work.parked:
        followers = Followers(ledger.database, name, replay.followers)
        for follower in replay.followers:
            await followers.retry_parked(name, follower)
    done.left = await _parked(ledger, name)
    done.applied = max(0, before - done.left)


async def _parked(ledger: Opened, name: str) -> int:
    async with ledger.database.transaction(name) as connection:
        rows = await connection.fetch(SQL["parked_by_follower"], name)
    return sum(row["count"] for row in rows)


async def _in_a_process(name: str, work: Work, tell: Tell, limit: asyncio.Semaphore) -> Done:
    async with limit:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "scripts.replaying", name, msgspec.json.encode(work).decode(),
            str(os.getpid()), stdout=asyncio.subprocess.PIPE, start_new_session=True,
            cwd=Path.cwd(), limit=2**30,
        )  # fmt: skip
        assert process.stdout is not None
        done = Done(name, error=f"the replay of tenant {name} was broken off")
        try:
            async for line in process.stdout:
                told = msgspec.json.decode(line)
                if isinstance(told, list):
                    tell(*told)
                else:
                    done = msgspec.convert(told, Done)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        return done


def main() -> None:
    """`python -m scripts.replaying TENANT WORK PARENT`: one tenant's part."""
    open_standard_streams()
    name, text, parent = sys.argv[1:]
    die_with(int(parent), signal.SIGKILL)
    work = msgspec.json.decode(text, type=Work)

    def say(value: Any) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
        sys.stdout.buffer.flush()

    async def command(ledger: Opened) -> Done:
        return await _one(ledger, name, work, lambda *told: say(told))

    try:
        say(run(command))
    except Exception as error:  # noqa: BLE001  (a traceback is not for the people who run this)
        say(Done(name, error=one_line(error)))


def _print_unread(done: Done, work: Work) -> None:
    for record in done.unread[:NAMED]:
        since = f" (since position {record.position})" if record.position is not None else ""
        what = f"{record.entity} {record.zoho_id}: {record.problem}{since}"
        print(f"sync-ledger: {done.tenant}: {harmless(what)}", file=sys.stderr)
    if done.unread:
        more = f", {len(done.unread) - NAMED} more are not named here" if done.unread[NAMED:] else ""
        kept = "could not be compared" if work.check else "were taken from the rows that were live before"
        print(
            f"sync-ledger: {done.tenant}: the values of {len(done.unread)} records cannot be read{more}: they "
            f"{kept}; put back what is damaged from a backup (see docs/prove.md), then run replay --parked",
            file=sys.stderr,
        )


def _print_replays(done: list[Done], *, as_json: bool) -> int:
    if as_json:
        print_json({"tenants": [_shown(d) for d in done]})
        return 0
    for each in done:
        if each.error is not None:
            continue
        rate = each.events / each.seconds if each.seconds else 0
        parked = f"; {each.applied} parked events applied" if each.applied else ""
        parked += f"; {each.left} events are parked: see sync-ledger replay --help" if each.left else ""
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
                "unread": [
                    {**msgspec.to_builtins(u), "tenant": each.tenant} for each in done for u in each.unread
                ],
                "errors": [{"tenant": each.tenant, "error": each.error} for each in done if each.error],
            }
        )
        return 1 if found else 0
    for name, report in reports:
        count = len(report.differences)
        what = f"{count} difference{'s' * (count > 1)}" if count else "all as a replay gives them"
        print(f"{name}: {report.rows:,} rows, {what}", file=sys.stdout if not found else sys.stderr)
    if found:
        columns = ("tenant", "table", "entity", "zoho_id", "field", "live", "rebuilt")
        print_table(
            columns,
            [(name, *(getattr(difference, column) for column in columns[1:])) for name, difference in found],
        )
    return 1 if found else 0


if __name__ == "__main__":
    main()
