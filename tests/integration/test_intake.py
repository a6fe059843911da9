"""Large bodies are read by another process: the same records, the same refusals, nobody waits."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import msgspec
import pytest

from ledger.errors import BusyError, TooLargeError, UnreadableBodyError
from ledger.settings import MoodleSettings, Secret, TenantSettings
from ledger.zoho import intake
from ledger.zoho.entities import ENTITIES, Entities
from ledger.zoho.intake import SMALL, USUAL, Body, Intake
from ledger.zoho.payloads import read_payload, records_of
from ledger.zoho.records import Reader, Record
from tests.turns import counted_calls

READER = Reader(ENTITIES, TenantSettings())
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
RECORD = {"id": "s1", "Name": "S1", "First_Name": "ليلى", "Modified_Time": "yesterday", "Owner": {"id": "1"}}


def here(body: Body, reader: Reader = READER) -> list[Record]:
    """The records as this process reads them."""
    names = reader.zoho_names(body.entity_name)
    payload = read_payload(body.data, body.content_type, body.query, names, max_records=body.max_records)
    return list(records_of(payload, reader, body.entity_name))


def many(count: int, filler: int = 0) -> bytes:
    """A body of so many students."""
    records = [{**RECORD, "id": f"s{i}", "Filler": "x" * filler} for i in range(count)]
    return json.dumps({"data": records}, ensure_ascii=False).encode()


LARGE = many(3_000)
NESTED = json.dumps({**RECORD, "Rows": [[[[{"id": str(i)}]]] for i in range(60_000)]}).encode()
BODIES = {
    "JSON": (LARGE, JSON, b""),
    "one record": (NESTED, JSON, b""),
    "UTF-16": (LARGE.decode().encode("utf-16"), JSON, b""),
    "a form": (b"data=" + quote_plus(LARGE).encode(), FORM, b""),
    "a text": (json.dumps(LARGE.decode()).encode(), "text/plain", b""),
    "multipart": (
        b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\n%s\r\n--b--\r\n' % LARGE,
        "multipart/form-data; boundary=b",
        b"",
    ),
    "beside a query": (LARGE, JSON, b"source=zoho"),
    "other things than records": (b"[" + b",".join([b"1", b'"x"', b"{}"] * 20_000) + b"]", JSON, b""),
}


def body_of(name: str, entity: str = "student", **more: Any) -> Body:
    """A body of the list above."""
    return Body(*BODIES[name], entity, **{"max_records": 100_000, **more})


@pytest.fixture
async def reading() -> AsyncIterator[Intake]:
    """What reads bodies in this loop, and its processes' end."""
    yield Intake()
    for child in children():
        os.kill(child, 9)


def children() -> list[int]:
    """The processes that read bodies for this one (Linux)."""
    found = []
    for thread in Path("/proc/self/task").iterdir():
        for child in (thread / "children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"anyio.to_process" in command:
                found.append(int(child))
    return found


@pytest.mark.parametrize("name", BODIES)
async def test_the_same_records(reading: Intake, name: str) -> None:
    """Whatever the shape is, it does not matter who has read it."""
    body = body_of(name)
    assert body.is_large
    assert await reading.read("t", READER, body) == here(body)


async def test_nobody_waits_for_a_large_body(reading: Intake) -> None:
    """This process only takes the records in."""
    await reading.read("t", READER, body_of("JSON"))  # the first one imports what starts processes
    for name in ("one record", "JSON"):
        async with counted_calls() as calls:
            await reading.read("t", READER, body_of(name))
        assert calls.most < 5_000


async def test_small_bodies_are_read_at_once(reading: Intake) -> None:
    """As nearly all are: without another process, and with turns for others between the records."""
    body = Body(many(200), JSON, b"", "student")
    assert not body.is_large
    assert await reading.read("t", READER, body) == here(body)
    assert not children()


@pytest.mark.parametrize(
    ("data", "is_large"),
    [
        (many(1), False),
        (many(100, filler=450), False),
        (b"[" * SMALL, False),
        (b"[" * (SMALL + 1), True),
        (b'{"a":"' + b"x" * (USUAL - 10) + b'"}', False),
        (b'{"a":"' + b"x" * USUAL + b'"}', True),
        (b"a=" + b"%5B" * (SMALL // 3 + 1), True),
        (b'{"a":[' + b"0," * (SMALL // 2) + b"0]}", True),
    ],
)
def test_what_is_large(data: bytes, is_large: bool) -> None:
    """By its bytes and by the values in it, since a value costs what many bytes of a text cost."""
    assert Body(data, JSON, b"", "student").is_large == is_large


@pytest.mark.parametrize(
    ("data", "kind", "said"),
    [
        (NESTED[:-1] + b"x", UnreadableBodyError, "neither JSON nor a form"),
        (b"[" * (2 * USUAL), UnreadableBodyError, "deeper than 64"),
        (many(10_001), TooLargeError, "at most 10000"),
        (b'{"data":[],"data":[' + b"1," * USUAL + b"1]}", UnreadableBodyError, "'data' twice"),
        (b"id=s1&First_Name=" + b"\x01\x02" * 2**19, TooLargeError, "as it is kept"),
    ],
)
async def test_refusals_come_back(reading: Intake, data: bytes, kind: type[Exception], said: str) -> None:
    """What the other process refuses is refused with its words."""
    with pytest.raises(kind, match=said):
        await reading.read("t", READER, Body(data, FORM, b"", "student", max_bytes=2**20))


async def test_a_college_of_its_own_settings(reading: Intake) -> None:
    """The other process reads with the tenant's mapping, order of dates, redaction and entities."""
    settings = TenantSettings(
        date_order="mdy", redact_fields=frozenset({"hobby"}), mapping={"class": {"name": ("Title",)}}
    )
    reader = Reader(Entities(tuple(ENTITIES)), settings)
    records = [
        {"id": str(i), "Title": "A", "Start_Date": "02/28/2026", "Hobby": "chess"} for i in range(5_000)
    ]
    body = Body(json.dumps(records).encode(), JSON, b"", "class")
    found = await reading.read("t", reader, body)
    assert found == here(body, reader)
    assert (found[0].values["name"], found[0].values["start_date"]) == ("A", "2026-02-28")


def test_no_token_travels() -> None:
    """A reader that goes to another process takes nothing of Moodle with it."""
    token = "the token"
    settings = TenantSettings(currency="JOD", moodle=MoodleSettings(enabled=True, token=Secret(token)))
    sent = pickle.dumps(Reader(ENTITIES, settings))
    assert token.encode() not in sent
    price = [{"id": "p", "Product_Name": "x", "Price": "1.500"}]
    body = Body(msgspec.json.encode(price), JSON, b"", "program")
    assert here(body, pickle.loads(sent)) == here(body, Reader(ENTITIES, settings))  # noqa: S301
    assert here(body, pickle.loads(sent))[0].values["price"] == "1.50"  # noqa: S301


async def test_a_body_that_takes_too_long(reading: Intake) -> None:
    """Its sender hears of it, the process that reads it ends, and the next body is read."""
    with pytest.raises(BusyError, match="or its records in parts"):
        await Intake(seconds=0).read("t", READER, body_of("one record"))
    assert len(await reading.read("t", READER, body_of("JSON"))) == 3_000


async def test_a_sender_that_leaves(reading: Intake) -> None:
    """Nobody goes on reading its body."""
    await reading.read("t", READER, body_of("JSON"))
    [child] = children()
    task = asyncio.create_task(reading.read("t", READER, body_of("one record")))
    while _ticks(child) < 3:  # it is at work
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() == []
    assert len(await reading.read("t", READER, body_of("JSON"))) == 3_000


def _ticks(process: int) -> int:
    """Processor time that a process has used, in hundredths of a second, since it was first asked."""
    user = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11])
    return user - _started.setdefault(process, user)


_started: dict[int, int] = {}


async def test_a_process_that_dies(reading: Intake) -> None:
    """Its sender is told to send again, and the next body is read by another one."""
    await reading.read("t", READER, body_of("JSON"))
    [child] = children()
    task = asyncio.create_task(reading.read("t", READER, body_of("one record")))
    while _ticks(child) < 3:
        await asyncio.sleep(0)
    os.kill(child, 9)
    with pytest.raises(BusyError):
        await task
    assert len(await reading.read("t", READER, body_of("JSON"))) == 3_000


async def test_colleges_do_not_wait_for_each_other(reading: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reads one body at a time, however many it sends; another one's is read beside it."""
    running: list[str] = []
    most: dict[str, int] = {}
    beside = set[str]()
    real = intake.to_process.run_sync

    async def watched(function: Any, reader: Any, body: Body, **options: Any) -> Any:
        tenant = body.content_type
        running.append(tenant)
        most[tenant] = max(most.get(tenant, 0), running.count(tenant))
        beside.update(set(running) if len(set(running)) > 1 else ())
        try:
            return await real(function, reader, body, **options)
        finally:
            running.remove(tenant)

    monkeypatch.setattr(intake.to_process, "run_sync", watched)
    bodies = [Body(LARGE, tenant, b"", "student") for tenant in ("a", "a", "a", "b")]
    await asyncio.gather(*(reading.read(body.content_type, READER, body) for body in bodies))
    assert most == {"a": 1, "b": 1}
    assert beside == {"a", "b"}
