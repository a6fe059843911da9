"""Real shapes of Zoho records through the endpoint: what each must lead to.

`accept` becomes a status from NEW to SKIPPED; `accept_partial` the same, with
`warnings` where a value was unreadable, or INVALID with the field named where that
field is required; `quarantine` becomes INVALID, and is recorded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import Server, results

FOLDER = Path(__file__).parent.parent / "data" / "zoho"
MANIFEST = json.loads((FOLDER / "MANIFEST.json").read_text())["files"]
RECORDS = [case for case in MANIFEST if case["kind"] == "record"]
SEQUENCES = [case for case in MANIFEST if case["kind"] == "sequence"]

PLURAL = {
    "BTEC_Students": "students",
    "Contacts": "students",
    "Products": "programs",
    "BTEC_Classes": "classes",
    "BTEC_Enrollments": "enrollments",
}
ACCEPTED = {"NEW", "UPDATED", "UNCHANGED", "DELETED", "SKIPPED"}

# `accept_partial` for reasons that are no unreadable value: nothing became null, so
# there is no warning (a long name and a doubled short name matter to Moodle only)
WITHOUT_WARNING = {
    "rec_student_long_name.json",
    "rec_student_email_nulls.json",
    "rec_student_dates_variants.json",  # its dates are in a field that is not canonical
    "rec_student_time_variants.json",  # every one of them can be read
    "rec_contact_minimal_fields.json",
    "rec_contact_same_email.json",
    "rec_product_moodle_id_variants.json",  # text is a good id number
    "rec_class_end_before_start.json",
    "rec_class_duplicate_short_name.json",
    "rec_class_program_unknown.json",  # a missing program never defers
    "rec_class_moodle_id_text.json",
}
INVALID = {
    "rec_enrol_student_null.json": "student_zoho_id",
    "rec_enrol_class_null.json": "class_zoho_id",
}
SKIPPED = {"rec_enrol_draft_unapproved.json": "not_approved"}


def payload(case: dict[str, Any]) -> Any:
    """The payload of a case."""
    return json.loads((FOLDER / case["file"]).read_text())["payload"]


def post(client: httpx.Client, case: dict[str, Any], record: Any) -> list[dict[str, Any]]:
    """Posts one payload, its numbers untouched."""
    text = (FOLDER / case["file"]).read_text()
    response = client.post(
        f"/v1/sync/{PLURAL[case['module']]}",
        content=_slice(text, record) if case["kind"] == "record" else json.dumps(record),
        headers={"Content-Type": "application/json"},
    )
    return results(response)


def _slice(text: str, record: Any) -> str:
    """The payload's own text inside the case, so that no number is rewritten."""
    start = text.index('"payload":') + len('"payload":')
    decoder = json.JSONDecoder()
    begin = start + len(text[start:]) - len(text[start:].lstrip())
    found, end = decoder.raw_decode(text, begin)
    assert found == record
    return text[begin:end]


@pytest.mark.parametrize("case", RECORDS, ids=lambda case: case["file"])
def test_record(server: Server, tenant: str, case: dict[str, Any]) -> None:
    """A record leads to what the manifest, read with the contract, says."""
    raw = payload(case)
    with server.client(tenant) as client:
        entries = post(client, case, raw)
        count = len(raw) if isinstance(raw, list) else 1
        assert len(entries) == count
        recorded = client.get("/v1/audit/events").json()["items"]
    assert len(recorded) == count
    found = {entry["status"] for entry in entries}
    name = case["file"]
    if case["expect"] == "quarantine":
        assert found == {"INVALID"}
        return
    if name in INVALID:
        assert [error["field"] for error in entries[0]["errors"]] == [INVALID[name]]
        assert found == {"INVALID"}
        return
    assert found <= ACCEPTED
    if name in SKIPPED:
        assert {entry["reason"] for entry in entries} == {SKIPPED[name]}
    elif case["expect"] == "accept_partial" and name not in WITHOUT_WARNING:
        assert any(entry.get("warnings") for entry in entries)
    else:
        assert not any(entry.get("warnings") for entry in entries)


@pytest.mark.parametrize("case", SEQUENCES, ids=lambda case: case["file"])
def test_sequence(server: Server, tenant: str, case: dict[str, Any]) -> None:
    """The records of a sequence one after the other; each is an event, the end is right."""
    steps = [step["record"] for step in payload(case) if "record" in step]
    with server.client(tenant) as client:
        for record in steps:
            [entry] = post(client, case, record)
            assert entry["status"] in ACCEPTED
        items = client.get("/v1/audit/events").json()["items"]
        plural = PLURAL[case["module"]]
        final = {s["id"]: client.get(f"/v1/{plural}/{s['id']}").json() for s in steps}
    assert len(items) == len(steps)
    if case["file"] == "seq_email_swap.json":
        assert [i["email"] for i in final.values()] == ["p2@college.example", "p1@college.example"]
    if case["file"] == "seq_same_second_two_edits.json":
        assert [item["status"] for item in items] == ["NEW", "UNCHANGED"]  # the room is no field


@pytest.mark.parametrize(
    ("file", "field", "expected"),
    [
        (
            "rec_product_price_variants.json",
            "price",
            ["1299.00", "1299.95", "1299.00", "1299.50", "1299.00", "1299.00", "1299.50",
             "1299.00", "-5.00", "99999999999999.98", "0.00", "1299.50"],
        ),
        ("rec_product_moodle_id_variants.json", "moodle_id", ["41", None, "42", "42", "TBA"]),
    ],
)  # fmt: skip
def test_values(server: Server, tenant: str, file: str, field: str, expected: list[Any]) -> None:
    """Each variant of a value ends as one canonical text."""
    case = next(case for case in RECORDS if case["file"] == file)
    raw = payload(case)
    with server.client(tenant) as client:
        post(client, case, raw)
        found = [client.get(f"/v1/programs/{r['id']}").json()[field] for r in raw]
    assert found == expected
