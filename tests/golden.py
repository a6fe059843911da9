"""The golden dump: a ledger of the first release, which every later one must read.

`python -m tests.golden NAME` writes `tests/data/golden/NAME.json`. A dump is made once
for each release and never made again: what it holds is the promise.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from ledger import migrate
from ledger.installation import open_installation
from ledger.settings import Settings
from ledger.vault import MasterKey
from projections.moodle.report import Report, Reporter
from tests.conftest import fresh_home
from tests.harness import Ledger

FOLDER = Path(__file__).parent / "data" / "golden"
TABLES = ("ledger.tenants", "ledger.heads", "vault.keys", "ledger.events")
MASTER_KEY = bytes(range(32))  # of this dump alone


def packed(value: Any) -> Any:
    """Bytes as {"bytes": base64}, all else as it is."""
    return {"bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def unpacked(value: Any) -> Any:
    """The inverse of `packed`."""
    return base64.b64decode(value["bytes"]) if isinstance(value, dict) else value


async def story(ledger: Ledger) -> None:
    """A bit of everything: waiting, release, updates, stale, deleted, drafts, moves between
    people, unusable records, bad characters, unreadable values, Moodle's reports.
    """
    await ledger.post("enrollments", {"id": "E1", "Student": {"id": "S1", "name": "Layla"}, "Class": "C1"})
    await ledger.post("programs", {"id": "P1", "Product_Name": "BTEC", "Price": "$ 1,299.50"}, {"id": "P2"})
    await ledger.post("students", {"id": "S1", "First_Name": "Layla", "Email": "layla@college.example"})
    await ledger.post("students", {"id": "S2", "Last_Name": "\u0646\u0627\u0635\u0631", "Program": "P1"})
    await ledger.post("classes", {"id": "C1", "Name": "C26-1", "Teacher": {"id": "T1"}})
    await ledger.post("classes", {"id": "C1", "Class_Name": "Maths", "Modified_Time": "2026-01-02T00:00:00Z"})
    await ledger.post("enrollments", {"id": "E2", "Student": "S2", "Class": "C1", "status": "Active"})
    await ledger.post("enrollments", {"id": "E2", "Student": "S1"}, {"id": "E2", "Start_Date": "01/02/2026"})
    await ledger.post("classes", {"id": "C1", "Class_Name": "x", "Modified_Time": "2025-01-02T00:00:00Z"})
    await ledger.post("students", {"id": "S3", "$state": "draft"}, 7, {"id": 1.5, "Last_Name": "lost"})
    await ledger.post(
        "students", {"id": "S2", "Record_Status__s": "Trash"}, {"id": "S1", "Last_Name": "N\x00"}
    )
    await ledger.post("programs", {"id": "P9", "operation": "delete"}, {"id": "P1", "Price": "free"})
    await ledger.post("classes", {"id": "C2", "Class_Name": "Art", "Start_Date": "soon"})
    await ledger.post("enrollments", {"id": "E1", "Class": "C3"})
    await ledger.post("enrollments", {"id": "E2", "Student": "Mr Nobody"}, {"id": "E2", "End_Date": 46000})
    await ledger.post(
        "classes",
        {"id": "C1", "Modified_Time": "2026-01-03T00:00:00Z", "Short_Name": "M"},
        {"id": "C1", "Students": [{"ID": "S1", "label": "Layla"}], "Modified_Time": "2099-01-01T00:00:00Z"},
        {"id": "P\u200f", "Class_Name": ["a", "b"], "Name": "C26-2", "End_Date": "31/12/2026 or so"},
    )
    await ledger.post("programs", {"id": "P9", "Product_Name": "again"}, {"id": "P2", "Product_Name": {}})
    report = Reporter(ledger.lane, ledger.tenant, "https://moodle.college.example")
    call = {"call": "core_user_create_users", "sent": {"email": "layla@college.example"}, "answer": {"id": 7}}
    user = Report(("student", "S1"), '{"active":true}', call, "7")
    await report([user, Report(("class", "C2"), "{}", {"call": None}, None, ("no_course", "not there"))])
    seat = Report(("enrollment", "E2"), '{"active":true,"start":5}', call, "9:7", student="S1")
    await report([seat])
    await report([Report(("class", "C2"), None, {"call": None}, again=True)], source="cli")


async def dump(name: str) -> None:
    """Plays the story on a fresh ledger and writes it down."""
    home = fresh_home()
    installation = await open_installation(Settings(home=home))
    installation.master_key = MasterKey(MASTER_KEY)
    database = installation.database()
    await database.open()
    tenant = f"golden-{name}"
    ledger = Ledger(installation, database, tenant)
    await story(ledger)
    rows: dict[str, Any] = {}
    async with database.transaction(tenant) as connection:
        for table in TABLES:
            found = await connection.fetch(f"select * from {table} where tenant_id = $1", tenant)
            rows[table] = [{k: packed(v) for k, v in row.items()} for row in found]
    live = await ledger.live()
    document = {
        "tenant": tenant,
        "master_key": base64.b64encode(MASTER_KEY).decode(),
        "rows": rows,
        "expected": {
            table: sorted(([packed(v) for v in row] for row in getattr(live, table)), key=repr)
            for table in ("records", "links", "outcomes")
        },
    }
    FOLDER.joinpath(f"{name}.json").write_text(json.dumps(document, indent=1, ensure_ascii=True) + "\n")
    await ledger.close()
    await database.close()
    installation.close()


async def lay_out(admin: Any, before: str) -> None:
    """The schema of an earlier release: the migrations up to one, by the name that it begins with."""
    await admin.execute(migrate._BOOTSTRAP)
    for name, sql in migrate.migrations():
        if name < before:
            await admin.execute(sql)
            await admin.execute(
                "insert into ledger.migrations (name, checksum) values ($1, $2)",
                name,
                sha256(sql.encode()).hexdigest(),
            )


async def restore(admin: Any, document: dict[str, Any]) -> None:
    """Writes a dump's rows into a database, under the tenant of the dump."""
    for table in TABLES:
        for row in document["rows"][table]:
            places = ", ".join(f"${i}" for i in range(1, len(row) + 1))
            await admin.execute(
                f"insert into {table} ({', '.join(row)}) values ({places}) on conflict do nothing",
                *(unpacked(v) for v in row.values()),
            )


if __name__ == "__main__":
    asyncio.run(dump(sys.argv[1]))
