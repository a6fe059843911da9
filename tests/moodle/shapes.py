"""What a web service function takes: declared shapes and their validation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.moodle.errors import MoodleError, invalid_parameter
from tests.moodle.form import Form

Given = str | Form


class Value:
    """A scalar of one of Moodle's PARAM_ types; with `default` it may be left out."""

    def __init__(
        self,
        type_name: str,
        clean: Callable[[str], Any],
        *,
        optional: bool = False,
        default: Any = None,
    ) -> None:
        self.type_name = type_name
        self.clean = clean
        self.optional = optional
        self.default = default

    def read(self, given: Given, *, extended_usernames: bool) -> Any:
        """The value, if it is what its type allows."""
        if isinstance(given, dict):
            raise wrong("Scalar type expected, array or object received.")
        clean = extended_username if self.clean is username and extended_usernames else self.clean
        try:
            return clean(given)
        except ValueError as error:
            raise wrong(
                f'Invalid external api parameter: the value is "{given}", '
                f'the server was expecting "{self.type_name}" type'
            ) from error


class Struct:
    """Named keys; those left out are filled where they have a default."""

    def __init__(self, fields: Mapping[str, Shape], *, optional: bool = False) -> None:
        self.fields = fields
        self.optional = optional
        self.default: Any = None

    def read(self, given: Given, *, extended_usernames: bool) -> dict[str, Any]:
        """The keys that were sent or have a default."""
        if not isinstance(given, dict):
            raise wrong(f"Only arrays accepted. The bad value is: '{given}'")
        values: dict[str, Any] = {}
        for key, field in self.fields.items():
            if key in given:
                try:
                    values[key] = field.read(given[key], extended_usernames=extended_usernames)
                except MoodleError as error:
                    raise wrong(f"{key} => {error.message}: {error.debuginfo}") from error
            elif not field.optional:
                raise wrong(f"Missing required key in single structure: {key}")
            elif field.default is not None:
                values[key] = field.default
        if surplus := [key for key in given if key not in self.fields]:
            raise wrong(f"Unexpected keys ({', '.join(surplus)}) detected in parameter array.")
        return values


class Many:
    """A list; the indices sent do not matter."""

    def __init__(self, item: Shape, *, optional: bool = False) -> None:
        self.item = item
        self.optional = optional
        self.default: Any = [] if optional else None

    def read(self, given: Given, *, extended_usernames: bool) -> list[Any]:
        """The items in the order sent."""
        if not isinstance(given, dict):
            raise wrong(f"Only arrays accepted. The bad value is: '{given}'")
        return [self.item.read(item, extended_usernames=extended_usernames) for item in given.values()]


Shape = Value | Struct | Many


def wrong(debuginfo: str) -> MoodleError:
    """A parameter that does not fit its shape."""
    return invalid_parameter(debuginfo)


def raw(text: str) -> str:
    """Anything."""
    return text


def trimmed(text: str) -> str:
    """Anything without space around it."""
    return unchanged(text, text.strip())


def whole(text: str) -> int:
    """An integer, written as PHP would write it."""
    if not re.fullmatch(r"0|-?[1-9]\d*", text):
        raise ValueError(text)
    return int(text)


def number(text: str) -> int:
    """What PHP makes of a text where it wants a number of no sign."""
    return int(text) if text.isdecimal() else 0


def flag(text: str) -> bool:
    """1 or 0."""
    if text not in {"0", "1"}:
        raise ValueError(text)
    return text == "1"


def no_tags(text: str) -> str:
    """Text in which PHP's strip_tags finds nothing."""
    return unchanged(text, re.sub(r"<(?!\s).*", "", text, flags=re.DOTALL))


def username(text: str) -> str:
    """What a username may be by default."""
    return unchanged(text, re.sub(r"[^-.@_a-z0-9]", "", text))


def extended_username(text: str) -> str:
    """What a username may be where the site extends the characters."""
    return unchanged(text, no_tags(text).strip().lower())


def alphanumeric_path(text: str) -> str:
    """A name of a plugin, a language or a field."""
    return unchanged(text, re.sub(r"[^a-zA-Z0-9_-]", "", text))


def letters(text: str) -> str:
    """Letters only."""
    return unchanged(text, re.sub(r"[^a-zA-Z]", "", text))


def unchanged(text: str, cleaned: str) -> str:
    """Moodle refuses what its cleaning would change."""
    if text != cleaned:
        raise ValueError(text)
    return text


RAW = Value("raw", raw)
TEXT = Value("text", no_tags)
INT = Value("int", whole)
NOTAGS = Value("notags", no_tags)
ALPHA = Value("alpha", letters)
USERNAME = Value("username", username)
RAW_TRIMMED = Value("raw_trimmed", trimmed)
PLUGIN = Value("plugin", alphanumeric_path)


def maybe(shape: Value, default: Any = None) -> Value:
    """The same, but it may be left out."""
    return Value(shape.type_name, shape.clean, optional=True, default=default)


def boolean(default: bool | None = None) -> Value:
    """A flag that may be left out."""
    return Value("bool", flag, optional=True, default=default)
