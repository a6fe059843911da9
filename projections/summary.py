"""How many events led to what, by hour: a follower, and the answer that is always complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from ledger import clock
from ledger.database import Connection
from ledger.pace import in_turns
from projections.followers import Item, items_behind, position_of
from projections.queries import SQL

HOUR = 60 * clock.MINUTE
SPANS = {"hour": HOUR, "day": clock.DAY}
_PAGE = 5_000
_END = 2**62

Batch = Counter[tuple[int, str, str]]
"""(start of the hour, entity, status) -> events."""


class Summary:
    """The follower that keeps `ledger.summary`."""

    name = "summary"
    version = 1
    columns: tuple[str, ...] = ("hour", "entity", "status", "count")

    def batch(self) -> Batch:
        """An empty count."""
        return Counter()

    def apply(self, batch: Batch, item: Item) -> None:
        """Counts one event by its own status."""
        batch[item.recorded_at - item.recorded_at % HOUR, item.entity, item.status] += 1

    def take_back(self, batch: Batch, item: Item) -> None:
        """Does not count an event after all."""
        batch[item.recorded_at - item.recorded_at % HOUR, item.entity, item.status] -= 1

    async def rows(
        self, connection: Connection, tenant_id: str, generation: int
    ) -> dict[tuple[int, str, str], tuple[Any, ...]]:
        """Every row of a generation."""
        rows = await connection.fetch(SQL["summary_rows"], tenant_id, generation, self.version)
        return {tuple(row)[:3]: tuple(row) for row in rows}

    def expected(self, batch: Batch) -> dict[tuple[int, str, str], tuple[Any, ...]]:
        """The rows that a batch makes."""
        return {key: (*key, count) for key, count in batch.items() if count}

    async def write(self, connection: Connection, tenant_id: str, generation: int, batch: Batch) -> None:
        """Adds the counts."""
        keys = list(batch)
        await connection.execute(
            SQL["add_to_summary"],
            tenant_id,
            generation,
            self.version,
            [hour for hour, _, _ in keys],
            [entity for _, entity, _ in keys],
            [status for _, _, status in keys],
            [batch[key] for key in keys],
        )

    async def forget(self, connection: Connection, tenant_id: str, generation: int) -> None:
        """Removes the counts of a generation."""
        await connection.execute(SQL["forget_summary"], tenant_id, generation, self.version)

    async def counts(
        self, connection: Connection, tenant_id: str, since: int | None, until: int | None, span: int
    ) -> list[dict[str, Any]]:
        """Counts from `since` (inclusive) to `until` (exclusive), microseconds since 1970 UTC,
        by spans of an hour or a day: whole hours from the rows, what the follower has not
        reached yet and the parts of hours at both ends from the events. Needs a transaction.
        """
        head = await connection.fetchrow(SQL["head"], tenant_id)
        if head is None:
            return []
        start, stop = since or 0, _END if until is None else until
        first = -(-start // HOUR) * HOUR
        last = stop - stop % HOUR
        total: Batch = Counter()
        generation = head["generation"]
        reached = await position_of(connection, tenant_id, self, generation)
        if first < last:
            rows = await connection.fetch(
                SQL["summary_counts"], tenant_id, generation, self.version, first, min(last, _FAR)
            )
            async for hour, entity, status, count in in_turns(rows):
                total[hour, entity, status] += count
        ranges = [(reached, head["position"])]
        for edge in _edges(start, stop, first, last):
            low, high = [await _position_before(connection, tenant_id, instant) for instant in edge]
            ranges.append((low, min(high, reached)))
        for low, high in ranges:
            at = low
            while at < high:
                items = await items_behind(connection, tenant_id, generation, at, high, _PAGE)
                async for item in in_turns(items):
                    if start <= item.recorded_at < stop:
                        self.apply(total, item)
                at = items[-1].position if len(items) == _PAGE else high
        spans: Batch = Counter()
        async for (hour, entity, status), count in in_turns(total.items()):
            spans[hour - hour % span, entity, status] += count
        return [
            {"from": clock.to_text(begin), "entity": entity, "status": status, "count": count}
            async for (begin, entity, status), count in in_turns(sorted(spans.items()))
        ]


_FAR = 253_402_300_799_000_000  # the end of the year 9999, PostgreSQL and Python go that far


def _edges(start: int, stop: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """The parts of hours at both ends, as instants: (exclusive, inclusive)."""
    if first >= last:
        yield start - 1, min(stop, _FAR) - 1
        return
    if start < first:
        yield start - 1, first - 1
    if last < stop < _FAR:
        yield last - 1, stop - 1


async def _position_before(connection: Connection, tenant_id: str, instant: int) -> int:
    """The newest position recorded at or before an instant."""
    return await connection.fetchval(SQL["position_before"], tenant_id, max(instant, 0)) or 0
