"""Form data as PHP reads it: brackets nest, surplus variables vanish without a word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl

Form = dict[str, "str | Form"]

BRACKETS = re.compile(r"\[([^\]]*)\]")


def parse_query(text: str, max_input_vars: int) -> Form:
    """A query string: at most so many variables."""
    return nest(pairs(text)[:max_input_vars])


def parse_body(text: str, max_input_vars: int) -> Form:
    """A form body: PHP notices the surplus one variable late."""
    return nest(pairs(text)[: max_input_vars + 1])


def pairs(text: str) -> list[tuple[str, str]]:
    """The variables in the order sent."""
    return parse_qsl(text, keep_blank_values=True, errors="replace")


def nest(variables: list[tuple[str, str]]) -> Form:
    """Variables as nested arrays; a later one of the same name wins."""
    form: Form = {}
    for name, value in variables:
        *path, last = keys(name)
        target = form
        for key in path:
            inner = target.get(key or next_index(target))
            if not isinstance(inner, dict):
                inner = target[key or next_index(target)] = {}
            target = inner
        target[last or next_index(target)] = value
    return form


def keys(name: str) -> Iterator[str]:
    """`a[b][]` as `a`, `b` and an empty key that stands for the next index."""
    name = name.lstrip(" ")
    start = name.find("[", 1)
    if start < 0 or "]" not in name[start:]:
        yield re.sub(r"[ .\[]", "_", name)
        return
    yield re.sub(r"[ .]", "_", name[:start])
    position = start
    while bracket := BRACKETS.match(name, position):
        yield bracket[1]
        position = bracket.end()


def next_index(array: Form) -> str:
    """The index PHP gives to `a[]`."""
    return str(max((int(key) + 1 for key in array if key.isdecimal()), default=0))


def flatten(form: Form, prefix: str = "") -> dict[str, str]:
    """Nested arrays as the flat names they were sent under."""
    flat: dict[str, str] = {}
    for key, value in form.items():
        name = f"{prefix}[{key}]" if prefix else key
        if isinstance(value, dict):
            flat |= flatten(value, name)
        else:
            flat[name] = value
    return flat
