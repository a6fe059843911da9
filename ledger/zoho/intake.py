"""From bodies to records while others are served: a large body is read by another process.

Decoding is one call during which nothing else of a process runs, and what is made of the
values is Python: 15 MB of lists in lists take 3 s and 10 s. A thread would not help, since
it would hold the interpreter all the same.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from weakref import WeakValueDictionary

import msgspec
from anyio import BrokenWorkerProcess, CapacityLimiter, to_process

from ledger.errors import BusyError, TooLargeError
from ledger.pace import in_turns
from ledger.zoho.payloads import Payload, read_payload, records_of
from ledger.zoho.records import Reader, Record

SMALL = 64 * 1024
"""Bytes that are read at once, whatever is in them: the worst, lists in lists, take 30 ms."""
USUAL = 256 * 1024
"""Bytes of JSON that are read at once where they hold few values, as records do: the worst take 30 ms, too."""
MOST_VALUES = 16_000
PROCESSES = 4
"""So many bodies are read aside at once, of each tenant one."""
GROWTH = 2
"""A record may take so many times as much in the ledger as a body may have: a text stands there as it came
and as it was read. It takes more where its charset is shorter than UTF-8, or where control characters
are to be spelt out.
"""
READ_SECONDS = 60.0
"""So long a sender waits until its body is read."""

_TOGETHER = 250  # records that come back in one piece

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Record]).decode


class Body(msgspec.Struct, frozen=True):
    """A request's body as it came, and what it takes to read it. `max_bytes`: so many it
    might have had.
    """

    data: bytes
    content_type: str
    query: bytes
    entity_name: str
    max_records: int = 10_000
    max_bytes: int = 16 * 1024 * 1024

    @property
    def is_large(self) -> bool:
        """Whether reading it may take so long that others would notice."""
        data = self.data
        if len(data) <= SMALL:
            return False
        if len(data) > USUAL or data[:1] not in (b"{", b"["):
            return True
        return sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES


class Intake:
    """Reads the bodies that one process is sent."""

    def __init__(self, *, seconds: float = READ_SECONDS) -> None:
        self._seconds = seconds
        self._processes = CapacityLimiter(PROCESSES)
        self._tenants: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def read(self, tenant_id: str, reader: Reader, body: Body) -> list[Record]:
        """The records of a body.

        Raises `UnreadableBodyError`, `TooLargeError`, and `BusyError` where it was not read in time.
        """
        if body.is_large:
            return await self._read_aside(tenant_id, reader, body)
        payload = _payload(reader, body)
        return [record async for record in in_turns(records_of(payload, reader, body.entity_name))]

    async def _read_aside(self, tenant_id: str, reader: Reader, body: Body) -> list[Record]:
        own = self._tenants.setdefault(tenant_id, asyncio.Lock())
        try:
            async with asyncio.timeout(self._seconds), own:
                pieces = await to_process.run_sync(
                    _read_here, reader, body, cancellable=True, limiter=self._processes
                )
        except TimeoutError as error:
            raise BusyError(
                f"the body of {len(body.data)} bytes was not read in {self._seconds:g} s: "
                "send the same request again, or its records in parts"
            ) from error
        except (BrokenWorkerProcess, ProcessLookupError) as error:
            raise BusyError(
                f"the process that read the body of {len(body.data)} bytes has ended: "
                "send the same request again"
            ) from error
        return [record async for piece in in_turns(pieces) for record in _decode(piece)]


def _payload(reader: Reader, body: Body) -> Payload:
    return read_payload(
        body.data,
        body.content_type,
        body.query,
        reader.zoho_names(body.entity_name),
        max_records=body.max_records,
    )


def _read_here(reader: Reader, body: Body) -> list[bytes]:
    """What the other process does: the records, some together as MessagePack."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever stops the server lets it end its work
    gc.disable()  # a decoded body has no cycles, but so many values that a search for some takes seconds
    gc.collect(0)  # what the last one left
    payload = _payload(reader, body)
    records = list(records_of(payload, reader, body.entity_name))
    largest = max((len(record.payload) for record in records), default=0)
    if largest > GROWTH * body.max_bytes + SMALL:
        raise TooLargeError(
            f"a record takes {largest} bytes as it is kept, at most {GROWTH} times MAX_BODY_BYTES are taken: "
            "leave out the texts that are too long"
        )
    return [_encode(records[at : at + _TOGETHER]) for at in range(0, len(records), _TOGETHER)]
