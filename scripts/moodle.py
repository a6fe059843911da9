"""`sync-ledger moodle`: look at a Moodle, bring it to the wanted state, see what it refused."""

from __future__ import annotations

import asyncio
import contextlib
import json as json_
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from ledger import clock
from ledger.lane import Lane
from ledger.settings import TenantSettings
from ledger.zoho.entities import ENTITIES
from projections.fold import CurrentState
from projections.moodle.check import check as look_into
from projections.moodle.client import MoodleError
from projections.moodle.known import some_records
from projections.moodle.report import Report, Reporter
from projections.moodle.turn import Turn, ask_for
from projections.moodle.wanted import report_name
from projections.moodle.whole import Whole
from projections.moodle.whole import failed as failed_records
from projections.moodle.worker import Worker
from projections.queries import SQL
from projections.state import Name
from scripts.opened import CommandError, Opened, instant, run
from scripts.output import Meter, console, harmless, print_json, print_table
from scripts.server import configure_logging

app = App(name="moodle")

Tenant = Annotated[str | None, Parameter(help="the college (default: DEFAULT_TENANT_ID)")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="one JSON document")]
Yes = Annotated[bool, Parameter(negative="", help="do not ask")]
Prune = Annotated[
    bool,
    Parameter(negative="", help="also take away seats in the ledger's courses that it does not know"),
]

_SHOWN = 20
"""So many items of each kind are printed where nobody asks for JSON."""
_TITLES = {
    "update_users": "accounts to change",
    "create_users": "accounts to make",
    "create_courses": "courses to make",
    "suspend": "seats to suspend",
    "unenrol": "seats to take away",
    "enrol": "seats to give",
    "unknown_to_ledger": "seats that the ledger does not know",
    "blocked": "cannot be done",
}


def _moodle_of(ledger: Opened, tenant_id: str) -> TenantSettings:
    settings = ledger.settings.tenant(tenant_id)
    if settings.moodle.base_url is None or settings.moodle.token is None:
        where = f"[tenants.{tenant_id}.moodle] in TENANTS_FILE"
        if tenant_id == ledger.settings.default_tenant:
            where = "MOODLE_BASE_URL and MOODLE_TOKEN"
        raise CommandError(f"tenant {tenant_id} has no Moodle: set {where}")
    return settings


@app.command
def check(*, tenant: Tenant = None, json: Json = False) -> int:
    """Whether a Moodle is set up as the ledger needs it: token, functions, rights, role, limits.

    Nothing is changed. Exit 1 where something is missing.

    Example: sync-ledger moodle check --tenant amman
    """

    async def work(ledger: Opened) -> int:
        tenant_id = await ledger.tenant(tenant)
        settings = _moodle_of(ledger, tenant_id)
        async with _whole(ledger, tenant_id) as whole:
            course_id = await _a_course(ledger, tenant_id)
            findings = await look_into(whole.client, whole.site, settings.moodle, course_id)
        if json:
            print_json([{"what": f.what, "ok": f.ok, "detail": f.detail} for f in findings])
        else:
            marks = {True: "ok", False: "NO", None: "?"}
            print_table(("", "what", "detail"), [(marks[f.ok], f.what, f.detail) for f in findings])
        return 1 if any(f.ok is False for f in findings) else 0

    return run(work)


async def _a_course(ledger: Opened, tenant_id: str) -> int | None:
    """A course that Moodle reported."""
    async with ledger.database.transaction(tenant_id) as connection:
        rows, _ = await some_records(connection, tenant_id, report_name(("class", ""))[0], "")
    ids = [row.fields.get("moodle_id") for row in rows]
    return next((int(found) for found in ids if found), None)


@app.command
def plan(
    *,
    tenant: Tenant = None,
    as_of: Annotated[str | None, Parameter(help="as the ledger knew it at an instant")] = None,
    json: Json = False,
) -> int:
    """What it takes to bring Moodle to the wanted state; nothing is written.

    Exit 0 where nothing is, 2 where something is to be done or cannot be done.

    Example: sync-ledger moodle plan --as-of 2026-02-11T14:05:09Z --json
    """

    async def work(ledger: Opened) -> int:
        tenant_id = await ledger.tenant(tenant)
        async with _whole(ledger, tenant_id) as whole:
            if as_of is None:
                rows = await whole.rows()
            else:
                position = await _position(ledger, tenant_id, as_of)
                key = ledger.installation.master_key
                rows = await whole.rows_at(key, CurrentState(ENTITIES), position)
            found, _ = await whole.plan(rows)
        for unread in whole.unread[:_SHOWN]:
            what = f"{unread.entity} {unread.zoho_id}: {unread.problem}: its values are not in the plan"
            print(f"sync-ledger: {harmless(what)}", file=sys.stderr)
        document = found.document()
        _show(document, as_json=json)
        return 2 if any(document.values()) else 0

    return run(work)


async def _position(ledger: Opened, tenant_id: str, text: str) -> int:
    at = instant("--as-of", text)
    async with ledger.database.transaction(tenant_id) as connection:
        return await connection.fetchval(SQL["position_before"], tenant_id, at) or 0


@asynccontextmanager
async def _whole(ledger: Opened, tenant_id: str, turn: Turn | None = None) -> AsyncIterator[Whole]:
    """A college's Moodle, named in what goes wrong with it."""
    whole = Whole(ledger.database, tenant_id, _moodle_of(ledger, tenant_id), turn)
    try:
        yield whole
    except MoodleError as error:
        raise CommandError(f"the Moodle of tenant {tenant_id}: {error}") from None
    finally:
        await whole.client.close()


@app.command
def apply(*, tenant: Tenant = None, yes: Yes = False, prune: Prune = False, json: Json = False) -> int:
    """Show the plan, ask, and bring Moodle to the wanted state.

    Killed half-way it goes on when it is run again. Exit 1 where Moodle refused something.

    Example: sync-ledger moodle apply --yes
    """
    return run(lambda ledger: _apply(ledger, tenant, yes=yes, prune=prune, fresh=False, as_json=json))


@app.command
def rebuild(*, tenant: Tenant = None, yes: Yes = False, prune: Prune = False, json: Json = False) -> int:
    """Fill a new or restored Moodle from the ledger alone.

    As apply, but nothing counts that a former Moodle acknowledged.

    Example: sync-ledger moodle rebuild --yes
    """
    return run(lambda ledger: _apply(ledger, tenant, yes=yes, prune=prune, fresh=True, as_json=json))


async def _apply(
    ledger: Opened, tenant: str | None, *, yes: bool, prune: bool, fresh: bool, as_json: bool
) -> int:
    tenant_id = await ledger.tenant(tenant)
    async with _whole(ledger, tenant_id) as whole:
        since = -1
        if fresh and (begun := await whole.rebuild_since()) is not None:
            _tell(f"this goes on with the rebuild that began at position {begun:,}")
            since = begun
        elif fresh:
            since = await whole.head()
        found, _ = await whole.plan(await whole.rows(), since=since)
        _show(found.document(), as_json=as_json)
        wanted = found.count + (len(found.unknown) if prune else 0)
        if wanted and not yes and not await _agreed(wanted):
            raise CommandError("nothing was done (--yes does not ask)")
    async with (
        ask_for(ledger.database, tenant_id, _tell) as turn,
        _whole(ledger, tenant_id, turn) as whole,
        _closing(ledger.lane(tenant_id)) as lane,
    ):
        with Meter("moodle", "changes") as meter:
            tried, refused = await whole.apply(
                lane,
                fresh=fresh,
                prune=prune,
                tell=lambda progress: meter.tell(tenant_id, progress.done, progress.all),
            )
    blocked = len(found.blocked)
    _tell(f"{tried - refused:,} of {tried:,} changes done, {refused:,} refused; {blocked:,} cannot be done")
    return 1 if refused else 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@asynccontextmanager
async def _closing(lane: Lane) -> AsyncIterator[Lane]:
    try:
        yield lane
    finally:
        await lane.close()


async def _agreed(wanted: int) -> bool:
    """Asks. The answer is read in a thread that nobody waits for, so that Ctrl-C ends the command."""
    print(f"Bring these {wanted:,} changes to Moodle? [y/N] ", end="", file=sys.stderr, flush=True)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        try:
            said = os.read(0, 100)
        except OSError:  # closed: nobody is there to agree
            said = b""
        with contextlib.suppress(RuntimeError):  # the command has ended
            loop.call_soon_threadsafe(answer.set_result, said)

    threading.Thread(target=read, daemon=True).start()
    return (await answer).strip().lower() in (b"y", b"yes")


def _show(document: dict[str, list[dict[str, Any]]], *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    if not any(document.values()):
        console().print("Moodle is as the ledger wants it.")
    for kind, title in _TITLES.items():
        if not (items := document[kind]):
            continue
        console().print(f"{len(items):,} {title}")
        print_table(
            ("zoho_id", "moodle_id", "changes", "detail"),
            [
                (i["zoho_id"], i["moodle_id"], _short(i.get("changes")), i.get("reason"))
                for i in items[:_SHOWN]
            ],
        )
        if len(items) > _SHOWN:
            console().print(f"... and {len(items) - _SHOWN:,} more (--json shows all)")


def _short(changes: dict[str, dict[str, Any]] | None) -> str | None:
    if changes is None:
        return None
    parts = []
    for field, change in changes.items():
        old = "" if change["old"] in (None, "") else f"{json_.dumps(change['old'], ensure_ascii=False)} -> "
        parts.append(f"{field}: {old}{json_.dumps(change['new'], ensure_ascii=False)}")
    return harmless(", ".join(parts))


@app.command
def worker(
    *, tenant: Annotated[str | None, Parameter(help="one college (default: all with a Moodle)")] = None
) -> int:
    """Follow the ledger and keep Moodle in the wanted state, until Ctrl-C or SIGTERM.

    `serve` does this by default; beside it this one waits until it is needed.

    Example: sync-ledger moodle worker --tenant amman
    """

    async def work(ledger: Opened) -> int:
        names = [n for n, t in ledger.settings.tenants.items() if t.moodle.enabled and tenant in (None, n)]
        if not names:
            whose = f"tenant {tenant[:80]} has" if tenant else "there is"
            raise CommandError(f"{whose} no Moodle that is enabled: see MOODLE_ENABLED and TENANTS_FILE")
        configure_logging(ledger.settings.log_level)  # this one runs for days: it says what it meets
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        async with contextlib.AsyncExitStack() as stack:
            tasks = []
            for name in names:
                one = await stack.enter_async_context(_worker(ledger, name))
                tasks.append(asyncio.create_task(one.run()))
            print(f"working on the Moodle of {', '.join(names)}", file=sys.stderr, flush=True)
            try:
                await stop.wait()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return 0

    return run(work)


@asynccontextmanager
async def _worker(ledger: Opened, tenant_id: str) -> AsyncIterator[Worker]:
    async with _closing(ledger.lane(tenant_id)) as lane:
        one = Worker(ledger.database, tenant_id, _moodle_of(ledger, tenant_id), lane)
        try:
            yield one
        finally:
            await one.close()


@app.command
def failed(*, tenant: Tenant = None, json: Json = False) -> int:
    """List the records that could not be brought to Moodle, and why.

    Example: sync-ledger moodle failed --json
    """

    async def work(ledger: Opened) -> int:
        tenant_id = await ledger.tenant(tenant)
        async with ledger.database.transaction(tenant_id, snapshot=True) as connection:
            found = await failed_records(connection, tenant_id, _moodle_of(ledger, tenant_id))
        items = [
            {
                "entity": name[0],
                "zoho_id": name[1],
                "moodle_id": known.moodle_id,
                "reason": known.reason,
                "detail": known.said,
                "position": known.position,
                "at": clock.to_text(known.at) if known.at is not None else None,
            }
            for name, known, _ in found
        ]
        if json:
            print_json({"items": items, "next": None})
        else:
            columns = ("entity", "zoho_id", "moodle_id", "reason", "at", "detail")
            if not items:
                console().print("Nothing has failed.")
            print_table(columns, [[item[column] for column in columns] for item in items])
        return 0

    return run(work)


@app.command
def retry(
    *,
    tenant: Tenant = None,
    entity: Annotated[
        Literal["student", "program", "class", "enrollment"] | None, Parameter(help="one kind of record")
    ] = None,
    zoho_id: Annotated[str | None, Parameter(help="one record")] = None,
) -> int:
    """Let the worker try again what could not be brought to Moodle.

    Example: sync-ledger moodle retry --entity class --zoho-id CLASS_001
    """

    async def work(ledger: Opened) -> int:
        tenant_id = await ledger.tenant(tenant)
        settings = _moodle_of(ledger, tenant_id)
        async with ledger.database.transaction(tenant_id, snapshot=True) as connection:
            found = await failed_records(connection, tenant_id, settings)
        wanted = [
            (name, student)
            for name, _, student in found
            if entity in (None, name[0]) and zoho_id in (None, name[1])
        ]
        if not wanted and zoho_id is not None:
            raise CommandError(f"--zoho-id {zoho_id[:80]}: sync-ledger moodle failed lists no such record")
        async with _closing(ledger.lane(tenant_id)) as lane:
            report = Reporter(lane, tenant_id, settings.moodle.base_url or "")
            await report([_again(name, student) for name, student in wanted], source="cli")
        _tell(f"{len(wanted):,} queued again; the worker takes them up" if wanted else "nothing has failed")
        return 0

    return run(work)


def _again(name: Name, student: str | None) -> Report:
    return Report(name, None, {"call": None}, student=student, again=True)
