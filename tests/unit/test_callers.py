"""Which requests are refused before anything looks at them."""

from __future__ import annotations

import asyncio
import json
from itertools import product
from typing import Any

import pytest
from litestar.types import Message

from api.callers import LOOPBACK, PROXY_HEADERS, refusal
from api.edge import at_the_edge

HOST = "localhost:8000"
OWN = "http://localhost:8000"
READING = ["GET", "HEAD"]
WRITING = ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"]
SITES = [None, "same-origin", "none", "same-site", "cross-site", "", "SAME-ORIGIN", "same-origin, cross-site"]
ORIGINS = [
    None, OWN, "HTTP://LocalHost:8000", "null", "", "http://evil.example", "http://evil.example:8000",
    "http://localhost", "http://localhost:80", "http://localhost:8001", "https://localhost:8000",
    "http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost:8000/", "http://localhost:8000.evil.example",
    "http://evil-localhost:8000", "http://user@localhost:8000", f"{OWN} {OWN}", f"{OWN}, {OWN}", "localhost:8000",
    "chrome-extension://abcdefghijklmnop", "file://",
]  # fmt: skip
MODES = [None, "navigate", "cors", "no-cors", "same-origin", "websocket", "NAVIGATE"]


def status_of(method: str, *fields: tuple[str, str | None], host: str | None = HOST) -> int | None:
    """The status with which a request is refused, None where it is not."""
    all_of_them = [("host", host), ("user-agent", "x"), *fields]
    headers = [(name.encode(), value.encode()) for name, value in all_of_them if value is not None]
    problem = refusal(method, "http", headers)
    return None if problem is None else problem.status


@pytest.mark.parametrize("method", READING + WRITING)
def test_pages_of_other_sites(method: str) -> None:
    """What each mix of headers means: an own page, a person, or no browser may do all; any other
    page may lead somebody here, and no more.
    """
    for site, origin, mode in product(SITES, ORIGINS, MODES):
        fields = [("sec-fetch-mode", mode), ("origin", origin), ("sec-fetch-site", site)]
        is_own = site in (None, "same-origin", "none") and origin in (None, OWN, "HTTP://LocalHost:8000")
        by_link = method in READING and mode == "navigate"
        expected = None if is_own or by_link else 403
        assert status_of(method, *fields) == expected, fields
        assert status_of(method, *reversed(fields)) == expected, fields


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"), ("[::1]:8000", "http://[::1]:8000"),
        ("localhost", "http://localhost"), ("localhost:80", "http://localhost"), ("[::1]", "http://[::1]"),
        ("LOCALHOST:8000", OWN), ("127.0.0.1", "http://127.0.0.1:80"),
    ],
)  # fmt: skip
def test_the_own_address(host: str, origin: str) -> None:
    """It is the address by which the server was reached."""
    assert status_of("POST", ("origin", origin), host=host) is None
    assert status_of("POST", ("origin", origin), host="localhost:1") == 403


def test_an_origin_without_a_host() -> None:
    """No address is the server's own then."""
    assert status_of("POST", host=None) is None
    assert status_of("POST", ("origin", "http://"), host=None) == 403
    assert status_of("POST", ("origin", OWN), host=None) == 403


def test_of_several_fields_each_counts() -> None:
    """However they are ordered."""
    for fields in (
        [("origin", OWN), ("origin", "http://evil.example")],
        [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
    ):
        assert status_of("POST", *fields) == status_of("POST", *fields[::-1]) == 403
    twice = [("sec-fetch-mode", "navigate"), ("sec-fetch-mode", "cors"), ("sec-fetch-site", "cross-site")]
    assert status_of("GET", *twice) == 403
    assert status_of("POST", ("origin", OWN), ("origin", OWN)) is None
    assert status_of("GET", ("host", "127.0.0.1:8000")) == 400
    assert status_of("GET", ("host", "evil.example")) == 403
    assert status_of("GET", ("host", HOST), host="evil.example") == 403


@pytest.mark.parametrize("name", sorted(LOOPBACK))
def test_loopback(name: str) -> None:
    """By each of its names, whatever the port (a tunnel has one of its own)."""
    name = f"[{name}]" if ":" in name else name
    for host in (name, f"{name}:1", f"{name}:65535", f"{name.upper()}:8000"):
        assert status_of("POST", host=host) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "localhost.evil.example", "evil.localhost", "evil-localhost",
        "localhost.", "localhost.:8000", "user@localhost", "localhost@evil.example", "localhost:8000@evil.example",
        "localhost:80:80", "localhost:x", "localhost:-1", "localhost:", "localhost:123456", "localhost:\u0668",
        "localhost/", "localhost, evil.example", "localhost evil.example", " localhost", "", "::1", "[::1", "[::1]x",
        "[::2]", "[::ffff:127.0.0.1]", "127.0.0.1.evil.example", "127.0.0.2", "127.1", "2130706433", "0",
        "0x7f.0.0.1", "10.0.0.1", "localhost\n",
    ],
)  # fmt: skip
def test_another_host(host: str) -> None:
    """Refused, whoever asks for what."""
    for method in READING + WRITING:
        assert status_of(method, host=host) == 403
        assert status_of(method, ("sec-fetch-mode", "navigate"), ("sec-fetch-site", "none"), host=host) == 403


@pytest.mark.parametrize("name", sorted(PROXY_HEADERS))
def test_a_proxy(name: bytes) -> None:
    """Refused by the name alone."""
    for method, value in product(READING + WRITING, ("", "127.0.0.1", "a, b", "for=localhost")):
        assert status_of(method, (name.decode(), value)) == 403
        assert status_of(method, ("sec-fetch-site", "same-origin"), (name.decode(), value)) == 403


def test_the_proxies_that_must_be_known() -> None:
    """Those that every proxy sends, at least one of."""
    assert {b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"} <= PROXY_HEADERS


@pytest.mark.parametrize("method", [*READING, *WRITING])
async def test_the_edge_refuses(method: str) -> None:
    """Before the application has seen anything, whatever the address; HEAD without a body."""
    sent: list[Message] = []

    async def app(*_: Any) -> None:
        pytest.fail("the application was asked")

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"origin", b"http://evil.example")]
    scope: Any = {
        "type": "http", "method": method, "http_version": "1.1", "scheme": "http", "headers": headers, "path": "/x",
    }  # fmt: skip
    await at_the_edge(app)(scope, receive, send)
    start, body = sent
    answered = dict(start["headers"])
    assert start["status"] == 403
    assert answered[b"content-type"] == b"application/problem+json"
    assert len(answered[b"x-delivery-id"]) == 32
    assert not any(name.startswith(b"access-control") for name in answered)
    if method == "HEAD":
        assert body["body"] == b""
    else:
        assert "http://evil.example" in json.loads(body["body"])["detail"]
