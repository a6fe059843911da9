"""`scripts/bench loop`: how long the largest requests that are allowed keep the others waiting.

Each case is asked twice. Of the product as it is served, another process measures meanwhile how
long the slowest `GET /v1/health` and the slowest small POST of another college take, and how long
an empty endpoint of an idle process takes, which is what this machine adds by itself. A second
server runs the same application on a loop that measures its own steps: processor time without a
turn for anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx

from scripts.bench import ROOT, Process, request

MOST = 16 * 1024 * 1024
"""The largest body that is taken."""
MANY = 10_000
"""As many records as are taken at once."""
AIM_MS = 100
_LARGE = MOST - 4096
_PAUSE = 0.005  # seconds between two probes


# -- what is asked


class Asker:
    """One server, asked for one college."""

    def __init__(self, url: str, tenant: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"X-Tenant-ID": tenant}, timeout=120)
        self.said: list[int] = []

    def post(self, plural: str, body: bytes, content_type: str = "application/json") -> None:
        """Posts a body, as often as it is asked to wait."""
        assert len(body) <= MOST, len(body)
        headers = {"Content-Type": content_type}
        for _ in range(3):
            done = self._http.post(f"/v1/sync/{plural}", content=body, headers=headers)
            if done.status_code != 503:
                break
            time.sleep(0.5)
        self.said.append(done.status_code)

    def records(self, plural: str, records: list[dict[str, Any]]) -> None:
        """Posts records."""
        self.post(plural, json.dumps({"data": records}, ensure_ascii=False).encode())

    def get(self, path: str) -> None:
        """Reads an answer to its end."""
        self.said.append(self._http.get(path).status_code)

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()


Case = Callable[[Asker], Iterator[None]]
"""Prepares, yields, then asks what is measured."""


def one(field: str) -> bytes:
    """A body of one student with one more field, given as JSON."""
    return f'{{"data":[{{"id":"s1","Name":"S1","Last_Name":"Nasser",{field}}}]}}'.encode()


def listed(unit: str, size: int = _LARGE) -> str:
    """So many bytes of a list."""
    return ",".join([unit] * (size // (len(unit.encode()) + 1)))


def repeated(unit: str) -> str:
    """A text as long as it may be."""
    return unit * (_LARGE // len(unit.encode()) - 1)


def form(**fields: bytes) -> bytes:
    """A multipart form."""
    part = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    return b"".join(part % (name.encode(), value) for name, value in fields.items()) + b"--b--\r\n"


_USUAL, _FORM, _MULTIPART = (
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
)
_NUL, _ENVELOPE, _DEEP = "\\u0000", '{"data":[]}', '{"a":' * 58 + "1" + "}" * 58
_LOOKUP = '{"id":"7012345000001200001","name":"Ab Cd"}'
BODIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a long text": (lambda: one(f'"X":"{"a" * _LARGE}"'), _USUAL),
    "a long first name": (lambda: one(f'"First_Name":"{"a" * _LARGE}"'), _USUAL),
    "a long first name in Arabic": (lambda: one(f'"First_Name":"{"م" * (_LARGE // 2)}"'), _USUAL),
    "a first name of NUL": (lambda: one(f'"First_Name":"{repeated(_NUL)}"'), _USUAL),
    "a first name of blanks": (lambda: one(f'"First_Name":"{repeated(chr(0xA0))}"'), _USUAL),
    "a list of empty objects": (lambda: one(f'"X":[{listed("{}")}]'), _USUAL),
    "a list of numbers": (lambda: one(f'"X":[{listed("0")}]'), _USUAL),
    "a list of fractions": (lambda: one(f'"X":[{listed("1.5")}]'), _USUAL),
    "a list of empty texts": (lambda: one(f'"X":[{listed(chr(34) * 2)}]'), _USUAL),
    "a list of lookups": (lambda: one(f'"X":[{listed(_LOOKUP)}]'), _USUAL),
    "lists 60 deep": (lambda: one(f'"X":[{listed("[" * 58 + "]" * 58)}]'), _USUAL),
    "objects 60 deep": (lambda: one(f'"X":[{listed(_DEEP)}]'), _USUAL),
    "a million keys": (lambda: one(",".join(f'"K{i:07}":"v"' for i in range(_LARGE // 15))), _USUAL),
    "a list as text": (
        lambda: one(f'"X":{json.dumps("[" + listed(_LOOKUP, _LARGE * 7 // 10) + "]")}'), _USUAL
    ),
    "nothing but [": (lambda: b"[" * MOST, _USUAL),
    "invalid at its end": (lambda: one(f'"X":[{listed("{}")}]')[:-1] + b"x", _USUAL),
    "a million envelopes": (lambda: b"[%s]" % listed(_ENVELOPE).encode(), _USUAL),
    "UTF-16": (lambda: one(f'"X":[{listed(_LOOKUP, _LARGE // 2)}]').decode().encode("utf-16"), _USUAL),
    "JSON in a text": (lambda: json.dumps(one(f'"X":[{listed("{}")}]').decode()).encode(), _USUAL),
    "a form of escapes": (lambda: b"id=s1&Name=x&First_Name=" + b"%41" * (_LARGE // 3), _FORM),
    "JSON in a form": (
        lambda: b"data=" + quote_plus(one(f'"X":[{listed(_LOOKUP, _LARGE // 2)}]')).encode(), _FORM
    ),
    "a multipart form": (lambda: form(id=b"s1", First_Name=b"a\nb " * (_LARGE // 4)), _MULTIPART),
    "10,000 fields of a form": (
        lambda: b"id=s1&" + b"&".join(b"k%d=%s" % (i, b"v" * 1_500) for i in range(9_990)), _FORM
    ),
}  # fmt: skip
"""Bodies of one record, as large as they may be, with their content types."""


def _posted(make: Callable[[], bytes], content_type: str, plural: str = "students") -> Case:
    def case(asker: Asker) -> Iterator[None]:
        body = make()
        yield
        asker.post(plural, body, content_type)

    return case


def student(number: int, word: str = "", size: int = 0) -> dict[str, Any]:
    """A student; another word changes each field, `size` makes the record longer."""
    return {
        "id": f"S{number:05}", "Name": f"N{word}{number}", "First_Name": f"Layla{word}", "Status": f"Active{word}",
        "Last_Name": f"Nasser{word}", "Academic_Email": f"s{number}{word}@college.example",
        "Program": {"id": f"P{word}{number % 40}", "name": "Computing"}, "Filler": "x" * size,
    }  # fmt: skip


def enrollment(number: int, student_id: str = "S00000", **more: Any) -> dict[str, Any]:
    """An enrollment in class C1."""
    return {"id": f"E{number:05}", "Student": student_id, "Class": {"id": "C1"}, **more}


CLASS = {"id": "C1", "Class_Name": "Programming"}


def _unreadable(asker: Asker) -> Iterator[None]:
    said = "12 feb 2026 at 24:61:99 AM GMT+99:99 (Arabian Standard Time) 1"
    records = [
        {"id": f"C{i}", "Class_Name": "n", "Start_Date": said, "End_Date": said, "Modified_Time": said}
        for i in range(MANY)
    ]
    yield
    asker.records("classes", records)


def _unreadable_amounts(asker: Asker) -> Iterator[None]:
    records = [{"id": f"P{i}", "Product_Name": "n", "Price": "1.1.1,1,1.1 ,,.1 1" * 5} for i in range(MANY)]
    yield
    asker.records("programs", records)


def _new(asker: Asker) -> Iterator[None]:
    yield
    asker.records("students", [student(i) for i in range(MANY)])


def _new_large(asker: Asker) -> Iterator[None]:
    yield
    asker.records("students", [student(i, size=1_200) for i in range(MANY)])


def _short(asker: Asker) -> Iterator[None]:
    yield
    asker.post("students", b'{"data":[' + b",".join(b'{"id":"%d"}' % i for i in range(MANY)) + b"]}")


def _without_ids(asker: Asker) -> Iterator[None]:
    yield
    asker.post("students", b"[" + b",".join([b"{}"] * MANY) + b"]")


def _changed(asker: Asker) -> Iterator[None]:
    asker.records("students", [student(i) for i in range(MANY)])
    yield
    asker.records("students", [student(i, "b") for i in range(MANY)])


def _changed_cold(asker: Asker) -> Iterator[None]:
    """What a lane that has nothing in its cache must read first."""
    asker.records("students", [student(i) for i in range(MANY)])
    asker.records("students", [student(i) for i in range(MANY, 3 * MANY)][:MANY])
    for part in range(5):
        asker.records("students", [student(i) for i in range((3 + part) * MANY, (4 + part) * MANY)])
    yield
    asker.records("students", [student(i, "b") for i in range(MANY)])


def _replayed(asker: Asker) -> Iterator[None]:
    asker.records("students", [student(i) for i in range(MANY)])
    yield
    asker.records("students", [student(i) for i in range(MANY)])


def _of_one(asker: Asker) -> Iterator[None]:
    yield
    asker.records("students", [student(0, str(i)) for i in range(MANY)])


def _invalid(asker: Asker) -> Iterator[None]:
    yield
    asker.records("programs", [{"id": f"P{i}"} for i in range(MANY)])


def _waiting(asker: Asker) -> Iterator[None]:
    yield
    asker.records("enrollments", [enrollment(i) for i in range(MANY)])


def _released(asker: Asker) -> Iterator[None]:
    asker.records("classes", [CLASS])
    asker.records("enrollments", [enrollment(i) for i in range(MANY)])
    yield
    asker.records("students", [student(0)])


def _departed(asker: Asker) -> Iterator[None]:
    asker.records("classes", [CLASS])
    asker.records("students", [student(0)])
    asker.records("enrollments", [enrollment(i) for i in range(MANY)])
    yield
    asker.records("classes", [{"id": "C1", "Record_Status__s": "Trash"}])
    asker.records("classes", [CLASS])


def _back_and_forth(asker: Asker) -> Iterator[None]:
    """Releases again and again in one request."""
    asker.records("students", [student(0)])
    asker.records("enrollments", [enrollment(i) for i in range(MANY)])
    yield
    asker.records("classes", [CLASS, {"id": "C1", "Record_Status__s": "Trash"}] * 10)


def _tombstones(asker: Asker) -> Iterator[None]:
    asker.records("students", [student(i) for i in range(MANY)])
    yield
    asker.records("students", [{"id": f"S{i:05}", "Record_Status__s": "Trash"} for i in range(MANY)])


def _several(asker: Asker) -> Iterator[None]:
    """As many as a lane takes together, of several senders."""
    from concurrent.futures import ThreadPoolExecutor

    yield
    with ThreadPoolExecutor(32) as pool:
        list(
            pool.map(lambda n: asker.records("students", [student(n * 31 + i) for i in range(31)]), range(64))
        )


def _busy(asker: Asker) -> None:
    asker.records("classes", [CLASS])
    asker.records("students", [student(i, size=1_000) for i in range(MANY)])
    asker.records("enrollments", [enrollment(i, f"S{i:05}", Filler="x" * 1_000) for i in range(MANY)])
    for word in "abcde":
        asker.records("students", [student(i, word) for i in range(MANY)])
    for number in range(3):
        asker.records("classes", [{**CLASS, "Class_Name": f"P{n % 2}"} for n in range(MANY)])
        asker.records("enrollments", [enrollment(0, "S00001", status=f"s{number}{n}") for n in range(MANY)])


def _asked(*paths: str) -> Case:
    def case(asker: Asker) -> Iterator[None]:
        _busy(asker)
        yield
        for path in paths:
            asker.get(path)

    return case


def _asked_large(*paths: str) -> Case:
    def case(asker: Asker) -> Iterator[None]:
        asker.post("students", one(f'"First_Name":"{"م" * (_LARGE // 2)}"'))
        asker.post("students", one(f'"First_Name":"{"ن" * (_LARGE // 2)}"'))
        yield
        for path in paths:
            asker.get(path)

    return case


def _rebuilt(asker: Asker) -> Iterator[None]:
    """Read models of an older release, rebuilt beside the traffic."""
    _busy(asker)
    yield
    asker.said.append(200)


CASES: dict[str, Case] = {
    **{name: _posted(*body) for name, body in BODIES.items()},
    "a list of lookups of a class": _posted(*BODIES["a list of lookups"], "classes"),
    "10,000 unreadable dates": _unreadable,
    "10,000 unreadable amounts": _unreadable_amounts,
    "10,000 new": _new,
    "10,000 new of 1.5 KB": _new_large,
    "10,000 of an id alone": _short,
    "10,000 without an id": _without_ids,
    "10,000 changed": _changed,
    "10,000 changed, read first": _changed_cold,
    "10,000 replayed": _replayed,
    "10,000 of one student": _of_one,
    "10,000 INVALID": _invalid,
    "10,000 that wait": _waiting,
    "10,000 released": _released,
    "10,000 departed": _departed,
    "10,000 released ten times": _back_and_forth,
    "10,000 tombstones": _tombstones,
    "64 times 31 at once": _several,
    "lists": _asked("/v1/students?limit=1000", "/v1/audit/events?limit=1000", "/v1/audit/deferred"),
    "events with payload": _asked(
        "/v1/audit/events?limit=1000&payload=true", "/v1/audit/events?limit=1000&payload=true&after=60000"
    ),
    "exports": _asked(
        "/v1/audit/export?payload=true", "/v1/audit/export?format=csv&payload=true", "/v1/audit/export"
    ),
    "as of then": _asked(
        "/v1/students?at_position=60000&limit=1000",
        "/v1/enrollments?at_position=90000&limit=1000",
        "/v1/classes?at_position=90000",
        "/v1/enrollments/E00000?at_position=120000",
    ),
    "explain a busy record": _asked(
        "/v1/audit/explain/enrollments/E00000", "/v1/audit/records/enrollment/E00000?limit=1000"
    ),
    "summary": _asked("/v1/audit/summary", "/v1/ready", "/metrics"),
    "documentation": _asked_large("/openapi.json", "/docs"),
    "large records read": _asked_large(
        "/v1/audit/events?payload=true",
        "/v1/audit/export?payload=true",
        "/v1/audit/export?format=csv&payload=true",
        "/v1/students",
        "/v1/students/s1?at_position=1",
        "/v1/students?at_position=2",
        "/v1/audit/records/student/s1",
    ),
}


# -- who measures


class _Probe:
    """Asks one question of one server again and again, and remembers the slowest answer."""

    def __init__(self, port: int, question: Callable[[], bytes]) -> None:
        self._port, self._question = port, question
        self._slowest, self._asked = 0.0, time.perf_counter()

    async def run(self) -> None:
        """Until cancelled; a connection that breaks is made anew."""
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                while True:
                    self._asked = time.perf_counter()
                    writer.write(self._question())
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    await reader.readexactly(length)
                    self._slowest = max(self._slowest, time.perf_counter() - self._asked)
                    await asyncio.sleep(_PAUSE)
                    self._asked = time.perf_counter()

    def reset(self) -> float:
        """The slowest since the last time, in seconds; one that is waited for counts, too."""
        found, self._slowest = max(self._slowest, time.perf_counter() - self._asked), 0.0
        return found


async def _probe(product: int, floor: int) -> None:
    """Prints the slowest answers of each round when it ends."""

    def post() -> bytes:
        body = json.dumps({"id": f"S{time.time_ns()}", "Name": "x"}).encode()
        return request("/v1/sync/students", body, "other")

    probes = {
        "health": _Probe(product, lambda: b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        "post": _Probe(product, post),
        "idle": _Probe(floor, lambda: request("/floor", b"{}")),
    }
    asking = [asyncio.create_task(probe.run()) for probe in probes.values()]
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        found = {name: probe.reset() for name, probe in probes.items()}
        if line == "end\n":
            print(json.dumps(found), flush=True)
    for task in asking:
        task.cancel()


class Steps:
    """How much processor time its thread takes between two turns of a loop, and how much of it the
    collector of garbage.
    """

    def __init__(self) -> None:
        self._longest = self._collected = self._collecting = self._last = 0.0

    def watch(self) -> None:
        """Measures the loop that runs from now on."""
        gc.callbacks.append(self._collects)
        self._last = time.thread_time()
        self._tick()

    def _tick(self) -> None:
        now = time.thread_time()
        self._longest, self._last = max(self._longest, now - self._last), now
        asyncio.get_running_loop().call_later(0.001, self._tick)

    def _collects(self, phase: str, _: Any) -> None:
        now = time.thread_time()
        if phase == "start":
            self._collecting = now
        else:
            self._collected = max(self._collected, now - self._collecting)

    def reset(self) -> dict[str, float]:
        """What was found since the last time, in seconds."""
        found = {"step": self._longest, "gc": self._collected}
        self._longest = self._collected = 0.0
        return found


def serve_steps() -> None:
    """The product, measured from inside; `GET /steps` tells and begins anew."""
    from ledger import settings as configuration
    from scripts import server

    steps = Steps()
    _, reason = Pipe(duplex=False)
    app = server.WorkerApp(configuration.load(), reason, os.getpid())

    async def measured(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            steps.watch()
        if scope["type"] != "http" or scope["path"] != "/steps":
            await app(scope, receive, send)
            return
        body = json.dumps(steps.reset()).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    sockets = server.bind("localhost", 0)
    server.tell(f"serving on {server.url_of(sockets[0])}, ")
    server.run(server.config_for(measured, 1), sockets)


# -- the run


class Prober:
    """The process that asks meanwhile."""

    def __init__(self, product: int, floor: int) -> None:
        command = [sys.executable, "-m", "scripts.bench_loop", "--probe", str(product), str(floor)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def say(self, word: str) -> None:
        """`go` begins a round."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, float]:
        """The slowest answers of the round, in seconds."""
        self.say("end")
        assert self._process.stdout is not None
        found: dict[str, float] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()


def _ask(case: Case, port: int, tenant: str, before: Callable[[], object]) -> tuple[float, list[int]]:
    """Seconds, and the statuses of the answers."""
    asker = Asker(f"http://127.0.0.1:{port}", tenant)
    try:
        steps = case(asker)
        next(steps)
        asker.said.clear()
        before()
        started = time.perf_counter()
        with contextlib.suppress(StopIteration):
            next(steps)
        return time.perf_counter() - started, asker.said
    finally:
        asker.close()


def run(home: Path, names: list[str]) -> dict[str, dict[str, float]]:
    """Measures and prints; answers the figures of each case, in seconds."""
    all_: dict[str, dict[str, float]] = {}
    product = Process(home, "scripts.cli", "serve", "--port", "0")
    inside = Process(home, "scripts.bench_loop", "--steps")
    floor = Process(home, "scripts.bench", "--floor")
    prober = Prober(product.port, floor.port)
    for process in (product, inside):
        _drain(process)
    columns = ("health", "post", "idle", "step", "gc")
    print(f"{'milliseconds':32}" + "".join(f"{column:>8}" for column in columns) + f"{'seconds':>9}  answers")
    try:
        for number, name in enumerate(names):
            seconds, said = _ask(CASES[name], product.port, f"p{number}", partial(prober.say, "go"))
            found = prober.end()
            tell = partial(httpx.get, f"http://127.0.0.1:{inside.port}/steps")
            _ask(CASES[name], inside.port, f"i{number}", tell)
            found |= tell().json()
            all_[name] = found
            figures = "".join(f"{found[column] * 1000:8.0f}" for column in columns)
            answers = " ".join(map(str, dict.fromkeys(said)))
            late = "  LATE" if max(found["health"], found["step"]) * 1000 > AIM_MS else ""
            print(f"{name:32}{figures}{seconds:9.1f}  {answers}{late}", flush=True)
    finally:
        prober.close()
        for process in (product, inside, floor):
            process.stop()
    return all_


def _drain(process: Process) -> None:
    def copy() -> None:
        assert process.process.stderr is not None
        for line in process.process.stderr:
            print(line, end="", file=sys.stderr)

    threading.Thread(target=copy, daemon=True).start()


def main(arguments: list[str]) -> None:
    """`scripts/bench loop [WORD...]`: the cases whose names hold one of the words, or all."""
    words = [word for word in arguments if not word.startswith("-")]
    names = [name for name in CASES if not words or any(word in name for word in words)]
    home = Path(tempfile.mkdtemp(prefix="sll-", dir="/tmp"))
    home.chmod(0o711)
    try:
        run(home, names)
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    if "--probe" in sys.argv:
        asyncio.run(_probe(int(sys.argv[2]), int(sys.argv[3])))
    elif "--steps" in sys.argv:
        serve_steps()
    else:
        main(sys.argv[1:])
