"""Exchanges recorded with a real Moodle 4.5, and how an answer differs from one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

FILE = Path(__file__).resolve().parent.parent / "data" / "moodle" / "recorded.json"

# what no two sites have in common
VOLATILE = frozenset(
    {
        "timecreated",
        "timemodified",
        "cacherev",
        "siteurl",
        "profileimageurl",
        "profileimageurlsmall",
        "userpictureurl",
        "courseimage",
        "preferences",
    }
)
TAG = re.compile(r"<[^>]+>")


class Recording(msgspec.Struct, kw_only=True):
    """One exchange; `token_kind` says whose token was sent."""

    name: str
    wsfunction: str | None
    params: dict[str, str]
    response: Any
    http_status: int | None
    method: str = "POST"
    token_kind: str | None = None
    content_type: str = ""
    response_text: str = ""
    moodlewsrestformat: str | None = "json"

    @property
    def summarised(self) -> bool:
        """Whether the request was too large to be kept."""
        return any(key.startswith("(") for key in self.params)

    @property
    def created_id(self) -> int | None:
        """The first id in the answer of a call that creates."""
        created = self.wsfunction is not None and "_create_" in self.wsfunction
        return self.response[0]["id"] if created and isinstance(self.response, list) else None


def recordings() -> dict[str, Recording]:
    """All of them by name."""
    rows: list[dict[str, Any]] = json.loads(FILE.read_text())
    return {row["name"]: msgspec.convert(row, Recording) for row in rows}


def differences(expected: Any, actual: Any, where: str = "") -> list[str]:
    """Where two bodies differ; what is volatile only has to be of the same type and shape."""
    volatile = where.rpartition(".")[2] in VOLATILE
    if isinstance(expected, dict) and isinstance(actual, dict):
        found = [f"{where}: only one has {key}" for key in sorted(expected.keys() ^ actual.keys())]
        for key in expected.keys() & actual.keys():
            found += differences(expected[key], actual[key], f"{where}.{key}")
        return found
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return [f"{where}: {len(expected)} and {len(actual)} items"]
        if volatile:
            expected, actual = types(expected), types(actual)
        pairs = zip(expected, actual, strict=True)
        return [one for index, pair in enumerate(pairs) for one in differences(*pair, f"{where}[{index}]")]
    if type(expected) is not type(actual):
        return [f"{where}: {expected!r} and {actual!r}"]
    if expected == actual or volatile or like_statements(expected, actual) or hashes(expected, actual):
        return []
    return [f"{where}: {expected!r} and {actual!r}"]


def types(value: Any) -> Any:
    """The shape of a value, with its types in place of its scalars."""
    if isinstance(value, dict):
        return {key: types(item) for key, item in value.items()}
    if isinstance(value, list):
        return [types(item) for item in value]
    return type(value).__name__


def hashes(*values: Any) -> bool:
    """Whether these are what deleted users have for an e-mail."""
    return all(re.fullmatch("[0-9a-f]{32}", str(value)) for value in values)


def like_statements(*texts: Any) -> bool:
    """Whether these are errors of PostgreSQL, of which only the first line is alike."""
    heads = {str(text).split("\n", maxsplit=1)[0] for text in texts}
    return len(heads) == 1 and heads.pop().startswith("ERROR:")


def tags(text: str) -> list[str]:
    """The elements of an XML text."""
    return TAG.findall(text)
