"""A whole Moodle at once: plan, apply, rebuild."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from ledger.database import Connection, Database
from ledger.errors import DamagedError
from ledger.lane import Lane
from ledger.settings import TenantSettings
from ledger.unseal import Unsealer
from ledger.vault import MasterKey
from projections.fold import CurrentState
from projections.moodle.acts import Acts, Progress
from projections.moodle.check import prepare
from projections.moodle.client import MoodleClient
from projections.moodle.known import ENTITIES, read, some_records
from projections.moodle.plan import Plan
from projections.moodle.planner import Planner
from projections.moodle.report import Reporter
from projections.moodle.site import Site
from projections.moodle.turn import Turn, making_courses
from projections.moodle.wanted import Known, Wanted
from projections.queries import SQL
from projections.replay import Folding, pages, parked_positions
from projections.state import Name, Row
from projections.unread import Unread

TRIES = 3
"""So often a plan is made again where Moodle was not as it had found it."""
_REBUILD = "moodle-rebuild"


class Whole:
    """One college's Moodle as a whole. `turn`: whose calls these are; a plan needs none."""

    def __init__(
        self, database: Database, tenant_id: str, settings: TenantSettings, turn: Turn | None = None
    ) -> None:
        self._database = database
        self._tenant = tenant_id
        self._settings = settings
        self.client = MoodleClient(settings.moodle, turn.holds if turn is not None else lambda: True)
        self.site = Site(self.client, settings.moodle)
        self.unread: list[Unread] = []
        """Records of the past of which something could not be read: those values are null."""
        self._making_courses = partial(making_courses, database, tenant_id, settings.moodle.timeout)

    async def plan(self, rows: dict[Name, Row | None], *, since: int = -1) -> tuple[Plan, Acts]:
        """What it takes to bring Moodle to the wanted state of these rows. `since`: whatever Moodle
        acknowledged up to this position is void. Raises `MoodleError`, and `DamagedError` where a row
        cannot be read: a Moodle is not compared with half of what is wanted.
        """
        if problem := next((row.problem for row in rows.values() if row is not None and row.damaged), None):
            raise DamagedError(problem)
        self.site.begin()
        own_id = await prepare(self.site)
        wanted = Wanted(self._settings, rows, since=since)
        planner = Planner(self.site, wanted, _everything_is_there, whole=True, own_id=own_id)
        named = [name for name, row in rows.items() if row is not None and name[0] in ENTITIES]
        plan = await planner.make(
            [zoho_id for entity, zoho_id in named if entity == "student"],
            [name for name in named if name[0] in ("class", "program")],
            [zoho_id for entity, zoho_id in named if entity == "enrollment"],
        )
        return plan, Acts(self.site, planner, wanted, self._making_courses)

    async def apply(
        self,
        lane: Lane,
        *,
        fresh: bool = False,
        prune: bool = False,
        tell: Callable[[Progress], None] = lambda _: None,
    ) -> tuple[int, int]:
        """Brings Moodle to the wanted state of now; answers how many things were tried, and how many
        of them Moodle refused or took back. Killed at any point it goes on when it is called
        again: what is done is not planned any more. `fresh`: nothing counts that Moodle
        acknowledged before this, or before the first of the calls that were killed.

        Raises `MoodleError`, `DamagedError`, `DatabaseAwayError`.
        """
        report = Reporter(lane, self._tenant, self._settings.moodle.base_url or "")
        since = await self._begin() if fresh else -1
        tried = refused = 0
        for _ in range(TRIES):
            plan, acts = await self.plan(await self.rows(), since=since)
            await acts.carry_out(plan, report, prune=prune, tell=tell)
            tried += plan.count + (len(plan.unknown) if prune else 0)
            refused += acts.refused
            if not acts.again:
                break
        await self._end()
        return tried, refused + len(acts.again) + len(acts.later)

    async def rebuild_since(self) -> int | None:
        """The position from which on Moodle's reports count for the rebuild on its way, if there is one."""
        async with self._database.transaction(self._tenant) as connection:
            found: int | None = await connection.fetchval(SQL["checkpoint"], self._tenant, _REBUILD)
        return found

    async def head(self) -> int:
        """The newest position."""
        async with self._database.transaction(self._tenant) as connection:
            head = await connection.fetchrow(SQL["head"], self._tenant)
        return head["position"] if head is not None else 0

    async def _begin(self) -> int:
        position = await self.head()
        async with self._database.transaction(self._tenant) as connection:
            await connection.execute(SQL["begin_moodle_rebuild"], self._tenant, _REBUILD, position)
            return int(await connection.fetchval(SQL["checkpoint"], self._tenant, _REBUILD))

    async def _end(self) -> None:
        async with self._database.transaction(self._tenant) as connection:
            await connection.execute(SQL["forget_checkpoint"], self._tenant, _REBUILD)

    async def rows(self) -> dict[Name, Row | None]:
        """Every record as it is now, with Moodle's reports."""
        rows: dict[Name, Row | None] = {}
        async with self._database.transaction(self._tenant, snapshot=True) as connection:
            for entity in ENTITIES:
                after: str | None = ""
                while after is not None:
                    found, after = await some_records(connection, self._tenant, entity, after)
                    await read(connection, self._tenant, [row.name for row in found], rows)
        return rows

    async def rows_at(
        self, master_key: MasterKey, projection: CurrentState, position: int
    ) -> dict[Name, Row | None]:
        """Every record as the ledger knew it at a position."""
        async with self._database.transaction(self._tenant) as connection:
            parked = await parked_positions(connection, self._tenant, projection)
        unsealer = Unsealer(self._tenant, master_key)
        folding = Folding(projection, unsealer, parked)
        async for page in pages(self._database, self._tenant, master_key, unsealer, 0, position):
            for event in page:
                folding.fold(event)
        self.unread = list(folding.unread.values())
        return folding.view.rows


async def failed(
    connection: Connection, tenant_id: str, settings: TenantSettings
) -> list[tuple[Name, Known, str | None]]:
    """Records that Moodle, or its rules, refused, with the student of an enrollment. Needs a
    transaction.
    """
    found = await connection.fetch(SQL["failed_records"], tenant_id)
    names: list[Name] = [(row["entity"], row["zoho_id"]) for row in found]
    rows: dict[Name, Row | None] = {}
    await read(connection, tenant_id, names, rows)
    wanted = Wanted(settings, rows)
    items: list[tuple[Name, Known, str | None]] = []
    for name in names:
        known = wanted.known(name)
        if known.reason and known.asked == wanted.asked(name):
            items.append((name, known, wanted.student_of(name)))
    return items


async def _everything_is_there(_: Iterable[Name]) -> None:
    """All rows were read at the start."""
