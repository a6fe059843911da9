"""Connections to PostgreSQL: pool, tenant transactions, errors told apart.

Every setting is local to a transaction, so a pooler in transaction mode may stand
between. Instants travel as integers (microseconds since 1970 UTC).

A connection is judged by its own progress (`_Watch`): a server that answers others says nothing
about a connection whose bytes are lost on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ParamSpec, TypeAlias, TypeVar

import asyncpg
import msgspec
import structlog

from ledger.errors import DatabaseAwayError
from ledger.outage import Outage
from ledger.patience import within
from ledger.settings import TENANT

Connection: TypeAlias = asyncpg.Connection

log = structlog.get_logger()

COMMAND_SECONDS = 60.0
IDLE_IN_TRANSACTION_SECONDS = 60
"""After so long the server ends a transaction whose owner says nothing: a machine that has gone
keeps no lock.
"""

UndecodableError = asyncpg.DataError
"""What PostgreSQL says of a cell that does not hold the text or JSON that a query reads in it."""

_PG_EPOCH = 946_684_800_000_000  # 2000-01-01T00:00:00Z, PostgreSQL's zero


class Limits(msgspec.Struct, frozen=True):
    """How long to wait for what, in seconds. A caller must hear of trouble within two seconds."""

    connect: float = 1.2
    """For a new connection."""
    acquire: float = 1.5
    """For a connection of the pool, be it made or given back."""
    patience: float = 0.8
    """For a statement, before its connection is looked at."""
    probe: float = 0.5
    """For the server's word on its connections."""
    close: float = 1.0
    """For a clean end of connections."""


LIMITS = Limits()


class ConnectionSettings:
    """How to reach a server: a URL, and what overrides it."""

    def __init__(self, dsn: str, *, pooled: bool = False, **overrides: Any) -> None:
        self.dsn = dsn
        self.pooled = pooled
        self.overrides = overrides

    def with_login(self, user: str, password: str) -> ConnectionSettings:
        """The same database under another login."""
        return ConnectionSettings(self.dsn, pooled=self.pooled, user=user, password=password)

    def patient(self, seconds: float) -> ConnectionSettings:
        """The same, waiting longer for a connection."""
        return ConnectionSettings(self.dsn, pooled=self.pooled, **{**self.overrides, "timeout": seconds})

    def arguments(self) -> dict[str, Any]:
        """Arguments for `asyncpg.connect`."""
        arguments: dict[str, Any] = {
            "dsn": self.dsn,
            "timeout": LIMITS.connect,
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


@contextmanager
def telling_apart(connection: Connection | None = None) -> Iterator[None]:
    """Turns every error that means "not now" into `DatabaseAwayError`: those after which the
    connection is gone, and those with which the server says that it cannot.
    """
    try:
        yield
    except DatabaseAwayError:
        raise
    except Exception as error:
        if _is_away(error) or (connection is not None and connection.is_closed()):
            why = getattr(connection, "given_up", None)
            said = f"{type(error).__name__}: {error}".partition("\n")[0]  # what follows may show values
            raise DatabaseAwayError(why or said) from error
        raise


_AWAY_CLASSES = frozenset({"08", "53", "57", "58"})
"""Of SQLSTATE: connection exception, insufficient resources, operator intervention, system error."""
_AWAY_STATES = frozenset(
    {
        "25006",  # read only: this server is a standby now
        "25P03",  # idle in transaction for too long
        "25P04",  # a transaction that took too long
        "40001",  # serialization failure
        "40P01",  # deadlock
        "55P03",  # a lock that took too long
    }
)


_PASSING_STATES = frozenset({"40001", "40P01", "55P03", "57014"})
"""Of these: what concerns one transaction, on a server that works."""


def _passes(error: DatabaseAwayError) -> bool:
    return getattr(error.__cause__, "sqlstate", None) in _PASSING_STATES


def _is_away(error: Exception) -> bool:
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        # with these severities the server has ended the session, whatever the reason
        gone = getattr(error, "severity_en", None) or getattr(error, "severity", None)
        return gone in {"FATAL", "PANIC"} or state[:2] in _AWAY_CLASSES or state in _AWAY_STATES
    # asyncpg loses its way on a connection whose server ends the session unasked; `TimeoutError` is an
    # `OSError`
    return isinstance(error, OSError | asyncpg.InternalClientError)


P = ParamSpec("P")
T = TypeVar("T")


def _awaited(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """A method of a connection during which the server is waited for."""

    @functools.wraps(method)
    async def call(*arguments: P.args, **options: P.kwargs) -> T:
        connection: Any = arguments[0]
        connection.statement += 1
        connection.waits = True
        try:
            return await method(*arguments, **options)
        finally:
            connection.waits = False

    return call


class _Watched(asyncpg.Connection):
    """A connection that knows whether its server is waited for, and under which name the server
    has it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.name = ""
        self.statement = 0
        self.waits = False
        self.counted = 0
        """The statement that `ticks` are counted for."""
        self.ticks = 0
        self.doubt: Any = None
        """The server's word on this session where it did nothing while it was waited for."""
        self.given_up: str | None = None
        """Why it was terminated while its server was waited for."""
        self.close_seconds = LIMITS.close

    @property
    def itself(self) -> _Watched:
        """The connection below the pool's proxy, which hides one that is closed."""
        return self

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  (asyncpg's)
        """Ends cleanly, or else at once. Raises nothing."""
        del timeout
        with contextlib.suppress(Exception):  # what is closed need not say why it was broken
            await super().close(timeout=self.close_seconds)


for _method in ("execute", "fetch", "fetchrow", "fetchval"):
    setattr(_Watched, _method, _awaited(getattr(asyncpg.Connection, _method)))

_SESSIONS = """
select w.name, s.pid, s.state_change,
       coalesce(s.state = 'active' and s.wait_event is distinct from 'ClientRead', false) as busy
  from unnest($1::text[]) w (name)
  left join pg_stat_activity s on s.application_name = w.name and s.backend_type = 'client backend'
"""
"""What the server does for some connections. It works for one, or waits for a lock, while it is busy;
`ClientRead` waits for the rest of what is to come from us.
"""
_TICKS = 4
"""So often the connections are counted while patience lasts."""
_PATIENT_TICKS = 8 * _TICKS
"""After so many a statement behind a pooler is given up where the server gives no word."""


class _Watch:
    """Gives up the connections that no longer get on.

    A statement that has waited for long is asked about on a connection of its own. Where the server
    does nothing for it at two looks, its bytes or the answer's were lost on the way: the server is
    told to end that session, which may hold locks, and the connection is terminated. Where the server
    gives no word, every connection that waits is terminated; behind a pooler later, because the
    question waits, too, while its few servers work.
    """

    def __init__(
        self, settings: ConnectionSettings, limits: Limits, given_up: Callable[[], Awaitable[None]]
    ) -> None:
        """`given_up` is called after connections were terminated."""
        self._settings = settings
        self._limits = limits
        self._given_up = given_up
        self._connections: set[_Watched] = set()

    async def connect(self, *dsn: str, **options: Any) -> _Watched:
        """A new connection for a pool, watched from then on. Raises what asyncpg raises."""
        name = f"sync-ledger {secrets.token_hex(8)}"
        options |= {"timeout": COMMAND_SECONDS, "server_settings": {"application_name": name}}
        connection: _Watched = await within(self._limits.connect, _prepared(*dsn, **options))
        connection.name, connection.close_seconds = name, self._limits.close
        self._connections.add(connection)
        return connection

    async def run(self) -> None:
        """Watches until cancelled."""
        while True:
            await asyncio.sleep(self._limits.patience / _TICKS)
            self._connections = {c for c in self._connections if not c.is_closed()}
            if suspects := [c for c in self._connections if self._is_due(c)]:
                try:
                    await self._look(suspects)
                except Exception:  # nobody else looks
                    log.exception("connections could not be looked at")

    @staticmethod
    def _is_due(connection: _Watched) -> bool:
        """Counts a connection's wait in ticks of a loop that runs. Whether it is to be looked at."""
        if not connection.waits:
            return False
        if connection.counted != connection.statement:
            connection.counted, connection.ticks, connection.doubt = connection.statement, 0, None
        connection.ticks += 1
        return connection.doubt is not None or connection.ticks % _TICKS == 0

    async def _look(self, suspects: list[_Watched]) -> None:
        asked = [(connection, connection.statement) for connection in suspects]
        silent, why = suspects, "the server gives no word"
        try:
            silent = await within(self._limits.probe, self._silent(asked))
            why = "a connection has fallen silent"
        except (TimeoutError, OSError) as error:
            # each server behind a pooler may be at work, which nobody can ask it; and this machine may
            # lack a name or a file just now
            is_ours = isinstance(error, socket.gaierror) or error.errno in (errno.EMFILE, errno.ENFILE)
            if is_ours or (isinstance(error, TimeoutError) and self._settings.pooled):
                silent = [connection for connection in suspects if connection.ticks >= _PATIENT_TICKS]
        except asyncpg.PostgresError as error:
            if not (error.sqlstate or "").startswith("57P"):  # it ends, or begins
                return  # whatever it says, it has answered: that it is full, that the password is another
        except (asyncpg.InterfaceError, asyncpg.InternalClientError):
            pass
        for connection, statement in asked:
            if connection in silent and connection.waits and connection.statement == statement:
                connection.given_up = why
                connection.terminate()
        if silent:
            await self._given_up()

    async def _silent(self, asked: list[tuple[_Watched, int]]) -> list[_Watched]:
        """Those for which the server did nothing, now and at the last look; their sessions are ended."""
        probe = await asyncpg.connect(**{**self._settings.arguments(), "timeout": COMMAND_SECONDS})
        try:
            async with probe.transaction():  # a transaction keeps one server behind a pooler
                rows = await probe.fetch(_SESSIONS, [connection.name for connection, _ in asked])
                busy = {row["name"] for row in rows if row["busy"]}
                silent = []
                for connection, statement in asked:
                    seen = [(r["pid"], r["state_change"]) for r in rows if r["name"] == connection.name]
                    doubt, connection.doubt = connection.doubt, None
                    if connection.name in busy or connection.statement != statement:
                        continue
                    if doubt != seen:
                        connection.doubt = seen
                        continue
                    silent.append(connection)
                    for pid, _ in seen:
                        if pid is not None:
                            await probe.execute(f"select pg_terminate_backend({pid})")
                return silent
        finally:
            probe.terminate()


async def _prepared(*dsn: str, **options: Any) -> _Watched:
    connection: _Watched = await asyncpg.connect(*dsn, **options)
    try:
        await prepare(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def connect(settings: ConnectionSettings) -> asyncpg.Connection:
    """One connection outside the pool. Raises `DatabaseAwayError`."""
    with telling_apart():
        return await _prepared(**settings.arguments(), connection_class=_Watched)


async def _reset(_: Connection) -> None:
    """Nothing outlives a transaction here, and asyncpg's own reset costs a round trip."""


async def _roll_back(connection: Connection) -> None:
    """Ends a transaction that was left open. Raises nothing."""
    if not connection.is_closed() and connection.is_in_transaction():
        try:
            await connection.execute("rollback")
        except Exception:  # noqa: BLE001  (whatever it is, the connection is no longer to be used)
            connection.terminate()


class Database:
    """The application's pool."""

    def __init__(
        self,
        settings: ConnectionSettings,
        *,
        size: int = 8,
        on_failure: Callable[[threading.Event], None] | None = None,
        limits: Limits = LIMITS,
        outage: Outage | None = None,
    ) -> None:
        """`on_failure` brings the database back, in a thread of its own, and returns early when the
        event is set.
        """
        self._settings = settings
        self._limits = limits
        self._size = size
        self._pool: asyncpg.Pool | None = None
        self._watch = _Watch(settings, limits, self._expire)
        self._watching: asyncio.Task[None] | None = None
        self._on_failure = on_failure
        self._repair: threading.Thread | None = None
        self._closed = threading.Event()
        self._has_opened = False
        self.outage = outage or Outage()

    @property
    def pooled(self) -> bool:
        """Whether a pooler stands between: then only a transaction keeps one server."""
        return self._settings.pooled

    async def open(self) -> None:
        """Connects. Raises `DatabaseAwayError`."""
        self._pool = await asyncpg.create_pool(
            **self._settings.arguments(),
            min_size=0,
            max_size=self._size,
            connect=self._connect,
            connection_class=_Watched,
            reset=_reset,
        )
        self._watching = asyncio.create_task(self._watch.run(), name="watch of connections")
        try:
            async with self.connection():
                self._has_opened = True
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Closes every connection; one that hangs, or is still in use after a while, is terminated."""
        self._closed.set()
        if self._pool is not None:
            with contextlib.suppress(TimeoutError):
                await within(self._limits.close, self._pool.close())
            self._pool.terminate()
        if self._watching is not None:
            self._watching.cancel()

    async def _connect(self, *dsn: Any, **options: Any) -> Any:
        try:
            with telling_apart():
                return await self._watch.connect(*dsn, **options)
        except DatabaseAwayError as error:
            if self._has_opened:  # else whoever opens says so
                self.outage.failed(str(error))
            self._begin_repair()
            raise

    async def _expire(self) -> None:
        if self._pool is not None:  # what befell one may have befallen all
            await self._pool.expire_connections()

    @asynccontextmanager
    async def connection(self, wait_seconds: float | None = None) -> AsyncIterator[Connection]:
        """A connection of the pool, after waiting at most so long while all are in use.

        Raises `DatabaseAwayError`.
        """
        pool = self._pool
        if pool is None:
            raise DatabaseAwayError("the pool is not open")
        acquired: list[Any] = []

        async def acquire() -> None:
            proxy: Any = await pool.acquire()
            # at once: a session that ends takes its proxy from the connection
            acquired.append((proxy, proxy.itself))

        try:
            try:
                if pool.get_idle_size():
                    await acquire()
                else:
                    await within(wait_seconds or self._limits.acquire, acquire())
            except TimeoutError:
                raise DatabaseAwayError("every connection is in use") from None
            except asyncpg.InterfaceError as error:
                raise DatabaseAwayError(f"the pool: {error}") from error
            connection: Connection = acquired[0][1]
            try:
                with self.using(connection):
                    yield connection
            finally:
                await _roll_back(connection)
        finally:
            for proxy, _ in acquired:
                await pool.release(proxy)

    @contextmanager
    def using(self, connection: Connection) -> Iterator[None]:
        """Work on a connection; one that has failed, or whose work was broken off, is terminated.

        Raises `DatabaseAwayError`; then the outcome of a write is not known.
        """
        try:
            with telling_apart(connection):
                yield
        except DatabaseAwayError as error:
            if not _passes(error) or connection.is_closed():
                self.outage.failed(str(error))
                connection.terminate()
            raise
        except Exception:
            raise
        except BaseException:
            connection.terminate()  # it may hang: nothing more is asked of it
            raise
        self.outage.worked()

    @asynccontextmanager
    async def transaction(self, tenant_id: str, *, snapshot: bool = False) -> AsyncIterator[Connection]:
        """A transaction that sees and writes one tenant's rows only; with `snapshot` all its
        statements see the ledger as it was at the first one.

        However long it takes, a connection that hangs is noticed within two seconds.
        Raises `DatabaseAwayError`; then the outcome of a write is not known.
        """
        async with self.connection() as connection:
            await connection.execute(begin(tenant_id, snapshot=snapshot))
            yield connection  # where this raises, it is rolled back
            await connection.execute("commit")

    def _begin_repair(self) -> None:
        """Starts what brings the database back, where there is such a thing."""
        if self._on_failure is None or (self._repair is not None and self._repair.is_alive()):
            return
        self._repair = threading.Thread(target=self._repaired, daemon=True, name="repair of the database")
        self._repair.start()

    def _repaired(self) -> None:
        assert self._on_failure is not None
        try:
            self._on_failure(self._closed)
        except Exception as error:  # noqa: BLE001  (whatever it is, the next failure tries again)
            self.outage.not_repaired(str(error))


def begin(tenant_id: str, *, snapshot: bool = False) -> str:
    """Opens a transaction and names its tenant in one round trip."""
    if not TENANT.fullmatch(tenant_id):
        raise ValueError(tenant_id)
    named = f"select set_config('ledger.tenant', '{tenant_id}', true)"
    if snapshot:  # it holds no lock, and may be read from at a client's pace
        return f"begin isolation level repeatable read; {named}"
    idle = f"set_config('idle_in_transaction_session_timeout', '{IDLE_IN_TRANSACTION_SECONDS}s', true)"
    return f"begin; {named}, {idle}"
