"""HTTP as it stands on the wire: the rules that uvicorn's protocol leaves open."""

from __future__ import annotations

import asyncio
import fcntl
import re
import sys
import termios
from typing import Any

import httptools
import structlog
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.connections import Connections, Group
from api.guards import delivery_header, send_problem
from api.problems import MEDIA_TYPE, RETRY_AFTER_SECONDS, ProblemError, Refusals, body_of

log = structlog.get_logger()

MOST_URL_BYTES = 65_535
"""httptools' own limit of a URL."""
MOST_FIELD_BYTES = 64 * 1024
"""A request's header and trailer fields together."""
PIECE_BYTES = 4096
"""The parser is fed so much at a time, and no more while a request waits for its turn: of a client
that sends many at once only those of one piece are taken apart.
"""
ALLOWED = "GET, HEAD, POST"
_AUTHORITY = re.compile(rb"[^/?#]*://([^/?#]*)")
"""Of a URL with a host: the host, with whatever else stands there."""
_refusals = Refusals("not a request")
HEALTH = "/v1/health"
"""It is answered however much there is to do."""


class HttpProtocol(HttpToolsProtocol):
    """One connection, with these rules besides:

    * What cannot be read as HTTP is answered with a problem document, after the answers to the
      requests before it.
    * A URL or fields that are too long are refused before they fill the memory (414, 431).
    * A client that sends nothing, too slowly, or takes nothing is not waited for (`Limits`): 408
      where its request is not complete.
    * Of requests that are sent before the answers to those before them few are read.
    * A client that still sends when its answer ends the connection can read it.
    * A client of HTTP/1.0 gets neither chunks nor `100 Continue`: the answer ends where the
      connection does.
    * An offer to upgrade is passed over, as RFC 9110 (7.8) allows: the request is read as it
      stands, with its body, which the parser alone would drop.
    * A URL with a host in it counts, whatever `Host` says (RFC 9112, 3.2.2).
    * Trailer fields are no headers (RFC 9110, 6.5.1), and are dropped.
    """

    flow: _Flow
    group: Group

    def __init__(self, connections: Connections, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connections = connections
        self._refusal: ProblemError | None = None
        self._in_message = False  # from its first byte to its last
        self._in_head = False  # until its headers are complete
        self._field_bytes = 0
        self._unclaimed = 0  # bytes of which the parser has made nothing yet: a field without an end
        self._unread: bytes | memoryview = b""  # what the parser has not seen yet
        self._current: RequestResponseCycle | None = None  # the request that is worked on
        self._ended = False  # all is said: what comes now is dropped
        self._stopping = False  # the server is: nobody is heard out
        # ticks: of the last byte, of the end of the last answer, of the first byte of the head, of
        # the beginning of the pace's measure, of the last byte of an answer that was taken
        self._seen = self._since = self._begun = self._measured = self._taken = connections.tick
        self._body_bytes = 0  # since `_measured`
        self._untaken = (0, 0)  # bytes of answers, here and in the system

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._last_words = _LastWords(self, transport)
        self._seen = self._since = self._connections.tick
        if not self._connections.admit(self):
            self._refuse(_crowded())

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        if self._current is not None:  # uvicorn tells the newest request alone
            self._current.disconnected = True
            self._current.message_event.set()
        super().connection_lost(exc)
        self._connections.remove(self)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser. Whatever comes after a refusal is dropped."""
        self._seen = self._connections.tick
        if self._refusal is not None or self._ended:
            return
        if self._unread:
            data = bytes(self._unread) + data
        self._unread = data if len(data) <= PIECE_BYTES else memoryview(data)
        self._go_on()

    def _go_on(self) -> None:
        """Feeds the parser until a request has to wait for its turn."""
        try:
            while self._unread and not self.pipeline and self._refusal is None:
                piece, self._unread = self._unread[:PIECE_BYTES], self._unread[PIECE_BYTES:]
                self._unclaimed += len(piece)
                while piece:
                    piece = self._feed(piece)
                if self._unclaimed > MOST_FIELD_BYTES:
                    raise _fields_too_long()
        except (httptools.HttpParserError, ProblemError) as error:
            problem = _problem_of(error)
            _refusals.tell(problem)
            self._refuse(problem)
        self.flow.held = bool(self.pipeline)
        self._settle()

    def _feed(self, data: bytes | memoryview) -> bytes:
        """Feeds the parser; what is to be fed once more, to a new one, where it stopped at an
        offer to upgrade.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            start = b"%s %s HTTP/%s\r\n" % (
                self.parser.get_method(), self.url, self.parser.get_http_version().encode()
            )  # fmt: skip
            fields = b"".join(b"%s: %s\r\n" % field for field in self.headers if field[0] != b"upgrade")
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            return start + fields + b"\r\n" + bytes(data[offer.args[0] :])
        return b""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_message = self._in_head = True
        self._field_bytes = self._unclaimed = 0
        self._begun = self._connections.tick

    def on_url(self, url: bytes) -> None:
        """A part of the URL. Raises `ProblemError` where it is too long."""
        super().on_url(url)
        self._unclaimed = 0
        if len(self.url) > MOST_URL_BYTES:
            raise ProblemError(
                414, f"The URL is longer than {MOST_URL_BYTES} bytes: send the record in the body of a POST."
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the header, or of the trailer. Raises `ProblemError` where there is too much."""
        self._unclaimed = 0
        self._field_bytes += len(name) + len(value) + 4  # the colon, a blank and the line's end
        if self._field_bytes > MOST_FIELD_BYTES:
            raise _fields_too_long()
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers are complete: the application begins."""
        if self.parser.get_method() == b"CONNECT":
            raise ProblemError(405, "This server is no proxy: send GET, HEAD or POST.", {"Allow": ALLOWED})
        if self.parser.should_upgrade():
            return  # it is fed once more, without the offer
        if self.parser.get_http_version() != "1.1":
            self.expect_100_continue = False
        if not self.url.startswith(b"/"):
            self._take_host_from_url()
        super().on_headers_complete()
        self._in_head = False

    def _take_host_from_url(self) -> None:
        if (found := _AUTHORITY.match(self.url)) is not None:
            self.headers[:] = [field for field in self.headers if field[0] != b"host"]
            self.headers.append((b"host", found[1]))

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._unclaimed = 0

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unclaimed = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        if not self._in_head:
            self._in_message = False
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is complete: the next request has its turn, or the refusal, if there is one."""
        self.server_state.total_requests += 1
        self._current = None
        if self._ended or self.transport.is_closing():
            return
        self._seen = self._since = self._connections.tick
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._end(self._refusal)
        if self._unread or self.flow.held:
            self._go_on()
        else:
            self._settle()
        self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._current = cycle
        self._measured, self._body_bytes = self._connections.tick, 0
        cycle.transport = self._last_words  # type: ignore[assignment]  # all of it that a cycle uses
        if cycle.scope["http_version"] != "1.1":
            app = _without_chunks(app, cycle)
        if self._connections.are_working_hard(len(self.tasks)) and cycle.scope["path"] != HEALTH:
            app = _too_busy
            cycle.keep_alive = False  # one answer for all that it has sent
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """The client has yet to take much of an answer."""
        super().pause_writing()
        self._settle()

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        super().resume_writing()
        self._settle()

    def shutdown(self) -> None:
        """The server is stopping."""
        self._stopping = True
        if self._ended:
            self.transport.close()
        else:
            super().shutdown()

    def _settle(self) -> None:
        """Joins the group of the connections that wait for the same."""
        if self.transport.is_closing():
            return
        connections = self._connections
        if self.flow.write_paused:
            group = connections.taking if self._current is None else connections.streaming
        elif self._current is None or self._ended:
            group = connections.resting
        elif self._waits_for_body():
            group = connections.half
        else:
            group = connections.busy
        if group is not self.group or group is connections.half:
            connections.move(self, group)

    def _waits_for_body(self) -> bool:
        return (
            self._in_message
            and not self._in_head
            and self._current is not None
            and not self._current.response_started
            and not self.pipeline
            and not self._ended
        )

    def look(self) -> None:
        """Ends the connection, if its client has kept it waiting for too long."""
        if here := self.transport.get_write_buffer_size():
            self._look_at_answer(here)
            return
        self._untaken = (0, 0)
        self._settle()
        if self._waits_for_body():
            self._look_at_body()
        elif self.group is self._connections.resting and not self.transport.is_closing():
            self._look_at_rest()

    def _look_at_rest(self) -> None:
        limits, tick = self._connections.limits, self._connections.tick
        is_quiet = tick - self._seen >= limits.quiet_seconds
        if self._in_head and not self._ended:
            if is_quiet:
                self._refuse(_quiet(limits.quiet_seconds))
            elif tick - self._begun >= limits.head_seconds:
                self._refuse(ProblemError(408, f"The header took {limits.head_seconds} seconds: {_AGAIN}"))
        else:
            still_sends = self._in_message or self._ended
            most = limits.linger_seconds if still_sends else limits.quiet_seconds
            if is_quiet or tick - self._since >= most:
                self.transport.close()

    def _look_at_body(self) -> None:
        assert self._current is not None
        limits, tick = self._connections.limits, self._connections.tick
        if self.flow.read_paused or self._current.waiting_for_100_continue:
            self._seen = self._measured = tick  # the client waits for us
            self._body_bytes = 0
        elif tick - self._seen >= limits.quiet_seconds:
            self._refuse(_quiet(limits.quiet_seconds))
        elif tick - self._measured >= limits.pace_seconds:
            if self._body_bytes < limits.pace_bytes:
                slow = f"{limits.pace_bytes} bytes of the body did not come in {limits.pace_seconds} seconds"
                self._refuse(ProblemError(408, f"{slow}: {_AGAIN}"))
            self._measured, self._body_bytes = tick, 0

    def _look_at_answer(self, here: int) -> None:
        """Ends a connection whose client takes nothing of what it was answered."""
        connections = self._connections
        self._seen = self._since = connections.tick
        untaken = (here, _in_the_system(self.transport))
        if untaken != self._untaken:
            self._untaken, self._taken = untaken, connections.tick
            connections.move(self, self.group)
        elif connections.tick - self._taken >= connections.limits.stalled_seconds:
            self.transport.abort()

    def give_way(self) -> None:
        """Ends the connection in favour of another one."""
        if self.flow.write_paused:
            self.transport.abort()
            return
        if self._in_message and not self._ended:
            self._refuse(_crowded())
        self.transport.close()

    def _refuse(self, problem: ProblemError) -> None:
        """Ends the connection with a problem, once what came before is answered."""
        self._refusal = problem
        cycle = self.cycle
        if not self._in_message or self._in_head:  # the newest request that has begun is complete
            if cycle is None or cycle.response_complete:
                self._end(problem)
        elif self.pipeline:  # the one that is cut waits for its turn, which never comes
            self.pipeline.popleft()
        elif cycle.response_complete:
            self.transport.close()
        elif cycle.response_started:
            cycle.keep_alive = False
        else:
            cycle.disconnected, cycle.waiting_for_100_continue = True, False
            cycle.message_event.set()
            self._end(problem)

    def _end(self, problem: ProblemError) -> None:
        body = body_of(problem.status, problem.detail)
        headers = [
            *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
            *self.server_state.default_headers,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            delivery_header(),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%s: %s\r\n" % field for field in headers)
        self.transport.write(STATUS_LINE[problem.status] + lines + b"\r\n" + body)
        self._hear_out()

    def answered_for_good(self) -> None:
        """An answer was the connection's last: closes it, unless the client is still sending."""
        if self._in_message or self.pipeline or self._unread:
            self.pipeline.clear()
            self._hear_out()
        else:
            self.transport.close()

    def _hear_out(self) -> None:
        """Says no more, and drops what the client still sends."""
        if self._stopping:
            self.transport.close()
            return
        self.transport.write_eof()
        self._ended = True
        self._since = self._seen = self._connections.tick
        self._unread = b""
        self.flow.held = False
        self.flow.resume_reading()
        self._settle()


class _Flow(FlowControl):
    """Reads no further while requests wait for their turn."""

    held = False

    def resume_reading(self) -> None:
        """Reads on, unless it is held."""
        if not self.held:
            super().resume_reading()


class _LastWords:
    """A transport for a request, which closes it when its answer is the last one."""

    __slots__ = ("close", "is_closing", "write")

    def __init__(self, protocol: HttpProtocol, transport: asyncio.Transport) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = protocol.answered_for_good


def _in_the_system(transport: asyncio.Transport) -> int:
    """Bytes that the system holds for the client, where it tells."""
    try:
        answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)


_AGAIN = "send the same request again."


def _quiet(seconds: int) -> ProblemError:
    return ProblemError(
        408, f"The request is not complete, and no byte of it came for {seconds} seconds: {_AGAIN}"
    )


def _crowded() -> ProblemError:
    return ProblemError(
        503,
        f"The server has as many connections as it can hold: {_AGAIN}",
        {"Retry-After": RETRY_AFTER_SECONDS},
    )


async def _too_busy(_: Scope, __: Receive, send: Send) -> None:
    """An application that answers nothing but that there is too much to do."""
    problem = ProblemError(
        503,
        f"The server works on as many requests as it can: {_AGAIN}",
        {"Retry-After": RETRY_AFTER_SECONDS},
    )
    await send_problem(send, problem, [delivery_header()])


def _fields_too_long() -> ProblemError:
    return ProblemError(431, f"The header fields are longer than {MOST_FIELD_BYTES} bytes: send fewer.")


def _problem_of(error: Exception) -> ProblemError:
    """What to say of what the parser refused."""
    cause = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
    if isinstance(cause, ProblemError):
        return cause
    if isinstance(cause, httptools.HttpParserError) and not isinstance(
        cause, httptools.HttpParserInvalidURLError
    ):
        why = str(cause).partition("\n")[0].strip() or "no reason is known"
        return ProblemError(
            400, f"The request cannot be read as HTTP ({why}): mend the program that sent it."
        )
    return ProblemError(
        400, "The URL of the request cannot be read: write a path, percent-encoded, such as /v1/health."
    )


def _without_chunks(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """An application for a client that knows no chunks: what has no length is sent as it is."""

    async def adapted(scope: Scope, receive: Receive, send: Send) -> None:
        has_length = False

        async def sending(message: Message) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message["headers"])
                if not has_length:
                    cycle.chunked_encoding = False
            elif message["type"] == "http.response.body" and not has_length:
                cycle.expected_content_length = len(message["body"])
            await send(message)

        await app(scope, receive, sending)

    return adapted
