"""The current state as a lane's inline projection: reads, folds, writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ledger.events import DELETION, Event, RecordReceived
from ledger.pace import in_turns
from ledger.seal import Known
from ledger.store import Flush, Loaded, Wanted
from ledger.zoho.entities import Entities
from ledger.zoho.records import Record
from projections.fold import CurrentState, Outcome, outcome_columns
from projections.state import Name, Row, View, from_columns, to_columns, weight_of


class InlineState:
    """Implements `ledger.lane.Inline` with the fold of `projections.fold`."""

    def __init__(self, entities: Entities, projection: CurrentState | None = None) -> None:
        self._entities = entities
        self._projection = projection or CurrentState(entities)

    @property
    def version(self) -> int:
        """The version of the fold."""
        return self._projection.version

    def view(self) -> View:
        """An empty view."""
        return View()

    def wanted(self, view: View, records: Iterable[Record], others: Iterable[Name]) -> Wanted:
        """What applying these records may look at, as far as the view lacks it."""
        names: set[Name] = set(others)
        dependents: set[Name] = set()
        for record in records:
            reads = self._projection.reads(
                record.row,
                record.values,
                deletion=bool(record.flags & DELETION),
                view=view,
            )
            names |= reads.records
            dependents |= reads.dependents
        return Wanted(
            records=[name for name in names if name not in view.rows],
            dependents=[name for name in dependents if name not in view.dependents],
        )

    def recall(self, view: View, wanted: Wanted, rows: Mapping[Name, Row | None]) -> bool:
        """Takes wanted rows from the cache into the view."""
        found = {name: rows[name] for name in wanted.records if name in rows}
        view.rows.update(found)
        return bool(found)

    async def absorb(self, view: View, loaded: Loaded, wanted: Wanted) -> None:
        """Takes what was read into the view; what was not found is absent."""
        for name in wanted.records:
            view.rows.setdefault(name, None)
        async for columns in in_turns((*loaded.records, *loaded.dependent_records)):
            row = from_columns(columns)
            view.rows[row.name] = row
        for name in wanted.dependents:
            view.dependents.setdefault(name, set())
        for needs_entity, needs_id, entity, zoho_id in loaded.dependents:
            view.rows.setdefault((entity, zoho_id), None)  # a link without its record
            view.dependents[needs_entity, needs_id].add((entity, zoho_id))

    def subject(self, view: View, record: Record) -> str | None:
        """The person whose key seals the record's payload."""
        sealed_by = self._entities[record.entity].sealed_by
        if sealed_by is None:
            return None
        if sealed_by == "zoho_id":
            return record.zoho_id or ""
        if named := record.values.get(sealed_by):
            return named
        if record.row not in view.rows:
            raise LookupError(record.zoho_id)
        return self.known(view, record).values.get(sealed_by) or ""

    def known(self, view: View, record: Record) -> Known:
        """What the state knows of the record's content."""
        row = view.row(record.row)
        return Known(row.key_id, row.fields) if row is not None else Known()

    def key_of(self, view: View, person: str) -> bytes | None:
        """The id of the key that seals what is known of a person, as far as the view knows it."""
        rows = (view.rows.get((entity.name, person)) for entity in self._entities if entity.is_person)
        return next((row.key_id for row in rows if row is not None), None)

    def next_version(self, view: View, record: Record) -> int:
        """The version of the record's next event."""
        row = view.row(record.row)
        return row.version + 1 if row is not None else 1

    def dependents(self, view: View, record: Record) -> int:
        """How many others the record's event may release, or make wait."""
        return len(view.dependents.get(record.row, ()))

    def apply(self, view: View, event: Event, payload: RecordReceived) -> Outcome:
        """Folds an event; the view is untouched where this raises."""
        view.begin()
        try:
            return self._projection.apply(view, event, payload)
        except BaseException:
            view.undo()
            raise

    def fail(self, view: View, event: Event) -> Outcome:
        """The event counts, but the state stays as it was."""
        return self._projection.fail(view, event)

    async def write(self, view: View, results: Iterable[tuple[Event, Any]], flush: Flush) -> None:
        """Adds what the view changed and the outcomes to a flush."""
        async for event, outcome in in_turns(results):
            flush.outcomes += outcome_columns(outcome, event)
        rows = in_turns(view.rows[name] for name in view.changed)
        flush.records = [to_columns(row) async for row in rows if row is not None]
        flush.links = [(*needed, *dependent) for needed, dependent in view.linked]
        flush.unlinks = [(*needed, *dependent) for needed, dependent in view.unlinked]

    def state_version(self, view: View, name: Name) -> int:
        """How often the record's state has changed."""
        row = view.row(name)
        return row.state_version if row is not None else 0

    def keep(self, view: View, rows: dict[Name, Row | None]) -> int:
        """Puts the view's rows into the cache. By how many bytes it has grown."""
        grown = 0
        for name, row in view.rows.items():
            if name not in rows:
                grown += weight_of(row)
            elif (before := rows[name]) is not row:
                grown += weight_of(row) - weight_of(before)
            rows[name] = row
        return grown
