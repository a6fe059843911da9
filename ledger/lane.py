"""Lanes: one writer a tenant, group commit, one transaction a flush.

Whatever queued while the last transaction was in flight goes into the next one;
there is no timer. A flush folds in memory on rows that are cached only while the
head is where this lane left it, and appends under the head's lock. The append
compares the head first: where another process moved it, nothing is written, the
cache is dropped and the flush runs again with the head locked from the start.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

import msgspec
import structlog

from ledger import chain, clock, vault
from ledger.cache import KEY_BYTES, Budget
from ledger.database import Connection, Database, begin
from ledger.errors import (
    DamagedError,
    DatabaseAwayError,
    KeyConflictError,
    KeyInFlightError,
    LostAnswerError,
    NotRecordedError,
    OtherVersionError,
    QueueFullError,
)
from ledger.events import DELETION, REPORT, UNUSABLE, Event, RecordReceived, stream_name
from ledger.pace import aside, in_turns
from ledger.seal import Known, Origin, seal, stream_of
from ledger.store import (
    KNOWN,
    OK,
    Flush,
    Head,
    Loaded,
    Wanted,
    append,
    create_tenant,
    in_parts,
    keys_of_vault,
    load,
    newest_versions,
    recorded_deliveries,
)
from ledger.vault import MasterKey, SubjectKey
from ledger.zoho.entities import Entities
from ledger.zoho.records import Record

log = structlog.get_logger()

FLUSH_RECORDS = 1_000
FLUSH_DELIVERIES = 32
FLUSH_BYTES = 8 * 1024 * 1024
QUEUE_RECORDS = 20_000
QUEUE_BYTES = 64 * 1024 * 1024
IDLE_SECONDS = 30.0
"""After so long without work a lane ends, and with it what it kept in memory."""
WAIT_SECONDS = 30.0
"""So long a request waits for its answer, or for the answer of the first one under its key."""

HELD_SECONDS = 0.005
"""So long an idle lane keeps its connection for the next request of the same sender."""
HELD_MOST_SECONDS = 0.1
"""So long a busy lane keeps its connection while other lanes may wait for one."""

LARGE_BYTES = 256 * 1024
"""A record of such a payload is folded aside: digests, sealing and chain of 15 MB take 100 ms."""
MANY_DEPENDENTS = 1_000
"""A record on which so many others wait or rest is folded aside, too."""

_PIECE = 250  # records looked at together
_TOLD = 1_000  # keys that cannot be used and were told of
_RETRY_WITHIN = 1.0  # seconds: a slower failure is answered, not tried again

_encode = msgspec.json.Encoder().encode
_decode_records = msgspec.json.Decoder(list[tuple[str, str, int]]).decode
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError)
_NOT_COMPARED = DELETION | REPORT | UNUSABLE


class Result(msgspec.Struct, gc=False):
    """One record's event position and what the projection made of it (None: it failed)."""

    record: Record
    position: int
    outcome: Any


class Delivery(msgspec.Struct):
    """One request's records on their way through a lane.

    `key` is the idempotency key, `derived` where it was made from the body;
    `remember` is false where no answer is to be kept. Where `answered` is false nobody
    waits for words: Moodle's reports are only to be on disk. `let_go` is called once, when
    the lane keeps it no longer.
    """

    endpoint: str
    key: str
    derived: bool
    body_hash: bytes
    origin: Origin
    records: list[Record]
    remember: bool = True
    answered: bool = True
    let_go: Callable[[], None] = lambda: None

    @property
    def place(self) -> tuple[str, str]:
        """Where its answer is kept. A derived key begins with a blank, which a sender's own
        key cannot hold, so that nobody can take another one's place.
        """
        return self.endpoint, f" {self.key}" if self.derived else self.key

    @property
    def size(self) -> int:
        """Bytes of payload."""
        return sum(len(record.payload) for record in self.records)


class Answer(msgspec.Struct):
    """The body of a 200, and whether it is a stored one."""

    body: bytes
    delivery_id: str
    replayed: bool = False


class Inline(Protocol):
    """An inline projection as the lane sees it. The view is its own business."""

    @property
    def version(self) -> int:
        """Of its handler: rows that another version made are not to be added to."""

    def view(self) -> Any:
        """An empty view."""

    def wanted(self, view: Any, records: Iterable[Record], others: Iterable[tuple[str, str]]) -> Wanted:
        """What applying these records may look at, and the rows of `others`, as far as
        the view does not hold it yet.
        """

    def recall(self, view: Any, wanted: Wanted, rows: Mapping[tuple[str, str], Any]) -> bool:
        """Takes wanted rows from the cache into the view. Whether there were any."""

    async def absorb(self, view: Any, loaded: Loaded, wanted: Wanted) -> None:
        """Takes what was read into the view; what was wanted and not found is absent."""

    def subject(self, view: Any, record: Record) -> str | None:
        """The person whose key seals this record's payload: an id, `""` where it names
        nobody, None for records that speak of no person. Raises `LookupError` where
        that follows from a row that the view does not hold yet.
        """

    def known(self, view: Any, record: Record) -> Known:
        """What the state knows of the record's content."""

    def key_of(self, view: Any, person: str) -> bytes | None:
        """The id of the key that seals what is known of a person, as far as the view knows it."""

    def next_version(self, view: Any, record: Record) -> int:
        """The version of the record's next event."""

    def dependents(self, view: Any, record: Record) -> int:
        """How many others the record's event may release, or make wait."""

    def apply(self, view: Any, event: Event, payload: RecordReceived) -> Any:
        """Folds an event; the view is untouched where this raises."""

    def fail(self, view: Any, event: Event) -> Any:
        """The outcome of an event on which `apply` raised."""

    async def write(self, view: Any, results: Iterable[tuple[Event, Any]], flush: Flush) -> None:
        """Adds what the view changed and the outcomes to a flush."""

    def state_version(self, view: Any, name: tuple[str, str]) -> int:
        """How often the record's state has changed."""

    def keep(self, view: Any, rows: dict[tuple[str, str], Any]) -> int:
        """Puts the view's rows into the cache. By how many bytes it has grown."""


Render = Callable[[Delivery, Sequence[Result]], Awaitable[tuple[bytes, bool]]]
"""The answer's body, and whether it may be remembered."""


class _Waiting(msgspec.Struct):
    delivery: Delivery
    future: asyncio.Future[Answer]
    size: int


class _Stored(msgspec.Struct):
    """A remembered answer. `records` is None where nobody can read it any more."""

    derived: bool
    body_hash: bytes
    delivery_id: str
    answer: bytes
    records: list[tuple[str, str, int]] | None
    expires_at: int


class Lane:
    """The only writer of one tenant in this process."""

    def __init__(
        self,
        tenant_id: str,
        database: Database,
        master_key: MasterKey,
        entities: Entities,
        inline: Inline,
        render: Render,
        *,
        ttl_seconds: int = 3600,
        appended: Callable[[str], None] = lambda _: None,
        budget: Budget | None = None,
    ) -> None:
        """`appended` is called with the tenant's name after each commit. `budget`: what it shares
        with other lanes; without it the lane has one of its own.
        """
        self._tenant = tenant_id
        self._database = database
        self._master_key = master_key
        self._entities = entities
        self._inline = inline
        self._render = render
        self._ttl = ttl_seconds * clock.SECOND
        self._appended = appended
        self._queue: deque[_Waiting] = deque()
        self._queued_records = 0
        self._queued_bytes = 0
        self._in_flight: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._held: AsyncExitStack | None = None
        self._connection: Connection
        self._held_until = 0.0
        self._head: Head | None = None
        self._rows: dict[tuple[str, str], Any] = {}
        self._keys: dict[str, SubjectKey] = {}
        self._weight = 0
        self._told: set[str] = set()
        self._budget = budget or Budget()
        self.used_at = 0.0
        """When it got its last delivery, by the loop's clock."""

    @property
    def is_full(self) -> bool:
        """Whether the next request would be refused."""
        return self._queued_records >= QUEUE_RECORDS or self._queued_bytes >= QUEUE_BYTES

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued or on its way."""
        return not self._queue and not self._in_flight

    async def submit(self, delivery: Delivery) -> Answer:
        """Queues a delivery and waits until it is on disk.

        Raises `QueueFullError` at once, `KeyConflictError` where the key was used for
        another body, `LostAnswerError` where its answer was altered, `KeyInFlightError` where
        the first request under the key is not answered in time, `DatabaseAwayError` where it
        could not be recorded (or the outcome is not known: the same key tells), its kind
        `NotRecordedError` where that is not the database's fault, `OtherVersionError` where the
        read models are not this process's to write.
        """
        if self._closing or self.is_full:
            delivery.let_go()
            raise QueueFullError(self._tenant)
        waiting = _Waiting(delivery, asyncio.get_running_loop().create_future(), delivery.size)
        self._queue.append(waiting)
        self.used_at = asyncio.get_running_loop().time()
        self._queued_records += len(delivery.records)
        self._queued_bytes += waiting.size
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"lane {self._tenant}")
        self._wake.set()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await waiting.future
        except TimeoutError:
            if self._is_in_flight(waiting):
                raise KeyInFlightError(delivery.key) from None
            raise DatabaseAwayError("no answer from the database in time") from None

    def _is_in_flight(self, waiting: _Waiting) -> bool:
        """Whether another request under the same key came first and is not answered."""
        place = waiting.delivery.place
        for other in [*self._in_flight, *self._queue]:
            if other is waiting:
                return False
            if other.delivery.place == place:
                return True
        return False

    async def close(self) -> None:
        """Refuses new deliveries and finishes those that were accepted."""
        self._closing = True
        self._wake.set()
        try:
            if self._task is not None:
                await self._task
        finally:
            self._drop()

    async def _run(self) -> None:
        try:
            while await self._has_work():
                self._in_flight = self._next_batch()
                if self._in_flight:
                    await self.flush(self._in_flight)
                for waiting in self._in_flight:
                    waiting.delivery.let_go()
                self._in_flight = []
        finally:
            for waiting in [*self._in_flight, *self._queue]:
                _fail(waiting, DatabaseAwayError("the server is stopping"))
                waiting.delivery.let_go()
            self._queue.clear()
            self._in_flight = []
            self._queued_records = self._queued_bytes = 0
            await self._let_go()

    async def _has_work(self) -> bool:
        """Waits for work; False when the lane is to end.

        A busy lane keeps its connection from one flush to the next: giving it back would let
        the answered requests run first, and the database would wait for them.
        """
        if self._held is not None and asyncio.get_running_loop().time() > self._held_until:
            await self._let_go()
        while not self._queue:
            if self._closing:
                return False
            self._wake.clear()
            if self._held is None:
                await self._wake.wait()
                continue
            try:
                async with asyncio.timeout(HELD_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                await self._let_go()
        return True

    async def _hold(self) -> Connection:
        if self._held is None:
            stack = AsyncExitStack()
            self._connection = await stack.enter_async_context(self._database.connection(WAIT_SECONDS))
            self._held = stack
            self._held_until = asyncio.get_running_loop().time() + HELD_MOST_SECONDS
        return self._connection

    async def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            await held.aclose()

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        records = size = 0
        while self._queue and len(batch) < FLUSH_DELIVERIES:
            waiting = self._queue[0]
            more = len(waiting.delivery.records)
            if batch and (records + more > FLUSH_RECORDS or size + waiting.size > FLUSH_BYTES):
                break
            self._queue.popleft()
            self._queued_records -= more
            self._queued_bytes -= waiting.size
            if waiting.future.done():
                waiting.delivery.let_go()
                continue  # its client has gone before anything was recorded
            batch.append(waiting)
            records += more
            size += waiting.size
        return batch

    async def flush(  # noqa: C901  (every way to fail has its answer)
        self, batch: list[_Waiting], *, again: bool = False
    ) -> None:
        """Records a batch and answers it. Whatever fails, nothing stays cached that
        was not committed, and the lane goes on. `again`: a former try may have been committed,
        or have failed on a row that does not count all events of its record.
        """
        started = asyncio.get_running_loop().time()
        try:
            try:
                # behind a pooler single statements have no server of their own
                optimistic = not self._database.pooled
                if again or not (optimistic and await self._attempt(batch, lock=False)):
                    await self._attempt(batch, lock=True, again=again)
            except DatabaseAwayError:
                self._drop()
                if asyncio.get_running_loop().time() - started > _RETRY_WITHIN:
                    raise
                # the connection may have broken before or behind the commit: the
                # remembered answers and the events, read under the lock, tell which
                await self._attempt(batch, lock=True, again=True)
        except (DatabaseAwayError, OtherVersionError) as error:
            self._drop()
            for waiting in [*batch, *self._queue]:  # the next flush might fail as slowly
                _fail(waiting, error)
        except Exception as error:
            self._drop()
            if len(batch) == 1 and again:
                log.exception("a delivery cannot be recorded", tenant=self._tenant)
                _fail(batch[0], NotRecordedError(f"{type(error).__name__}"))
            else:
                for waiting in batch:
                    await self.flush([waiting], again=True)
        except BaseException:
            self._drop()
            for waiting in batch:
                _fail(waiting, DatabaseAwayError("the flush was broken off"))
            raise

    def _drop(self) -> None:
        self._head = None
        self._rows = {}
        self._keys = {}
        self._weight = 0
        self._budget.forget(self)

    def give_up(self) -> bool:
        """Empties the cache, unless a flush works with it. Whether it did."""
        if self._in_flight:
            return False
        self._drop()
        return True

    async def _attempt(self, batch: list[_Waiting], *, lock: bool, again: bool = False) -> bool:
        """One try. False where the head had moved or an answer is remembered. `again`: a
        former try may have been committed.
        """
        connection = await self._hold()
        try:
            with self._database.using(connection):
                if lock:
                    await connection.execute(begin(self._tenant))
                return await self._fold_and_append(connection, batch, lock=lock, again=again)
        except BaseException:
            await self._let_go()  # which rolls back
            raise

    async def _fold_and_append(
        self, connection: Connection, batch: list[_Waiting], *, lock: bool, again: bool
    ) -> bool:
        run = _Run(self._inline.view())
        await self._read(connection, batch, run, lock=lock)
        assert self._head is not None
        if again:
            ids = [w.delivery.origin.delivery_id for w in batch]
            run.recorded = await recorded_deliveries(connection, self._tenant, ids)
            records = [r for w in batch for r in w.delivery.records if r.zoho_id is not None]
            streams = list({stream_name(*record.row) for record in records})
            run.versions = await newest_versions(connection, self._tenant, streams)
        before = self._head
        now = clock.now()
        ready = await self._fold(batch, run, before, now)
        after = Head(run.position, run.recorded_at, run.chain, before.generation, before.version)
        answer = OK
        if run.flush.events or run.answers:
            await self._inline.write(run.view, run.results, run.flush)
            run.flush.answers = list(run.answers.values())
            answer = await append(connection, self._tenant, before, after, now, run.flush)
        if lock:
            await connection.execute("commit")
        if answer != OK:
            if answer != KNOWN:
                self._drop()
            return False
        self._remember(run, after)
        if run.flush.events:
            self._appended(self._tenant)
        for waiting, outcome in ready:
            if isinstance(outcome, Exception):
                _fail(waiting, outcome)
            elif not waiting.future.done():
                waiting.future.set_result(outcome)
        return True

    def _remember(self, run: _Run, after: Head) -> None:
        self._head = after
        keys = len(self._keys)
        self._keys.update(run.keys)
        self._weight += self._inline.keep(run.view, self._rows) + (len(self._keys) - keys) * KEY_BYTES
        if not self._budget.used(self, self._weight):
            self._drop()

    async def _read(self, connection: Connection, batch: list[_Waiting], run: _Run, *, lock: bool) -> None:
        """Fills the run's view with all that the fold may look at."""
        records = [r for w in batch for r in w.delivery.records if r.zoho_id is not None]
        first = lock or self._head is None
        parts: deque[Wanted] = deque()
        while True:
            if not parts:
                wanted = await self._wanted(batch, records, run)
                if lock and first:
                    wanted.answers = [w.delivery.place for w in batch]
                if not wanted and not first:
                    return
                parts.extend(in_parts(wanted))
            wanted = parts.popleft()
            loaded = await load(connection, self._tenant, wanted, lock=lock and first)
            if loaded.head is None:
                await self._create_tenant(connection, lock=lock)
                parts.clear()
                continue
            if loaded.head.version != self._inline.version:
                raise OtherVersionError(self._tenant, loaded.head.version, self._inline.version)
            if self._head != loaded.head:
                # another process appended (or this is the first look): start over
                self._drop()
                self._head = loaded.head
                run.reset(self._inline.view())
            first = False
            await self._inline.absorb(run.view, loaded, wanted)
            run.asked.update(wanted.subjects)
            await self._take_keys(run, loaded.keys)
            if doubtful := self._doubtful_keys(run, wanted.subjects):
                await self._look_for(connection, run, doubtful, lock=lock)
            run.knows_answers |= lock
            for row in loaded.answers:
                endpoint, key, derived, body_hash, delivery_id, answer, left, expires_at, _ = row
                run.stored[endpoint, key] = _Stored(
                    derived, body_hash, delivery_id, answer, _names_in(left), expires_at
                )

    async def _take_keys(self, run: _Run, found: Iterable[Any]) -> None:
        """Unwraps keys. One that cannot be used stops nobody else: a spare one serves meanwhile."""
        async for key_id, subject, wrapped in in_turns(found):
            try:
                run.keys[subject] = self._master_key.unwrap(self._tenant, key_id, subject, wrapped)
            except DamagedError as error:
                self._do_without(run, subject, str(error))

    def _doubtful_keys(self, run: _Run, subjects: Iterable[str]) -> dict[bytes, str]:
        """Keys that seal what is known of some persons, but were not found under these."""
        return {
            key_id: subject
            for subject in subjects
            if subject.startswith(vault.PERSON)
            and subject not in run.damaged
            and (key_id := self._inline.key_of(run.view, subject.removeprefix(vault.PERSON)))
            and (subject not in run.keys or run.keys[subject].key_id != key_id)
        }

    async def _look_for(
        self, connection: Connection, run: _Run, doubtful: dict[bytes, str], *, lock: bool
    ) -> None:
        """Nobody makes another key in the place of one that may come back, only of one that was destroyed."""
        async with AsyncExitStack() as stack:
            if not lock:
                await stack.enter_async_context(connection.transaction())
                await connection.execute("select set_config('ledger.tenant', $1, true)", self._tenant)
            found = await keys_of_vault(connection, self._tenant, doubtful)
        filed = {key_id: (subject, wrapped) for key_id, subject, wrapped in found}
        for key_id, subject in doubtful.items():
            if key_id not in filed:
                self._do_without(run, subject, f"the key of {subject} is not in vault.keys")
                continue
            under, wrapped = filed[key_id]
            if wrapped is not None and vault.owner(under) != subject:
                self._do_without(run, subject, f"the key of {subject} is filed under {under} in vault.keys")

    def _do_without(self, run: _Run, subject: str, problem: str) -> None:
        if subject not in self._told:  # once: every record of that person finds it again
            self._told = {*self._told, subject} if len(self._told) < _TOLD else {subject}
            log.error("a key cannot be used: sync-ledger verify names it", tenant=self._tenant)
        run.damaged[subject] = problem
        run.keys.pop(subject, None)

    async def _wanted(self, batch: list[_Waiting], records: list[Record], run: _Run) -> Wanted:
        wanted = await self._wanted_rows(records, run)
        while self._head and self._inline.recall(run.view, wanted, self._rows):
            wanted = await self._wanted_rows(records, run)
        async for record in in_turns(r for w in batch for r in w.delivery.records):
            try:
                subject = self._subject(run, record)
            except LookupError:
                continue
            if subject and subject not in self._keys and subject not in run.asked:
                run.asked.add(subject)
                wanted.subjects.append(subject)
        return wanted

    async def _wanted_rows(self, records: list[Record], run: _Run) -> Wanted:
        others = [(e, i) for stored in run.stored.values() for e, i, _ in stored.records or ()]
        found = self._inline.wanted(run.view, records[:_PIECE], others)
        if len(records) <= _PIECE:
            return found
        async for at in in_turns(range(_PIECE, len(records), _PIECE)):
            more = self._inline.wanted(run.view, records[at : at + _PIECE], ())
            found.records += more.records
            found.dependents += more.dependents
        # several pieces may have named the same
        return Wanted(list(dict.fromkeys(found.records)), list(dict.fromkeys(found.dependents)))

    async def _create_tenant(self, connection: Connection, *, lock: bool) -> None:
        if lock:
            await create_tenant(connection, self._tenant, self._master_key, self._inline.version)
            return
        async with connection.transaction():
            await create_tenant(connection, self._tenant, self._master_key, self._inline.version)

    def _subject(self, run: _Run, record: Record) -> str | None:
        person = self._inline.subject(run.view, record) if record.zoho_id is not None else ""
        if person is None:
            return None
        subject = vault.PERSON + person if person else _quarantine()
        while subject in run.damaged:
            subject = vault.SPARE + subject
        return subject

    def _key(self, run: _Run, subject: str | None) -> SubjectKey | None:
        if subject is None:
            return None
        found = run.keys.get(subject) or self._keys.get(subject)
        if found is None:
            found, wrapped = self._master_key.create(self._tenant, subject)
            run.keys[subject] = found
            run.flush.keys.append((found.key_id, subject, wrapped))
        return found

    async def _fold(
        self, batch: list[_Waiting], run: _Run, before: Head, now: int
    ) -> list[tuple[_Waiting, Answer | Exception]]:
        run.position, run.chain = before.position, before.chain
        run.recorded_at = max(before.recorded_at, now - 1)
        ready: list[tuple[_Waiting, Answer | Exception]] = []
        for waiting in batch:
            delivery = waiting.delivery
            stored = run.stored.get(delivery.place)
            known = self._replay(delivery, stored, run, now)
            if known is None and delivery.origin.delivery_id in run.recorded:
                known = DatabaseAwayError("recorded, but its answer was not to be remembered")
            if known is None:
                known = await self._process(delivery, run, now)
            ready.append((waiting, known))
        return ready

    def _replay(
        self, delivery: Delivery, stored: _Stored | None, run: _Run, now: int
    ) -> Answer | Exception | None:
        """The remembered answer, if it still counts."""
        if stored is None or stored.expires_at <= now:
            return None
        own = stored.delivery_id == delivery.origin.delivery_id
        if not own and stored.body_hash != delivery.body_hash:
            return KeyConflictError(delivery.key)
        readable = _is_readable(stored.answer)
        if not own and stored.derived and not (readable and self._is_as_left(stored, run)):
            return None
        if not readable:
            return LostAnswerError(stored.delivery_id)
        return Answer(stored.answer, stored.delivery_id, replayed=not own)

    def _is_as_left(self, stored: _Stored, run: _Run) -> bool:
        """Whether every record is still as the remembered request left it."""
        return stored.records is not None and all(
            self._inline.state_version(run.view, (entity, zoho_id)) == version
            for entity, zoho_id, version in stored.records
        )

    async def _process(self, delivery: Delivery, run: _Run, now: int) -> Answer:
        results = []
        async for index, record in in_turns(enumerate(delivery.records)):
            if (
                len(record.payload) > LARGE_BYTES
                or self._inline.dependents(run.view, record) > MANY_DEPENDENTS
            ):
                # nobody else touches the run, nor the keys that it reads: this task alone does, and it waits
                results.append(await aside(self._record, delivery, run, record, index))
            else:
                results.append(self._record(delivery, run, record, index))
        body, may_remember = await self._render(delivery, results) if delivery.answered else (b"", False)
        if delivery.remember and may_remember and self._ttl:
            names = {(r.entity, r.zoho_id) for r in delivery.records if r.zoho_id is not None}
            left = [
                (entity, zoho_id, self._inline.state_version(run.view, (entity, zoho_id)))
                async for entity, zoho_id in in_turns(names)
            ]
            stored = _Stored(
                delivery.derived,
                delivery.body_hash,
                delivery.origin.delivery_id,
                body,
                left,
                now + self._ttl,
            )
            place = delivery.place
            run.stored[place] = stored
            run.answers[place] = (
                *place,
                stored.derived,
                stored.body_hash,
                stored.delivery_id,
                stored.answer,
                _encode(left),
                stored.expires_at,
                run.knows_answers,  # then it was read under the lock, and may be replaced
            )
        return Answer(body, delivery.origin.delivery_id)

    def _record(self, delivery: Delivery, run: _Run, record: Record, index: int) -> Result:
        inline = self._inline
        entity = self._entities[record.entity]
        subject = self._subject(run, record)
        key = self._key(run, subject)
        usable = record.zoho_id is not None
        problem = None
        if subject is not None and subject.startswith(vault.SPARE):
            # under a spare key nothing can be compared with what is known; these need not be
            problem = None if record.flags & _NOT_COMPARED else run.damaged[vault.owner(subject)]
        run.position += 1
        run.recorded_at += 1
        stream = stream_of(record, delivery.origin.delivery_id, index)
        version = inline.next_version(run.view, record) if usable else 1
        event = seal(
            record,
            entity,
            delivery.origin,
            key,
            inline.known(run.view, record) if usable and problem is None else Known(),
            stream=stream,
            version=max(version, run.versions.get(stream, 0) + 1),
            position=run.position,
            recorded_at=run.recorded_at,
        )
        columns = msgspec.structs.astuple(event)[:-1]
        run.chain = chain.link(run.chain, columns)
        run.flush.events.append((*columns[1:], run.chain))
        outcome = self._outcome(run, record, event, problem)
        run.results.append((event, outcome))
        return Result(record, run.position, outcome)

    def _outcome(self, run: _Run, record: Record, event: Event, problem: str | None) -> Any:
        """What the record leads to. Where there is a problem it is parked: it counts, the state stays."""
        if problem is None:
            try:
                payload = RecordReceived(_NOTHING, record.values, record.provisional)
                return self._inline.apply(run.view, event, payload)
            except DamagedError as error:
                problem = str(error)
            except Exception as error:
                log.exception("a handler failed", tenant=self._tenant, position=event.position)
                problem = type(error).__name__
        log.error("a record is parked", tenant=self._tenant, position=event.position)
        run.flush.parked.append(("state", event.stream, event.position, problem))
        return self._inline.fail(run.view, event)


_NOTHING = msgspec.Raw(b"")  # a fold reads values, never the record itself


class _Run:
    """One attempt's working set."""

    def __init__(self, view: Any) -> None:
        self.position = 0
        self.recorded_at = 0
        self.chain = chain.GENESIS
        self.answers: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.knows_answers = False
        self.recorded: set[str] = set()
        self.versions: dict[str, int] = {}
        self.reset(view)

    def reset(self, view: Any) -> None:
        self.view = view
        self.keys: dict[str, SubjectKey] = {}
        self.damaged: dict[str, str] = {}
        self.asked: set[str] = set()
        self.stored: dict[tuple[str, str], _Stored] = {}
        self.flush = Flush()
        self.results: list[tuple[Event, Any]] = []


def _quarantine() -> str:
    """Unreadable deliveries of one day share a key, which is destroyed in time."""
    return vault.QUARANTINE + clock.to_text(clock.now())[:10]


def _names_in(records: bytes) -> list[tuple[str, str, int]] | None:
    """The records of a remembered answer, None where they cannot be read."""
    try:
        return _decode_records(records)
    except _UNDECODABLE:
        return None


def _is_readable(answer: bytes) -> bool:
    try:
        msgspec.json.decode(answer)
    except _UNDECODABLE:
        return False
    return True


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.future.done():
        waiting.future.set_exception(error)


class Lanes:
    """Every tenant's lane, made when first needed and ended when no longer needed. Deliveries go
    through here, so that a tenant never has two lanes that work.
    """

    def __init__(self, make: Callable[[str], Lane], *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._make = make
        self._idle_seconds = idle_seconds
        self._lanes: dict[str, Lane] = {}
        self._closing = False

    async def submit(self, delivery: Delivery) -> Answer:
        """Queues a delivery in its tenant's lane and waits until it is on disk. Raises as `Lane.submit`."""
        tenant_id = delivery.origin.tenant_id
        if self._closing:
            delivery.let_go()
            raise QueueFullError(tenant_id)
        if (lane := self._lanes.get(tenant_id)) is None:
            lane = self._lanes[tenant_id] = self._make(tenant_id)
        # it is in the queue before anything else runs: a lane that has ended was left before
        return await lane.submit(delivery)

    @property
    def full(self) -> list[str]:
        """Tenants whose queue is full."""
        return [tenant_id for tenant_id, lane in self._lanes.items() if lane.is_full]

    async def end_idle(self) -> int:
        """Ends the lanes that have had no work for long, each between two deliveries: the next one
        gets a new lane. Answers how many.
        """
        used_before = asyncio.get_running_loop().time() - self._idle_seconds
        idle = {
            name: lane for name, lane in self._lanes.items() if lane.is_idle and lane.used_at <= used_before
        }
        for tenant_id in idle:
            del self._lanes[tenant_id]
        await asyncio.gather(*(lane.close() for lane in idle.values()), return_exceptions=True)
        return len(idle)

    async def keep_ending_idle(self) -> None:
        """Does so until cancelled. When none is left, memory goes back to the system."""
        while True:
            await asyncio.sleep(self._idle_seconds / 4)
            if await self.end_idle() and not self._lanes:
                gc.collect()  # nobody waits now; the interpreter's lists of free objects hold many arenas

    async def close(self) -> None:
        """Finishes what was accepted, everywhere."""
        self._closing = True
        await asyncio.gather(*(lane.close() for lane in self._lanes.values()))
