"""Every line of the log has one format, whoever writes it, and none holds what was in a record."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.harness import ROOT

SECRET = "Layla Haddad"
BEFORE = f"""
import asyncio, logging, structlog, warnings
from scripts.server import configure_logging
configure_logging("INFO")

def fail():
    raise ValueError({SECRET!r})

async def lost():
    async def inner():
        fail()
    task = asyncio.create_task(inner())
    await asyncio.wait({{task}})
"""
LINES = {
    "ours": (
        "try: fail()\nexcept ValueError: structlog.get_logger().exception('it failed')",
        ("it failed", "error", "ValueError"),
    ),
    "a library's": (
        f"try: fail()\nexcept ValueError: logging.getLogger('uvicorn').exception('It failed\\n{SECRET}')",
        ("It failed", "error", "ValueError"),
    ),
    "a task that nobody waits for": (
        "asyncio.run(lost())",
        ("Task exception was never retrieved", "error", "ValueError"),
    ),
    "a warning": (
        "warnings.warn_explicit('this is old', UserWarning, 'x.py', 1)",
        ("x.py:1: UserWarning: this is old", "warning", None),
    ),
    "less than a warning of a library": ("logging.getLogger('httpx').info('a request')", None),
}


@pytest.mark.parametrize("kind", LINES)
def test_one_format(kind: str) -> None:
    code, expected = LINES[kind]
    done = subprocess.run(
        [sys.executable, "-c", f"{BEFORE}\n{code}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["level"], line.get("error")) for line in lines] == (
        [expected] if expected else []
    )
    assert SECRET not in done.stderr
    assert all(line["at"] for line in lines if "error" in line)
