"""Replay: the same fold over all events from the first one, into rows of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from ledger import vault
from ledger.codec import decode
from ledger.database import Database
from ledger.events import Event, RecordReceived
from ledger.queries import load_queries
from ledger.store import EventStore
from ledger.vault import MasterKey, SubjectKey
from projections.fold import CurrentState, outcome_columns
from projections.state import WholeView, to_columns

_SQL = load_queries("projections")


class Rebuilt(msgspec.Struct):
    """Read-model rows as a replay gives them, in the order of the types `ledger.*_v1`."""

    records: set[tuple[Any, ...]]
    links: set[tuple[Any, ...]]
    outcomes: set[tuple[Any, ...]]


class Unsealer:
    """Opens sealed payloads with the vault's keys; None where a key was destroyed."""

    def __init__(self, database: Database, tenant_id: str, master_key: MasterKey) -> None:
        self._database = database
        self._tenant = tenant_id
        self._master_key = master_key
        self._keys: dict[bytes, SubjectKey] = {}

    async def learn(self, key_ids: set[bytes]) -> None:
        """Reads the keys that are not known yet."""
        wanted = [key_id for key_id in key_ids if key_id not in self._keys]
        if not wanted:
            return
        async with self._database.transaction(self._tenant) as connection:
            rows = await connection.fetch(_SQL["keys_by_id"], self._tenant, wanted)
        for key_id, subject, wrapped in rows:
            self._keys[key_id] = self._master_key.unwrap(self._tenant, key_id, subject, wrapped)

    def payload(self, event: Event) -> bytes | None:
        """The payload in clear, None where its key was destroyed."""
        return self.open(event.key_id, event.payload, event.tenant_id, event.stream, event.version)

    def open(
        self, key_id: bytes | None, payload: bytes, tenant_id: str, stream: str, version: int
    ) -> bytes | None:
        """The same for the columns of an event."""
        if key_id is None:
            return payload
        key = self._keys.get(key_id)
        return None if key is None else key.open(payload, vault.bound_to(tenant_id, stream, version))


async def pages(database: Database, tenant_id: str, master_key: MasterKey) -> AsyncIterator[list[Event]]:
    """Every event of a tenant by position, page by page."""
    store = EventStore(database, tenant_id, master_key)
    after = 0
    while page := await store.events(after):
        yield page
        after = page[-1].position


async def rebuild(
    database: Database, tenant_id: str, master_key: MasterKey, projection: CurrentState
) -> Rebuilt:
    """Folds all events of a tenant from nothing. An event that is parked stays unapplied, as it
    is in the live rows.
    """
    async with database.transaction(tenant_id) as connection:
        rows = await connection.fetch(_SQL["parked"], tenant_id, projection.name)
    parked = {row["position"] for row in rows}
    view = WholeView()
    unsealer = Unsealer(database, tenant_id, master_key)
    outcomes: set[tuple[Any, ...]] = set()
    async for page in pages(database, tenant_id, master_key):
        await unsealer.learn({e.key_id for e in page if e.key_id is not None})
        for event in page:
            if not projection.handles(event):
                continue
            plain = unsealer.payload(event)
            payload: RecordReceived | None = None if plain is None else decode(event.topic, plain)
            if event.position in parked:
                outcome = projection.fail(view, event)
            else:
                outcome = projection.apply(view, event, payload)
            outcomes.update(outcome_columns(outcome, event))
    return Rebuilt(
        {to_columns(row) for row in view.rows.values() if row is not None},
        {(*needed, *dependent) for needed, ds in view.dependents.items() for dependent in ds},
        outcomes,
    )
