"""What the endpoints work with: settings, database, lanes and readers of one process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import structlog

from api.answers import renderer
from api.bodies import MOST_BYTES, Bodies
from ledger import clock
from ledger.cache import Budget
from ledger.database import Database
from ledger.errors import DatabaseAwayError
from ledger.installation import Installation
from ledger.lane import Lane, Lanes
from ledger.patience import within
from ledger.settings import Settings
from ledger.store import tidy, try_to_write
from ledger.vault import QUARANTINE_DAYS
from ledger.zoho.entities import Entities
from ledger.zoho.intake import Intake
from ledger.zoho.records import Reader
from projections.fold import CurrentState
from projections.followers import Followers
from projections.inline import InlineState
from projections.moodle.worker import Worker
from projections.rebuild import Replay, bring_up_to_date
from projections.statuses import UnknownStatuses
from projections.summary import Summary

log = structlog.get_logger()

TIDY_SECONDS = 600
STOP_SECONDS = 2.0
"""So long the end waits for what was accepted. The server has waited for the requests before."""
_TIDY_AT_ONCE = 100
"""So many tenants in one transaction: few enough that nobody waits for its end."""


class Degraded(msgspec.Struct):
    """A part that does not work as it should, and why."""

    part: str
    reason: str


class Service:
    """One process's way to the ledger."""

    def __init__(
        self,
        installation: Installation,
        entities: Entities,
        projection: CurrentState | None = None,
        *,
        moodle_worker: bool = True,
    ) -> None:
        """`moodle_worker`: whether this process works on the Moodles of its tenants."""
        self.settings: Settings = installation.settings
        self.entities = entities
        self.master_key = installation.master_key
        # two pools, so that busy lanes never keep readers waiting
        self.database: Database = installation.database()
        self._writing: Database = installation.database()
        self.projection = projection or CurrentState(entities)
        self._budget = Budget()
        self.lanes = Lanes(self._make_lane)
        self.bodies = Bodies(max(MOST_BYTES, 4 * self.settings.max_body_bytes))
        self._readers: dict[str, Reader] = {}
        self.intake = Intake()
        self.followers = Followers(self.database, self.settings.default_tenant, [Summary()])
        self.statuses = UnknownStatuses(self.database, self.settings)
        self._rebuilding: dict[str, asyncio.Task[None]] = {}
        self.moodle_workers = {
            tenant_id: Worker(self.database, tenant_id, tenant, self.lanes)
            for tenant_id in self.settings.tenants
            if (tenant := self.settings.tenant(tenant_id)).moodle.enabled
        }
        self._works_on_moodle = moodle_worker

    def reader(self, tenant_id: str) -> Reader:
        """The tenant's reader of records; tenants without settings of their own share one."""
        name = tenant_id if tenant_id in self.settings.tenants else ""
        if (reader := self._readers.get(name)) is None:
            reader = Reader(self.entities, self.settings.tenant(tenant_id))
            if len(self._readers) > _READERS:
                self._readers.clear()
            self._readers[name] = reader
        return reader

    def _make_lane(self, tenant_id: str) -> Lane:
        return Lane(
            tenant_id,
            self._writing,
            self.master_key,
            self.entities,
            InlineState(self.entities, self.projection),
            renderer(self.entities, moodle_enabled=self.settings.tenant(tenant_id).moodle.enabled),
            ttl_seconds=self.settings.idempotency_ttl_seconds,
            appended=self._appended,
            budget=self._budget,
        )

    def _appended(self, tenant_id: str) -> None:
        self.followers.wake(tenant_id)
        if (worker := self.moodle_workers.get(tenant_id)) is not None:
            worker.wake()

    def rebuild_soon(self, tenant_id: str) -> None:
        """Rebuilds a tenant's read models that an older process has made, beside whatever
        else goes on. Until then this process takes nothing for that tenant.
        """
        running = self._rebuilding.get(tenant_id)
        if running is None or running.done():
            self._rebuilding[tenant_id] = asyncio.create_task(self._rebuild(tenant_id))

    async def _rebuild(self, tenant_id: str) -> None:
        try:
            await bring_up_to_date(self.replay(tenant_id))
        except DatabaseAwayError:
            pass  # the next request for the tenant begins anew
        except Exception:
            log.exception("a rebuild failed", tenant=tenant_id)

    def replay(self, tenant_id: str) -> Replay:
        """What a rebuild of a tenant works with."""
        return Replay(self.database, tenant_id, self.master_key, self.projection, [Summary()])

    async def try_to_write(self) -> None:
        """Returns where an append could be written now. Raises `DatabaseAwayError`."""
        tenant_id = self.settings.default_tenant
        async with self.database.transaction(tenant_id) as connection:
            await try_to_write(connection, tenant_id)

    @property
    def degraded(self) -> list[Degraded]:
        """Parts that do not work as they should; records are accepted all the same."""
        found = [Degraded("queue", f"the queue of tenant {name} is full") for name in self.lanes.full]
        found += [
            Degraded("replay", f"the read models of tenant {name} are being rebuilt")
            for name, task in self._rebuilding.items()
            if not task.done()
        ]
        found += [
            Degraded(follower, f"{count} events of tenant {name} are parked")
            for (name, follower), count in self.followers.parked.items()
            if count
        ]
        found += [
            Degraded("moodle", f"the Moodle of tenant {name}: {worker.degraded}")
            for name, worker in self.moodle_workers.items()
            if worker.degraded is not None
        ]
        found += [
            Degraded("statuses", self._of_statuses(name, count))
            for name, count in self.statuses.counts().items()
        ]
        return found

    def _of_statuses(self, tenant_id: str, count: int) -> str:
        """What to do about unknown statuses. The words themselves are data, so they are not here."""
        what = (
            f"{count} statuses of tenant {tenant_id} are"
            if count > 1
            else f"1 status of tenant {tenant_id} is"
        )
        return (
            f"{what} not known: sync-ledger audit summary --tenant {tenant_id} names them; they take "
            f"a seat although nobody has decided so: put each into {self.settings.status_lists(tenant_id)}"
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Opens the pool; at the end finishes what was accepted."""
        await self.database.open()
        await self._writing.open()
        work = [
            asyncio.create_task(self._keep_tidy(), name="tidy"),
            asyncio.create_task(self.followers.run(), name="followers"),
            asyncio.create_task(self.lanes.keep_ending_idle(), name="idle lanes"),
            *(
                asyncio.create_task(w.run() if self._works_on_moodle else w.watch(), name=f"moodle {n}")
                for n, w in self.moodle_workers.items()
            ),
        ]
        try:
            yield
        finally:
            with contextlib.suppress(TimeoutError):
                await within(STOP_SECONDS, self._stop([*work, *self._rebuilding.values()]))
            await asyncio.gather(self._writing.close(), self.database.close())

    async def _stop(self, work: list[asyncio.Task[None]]) -> None:
        """Ends the work in the background, then finishes what was accepted."""
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        await self.statuses.close()
        await asyncio.gather(*(worker.close() for worker in self.moodle_workers.values()))
        await self.lanes.close()

    async def _keep_tidy(self) -> None:
        """Removes answers whose time is over and destroys old quarantine keys."""
        while True:
            try:
                await self.tidy(clock.now())
            except DatabaseAwayError:
                pass  # the next round does it
            except Exception:
                log.exception("tidying failed; it is tried again")
            await asyncio.sleep(TIDY_SECONDS)

    async def tidy(self, now: int) -> None:
        """One round over every tenant."""
        after: str | None = ""
        while after is not None:
            async with self.database.transaction(self.settings.default_tenant) as connection:
                old = now - QUARANTINE_DAYS * clock.DAY
                after = await tidy(connection, after, _TIDY_AT_ONCE, now, old)


_READERS = 1_000
