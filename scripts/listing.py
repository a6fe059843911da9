"""`sync-ledger tenants`."""

from __future__ import annotations

from typing import Any

from ledger import clock
from projections.queries import SQL
from scripts.opened import Opened
from scripts.output import print_json, print_table


async def list_tenants(ledger: Opened, tenant: str | None, *, as_json: bool) -> int:
    """Prints every tenant, or one."""
    wanted = await ledger.tenants(tenant)
    async with ledger.database.transaction(ledger.settings.default_tenant) as connection:
        known = await connection.fetch(SQL["tenants"])
    items: list[dict[str, Any]] = []
    for row in known:
        name = row["tenant_id"]
        if name not in wanted:
            continue
        async with ledger.database.transaction(name) as connection:
            head = await connection.fetchrow(SQL["head"], name)
            parked = await connection.fetch(SQL["parked_by_follower"], name)
        items.append(
            {
                "tenant": name,
                "created_at": clock.to_text(row["created_at"]),
                "events": head["position"] if head else 0,
                "last_event_at": clock.to_text(head["recorded_at"]) if head and head["position"] else None,
                "parked": {row["follower"]: row["count"] for row in parked},
            }
        )
    if as_json:
        print_json({"items": items, "next": None})
        return 0
    columns = ("tenant", "created_at", "events", "last_event_at")
    print_table(
        (*columns, "parked"),
        [
            (*(item[c] for c in columns), ", ".join(f"{k}: {v}" for k, v in item["parked"].items()))
            for item in items
        ],
    )
    return 0
