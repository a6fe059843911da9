"""Cells of CSV files."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from api.cells import cell


@pytest.mark.parametrize("text", ["=1+1", "+962 79", "-x", "@SUM(A1)", "\t=1", "\r=1", "=", "-5"])
def test_a_text_like_a_formula(text: str) -> None:
    """It has an apostrophe before it, and is whole behind it."""
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["", "a=1", " =1", "'=1", "\u2212x", 5, -5, 0, None])
def test_what_stays_as_it_is(value: Any) -> None:
    """Numbers, nothing, and every other text."""
    assert cell(value) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [({"a": "=1"}, '{"a":"=1"}'), ([1], "[1]"), (True, "true"), (-1.5, "-1.5"), (msgspec.Raw(b"-5"), "-5")],
)
def test_json(value: Any, text: str) -> None:
    """What is neither text nor number is JSON."""
    assert cell(value) == text
