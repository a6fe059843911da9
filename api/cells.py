"""Values as cells of a CSV file that a spreadsheet may open."""

from __future__ import annotations

from typing import Any

import msgspec

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet takes for a formula (OWASP, CSV injection)."""

_encode = msgspec.json.Encoder().encode


def cell(value: Any) -> str | int | None:
    """A value as a cell: a text that begins like a formula has `'` before it, a number never;
    what is neither text nor number is JSON.
    """
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    return _encode(value).decode()
