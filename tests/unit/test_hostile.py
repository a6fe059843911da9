"""Whatever arrives is read or refused: nothing escapes as an error of ours."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.errors import UnreadableBodyError
from ledger.settings import TenantSettings
from ledger.zoho.entities import ENTITIES
from ledger.zoho.payloads import read_payload, records_of
from ledger.zoho.records import Reader

READER = Reader(ENTITIES, TenantSettings())
NAMES = sorted({n for e in ENTITIES for f in e.fields for n in (*f.names, *f.fallback)})
ODD = st.sampled_from([
    "1e9999999", "-", "$", "1,2,3", "9" * 5000, "\u0661\u066b\u0665", "2026-02-30T25:61:61Z",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "99/99/9999", "${", "zcrm_", " ",
    "10000000000000", "\ud800", "\x00", 10**400, -(10**20), 1e308, "NaN", "Infinity", "\u00b2", "\u2460",
])  # fmt: skip
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["id", "ID", "name", "$x", "\ud800"]) | st.text(max_size=3), inner, max_size=3
    ),
    max_leaves=6,
)  # fmt: skip
SYSTEM = [
    "id",
    "ID",
    "Modified_Time",
    "Record_Status__s",
    "$state",
    "$approved",
    "operation",
    "event_type",
    "Owner",
]
RECORDS = st.dictionaries(st.sampled_from([*NAMES, *SYSTEM]), TREES, max_size=8)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(ENTITIES.names()), st.lists(RECORDS | TREES, max_size=3))
def test_any_json(entity: str, raw: list[Any]) -> None:
    """Every record of any JSON becomes one that can be stored."""
    try:
        body = json.dumps({"data": raw}).encode()
    except ValueError:  # Python itself refuses to write numbers of so many digits
        return
    try:
        payload = read_payload(body, "application/json", b"", READER.zoho_names(entity))
    except UnreadableBodyError:
        return
    for record in records_of(payload, READER, entity):
        msgspec.json.decode(record.payload)
        assert b"\x00" not in record.payload
        for value in (
            record.zoho_id,
            *record.values.values(),
            *(p for pair in record.problems for p in pair),
        ):
            assert value is None or value.encode().find(b"\x00") < 0


@settings(max_examples=600, deadline=None)
@given(
    st.binary(max_size=60) | st.text().map(lambda t: t.encode("utf-8", "replace")),
    st.sampled_from(["", "application/json", "multipart/form-data", "multipart/form-data; boundary=b", "x"]),
    st.binary(max_size=20),
)
def test_any_bytes(body: bytes, content_type: str, query: bytes) -> None:
    """Any body is records or one clear refusal."""
    try:
        payload = read_payload(body, content_type, query, READER.zoho_names("student"))
    except UnreadableBodyError as error:
        assert str(error)  # noqa: PT017  (either way is right)
        return
    assert len(list(records_of(payload, READER, "student"))) == len(payload.records)
