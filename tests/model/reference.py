"""A small model of the ledger, written from the published tables alone.

It imports nothing of the product and shares no idea with it: plain dictionaries,
every rule spelt out in the order in which it is published.
"""

from __future__ import annotations

import copy
import json
from typing import Any

# field -> (Zoho names, kind); the fingerprint leaves out what stands in UNPRINTED
FIELDS: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    "student": {
        "first_name": (("First_Name",), "text"),
        "last_name": (("Last_Name",), "text"),
        "email": (("Academic_Email", "Email"), "text"),
        "student_number": (("Name", "Student_ID"), "text"),
        "status": (("Status", "status"), "text"),
        "program_zoho_id": (("Program", "BTEC_Program"), "lookup"),
    },
    "program": {
        "name": (("Product_Name",), "text"),
        "price": (("Price", "Program_Price", "Unit_Price"), "price"),
        "moodle_id": (("Moodle_ID", "MoodleID"), "text"),
        "status": (("status", "Status", "Product_Active"), "text"),
    },
    "class": {
        "name": (("BTEC_Class_Name", "Class_Name"), "text"),
        "short_name": (("Short_Name", "Class_Short_Name"), "text"),
        "start_date": (("Start_Date",), "date"),
        "end_date": (("End_Date",), "date"),
        "status": (("status", "Status", "Class_Status"), "text"),
        "program_zoho_id": (("BTEC_Program", "Program"), "lookup"),
        "teacher_zoho_id": (("Teacher",), "lookup"),
        "unit_zoho_id": (("Unit",), "lookup"),
        "moodle_id": (("Moodle_Class_ID",), "text"),
    },
    "enrollment": {
        "student_zoho_id": (("Student", "Enrolled_Students"), "lookup"),
        "class_zoho_id": (("BTEC_Class", "Classes", "Class"), "lookup"),
        "program_zoho_id": (("BTEC_Program", "Program"), "lookup"),
        "status": (("status", "Status"), "text"),
        "start_date": (("Start_Date",), "date"),
        "end_date": (("End_Date",), "date"),
    },
}
UNPRINTED = {
    "class": {"teacher_zoho_id", "unit_zoho_id", "moodle_id"},
    "enrollment": {"end_date"},
}
REQUIRED = {
    "student": [], "program": ["name"], "class": ["name"],
    "enrollment": ["student_zoho_id", "class_zoho_id"],
}  # fmt: skip
EMPTY = (None, "", "null", "-None-", "${!A.B} ${!C}", "\u200f", [])
INVISIBLE = "\u200e\u200f\u200b\ufeff"
# what the generator writes -> what it means; None and a warning where it means nothing
PRICES = {
    "5": "5.00", "5.00": "5.00", "$ 1,299.00": "1299.00", "1.299,00": "1299.00", 7: "7.00",
    "free": None, "JOD 1.500": "1.50", "Rs. 1.500/-": "1500.00", "5 10": None, "\u200f5,5": "5.50",
}  # fmt: skip
DATES = {
    "2024-02-01": "2024-02-01",
    "01/02/2024": "2024-02-01",
    "2024-06-30": "2024-06-30",
    "soon": None,
    "2024-06-30 06:00 AM": "2024-06-30",
    "1706745600000": "2024-02-01",
    46000: None,
    "02/13/2024": None,
}
INSTANTS = {
    "2024-02-11T14:00:00+03:00": 1, "2024-02-11T11:00:00Z": 1, "2024-02-11 11:00:00": 1,
    "2024-02-12T08:00:00Z": 2, "2024-02-13T08:00:00Z": 3, "2024/02/12 08:00:00 UTC": 2, "1707811200": 3,
    "soon": None,
}  # fmt: skip
RECEIPT = 1_000_000  # later than every written instant


class Record:
    """What is known of one record."""

    def __init__(self) -> None:
        self.state = "none"
        self.fields: dict[str, Any] = {}
        self.version = 0
        self.state_version = 0
        self.position: int | None = None
        self.own: int | None = None
        self.time: int | None = None  # the newest instant that was stated
        self.waiting_for: list[tuple[str, str]] = []
        self.waiting_since: int | None = None
        self.last_active: dict[str, Any] | None = None
        self.stands_in = False


class Tenant:
    """One college's ledger."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Record] = {}
        self.position = 0
        self.statuses: list[tuple[str, str | None]] = []
        self.answers: dict[tuple[str, str], Any] = {}

    def get(self, entity: str, zoho_id: str) -> Record:
        """A record, empty where it is new."""
        return self.records.setdefault((entity, zoho_id), Record())

    def is_active(self, entity: str, zoho_id: str) -> bool:
        """Whether others may rely on it."""
        return (entity, zoho_id) in self.records and self.records[entity, zoho_id].state == "active"

    def deliver(self, entity: str, raw: list[Any], key: str | None) -> dict[str, Any] | str:
        """A request's answer, or `"conflict"`; `replayed` says that it is a stored one."""
        body = json.dumps(raw)
        place = (entity, key if key is not None else "derived " + body)
        if place in self.answers:
            stored_body, answer, left = self.answers[place]
            if key is not None and stored_body != body:
                return "conflict"
            if key is not None or all(
                self.get(*name).state_version == version for name, version in left.items()
            ):
                return {**answer, "replayed": True}
        results, released = [], []
        for record in raw:
            results.append(self.receive(entity, record, released))
        names = {(entity, r["id"]) for r in results if r["id"] is not None}
        left = {name: self.get(*name).state_version for name in names}
        released.sort(key=lambda r: r["position"])
        answer = {"results": results, "released": released}
        self.answers[place] = (body, copy.deepcopy(answer), left)
        return {**answer, "replayed": False}

    def receive(self, entity: str, raw: Any, released: list[dict[str, Any]]) -> dict[str, Any]:
        """One record's result."""
        self.position += 1
        result = self._receive(entity, raw, released)
        result["position"] = self.position
        self.statuses.append((result["status"], result.get("reason")))
        return result

    def _receive(self, entity: str, raw: Any, released: list[dict[str, Any]]) -> dict[str, Any]:
        zoho_id = raw.get("id", raw.get("ID")) if isinstance(raw, dict) else None
        if isinstance(zoho_id, str):
            zoho_id = zoho_id.strip(INVISIBLE + " ").removeprefix("zcrm_").strip()
        if zoho_id in EMPTY or not isinstance(zoho_id, str):
            return {"id": None, "status": "INVALID", "errors": ["id"]}
        record = self.get(entity, zoho_id)
        record.version += 1
        time = INSTANTS.get(raw.get("Modified_Time"))
        deletion = raw.get("Record_Status__s") in ("Trash", 0) or raw.get("operation") == "delete"
        result: dict[str, Any] = {"id": zoho_id}
        if deletion:
            if time is None:
                time = RECEIPT + self.position
            if record.state == "deleted":
                record.time = max(record.time, time)
                return {**result, "status": "UNCHANGED"}
            if record.time is not None and time < record.time:
                return {**result, "status": "SKIPPED", "reason": "stale"}
            was = record.state
            record.state, record.time, record.own = "deleted", time, self.position
            record.waiting_for, record.last_active = [], None
            self.mark(record)
            if was == "active" and entity in ("student", "class"):
                self.leave(entity, zoho_id, released)
            return {**result, "status": "DELETED"}

        merged, warnings, stands_in = dict(record.fields), [], record.stands_in
        for field, (names, kind) in FIELDS[entity].items():
            present = [raw[name] for name in names if name in raw]
            value, unread = self.first(kind, present)
            warnings += [field] * unread
            if entity == "class" and field == "name" and value is None:
                others = [raw[n] for n in ("Short_Name", "Class_Short_Name", "Name") if n in raw]
                stand_in, more = self.first(kind, others)
                warnings += [field] * more
                sent_empty = present and not unread
                if stand_in is not None:
                    if sent_empty or merged.get("name") is None or record.stands_in:
                        merged["name"] = stand_in
                        stands_in = not sent_empty
                    continue
            if field == "name" and present:
                stands_in = False
            if value is not None or (present and not unread) or (unread and field in REQUIRED[entity]):
                merged[field] = value
        if lacking := [f for f in REQUIRED[entity] if merged.get(f) is None]:
            return {**result, "status": "INVALID", "errors": lacking}
        older = time is not None and record.time is not None and time < record.time
        if record.state == "deleted" and (older or (time is not None and time == record.time)):
            return {**result, "status": "SKIPPED", "reason": "deleted"}
        if older:
            return {**result, "status": "SKIPPED", "reason": "stale"}
        if (
            raw.get("Record_Status__s") == "Draft"
            or raw.get("$state") == "draft"
            or raw.get("$approved") is False
        ):
            return {**result, "status": "SKIPPED", "reason": "not_approved"}

        if raw.get("Modified_Time") is not None and time is None:
            warnings.append("modified_time")
        if warnings:
            result["warnings"] = warnings
        changes = {
            f: {"old": record.fields.get(f), "new": merged.get(f)}
            for f in FIELDS[entity]
            if record.fields.get(f) != merged.get(f)
        }
        was, waited_for = record.state, record.waiting_for
        record.fields, record.own = merged, self.position
        record.time = record.time if time is None else time
        record.stands_in = stands_in
        if entity == "enrollment":
            needs = [("student", merged["student_zoho_id"]), ("class", merged["class_zoho_id"])]
            missing = [need for need in needs if not self.is_active(*need)]
            if missing:
                record.state, record.waiting_for = "waiting", missing
                if was != "waiting":
                    record.waiting_since = self.position
                if was != "waiting" or changes or missing != waited_for:
                    self.mark(record)
                return {
                    **result, "status": "SKIPPED", "reason": f"{missing[0][0]}_not_synced_yet",
                    "waiting_for": missing,
                }  # fmt: skip
        status = self.activate(entity, record)
        if status == "UNCHANGED" and set(changes) - UNPRINTED.get(entity, set()):
            status = "UPDATED"
        if was != "active" or status != "UNCHANGED" or changes:
            self.mark(record)
        if status != "NEW" and changes:
            result["changes"] = changes
        if was != "active" and entity in ("student", "class"):
            self.arrive(entity, zoho_id, released)
        return {**result, "status": status}

    def first(self, kind: str, values: list[Any]) -> tuple[str | None, int]:
        """The first value that means something, and how many before it cannot be read."""
        unread = 0
        for value in values:
            if value in EMPTY:
                continue
            if (meaning := self.read(kind, value)) is not None:
                return meaning, unread
            unread += 1
        return None, unread

    def read(self, kind: str, value: Any) -> str | None:
        """A value's meaning, None where it has none."""
        if kind == "price":
            return PRICES[value]
        if kind == "date":
            return DATES[value]
        if kind == "lookup":
            if isinstance(value, dict):
                return value.get("id")
            value = value.strip(INVISIBLE)
            return None if " " in value else value
        return value if isinstance(value, str) else None

    def activate(self, entity: str, record: Record) -> str:
        """Its status as it becomes active."""
        printed = {f: record.fields.get(f) for f in FIELDS[entity] if f not in UNPRINTED.get(entity, set())}
        status = "UNCHANGED"
        if record.last_active is None:
            status = "NEW"
        elif record.last_active != printed:
            status = "UPDATED"
        record.last_active = printed
        record.state, record.waiting_for = "active", []
        return status

    def mark(self, record: Record) -> None:
        """Its state changed by the newest event."""
        record.state_version += 1
        record.position = self.position

    def dependents(self, entity: str, zoho_id: str) -> list[tuple[str, Record]]:
        """Enrollments, active or waiting, that name this record."""
        return [
            (name[1], record)
            for name, record in self.records.items()
            if name[0] == "enrollment"
            and record.state in ("active", "waiting")
            and record.fields.get(f"{entity}_zoho_id") == zoho_id
        ]

    def arrive(self, entity: str, zoho_id: str, released: list[dict[str, Any]]) -> None:
        """Frees what waited for this one alone."""
        for name, record in self.dependents(entity, zoho_id):
            if (entity, zoho_id) in record.waiting_for:
                record.waiting_for = [w for w in record.waiting_for if w != (entity, zoho_id)]
                self.mark(record)
                if not record.waiting_for:
                    status = self.activate("enrollment", record)
                    released.append({"id": name, "status": status, "position": record.own})

    def leave(self, entity: str, zoho_id: str, released: list[dict[str, Any]]) -> None:
        """Makes what relied on this one wait again; what the same request freed before is not free."""
        for name, record in self.dependents(entity, zoho_id):
            if (entity, zoho_id) not in record.waiting_for:
                needs = [
                    ("student", record.fields["student_zoho_id"]),
                    ("class", record.fields["class_zoho_id"]),
                ]
                if record.state == "active":
                    record.waiting_since = self.position
                    released[:] = [entry for entry in released if entry["id"] != name]
                record.state = "waiting"
                record.waiting_for = [n for n in needs if n == (entity, zoho_id) or n in record.waiting_for]
                self.mark(record)
