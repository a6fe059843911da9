"""Proof: whatever is done to an event, `verify` names the first bad position."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger import chain, clock
from ledger.anchor import AnchorError, read_anchor, write_anchor
from ledger.store import EVENT_COLUMNS, EventStore
from ledger.verify import Anchored, verify
from tests.harness import Ledger
from tests.integration.test_check import CHANGES


@pytest.fixture
async def told(ledger: Ledger) -> Ledger:
    """Eight events of all kinds."""
    await ledger.post("enrollments", {"id": "E", "Student": "S", "Class": "C", "Modified_Time": "2026-01-01"})
    await ledger.post("students", {"id": "S", "Last_Name": "N"}, {"id": 1.5}, {"id": "S", "Last_Name": "M"})
    await ledger.post("classes", {"id": "C", "Class_Name": "x", "Start_Date": "soon"})
    await ledger.post(
        "programs", {"id": "P", "Product_Name": "x"}, {"id": "P", "operation": "delete"}, {"id": "P"}
    )
    return ledger


async def anchored(ledger: Ledger) -> Anchored:
    """The head of now."""
    async with ledger.database.transaction(ledger.tenant) as connection:
        row = await connection.fetchrow(
            "select position, recorded_at, chain from ledger.heads where tenant_id = $1", ledger.tenant
        )
    assert row is not None
    return Anchored(ledger.tenant, row["position"], clock.to_text(row["recorded_at"]), row["chain"].hex())


async def bad(ledger: Ledger, anchor: Anchored | None = None) -> int | None:
    """The first bad position."""
    verdict = await verify(ledger.database, ledger.tenant, ledger.installation.master_key, anchor)
    assert verdict.ok is (verdict.first_bad_position is None)
    return verdict.first_bad_position


async def test_as_it_was(told: Ledger) -> None:
    """Nothing is bad, with an anchor of now and with one from before."""
    anchor = await anchored(told)
    assert await bad(told) is None
    await told.post("students", {"id": "S2"})
    verdict = await verify(told.database, told.tenant, told.installation.master_key, anchor)
    assert (verdict.ok, verdict.events) == (True, 9)


@pytest.mark.parametrize("position", [1, 4, 8])
@pytest.mark.parametrize("column", EVENT_COLUMNS)
async def test_a_changed_column(told: Ledger, admin: asyncpg.Connection, column: str, position: int) -> None:
    """One cell of one event."""
    kind = await admin.fetchval(
        "select data_type from information_schema.columns"
        " where table_schema = 'ledger' and table_name = 'events' and column_name = $1",
        column,
    )
    change = {**CHANGES, "smallint": "(({0} + 1) % 8)::smallint"}[kind]
    if kind == "bytea":  # a single bit, where there is one
        change = "case when length({0}) > 0 then set_bit({0}, 1, 1 - get_bit({0}, 1)) else '\\x00' end"
    done = await admin.execute(
        f"update ledger.events set {column} = {change.format(column)} where tenant_id = $1 and position = $2",
        told.tenant,
        position,
    )
    assert done == "UPDATE 1"
    assert await bad(told) == position


async def test_removed(told: Ledger, admin: asyncpg.Connection) -> None:
    """One in the middle, the first one, the last one."""
    for position in (8, 5, 1):
        await admin.execute(
            "delete from ledger.events where tenant_id = $1 and position = $2", told.tenant, position
        )
        assert await bad(told) == position


async def test_inserted(told: Ledger, admin: asyncpg.Connection) -> None:
    """Behind the end, and in the middle with everything moved up."""
    copy = ", ".join(c if c not in ("position", "stream") else f"{c} || ''" for c in EVENT_COLUMNS)
    copy = copy.replace("position || ''", "9").replace("stream || ''", "stream || 'x'")
    await admin.execute(
        f"insert into ledger.events ({', '.join(EVENT_COLUMNS)}) select {copy} from ledger.events"
        " where tenant_id = $1 and position = 8",
        told.tenant,
    )
    assert await bad(told) == 9
    for position in range(9, 4, -1):
        await admin.execute(
            "update ledger.events set position = position + 1 where tenant_id = $1 and position = $2",
            told.tenant,
            position,
        )
    assert await bad(told) == 5


async def test_swapped(told: Ledger, admin: asyncpg.Connection) -> None:
    """Two events change places."""
    for before, after in ((3, 100), (4, 3), (100, 4)):
        await admin.execute(
            "update ledger.events set position = $3 where tenant_id = $1 and position = $2",
            told.tenant,
            before,
            after,
        )
    assert await bad(told) == 3


async def rewrite(told: Ledger, admin: asyncpg.Connection, until: int) -> None:
    """What somebody with all power would do: change history, and every chain behind it."""
    store = EventStore(told.database, told.tenant, told.installation.master_key)
    value = chain.GENESIS
    for event in (await store.events())[:until]:
        if event.position == 2:
            event.source = "cli"
        value = chain.link(value, msgspec.structs.astuple(event)[:-1])
        await admin.execute(
            "update ledger.events set source = $3, chain = $4 where tenant_id = $1 and position = $2",
            told.tenant,
            event.position,
            event.source,
            value,
        )
    await admin.execute(
        "delete from ledger.events where tenant_id = $1 and position > $2", told.tenant, until
    )
    await admin.execute(
        "update ledger.heads h set position = e.position, recorded_at = e.recorded_at, chain = e.chain"
        " from ledger.events e where h.tenant_id = $1 and e.tenant_id = $1 and e.position = $2",
        told.tenant,
        until,
    )


async def test_a_truncated_tail_needs_an_anchor(told: Ledger, admin: asyncpg.Connection) -> None:
    """The last events and the head row are cut: only the anchor knows."""
    anchor = await anchored(told)
    await admin.execute("delete from ledger.events where tenant_id = $1 and position > 6", told.tenant)
    assert await bad(told) == 7
    await admin.execute(
        "update ledger.heads h set position = e.position, recorded_at = e.recorded_at, chain = e.chain"
        " from ledger.events e where h.tenant_id = $1 and e.tenant_id = $1 and e.position = 6",
        told.tenant,
    )
    assert await bad(told) is None
    assert await bad(told, anchor) == 7


async def test_a_rewritten_history_needs_an_anchor(told: Ledger, admin: asyncpg.Connection) -> None:
    """Every chain value computed anew: only the anchor knows."""
    anchor = await anchored(told)
    await rewrite(told, admin, 8)
    assert await bad(told) is None
    assert await bad(told, anchor) == 8


async def test_a_head_that_lies(told: Ledger, admin: asyncpg.Connection) -> None:
    """Each column of the head row."""
    for change, expected in (
        ("chain = '\\x00'", 8),
        ("recorded_at = recorded_at + interval '1 second'", 8),
        ("position = 9", 9),
        ("position = 7", 8),
    ):
        await admin.execute("begin")
        await admin.execute(f"update ledger.heads set {change} where tenant_id = $1", told.tenant)
        await admin.execute("commit")
        assert await bad(told) == expected
        await admin.execute(
            "update ledger.heads h set position = 8, recorded_at = e.recorded_at, chain = e.chain"
            " from ledger.events e where h.tenant_id = $1 and e.tenant_id = $1 and e.position = 8",
            told.tenant,
        )
    await admin.execute("delete from ledger.heads where tenant_id = $1", told.tenant)
    assert await bad(told) == 1


async def test_anchor_files(told: Ledger, tmp_path: Path) -> None:
    """Signed, never overwritten, and worth nothing once altered or under another key."""
    key, file = Ed25519PrivateKey.generate(), tmp_path / "a.anchor"
    head = await anchored(told)
    write_anchor(file, [head], key)
    assert read_anchor(file, key.public_key()) == {told.tenant: head}
    with pytest.raises(AnchorError, match="exists"):
        write_anchor(file, [head], key)
    with pytest.raises(AnchorError, match="another key"):
        read_anchor(file, Ed25519PrivateKey.generate().public_key())
    with pytest.raises(AnchorError, match="cannot be read"):
        read_anchor(tmp_path / "none", key.public_key())
    text = file.read_text()
    for old, new in ((f'"position": {head.position}', '"position": 1'), (head.chain[:8], "00000000")):
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(AnchorError, match="altered"):
            read_anchor(file, key.public_key())
    file.write_text("{}")
    with pytest.raises(AnchorError, match="not an anchor"):
        read_anchor(file, key.public_key())
