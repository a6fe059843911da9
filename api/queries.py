"""Query parameters, checked: what is unknown or cannot be read is a 400 that says so."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from litestar import Request
from litestar.openapi.spec import Example
from litestar.params import QueryParameter

from api.problems import ProblemError
from ledger import clock

LIMIT, MOST = 100, 1000

_MOST_NUMBER = 253_402_300_799_999_999  # microseconds to the end of the year 9999


def one_of(words: Iterable[str]) -> str:
    """Words as a help text names them: `a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def parameter(description: str, example: str | None = None, *, name: str | None = None) -> QueryParameter:
    """A query parameter as the document shows it; `Query` reads and checks it. An example must
    work wherever the parameter is taken.
    """
    examples = None if example is None else [Example(value=example)]
    return QueryParameter(description=description, examples=examples, name=name)


Limit = Annotated[str | None, parameter(f"items a page, 1 to {MOST}, default {LIMIT}", "10")]
Cursor = Annotated[str | None, parameter("the text of `next`")]


class Query:
    """The query of one request. Raises `ProblemError` 400 wherever it is wrong."""

    def __init__(self, request: Request[Any, Any, Any], allowed: Iterable[str]) -> None:
        self._values: dict[str, str] = {}
        known = sorted(allowed)
        for name, value in request.query_params.multi_items():
            if name not in known:
                use = f"use {', '.join(known)}" if known else "this address takes none"
                raise ProblemError(400, f"Unknown parameter {name[:80]!r}: {use}.")
            if name in self._values:
                raise ProblemError(400, f"Parameter {name} is given twice.")
            if "\x00" in value:
                raise ProblemError(400, f"Parameter {name} holds a NUL character.")
            self._values[name] = value

    def text(self, name: str) -> str | None:
        """A text, None where it is absent."""
        return self._values.get(name)

    def choice(self, name: str, allowed: Iterable[str]) -> str | None:
        """One of some words, None where it is absent."""
        value = self._values.get(name)
        if value is not None and value not in (options := list(allowed)):
            raise ProblemError(400, f"{name} is {value[:80]!r}: use {', '.join(options)}.")
        return value

    def integer(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number within bounds."""
        text = self._values.get(name)
        if text is None:
            return default
        if not re.fullmatch("[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ProblemError(400, f"{name} is {text[:80]!r}: use a whole number from {least} to {most}.")
        return int(text)

    def limit(self) -> int:
        """How many items a page holds."""
        return self.integer("limit", LIMIT, 1, MOST)

    def instant(self, name: str) -> int | None:
        """An instant in microseconds, None where it is absent."""
        text = self._values.get(name)
        if text is None:
            return None
        try:
            return clock.parse(text)
        except ValueError:
            raise ProblemError(
                400,
                f"{name} is {text[:80]!r}: use an instant such as 2026-02-11T14:05:09Z.",
            ) from None

    def moment(self) -> tuple[int | None, int | None] | None:
        """`as_of` or `at_position`: (instant, None) or (None, position), None where neither is
        there.
        """
        instant = self.instant("as_of")
        if "at_position" not in self._values:
            return None if instant is None else (instant, None)
        if instant is not None:
            raise ProblemError(400, "as_of and at_position are given: use one of them.")
        return None, self.integer("at_position", 0, 0, 2**62)

    def boolean(self, name: str) -> bool:
        """`true` or `false`, false where it is absent."""
        return self.choice(name, ("true", "false")) == "true"

    def cursor(self, shape: type[Any]) -> Any:
        """What `cursor` stands for, None where it is absent."""
        text = self._values.get("cursor")
        try:
            return None if text is None else decode_cursor(text, shape)
        except ValueError:
            raise ProblemError(
                400, "cursor is not one of this list: use the text of next, or leave it out."
            ) from None


def decode_cursor(text: str, shape: Any) -> Any:
    """What `cursor_of` was given. Raises `ValueError`."""
    try:
        padded = text + "=" * (-len(text) % 4)
        value = msgspec.json.decode(base64.urlsafe_b64decode(padded), type=shape)
    except (msgspec.MsgspecError, binascii.Error) as error:
        raise ValueError(text) from error
    if not all(map(_is_bound, value if isinstance(value, tuple) else (value,))):
        raise ValueError(text)
    return value


def _is_bound(part: int | str) -> bool:
    """Whether the database can take a part of a cursor."""
    return "\x00" not in part if isinstance(part, str) else 0 <= part <= _MOST_NUMBER


def id_in_path(request: Request[Any, Any, Any], prefix: str) -> str:
    """The rest of the path as it was sent: an id may hold slashes, which a path parameter
    would collapse.
    """
    raw = request.scope["raw_path"].decode("latin-1").partition("?")[0]
    return unquote(raw.removeprefix(prefix), errors="replace")


def cursor_of(value: Any) -> str:
    """An opaque cursor for the next page."""
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()


def page(items: list[Any], limit: int, next_cursor: str | None) -> dict[str, Any]:
    """A list's answer; `items` may hold one more than `limit`, which is cut."""
    return {"items": items[:limit], "next": next_cursor if len(items) > limit else None}
