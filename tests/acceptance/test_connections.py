"""Clients that say nothing, say it slowly, or do not listen: they hold nobody up.

The server is the product's, in a thread. Its connections are looked at when a test says so, so that
a test counts looks and waits for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import math
import os
import re
import resource
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import uvicorn
import uvloop
from litestar.types import Receive, Scope, Send

from api import bodies
from api.app import create_app
from api.connections import Connections, Group, Limits, raise_descriptors
from ledger.installation import Installation
from scripts.server import bind, config_for
from tests.acceptance.test_wire import CLOSE, HOST, PROGRAM, Wire, assert_problem, parsed
from tests.harness import Server

FEW = Limits(
    quiet_seconds=3, head_seconds=6, pace_seconds=5, pace_bytes=1000, stalled_seconds=3, linger_seconds=4
)
GET = b"GET /v1/health HTTP/1.1\r\n" + HOST
HEALTH = GET + b"\r\n"
POST = b"POST /v1/sync/programs HTTP/1.1\r\n" + HOST
HALF = POST + b"Content-Length: 100\r\n\r\n{"


class Served:
    """An application under the product's server; its clients, and looks at them."""

    def __init__(self, app: Any, limits: Limits = FEW) -> None:
        self.connections = Connections(limits, sweep_seconds=math.inf)
        self.server = uvicorn.Server(config_for(app, 1, self.connections))
        self.sockets = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.sockets[0].getsockname()[1]}"
        self.clients: list[Wire] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=uvloop.run, args=(self._serve(),))
        self._thread.start()
        self.until(lambda: self.server.started)
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.socket.close()
        self.server.should_exit = True
        self._thread.join()

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self.server.serve(self.sockets)

    def until(self, happened: Callable[[], object]) -> None:
        """Waits for what another thread does."""
        give_up = time.monotonic() + 30
        while not happened():
            assert time.monotonic() < give_up
            assert self._thread.is_alive()
            time.sleep(0.002)

    def client(self, *sent: bytes) -> Wire:
        """One more client, which has sent this."""
        wire = Wire(self)  # type: ignore[arg-type]  # it has an address, too
        self.clients.append(wire)
        wire.send(*sent)
        self.turn()
        return wire

    def turn(self) -> None:
        """Returns when the server has read whatever was sent before."""
        self._arrived()
        self._run(_turns())

    def _arrived(self) -> None:
        sockets = [client.socket for client in self.clients if client.socket.fileno() >= 0]
        self.until(lambda: not any(map(unsent, sockets)))

    def look(self, times: int = 1) -> None:
        """Looks at every connection so often."""

        async def looks() -> None:
            for _ in range(times):
                await _turns()
                self.connections.sweep()
            await _turns()

        self._arrived()
        self._run(looks())

    def _run(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


async def _turns() -> None:
    for _ in range(4):  # two would do: one to poll, one to run what the poll has found
        await asyncio.sleep(0)


def unsent(sending: socket.socket) -> bool:
    """Whether the other side's system does not have everything yet."""
    return fcntl.ioctl(sending.fileno(), termios.TIOCOUTQ, bytes(4)) != bytes(4)


def is_open(wire: Wire) -> bool:
    """Whether the server has neither said anything nor closed the connection."""
    wire.socket.setblocking(False)
    try:
        return wire.socket.recv(1, socket.MSG_PEEK) == b"?"
    except BlockingIOError:
        return True
    finally:
        wire.socket.settimeout(60)


def next_answer(wire: Wire) -> tuple[int, dict[str, str], bytes]:
    """The next answer, with a length, of a connection that stays open."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += wire.socket.recv(65536)
    length = int(parsed(received)[1]["content-length"])
    while len(received.partition(b"\r\n\r\n")[2]) < length:
        received += wire.socket.recv(65536)
    return parsed(received)


async def begin_nothing(send: Send, *headers: tuple[bytes, bytes]) -> None:
    """Begins an answer without a body."""
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0"), *headers]}
    )


@pytest.fixture
def served(installation: Installation) -> Iterator[Served]:
    """The product."""
    with Served(create_app(installation)) as served:
        yield served


class Slow:
    """An application whose requests are worked on until `go`, but for health; then it reads their
    bodies, unless it has `answered` before.
    """

    def __init__(self) -> None:
        self.go = threading.Event()
        self.answered = False
        self.begun = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # type: ignore[comparison-overlap]
            return
        self.begun += 1
        if self.answered:
            await begin_nothing(send)
        while not self.go.is_set() and scope["path"] != "/v1/health":
            await asyncio.sleep(0.001)
        if not self.answered:
            while (await receive()).get("more_body"):
                pass
            await begin_nothing(send, (b"x-path", scope["raw_path"]))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.fixture
def slow() -> Iterator[Slow]:
    """It goes on at the end."""
    slow = Slow()
    yield slow
    slow.go.set()


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET, HALF], ids=["nothing", "an empty line", "head", "body"])
def test_more_clients_than_files(own_home: Path, sent: bytes) -> None:
    """Those that wait for nothing give way, and the intake goes on."""
    with Server(own_home, limits="-n 256") as server, contextlib.ExitStack() as clients:
        for _ in range(300):
            wire = Wire(server)
            clients.enter_context(wire.socket)
            with contextlib.suppress(OSError):
                wire.send(sent)
        with server.client("t") as client:
            answer = client.post("/v1/sync/programs", json={"id": "P1", "Product_Name": "x"})
        assert answer.status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells of the limits of other processes")
def test_the_soft_limit_of_files_is_raised(own_home: Path) -> None:
    """In the workers, too."""
    with Server(own_home, "--workers", "2", limits="-S -n 300") as server:
        parent = server.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for process in (parent, *children):
            limits = re.search(r"Max open files +(\d+) +(\d+)", Path(f"/proc/{process}/limits").read_text())
            assert limits
            assert limits[1] == limits[2] != "300"


@pytest.mark.parametrize(
    ("hard", "most", "soft"),
    [("20000", "20000", 20000), ("unlimited", "10240", 10240), ("unlimited", "100", 300)],
)
def test_a_limit_that_the_system_does_not_give(hard: str, most: str, soft: int) -> None:
    """On macOS it is infinite, and takes no more than 10240; no limit is no error."""
    code = f"""
import resource, api.connections as c
now = [300, {"resource.RLIM_INFINITY" if hard == "unlimited" else hard}]
resource.getrlimit = lambda _: tuple(now)
def take(_, wanted):
    if wanted[0] == resource.RLIM_INFINITY or wanted[0] > {most}:
        raise ValueError("current limit exceeds maximum limit")
    now[:] = wanted
resource.setrlimit = take
c.raise_descriptors()
print(now[0], c.Limits.here().connections)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [str(soft), str(min(4096, soft * 3 // 4))]


def test_who_says_nothing(served: Served) -> None:
    """Whether it never did, only sent empty lines, or has its answer."""
    new, lines, answered = served.client(), served.client(), served.client(HEALTH)
    assert next_answer(answered)[0] == 200
    for _ in range(2):
        served.look()
        lines.send(b"\r\n")
        assert all(map(is_open, (new, lines, answered)))
    served.look()
    assert new.rest() == lines.rest() == answered.rest() == b""


def test_who_asks_in_time_stays(served: Served) -> None:
    """The answer begins the time anew, and each request has its own."""
    client = served.client()
    for _ in range(3):
        served.look(2)
        client.send(HEALTH)
        assert next_answer(client)[0] == 200
    client.send(HALF)
    served.look(2)
    assert is_open(client)


def test_half_a_head(served: Served) -> None:
    """Without a byte 408; byte by byte it is not waited for much longer."""
    silent, dripping = served.client(GET), served.client(GET)
    for _ in range(2):
        served.look()
        dripping.send(b"a")
        assert is_open(silent)
    served.look()
    assert "no byte of it came for 3 seconds" in assert_problem(silent.rest(), 408)
    for _ in range(2):
        assert is_open(dripping)
        dripping.send(b"a")
        served.look()
    served.look()
    assert "header took 6 seconds" in assert_problem(dripping.rest(), 408)


@pytest.mark.parametrize("chunked", [False, True])
def test_half_a_body(served: Served, tenant: str, chunked: bool) -> None:
    """Without a byte 408; byte by byte 408; at its pace it is taken."""
    length = b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: 3000\r\n\r\n"

    def part(body: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(body), body) if chunked else body

    silent, dripping, steady = (
        served.client(POST, CLOSE, b"X-Tenant-ID: ", tenant.encode(), b"\r\n", length, part(b" "))
        for _ in range(3)
    )
    for look in range(1, 11):
        if look <= 5:
            dripping.send(part(b" "))
        steady.send(part(b" " * 250))
        served.look()
        assert is_open(silent) == (look < 3)
        assert is_open(dripping) == (look < 5)
        assert is_open(steady)
    assert "no byte of it came for 3 seconds" in assert_problem(silent.rest(), 408)
    assert "1000 bytes of the body did not come in 5 seconds" in assert_problem(dripping.rest(), 408)
    steady.send(part(b" " * (499 - len(PROGRAM)) + PROGRAM), b"0\r\n\r\n" if chunked else b"")
    assert parsed(steady.rest())[0] == 200


def test_trailers_without_an_end(served: Served) -> None:
    """Bytes that are no body do not keep the pace."""
    chunks = b"%x\r\n%s\r\n0\r\n" % (len(PROGRAM), PROGRAM)
    client = served.client(POST, b"Transfer-Encoding: chunked\r\n\r\n", chunks)
    for _ in range(5):
        assert is_open(client)
        client.send(b"a")
        served.look()
    assert_problem(client.rest(), 408)


def test_a_body_that_is_promised(served: Served) -> None:
    """Who was told to go on, and does not, is a client that is silent."""
    client = served.client(POST, b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n")
    going_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert client.socket.recv(len(going_on)) == going_on
    served.look(2)
    assert is_open(client)
    served.look()
    assert_problem(client.rest(), 408)


def test_a_request_that_is_worked_on_takes_its_time(slow: Slow) -> None:
    """The client waits for us, also where it has sent the next one."""
    with Served(slow) as served:
        client = served.client(
            b"GET /a HTTP/1.1\r\n",
            HOST,
            b"\r\nPOST /b HTTP/1.1\r\n",
            HOST,
            CLOSE,
            b"Content-Length: 2\r\n\r\n{",
        )
        served.look(20)
        assert is_open(client)
        slow.go.set()
        served.until(lambda: slow.begun == 2)
        client.send(b"}")
        first, second = client.rest().split(b"HTTP/1.1 ")[1:]
        assert b"x-path: /a" in first
        assert b"x-path: /b" in second


@pytest.mark.parametrize("expecting", [False, True])
def test_a_body_that_nobody_reads_yet(slow: Slow, expecting: bool) -> None:
    """The client waits for us, too: it was not told to go on, or there is no room."""
    head = b"POST / HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: 1000000\r\n"
    sent = head + (b"Expect: 100-continue\r\n\r\n" if expecting else b"\r\n" + b"x" * 200_000)
    with Served(slow) as served:
        client = served.client(sent)
        (connection,) = served.connections.half
        waiting: Any = connection
        served.look(20)
        assert is_open(client)
        slow.go.set()
        served.until(lambda: not (waiting.flow.read_paused or waiting.cycle.waiting_for_100_continue))
        served.look(2)
        client.send(b"x" * (1_000_000 - 200_000 * (not expecting)))
        answers = client.rest().split(b"HTTP/1.1 ")[1:]
        assert [answer[:3] for answer in answers] == ([b"100"] if expecting else []) + [b"200"]


def test_an_answer_that_does_not_wait_for_the_body(slow: Slow) -> None:
    """It may take its time: what is missing of the body is missed afterwards."""
    slow.answered = True
    with Served(slow) as served:
        client = served.client(b"POST / HTTP/1.1\r\n", HOST, b"Content-Length: 2\r\n\r\n{")
        served.look(20)
        slow.go.set()
        assert next_answer(client)[0] == 200
        client.send(b"}", HEALTH)
        assert next_answer(client)[0] == 200


def test_the_one_idle_longest_gives_way(slow: Slow) -> None:
    """Never one that is worked on, nor one whose body is coming."""
    with Served(slow, Limits(connections=5)) as served:
        working = served.client(b"GET / HTTP/1.1\r\n", HOST, b"\r\n")
        half = served.client(HALF)
        first, head, third = served.client(), served.client(GET), served.client()
        first.send(HEALTH)
        next_answer(first)  # it rests since then
        newcomer = served.client()
        assert "as many connections" in assert_problem(head.rest(), 503)
        served.client()
        assert third.rest() == b""
        served.client()
        assert first.rest() == b""
        assert is_open(working)
        assert is_open(half)
        assert is_open(newcomer)
        slow.go.set()


def test_half_a_body_gives_way(slow: Slow) -> None:
    """Where nobody rests, the one whose last byte is the oldest."""
    half = b"POST /v1/health HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{"
    with Served(Reader(), Limits(connections=3)) as served:
        first, second, third = (served.client(half) for _ in range(3))
        first.send(b"a")
        served.turn()
        served.client()
        assert_problem(second.rest(), 503)
        assert is_open(first)
        assert is_open(third)


class Reader:
    """An application that reads the whole body before it answers."""

    def __init__(self, note: Callable[[], object] = lambda: None) -> None:
        self.note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # type: ignore[comparison-overlap]
            return
        while (await receive()).get("more_body"):
            pass
        self.note()
        await begin_nothing(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def test_no_room_at_all(slow: Slow) -> None:
    """A newcomer hears so at once, and the next one takes its place."""
    with Served(slow, Limits(connections=2)) as served:
        working = [served.client(b"GET / HTTP/1.1\r\n", HOST, b"\r\n") for _ in range(2)]
        for _ in range(3):
            answer = served.client().rest()
            assert "as many connections" in assert_problem(answer, 503)
            assert parsed(answer)[1]["retry-after"] == "2"
        slow.go.set()
        for client in working:
            served.until(lambda client=client: not is_open(client))
        assert next_answer(served.client(HEALTH))[0] == 200


def test_too_many_requests(slow: Slow) -> None:
    """503 at once, but for health."""
    with Served(slow, Limits(requests=2)) as served:
        request = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
        for _ in range(2):
            served.client(request)
        status, headers, body = next_answer(served.client(request))
        assert (status, headers["retry-after"]) == (503, "2")
        assert "as many requests" in json.loads(body)["detail"]
        assert parsed(served.client(GET, CLOSE, b"\r\n").rest())[0] == 200
        slow.go.set()
        served.until(lambda: not served.server.server_state.tasks)
        assert parsed(served.client(b"GET / HTTP/1.1\r\n", HOST, CLOSE, b"\r\n").rest())[0] == 200


def test_half_requests_do_not_keep_others_from_work() -> None:
    """Whose body is still coming is not worked on."""
    half = b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 100\r\n\r\n{"
    with Served(Reader(), Limits(requests=2)) as served:
        for _ in range(5):
            served.client(half)
        assert parsed(served.client(b"GET / HTTP/1.1\r\n", HOST, CLOSE, b"\r\n").rest())[0] == 200


class Large:
    """An application that streams without an end, or has one large answer."""

    def __init__(self) -> None:
        self.told = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # type: ignore[comparison-overlap]
            return
        body = b"x" * 10_000_000
        if scope["path"] == "/large":
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-length", b"%d" % len(body))],
                }
            )
            await send({"type": "http.response.body", "body": body, "more_body": False})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.ensure_future(self._gone(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.sleep(0)
        self.told.set()

    async def _gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


@pytest.mark.parametrize("behind", [b"", HEALTH], ids=["alone", "with another request behind it"])
def test_who_does_not_take_a_stream(behind: bytes) -> None:
    """It ends, and its application hears of it."""
    app = Large()
    with Served(app) as served:
        client = served.client(b"GET /stream HTTP/1.1\r\n", HOST, b"\r\n", behind)
        served.look()  # the first one sees how much there is
        served.look(2)
        assert served.connections.count == 1
        client.socket.recv(5_000_000, socket.MSG_WAITALL)
        served.look(3)
        assert not app.told.is_set()
        served.look(2)
        served.until(app.told.is_set)
        assert served.connections.count == 0


@pytest.mark.parametrize("more", [b"", CLOSE], ids=["keep-alive", "close"])
def test_who_does_not_take_its_last_answer(more: bytes) -> None:
    """The connection is not kept until it does."""
    with Served(Large()) as served:
        client = served.client(b"GET /large HTTP/1.1\r\n", HOST, more, b"\r\n")
        served.look(3)
        assert served.connections.count == 1
        served.look(2)
        served.until(lambda: served.connections.count == 0)
        assert len(client.rest()) < 10_000_000


def test_who_has_taken_all_may_give_way() -> None:
    """At once."""
    with Served(Large(), Limits(connections=1)) as served:
        client = served.client(b"GET /large HTTP/1.1\r\n", HOST, b"\r\n")
        next_answer(client)
        assert is_open(served.client())
        assert client.rest() == b""


def test_who_takes_nothing_gives_way() -> None:
    """Where nobody else can; of two the one that took less lately."""
    with Served(Large(), Limits(connections=2)) as served:
        first, second = (served.client(b"GET /stream HTTP/1.1\r\n", HOST, b"\r\n") for _ in range(2))
        served.look()
        first.socket.recv(5_000_000, socket.MSG_WAITALL)
        served.look()
        newcomer = served.client()
        assert is_open(newcomer)
        assert len(second.rest()) < 10_000_000
        first.socket.recv(50_000_000, socket.MSG_WAITALL)


def test_who_takes_nothing_keeps_nobody_from_work() -> None:
    """An answer that waits for its client is not worked on."""
    with Served(Large(), Limits(requests=2)) as served:
        for _ in range(4):
            served.client(b"GET /stream HTTP/1.1\r\n", HOST, b"\r\n")
        answer = served.client(b"GET /large HTTP/1.1\r\n", HOST, CLOSE, b"\r\n").rest()
        assert parsed(answer)[0] == 200


def test_requests_that_do_not_wait_for_answers(slow: Slow) -> None:
    """All are answered, in order; few are taken apart before their turn."""
    with Served(slow) as served:
        client = served.client()
        requests = b"".join(b"GET /%d HTTP/1.1\r\n%s\r\n" % (i, HOST) for i in range(5000))
        sending = threading.Thread(
            target=client.send, args=(requests, b"GET /last HTTP/1.1\r\n", HOST, CLOSE, b"\r\n")
        )
        sending.start()
        served.until(lambda: slow.begun)
        waiting: Any = next(iter(served.connections.busy))
        served.until(lambda: waiting.flow.read_paused)
        assert 0 < len(waiting.pipeline) < 200
        slow.go.set()
        found = re.findall(rb"x-path: /(\w+)", client.rest())
        sending.join()
        assert found == [*(b"%d" % i for i in range(5000)), b"last"]


def test_more_requests_than_are_kept() -> None:
    """However fast they come: those that were not taken apart yet wait in the system."""
    kept = []
    with Served(Reader(lambda: kept.append(len(waiting._unread)))) as served:
        client = served.client()
        waiting: Any = next(iter(served.connections.resting))
        requests = b"".join(b"GET /%d HTTP/1.1\r\n%s\r\n" % (i, HOST) for i in range(20_000))
        sending = threading.Thread(target=client.send, args=(requests, GET, CLOSE, b"\r\n"))
        sending.start()
        assert client.rest().count(b"HTTP/1.1 200") == 20_001
        sending.join()
    assert max(kept) < 300_000


def test_a_body_behind_another_request_is_not_read(slow: Slow) -> None:
    """Before its turn no more of it is in memory than the system gives at once."""
    with Served(slow) as served:
        client = served.client(b"GET /a HTTP/1.1\r\n", HOST, b"\r\n")
        body = b"x" * 30_000_000
        head = b"POST /b HTTP/1.1\r\n" + HOST + CLOSE + b"Content-Length: %d\r\n\r\n" % len(body)
        sending = threading.Thread(target=client.send, args=(head, body))
        sending.start()
        waiting: Any = next(iter(served.connections.busy))
        served.until(lambda: waiting.flow.read_paused)
        assert len(waiting.cycle.body) <= 300_000
        slow.go.set()
        sending.join()
        assert client.rest().count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_refusal_reaches_who_is_still_sending(served: Served, version: bytes) -> None:
    """Also where its answer is the last one, and however large its body is."""
    too_large = (
        b"POST /v1/sync/programs HTTP/"
        + version
        + b"\r\n"
        + HOST
        + CLOSE
        + b"Content-Length: 50000000\r\n\r\n"
    )
    client = served.client(too_large)
    for _ in range(50):
        client.send(b"x" * 1_000_000)
    assert_problem(client.rest(), 413)


def test_who_goes_on_sending_after_a_refusal(served: Served) -> None:
    """Is heard out for a while, and no longer; who falls silent, not as long."""
    too_large = POST + b"Content-Length: 500000000\r\n"
    kept, last = served.client(too_large, b"\r\n"), served.client(too_large, CLOSE, b"\r\n")
    served.client(too_large, b"\r\n")
    served.client(too_large, CLOSE, b"\r\n")
    for look in (1, 2, 3):
        kept.send(b"x")
        last.send(b"x")
        served.look()
        assert served.connections.count == (4 if look < 3 else 2)
    served.look()
    served.until(lambda: served.connections.count == 0)


def test_bodies_beyond_the_bound(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, tenant: str
) -> None:
    """503 before the body is read where it has a length, else when it gets too much; what is
    over is given back, whatever became of it.
    """
    app = create_app(installation)
    service = app.state.service
    monkeypatch.setattr(service, "bodies", bodies.Bodies(1000))
    with Served(app) as served:
        post = POST + b"X-Tenant-ID: " + tenant.encode() + b"\r\n"
        chunked = b"Transfer-Encoding: chunked\r\n\r\n"
        first = served.client(post, CLOSE, b"Content-Length: 800\r\n\r\n", b" " * 700)
        served.until(lambda: service.bodies.held == 700)
        status, headers, body = next_answer(served.client(post, b"Content-Length: 301\r\n\r\n"))
        assert (status, headers["retry-after"]) == (503, "2")
        assert "1000 bytes of bodies" in json.loads(body)["detail"]
        growing = served.client(POST, b"X-Tenant-ID: other\r\n", chunked, b"64\r\n" + b" " * 100 + b"\r\n")
        served.until(lambda: service.bodies.held == 800)
        growing.send(b"c9\r\n" + b" " * 201 + b"\r\n")
        assert next_answer(growing)[0] == 503
        served.until(lambda: service.bodies.held == 700)
        leaving = served.client(post, chunked, b"64\r\n" + b" " * 100 + b"\r\n")
        served.until(lambda: service.bodies.held == 800)
        leaving.socket.close()
        served.until(lambda: service.bodies.held == 700)
        unreadable = served.client(post, CLOSE, chunked, b"2\r\n{]\r\n0\r\n\r\n")
        assert parsed(unreadable.rest())[0] == 400
        first.send(b" " * (100 - len(PROGRAM)), PROGRAM)
        assert parsed(first.rest())[0] == 200
        served.until(lambda: service.bodies.held == 0)


class Looked:
    """A connection that notes when it is looked at."""

    def __init__(self, notes: list[str]) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.group: Group
        self.notes = notes
        self.done = self.loop.create_future()

    def look(self) -> None:
        self.notes.append("looked")
        if not self.done.done():
            self.done.set_result(None)

    def give_way(self) -> None:
        raise AssertionError


def test_a_busy_process_reads_before_it_judges() -> None:
    """However long it was busy, that is one look; and what came meanwhile counts."""
    notes: list[str] = []

    async def main() -> None:
        connections = Connections(FEW, sweep_seconds=0.001)
        looked = Looked(notes)
        (here, there), (mine, other) = socket.socketpair(), socket.socketpair()

        def busy() -> None:
            here.recv(1)
            connections.admit(looked)
            other.send(b"x")
            time.sleep(0.02)  # twenty looks

        def read() -> None:
            mine.recv(1)
            notes.append("read")

        looked.loop.add_reader(here, busy)
        looked.loop.add_reader(mine, read)
        there.send(b"x")
        await looked.done
        assert connections.tick == 1
        connections.remove(looked)
        for used in (here, mine):
            looked.loop.remove_reader(used)
        for used in (here, there, mine, other):
            used.close()

    uvloop.run(main())
    assert notes == ["read", "looked"]


@pytest.mark.soak
def test_idle_clients_in_real_time(own_home: Path) -> None:
    """With 1024 files: 1,100 idle ones, half requests, a slow uplink, and posts beside them."""
    raise_descriptors()
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2000:
        pytest.skip("this process may not have 1,100 connections itself")
    with (
        Server(own_home, limits="-n 1024") as server,
        contextlib.ExitStack() as clients,
        server.client("t") as client,
    ):

        def post() -> None:
            started = time.monotonic()
            answer = client.post("/v1/sync/programs", json={"id": os.urandom(8).hex(), "Product_Name": "x"})
            assert answer.status_code == 200
            assert time.monotonic() - started < 2

        def connect(*sent: bytes) -> Wire:
            wire = Wire(server)
            clients.enter_context(wire.socket)
            wire.send(*sent)
            return wire

        def upload() -> None:
            size = 16 * 1024 * 1024
            wire = connect(POST, CLOSE, b"Content-Length: %d\r\n\r\n" % size)
            part = b" " * 12_500  # a tenth of a second of 1 Mbit/s
            for _ in range(size // len(part)):
                wire.send(part)
                time.sleep(0.1)
            wire.send(b" " * (size % len(part) - len(PROGRAM)), PROGRAM)
            uploaded.append(parsed(wire.rest())[0])

        uploaded: list[int] = []
        uploading = threading.Thread(target=upload)
        uploading.start()
        for sent in (b"", GET, HALF):
            wires = []
            for _ in range(1100):
                with contextlib.suppress(OSError):
                    wires.append(connect(sent))
            post()
            started = time.monotonic()
            for wire in wires:
                with contextlib.suppress(ConnectionResetError):
                    answer = wire.rest()
                    assert answer == b"" if not sent else parsed(answer)[0] in (408, 503)
            assert time.monotonic() - started < 15
            assert answer == b"" if not sent else parsed(answer)[0] == 408
            post()
        uploading.join()
        assert uploaded == [200]
