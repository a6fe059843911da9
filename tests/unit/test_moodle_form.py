"""Form data as PHP reads it."""

from __future__ import annotations

import pytest

from tests.moodle.form import flatten, parse_body, parse_query


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a=1&a=2", {"a": "2"}),
        ("a[5][x]=1&a[9][x]=2", {"a": {"5": {"x": "1"}, "9": {"x": "2"}}}),
        ("a[]=1&a[]=2&a[7]=3&a[]=4", {"a": {"0": "1", "1": "2", "7": "3", "8": "4"}}),
        ("a=1&a[x]=2", {"a": {"x": "2"}}),
        ("a[x]=2&a=1", {"a": "1"}),
        ("a%5Bx%5D=%C3%B6+%26", {"a": {"x": "ö &"}}),
        ("a.b c=1", {"a_b_c": "1"}),
        ("a[b=1", {"a_b": "1"}),
        ("a[x]y=1", {"a": {"x": "1"}}),
        ("a=&b", {"a": "", "b": ""}),
        ("", {}),
    ],
)
def test_nesting(text: str, form: dict[str, object]) -> None:
    assert parse_body(text, 5000) == form


def test_surplus_variables_vanish() -> None:
    text = "&".join(f"v[{number}]={number}" for number in range(20))
    assert len(flatten(parse_query(text, 10))) == 10
    assert len(flatten(parse_body(text, 10))) == 11
