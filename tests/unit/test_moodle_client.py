"""The client: what it sends, and what it makes of every kind of answer."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.settings import MoodleSettings, Secret
from projections.moodle.client import (
    AwayError,
    MisconfiguredError,
    MoodleClient,
    MoodleError,
    RefusedError,
    fields_of,
    flat,
)
from tests.moodle.double import MoodleDouble
from tests.moodle.faults import Fault
from tests.moodle.form import parse_body
from tests.moodle.replies import MAINTENANCE_PAGE, xml_error

TOKEN = "5ecre7" * 6
INFO = "core_webservice_get_site_info"


def client_of(url: str, token: str = TOKEN, **settings: Any) -> MoodleClient:
    """A client of a Moodle somewhere."""
    return MoodleClient(MoodleSettings(base_url=url, token=Secret(token), **{"timeout": 5.0, **settings}))


@asynccontextmanager
async def answering(*answers: bytes, end: str = "close") -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives these bytes, one a request, and its url with the requests that came. `end`:
    what follows the last byte: `close`, `reset`, or `hang`.
    """
    requests: list[bytes] = []
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [
            int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length")
        ]
        requests.append(head + await reader.readexactly(length))
        writer.write(left.pop(0) if left else b"")
        await writer.drain()
        if end == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        elif end == "hang":
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield f"http://127.0.0.1:{port}", requests


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def error(code: str | None, message: str = "", name: str = r"core\exception\moodle_exception") -> bytes:
    """An error as Moodle's application gives it."""
    body = {"exception": name, "message": message} | ({} if code is None else {"errorcode": code})
    return http("200 OK", json.dumps(body).encode())


async def failing(url: str, **settings: Any) -> MoodleError:
    """The error of a call, checked for being one line without the token."""
    async with client_of(url, **settings) as client:
        with pytest.raises(MoodleError) as caught:
            await client.call(INFO)
    shown = [str(caught.value), repr(caught.value), "".join(traceback.format_exception(caught.value))]
    assert not any(TOKEN in text for text in shown)
    assert "\n" not in shown[0]
    return caught.value


# -- what is sent


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ({}, []),
        ({"a": []}, []),
        ({"a": 1, "b": "x"}, [("a", "1"), ("b", "x")]),
        ({"a": True, "b": False}, [("a", "1"), ("b", "0")]),
        ({"values": ["x", "y"]}, [("values[0]", "x"), ("values[1]", "y")]),
        ({"users": [{"id": 7, "email": "a"}]}, [("users[0][id]", "7"), ("users[0][email]", "a")]),
        ({"c": {"t": {"x": 1}}}, [("c[t][x]", "1")]),
        ({"u": [{"f": [{"n": 1}]}, {"f": []}]}, [("u[0][f][0][n]", "1")]),
    ],
)
def test_flat_forms(value: Any, fields: list[tuple[str, str]]) -> None:
    """Lists and dicts become names with brackets, true and false 1 and 0; an empty list is nothing."""
    assert list(flat(value)) == fields
    assert fields_of(value) == len(fields)


NAMES = st.text("abcxyz_", min_size=1, max_size=5)
TREES = st.recursive(
    st.text(max_size=5),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(NAMES, inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


def php(value: Any) -> Any:
    """What PHP makes of a value: lists are arrays with numbers as keys."""
    if isinstance(value, list):
        return {str(number): php(inner) for number, inner in enumerate(value)}
    return {key: php(inner) for key, inner in value.items()} if isinstance(value, dict) else value


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded machine is slow
@given(st.dictionaries(NAMES, TREES, max_size=3))
def test_forms_are_read_as_they_were_meant(value: dict[str, Any]) -> None:
    """PHP reads out of a form what was put into it."""
    assert parse_body(urlencode(list(flat(value))), 5000) == php(value)


async def test_a_request() -> None:
    """One POST to the REST server, with the token in the body and nowhere else, and in UTF-8."""
    async with answering(http("200 OK", b"null")) as (url, requests), client_of(url) as client:
        assert await client.call("f", users=[{"firstname": "Ł & =", "ok": True}]) is None
    head, _, body = requests[0].decode().partition("\r\n\r\n")
    assert head.splitlines()[0] == "POST /webservice/rest/server.php HTTP/1.1"
    assert "application/x-www-form-urlencoded" in head
    assert TOKEN not in head
    assert dict(parse_qsl(body)) == {
        "users[0][firstname]": "Ł & =",
        "users[0][ok]": "1",
        "wstoken": TOKEN,
        "wsfunction": "f",
        "moodlewsrestformat": "json",
    }


async def test_too_many_fields() -> None:
    """More than 900 fields are not sent, since PHP would drop some without a word."""
    async with answering(http("200 OK", b"[]")) as (url, requests), client_of(url) as client:
        with pytest.raises(ValueError, match="898 fields") as caught:
            await client.call("f", values=["x"] * 898)
        assert TOKEN not in str(caught.value)
        assert requests == []
        assert await client.call("f", values=["x"] * 897) == []
    assert len(parse_qsl(requests[0].partition(b"\r\n\r\n")[2])) == 900


# -- what comes back


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"null", None), (b"[]", []), (b'{"warnings":[]}', {"warnings": []}), (b'[{"id":6}]', [{"id": 6}]),
        (b'{"errorcode":"no error"}', {"errorcode": "no error"}), (b'[{"exception":"x"}]', [{"exception": "x"}]),
    ],
)  # fmt: skip
async def test_results(body: bytes, answer: Any) -> None:
    """Whatever JSON comes is the result, but for an object with an `exception`."""
    async with answering(http("200 OK", body)) as (url, _), client_of(url) as client:
        assert await client.call("f") == answer


XML = xml_error({"exception": "moodle_exception", "errorcode": "invalidtoken", "message": "x"}).encode()

ANSWERS: list[tuple[bytes, type[MoodleError], str]] = [
    (http("403 Forbidden"), MisconfiguredError, "switched off"),
    (http("404 Not Found", b"<html>"), MisconfiguredError, "MOODLE_BASE_URL"),
    (http("301 Moved", b"", "Location: https://new.example/"), MisconfiguredError, "redirects"),
    (http("303 See Other", b"", "Location: /login"), MisconfiguredError, "redirects"),
    (http("500 Oops", b"<html>"), AwayError, "HTTP 500"),
    (http("502 Bad Gateway", b"<html>"), AwayError, "HTTP 502"),
    (http("503 Away", MAINTENANCE_PAGE.encode()), AwayError, "HTTP 503"),
    (http("429 Slowly"), AwayError, "HTTP 429"),
    (http("413 Too Large"), AwayError, "HTTP 413"),
    (http("200 OK", b""), AwayError, "not JSON"),
    (http("200 OK", b"<html>hello</html>"), AwayError, "not JSON"),
    (http("200 OK", b"\xff\xfe\x00"), AwayError, "not JSON"),
    (http("200 OK", b'{"users": ['), AwayError, "not JSON"),
    (http("200 OK", b"<br />\n<b>Fatal error</b>: memory"), AwayError, "not JSON"),
    (http("200 OK", XML), MisconfiguredError, "MOODLE_TOKEN"),
    (error("invalidtoken"), MisconfiguredError, "MOODLE_TOKEN"),
    (error("accessexception", name="webservice_access_exception"), MisconfiguredError, INFO),
    (error("invalidrecord", "Can't find data record in database table external_functions."),
     MisconfiguredError, "no function"),
    (error("dbconnectionfailed", name="dml_connection_exception"), AwayError, "database"),
    (error("sitemaintenance"), AwayError, "maintenance"),
    (error("upgraderunning"), AwayError, "upgraded"),
    (b"", AwayError, "broke"),
    (b"nonsense\r\n\r\n", AwayError, "broke"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[", AwayError, "broke"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "kind", "word"), ANSWERS)
async def test_no_results(answer: bytes, kind: type[MoodleError], word: str) -> None:
    """Away: it is tried again. Misconfigured: no call would do. Each says what is the matter."""
    async with answering(answer) as (url, _):
        found = await failing(url)
    assert type(found) is kind
    assert word in str(found)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (error("invalidparameter", "Invalid parameter value detected"), "invalidparameter"),
        (error("invalidrecord", "Can't find data record in database table course."), "invalidrecord"),
        (error("invalidparameter", name="moodle_exception"), "invalidparameter"),
        (error("nopermissions"), "nopermissions"),
        (error("dmlwriteexception", name="dml_write_exception"), "dmlwriteexception"),
        (error(None, "Call to a member function on null", "Error"), "error"),
        (error("", "x"), "error"),
        (error("<div>Passwords must be at least 8 characters long.</div>"), "passwordpolicy"),
        (http("200 OK", b'{"exception":null,"errorcode":17}'), "17"),
    ],
)
async def test_refusals(answer: bytes, code: str) -> None:
    """An error of the application is told apart by its code, whatever class it names; PHP's have none."""
    async with answering(answer) as (url, _):
        found = await failing(url)
    assert isinstance(found, RefusedError)
    assert found.code == code


async def test_a_refusal_holds_nothing_of_the_call() -> None:
    """Moodle's message may repeat what was sent, so it is not in the error."""
    said = f"Email address already exists: layla@college.test, token {TOKEN}"
    async with answering(error("invalidparameter", said)) as (url, _):
        found = await failing(url)
    assert "layla" not in str(found)


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", b"HTTP/1.1 200"])
async def test_timeouts(sent: bytes) -> None:
    """No answer, or not all of it, within MOODLE_TIMEOUT."""
    async with answering(sent, end="hang") as (url, _):
        found = await failing(url, timeout=0.1)
    assert type(found) is AwayError
    assert "within 0.1 seconds" in str(found)


async def test_an_answer_that_trickles(moodle: MoodleDouble) -> None:
    """MOODLE_TIMEOUT is for the whole answer, not for each of its pieces."""
    moodle.slow_seconds = 2.0
    moodle.fail(Fault.slow)
    async with client_of(moodle.url, moodle.token, timeout=0.4) as client:
        with pytest.raises(AwayError, match="within"):
            await client.call(INFO)
    moodle.slow_seconds = 1.0


async def test_a_reset() -> None:
    """A connection that breaks is no answer."""
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[", end="reset") as (url, _):
        assert type(await failing(url)) is AwayError


async def test_nobody_listens() -> None:
    """A refused connection, and a name that nobody knows, are Moodle away."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert "cannot be reached" in str(await failing(url))
    found = await failing("http://moodle.invalid")
    assert type(found) is AwayError
    assert "cannot be reached" in str(found)


# -- after an error


async def test_trouble_lasts() -> None:
    """After Moodle was away or misconfigured nothing more is sent until somebody begins anew; a refusal
    keeps nobody off.
    """
    answers = error("invalidparameter"), http("503 Away"), http("200 OK", b"[]")
    async with answering(*answers) as (url, requests), client_of(url) as client:
        with pytest.raises(RefusedError):
            await client.call("f")
        for _ in range(3):
            with pytest.raises(AwayError, match="503"):
                await client.call("f")
        assert len(requests) == 2
        client.begin()
        assert await client.call("f") == []


async def test_calls_at_a_time(moodle: MoodleDouble) -> None:
    """No more than MOODLE_CONCURRENCY calls are under way at once."""
    moodle.call_seconds = 0.02
    async with client_of(moodle.url, moodle.token, concurrency=3) as client:
        await asyncio.gather(*(client.call(INFO) for _ in range(12)))
    moodle.call_seconds = 0
    times = [(call.started, call.finished or 0.0) for call in moodle.calls]
    assert len(times) == 12
    assert max(sum(start <= at < end for start, end in times) for at, _ in times) <= 3


async def test_whose_turn_it_is() -> None:
    """A process that lost its turn makes no call."""
    mine = True
    async with answering(http("200 OK", b"[]")) as (url, requests):
        settings = MoodleSettings(base_url=url, token=Secret(TOKEN))
        async with MoodleClient(settings, lambda: mine) as client:
            assert await client.call("f") == []
            mine = False
            with pytest.raises(AwayError, match="another one works here now"):
                await client.call("f")
    assert len(requests) == 1


# -- against a Moodle


def no_web_services(moodle: MoodleDouble) -> None:
    moodle.site.settings.webservices_enabled = False


def no_service(moodle: MoodleDouble) -> None:
    moodle.site.settings.service_enabled = False


def expired(moodle: MoodleDouble) -> None:
    moodle.site.tokens["sync"].expired = True


def elsewhere(moodle: MoodleDouble) -> None:
    moodle.site.tokens["sync"].ip_restricted = True


def maintenance(moodle: MoodleDouble) -> None:
    moodle.site.settings.maintenance = "setting"


def cli_maintenance(moodle: MoodleDouble) -> None:
    moodle.site.settings.maintenance = "cli"


def database_down(moodle: MoodleDouble) -> None:
    moodle.site.settings.database_down = True


def body_too_large(moodle: MoodleDouble) -> None:
    moodle.site.settings.post_max_size = 10


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (no_web_services, MisconfiguredError), (no_service, MisconfiguredError), (expired, MisconfiguredError),
        (elsewhere, MisconfiguredError), (body_too_large, MisconfiguredError), (maintenance, AwayError),
        (cli_maintenance, AwayError), (database_down, AwayError),
    ],
)  # fmt: skip
async def test_a_moodle_that_does_not_work(
    moodle: MoodleDouble, change: Callable[[MoodleDouble], None], kind: type[MoodleError]
) -> None:
    """What an administrator may switch off, and what breaks by itself."""
    token = moodle.token
    change(moodle)
    async with client_of(moodle.url, token) as client:
        with pytest.raises(kind) as caught:
            await client.call(INFO)
    assert token not in str(caught.value)


@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.slow])
async def test_faults(moodle: MoodleDouble, fault: Fault) -> None:
    """Every fault becomes one of the three errors, and the next call does."""
    moodle.fail(fault)
    async with client_of(moodle.url, moodle.token, timeout=0.3) as client:
        with pytest.raises(MoodleError) as caught:
            await client.call(INFO)
        expected = {Fault.token_revoked: MisconfiguredError, Fault.dmlwriteexception: RefusedError}
        assert type(caught.value) is expected.get(fault, AwayError)
        moodle.listen()
        moodle.restore_token()
        client.begin()
        assert (await client.call(INFO))["username"] == "wssync"
