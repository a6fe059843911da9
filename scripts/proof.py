"""`sync-ledger verify` and `sync-ledger anchor`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import msgspec

from ledger import clock
from ledger.anchor import read_anchor, write_anchor
from ledger.verify import Anchored, Verdict, verify
from projections.queries import SQL
from scripts.opened import CommandError, Opened
from scripts.output import Meter, harmless, print_json


async def verify_all(ledger: Opened, tenant: str | None, anchor: Path | None, *, as_json: bool) -> int:
    """Verifies one tenant or all of them; exit code 1 where anything is not as it was."""
    master_key = ledger.installation.master_key
    key = ledger.installation.signing_key().public_key()
    anchored: dict[str, Anchored] = {} if anchor is None else read_anchor(anchor, key)
    if tenant is not None and anchor is not None and tenant not in anchored:
        raise CommandError(f"{anchor} does not name tenant {tenant[:80]}")
    names = [tenant] if tenant in anchored else await ledger.tenants(tenant)
    if tenant is None:
        names = sorted({*names, *anchored})
    with Meter("verifying") as meter:
        verdicts: list[Verdict] = [
            await verify(ledger.database, name, master_key, anchored.get(name), partial(meter.tell, name))
            for name in names
        ]
    bad = [verdict for verdict in verdicts if not verdict.ok]
    if as_json:
        print_json(
            {
                "ok": not bad,
                "events": sum(verdict.events for verdict in verdicts),
                "first_bad_position": next((at for v in bad if (at := v.first_bad_position)), None),
                "keys": [
                    {**msgspec.to_builtins(key), "tenant": verdict.tenant}
                    for verdict in bad
                    for key in verdict.keys
                ],
                "tenants": [msgspec.to_builtins(verdict) for verdict in verdicts],
            }
        )
        return 1 if bad else 0
    for verdict in verdicts:
        against = " and the anchor holds" if verdict.tenant in anchored else ""
        if verdict.first_bad_position is None:
            print(f"{verdict.tenant}: {verdict.events:,} events, none altered, removed or inserted{against}")
        else:
            print(f"{verdict.tenant}: first bad position {verdict.first_bad_position}: it {verdict.reason}")
        for bad_key in verdict.keys:
            print(f"{verdict.tenant}: {harmless(bad_key.problem)}")
        if verdict.more_keys:
            print(f"{verdict.tenant}: there are more bad keys than these {len(verdict.keys):,}")
    return 1 if bad else 0


async def anchor_all(ledger: Opened, file: Path, tenant: str | None) -> int:
    """Writes the signed heads of one tenant or of all of them."""
    heads = []
    for name in await ledger.tenants(tenant):
        async with ledger.database.transaction(name) as connection:
            head = await connection.fetchrow(SQL["chain_head"], name)
        if head is not None:
            heads.append(
                Anchored(name, head["position"], clock.to_text(head["recorded_at"]), head["chain"].hex())
            )
    write_anchor(file, heads, ledger.installation.signing_key())
    positions = ", ".join(f"{head.tenant} at {head.position:,}" for head in heads)
    print(
        f"wrote {file} ({positions}): keep it where nobody with power over the database can reach it",
        file=sys.stderr,
    )
    return 0
