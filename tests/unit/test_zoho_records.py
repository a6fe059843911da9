"""Records as the reader makes them: canonical values, flags, what is kept of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ledger.events import DELETION, NOT_APPROVED, UNUSABLE
from ledger.settings import TenantSettings
from ledger.zoho.entities import ENTITIES
from ledger.zoho.records import Reader

READER = Reader(ENTITIES, TenantSettings(redact_fields=frozenset({"shoe_size"})))


def kept(raw: Any, entity: str = "student") -> Any:
    """The record as it is stored."""
    return json.loads(READER.read(entity, raw).payload)["record"]


def test_what_is_kept() -> None:
    """Lookups become ids, users and `$` fields go, identity numbers are never stored."""
    raw = {
        "id": "1", "name": "top", "Owner": {"id": "9", "name": "R", "email": "r@x"},
        "$approved": True, "Program": {"id": "2", "name": "P"}, "PASSPORT_NUMBER": "A1",
        "National_Number": None, "Shoe_Size": 43, "Academic_Password": "p",
        "rows": [{"id": "3", "Passport": "B2", "$x": 1, "inner": {"id": "4", "name": "n"}}],
    }  # fmt: skip
    assert kept(raw) == {
        "id": "1", "name": "top", "Program": {"id": "2"}, "PASSPORT_NUMBER": "[redacted]",
        "National_Number": None, "Shoe_Size": "[redacted]", "Academic_Password": "[redacted]",
        "rows": [{"id": "3", "Passport": "[redacted]", "inner": {"id": "4"}}],
    }  # fmt: skip


@pytest.mark.parametrize("raw", [7, None, "x", [1], {"Name": "no id"}, {"id": "${!S.Id}"}, {"id": True}])
def test_unusable(raw: Any) -> None:
    """Without a usable id the record is kept and flagged, and the problem names `id`."""
    record = READER.read("student", raw)
    assert record.zoho_id is None
    assert record.flags == UNUSABLE
    assert [field for field, _ in record.problems] == ["id"]


@pytest.mark.parametrize(
    ("extra", "flags"),
    [
        ({"Record_Status__s": "Trash"}, DELETION),
        ({"Record_Status__s": 0}, DELETION),
        ({"Record_Status__s": "Draft"}, NOT_APPROVED),
        ({"$state": "draft"}, NOT_APPROVED),
        ({"$approved": False}, NOT_APPROVED),
        ({"operation": "delete"}, DELETION),
        ({"event_type": "Removed"}, DELETION),
        ({"operation": "update", "Record_Status__s": "Available", "$approved": True}, 0),
        ({"Record_Status__s": False}, 0),
    ],
)
def test_flags(extra: dict[str, Any], flags: int) -> None:
    """Deletions and drafts in the forms that Zoho gives them."""
    assert READER.read("student", {"id": "1", **extra}).flags == flags


def test_absent_is_not_empty() -> None:
    """The first name that is present and not empty; null where only empty ones are."""
    values = READER.read("program", {"id": "1", "Price": None, "Unit_Price": 5, "Status": ""}).values
    assert values == {"price": "5.00", "status": None}


def test_class_name_falls_back() -> None:
    """The short name, then `Name`, stand in for a class name; only provisionally where
    the record does not speak of the name at all.
    """
    full = READER.read("class", {"id": "1", "Class_Name": None, "Name": "C26-1", "Short_Name": "S"})
    assert full.values["name"] == "S"
    assert full.provisional == ()
    thin = READER.read("class", {"id": "1", "Name": "C26-1"})
    assert thin.values == {"name": "C26-1"}
    assert thin.provisional == ("name",)


def test_bad_characters() -> None:
    """NUL and lone surrogates become U+FFFD, with a warning that names the field."""
    record = READER.read("student", {"id": "a\x00b", "First_Name": "L\ud800", "x\x00": ["\x00"]})
    assert record.zoho_id == "a\ufffdb"
    assert record.values["first_name"] == "L\ufffd"
    assert {field for field, _ in record.problems} == {"id", "first_name", "other"}
    assert b"\x00" not in record.payload


def test_redaction_reaches_canonical_values() -> None:
    """What is configured to be redacted is nowhere, also where a field is made of it."""
    reader = Reader(ENTITIES, TenantSettings(redact_fields=frozenset({"academic_email", "program"})))
    record = reader.read("student", {"id": "1", "Academic_Email": "a@b.c", "Program": {"id": "77"}})
    assert record.values == {"email": "[redacted]", "program_zoho_id": None}
    assert b"a@b.c" not in record.payload
    assert b"77" not in record.payload


@pytest.mark.parametrize(
    "raw",
    [
        {"Teacher": "John Smith"},
        {"Teacher": {"ID": "7", "name": "John Smith"}},
        {"Students": [{"id": "9", "full_name": "John Smith", "grade": 1}]},
        {"Students": [{"id": "9", "Student": {"id": "8", "Name": "John Smith", "Email": "j@x"}}]},
    ],
)
def test_unsealed_payloads_name_nobody(raw: Any) -> None:
    """A class keeps ids where lookups are, never the names beside them."""
    assert b"Smith" not in READER.read("class", {"id": "1", "Class_Name": "A", **raw}).payload


@pytest.mark.parametrize("number", ["1e999999", "1e400000", "-1e400000", "1e-400000"])
def test_numbers_out_of_all_range(number: str) -> None:
    """They are unreadable at once, in every field, and nothing is computed with them."""
    from ledger.zoho.payloads import read_payload

    body = f'{{"id": "1", "Product_Name": "x", "Price": {number}, "Modified_Time": {number}}}'
    raw = read_payload(body.encode(), "application/json", b"").records[0]
    record = READER.read("program", raw)
    assert record.values["price"] is None
    assert [field for field, _ in record.problems] == ["price", "modified_time"]


def test_problems_do_not_repeat_values() -> None:
    """An unreadable value is null and named, never quoted."""
    record = READER.read("student", {"id": "1", "Program": "Level 5 of Layla", "Email": {"a": "b"}})
    assert record.values == {"email": None, "program_zoho_id": None}
    assert "Layla" not in str(record.problems)


def test_mapping_of_a_tenant() -> None:
    """A tenant may keep a field under another name."""
    settings = TenantSettings(mapping={"program": {"price": ("Fee",)}})
    reader = Reader(ENTITIES, settings)
    assert reader.read("program", {"id": "1", "Fee": 7, "Price": 9}).values == {"price": "7.00"}


def test_exact_decimals_are_stored() -> None:
    """A price of many digits is stored with all of them."""
    from ledger.zoho.payloads import read_payload

    body = b'{"id": "1", "Price": 99999999999999.123456789}'
    raw = read_payload(body, "application/json", b"").records[0]
    record = READER.read("program", raw)
    assert b"99999999999999.123456789" in record.payload
    assert record.values["price"] == "99999999999999.123456789"


@pytest.mark.parametrize(
    ("text", "student"),
    [
        ('{"id": "7012345000001200001", "name": "Layla"}', "7012345000001200001"),
        (' [{"id": "row", "X": {"id": "S"}}]', "S"),
        ('{"id": 7012345000001200001}', "7012345000001200001"),
        ('{"id": "a\\u0000b"}', "a\ufffdb"),
        ('{"id": "a\\ud800b"}', None),
        ("[" * 1100, None),
        ('{"id": "a", "x": 1e99999999999999999999999}', None),
        ('{"id": ', None),
    ],
)
def test_a_lookup_as_json_text(text: str, student: str | None) -> None:
    """Forms carry lookups as text: read, reduced and cleaned as if it were an object."""
    record = READER.read("enrollment", {"id": "E", "Student": text, "BTEC_Class": "C"})
    assert record.values["student_zoho_id"] == student
    assert (student is None or "\ufffd" in student) == bool(record.problems)
    assert b"Layla" not in record.payload


def test_an_unsealed_record_keeps_no_name_of_a_person() -> None:
    """Nor as JSON text, readable or broken."""
    for text in (
        '{"id": "T1", "name": "Mr Secret"}',
        '[{"id": "1", "name": "Mr Secret"}]',
        '{"name": "Mr Secret',
    ):
        assert "Secret" not in json.dumps(kept({"id": "K", "Class_Name": "A", "Teacher": text}, "class"))


def test_an_empty_lookup_yields_to_the_next_name() -> None:
    """As an object, in a row, or as text."""
    for empty in ({"id": ""}, [{"id": None}], [], '{"id": ""}', "[]", '[{"id": null}]'):
        raw = {"id": "E", "Student": empty, "Enrolled_Students": "S", "BTEC_Class": empty, "Class": "C"}
        record = READER.read("enrollment", raw)
        assert (record.values["student_zoho_id"], record.values["class_zoho_id"]) == ("S", "C")
        assert record.problems == []
