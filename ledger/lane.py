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
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

import msgspec
import structlog

from ledger import chain, clock
from ledger.cache import KEY_BYTES, Budget
from ledger.database import PATIENCE_SECONDS, Connection, Database, begin, telling_apart
from ledger.errors import (
    DatabaseAwayError,
    KeyConflictError,
    KeyInFlightError,
    OtherVersionError,
    QueueFullError,
)
from ledger.events import Event, RecordReceived
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
    load,
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

_BREATH = 250  # records folded before other requests get a turn
_RETRY_WITHIN = 1.0  # seconds: a slower failure is answered, not tried again

_encode = msgspec.json.Encoder().encode
_decode_records = msgspec.json.Decoder(list[tuple[str, str, int]]).decode


class Result(msgspec.Struct):
    """One record's event position and what the projection made of it (None: it failed)."""

    record: Record
    position: int
    outcome: Any


class Delivery(msgspec.Struct):
    """One request's records on their way through a lane.

    `key` is the idempotency key, `derived` where it was made from the body;
    `remember` is false where no answer is to be kept. Where `answered` is false nobody
    waits for words: Moodle's reports are only to be on disk.
    """

    endpoint: str
    key: str
    derived: bool
    body_hash: bytes
    origin: Origin
    records: list[Record]
    remember: bool = True
    answered: bool = True

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

    def absorb(self, view: Any, loaded: Loaded, wanted: Wanted) -> None:
        """Takes what was read into the view; what was wanted and not found is absent."""

    def subject(self, view: Any, record: Record) -> str | None:
        """The person whose key seals this record's payload: an id, `""` where it names
        nobody, None for records that speak of no person. Raises `LookupError` where
        that follows from a row that the view does not hold yet.
        """

    def known(self, view: Any, record: Record) -> Known:
        """What the state knows of the record's content."""

    def next_version(self, view: Any, record: Record) -> int:
        """The version of the record's next event."""

    def apply(self, view: Any, event: Event, payload: RecordReceived) -> Any:
        """Folds an event; the view is untouched where this raises."""

    def fail(self, view: Any, event: Event) -> Any:
        """The outcome of an event on which `apply` raised."""

    def write(self, view: Any, results: Iterable[tuple[Event, Any]], flush: Flush) -> None:
        """Adds what the view changed and the outcomes to a flush."""

    def state_version(self, view: Any, name: tuple[str, str]) -> int:
        """How often the record's state has changed."""

    def keep(self, view: Any, rows: dict[tuple[str, str], Any]) -> int:
        """Puts the view's rows into the cache. By how many bytes it has grown."""


Render = Callable[[Delivery, Sequence[Result]], tuple[bytes, bool]]
"""The answer's body, and whether it may be remembered."""


class _Waiting(msgspec.Struct):
    delivery: Delivery
    future: asyncio.Future[Answer]
    size: int


class _Stored(msgspec.Struct):
    """A remembered answer."""

    derived: bool
    body_hash: bytes
    delivery_id: str
    answer: bytes
    records: list[tuple[str, str, int]]
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
        self._asking: asyncio.Task[None] | None = None
        self._head: Head | None = None
        self._rows: dict[tuple[str, str], Any] = {}
        self._keys: dict[str, SubjectKey] = {}
        self._weight = 0
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
        another body, `KeyInFlightError` where the first request under the key is not
        answered in time, `DatabaseAwayError` where it could not be recorded (or the
        outcome is not known: the same key tells), `OtherVersionError` where the read models
        are not this process's to write.
        """
        if self._closing or self.is_full:
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
                    watch = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._doubt)
                    await self.flush(self._in_flight)
                    watch.cancel()
                self._in_flight = []
        finally:
            for waiting in [*self._in_flight, *self._queue]:
                _fail(waiting, DatabaseAwayError("the server is stopping"))
            self._queue.clear()
            self._in_flight = []
            self._queued_records = self._queued_bytes = 0
            await self._let_go()

    def _doubt(self) -> None:
        """The flush takes long: does the database answer at all?"""
        self._asking = asyncio.create_task(self._ask(self._in_flight))

    async def _ask(self, batch: list[_Waiting]) -> None:
        while await self._database.answers():
            await asyncio.sleep(PATIENCE_SECONDS)
            if batch is not self._in_flight:
                return
        if batch is not self._in_flight:
            return
        # it hangs: whoever waits hears of it now, and the broken connection ends the flush
        for waiting in [*self._in_flight, *self._queue]:
            _fail(waiting, DatabaseAwayError("the database does not answer"))
        if self._held is not None:
            self._connection.terminate()

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
                continue  # its client has gone before anything was recorded
            batch.append(waiting)
            records += more
            size += waiting.size
        return batch

    async def flush(  # noqa: C901  (every way to fail has its answer)
        self, batch: list[_Waiting], *, again: bool = False
    ) -> None:
        """Records a batch and answers it. Whatever fails, nothing stays cached that
        was not committed, and the lane goes on. `again`: a former try may have been committed.
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
            for waiting in batch:
                _fail(waiting, error)
        except Exception as error:
            self._drop()
            if len(batch) == 1:
                log.exception("a delivery cannot be recorded", tenant=self._tenant)
                _fail(batch[0], DatabaseAwayError(f"{type(error).__name__}"))
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
        try:
            with telling_apart():
                connection = await self._hold()
                if not lock:
                    return await self._fold_and_append(connection, batch, lock=False, again=False)
                try:
                    await connection.execute(begin(self._tenant))
                    return await self._fold_and_append(connection, batch, lock=True, again=again)
                except BaseException:
                    if not connection.is_closed():
                        await connection.execute("rollback")
                    raise
        except BaseException as error:
            await self._let_go()
            if isinstance(error, DatabaseAwayError):
                self._database.repair()
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
        before = self._head
        now = clock.now()
        ready = await self._fold(batch, run, before, now)
        after = Head(run.position, run.recorded_at, run.chain, before.generation, before.version)
        answer = OK
        if run.flush.events or run.answers:
            self._inline.write(run.view, run.results, run.flush)
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
        while True:
            wanted = self._wanted(batch, records, run)
            if lock and first:
                wanted.answers = [w.delivery.place for w in batch]
            if not wanted and not first:
                return
            loaded = await load(connection, self._tenant, wanted, lock=lock and first)
            if loaded.head is None:
                await self._create_tenant(connection, lock=lock)
                continue
            if loaded.head.version != self._inline.version:
                raise OtherVersionError(self._tenant, loaded.head.version, self._inline.version)
            if self._head != loaded.head:
                # another process appended (or this is the first look): start over
                self._drop()
                self._head = loaded.head
                run.reset(self._inline.view())
            first = False
            self._inline.absorb(run.view, loaded, wanted)
            run.asked.update(wanted.subjects)
            for key_id, subject, wrapped in loaded.keys:
                run.keys[subject] = self._master_key.unwrap(self._tenant, key_id, subject, wrapped)
            run.knows_answers |= lock
            for row in loaded.answers:
                endpoint, key, derived, body_hash, delivery_id, answer, left, expires_at, _ = row
                names = _decode_records(left)
                run.stored[endpoint, key] = _Stored(
                    derived, body_hash, delivery_id, answer, names, expires_at
                )

    def _wanted(self, batch: list[_Waiting], records: list[Record], run: _Run) -> Wanted:
        others = [(e, i) for stored in run.stored.values() for e, i, _ in stored.records]
        wanted = self._inline.wanted(run.view, records, others)
        while self._head and self._inline.recall(run.view, wanted, self._rows):
            wanted = self._inline.wanted(run.view, records, others)
        for waiting in batch:
            for record in waiting.delivery.records:
                try:
                    subject = self._subject(run, record)
                except LookupError:
                    continue
                if subject and subject not in self._keys and subject not in run.asked:
                    run.asked.add(subject)
                    wanted.subjects.append(subject)
        return wanted

    async def _create_tenant(self, connection: Connection, *, lock: bool) -> None:
        if lock:
            await create_tenant(connection, self._tenant, self._master_key, self._inline.version)
            return
        async with connection.transaction():
            await create_tenant(connection, self._tenant, self._master_key, self._inline.version)

    def _subject(self, run: _Run, record: Record) -> str | None:
        if record.zoho_id is not None:
            subject = self._inline.subject(run.view, record)
            return None if subject is None else f"person:{subject}" if subject else _quarantine()
        return _quarantine()

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
        if (
            not own
            and stored.derived
            and not all(
                self._inline.state_version(run.view, (entity, zoho_id)) == version
                for entity, zoho_id, version in stored.records
            )
        ):
            return None
        return Answer(stored.answer, stored.delivery_id, replayed=not own)

    async def _process(self, delivery: Delivery, run: _Run, now: int) -> Answer:
        results = []
        for index, record in enumerate(delivery.records):
            if index % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)
            results.append(self._record(delivery, run, record, index))
        body, may_remember = self._render(delivery, results) if delivery.answered else (b"", False)
        if delivery.remember and may_remember and self._ttl:
            names = {(r.entity, r.zoho_id) for r in delivery.records if r.zoho_id is not None}
            left = [
                (entity, zoho_id, self._inline.state_version(run.view, (entity, zoho_id)))
                for entity, zoho_id in names
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
        key = self._key(run, self._subject(run, record))
        usable = record.zoho_id is not None
        run.position += 1
        run.recorded_at += 1
        event = seal(
            record,
            entity,
            delivery.origin,
            key,
            inline.known(run.view, record) if usable else Known(),
            stream=stream_of(record, delivery.origin.delivery_id, index),
            version=inline.next_version(run.view, record) if usable else 1,
            position=run.position,
            recorded_at=run.recorded_at,
        )
        columns = msgspec.structs.astuple(event)[:-1]
        run.chain = chain.link(run.chain, columns)
        run.flush.events.append((*columns[1:], run.chain))
        try:
            payload = RecordReceived(_NOTHING, record.values, record.provisional)
            outcome = inline.apply(run.view, event, payload)
        except Exception as error:
            log.exception("a handler failed", tenant=self._tenant, position=run.position)
            outcome = inline.fail(run.view, event)
            run.flush.parked.append(("state", event.stream, run.position, type(error).__name__))
        run.results.append((event, outcome))
        return Result(record, run.position, outcome)


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
        self.reset(view)

    def reset(self, view: Any) -> None:
        self.view = view
        self.keys: dict[str, SubjectKey] = {}
        self.asked: set[str] = set()
        self.stored: dict[tuple[str, str], _Stored] = {}
        self.flush = Flush()
        self.results: list[tuple[Event, Any]] = []


def _quarantine() -> str:
    """Unreadable deliveries of one day share a key, which is destroyed in time."""
    return f"quarantine:{clock.to_text(clock.now())[:10]}"


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
