"""Single values of Zoho, made canonical."""

from __future__ import annotations

import contextlib
import unicodedata
from datetime import UTC
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ledger import clock
from ledger.texts import visible
from ledger.zoho import amounts, dates, values
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
    assert amounts.read_price(given) == price


@pytest.mark.parametrize(
    "given",
    [
        "free",
        "5 apples",
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
        amounts.read_price(given)
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
    assert dates.read_date(given, order, UTC) == expected


@pytest.mark.parametrize("given", ["2004-02-30", "31/31/2026", "05/17/2004", "soon", True, [], 10**30])
def test_date_that_cannot_be_read(given: Any) -> None:
    """A date that no calendar has, or of another order, is not bent into one."""
    with pytest.raises(UnreadableError):
        dates.read_date(given, "dmy", UTC)


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
    assert clock.to_text(dates.read_instant(given, "dmy", ZoneInfo(zone))) == expected


@pytest.mark.parametrize("given", ["yesterday", True, [], 10**40, "2026-13-01T00:00:00Z", -(10**18)])
def test_instant_that_cannot_be_read(given: Any) -> None:
    """What no calendar holds is refused."""
    with pytest.raises(UnreadableError):
        dates.read_instant(given, "dmy", UTC)


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
        ([{"id": "row", "X": {"ID": "S", "zc_display_value": "x"}, "Layout": {"id": "9"}}], "S"),
        ([{"id": "row", "X": {"id": "S"}, "Modified_By": {"id": "M"}, "Created_By": {"id": "M"}}], "S"),
        ([{"id": "row", "X": {"id": "S"}, "Y": {"id": None}}], "S"),
        ([{"X": {"id": "S"}}], "S"),
        ([{"id": "row", "X": {"id": "S"}, "$approval": {"id": "9"}}], "S"),
        ([{"id": "row", "X": {"id": ""}}], None),
        ([{"id": "C", "X": {"id": "1"}, "Y": {"id": "2"}}], "C"),
        ([{"id": "C", "X": {"name": "x"}, "Y": None}], "C"),
        ([{"ID": "C", "zc_display_value": "x", "module": "m"}], "C"),
        ({"ID": "C", "zc_display_value": "x", "Y": {"id": "2"}}, "C"),
        ({"id": "", "ID": "C"}, "C"),
        ({"id": Decimal("7.5"), "ID": "C"}, "C"),
        (["C"], "C"),
        ([7012345000001200001], "7012345000001200001"),
        (["\u200f"], None),
        ({"id": "zcrm_7\u200f"}, "7"),
        ("\ufeffC\u200b", "C"),
        ("${!A} ${!B}", None),
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
        {"id": "S ${!S.Id}"},
        "S${!S.Id}",
        "7.01E+17",
        {"id": "7,01e+17"},
        {},
        [[{"id": "1"}]],
        [{"id": "row", "X": None, "Parent_Id": {"id": "1"}}],
        [{"id": "row", "X": {"id": "1"}, "Y": {"id": "2"}, "Parent_Id": {"id": "3"}}],
        "701000000000012000.0",
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
    assert all(
        values.is_empty(v)
        for v in (
            None,
            "",
            " ",
            "null",
            "-None-",
            "${!A.B}",
            [],
            [""],
            [None],
            "${!A}${!B}",
            " ${A}  ${B} ",
            "\u200f",
            " \u200b\ufeff ",
            "null\u200f",
            "\u200e${!A}",
        )
    )
    assert not any(
        values.is_empty(v) for v in ("Null", "none", 0, False, "$5", {}, "${A}x", ["", "x"], "${", "{}")
    )


def test_a_long_text_is_no_amount() -> None:
    """Refused before any pattern is tried on it: one that backtracks would hold everybody up."""
    with pytest.raises(UnreadableError):
        amounts.read_price("1" + ".a" * 1_000_000 + "!")


@pytest.mark.parametrize(
    ("given", "price"),
    [
        ("Rs. 1,299.00", "1299.00"),
        ("Rs.1,299/-", "1299.00"),
        ("Re. 1", "1.00"),
        ("R$ 1.299,00", "1299.00"),
        ("kr 1 299,00", "1299.00"),
        ("1 299,00 z\u0142", "1299.00"),
        ("1\u00a0299,50 K\u010d", "1299.50"),
        ("500 FCFA", "500.00"),
        ("Lek 500.00", "500.00"),
        ("KSh500", "500.00"),
        ("S/. 1,299.00", "1299.00"),
        ("B/.500", "500.00"),
        ("US $ 1,299.00", "1299.00"),
        ("1299,-", "1299.00"),
        ("1299.\u2013 CHF", "1299.00"),
        ("500 \u0440\u0443\u0431.", "500.00"),
        ("\u062f.\u0625 500", "500.00"),
        ("Fee: 500 JOD", "500.00"),
        ("5 days", "5.00"),
        ("1299 (JOD)", "1299.00"),
        ("-$5", "-5.00"),
        ("$-5", "-5.00"),
        ("\u22125,50", "-5.50"),
        ("JOD -5", "-5.00"),
        ("\u200f1,299\u200e", "1299.00"),
        ("JOD 150.500", "150.50"),
        ("150.500 JD", "150.50"),
        ("KD 1.250", "1.25"),
        ("1.250 \u062f.\u0643.\u200f", "1.25"),
        ("1.500 BHD", "1.50"),
        ("IQD 1,500", "1500.00"),
        ("TND 1,500", "1.50"),
        ("1,500 LYD", "1.50"),
        ("$ 1.500", "1500.00"),
        ("1 299.5", "1299.50"),
        ("1 299 000,5", "1299000.50"),
        ("INR 1,299.00 /-", "1299.00"),
        ("5:-", "5.00"),
        ("1\u2002299", "1299.00"),
        ("\u0661\u0662\u066b\u0665\u0660\u0660", "12.50"),
        ("-\u0661\u066b\u0662\u0663\u0664 $", "-1.234"),
        ("\u0661\u066c\u0662\u0663\u0664\u066b\u0665", "1234.50"),
        ("5.00 CR", "5.00"),
        ("1299 / month", "1299.00"),
        ("EUR,50", "0.50"),
        ("EGP.50", "0.50"),
        ("5\u066b \u062f.\u0643", "5.00"),
        ("K 5", "5.00"),
    ],
)
def test_an_amount_with_signs_around_it(given: str, price: str) -> None:
    """One figure, and on each side at most two words or signs of at most five characters."""
    assert amounts.read_price(given) == price


@pytest.mark.parametrize(
    "given",
    [
        "100 - 200", "100-200", "5 10", "12 34 567", "1234 567", "5/10", "5%", "10 %", "#5", "~5", "<5",
        "1299 per semester", "5 apples", "a b c 5", "5 a b c", "JOD - 5", "5-", "(5.00)", "5k", "1.5M",
        "1e3", "7.01E+17", "5 k", "5 K", "5 mln", "10 lakh", "5bn", "2.5 Cr", "5 Mio.", "5 \u0622\u0644\u0627\u0641", "5 \u0442\u044b\u0441.", "abcdef5", "\u00bd", "5 + 5", "2026-01-01", "1\u066b2\u066b3", "5 x 3", "3 for 2", "", ".",
    ],
)  # fmt: skip
def test_an_amount_that_may_be_another(given: str) -> None:
    """A second figure, more words, a percentage, a shortened figure: nothing is guessed."""
    with pytest.raises(UnreadableError):
        amounts.read_price(given)


DAY = "2026-06-24"
DAYS = [
    ("2026-06-24", "dmy"), ("2026/06/24", "dmy"), ("2026.6.24", "dmy"), ("20260624", "dmy"),
    ("24/06/2026", "dmy"), ("24-06-2026", "dmy"), ("24 06 2026", "dmy"), ("06/24/2026", "mdy"),
    ("24 June 2026", "dmy"), ("24-Jun-2026", "mdy"), ("June 24th, 2026", "dmy"), ("24Jun2026", "dmy"),
    ("Wed, 24 Jun 2026", "dmy"), ("Wednesday 24 June 2026", "mdy"), ("2026-Jun-24", "dmy"),
    ("\u0662\u0664/\u0660\u0666/\u0662\u0660\u0662\u0666", "dmy"),
    ("\u0662\u0664\u200f/\u0660\u0666\u200f/\u0662\u0660\u0662\u0666", "dmy"),
    ("\ufeff2026-06-24", "dmy"), ("24\u201306\u20132026", "dmy"),
]  # fmt: skip
TAILS = [
    ("", "00:00:00"), (" 06:00", "06:00:00"), (" 06:00:00", "06:00:00"), (" 06:00:00.000", "06:00:00"),
    (" 06:00 AM", "06:00:00"), (" 6:00:00 pm", "18:00:00"), (", 06:00 p.m.", "18:00:00"),
    (" 12:30 AM", "00:30:00"), (" 12:30 PM", "12:30:00"), (" 6 PM", "18:00:00"), (" at 6:00 AM", "06:00:00"),
    (" 06:00:00 \u0645", "18:00:00"), (" 06:00:00 \u0635", "06:00:00"), (" AM", "00:00:00"),
    ("T06:00:00", "06:00:00"), (" 18:00 PM", "18:00:00"), (" 06:00:00 UTC", "06:00:00"),
    (" 06:00:00 GMT", "06:00:00"), (" 06:00:00Z", "06:00:00"), ("T06:00:00+00:00", "06:00:00"),
    (" 09:00:00 +0300", "06:00:00"), (" 09:00:00 GMT+0300 (Arabian Standard Time)", "06:00:00"),
    (" 09:00:00 Asia/Amman", "06:00:00"), (" 09:00:00+03:00[Asia/Amman]", "06:00:00"),
    (" 01:00:00 EST", "06:00:00"), (" 01:00 est", "06:00:00"), (" 06.00.00", "06:00:00"), (" 6:0", "06:00:00"), (" 6:0:0", "06:00:00"), (" 6:0 PM", "18:00:00"),
    (" 06:00:00:000", "06:00:00"), (" 06:00:00.000000000000Z", "06:00:00"), ("_06:00:00", "06:00:00"),
    (" 06:00 UT", "06:00:00"), (" 08:00:00 EET", "06:00:00"), (" 09:00 MSK", "06:00:00"), (" 09:00:30+03:00:30", "06:00:00"),
    (" 06:00 NPT", None), (" 09:00 +0300 Turkey", "06:00:00"), (" 06:00 Eastern Standard Time", None), (" 06:00 Turkey", "03:00:00"),
    (" 09:00:00 GMT+0300 (GMT+03:00)", "06:00:00"), (" 09:00:00 +0300 (+03)", "06:00:00"), (" 06:00 +0000 IST", "06:00:00"),
    (" (Asia/Amman)", None), (" UTC", "00:00:00"), ("Z", "00:00:00"),
]  # fmt: skip


@pytest.mark.parametrize(("tail", "at"), TAILS)
@pytest.mark.parametrize(("written", "order"), DAYS)
def test_every_day_with_every_tail(written: str, order: str, tail: str, at: str | None) -> None:
    """One form is read as its sisters are, as a date and as an instant."""
    assert dates.read_date(written + tail, order, UTC) == DAY
    if at is not None:
        assert clock.to_text(dates.read_instant(written + tail, order, UTC)) == f"{DAY}T{at}.000000Z"


@pytest.mark.parametrize("written", [written for written, order in DAYS if order == "dmy"])
@pytest.mark.parametrize(
    "tail",
    [" soon", " - 30/06/2026", " 30/06/2026", "-2026-12-20", " to 25 June", " 25:00", " 06:61", " 6", " 14:05 AM",
     " TBA", " 06:00 or so", " 06:00 Nowhere/Land", " +99:00", " (Amman)", " 06:00 06:00", " week 2", " 06:00 +0300 soon", " 06:00 Uhr", " 06:00 START", " 06:00 Exam Time", " 06:00 Factory", " 09:00 +03000", " 09:00 +14000", " 09:00 +030", " 06:00 Spring", " 06:00 TBC", " 2027", " 06:00 +0300 (until 30/06)", " EXAM"],
)  # fmt: skip
def test_what_may_not_stand_behind_a_day(written: str, tail: str) -> None:
    """A second date, words, a time that no clock shows."""
    for read in (dates.read_date, dates.read_instant):
        with pytest.raises(UnreadableError):
            read(written + tail, "dmy", UTC)


@pytest.mark.parametrize(
    "given",
    [1770808709473, "1770808709473", Decimal(1770808709473), "1770808709473.0", 1770808709, "1770808709",
     Decimal("1770808709.473"), "1770808709.473", " \u200f1770808709473", "\u0661\u0667\u0667\u0660\u0668\u0660\u0668\u0667\u0660\u0669"],
)  # fmt: skip
def test_epoch(given: Any) -> None:
    """Milliseconds or seconds, as a number or as the text that forms carry."""
    assert dates.read_date(given, "dmy", UTC) == "2026-02-11"
    assert clock.to_text(dates.read_instant(given, "dmy", UTC))[:19] == "2026-02-11T11:18:29"


def test_an_epoch_is_a_day_of_the_colleges_zone() -> None:
    """Late in the evening it is tomorrow in Amman."""
    assert dates.read_date(1770850800000, "dmy", ZoneInfo("Asia/Amman")) == "2026-02-12"
    assert dates.read_date("1770850800", "dmy", UTC) == "2026-02-11"


@pytest.mark.parametrize(
    "given",
    [46000, "46000", 0, "0", -1, 177080870, 17708087094730, "1.77E+12", Decimal("46000.5"), "15/08/1447",
     "1447-08-15", "0001-01-01T00:00:00", "0001-01-01", "1899-12-31", "2201-01-01", "24/06/26", "26-06-24",
     "31/11/2026", "2026-02-30", "2026-13-01", "2026-00-10", "2026-W26-3", "2026-175", "today", "24", "2026",
     "June 2026", "24 Juin 2026", 99999999, "9999999999999"],
)  # fmt: skip
def test_days_that_no_college_has(given: Any) -> None:
    """A spreadsheet's serial, a year of another calendar, a day that is none."""
    for read in (dates.read_date, dates.read_instant):
        with pytest.raises(UnreadableError):
            read(given, "dmy", UTC)


@pytest.mark.parametrize(
    ("given", "order"), [("12/24/2026", "dmy"), ("24/12/2026", "mdy"), ("24/12/2026", "ymd")]
)
def test_a_day_of_another_order_names_the_setting(given: str, order: str) -> None:
    """So that one sees which setting is wrong."""
    with pytest.raises(UnreadableError, match="date_order"):
        dates.read_date(given, order, UTC)


def test_a_zone_that_may_be_several_is_no_instant() -> None:
    """But the day that was written is one."""
    assert dates.read_date("2026-06-24 06:00 IST", "dmy", UTC) == DAY
    assert dates.read_date("2026-06-24 CET", "dmy", UTC) == DAY
    assert (
        clock.to_text(dates.read_instant("2026-06-24 09:00 CST", "dmy", ZoneInfo("Asia/Shanghai")))[:16]
        == f"{DAY}T01:00"
    )
    assert clock.to_text(dates.read_instant("2026-06-24 09:00 CST", "dmy", UTC))[:16] == f"{DAY}T15:00"
    india = ZoneInfo("Asia/Kolkata")  # where it is the zone's own word
    assert (
        clock.to_text(dates.read_instant("2026-06-24 06:00 IST", "dmy", india)) == f"{DAY}T00:30:00.000000Z"
    )
    with pytest.raises(UnreadableError, match="offset"):
        dates.read_instant("2026-06-24 06:00 IST", "dmy", UTC)


@pytest.mark.parametrize(
    "text", ["a-_" * 40, "2026-06-24 " + "A/" * 50, "2026-06-24 " + "+-_" * 30, "1 " * 60]
)
def test_no_text_holds_a_parser_up(text: str) -> None:
    """Whatever is tried on it ends at once."""
    for read in (dates.read_date, dates.read_instant):
        with pytest.raises(UnreadableError):
            read(text, "dmy", UTC)


def test_invisible_characters_are_unicodes() -> None:
    """All of category Cf, none else."""
    every = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) == "Cf"]
    assert visible("a" + "".join(every) + "b") == "ab"
    assert values.trimmed("".join(every) + " a\u200db " + every[0]) == " a\u200db "


@pytest.mark.parametrize(
    "value",
    ["2026-06-24T10:00:00+23:59", "24/06/2026 10:00:00+23:59", "2026-06-24 10", "2026-06-24T10:00:00-16:00"],
)
def test_a_form_and_its_sister_are_refused_alike(value: str) -> None:
    """The usual form has no rule of its own."""
    for read in (dates.read_date, dates.read_instant):
        with pytest.raises(UnreadableError):
            read(value, "dmy", UTC)


@pytest.mark.parametrize("value", ["${" * 100_000, "${a}" * 50_000 + "x", "$" * 200_000, " " * 200_000 + "x"])
def test_no_length_of_a_text_holds_a_reader_up(value: str) -> None:
    """What is tried on a value takes as long as it is long, not more: a limit of the test run would
    end what does not.
    """
    for read in (
        values.read_id,
        values.read_lookup,
        values.read_code,
        values.read_moodle_id,
        values.is_empty,
    ):
        with contextlib.suppress(UnreadableError):
            read(value)


@pytest.mark.parametrize("text", ["1.500 USD", "1.500 (USD)", "1.500 USD.", "1.500 QAR/", "\u20ac 1.500"])
def test_another_currency_in_the_text_counts_before_the_colleges(text: str) -> None:
    """However it is written."""
    assert amounts.read_price(text, "JOD") == "1500.00"


@pytest.mark.parametrize(
    ("given", "code"),
    [("JOD", "JOD"), (" jod\u200f", "JOD"), (["JOD"], "JOD"), ({"name": "JOD", "id": "1"}, "JOD"), ("JD", "JOD"),
     ("\u062f.\u0623", "JOD"), ("Jordanian Dinar", None), (None, None), ({"id": "1"}, None), (7, None)],
)  # fmt: skip
def test_the_currency_of_a_record(given: Any, code: str | None) -> None:
    """As text, in a list, in a lookup, by its sign."""
    assert amounts.currency_code(given) == code


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("20260624T090000.500Z", "09:00:00.500000"), ("2026-06-24 060000", "06:00:00.000000"),
        ("24.06.2026 09.00.00.123", "09:00:00.123000"), ("24/06/2026 09.00.00,5", "09:00:00.500000"),
        ("2026-06-24 09:00:00.1234567Z", "09:00:00.123456"),
    ],
)  # fmt: skip
def test_parts_of_seconds(text: str, at: str) -> None:
    """Two versions of one second are in order."""
    assert clock.to_text(dates.read_instant(text, "dmy", UTC)) == f"{DAY}T{at}Z"


def test_six_figures_behind_a_day_in_figures() -> None:
    """Are no time."""
    with pytest.raises(UnreadableError):
        dates.read_date("24/06/2026 123456", "dmy", UTC)
