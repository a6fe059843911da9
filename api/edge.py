"""What holds for every answer, whatever made it."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from api.callers import refusal
from api.guards import delivery_header, send_problem
from api.problems import away

log = structlog.get_logger()

EVERY_ANSWER = {
    # what is no script is not run as one
    "X-Content-Type-Options": "nosniff",
    # nothing is loaded into a page of another site, by browsers too that do not say who asks
    "Cross-Origin-Resource-Policy": "same-origin",
    # and nothing is shown inside one, where somebody could be led to click it
    "X-Frame-Options": "DENY",
}
"""Headers of every answer, of those to what is no HTTP, too. None lets a page of another origin read it."""


def at_the_edge(app: ASGIApp) -> ASGIApp:
    """An application with these rules around it:

    * What may not ask is refused, whatever it asks for (`api.callers`).
    * `HEAD` is answered wherever `GET` is, as `GET` is, without the body; what would make the
      body is stopped at its first part.
    * Every error has an `X-Delivery-ID`.
    * A request that the end of the server cuts off is a 503.
    """

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        refused = refusal(scope["method"], scope.get("scheme", "http"), scope["headers"])
        if refused is not None:
            log.warning("refused", status=refused.status, reason=refused.detail)
            await send_problem(answer.send, refused)
            return
        # a scope of its own: the server's goes on saying that it was HEAD
        inner: Any = {**scope, "method": "GET"} if answer.is_head else scope
        try:
            await app(inner, receive, answer.send)
        except asyncio.CancelledError:
            if answer.started:
                raise
            await send_problem(answer.send, away())
        except Exception:
            if not answer.ended:
                raise

    return answered


class _Answer:
    """One answer on its way out."""

    def __init__(self, scope: Any, send: Send) -> None:
        self.is_head = scope["method"] == "HEAD"
        self.started = False
        self.ended = False
        """Of an answer to HEAD: its end is sent."""
        self._knows_chunks = scope["http_version"] == "1.1"
        self._send = send

    async def send(self, message: Message) -> None:
        """Sends a part. Raises `OSError` where an answer to HEAD has ended, as for a client that is gone."""
        if message["type"] == "http.response.start":
            self.started = True
            message["headers"] = self._headers(message["status"], list(message["headers"]))
        elif self.is_head:
            if self.ended:
                raise OSError("the answer to HEAD has no body")
            self.ended = True
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _headers(self, status: int, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        names = {name.lower() for name, _ in headers}
        if b"allow" in names:
            headers = [(n, _with_head(value) if n.lower() == b"allow" else value) for n, value in headers]
        if status >= 400 and b"x-delivery-id" not in names:
            headers.append(delivery_header())
        if self.is_head and self._knows_chunks and b"content-length" not in names:
            headers.append((b"transfer-encoding", b"chunked"))  # the server says it of GET
        return headers


def _with_head(allow: bytes) -> bytes:
    methods = {method.strip() for method in allow.split(b",")}
    return b", ".join(sorted(methods | {b"HEAD"} if b"GET" in methods else methods))
