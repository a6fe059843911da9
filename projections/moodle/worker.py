"""The worker: brings Moodle to the wanted state of one college, and keeps it there.

It is told of appends and polls for those of other processes, and works on the records that
are queued: those whose wanted state is not the one that Moodle last reported on. When it
begins it looks at every record, so nothing that a crash, an outage or a change of the
settings left behind needs a note of its own. One process works for a college (a lease).

Moodle away: the records stay queued, pauses grow, and each try begins with one small call.
Moodle refusing a record: a report says so, and the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
import structlog

from ledger.database import Database
from ledger.errors import DatabaseAwayError, KeyInFlightError, OtherVersionError, QueueFullError
from ledger.lane import Lane, Lanes
from ledger.pace import in_turns
from ledger.settings import TenantSettings
from projections.followers import LeaseLostError
from projections.moodle.accounts import OF_OTHERS
from projections.moodle.acts import Acts, reason_of
from projections.moodle.check import prepare
from projections.moodle.client import (
    AwayError,
    MisconfiguredError,
    MoodleClient,
    MoodleError,
    RefusedError,
    WaitError,
)
from projections.moodle.known import ENTITIES, dependents, read, some_records
from projections.moodle.plan import REFUSED_BY_MOODLE, Plan
from projections.moodle.planner import Planner
from projections.moodle.report import Report, Reporter
from projections.moodle.rules import Reason
from projections.moodle.seats import former_student
from projections.moodle.site import Site
from projections.moodle.turn import MARGIN_SECONDS, WORK, Turn, making_courses
from projections.moodle.wanted import FAILED, QUEUED, Place, Wanted
from projections.queries import SQL
from projections.state import Name, Row

log = structlog.get_logger()

POLL_SECONDS = 2.0
ROUND = 2_000
"""So many records at once: enough to fill Moodle's batches, few enough for the next one to wait."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds after the first call that failed, doubled each time, cut at random to half as much."""
TRIES = 3
"""So often a record is planned anew when Moodle was not as the plan had found it."""
STALLS, SILENT = 3, 5
"""After so many rounds that failed although Moodle answers, records are tried one by one, until so
many of them had no answer.
"""
FOUND_SECONDS = 60.0
"""So long without work what was found in Moodle is kept: then it is looked up again where it is needed."""
_CACHED = 200_000
_NOBODY = "no process works on it: start sync-ledger moodle worker"
_PAGE = 5_000
_STORE_AWAY = (DatabaseAwayError, OtherVersionError, QueueFullError, KeyInFlightError)


class Trouble(msgspec.Struct, frozen=True):
    """What keeps the worker from its work: since how many tries, and until when it pauses."""

    text: str
    failures: int
    not_before: float


class _Due(msgspec.Struct, frozen=True):
    """When a record is to be looked at again, and whether Moodle may have changed it since."""

    at: float
    doubtful: bool


class Worker:
    """The worker of one tenant. `run` until cancelled; `settle` until nothing is left to do."""

    def __init__(
        self,
        database: Database,
        tenant_id: str,
        settings: TenantSettings,
        lane: Lane | Lanes,
    ) -> None:
        self._database = database
        self._tenant = tenant_id
        self._settings = settings
        self._turn = Turn(database, tenant_id)
        self._client = MoodleClient(settings.moodle, self._turn.holds)
        self._site = Site(self._client, settings.moodle)
        self._report = Reporter(lane, tenant_id, settings.moodle.base_url or "")
        self._making_courses = partial(making_courses, database, tenant_id, settings.moodle.timeout)
        self._wake = asyncio.Event()
        self._position = 0
        self._generation = 0
        self._begin_anew()
        self.trouble: Trouble | None = None
        self._elsewhere: str | None = None

    def _begin_anew(self) -> None:
        self._queue: dict[Name, None] = {}
        self._forced: set[Name] = set()
        self._tries: Counter[Name] = Counter()
        self._forget_found()
        self._waiting_for_email: dict[str, set[str]] = {}
        self._unsure: set[str] = set()
        self._due: dict[Name, _Due] = {}
        self._doubtful: set[Name] = set()
        self._stalls = 0
        self._answers = False
        self._own_id: int | None = None

    def _forget_found(self) -> None:
        self._users: dict[str, int] = {}
        self._courses: dict[Name, int] = {}
        self._sought: dict[Name, tuple[Place, ...]] = {}

    def wake(self) -> None:
        """Something was appended: look before the next poll."""
        self._wake.set()

    async def close(self) -> None:
        """Closes the connections to Moodle."""
        await self._client.close()

    # -- following

    async def run(self) -> None:
        """Works until cancelled, whenever no other process does."""
        while True:
            try:
                seen = await self._turn.look()
                self._elsewhere = seen.note
                if not seen.wished and await self._turn.take():
                    self._elsewhere = None
                    await self._hold_and_follow()
            except DatabaseAwayError:
                pass  # the outage is told once for all
            except _STORE_AWAY as error:
                log.warning("the Moodle worker waits for the ledger", tenant=self._tenant, reason=str(error))
            except Exception:
                log.exception("the Moodle worker failed; it begins anew", tenant=self._tenant)
            await asyncio.sleep(POLL_SECONDS)

    async def settle(self) -> None:
        """Works until nothing is queued. Raises `MoodleError` where Moodle does not work,
        `LeaseLostError` where another process has the lease.
        """
        if not await self._turn.take():
            raise LeaseLostError(WORK)
        keeper = asyncio.create_task(self._turn.keep())
        try:
            await self._look_at_all()
            while self._queue or await self._look_behind():
                await self._round()
            if waiting := [name for name, due in self._due.items() if not due.doubtful]:
                said = f"{len(waiting)} records wait: an earlier call that makes courses is waited for"
                raise WaitError(said, self._settings.moodle.timeout)
        finally:
            keeper.cancel()
            await self._turn.give_back()

    async def _hold_and_follow(self) -> None:
        keeper = asyncio.create_task(self._turn.keep())
        work = asyncio.create_task(self._follow())
        try:
            await asyncio.wait({keeper, work}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work  # raises what ended it
        finally:
            for task in (keeper, work):
                task.cancel()
            await asyncio.gather(keeper, work, return_exceptions=True)
            await self._turn.give_back()
            self.trouble = None

    async def _follow(self) -> None:
        self._begin_anew()
        await self._look_at_all()
        clock = asyncio.get_running_loop().time
        worked_at = clock()
        while not (await self._turn.look()).wished:
            self._wake.clear()
            await self._look_behind()
            self._take_up(clock())
            if not self._queue:
                await self._say(None)
                if clock() > worked_at + FOUND_SECONDS:
                    self._forget_found()
            if self._queue and (self.trouble is None or clock() >= self.trouble.not_before):
                await self._try()
                worked_at = clock()
                continue
            until = min([clock() + POLL_SECONDS, *(due.at for due in self._due.values())])
            if self._queue and self.trouble is not None:
                until = min(until, self.trouble.not_before)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._wake.wait()

    def _take_up(self, now: float) -> None:
        """Queues what waited for its time."""
        for name in [name for name, due in self._due.items() if due.at <= now]:
            if self._due.pop(name).doubtful:
                self._doubtful.add(name)
            self._queue[name] = None
            self._forced.add(name)

    async def _try(self) -> None:
        """One round; what fails makes the next one wait."""
        try:
            await self._round()
        except MoodleError as error:  # refused: a look-up, so that nobody can tell what Moodle has
            failures = self.trouble.failures + 1 if self.trouble is not None else 1
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1))
            pause *= random.uniform(0.5, 1)  # noqa: S311  (so that many do not come back at once)
            await self._say(Trouble(str(error), failures, asyncio.get_running_loop().time() + pause))
            if failures == 1:
                log.warning("Moodle does not work", tenant=self._tenant, reason=str(error))
        else:
            if self.trouble is not None:
                log.info("Moodle works again", tenant=self._tenant)
            await self._say(None)

    async def _say(self, trouble: Trouble | None) -> None:
        """What keeps the work from being done, here and for the processes that do not do it."""
        before, self.trouble = self.trouble, trouble
        text = trouble.text if trouble is not None else None
        if text != (before.text if before is not None else None):
            await self._turn.note(text)

    @property
    def degraded(self) -> str | None:
        """Why Moodle does not follow, in this process or in the one that works on it."""
        if self.trouble is None and any(not due.doubtful for due in self._due.values()):
            return "an earlier call that makes courses had no answer: what came of it is waited for"
        return self.trouble.text if self.trouble is not None else self._elsewhere

    async def watch(self) -> None:
        """Does not work, but knows until cancelled what keeps others from it."""
        while True:
            with contextlib.suppress(DatabaseAwayError):
                seen = await self._turn.look()
                self._elsewhere = seen.note if seen.held else _NOBODY
            await asyncio.sleep(POLL_SECONDS)

    async def _look_at_all(self) -> None:
        """Queues every record whose wanted state is not the one that Moodle reported on."""
        async with self._database.transaction(self._tenant) as connection:
            head = await connection.fetchrow(SQL["head"], self._tenant)
        self._position = head["position"] if head is not None else 0
        self._generation = head["generation"] if head is not None else 0
        await self._queue_all()

    async def _queue_all(self) -> None:
        for entity in ENTITIES:
            after: str | None = ""
            while after is not None:
                async with self._database.transaction(self._tenant, snapshot=True) as connection:
                    found, after = await some_records(connection, self._tenant, entity, after)
                    names = [row.name for row in found]
                    rows: dict[Name, Row | None] = {}
                    await read(connection, self._tenant, names, rows)
                wanted = Wanted(self._settings, rows)
                async for name in in_turns(names):
                    status = wanted.status(name)
                    if status == QUEUED:
                        self._queue[name] = None
                    elif status == FAILED and wanted.known(name).reason in OF_OTHERS:
                        self._wait_for_email(wanted, name[1])

    async def _look_behind(self) -> bool:
        """Queues what changed since the last look. Whether anything did."""
        async with self._database.transaction(self._tenant, snapshot=True) as connection:
            head = await connection.fetchrow(SQL["head"], self._tenant)
            replayed = head is not None and head["generation"] != self._generation
            if head is None or (head["position"] <= self._position and not replayed):
                return False
            until = min(head["position"], self._position + _PAGE)
            rows = await connection.fetch(
                SQL["changed_between"], self._tenant, head["generation"], self._position, until
            )
            changed: list[Name] = [
                name
                for entity, zoho_id, reports, is_changed in rows
                if entity in ENTITIES
                and (name := (entity, zoho_id))
                and (self._report.is_foreign(name, reports) or is_changed)
            ]
            needing = [name for name in changed if name[0] != "enrollment"]
            moved = await dependents(connection, self._tenant, needing) if needing else []
            classes = [name for name in moved if name[0] == "class"]
            if classes:
                moved += await dependents(connection, self._tenant, classes)
        if replayed:  # rows that could not be read may be mended
            self._generation = head["generation"]
            await self._queue_all()
        self._position = until
        for name in sorted(dict.fromkeys([*changed, *moved]), key=lambda n: ENTITIES.index(n[0])):
            self._tries.pop(name, None)
            self._queue[name] = None
        return True

    # -- working

    async def _round(self) -> None:
        """Works on some of the queue. Raises `MoodleError`; then they are queued again."""
        names = [name for name, _ in zip(self._queue, range(ROUND), strict=False)]
        for name in names:
            del self._queue[name]
        if self._stalls >= STALLS:
            self._stalls = 0
            await self._one_by_one(names)
            return
        self._answers = False
        try:
            await self._work_on(names)
            self._stalls = 0
            self._site.grow()
        except (AwayError, MisconfiguredError, *_STORE_AWAY, asyncio.CancelledError):
            self._stalls += self._answers  # it failed at the work, not at the call that begins it
            self._queue = dict.fromkeys([*names, *self._queue])
            raise
        except Exception:
            log.exception("a round for Moodle failed; its records are tried one by one", tenant=self._tenant)
            await self._one_by_one(names)

    async def _one_by_one(self, names: list[Name]) -> None:
        """One of these cannot be worked on; the others can. One that has no answer while Moodle does the
        same for another is parked. Raises `MoodleError` where nothing can be done.
        """
        left = deque(sorted(names, key=lambda name: ENTITIES.index(name[0])))
        silent: list[tuple[Name, AwayError]] = []
        worked: set[str] = set()
        try:
            while left and len(silent) < SILENT and not (await self._turn.look()).wished:
                name = left.popleft()
                try:
                    if await self._work_on([name]):
                        worked.add(name[0])
                except AwayError as error:
                    silent.append((name, error))
                    self._site.begin()
                    await prepare(self._site)
                except RefusedError as error:
                    await self._park(name, reason_of(error))
                except (MisconfiguredError, *_STORE_AWAY):
                    left.appendleft(name)
                    raise
                except Exception:
                    log.exception("a record cannot be brought to Moodle", tenant=self._tenant, name=name)
                    await self._park(name, ("error", "the ledger could not work on it: its log says more"))
        finally:
            self._queue = dict.fromkeys([*left, *self._queue, *(name for name, _ in silent)])
        for name, why in silent:
            if name[0] in worked:
                del self._queue[name]
                await self._park(name, ("no_answer", f"Moodle gives no usable answer to it: {why}"))
        if silent and not worked:
            self._stalls = STALLS
            raise silent[-1][1]

    async def _park(self, name: Name, reason: Reason) -> None:
        wanted = Wanted(self._settings, await self._rows([name]))
        student = wanted.student_of(name)
        report = Report(name, wanted.asked(name), {"call": None}, reason=reason, student=student)
        await self._report([report])

    async def _rows(self, names: Iterable[Name]) -> dict[Name, Row | None]:
        rows: dict[Name, Row | None] = {}
        async with self._database.transaction(self._tenant, snapshot=True) as connection:
            await read(connection, self._tenant, names, rows)
        return rows

    async def _work_on(self, names: list[Name]) -> bool:
        """Brings some records to Moodle. Whether there was anything to do."""
        rows = await self._rows(names)
        wanted = Wanted(self._settings, rows)
        todo = [
            name
            async for name in in_turns(names)
            if wanted.status(name) == QUEUED or (name in self._forced and wanted.is_readable(name))
        ]
        if not todo:
            return False
        self._site.begin()
        tested = self._own_id is None or self.trouble is not None
        if tested or self._own_id is None:
            self._own_id = await prepare(self._site)
            self._answers = True
        if len(self._users) + len(self._courses) > _CACHED:
            self._forget_found()

        async def load(more: Iterable[Name]) -> None:
            async with self._database.transaction(self._tenant, snapshot=True) as connection:
                await read(connection, self._tenant, more, rows)

        enrollments = await self._sharing([name for name in todo if name[0] == "enrollment"], wanted, load)
        planner = Planner(
            self._site,
            wanted,
            load,
            own_id=self._own_id,
            unsure=self._unsure,
            doubtful=self._doubtful.intersection(todo),
            users=self._users,
            courses=self._courses,
            sought=self._sought,
        )
        try:
            plan = await planner.make(
                [zoho_id for entity, zoho_id in todo if entity == "student"],
                [name for name in todo if name[0] in ("class", "program")],
                enrollments,
            )
            if planner.accounts.misses and not tested:
                await prepare(self._site)  # to a token that lost its sight since, everybody seems missing
            acts = Acts(self._site, planner, wanted, self._making_courses)
            self._unsure = {
                e.zoho_id for change in plan.seats if change.kind == "enrol" for e in change.enrollments
            }
            await acts.carry_out(plan, self._report)
        except AwayError as error:
            self._site.shrink()
            if error.under_way:  # what was asked may be done later still, behind what is asked next
                ended = self._settings.moodle.timeout + MARGIN_SECONDS
                self._look_again(_written(planner.plan), ended, doubtful=True)
            raise
        self._unsure = set()
        self._forced.difference_update(names)
        self._doubtful.difference_update(todo)
        for name in todo:
            if name in self._due and not self._due[name].doubtful:
                del self._due[name]
        await self._after(acts, wanted)
        return bool(plan.count)

    def _look_again(self, names: Iterable[Name], seconds: float, *, doubtful: bool) -> None:
        """Queues records in so many seconds; what Moodle acknowledged of doubtful ones is looked at, too."""
        at = asyncio.get_running_loop().time() + seconds
        self._due.update(dict.fromkeys(names, _Due(at, doubtful)))

    async def _sharing(self, todo: list[Name], wanted: Wanted, load: Any) -> list[str]:
        """These enrollments and all others of their students, who may share a seat."""
        students = {s for name in todo if (s := wanted.student_of(name))}
        students |= {s for name in todo if (s := former_student(wanted.known(name)))}
        async with self._database.transaction(self._tenant, snapshot=True) as connection:
            all_ = await dependents(connection, self._tenant, [("student", s) for s in sorted(students)])
        others = [name for name in all_ if name[0] == "enrollment"]
        await load(others)
        if not all(map(wanted.is_readable, others)):  # nobody can tell which seat such a one shares
            students = {s for s in students if await self._are_readable(s, wanted)}
            todo = [name for name in todo if wanted.student_of(name) in students]
            others = [name for name in others if wanted.student_of(name) in students]
        return [zoho_id for _, zoho_id in dict.fromkeys([*todo, *others])]

    async def _are_readable(self, student: str, wanted: Wanted) -> bool:
        """Whether every enrollment of a student can be read."""
        async with self._database.transaction(self._tenant) as connection:
            names = await dependents(connection, self._tenant, [("student", student)])
        return all(map(wanted.is_readable, names))

    async def _after(self, acts: Acts, wanted: Wanted) -> None:
        for name in acts.again:
            self._tries[name] += 1
            if self._tries[name] < TRIES:
                self._queue[name] = None
                self._forced.add(name)
            else:
                said = "its account or its course in Moodle was there and then gone, again and again"
                await self._park(name, (REFUSED_BY_MOODLE + "gone", said))
        if acts.later:
            self._look_again(acts.later, acts.later_seconds, doubtful=False)
        if acts.replaced:
            async with self._database.transaction(self._tenant) as connection:
                seats = await dependents(connection, self._tenant, sorted(acts.replaced))
            self._queue.update(dict.fromkeys(name for name in seats if name[0] == "enrollment"))
            self._forced.update(name for name in seats if name[0] == "enrollment")
        for zoho_id in acts.in_the_way:
            self._wait_for_email(wanted, zoho_id)
        for email in acts.freed:
            for zoho_id in self._waiting_for_email.pop(email, ()):
                self._queue["student", zoho_id] = None
                self._forced.add(("student", zoho_id))

    def _wait_for_email(self, wanted: Wanted, zoho_id: str) -> None:
        """A student whom Moodle refused gets another chance when the address is free."""
        user = wanted.user(zoho_id)
        if user is not None and (email := user.values.get("email")):
            self._waiting_for_email.setdefault(email.lower(), set()).add(zoho_id)


def _written(plan: Plan) -> set[Name]:
    """The records that a plan writes to Moodle."""
    students = [change.user for change in plan.update_users] + plan.create_users
    seats = [seat for change in plan.seats for seat in change.enrollments]
    return {("student", user.zoho_id) for user in students} | {("enrollment", s.zoho_id) for s in seats}
