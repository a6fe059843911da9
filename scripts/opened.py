"""An open ledger for one command; it works beside a running server."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import uvloop

from api.answers import renderer
from ledger import clock
from ledger import settings as configuration
from ledger.database import Database
from ledger.installation import Installation, open_installation
from ledger.lane import Lane
from ledger.settings import TENANT, Settings
from ledger.zoho.entities import ENTITIES
from projections.fold import CurrentState
from projections.history import History
from projections.inline import InlineState
from projections.rebuild import Replay, Tell
from projections.summary import Summary
from projections.tenants import tenants
from scripts.server import configure_logging

T = TypeVar("T")


class CommandError(Exception):
    """What a command cannot do, in one line."""


class Opened(msgspec.Struct):
    """The ledger as a command sees it."""

    settings: Settings
    installation: Installation
    database: Database

    async def tenants(self, wanted: str | None) -> list[str]:
        """The tenant that is named, or all of them. Raises `CommandError`."""
        if wanted is None:
            return await tenants(self.database, self.settings.default_tenant)
        return [self.require(wanted, await self._known())]

    async def tenant(self, wanted: str | None) -> str:
        """The tenant that is named, or the default one. Raises `CommandError`."""
        return self.require(wanted or self.settings.default_tenant, await self._known())

    async def _known(self) -> list[str]:
        """Tenants that have events, and those that are configured."""
        found = await tenants(self.database, self.settings.default_tenant)
        return [*found, *sorted(self.settings.tenants.keys() - found)]

    def require(self, tenant_id: str, known: list[str]) -> str:
        """Raises `CommandError`."""
        if not TENANT.fullmatch(tenant_id) or tenant_id not in known:
            raise CommandError(f"--tenant {tenant_id[:80]}: no such tenant, known are {', '.join(known)}")
        return tenant_id

    def history(self, tenant_id: str) -> History:
        """A tenant's past."""
        return History(self.database, tenant_id, self.installation.master_key, ENTITIES)

    def lane(self, tenant_id: str) -> Lane:
        """A writer of a tenant, beside those of the servers; to be closed."""
        moodle = self.settings.tenant(tenant_id).moodle
        return Lane(
            tenant_id,
            self.database,
            self.installation.master_key,
            ENTITIES,
            InlineState(ENTITIES),
            renderer(ENTITIES, moodle_enabled=moodle.enabled),
        )

    def replay(self, tenant_id: str, tell: Tell = lambda _: None) -> Replay:
        """What replays of a tenant work with."""
        key = self.installation.master_key
        return Replay(self.database, tenant_id, key, CurrentState(ENTITIES), [Summary()], tell)


@asynccontextmanager
async def opened(settings: Settings | None = None) -> AsyncIterator[Opened]:
    """Opens the ledger that the environment names. Raises `ConfigurationError`."""
    settings = settings or configuration.load()
    if settings.database_url is None and not (settings.home / "pgdata").exists():
        raise CommandError(
            f"there is no ledger in {settings.home}: start scripts/serve first, or set LEDGER_HOME "
            "(or DATABASE_URL) as for the server"
        )
    configure_logging("ERROR" if settings.log_level == "INFO" else settings.log_level)
    installation = await open_installation(settings, _tell)
    database = installation.database(size=4, patient=True)
    await database.open()
    try:
        yield Opened(installation.settings, installation, database)
    finally:
        await database.close()
        installation.close()


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def run(command: Callable[[Opened], Awaitable[T]]) -> T:
    """Runs a command on the opened ledger."""

    async def inner() -> T:
        async with opened() as ledger:
            return await command(ledger)

    gc.set_threshold(50_000, 20, 100)  # what a command holds is mostly there to stay
    return uvloop.run(inner())


def instant(name: str, text: str | None) -> int | None:
    """An option's instant in microseconds. Raises `CommandError`."""
    if text is None:
        return None
    try:
        return clock.parse(text)
    except ValueError:
        raise CommandError(f"{name} is {text[:80]!r}: use an instant such as 2026-02-11T14:05:09Z") from None
