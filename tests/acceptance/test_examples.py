"""The published examples hold, over HTTP against a server process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server
from tests.play import play

EXAMPLES = json.loads((Path(__file__).parent.parent / "data" / "examples.json").read_text())


@pytest.mark.parametrize("scenario", EXAMPLES, ids=lambda scenario: scenario["name"])
def test_example(server: Server, tenant: str, scenario: dict[str, Any]) -> None:
    """Every step is answered as published."""
    with server.client(tenant) as client:
        assert play(client, tenant, scenario["steps"]) is None
