"""Text as people and machines see it, and as PostgreSQL can hold it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_BAD = re.compile("[\x00\ud800-\udfff]")


def visible(text: str) -> str:
    """A text without invisible characters (Unicode's category Cf: direction marks, zero
    width, the byte order mark), which copying and right-to-left screens leave in it.
    """
    if text.isascii():
        return text
    return "".join(c for c in text if unicodedata.category(c) != "Cf")


def clean(value: Any) -> Any:
    """A decoded JSON value in which NUL and lone surrogates, which PostgreSQL and UTF-8 cannot
    hold, are U+FFFD.
    """
    if isinstance(value, str):
        return _BAD.sub("\ufffd", value) if _BAD.search(value) else value
    if isinstance(value, dict):
        return {clean(key): clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [clean(inner) for inner in value]
    return value
