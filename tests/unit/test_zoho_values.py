"""Single values of Zoho, made canonical."""

from __future__ import annotations

from datetime import UTC
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ledger import clock
from ledger.zoho import values
from ledger.zoho.values import UnreadableError


@pytest.mark.parametrize(
    ("given", "price"),
    [
        (1299, "1299.00"),
        (Decimal("1299.95"), "1299.95"),
        (Decimal("99999999999999.98"), "99999999999999.98"),
        (Decimal("1.2345"), "1.2345"),
        (Decimal("1.500"), "1.50"),
        (Decimal("1e3"), "1000.00"),
        (Decimal("1.299"), "1.299"),
        (-5, "-5.00"),
        (0, "0.00"),
        ("-0", "0.00"),
        ("1299", "1299.00"),
        ("1,299.00", "1299.00"),
        ("$ 1,299.00", "1299.00"),
        ("1.299,00", "1299.00"),
        ("1,299", "1299.00"),
        ("1.299", "1299.00"),
        ("12,5", "12.50"),
        ("1,299,000", "1299000.00"),
        ("1.299.000,5", "1299000.50"),
        ("12,34,567.00", "1234567.00"),
        ("0.125", "0.125"),
        (".5", "0.50"),
        ("JOD 350", "350.00"),
        ("350.5 JOD", "350.50"),
        ("US$ 1,299.00", "1299.00"),
        ("\u20ac1\u202f299,00", "1299.00"),
        ("1'299.00", "1299.00"),
        ("\u0661\u0662\u0669\u0669\u066b\u0665", "1299.50"),
        ("\u0661\u0662\u0669\u0669\u066b\u0665\u0660 \u062f.\u0623", "1299.50"),
    ],
)
def test_price(given: Any, price: str) -> None:
    """Exact decimals, at least two places, grouping and currency understood."""
    assert values.read_price(given) == price


@pytest.mark.parametrize(
    "given",
    [
        "free",
        "5 apples",
        "5 days",
        "1,29,9.0.0",
        "12.34.56",
        "--5",
        "1e3x",
        True,
        [],
        {},
        Decimal("1e400"),
        "9" * 80,
        ",",
    ],
)
def test_price_that_cannot_be_read(given: Any) -> None:
    """Nothing is guessed, and the problem does not repeat the value."""
    with pytest.raises(UnreadableError) as caught:
        values.read_price(given)
    assert "free" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "order", "expected"),
    [
        ("2004-05-17", "dmy", "2004-05-17"),
        ("2004-05-17T00:00:00+03:00", "dmy", "2004-05-17"),
        ("2004-05-16T21:00:00Z", "dmy", "2004-05-16"),
        ("17/05/2004", "dmy", "2004-05-17"),
        ("05/17/2004", "mdy", "2004-05-17"),
        ("2004/05/17", "ymd", "2004-05-17"),
        ("3.4.2026", "dmy", "2026-04-03"),
        ("3.4.2026", "mdy", "2026-03-04"),
        ("17 May 2004", "dmy", "2004-05-17"),
        ("17-May-2004", "dmy", "2004-05-17"),
        ("May 17, 2004", "dmy", "2004-05-17"),
        ("15/02/2026 02:05 PM", "dmy", "2026-02-15"),
        (1_084_752_000_000, "dmy", "2004-05-17"),
        ("\u0660\u0663/\u0660\u0669/\u0662\u0660\u0662\u0665", "dmy", "2025-09-03"),
    ],
)
def test_date(given: Any, order: str, expected: str) -> None:
    """ISO, the tenant's order of figures, named months, epoch milliseconds."""
    assert values.read_date(given, order, UTC) == expected


@pytest.mark.parametrize("given", ["2004-02-30", "31/31/2026", "05/17/2004", "soon", True, [], 10**30])
def test_date_that_cannot_be_read(given: Any) -> None:
    """A date that no calendar has, or of another order, is not bent into one."""
    with pytest.raises(UnreadableError):
        values.read_date(given, "dmy", UTC)


@pytest.mark.parametrize(
    ("given", "zone", "expected"),
    [
        ("2026-03-29T01:59:59+02:00", "UTC", "2026-03-28T23:59:59.000000Z"),
        ("2026-03-29T03:00:00+03:00", "UTC", "2026-03-29T00:00:00.000000Z"),
        ("2026-03-29T00:00:00Z", "UTC", "2026-03-29T00:00:00.000000Z"),
        ("2026-03-29T03:00:00.123+03:00", "UTC", "2026-03-29T00:00:00.123000Z"),
        ("2026-03-29 03:00:00", "UTC", "2026-03-29T03:00:00.000000Z"),
        ("2026-03-29 03:00:00", "Asia/Amman", "2026-03-29T00:00:00.000000Z"),
        (1774742400000, "Asia/Amman", "2026-03-29T00:00:00.000000Z"),
        ("1774742400000", "UTC", "2026-03-29T00:00:00.000000Z"),
        ("11/02/2026 02:05 PM", "UTC", "2026-02-11T14:05:00.000000Z"),
    ],
)
def test_instant(given: Any, zone: str, expected: str) -> None:
    """`Modified_Time` in all its forms, without an offset in the tenant's zone."""
    assert clock.to_text(values.read_instant(given, "dmy", ZoneInfo(zone))) == expected


@pytest.mark.parametrize("given", ["yesterday", True, [], 10**40, "2026-13-01T00:00:00Z", -(10**18)])
def test_instant_that_cannot_be_read(given: Any) -> None:
    """What no calendar holds is refused."""
    with pytest.raises(UnreadableError):
        values.read_instant(given, "dmy", UTC)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3652397000000186017, "3652397000000186017"),
        ("  zcrm_7012 ", "7012"),
        ("prod_123", "prod_123"),
        ("", None),
        ("-None-", None),
        ("null", None),
        ("${!Students.Id}", None),
        (None, None),
    ],
)
def test_id(given: Any, expected: str | None) -> None:
    """Text or whole digits; blanks and `zcrm_` go; empty is no id."""
    assert values.read_id(given) == expected


@pytest.mark.parametrize("given", [Decimal("7.01e18"), Decimal("7.0"), True, [1], {}, "x" * 256])
def test_id_that_cannot_be_used(given: Any) -> None:
    """A float has lost digits, and nothing else is an id."""
    with pytest.raises(UnreadableError):
        values.read_id(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"id": "1", "name": "x"}, "1"),
        ({"id": 7012345000001200001}, "7012345000001200001"),
        ({"id": None, "name": "x"}, None),
        ("7012345000001200001", "7012345000001200001"),
        ([{"id": "row", "Classes": {"id": "C", "name": "x"}}], "C"),
        ([{"id": "C", "name": "x"}], "C"),
        ([{"id": "row", "X": {"id": "S"}, "Parent_Id": {"id": "E"}, "Owner": {"id": "O"}}], "S"),
        ("", None),
    ],
)
def test_lookup(given: Any, expected: str | None) -> None:
    """An object with an id, a bare id, a one-element multi-select row."""
    assert values.read_lookup(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        "BTEC Level 5 Computing",
        {"name": "x"},
        [{"id": "1"}, {"id": "2"}],
        {"id": Decimal("1.5")},
        True,
        [{"id": "row", "Enrolled_Students": None}],
        [{"id": "row", "X": {"name": "x"}}],
        [{"id": "row", "X": {"id": "1"}, "Y": {"id": "2"}}],
        '{"id": ',
    ],
)
def test_lookup_that_cannot_be_read(given: Any) -> None:
    """A display name is not an id, and two rows are not one lookup."""
    with pytest.raises(UnreadableError):
        values.read_lookup(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(42, "42"), (Decimal("42.0"), "42"), ("42.0", "42"), (" 42 ", "42"), ("TBA", "TBA"), ("4.2", "4.2")],
)
def test_moodle_id(given: Any, expected: str) -> None:
    """Stripped text without an empty fraction."""
    assert values.read_moodle_id(given) == expected


def test_emptiness() -> None:
    """What counts as empty, and what only looks like it."""
    assert all(values.is_empty(v) for v in (None, "", " ", "null", "-None-", "${!A.B}", []))
    assert not any(values.is_empty(v) for v in ("Null", "none", 0, False, "$5", {}))


def test_a_long_text_is_no_amount() -> None:
    """Refused before any pattern is tried on it: one that backtracks would hold everybody up."""
    with pytest.raises(UnreadableError):
        values.read_price("1" + ".a" * 1_000_000 + "!")
