"""The published examples and cases hold, over HTTP against a server process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server
from tests.moodle.double import MoodleDouble
from tests.moodle.persistent import moodle_environment
from tests.play import play

DATA = Path(__file__).parent.parent / "data"
EXAMPLES = json.loads((DATA / "examples.json").read_text())
CASES = json.loads((DATA / "cases.json").read_text())


@pytest.mark.parametrize("scenario", EXAMPLES, ids=lambda scenario: scenario["name"])
def test_example(server: Server, tenant: str, scenario: dict[str, Any]) -> None:
    """Every step is answered as published."""
    with server.client(tenant) as client:
        assert play(client, tenant, scenario["steps"]) is None


@pytest.mark.parametrize("scenario", CASES, ids=lambda scenario: scenario["name"])
def test_case(server: Server, tenant: str, scenario: dict[str, Any]) -> None:
    """Input that public reports tell of is read, and read once."""
    with server.client(tenant) as client:
        assert play(client, tenant, scenario["steps"]) is None


def test_cases_with_a_moodle(home: Path, tenant: str, moodle: MoodleDouble) -> None:
    """Of seats outside their days, also while Moodle has them."""
    scenarios = json.loads((DATA / "moodle_cases.json").read_text())
    with Server(home, **moodle_environment(tenant, moodle, create_courses=True)) as server:
        for scenario in scenarios:
            with server.client(tenant) as client:
                assert play(client, tenant, scenario["steps"]) is None, scenario["name"]
