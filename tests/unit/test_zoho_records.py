"""Records as the reader makes them: canonical values, flags, what is kept of them."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
        "rows": [{"id": "3", "Parent_Id": {"id": "1"}, "Passport": "B2", "$x": 1, "inner": {"id": "4", "x": "n"}}],
        "friends": [{"ID": "5", "zc_display_value": "n"}], "Guardian": {"id": "6", "mobile": "7"},
        "Address": {"city": "Amman"}, "Hobbies": ["chess"],
    }  # fmt: skip
    assert kept(raw) == {
        "id": "1", "name": "top", "Program": {"id": "2"}, "PASSPORT_NUMBER": "[redacted]",
        "National_Number": None, "Shoe_Size": "[redacted]", "Academic_Password": "[redacted]",
        "rows": [{"id": "3", "Parent_Id": {"id": "1"}, "Passport": "[redacted]", "inner": {"id": "4"}}],
        "friends": [{"id": "5"}], "Guardian": {"id": "6"},
        "Address": {"city": "Amman"}, "Hobbies": ["chess"],
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
    assert record.values == {"email": "[redacted]"}
    assert record.problems == [("program_zoho_id", "unreadable, Program is redacted by the configuration")]
    assert b"a@b.c" not in record.payload
    assert b"77" not in record.payload


NAMING = [
    {"Teacher": "John Smith"},
    {"Teacher": {"ID": "7", "name": "John Smith"}},
    {"Teacher_Name": "Smith"},
    {"Students": [{"id": "9", "full_name": "John Smith", "grade": 1}]},
    {"Students": [{"id": "9", "Student": {"id": "8", "Name": "John Smith", "Email": "j@x"}}]},
    {"Students": [{"ID": "9", "zc_display_value": "John Smith"}]},
    {"Monitors": [{"id": "9", "label": "x", "mobile": "Smith"}]},
    {"Monitor": {"name": "John Smith"}},
    {"Monitor": {"id": "John Smith"}},
    {"Monitor": {"id": "smith@Smith"}},
    {"Students": ["John Smith", 5]},
    {"Students": [["John Smith"]]},
    {"Students": '[{"id": "9", "label": "John Smith"}]'},
    {"Students": '[{"id": "9", "label": "John Smith"'},
    {"Students": "{id=9, name=John Smith}"},
    {"Students": '\ufeff[{"id": "9", "label": "John Smith"}]'},
    {"Rows": '\u200b [{"id": "9", "label": "John Smith"}]'},
    {"Rows": json.dumps(json.dumps([{"id": "9", "label": "John Smith"}]))},
    {"Rows": [json.dumps({"id": "9", "label": "John Smith"})]},
    {"Row": {"id": "9", "inner": json.dumps({"id": "8", "label": "Smith"})}},
    {"Students": "John Smith, Jane Smith"},
    {"Student_List": "Smith"},
    {"Teachers": "Smith"},
    {"TeacherName": "Smith"},
    {"Teacher": "Smith"},
    {"Teacher": {"id": "John Smith"}},
    {"Trainer": {"id": "a@Smith"}},
    {"Unit": {"id": "U1", "Instructor": {"id": "John Smith"}}},
    {"BTEC_Program": {"id": "P1", "Coordinator": {"id": "jane@Smith"}}},
    {"Unit": [{"id": "John Smith"}, {"id": "Jane Doe"}]},
    {"Class": {"id": "C", "Students": [{"id": "jane@Smith"}]}},
    {"Program": json.dumps([{"id": "P", "X": {"id": "P1"}, "Owner_Of": [{"id": "a@Smith"}]}])},
    {"Phone": "Smith"},
    {"Guardian_Mobile": "Smith"},
    {"Class_Status": '[null, {"First_Name": "Smith"}]'},
    {"Class_Name": json.dumps([json.dumps(["John Smith", "x"])])},
    {"Rows": json.dumps([{"name": "Smith"}] * 65)},
    {"Rows": json.dumps([[[{"name": "Smith"}]]])},
    {"Teacher": [{"id": "1", "T": {"id": "a@Smith"}}]},
    {"Status": ["Active", "John Smith"]},
    {"Short_Name": '[{"id": "1", "name": "John Smith"}]'},
    {"Name": ["John", "Smith"]},
    {"operation": ["John", "Smith"]},
    {"Start_Date": '{"by": {"name": "Smith"}}'},
    {"Note": "ask Smith, +962 79 000 0000"},
    {"Rows": [{"id": "1", "Parent_Id": {"id": "2"}, "Who": "John Smith"}]},
    {"Monitor": {"id": "1", "deep": {"id": "2", "deeper": {"label": "Smith"}}}},
    {"Student": "Smith"},
    {"Student_Name": "Smith"},
    {"student_email": "Smith"},
    {"Email": "Smith"},
    {"First_Name": "Smith"},
    {"Contact": "ask john@Smith.example"},
    {"john Smith": "x"},
    {"Monitor": {"john Smith": {"id": "1"}}},
    {"Owner": {"id": "1", "name": "Smith"}},
    {"Owner_Name": "Smith"},
]


@pytest.mark.parametrize("raw", NAMING)
@pytest.mark.parametrize("entity", ["class", "program"])
def test_unsealed_payloads_name_nobody(entity: str, raw: Any) -> None:
    """A class keeps ids where lookups and rows are, never the names beside them."""
    whole = {"id": "1", "Class_Name": "A", "Product_Name": "A", **raw}
    assert b"Smith" not in READER.read(entity, whole).payload
    assert b"Smith" not in READER.read(entity, {**whole, "id": None}).payload  # set aside


@pytest.mark.parametrize(
    "raw", [raw for raw in NAMING if not {"Teacher", "Student", "Start_Date", "Status"} & raw.keys()]
)
def test_an_enrollment_names_nobody_but_by_id(raw: Any) -> None:
    """It is sealed for one student, and may carry the words of another."""
    whole = {"id": "1", "Student": "S", "Class": "C", **raw}
    assert b"Smith" not in READER.read("enrollment", whole).payload


def test_an_unsealed_record_keeps_what_names_nobody() -> None:
    """Ids at any depth, and what stands in fields of its own."""
    raw = {
        "id": 7012345000001200001, "Class_Name": "Algebra [A]", "Short_Name": "{x}", "Room": "B 12", "Seats": 5,
        "Open": True, "Note": None, "Status": ["Active"], "Teacher": {"id": "T1"},
        "Students": [{"id": "1", "Student": {"ID": "2"}}, 7012345000001200002], "Price": "\u20ac 5",
        "Unit": ["UNIT_1"], "BTEC_Program": ["P1"], "Student_Count": 25, "Empty": "",
    }  # fmt: skip
    assert kept(raw, "class") == {
        **raw,
        "Students": [{"id": "1", "Student": {"id": "2"}}, 7012345000001200002],
    }


@pytest.mark.parametrize("number", ["1e999999", "1e400000", "-1e400000", "1e-400000"])
def test_numbers_out_of_all_range(number: str) -> None:
    """They are unreadable at once, in every field, and nothing is computed with them."""
    from ledger.zoho.payloads import read_payload

    body = f'{{"id": "1", "Product_Name": "x", "Price": {number}, "Modified_Time": {number}}}'
    raw = read_payload(body.encode(), "application/json", b"", READER.zoho_names("program")).records[0]
    record = READER.read("program", raw)
    assert "price" not in record.values
    assert [field for field, _ in record.problems] == ["price", "modified_time"]


def test_problems_do_not_repeat_values() -> None:
    """An unreadable value counts as absent and is named, never quoted."""
    record = READER.read("student", {"id": "1", "Program": "Level 5 of Layla", "Email": {"a": "b"}})
    assert record.values == {}
    assert [field for field, _ in record.problems] == ["email", "program_zoho_id"]
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
    raw = read_payload(body, "application/json", b"", READER.zoho_names("program")).records[0]
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
        ('{"id": "a\\ud800b"}', "a\ufffdb"),
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


@pytest.mark.parametrize(
    ("raw", "zoho_id", "warned"),
    [
        ({"id": 7.5, "ID": "S1"}, "S1", True),
        ({"id": "${!S.Id}", "ID": "S1"}, "S1", False),
        ({"id": "S${!S.Id}", "ID": "S1"}, "S1", True),
        ({"id": "\ufeffS1"}, "S1", False),
        ({"id": "S\u200b1\u200f"}, "S1", False),
        ({"id": "\u200fzcrm_ S1"}, "S1", False),
        ({"id": "7.01E+17"}, None, True),
        ({"id": "\u200f"}, None, True),
        ({"id": "${!A}${!B}"}, None, True),
        ({"id": " ${!A} \u200f ${!B} "}, None, True),
        ({"id": '["S1"]'}, None, True),
        ({"id": '{"id": "S1", "name": "x"}'}, None, True),
        ({"id": "S1\r\nFirst_Name=A"}, None, True),
        ({"id": '{"id": "S1"}', "ID": "S1"}, "S1", True),
        ({"id": "${!A}-${!B}"}, None, True),
    ],
)
def test_ids(raw: Any, zoho_id: str | None, warned: bool) -> None:
    """One id for one record, however it is decorated; none where it was not filled in."""
    raw = {name: Decimal(str(v)) if isinstance(v, float) else v for name, v in raw.items()}
    record = READER.read("student", raw)
    assert record.zoho_id == zoho_id
    assert [field for field, _ in record.problems] == (["id"] if warned else [])


@pytest.mark.parametrize(
    ("entity", "raw", "expected"),
    [
        ("program", {"Price": "free", "Unit_Price": 5}, {"price": "5.00"}),
        ("program", {"Price": "", "Program_Price": "free", "Unit_Price": "6"}, {"price": "6.00"}),
        ("student", {"Academic_Email": {"a": 1}, "Email": "a@b.c"}, {"email": "a@b.c"}),
        ("student", {"Program": "Level 5 Business", "BTEC_Program": "P"}, {"program_zoho_id": "P"}),
        ("enrollment", {"Student": "Layla Nasser", "Enrolled_Students": "S"}, {"student_zoho_id": "S"}),
        ("class", {"status": ["a", "b"], "Class_Status": "Open"}, {"status": "Open"}),
        ("class", {"Class_Name": {"a": 1}, "Name": "A"}, {"name": "A"}),
    ],
)
def test_an_unreadable_name_of_a_field_is_passed_over(
    entity: str, raw: dict[str, Any], expected: dict[str, str]
) -> None:
    """Like an empty one, with a warning."""
    record = READER.read(entity, {"id": "1", **raw})
    assert record.values == expected
    assert [field for field, _ in record.problems] == [*expected]


def test_an_unreadable_value_beside_an_empty_one_is_not_empty() -> None:
    """The state keeps what it has, whichever of the two comes first."""
    for raw in ({"Price": "free", "Unit_Price": ""}, {"Price": "", "Unit_Price": "free"}):
        assert READER.read("program", {"id": "1", **raw}).values == {}


MARKED = ("\u200f{}", "{}\u200e", "\ufeff {}\u200b")


@pytest.mark.parametrize("mark", MARKED)
@pytest.mark.parametrize(
    ("entity", "field", "name", "value"),
    [
        ("student", "status", "Status", "Freeze"),
        ("student", "email", "Email", "a@b.c"),
        ("student", "student_number", "Student_ID", "S-1"),
        ("student", "first_name", "First_Name", "Layla"),
        ("student", "program_zoho_id", "Program", "P1"),
        ("program", "moodle_id", "Moodle_ID", "42"),
        ("program", "price", "Price", "5.50"),
        ("class", "start_date", "Start_Date", "2026-01-31"),
        ("class", "name", "Class_Name", "Algebra"),
    ],
)
def test_invisible_characters(entity: str, field: str, name: str, value: str, mark: str) -> None:
    """They make no other value, and cost none."""
    record = READER.read(entity, {"id": "1", name: mark.format(value)})
    assert (record.values[field] or "").strip() == value
    assert not any(c in str(record.values) for c in "\u200f\u200e\ufeff\u200b")
    assert record.problems == []


def test_names_keep_their_joiners() -> None:
    """Persian and Indian names are written with them."""
    name = "\u0646\u0648\u0631\u200c\u0627\u0644\u0647\u062f\u06cc"
    assert READER.read("student", {"id": "1", "First_Name": f"\u200f {name}\u200e"}).values == {
        "first_name": f" {name}"
    }


@pytest.mark.parametrize("mark", MARKED)
@pytest.mark.parametrize(
    ("name", "word", "flag"),
    [
        ("Record_Status__s", "Trash", DELETION),
        ("Record_Status__s", "0", DELETION),
        ("operation", "delete", DELETION),
        ("event_type", "Removed", DELETION),
        ("Record_Status__s", "Draft", NOT_APPROVED),
        ("$state", "draft", NOT_APPROVED),
        ("$approved", "False", NOT_APPROVED),
    ],
)
def test_flags_with_invisible_characters(name: str, word: str, flag: int, mark: str) -> None:
    """A mark does not keep a deleted record alive; nor does a list around the word."""
    assert READER.read("student", {"id": "1", name: mark.format(word)}).flags == flag
    assert READER.read("student", {"id": "1", name: [word]}).flags == flag


@pytest.mark.parametrize(
    ("entity", "name", "value", "expected"),
    [
        ("student", "First_Name", ["Layla"], "Layla"),
        ("student", "Status", ["Active"], "Active"),
        ("program", "Price", ["5"], "5.00"),
        ("program", "Moodle_ID", ["42.0"], "42"),
        ("class", "Start_Date", ["2026-01-31"], "2026-01-31"),
        ("class", "Start_Date", [""], None),
        ("class", "Start_Date", [None], None),
        ("class", "Start_Date", [], None),
        ("class", "Start_Date", "[]", None),
        ("class", "Start_Date", '[""]', None),
        ("class", "Start_Date", '["2026-01-31"]', "2026-01-31"),
    ],
)
def test_a_list_of_one(entity: str, name: str, value: Any, expected: str | None) -> None:
    """Multi-select fields send one value in a list."""
    record = READER.read(entity, {"id": "1", name: value})
    assert list(record.values.values()) == [expected]
    assert record.problems == []


def test_a_modified_time_in_a_list() -> None:
    """Read as any other value."""
    raw = {"id": "1", "Modified_Time": ["2026-01-31T00:00:00Z"]}
    assert READER.read("student", raw).modified_at is not None


@pytest.mark.parametrize(
    ("record_currency", "own", "given", "price"),
    [
        (None, None, "1.500", "1500.00"),
        ("JOD", None, "1.500", "1.50"),
        (None, "JOD", "1.500", "1.50"),
        (None, "JOD", "1,500", "1500.00"),
        (None, "TND", "1,500", "1.50"),
        ("USD", "JOD", "1.500", "1500.00"),
        (" jod\u200f", None, "1.500", "1.50"),
        ({"id": "1"}, "KWD", "1.500", "1.50"),
    ],
)
def test_a_currency_of_three_decimals(record_currency: Any, own: str | None, given: str, price: str) -> None:
    """The record's own counts before the college's."""
    reader = Reader(ENTITIES, TenantSettings(currency=own))
    raw = {"id": "1", "Price": given, "Currency": record_currency}
    assert reader.read("program", raw).values["price"] == price


def test_identity_numbers_in_rows_of_a_form() -> None:
    """They are never stored, at any depth, whatever the form of the row."""
    rows = [{"Passport_No": "P12345", "inner": {"national_id": "P12345"}}]
    for sent in (rows, json.dumps(rows), json.dumps(json.dumps(rows)), [json.dumps(rows[0])]):
        for entity in ENTITIES.names():
            raw = {
                "id": "1",
                "Last_Name": "x",
                "Docs": sent,
                "More": json.dumps([1, None, rows, [rows] * 70]),
                "Bad": json.dumps(rows)[:-1],
                "Worse": json.dumps([{**rows[0], "x": "\ud800"}]),
                "Student": "S",
                "Class": "C",
            }
            assert b"P12345" not in READER.read(entity, raw).payload


def test_another_student_in_a_student() -> None:
    """Is an id, also as JSON text."""
    for sent in ([{"id": "9", "name": "Rana"}], '[{"id": "9", "name": "Rana"}]'):
        assert kept({"id": "1", "Siblings": sent}) == {"id": "1", "Siblings": [{"id": "9"}]}


@pytest.mark.parametrize("value", ['["Algebra"]', '\ufeff["Algebra"]', ["Algebra", ""], '["", "Algebra"]'])
def test_a_list_of_one_as_text(value: Any) -> None:
    """Forms carry a multi-select so."""
    record = READER.read("class", {"id": "1", "Class_Name": value})
    assert (record.values, record.problems) == ({"name": "Algebra"}, [])


@pytest.mark.parametrize("name", ["[A] Algebra", "[1]", "{x}", '"Algebra"', "[]x"])
def test_a_name_that_looks_like_json(name: str) -> None:
    """Is a name."""
    assert READER.read("class", {"id": "1", "Class_Name": name}).values == {"name": name}


WRITTEN = st.sampled_from([
    "x", "", None, 5, True, "2026-01-31", "31/01/2026", "\u200f7012\u200e", {"id": "7"}, {"ID": "7", "label": "x"},
    [{"id": "1", "X": {"id": "7"}}], ["STU_1"], ["a", "b"], "Rs. 5", '{"id": "7"}', '["x"]', "${!A}", "a ${!A}",
    [{"id": "7", "$x": {"id": "8"}}], "a@b.c", "[1]", {"a": 1}, ["x", ""], "[]", '[""]', [None],
])  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(ENTITIES.names()), st.data())
def test_what_is_kept_reads_as_what_came(entity: str, data: Any) -> None:
    """So that it can be sent through the intake again."""
    names = sorted(READER.zoho_names(entity) | {"Currency"})
    raw = {"id": "1", **data.draw(st.dictionaries(st.sampled_from(names), WRITTEN, max_size=6))}
    record = READER.read(entity, raw)
    again = READER.read(entity, json.loads(record.payload)["record"])
    assert again.values == record.values
    assert again.provisional == record.provisional


@pytest.mark.parametrize(
    ("entity", "name", "text", "expected"),
    [
        ("student", "Status", "[null]", None),
        ("student", "Status", '["Active"]', "Active"),
        ("program", "Moodle_ID", "[42]", "42"),
        ("program", "Price", "[1299]", "1299.00"),
        ("program", "Product_Active", "[true]", "true"),
        ("class", "Start_Date", "[1782277200000]", "2026-06-24"),
        ("student", "First_Name", "[null]", "[null]"),
    ],
)
def test_a_list_as_text_is_that_list(entity: str, name: str, text: str, expected: str | None) -> None:
    """As forms carry it; but a name may look like one."""
    record = READER.read(entity, {"id": "1", name: text})
    assert (list(record.values.values()), record.problems) == ([expected], [])


@pytest.mark.parametrize(
    ("name", "text", "flag"),
    [
        ("Record_Status__s", "[0]", DELETION),
        ("$approved", "[false]", NOT_APPROVED),
        ("operation", '["delete"]', DELETION),
    ],
)
def test_flags_in_a_list_as_text(name: str, text: str, flag: int) -> None:
    """Nothing stays alive for its form."""
    assert READER.read("student", {"id": "1", name: text}).flags == flag


@pytest.mark.parametrize("inner", ["\\u0000", "\\ud800"])
@pytest.mark.parametrize("name", ["Status", "First_Name", "Other", "Program"])
def test_bad_characters_inside_json_text(inner: str, name: str) -> None:
    """They are replaced there, too, before anything is stored or compared."""
    for text in (f'["a{inner}b1"]', f'{{"id": "a{inner}b1", "x": ["{inner}"]}}', f'[{{"id": "a{inner}b1"}}]'):
        record = READER.read("student", {"id": "1", name: text})
        assert not any(c in str(record.values) for c in "\x00\ud800")
        assert b"\\u0000" not in record.payload
        assert b"ud800" not in record.payload


def test_lookups_with_empty_ones_beside_them() -> None:
    """Count as the one that is there."""
    raw = {"id": "E", "Student": ["", {"id": "S"}], "Class": [None, "C"], "Program": ["", None]}
    record = READER.read("enrollment", raw)
    assert record.values == {"student_zoho_id": "S", "class_zoho_id": "C", "program_zoho_id": None}
    assert record.problems == []


def test_a_telephone_number_is_no_lookup() -> None:
    """Nor is it stored."""
    for sent in ("+962791234567", {"id": "+962791234567"}, [{"ID": "+962791234567"}]):
        record = READER.read("class", {"id": "1", "Class_Name": "A", "Teacher": sent, "Other": sent})
        assert "teacher_zoho_id" not in record.values
        assert b"791234567" not in record.payload


def test_a_mapping_takes_no_protection_away() -> None:
    """The packaged names of persons stay known, also where a college has others."""
    mapping = {"student": {"first_name": ("Given_Name",)}, "class": {"teacher_zoho_id": ("Lecturer",)},
               "enrollment": {"student_zoho_id": ("Learner",)}}  # fmt: skip
    reader = Reader(ENTITIES, TenantSettings(mapping=mapping))
    for name in (
        "Student_Name",
        "Students",
        "First_Name",
        "Teacher",
        "Teacher_Name",
        "Given_Name",
        "Lecturer",
        "Learners",
    ):
        record = reader.read("class", {"id": "1", "Class_Name": "A", name: "Smith"})
        assert b"Smith" not in record.payload, name


def test_an_object_is_what_its_id_says() -> None:
    """Ids are text: what a record may be called, a lookup may name."""
    raw = {"id": "E", "Student": {"id": "STU 1"}, "Class": {"ID": "c@1"}, "Program": [{"id": "+P 1"}]}
    record = READER.read("enrollment", raw)
    assert record.values == {"student_zoho_id": "STU 1", "class_zoho_id": "c@1", "program_zoho_id": "+P 1"}
    assert READER.read("enrollment", json.loads(record.payload)["record"]).values == record.values
    assert READER.read("student", {"id": "STU\u00a01"}).zoho_id == "STU\u00a01"
