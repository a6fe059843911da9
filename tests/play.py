"""Plays scenarios of requests and expected answers (`tests/data/examples.json`).

In an expectation objects match key by key (further keys are fine), arrays match in
length and order, `"$any"` matches anything, `{"$absent": true}` wants the key
missing, `{"$same": N}` wants the whole body of step N, and `"$NAME"` in a path or a value
is what a former step's `keep: {"NAME": "results.0.position"}` found.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import httpx


def difference(want: Any, got: Any, at: str = "$") -> str | None:
    """The first place where an answer is not as expected, None where there is none."""
    if want == "$any":
        return None
    if isinstance(want, dict):
        if not isinstance(got, dict):
            return f"{at}: wanted an object, got {got!r}"
        for key, value in want.items():
            if value == {"$absent": True}:
                if key in got:
                    return f"{at}.{key}: should be absent, is {got[key]!r}"
            elif key not in got:
                return f"{at}.{key}: missing in {got!r}"
            elif why := difference(value, got[key], f"{at}.{key}"):
                return why
        return None
    if isinstance(want, list):
        if not isinstance(got, list) or len(want) != len(got):
            return f"{at}: wanted {len(want)} items, got {got!r}"
        pairs = enumerate(zip(want, got, strict=True))
        return next((why for i, (w, g) in pairs if (why := difference(w, g, f"{at}[{i}]"))), None)
    return None if want == got else f"{at}: wanted {want!r}, got {got!r}"


def fill(value: Any, kept: dict[str, Any]) -> Any:
    """A request or an expectation with what former steps have found."""
    if isinstance(value, dict):
        return {key: fill(inner, kept) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, kept) for inner in value]
    if not isinstance(value, str):
        return value
    if value.startswith("/"):
        return re.sub(r"\$([A-Z]+)", lambda found: quote(str(kept[found[1]]), safe=""), value)
    return kept.get(value.removeprefix("$"), value) if value.startswith("$") else value


def dig(body: Any, path: str) -> Any:
    """`results.0.position` of a body."""
    for part in path.split("."):
        body = body[int(part) if part.isdigit() else part]
    return body


def play(client: httpx.Client, tenant: str, steps: list[dict[str, Any]]) -> str | None:
    """Plays the steps; the first difference, None where everything holds."""
    bodies: list[Any] = []
    kept: dict[str, Any] = {}
    for number, step in enumerate(steps):
        request, want = fill(step["request"], kept), fill(step["expect"], kept)
        headers = {"X-Tenant-ID": tenant + request.get("tenant", ""), **request.get("headers", {})}
        has_body = "body" in request or "raw" in request
        response = client.request(
            request.get("method", "POST" if has_body else "GET"),
            request["path"],
            headers=headers,
            **({"json": request["body"]} if "body" in request else {"content": request.get("raw")}),
        )
        got = response.json()
        bodies.append(got)
        if response.status_code != want.get("status", 200):
            return f"step {number}: {response.status_code} {got!r}"
        for name, value in want.get("headers", {}).items():
            if response.headers.get(name, "").lower() != value.lower():
                return f"step {number}: header {name} is {response.headers.get(name)!r}"
        expected = want.get("body", "$any")
        if isinstance(expected, dict) and "$same" in expected:
            if bodies[expected["$same"]] != got:
                return f"step {number}: body differs from step {expected['$same']}"
        elif why := difference(expected, got):
            return f"step {number}: {why}"
        kept |= {name: dig(got, path) for name, path in step.get("keep", {}).items()}
    return None
