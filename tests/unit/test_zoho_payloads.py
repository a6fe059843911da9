"""One meaning, many bodies."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest

from ledger.errors import TooLargeError, UnreadableBodyError
from ledger.zoho.payloads import read_payload

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
    assert not payload.deletion


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
    assert read_payload(body, "application/json", b"").deletion


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
