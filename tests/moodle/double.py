"""A Moodle site over real HTTP, in a thread of the test or as a process of its own.

python -m tests.moodle.double --port 8800 --call-ms 30 --item-ms 8 --workers-limit 4
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping
from typing import Any, Self

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tests.moodle.control import Control
from tests.moodle.errors import MoodleError
from tests.moodle.faults import Fault, Plan, Plans
from tests.moodle.form import Form, flatten, parse_body, parse_query
from tests.moodle.replies import MAINTENANCE_PAGE, NOT_FOUND_PAGE, xml_error, xml_result
from tests.moodle.settings import Token
from tests.moodle.site import Site

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

REST = "/webservice/rest/server.php"
CONTROL_KEYS = ("wstoken", "wsfunction", "moodlewsrestformat")
FORM = "application/x-www-form-urlencoded"
JSON, XML, HTML = "application/json", "application/xml; charset=utf-8", "text/html; charset=utf-8"
LOOPBACK = "127.0.0.1"


class Call(msgspec.Struct):
    """A call that came in; without `finished` it is still being served."""

    function: str | None
    params: dict[str, str]
    items: int
    started: float
    status: int | None = None
    errorcode: str | None = None
    finished: float | None = None
    fault: Fault | None = None


class Reply(msgspec.Struct):
    """An answer as it goes over the wire."""

    status: int
    content_type: str
    body: bytes
    errorcode: str | None = None


class Request(msgspec.Struct):
    """What PHP makes of a request."""

    token: str | None
    function: str | None
    wants_json: bool
    params: Form


class Protocol(HttpToolsProtocol):
    """Gives the application the connection, so that it can cut it."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["transport"] = self.transport  # type: ignore[typeddict-unknown-key]


class Server(uvicorn.Server):
    """Says when it is up."""

    def __init__(self, config: uvicorn.Config, up: threading.Event) -> None:
        super().__init__(config)
        self._up = up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up.set()


class MoodleDouble:
    """A stateful double of a Moodle site with its REST server.

    `token` has the rights of an integration user; `site.tokens` has the others. The
    site may be read and changed under `locked()` while calls come in. `call_seconds` and
    `item_seconds` are what a call and each of its items cost, `slow_seconds` is how long
    a slow answer takes, and after `refused_seconds`, if given, a closed port opens again.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        token: str | None = None,
        call_seconds: float = 0,
        item_seconds: float = 0,
        workers_limit: int | None = None,
    ) -> None:
        self._socket = listening_socket(port)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self.port}"
        self.site = Site(self.url)
        if token is not None:
            self.site.tokens["sync"].value = token
        self._token_values = {name: token.value for name, token in self.site.tokens.items()}
        self.calls: list[Call] = []
        self.call_seconds = call_seconds
        self.item_seconds = item_seconds
        self.slow_seconds = 1.0
        self.refused_seconds: float | None = None
        self._workers_limit = workers_limit
        self._plans = Plans()
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="moodle-double", daemon=True)
        self._revoked: Token | None = None
        self._control = Control(self)

    # lifecycle

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when calls are served."""
        self._thread.start()
        self._up.wait()

    def stop(self) -> None:
        """Lets go of pending calls and closes the port."""
        self.let_go()
        self._server.should_exit = True
        self._thread.join()

    def _run(self) -> None:
        asyncio.run(self.serve())

    async def serve(self) -> None:
        """Serves until `stop`."""
        self._loop = asyncio.get_running_loop()
        self._released = asyncio.Event()
        self._workers = asyncio.Semaphore(self._workers_limit or 10_000)
        config = uvicorn.Config(
            self._application,
            http=Protocol,
            interface="asgi3",
            lifespan="off",
            log_level="error",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        self._server = Server(config, self._up)
        await self._server.serve(sockets=[self._socket])

    def _on_loop(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs something on the server's loop, from a thread of the test."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # what a test does

    @property
    def token(self) -> str:
        """The token of the integration user."""
        return self._token_values["sync"]

    @contextlib.contextmanager
    def locked(self) -> Iterator[Site]:
        """The site, while no call changes it."""
        with self._lock:
            yield self.site

    def reset(self) -> None:
        """A site as installed, without calls and faults; the tokens' values stay the same."""
        with self._lock:
            self.site = Site(self.url)
            for name, token in self.site.tokens.items():
                token.value = self._token_values[name]
            self._revoked = None
            self.calls.clear()
            self._plans.clear()

    def fail(self, fault: Fault, function: str | None = None, nth: int = 1, times: int = 1) -> None:
        """Lets a fault hit the nth call from now, and the `times` - 1 calls after it."""
        with self._lock:
            self._plans.add(Plan(fault, function, nth, times))

    def spare(self) -> None:
        """Forgets the faults to come."""
        with self._lock:
            self._plans.clear()

    def revoke_token(self) -> None:
        """Makes `token` unknown to the site, until `restore_token`."""
        with self._lock:
            self._revoked = self.site.tokens.pop("sync", self._revoked)

    def restore_token(self) -> None:
        """Makes `token` known again."""
        with self._lock:
            if self._revoked is not None:
                self.site.tokens["sync"] = self._revoked
                self._revoked = None

    def wait_for_calls(self, count: int, seconds: float = 10) -> None:
        """Returns when so many calls have come in since the last reset."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.calls) >= count, seconds):
                raise TimeoutError(f"{len(self.calls)} calls in {seconds} seconds")

    def let_go(self) -> None:
        """Ends the waiting of calls that hang."""
        self._loop.call_soon_threadsafe(self._release)

    def refuse(self) -> None:
        """Closes the port and all connections."""
        self._on_loop(self._refuse())

    def listen(self) -> None:
        """Opens the same port again."""
        self._on_loop(self._listen())

    def _release(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    async def _refuse(self) -> None:
        for server in self._server.servers:
            server.close()
        self._server.servers.clear()
        for connection in list(self._server.server_state.connections):
            connection.transport.close()
        if self.refused_seconds is not None:
            self._loop.call_later(self.refused_seconds, self._loop.create_task, self._listen())

    async def _listen(self) -> None:
        if not self._server.servers:
            self._socket = listening_socket(self.port)
            await self._server.startup([self._socket])

    # HTTP

    async def _application(self, scope: Message, receive: Receive, send: Send) -> None:
        body = await whole_body(receive)
        if body is None:
            return
        path = scope["path"]
        if path.startswith("/_double/"):
            answer = await asyncio.to_thread(self._control.answer, scope["method"], path, body)
            await respond(send, Reply(200, JSON, json.dumps(answer).encode()))
        elif path == REST:
            async with self._workers:
                await self._serve_call(self._read(scope, body), scope["transport"], receive, send)
        else:
            await respond(send, Reply(404, HTML, NOT_FOUND_PAGE.encode()))

    def _read(self, scope: Message, body: bytes) -> Request:
        """The parameters, as far as PHP's limits let them through."""
        settings = self.site.settings
        values = parse_query(scope["query_string"].decode("ascii", "replace"), settings.max_input_vars)
        content_type = dict(scope["headers"]).get(b"content-type", b"").decode("ascii", "replace")
        if content_type.startswith(FORM) and len(body) <= settings.post_max_size:
            values |= parse_body(body.decode("utf-8", "replace"), settings.max_input_vars)
        token, function, rest_format = (scalar(values.pop(key, None)) for key in CONTROL_KEYS)
        return Request(token, function, rest_format == "json", values)

    async def _serve_call(
        self, request: Request, transport: asyncio.Transport, receive: Receive, send: Send
    ) -> None:
        call = Call(request.function, flatten(request.params), items(request.params), time.monotonic())
        with self._lock:
            self.calls.append(call)
            fault = call.fault = self._plans.next(request.function)
            released = self._released
            self._arrived.notify_all()
        if cost := self.call_seconds + self.item_seconds * call.items:
            await asyncio.sleep(cost)
        reply = await self._reply(request, fault)
        if reply is not None:
            call.status, call.errorcode = reply.status, reply.errorcode
        call.finished = time.monotonic()
        if fault in {Fault.timeout_before, Fault.timeout_after}:
            await hang(receive, released)
        await self._answer(reply, fault, transport, receive, send)

    async def _reply(self, request: Request, fault: Fault | None) -> Reply | None:
        """The reply of the site or of the fault; None for a call that is not carried out."""
        match fault:
            case Fault.refused | Fault.reset_before | Fault.timeout_before:
                return None
            case Fault.http_503_html:
                return Reply(503, HTML, b"<html><body><h1>503 Service Unavailable</h1></body></html>")
            case Fault.garbage_before:
                return Reply(200, HTML, GARBAGE)
            case Fault.empty_200:
                return Reply(200, HTML, b"")
            case Fault.token_revoked:
                self.revoke_token()
        if fault is not None and (error := fault.error()):
            return self._error(error, request)
        with self._lock:
            reply = self._carry_out(request)
        if fault is Fault.garbage_after:
            return Reply(200, HTML, GARBAGE)
        return reply

    def _carry_out(self, request: Request) -> Reply:
        settings = self.site.settings
        if settings.maintenance == "cli":
            return Reply(503, HTML, MAINTENANCE_PAGE.format(name=settings.sitename).encode())
        if not (settings.webservices_enabled and settings.rest_enabled):
            return Reply(403, HTML, b"")
        try:
            result = self.site.call(request.function, request.params, request.token)
        except MoodleError as error:
            return self._error(error, request)
        if request.wants_json:
            return Reply(200, JSON, json.dumps(result).encode())
        return Reply(200, XML, xml_result(result).encode())

    def _error(self, error: MoodleError, request: Request) -> Reply:
        body = error.body(debug=self.site.settings.debug)
        if request.wants_json:
            return Reply(200, JSON, json.dumps(body).encode(), error.errorcode)
        return Reply(200, XML, xml_error(body).encode(), error.errorcode)

    async def _answer(
        self,
        reply: Reply | None,
        fault: Fault | None,
        transport: asyncio.Transport,
        receive: Receive,
        send: Send,
    ) -> None:
        """Sends a reply as well as the fault lets it."""
        if fault is Fault.refused:
            await self._refuse()
        if reply is None:
            transport.abort()
            await gone(receive)
        elif fault is Fault.reset_after:
            await send(head(reply))
            await send(
                {"type": "http.response.body", "body": reply.body[: len(reply.body) // 2], "more_body": True}
            )
            transport.close()
            await gone(receive)
        elif fault is Fault.slow:
            await trickle(send, reply, self.slow_seconds)
        else:
            await respond(send, reply)


GARBAGE = b"<br />\n<b>Fatal error</b>:  Allowed memory size of 134217728 bytes exhausted<br />\n"


def listening_socket(port: int) -> socket.socket:
    """A socket to accept connections on; port 0 is any free one."""
    # asyncio sends without delay only where the protocol is named
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((LOOPBACK, port))
    listener.listen(128)
    return listener


async def whole_body(receive: Receive) -> bytes | None:
    """The body of a request; None where the client did not send all of it."""
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def scalar(value: Form | str | None) -> str | None:
    """A control parameter; an array is none."""
    return value if isinstance(value, str) else None


def items(params: Form) -> int:
    """How many things a call is about: the entries of its list."""
    return sum(len(value) for value in params.values() if isinstance(value, dict))


def head(reply: Reply) -> Message:
    """The start of a response."""
    headers = [
        (b"content-type", reply.content_type.encode()),
        (b"content-length", str(len(reply.body)).encode()),
    ]
    return {"type": "http.response.start", "status": reply.status, "headers": headers}


async def respond(send: Send, reply: Reply) -> None:
    """Sends a reply at once."""
    await send(head(reply))
    await send({"type": "http.response.body", "body": reply.body})


async def trickle(send: Send, reply: Reply, seconds: float) -> None:
    """Sends a reply byte by byte, or in twenty pieces if it has more."""
    step = max(1, len(reply.body) // 20)
    pieces = [reply.body[start : start + step] for start in range(0, len(reply.body), step)]
    await send(head(reply))
    for piece in pieces:
        await asyncio.sleep(seconds / len(pieces))
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def hang(receive: Receive, released: asyncio.Event) -> None:
    """Until the client is gone, or the test lets go."""
    waiting = [asyncio.create_task(released.wait()), asyncio.create_task(gone(receive))]
    _, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()


async def gone(receive: Receive) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def main() -> None:
    """A double as a process; prints its URL and token as one line of JSON."""
    parser = argparse.ArgumentParser(description="A stateful double of a Moodle site")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--token", help="the integration user's token; random without")
    parser.add_argument("--call-ms", type=float, default=0, help="what a call costs")
    parser.add_argument("--item-ms", type=float, default=0, help="what each of its items costs")
    parser.add_argument("--workers-limit", type=int, help="how many calls are served at a time")
    arguments = parser.parse_args()
    double = MoodleDouble(
        port=arguments.port,
        token=arguments.token,
        call_seconds=arguments.call_ms / 1000,
        item_seconds=arguments.item_ms / 1000,
        workers_limit=arguments.workers_limit,
    )
    print(json.dumps({"url": double.url, "token": double.token}), flush=True)
    asyncio.run(double.serve())


if __name__ == "__main__":
    main()
