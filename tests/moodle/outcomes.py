"""What the ledger tells of calls to Moodle, beside what the double was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from ledger.events import REPORT
from ledger.unseal import Unsealer
from projections.replay import pages
from tests.harness import Ledger
from tests.moodle.double import Call

Key = tuple[Any, ...]
"""A function, and which account, course or seat it was about."""

ITEMS = {
    "core_user_create_users": ("users", ("idnumber",)),
    "core_user_update_users": ("users", ("id",)),
    "core_course_create_courses": ("courses", ("idnumber",)),
    "enrol_manual_enrol_users": ("enrolments", ("courseid", "userid", "suspend")),
    "enrol_manual_unenrol_users": ("enrolments", ("courseid", "userid")),
}
"""The functions that write: their list, and what tells its items apart."""

_SENT = {"courseid": "course_id", "userid": "user_id", "suspend": "suspended"}


class Told(msgspec.Struct):
    """One event of what Moodle did about a record; `call` is empty where nothing had to be done."""

    entity: str
    zoho_id: str
    position: int
    record: dict[str, Any]

    @property
    def key(self) -> Key | None:
        """As in `written`."""
        function = self.record.get("call")
        if function is None:
            return None
        sent, (_, fields) = self.record["sent"], ITEMS[function]
        return function, *(_text(sent.get(_SENT.get(field, field))) for field in fields)


async def told(ledger: Ledger) -> list[Told]:
    """Every event about Moodle, in order."""
    key = ledger.installation.master_key
    unsealer = Unsealer(ledger.tenant, key)
    found = []
    async for page in pages(ledger.database, ledger.tenant, key, unsealer):
        for event in page:
            if event.flags & REPORT:
                raw = unsealer.record(event.topic, event.key_id, event.payload, event.stream, event.version)
                record = msgspec.json.decode(raw)
                found.append(Told(event.entity or "", event.zoho_id or "", event.position, record))
    return found


def written(calls: Iterable[Call]) -> Counter[Key]:
    """Each thing that some calls were to write, with how often."""
    found: Counter[Key] = Counter()
    for call in calls:
        if call.function not in ITEMS:
            continue
        name, fields = ITEMS[call.function]
        for number in range(call.items):
            item = (_text(call.params.get(f"{name}[{number}][{field}]", "0")) for field in fields)
            found[call.function, *item] += 1
    return found


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)
