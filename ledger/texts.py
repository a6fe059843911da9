"""Text as people and machines see it."""

from __future__ import annotations

import unicodedata


def visible(text: str) -> str:
    """A text without invisible characters (Unicode's category Cf: direction marks, zero
    width, the byte order mark), which copying and right-to-left screens leave in it.
    """
    if text.isascii():
        return text
    return "".join(c for c in text if unicodedata.category(c) != "Cf")
