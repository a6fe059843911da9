"""Moodle's part in a record as an event: what was asked, what came of it."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec

from ledger.codec import encode
from ledger.events import ASKED_AGAIN, REFUSED, REPORT, MoodleReported
from ledger.lane import Delivery, Lane, Lanes
from ledger.seal import Origin
from ledger.zoho.records import Record
from projections.moodle.rules import Reason
from projections.moodle.site import parts_of
from projections.state import Name

KEEP = "keep"
"""In the place of an id: the ledger keeps the one it knows."""
_AT_ONCE = 500


class Report(msgspec.Struct):
    """What came of one record. `asked`: the wanted state that was acted on (None: a step on the way
    there). `reason`: why it was not done. `moodle_id`: Moodle's own id; where it is not given, the
    ledger keeps the one it knows. `student`: whom an enrollment is about. `record`: what was asked
    of Moodle, and its answer.
    """

    name: Name
    asked: str | None
    record: dict[str, Any]
    moodle_id: str | None = KEEP
    reason: Reason | None = None
    student: str | None = None
    again: bool = False


def delivery(tenant_id: str, reports: Sequence[Report], *, site: str, source: str = "moodle") -> Delivery:
    """Reports as a lane takes them; those of one call belong together."""
    delivery_id = secrets.token_hex(16)
    return Delivery(
        endpoint="moodle",
        key=delivery_id,
        derived=False,
        body_hash=sha256(delivery_id.encode()).digest(),
        origin=Origin(tenant_id, source, delivery_id),
        records=[_record(report, site) for report in reports],
        remember=False,
        answered=False,
    )


def _record(report: Report, site: str) -> Record:
    values = {"asked": report.asked}
    payload = MoodleReported(msgspec.Raw(msgspec.json.encode(report.record)), values)
    flags = REPORT | (REFUSED if report.reason else 0) | (ASKED_AGAIN if report.again else 0)
    refs = {} if report.moodle_id == KEEP else {"moodle_id": report.moodle_id, "site": site}
    if report.student is not None:
        values = {**values, "student_zoho_id": report.student}
    entity, zoho_id = report.name
    problems = [report.reason] if report.reason else []
    return Record(entity, zoho_id, None, flags, values, (), problems, encode(payload), refs)


class Reporter:
    """Puts reports on disk through the tenant's lane, which orders them among everything else."""

    def __init__(self, lane: Lane | Lanes, tenant_id: str, site: str) -> None:
        self._lane = lane
        self._tenant = tenant_id
        self._site = site
        self._own: Counter[Name] = Counter()

    async def __call__(self, reports: list[Report], source: str = "moodle") -> None:
        """Returns when they are on disk. Many are many deliveries, so that others get between them."""
        for part in parts_of(reports, _AT_ONCE):
            await self._lane.submit(delivery(self._tenant, part, site=self._site, source=source))
            self._own.update(report.name for report in part)

    def is_foreign(self, name: Name, reports: int) -> bool:
        """Whether somebody else reported on a record: there are so many reports that were not asked
        for here before.
        """
        own = min(self._own[name], reports)
        self._own[name] -= own
        if not self._own[name]:
            del self._own[name]
        return reports > own
