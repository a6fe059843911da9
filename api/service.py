"""What the endpoints work with: settings, database, lanes and readers of one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import structlog

from api.answers import renderer
from ledger import clock
from ledger.database import Database
from ledger.errors import DatabaseAwayError
from ledger.installation import Installation
from ledger.lane import Lane, Lanes
from ledger.settings import Settings
from ledger.store import destroy_quarantine_keys, forget_answers
from ledger.vault import QUARANTINE_DAYS
from ledger.zoho.entities import Entities
from ledger.zoho.records import Reader
from projections.fold import CurrentState
from projections.inline import InlineState

log = structlog.get_logger()

TIDY_SECONDS = 600


class Service:
    """One process's way to the ledger."""

    def __init__(
        self,
        installation: Installation,
        entities: Entities,
        projection: CurrentState | None = None,
    ) -> None:
        self.settings: Settings = installation.settings
        self.entities = entities
        self.master_key = installation.master_key
        # two pools, so that busy lanes never keep readers waiting
        self.database: Database = installation.database()
        self._writing: Database = installation.database()
        self.projection = projection or CurrentState(entities)
        self.lanes = Lanes(self._make_lane)
        self._readers: dict[str, Reader] = {}

    def reader(self, tenant_id: str) -> Reader:
        """The tenant's reader of records."""
        if (reader := self._readers.get(tenant_id)) is None:
            reader = Reader(self.entities, self.settings.tenant(tenant_id))
            if len(self._readers) > _READERS:
                self._readers.clear()
            self._readers[tenant_id] = reader
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
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Opens the pool; at the end finishes what was accepted."""
        await self.database.open()
        await self._writing.open()
        tidy = asyncio.create_task(self._keep_tidy(), name="tidy")
        try:
            yield
        finally:
            tidy.cancel()
            await self.lanes.close()
            await self._writing.close()
            await self.database.close()

    async def _keep_tidy(self) -> None:
        """Removes answers whose time is over and destroys old quarantine keys."""
        while True:
            try:
                await self.tidy(clock.now())
            except DatabaseAwayError as error:
                log.warning("tidying waits for the database", reason=str(error))
            except Exception:
                log.exception("tidying failed; it is tried again")
            await asyncio.sleep(TIDY_SECONDS)

    async def tidy(self, now: int) -> None:
        """One round over every tenant."""
        async with self.database.transaction(self.settings.default_tenant) as connection:
            rows = await connection.fetch("select tenant_id from ledger.tenants")
        for row in rows:
            tenant_id = row["tenant_id"]
            async with self.database.transaction(tenant_id) as connection:
                await forget_answers(connection, tenant_id, now)
                await destroy_quarantine_keys(connection, tenant_id, now - QUARANTINE_DAYS * clock.DAY)


_READERS = 1_000


class Degraded(msgspec.Struct):
    """A part that does not work as it should, and why."""

    part: str
    reason: str
