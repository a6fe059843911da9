"""One meaning, many bodies."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest

from ledger.errors import TooLargeError, UnreadableBodyError
from ledger.zoho import payloads
from ledger.zoho.entities import ENTITIES
from ledger.zoho.payloads import Payload

NAMES = ENTITIES["student"].zoho_names


def read_payload(body: bytes, content_type: str, query: bytes, **limits: int) -> Payload:
    """The records of a body that was sent to the students."""
    return payloads.read_payload(body, content_type, query, NAMES, **limits)


RECORD = {"id": "1", "Name": "x"}
TEXT = json.dumps(RECORD)
MULTIPART = (
    '--b1\r\nContent-Disposition: form-data; name="id"\r\n\r\n1\r\n'
    '--b1\r\nContent-Disposition: form-data; name="Name"\r\n\r\nx\r\n--b1--\r\n'
)


@pytest.mark.parametrize(
    ("body", "content_type", "query"),
    [
        (json.dumps({"data": [RECORD]}), "application/json", ""),
        (json.dumps({"data": RECORD}), "application/json", ""),
        (json.dumps({"records": [RECORD], "source": "crm"}), "application/json", ""),
        (json.dumps({"data": TEXT}), "application/json", ""),
        (json.dumps({"data": json.dumps(json.dumps([RECORD]))}), "application/json", ""),
        (json.dumps({"data": None, "records": [RECORD]}), "application/json", ""),
        (json.dumps({"data": [], "records": [RECORD]}), "application/json", ""),
        (TEXT, "multipart/form-data; boundary=x", ""),
        (urlencode(RECORD), "multipart/mixed", ""),
        (MULTIPART, "multipart/form-data; boundary=other", ""),
        (MULTIPART, "multipart/form-data", ""),
        (json.dumps([RECORD]), "application/json", ""),
        (TEXT, "application/json", ""),
        (TEXT, "text/plain; charset=utf-8", ""),
        (TEXT, "application/x-www-form-urlencoded", ""),
        (TEXT, "", ""),
        ("\ufeff" + TEXT, "application/json", ""),
        (json.dumps(TEXT), "application/json", ""),
        (json.dumps(json.dumps([RECORD])), "application/json", ""),
        ("data=" + quote_plus(json.dumps([RECORD])), "application/x-www-form-urlencoded", ""),
        ("payload=" + quote_plus(TEXT), "text/plain", ""),
        ("arguments=" + quote_plus(json.dumps({"data": [RECORD]})), "application/json", ""),
        (urlencode(RECORD), "application/json", ""),
        (MULTIPART, "multipart/form-data; boundary=b1", ""),
        (MULTIPART, "application/json", ""),
        ("", "", urlencode(RECORD)),
        ("", "application/json", "data=" + quote_plus(TEXT)),
    ],
)
def test_same_record(body: str, content_type: str, query: str) -> None:
    """Every shape gives the same record; the content type is a hint only."""
    payload = read_payload(body.encode(), content_type, query.encode())
    assert payload.records == [RECORD]
    assert not payload.deleted


def test_utf_16() -> None:
    """Windows senders write UTF-16 now and then."""
    assert read_payload(TEXT.encode("utf-16"), "application/json", b"").records == [RECORD]


@pytest.mark.parametrize(
    "body",
    ['{"data": [', "", "   ", "7", "null", "true", '"text"', "<a/>", "NaN", '{"data": 7}', "\xff\xfe\x00",
     '{"id": "1", "x": 1e' + "9" * 30 + "}", '{"id": ' + "9" * 5000 + "}", '{"data": null}', "a", '{"data": "x"}'],
)  # fmt: skip
def test_unreadable(body: str) -> None:
    """Refused as a whole, with a reason."""
    with pytest.raises(UnreadableBodyError) as caught:
        read_payload(body.encode("latin-1"), "application/json", b"")
    assert len(str(caught.value)) > 10


@pytest.mark.parametrize("operation", ["delete", "Deleted", "REMOVE", "trash"])
@pytest.mark.parametrize("name", ["operation", "event_type"])
def test_envelope_that_deletes(name: str, operation: str) -> None:
    """The envelope may say that its records are gone."""
    body = json.dumps({name: operation, "data": [RECORD]}).encode()
    assert read_payload(body, "application/json", b"").deleted == {0}


def _nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_depth() -> None:
    """64 levels are read, 65 are not, and neither are bombs or JSON in JSON."""
    assert read_payload(_nested(64), "application/json", b"").records
    for body in (_nested(65), _nested(5_000), _nested(200_000), b'{"a":' * 70 + b"1" + b"}" * 70,
                 json.dumps({"data": _nested(65).decode()}).encode()):  # fmt: skip
        with pytest.raises(UnreadableBodyError, match=r"deeper than 64|neither"):
            read_payload(body, "application/json", b"")


def test_too_many() -> None:
    """The limit of records names itself."""
    with pytest.raises(TooLargeError, match="MAX_RECORDS"):
        read_payload(json.dumps([1] * 11).encode(), "application/json", b"", max_records=10)


@pytest.mark.parametrize(("records", "suspect"), [([{"id": "a\x00"}], True), ([{"id": "a"}], False)])
def test_suspicion(records: list[Any], suspect: bool) -> None:
    """Only bodies that may hold NUL or surrogates are searched for them."""
    assert read_payload(json.dumps(records).encode(), "application/json", b"").suspect is suspect


def test_exact_numbers() -> None:
    """Whole digits stay exact however many there are."""
    body = b'[{"id": 123456789012345678901234567890}]'
    assert read_payload(body, "application/json", b"").records == [{"id": 123456789012345678901234567890}]


def test_a_record_with_an_empty_list_in_it() -> None:
    """A field that is named like an envelope does not make a record disappear."""
    record = {"id": "1", "records": []}
    assert read_payload(json.dumps(record).encode(), "application/json", b"").records == [record]
    assert read_payload(b'{"data": []}', "application/json", b"").records == []


def test_a_file_beside_the_fields() -> None:
    """A part that is no text spoils none of the others."""
    body = MULTIPART.replace(
        "--b1--", '--b1\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    )
    payload = read_payload(body.encode() + b"\xff\xfe\r\n--b1--\r\n", "multipart/form-data; boundary=b1", b"")
    assert {k: payload.records[0][k] for k in ("id", "Name")} == RECORD


OTHER = {"id": "2", "Last_Name": "y"}
THIRD = {"id": "3", "Email": "z"}


def form(*pairs: tuple[str, Any]) -> bytes:
    """A form, values that are no text as JSON."""
    return urlencode([(n, v if isinstance(v, str) else json.dumps(v)) for n, v in pairs]).encode()


def parts(*pairs: tuple[str, Any]) -> bytes:
    """The same as a multipart form."""
    written = [
        f'--b1\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v if isinstance(v, str) else json.dumps(v)}\r\n'
        for n, v in pairs
    ]
    return ("".join(written) + "--b1--\r\n").encode()


TWO = [
    (("data", RECORD), ("data", OTHER)),
    (("data", [RECORD]), ("data", [OTHER])),
    (("payload", RECORD), ("arguments", OTHER)),
    (("arguments", RECORD), ("payload", [OTHER])),
    (("records", RECORD), ("data", {"data": OTHER})),
    (("data", RECORD), ("source", "crm"), ("payload", ""), ("records", [OTHER])),
    (("data", "null"), ("data", [RECORD, OTHER])),
]


@pytest.mark.parametrize("write", [form, parts])
@pytest.mark.parametrize("pairs", TWO)
def test_every_envelope_of_a_form_is_read(write: Any, pairs: Any) -> None:
    """In the order in which they stand."""
    assert read_payload(write(*pairs), "multipart/form-data; boundary=b1", b"").records == [RECORD, OTHER]
    if write is form:
        assert read_payload(b"", "", write(*pairs)).records == [RECORD, OTHER]


@pytest.mark.parametrize(
    ("body", "records"),
    [
        ({"data": [RECORD], "records": [OTHER]}, [RECORD, OTHER]),
        ({"records": [RECORD], "data": OTHER}, [RECORD, OTHER]),
        ({"payload": RECORD, "arguments": json.dumps([OTHER])}, [RECORD, OTHER]),
        ({"data": {"data": RECORD, "records": [OTHER]}}, [RECORD, OTHER]),
        ({"data": [RECORD, {"data": [OTHER, THIRD]}]}, [RECORD, OTHER, THIRD]),
        ([{"data": RECORD}, {"records": [OTHER]}], [RECORD, OTHER]),
        ([RECORD, json.dumps(OTHER)], [RECORD, OTHER]),
        ([json.dumps([RECORD, OTHER]), THIRD], [RECORD, OTHER, THIRD]),
        ({"data": [RECORD], "records": []}, [RECORD]),
        ({"data": [], "records": None, "payload": "${!x}"}, []),
        ({"data": [RECORD], "payload": "webhook"}, [RECORD]),
        ({"status": "success", "data": [RECORD]}, [RECORD]),
        ({"id": "request", "data": [RECORD]}, [RECORD]),
        ({"id": "9", "data": []}, [{"id": "9", "data": []}]),
        ({"id": "9", "data": "note"}, [{"id": "9", "data": "note"}]),
        ({"Name": "no id", "payload": ""}, [{"Name": "no id", "payload": ""}]),
        ([{"data": "note"}, RECORD], [{"data": "note"}, RECORD]),
    ],
)
def test_every_envelope_of_json_is_read(body: Any, records: list[Any]) -> None:
    """Beside each other, inside each other, in lists, as text."""
    assert read_payload(json.dumps(body).encode(), "application/json", b"").records == records


@pytest.mark.parametrize("name", payloads.ENVELOPES)
@pytest.mark.parametrize(
    "value",
    ["evening group", "", None, 5, [], ["a"], {"a": 1}, [{"id": "ROW", "Item": "books"}], '{"id": "ROW"}'],
)
def test_a_record_with_a_field_that_is_called_like_an_envelope(name: str, value: Any) -> None:
    """It has an id and a field of the entity, so it is a record, and keeps that field."""
    record = {**RECORD, name: value}
    assert read_payload(json.dumps(record).encode(), "application/json", b"").records == [record]
    assert read_payload(json.dumps({"data": [record]}).encode(), "", b"").records == [record]
    text = value if isinstance(value, str) else json.dumps(value)
    for write in (form, parts):
        found = read_payload(write(*record.items()), "multipart/form-data; boundary=b1", b"").records
        assert found == [{**RECORD, name: text}]


@pytest.mark.parametrize("name", payloads.ENVELOPES)
@pytest.mark.parametrize(
    "inner",
    [
        {"id": "2", "operation": "delete"},
        [{"id": "2", "Record_Status__s": "Trash"}],
        [[OTHER]],
        OTHER,
        [OTHER],
        {"records": [OTHER]},
        [json.dumps(OTHER)],
        json.dumps({"data": OTHER}),
    ],
)
def test_a_record_that_holds_records_has_two_meanings(name: str, inner: Any) -> None:
    """Nothing of it is taken."""
    record = {**RECORD, name: inner}
    for body in (record, [record], {"data": record}, {"records": [OTHER, record]}):
        with pytest.raises(UnreadableBodyError, match="two meanings"):
            read_payload(json.dumps(body).encode(), "application/json", b"")
    for write in (form, parts):
        with pytest.raises(UnreadableBodyError, match="two meanings"):
            read_payload(write(*record.items()), "multipart/form-data; boundary=b1", b"")


@pytest.mark.parametrize("name", payloads.ENVELOPES)
@pytest.mark.parametrize("written", ['"{0}"', '"\\u00{1:02x}{2}"'])
def test_the_same_envelope_twice_in_one_object(name: str, written: str) -> None:
    """JSON keeps one of them only, so the body is refused; in two objects it is fine."""
    key = written.format(name, ord(name[0]), name[1:])
    twice = f'{{"{name}": [{TEXT}], {key}: [{json.dumps(OTHER)}]}}'
    for body in (twice, f"[{twice}]", json.dumps({"data": twice}), json.dumps(twice), "\ufeff" + twice):
        with pytest.raises(UnreadableBodyError, match="twice"):
            read_payload(body.encode(), "application/json", b"")
    with pytest.raises(UnreadableBodyError, match="twice"):
        read_payload(form(("data", twice)), "", b"")
    with pytest.raises(UnreadableBodyError, match="twice"):
        read_payload(twice.encode("utf-16"), "application/json", b"")
    apart = f'[{{"{name}": {TEXT}}}, {{{key}: {json.dumps(OTHER)}}}]'
    assert read_payload(apart.encode(), "application/json", b"").records == [RECORD, OTHER]


@pytest.mark.parametrize(
    "body",
    [
        form(("data", "note")), form(("data", '{"id": 1')), form(("data", [RECORD]), ("payload", '[{"id": ')),
        form(("payload", "7")), form(("data", "")), json.dumps({"data": [RECORD], "records": '[{"id"'}).encode(),
        b'{"payload": null}', form(("payload", RECORD), ("data", quote_plus(TEXT))),
    ],
)  # fmt: skip
def test_an_envelope_that_cannot_be_read(body: bytes) -> None:
    """No part of a body is lost behind the others."""
    with pytest.raises(UnreadableBodyError):
        read_payload(body, "", b"")


def test_a_field_that_comes_twice() -> None:
    """With one value it is that value, with two a list, which no field is read from."""
    for write in (form, parts):
        body = write(("id", "1"), ("Name", "x"), ("Name", "x"), ("Status", "a"), ("Status", "b"))
        assert read_payload(body, "multipart/form-data; boundary=b1", b"").records == [
            {"id": "1", "Name": "x", "Status": ["a", "b"]}
        ]


def test_a_deletion_is_of_its_own_envelope() -> None:
    """The envelope beside it keeps its records."""
    body = [RECORD, {"operation": "delete", "data": [OTHER, {"data": THIRD}]}, {"data": RECORD}]
    payload = read_payload(json.dumps(body).encode(), "application/json", b"")
    assert (payload.records, payload.deleted) == ([RECORD, OTHER, THIRD, RECORD], {1, 2})


@pytest.mark.parametrize("query", [form(*OTHER.items()), form(("data", OTHER)), form(("arguments", [OTHER]))])
def test_records_in_the_query_beside_a_body(query: bytes) -> None:
    """Neither may be lost."""
    with pytest.raises(UnreadableBodyError, match="query"):
        read_payload(TEXT.encode(), "application/json", query)
    assert read_payload(TEXT.encode(), "application/json", b"id=5&source=crm&data=x").records == [RECORD]


ARABIC = "\u0644\u064a\u0644\u0649"


@pytest.mark.parametrize(
    ("label", "text"),
    [("windows-1256", ARABIC), ("cp1256", ARABIC), ("ISO-8859-6", ARABIC), ("utf8", ARABIC), ("UTF-16LE", ARABIC),
     ("latin1", "Zo\u00eb \u20ac"), ("us-ascii", "Zo\u00eb"), ("shift_jis", "\u6771"), ("gbk", "\u4e1c"), ("utf-16", "\u4e1c")],
)  # fmt: skip
def test_a_charset_that_is_named_is_used(label: str, text: str) -> None:
    """By the web's names, in JSON, in forms (escaped or not), in parts, in the query."""
    codec = {"latin1": "cp1252", "us-ascii": "cp1252", "utf-16": "utf-16-le"}.get(label, label)
    record = {"id": "1", "Name": text}
    raw = text.encode(codec)
    escaped = "".join(f"%{byte:02X}" for byte in raw).encode()
    json_type = f"application/json; charset={label}"
    assert read_payload(json.dumps(record, ensure_ascii=False).encode(codec), json_type, b"").records == [
        record
    ]
    if not codec.lower().startswith("utf-16"):
        for body in (b"id=1&Name=" + escaped, b"id=1&Name=" + raw.replace(b"&", b"%26")):
            assert read_payload(body, f'text/plain; charset="{label}"', b"").records == [record]
        assert read_payload(b"", f"x/y;charset={label}", b"id=1&Name=" + escaped).records == [record]
        body = parts(("id", "1"), ("Name", "@")).replace(b"@", raw)
        assert read_payload(body, f"multipart/form-data; boundary=b1; charset={label}", b"").records == [
            record
        ]
        body = body.replace(
            b'name="Name"', f'name="Name"\r\nContent-Type: text/plain; charset={label}'.encode()
        )
        assert read_payload(body, "multipart/form-data; boundary=b1", b"").records == [record]
        body = parts(("_charset_", label), ("id", "1"), ("Name", "@")).replace(b"@", raw)
        assert read_payload(body, "multipart/form-data; boundary=b1", b"").records == [
            {"_charset_": label, **record}
        ]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (TEXT.encode(), "application/json; charset=klingon"),
        (b"id=1&Name=x", "application/x-www-form-urlencoded; charset=iso-2022-kr"),
        (b"id=1&Name=%E1%ED%E1%EC", "application/x-www-form-urlencoded"),
        (b"id=1&Name=\xe1\xed", ""),
        (b'{"id": "1", "Name": "\xe1\xed"}', "application/json"),
        (b'{"id": "1", "Name": "\x81"}', "application/json; charset=shift_jis"),
        (b"id=1&Name=%81", "x/y; charset=euc-kr"),
        (parts(("id", "1"), ("Name", "@")).replace(b"@", b"\xe1\xed"), "multipart/form-data; boundary=b1"),
        (parts(("data", "@")).replace(b'"data"', b'"data"; filename="a"').replace(b"@", b"\xff"), ""),
    ],
)
def test_no_question_marks_over_a_good_name(body: bytes, content_type: str) -> None:
    """What is not written as it says is refused as a whole."""
    with pytest.raises(UnreadableBodyError):
        read_payload(body, content_type, b"")


def test_a_byte_order_mark_is_surer_than_the_header() -> None:
    """It is only there where somebody wrote it."""
    for codec in ("utf-8-sig", "utf-16"):
        assert read_payload(TEXT.encode(codec), "text/plain; charset=latin1", b"").records == [RECORD]
    assert read_payload("\ufeffid=1&Name=x".encode(), "text/plain; charset=latin1", b"").records == [RECORD]


def test_a_part_without_a_name() -> None:
    """It may hold a record, so it is not left out."""
    body = MULTIPART.replace('; name="Name"', "")
    with pytest.raises(UnreadableBodyError, match="no name"):
        read_payload(body.encode(), "multipart/form-data; boundary=b1", b"")


def test_records_in_a_file() -> None:
    """A file that is called like an envelope is one."""
    body = parts(("data", [RECORD])).replace(b'"data"', b'"data"; filename="students.json"')
    assert read_payload(body, "multipart/form-data; boundary=b1", b"").records == [RECORD]


def test_text_in_text_in_text_ends() -> None:
    """Envelopes as text inside each other are as deep as a body may be."""
    text = json.dumps([RECORD])
    for _ in range(8):
        text = json.dumps([text])
    assert read_payload(text.encode(), "application/json", b"").records == [RECORD]


def test_a_tombstone_that_holds_records() -> None:
    """Its own deletion would be lost."""
    for body in (
        {"id": "2", "Record_Status__s": "Trash", "data": [RECORD]},
        [{"id": "2", "Record_Status__s": 0, "data": RECORD}],
    ):
        with pytest.raises(UnreadableBodyError, match="two meanings"):
            read_payload(json.dumps(body).encode(), "application/json", b"")


@pytest.mark.parametrize(
    "query",
    [b"operation=delete", b"id=2&operation=delete", b"id=2&Record_Status__s=Trash", b"id=2&Modified_Time=2026-01-01",
     b'data=[{"id":"2"}]', b'payload={"id":"2","operation":"delete"}', b"id=2&Last_Name=%E9"],
)  # fmt: skip
def test_a_query_that_speaks_of_records_beside_a_body(query: bytes) -> None:
    """None of it may be lost."""
    with pytest.raises(UnreadableBodyError):
        read_payload(TEXT.encode(), "application/json", query)


def test_an_empty_value_beside_a_field() -> None:
    """A hidden field before a checkbox, say."""
    from ledger.settings import TenantSettings
    from ledger.zoho.records import Reader

    body = b"id=1&id=&Status=&Status=Active"
    payload = read_payload(body, "", b"")
    [record] = payloads.records_of(payload, Reader(ENTITIES, TenantSettings()), "student")
    assert (record.zoho_id, record.values, record.problems) == ("1", {"status": "Active"}, [])


def test_a_multipart_form_with_a_preamble() -> None:
    """As mail has it; what stands behind the end of a form is refused."""
    body = b"This is a multi-part message\r\n" + parts(*RECORD.items())
    assert read_payload(body, "multipart/form-data; boundary=b1", b"").records == [RECORD]
    with pytest.raises(UnreadableBodyError, match="goes on"):
        read_payload(parts(*RECORD.items()) + parts(*OTHER.items()), "multipart/form-data; boundary=b1", b"")


@pytest.mark.parametrize(
    ("encoding", "sent"), [("base64", b"eA=="), ("Quoted-Printable", b"=78"), ("8bit", b"x")]
)
def test_parts_in_encodings_of_mail(encoding: str, sent: bytes) -> None:
    """Are decoded."""
    body = parts(*RECORD.items()).replace(
        b'name="Name"\r\n\r\nx',
        b'name="Name"\r\nContent-Transfer-Encoding: ' + encoding.encode() + b"\r\n\r\n" + sent,
    )
    assert read_payload(body, "multipart/form-data; boundary=b1", b"").records == [RECORD]


def test_a_form_names_its_charset_in_a_field() -> None:
    """Also one that is not multipart, and a query."""
    encoded = b"_charset_=windows-1256&id=1&Name=%E1%ED%E1%EC"
    for body, query in ((encoded, b""), (b"", encoded)):
        assert read_payload(body, "", query).records == [
            {"_charset_": "windows-1256", "id": "1", "Name": ARABIC}
        ]


def test_a_form_of_many_values_of_one_field() -> None:
    """Takes as long as it is long; a limit of the test run would end what does not."""
    body = b"&".join(b"x=%d" % number for number in range(9_999))
    assert len(read_payload(body, "", b"").records[0]["x"]) == 9_999


@pytest.mark.parametrize("own", [{}, {"id": "9"}, {"id": "9", "source": "x"}, {"First_Name": "A"}])
def test_an_envelope_that_is_cut_off(own: dict[str, str]) -> None:
    """Its records are not lost behind what stands beside it."""
    for body in (
        {**own, "data": '[{"id": "1", "First'},
        [{**own, "payload": '{"id'}],
        {"data": [{**own, "data": "[{"}]},
    ):
        with pytest.raises(UnreadableBodyError, match="should hold"):
            read_payload(json.dumps(body).encode(), "application/json", b"")


def test_an_envelope_says_that_its_records_are_gone_as_zoho_does() -> None:
    """By the status of a record."""
    for status in ("Trash", 0, "0"):
        body = json.dumps({"Record_Status__s": status, "data": [RECORD]}).encode()
        assert read_payload(body, "application/json", b"").deleted == {0}


def test_an_id_that_was_not_filled_in_beside_an_empty_envelope() -> None:
    """Is a record that cannot be used, not nothing."""
    for body in (b'{"data": [], "id": "", "First_Name": "A"}', b"data=[]&id=${!S.Id}&First_Name=A"):
        assert len(read_payload(body, "", b"").records) == 1
    assert read_payload(b'{"data": [], "status": "success"}', "", b"").records == []


def test_a_query_of_no_matter_beside_a_body() -> None:
    """Whatever its charset."""
    for query in (b"_charset_=zz", b"x=%E9", b"id=5"):
        assert read_payload(TEXT.encode(), "application/json", query).records == [RECORD]
    assert read_payload(b"_charset_=${charset}&id=1&Name=x", "", b"").records[0]["Name"] == "x"


def test_a_charset_that_the_body_does_not_have_is_named() -> None:
    """In the refusal."""
    with pytest.raises(UnreadableBodyError, match="utf-16"):
        read_payload(TEXT.encode() + b" ", "application/json; charset=utf-16", b"")


def test_a_part_of_a_record_in_a_field_of_a_record() -> None:
    """Is not lost behind it; other texts in brackets are texts."""
    for cut in ('[{"id": "B"', '{"id": "B', '[["x"', ' [ {"id', ['{"id": "B"']):
        for write in (form, lambda *pairs: json.dumps(dict(pairs)).encode()):
            with pytest.raises(UnreadableBodyError, match="two meanings"):
                read_payload(write(*RECORD.items(), ("data", cut)), "", b"")
    for text in ("[evening]", "{evening}", "(a)", "[1, 2"):
        assert read_payload(form(*RECORD.items(), ("data", text)), "", b"").records == [
            {**RECORD, "data": text}
        ]


def test_the_id_zero_is_an_id() -> None:
    """As a number and as text."""
    for zero in (0, "0"):
        with pytest.raises(UnreadableBodyError, match="two meanings"):
            read_payload(
                json.dumps({**RECORD, "id": zero, "data": [OTHER]}).encode(), "application/json", b""
            )


@pytest.mark.parametrize(
    ("body", "records"),
    [
        (json.dumps([[RECORD, OTHER]]).encode(), [RECORD, OTHER]),
        (json.dumps({"data": [[RECORD], [OTHER]]}).encode(), [RECORD, OTHER]),
        (json.dumps([[1]]).encode(), [[1]]),
        (json.dumps([[[RECORD]], [json.dumps(OTHER)]]).encode(), [RECORD, OTHER]),
        (form(("data[]", RECORD), ("data[]", OTHER)), [RECORD, OTHER]),
        (quote_plus(json.dumps({"data": [RECORD, OTHER]})).encode() + b"=", [RECORD, OTHER]),
    ],
)
def test_shapes_of_libraries(body: bytes, records: list[Any]) -> None:
    """Lists in lists, PHP's and jQuery's names, JSON as the name of a field."""
    assert read_payload(body, "", b"").records == records


@pytest.mark.parametrize(
    "body", [form(("data", RECORD), ("data", "x")), json.dumps({"data": "x", "records": [RECORD]}).encode()]
)
def test_words_in_an_envelope_beside_records(body: bytes) -> None:
    """They may have been records."""
    with pytest.raises(UnreadableBodyError, match="should hold"):
        read_payload(body, "", b"")


def test_the_names_of_libraries_are_known_where_loss_is_refused() -> None:
    """In a query beside a body, in a file of a form."""
    for query in (b'data[]={"id":"2"}', b'{"id":"2","Last_Name":"y"}=', b'{"id":"2","Last_Name":"y"}'):
        with pytest.raises(UnreadableBodyError, match="query"):
            read_payload(TEXT.encode(), "application/json", query)
    body = (
        parts(("data", [RECORD]), ("data[]", "@"))
        .replace(b'"data[]"', b'"data[]"; filename="a"')
        .replace(b"@", b"\xe9")
    )
    with pytest.raises(UnreadableBodyError, match="not written"):
        read_payload(body, "multipart/form-data; boundary=b1", b"")


def test_a_count_beside_the_records() -> None:
    """Is no record that is lost."""
    for body in (
        {"data": [RECORD], "records": 1},
        {"data": True, "records": [RECORD]},
        {"data": [RECORD], "records": "1"},
    ):
        assert read_payload(json.dumps(body).encode(), "application/json", b"").records == [RECORD]


@pytest.mark.parametrize(
    "text", [" " * 300_000 + "x", "[" + " " * 300_000, '"' + " " * 300_000, "\ufeff" * 100_000 + "x"]
)
def test_no_text_in_a_field_holds_the_intake_up(text: str) -> None:
    """What is tried on it takes as long as it is long; a limit of the test run would end what does not."""
    record = {**RECORD, "payload": text}
    assert read_payload(json.dumps(record).encode(), "application/json", b"").records == [record]
