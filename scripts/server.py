"""Runs the HTTP server: sockets on localhost, workers, a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import structlog
import uvicorn
from litestar.types import ASGIApp

from api.app import create_app
from api.callers import LOOPBACK
from api.connections import Connections, raise_descriptors
from api.edge import EVERY_ANSWER
from api.wire import HttpProtocol
from ledger import settings as configuration
from ledger.errors import ConfigurationError
from ledger.installation import Installation, open_installation
from ledger.zoho.entities import ENTITIES
from ledger.zoho.records import check_mappings
from projections.fold import CurrentState
from projections.rebuild import Replay, bring_up_to_date, outdated_tenants
from projections.summary import Summary
from scripts.ending import bound_the_end
from scripts.output import one_line
from scripts.processes import OneProcess, Workers
from scripts.streams import open_standard_streams

SHUTDOWN_SECONDS = 6
"""So long requests in progress may take at the end; then come `api.service.STOP_SECONDS` and the
connections to the database.
"""
BACKLOG = 2048
_PR_SET_PDEATHSIG = 1


def configure_logging(level: str) -> None:
    """One JSON line an event, to stderr, whoever logs it: the libraries' warnings and errors, too."""
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        _without_values,
    ]
    structlog.configure(
        processors=[*processors, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_first_line, *processors],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)


def _first_line(_: Any, __: str, event: Any) -> Any:
    """A library's message without the lines that show an object, which may hold what was in a record."""
    event["event"] = event["event"].partition("\n")[0]
    return event


def _without_values(_: Any, __: str, event: Any) -> Any:
    """An exception as its type and places: its text and its frames' variables may hold
    what was in a record.
    """
    error = event.pop("exc_info", None)
    error = sys.exc_info()[1] if error is True else error[1] if isinstance(error, tuple) else error
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        frames = traceback.extract_tb(error.__traceback__)
        event["at"] = [f"{f.filename}:{f.lineno} {f.name}" for f in frames]
    return event


def tell(line: str) -> None:
    """One line for whoever started the program."""
    print(line, file=sys.stderr, flush=True)


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets for a host; `localhost` is both 127.0.0.1 and, where there is one, ::1.

    Raises `ConfigurationError`.
    """
    if host not in LOOPBACK:
        raise ConfigurationError(
            f"--host {host}: AUTH=off serves on loopback only: use localhost, 127.0.0.1 or ::1"
        )
    addresses = ["127.0.0.1", "::1"] if host == "localhost" else [host]
    sockets: list[socket.socket] = []
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            listening = socket.socket(family, socket.SOCK_STREAM)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound_port = sockets[0].getsockname()[1] if sockets else port
            listening.bind((address, bound_port))
            listening.listen(BACKLOG)
            listening.set_inheritable(True)
            sockets.append(listening)
        except OSError as error:
            if address == "::1" and sockets:
                continue  # a machine without IPv6
            raise ConfigurationError(
                f"port {port} of {address} cannot be bound: {error.strerror}; choose another one with --port"
            ) from None
    return sockets


def die_with(parent: int, number: signal.Signals) -> None:
    """Makes the kernel send a signal to this process when its parent dies (Linux; elsewhere a
    worker ends with its work).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)


class WorkerApp:
    """The application of one process; it opens the ledger in that process's own loop.

    `reasons`: where it says why it could not.
    """

    def __init__(
        self,
        settings: configuration.Settings,
        reasons: Connection,
        parent: int,
        *,
        moodle_worker: bool = True,
    ) -> None:
        self._settings = settings
        self._reasons = reasons
        self._parent = parent
        self._moodle_worker = moodle_worker
        self._app: ASGIApp | None = None
        self._installation: Installation | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes requests on; the lifespan, which comes first, opens the ledger."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            assert self._app is not None
            await self._app(scope, receive, send)

    async def _live(self, scope: Any, receive: Any, send: Any) -> None:
        started = False

        async def pass_on(message: Any) -> None:
            nonlocal started
            started = started or message["type"] == "lifespan.startup.complete"
            if started:  # what failed before is said in one line, not in a traceback
                await send(message)

        try:
            await self._open()
            assert self._app is not None
            await self._app(scope, receive, pass_on)
        except Exception as error:
            if started:
                raise
            self._reasons.send(one_line(error))
            logging.getLogger("uvicorn.error").disabled = True  # it would say that it failed, not why
            await send({"type": "lifespan.startup.failed"})

    async def _open(self) -> None:
        if os.getpid() != self._parent:
            open_standard_streams()
            die_with(self._parent, signal.SIGTERM)
        configure_logging(self._settings.log_level)
        bound_the_end()
        self._installation = await open_installation(self._settings)
        self._app = create_app(self._installation, moodle_worker=self._moodle_worker)
        # what exists now lives as long as the process: the collector need not look at it
        gc.collect()
        gc.freeze()


def serve(
    settings: configuration.Settings, host: str, port: int, workers: int, *, moodle_worker: bool = True
) -> int:
    """Serves until SIGINT or SIGTERM. Raises `ConfigurationError`."""
    raise_descriptors()
    check_mappings(ENTITIES, settings.tenants)
    sockets = bind(host, port)
    installation = asyncio.run(_open(settings))
    names = ", ".join(url_of(s) for s in sockets)
    line = f"serving on {names} (documentation: {url_of(sockets[0])}/docs)"
    reasons, reason = Pipe(duplex=False)
    config = config_for(WorkerApp(settings, reason, os.getpid(), moodle_worker=moodle_worker), workers)

    def why() -> str:
        last = "a server process ended"
        while reasons.poll():
            last = reasons.recv()
        return last

    try:
        if not run(config, sockets, lambda: tell(line), lambda: tell(f"{why()}: another one begins")):
            raise ConfigurationError(why())
    finally:
        installation.close()
    return 0


async def _open(settings: configuration.Settings) -> Installation:
    """Opens the ledger, and first rebuilds what an older release has made of it: the older
    processes serve meanwhile.
    """
    installation = await open_installation(settings, tell)
    database = installation.database()
    try:
        await database.open()
        projection = CurrentState(ENTITIES)
        for tenant_id in await outdated_tenants(database, settings.default_tenant, projection):
            replay = Replay(database, tenant_id, installation.master_key, projection, [Summary()])
            await bring_up_to_date(replay, tell)
    except BaseException:
        installation.close()
        raise
    finally:
        await database.close()
    return installation


def config_for(app: Any, workers: int, connections: Connections | None = None) -> uvicorn.Config:
    """How an application is served; each process has connections of its own."""
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=partial(HttpProtocol, connections or Connections()),  # type: ignore[arg-type]  # or a function
        ws="none",
        workers=workers,
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        lifespan="on",
        server_header=False,
        headers=list(EVERY_ANSWER.items()),
        backlog=BACKLOG,
        proxy_headers=False,
    )


def run(
    config: uvicorn.Config,
    sockets: list[socket.socket],
    serving: Callable[[], None] = lambda: None,
    ended: Callable[[], None] = lambda: None,
) -> bool:
    """Serves until a signal. `serving` is called when all processes take requests, `ended` when one
    of several has ended since. False where one does not come to serve.
    """
    if config.workers > 1:
        workers = Workers(config, sockets, serving, ended)
        workers.run()
        return not workers.failed
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)  # uvicorn raises them again when it has ended cleanly
    server = OneProcess(config, serving)
    with contextlib.suppress(SystemExit):  # how uvicorn ends where the application does not start
        server.run(sockets=sockets)
    return server.started


def _ended(*_: object) -> None:
    """A signal after a clean end."""


def url_of(listening: socket.socket) -> str:
    """Where a socket is reached."""
    address, port = listening.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
