"""HTTP as it stands on the wire: the rules that uvicorn's protocol leaves open."""

from __future__ import annotations

import re
from typing import Any

import httptools
import structlog
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from api.guards import delivery_header
from api.problems import MEDIA_TYPE, ProblemError, body_of

log = structlog.get_logger()

MOST_URL_BYTES = 65_535
"""httptools' own limit of a URL."""
MOST_FIELD_BYTES = 64 * 1024
"""A request's header and trailer fields together."""
LINGER_SECONDS = 2.0
"""How long a refused client may go on sending before the connection is closed. Closed at once, the
system would reset it, and the client would not see why.
"""
ALLOWED = "GET, HEAD, POST"
_AUTHORITY = re.compile(rb"[^/?#]*://([^/?#]*)")
"""Of a URL with a host: the host, with whatever else stands there."""


class HttpProtocol(HttpToolsProtocol):
    """One connection, with these rules besides:

    * What cannot be read as HTTP is answered with a problem document, after the answers to the
      requests before it.
    * A URL or fields that are too long are refused before they fill the memory (414, 431).
    * A client of HTTP/1.0 gets neither chunks nor `100 Continue`: the answer ends where the
      connection does.
    * An offer to upgrade is passed over, as RFC 9110 (7.8) allows: the request is read as it
      stands, with its body, which the parser alone would drop.
    * A URL with a host in it counts, whatever `Host` says (RFC 9112, 3.2.2).
    * Trailer fields are no headers (RFC 9110, 6.5.1), and are dropped.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._refusal: ProblemError | None = None
        self._in_message = False  # from its first byte to its last
        self._in_head = False  # until its headers are complete
        self._field_bytes = 0
        self._unclaimed = 0  # bytes of which the parser has made nothing yet: a field without an end

    def data_received(self, data: bytes) -> None:
        """Feeds the parser. Whatever comes after a refusal is dropped."""
        if self._refusal is not None:
            return
        self._unset_keepalive_if_required()
        self._unclaimed += len(data)
        try:
            while data:
                data = self._feed(data)
            if self._unclaimed > MOST_FIELD_BYTES:
                self._refuse(_fields_too_long())
        except httptools.HttpParserError as error:
            self._refuse(_problem_of(error))

    def _feed(self, data: bytes) -> bytes:
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
            return start + fields + b"\r\n" + data[offer.args[0] :]
        return b""

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_message = self._in_head = True
        self._field_bytes = self._unclaimed = 0

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
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        if not self._in_head:
            self._in_message = False
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is complete; after the last one comes the refusal, if there is one."""
        was_last = not self.pipeline
        super().on_response_complete()
        if self._refusal is not None and was_last and not self.transport.is_closing():
            self._end(self._refusal)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["http_version"] != "1.1":
            app = _without_chunks(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _refuse(self, problem: ProblemError) -> None:
        """Ends the connection with a problem, once what came before is answered."""
        log.warning("not a request", status=problem.status, reason=problem.detail)
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
        self.transport.write_eof()
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.timeout_keep_alive_task = self.loop.call_later(LINGER_SECONDS, self.timeout_keep_alive_handler)


def _fields_too_long() -> ProblemError:
    return ProblemError(431, f"The header fields are longer than {MOST_FIELD_BYTES} bytes: send fewer.")


def _problem_of(error: httptools.HttpParserError) -> ProblemError:
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
