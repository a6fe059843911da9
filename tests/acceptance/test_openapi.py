"""The document at /openapi.json: what it shows works, and it names all that there is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.events import SOURCES
from ledger.zoho.entities import ENTITIES
from projections.history import REASONS, STATUSES
from projections.moodle.rules import EVERY_REASON
from projections.moodle.rules import REASONS as OF_PERSONS
from scripts.cli import app
from tests.harness import ROOT, Server, statuses


@pytest.fixture
def client(server: Server, tenant: str) -> Iterator[httpx.Client]:
    """A client of a fresh tenant."""
    with server.client(tenant) as client:
        yield client


@pytest.fixture
def paths(client: httpx.Client) -> dict[str, Any]:
    """Path -> method -> operation."""
    found: dict[str, Any] = client.get("/openapi.json").json()["paths"]
    return found


def example_of(parameter: dict[str, Any]) -> str | None:
    """A parameter's example, None where it has none."""
    examples = parameter.get("examples")
    return next(iter(examples.values()))["value"] if examples else None


def post_examples(client: httpx.Client, paths: dict[str, Any]) -> None:
    """Posts every example of a body, in the order in which they need each other."""
    for plural in ("programs", "students", "classes", "enrollments"):
        [media] = paths[f"/v1/sync/{plural}"]["post"]["requestBody"]["content"].values()
        for example in media["examples"].values():
            assert statuses(client.post(f"/v1/sync/{plural}", json=example["value"])) == ["NEW"]


def test_every_example_works(client: httpx.Client, paths: dict[str, Any]) -> None:
    """Bodies first, then each address that reads: with its path's examples alone, with each
    parameter's, and with all of them together.
    """
    assert [p for p in paths if "post" in paths[p]] == [f"/v1/sync/{e.plural}" for e in ENTITIES]
    post_examples(client, paths)
    for path, operations in paths.items():
        if "get" not in operations:
            continue
        parameters = operations["get"].get("parameters", [])
        address = path
        for parameter in parameters:
            if parameter["in"] == "path":
                value = example_of(parameter)
                assert value, f"{path}: {parameter['name']} has no example"
                address = address.replace(f"{{{parameter['name']}}}", value)
        shown = {p["name"]: value for p in parameters if p["in"] == "query" and (value := example_of(p))}
        for query in ({}, *({name: value} for name, value in shown.items()), shown):
            answer = client.get(address, params=query)
            assert answer.status_code == 200, (address, query, answer.text)


def test_the_examples_of_the_filters_find_something(client: httpx.Client, paths: dict[str, Any]) -> None:
    """Together they find the example's enrollment, in the list and in the export."""
    post_examples(client, paths)
    for path in ("/v1/audit/events", "/v1/audit/export"):
        parameters = paths[path]["get"]["parameters"]
        answer = client.get(path, params={p["name"]: v for p in parameters if (v := example_of(p))})
        assert "ENR_001" in answer.text, path


def test_parameters_without_an_example(paths: dict[str, Any]) -> None:
    """Those alone for which no fixed value is right everywhere."""
    without = {
        parameter["name"]
        for operations in paths.values()
        for operation in operations.values()
        for parameter in operation.get("parameters", [])
        if example_of(parameter) is None
    }
    assert without == {
        "X-Tenant-ID", "X-Idempotency-Key", "cursor", "delivery_id", "reason", "at_position", "warnings",
    }  # fmt: skip


def test_what_the_export_answers_is_said(paths: dict[str, Any]) -> None:
    """Both kinds of a stream."""
    content = paths["/v1/audit/export"]["get"]["responses"]["200"]["content"]
    assert list(content) == ["application/x-ndjson", "text/csv"]


def test_every_operation_can_be_refused(paths: dict[str, Any]) -> None:
    """403, as a problem."""
    for path, operations in paths.items():
        for operation in operations.values():
            assert list(operation["responses"]["403"]["content"]) == ["application/problem+json"], path


def words(text: str) -> list[str]:
    """`a, b or c`, however its lines are broken."""
    return re.split(r",\s+|\s+or\s+", text.strip())


def test_help_names_every_status_reason_and_source(
    paths: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The document and the command line, from the lists that the filters go by."""
    expected = {
        "entity": ENTITIES.names(), "status": [*STATUSES], "reason": [*REASONS], "source": [*SOURCES],
    }  # fmt: skip
    for path in ("/v1/audit/events", "/v1/audit/export"):
        parameters = {p["name"]: p["description"] for p in paths[path]["get"]["parameters"]}
        assert {name: words(parameters[name]) for name in expected} == expected
    monkeypatch.setenv("COLUMNS", "1000")
    for command in ("events", "export"):
        app(["audit", command, "--help"], exit_on_error=False)
        shown = capsys.readouterr().out
        for name, all_of_them in expected.items():
            [line] = re.findall(rf"--{name} STR +(.*?) *│", shown)
            assert words(line) == all_of_them, (command, name)


def test_the_reasons_of_moodle() -> None:
    """One list, which the handbook explains word by word."""
    assert set(EVERY_REASON) >= OF_PERSONS
    table = (Path(ROOT) / "docs" / "moodle.md").read_text().partition("| reason |")[2].partition("\n\n")[0]
    explained = [code for row in table.splitlines() for code in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(explained) == sorted(EVERY_REASON)
