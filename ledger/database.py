"""Connections to PostgreSQL: pool, tenant transactions, errors told apart.

Every setting is local to a transaction, so a pooler in transaction mode may stand
between. Instants travel as integers (microseconds since 1970 UTC).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import asyncpg
import structlog

from ledger.errors import DatabaseAwayError
from ledger.settings import TENANT

Connection: TypeAlias = "asyncpg.Connection | asyncpg.pool.PoolConnectionProxy"

log = structlog.get_logger()

CONNECT_SECONDS = 1.5
"""How long to wait for a connection: a caller must hear of trouble within two seconds."""
COMMAND_SECONDS = 60.0
PATIENCE_SECONDS = 1.0
"""After so long a transaction must show that the database answers at all."""
PROBE_SECONDS = 0.5
"""So long it has for it."""

UndecodableError = asyncpg.DataError
"""What PostgreSQL says of a cell that does not hold the text or JSON that a query reads in it."""

_PG_EPOCH = 946_684_800_000_000  # 2000-01-01T00:00:00Z, PostgreSQL's zero

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
)


class ConnectionSettings:
    """How to reach a server: a URL, and what overrides it."""

    def __init__(self, dsn: str, *, pooled: bool = False, **overrides: Any) -> None:
        self.dsn = dsn
        self.pooled = pooled
        self.overrides = overrides

    def with_login(self, user: str, password: str) -> ConnectionSettings:
        """The same database under another login."""
        return ConnectionSettings(self.dsn, pooled=self.pooled, user=user, password=password)

    @property
    def login(self) -> dict[str, Any]:
        """The overrides but for how long to wait."""
        return {name: value for name, value in self.overrides.items() if name != "timeout"}

    def patient(self, seconds: float) -> ConnectionSettings:
        """The same, waiting longer for a connection."""
        return ConnectionSettings(self.dsn, pooled=self.pooled, **self.login, timeout=seconds)

    def arguments(self) -> dict[str, Any]:
        """Arguments for `asyncpg.connect`."""
        arguments: dict[str, Any] = {
            "dsn": self.dsn,
            "timeout": CONNECT_SECONDS,
            "command_timeout": COMMAND_SECONDS,
            **self.overrides,
        }
        if self.pooled:
            arguments["statement_cache_size"] = 0
        return arguments


async def prepare(connection: Connection) -> None:
    """Makes instants integers on this connection."""
    async with connection.transaction():  # a transaction keeps one server behind a pooler
        await connection.set_type_codec(
            "timestamptz",
            schema="pg_catalog",
            format="tuple",
            encoder=lambda instant: (instant - _PG_EPOCH,),
            decoder=lambda value: value[0] + _PG_EPOCH,
        )


async def connect(settings: ConnectionSettings) -> asyncpg.Connection:
    """One connection outside the pool. Raises `DatabaseAwayError`."""
    with telling_apart():
        connection: asyncpg.Connection = await asyncpg.connect(**settings.arguments())
        await prepare(connection)
        return connection


@contextmanager
def telling_apart() -> Iterator[None]:
    """Turns every error that means "not reachable now" into `DatabaseAwayError`."""
    try:
        yield
    except asyncpg.ClientConfigurationError:
        raise
    except _AWAY as error:
        raise DatabaseAwayError(f"{type(error).__name__}: {error}") from error


async def _reset(connection: Connection) -> None:
    # Nothing outlives a transaction here, so there is nothing to reset but a
    # transaction that was left open (asyncpg's own reset costs a round trip).
    if connection.is_in_transaction():
        await connection.execute("rollback")


class Database:
    """The application's pool."""

    def __init__(
        self,
        settings: ConnectionSettings,
        *,
        size: int = 8,
        on_failure: Callable[[], None] | None = None,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        self._settings = settings
        self._probe_seconds = probe_seconds
        self._size = size
        self._pool: asyncpg.Pool | None = None
        self._on_failure = on_failure
        self._repairing: asyncio.Task[None] | None = None

    @property
    def pooled(self) -> bool:
        """Whether a pooler stands between: then only a transaction keeps one server."""
        return self._settings.pooled

    async def open(self) -> None:
        """Connects. Raises `DatabaseAwayError`."""
        with telling_apart():
            self._pool = await asyncpg.create_pool(
                **self._settings.arguments(),
                min_size=1,
                max_size=self._size,
                init=prepare,
                reset=_reset,
            )

    async def close(self) -> None:
        """Closes every connection."""
        if self._pool is not None:
            await self._pool.close()

    @asynccontextmanager
    async def connection(self, wait_seconds: float = CONNECT_SECONDS) -> AsyncIterator[Connection]:
        """A connection of the pool, after waiting at most so long while all are in use.

        Raises `DatabaseAwayError`.
        """
        if self._pool is None:
            raise DatabaseAwayError("the pool is not open")
        try:
            with telling_apart():
                async with self._pool.acquire(timeout=wait_seconds) as connection:
                    yield connection
        except DatabaseAwayError:
            if self._pool.get_size() < self._pool.get_max_size():  # else it is only busy
                self.repair()
            raise

    @asynccontextmanager
    async def transaction(self, tenant_id: str, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        """A transaction that sees and writes one tenant's rows only; with `snapshot` all its
        statements see the ledger as it was at the first one.

        However long it takes, a database that hangs is noticed within two seconds.
        Raises `DatabaseAwayError`; then the outcome of a write is not known.
        """
        async with self.connection() as connection, self._watching(connection):
            try:
                await connection.execute(begin(tenant_id, snapshot=snapshot))
                yield connection
            except (asyncio.CancelledError, DatabaseAwayError, *_AWAY):
                if not connection.is_closed():
                    connection.terminate()  # it may hang: nothing more is asked of it
                raise
            except BaseException:
                if not connection.is_closed():
                    await connection.execute("rollback")
                raise
            await connection.execute("commit")

    @asynccontextmanager
    async def _watching(self, connection: Connection) -> AsyncIterator[None]:
        watch = asyncio.get_running_loop().create_task(self._watch(connection))
        try:
            yield
        finally:
            watch.cancel()

    async def _watch(self, connection: Connection) -> None:
        """Breaks a connection whose server has stopped answering."""
        answers = True
        while answers:
            await asyncio.sleep(PATIENCE_SECONDS)
            answers = await self.answers()
        connection.terminate()

    async def answers(self) -> bool:
        """Whether the server takes a new connection and answers on it in time."""
        try:
            with telling_apart():
                async with asyncio.timeout(self._probe_seconds):
                    connection = await asyncpg.connect(**self._settings.arguments())
                    await connection.fetchval("select 1")
                    connection.terminate()
        except DatabaseAwayError as error:  # one that is full has answered
            return isinstance(error.__cause__, asyncpg.TooManyConnectionsError)
        except asyncpg.PostgresError:
            return False
        return True

    def repair(self) -> None:
        """Starts what brings the database back, where there is such a thing."""
        if self._on_failure is None or (self._repairing and not self._repairing.done()):
            return
        self._repairing = asyncio.ensure_future(asyncio.to_thread(self._on_failure))
        self._repairing.add_done_callback(_report)


def begin(tenant_id: str, *, snapshot: bool = False) -> str:
    """Opens a transaction and names its tenant in one round trip."""
    if not TENANT.fullmatch(tenant_id):
        raise ValueError(tenant_id)
    level = " isolation level repeatable read" if snapshot else ""
    return f"begin{level}; select set_config('ledger.tenant', '{tenant_id}', true)"


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.warning("database repair failed", reason=str(error))
