"""What holds for every answer, on applications that are made for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from structlog.testing import capture_logs

from api.edge import at_the_edge
from api.problems import ProblemError, Refusals


async def sent_by(app: ASGIApp, method: str) -> list[Message]:
    """What an application sends for a request."""
    sent: list[Message] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": method, "http_version": "1.1", "headers": [], "path": "/"}
    await at_the_edge(app)(scope, receive, send)
    assert scope["method"] == method
    return sent


async def test_head_stops_a_stream_at_its_first_part() -> None:
    """Nobody makes a body that is thrown away."""
    made = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["method"] == "GET"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            made.append(b"part")
            await send({"type": "http.response.body", "body": b"part", "more_body": True})

    start, body = await sent_by(endless, "HEAD")
    assert start["type"] == "http.response.start"
    assert body == {"type": "http.response.body", "body": b"", "more_body": False}
    assert len(made) == 2


async def test_a_request_that_is_cut_off() -> None:
    """A problem with 503, where nothing was answered yet; else the connection alone tells."""

    async def cut(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    start, body = await sent_by(cut, "GET")
    assert start["status"] == 503
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"retry-after"]
    assert headers[b"x-delivery-id"]
    assert json.loads(body["body"])["status"] == 503

    async def cut_later(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await sent_by(cut_later, "GET")


async def test_an_error_is_not_hidden() -> None:
    """Only what comes after the end of an answer to HEAD is."""

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("as it is")

    for method in ("GET", "HEAD"):
        with pytest.raises(ValueError, match="as it is"):
            await sent_by(failing, method)


def test_lines_that_anybody_can_cause() -> None:
    """One a second, with how many were left out, and without what the sender chose."""
    now = 5.0
    refusals = Refusals("refused", lambda: now)
    detail = "A page of another site sent this request (Origin: Layla Haddad), and only our own may."
    with capture_logs() as lines:
        for _ in range(3):
            refusals.tell(ProblemError(403, detail))
        now = 6.0
        refusals.tell(ProblemError(403, "The request names the host 'Layla Haddad', and AUTH=off."))
    assert [(line["reason"], line["left_out"]) for line in lines] == [
        ("A page of another site sent this request", 0),
        ("The request names the host", 2),
    ]
