"""The ledger behaves as the reference model does; and the machine that says so is
itself tested: it notices each of a list of defects.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from ledger.database import ConnectionSettings, Database
from ledger.installation import Installation
from tests.model.machine import LedgerMachine, World
from tests.model.mutants import COMMON, ONLY_GENERATE, mutated, opened


@pytest.fixture
def world(installation: Installation) -> Iterator[type[World]]:
    """A loop and a pool for all examples of one test."""
    yield from opened(World, installation, installation.database())


@pytest.fixture
def unbound_world(installation: Installation) -> Iterator[type[World]]:
    """The same under a login that row-level security does not bind."""
    embedded = installation.embedded
    assert embedded is not None
    admin = ConnectionSettings(embedded.dsn(), password=embedded.password())
    yield from opened(World, installation, Database(admin))


def test_as_the_model_has_it(world: type[World]) -> None:
    """Random histories of two tenants over two processes each."""
    del world
    run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=40, **COMMON))


@pytest.mark.soak
def test_as_the_model_has_it_for_long(world: type[World]) -> None:
    """The same with many more histories."""
    del world
    run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=1500, **COMMON))


MUTANTS: dict[str, list[tuple[str, str, str]]] = {
    "stale check off": [
        ("projections.fold", '            if effective < stated:\n                return Outcome("SKIPPED", "stale")\n', ""),
    ],
    "equal instants: the earlier arrival wins": [
        ("projections.fold", "            if effective < stated:\n", "            if effective <= stated:\n"),
    ],
    "a tombstone yields to an equal instant": [
        ("projections.fold", "row.state == DELETED and effective <= stated", "row.state == DELETED and effective < stated"),
    ],
    "a record without an instant moves the clock": [
        ("projections.fold", "        effective = event.effective_at\n        if refused", "        effective = event.recorded_at if event.effective_at is None else event.effective_at\n        if refused"),
    ],
    "a record without an instant is never applied again": [
        ("projections.fold", "        if effective is not None and stated is not None:\n", "        if stated is not None:\n            effective = effective or 0\n"),
    ],
    "what is unreadable wipes what is known": [
        ("ledger.zoho.records", "(field.required if unread else is_there)", "is_there"),
    ],
    "an unreadable value stops the search": [
        ("ledger.zoho.records", "            continue\n        if found is not None:\n", "            break\n        if found is not None:\n"),
    ],
    "invisible characters make another id": [
        ("ledger.zoho.values", "    text = visible(str(value)).strip()\n    text = text.removeprefix", "    text = str(value).strip()\n    text = text.removeprefix"),
    ],
    "release drops one": [
        ("projections.fold", "        for dependent in view.dependents_of(name):\n            before = view.row(dependent)\n            if before is None or name not in before.waiting_for", "        for dependent in view.dependents_of(name)[:1]:\n            before = view.row(dependent)\n            if before is None or name not in before.waiting_for"),
    ],
    "a deleted class leaves its enrollments active": [
        ("projections.fold", "        if before_state == ACTIVE:\n            self._depart(view, row.name, event, outcome.effects)\n        return outcome\n\n    def _arrive", "        return outcome\n\n    def _arrive"),
    ],
    "A-B-A answers the first A": [
        ("ledger.lane", " and stored.derived and ", " and False and "),
    ],
    "tenant forgotten in one query": [
        ("sql", "where r.tenant_id = p_tenant and r.generation = head.generation\n             and r.entity = w.entity and r.zoho_id = w.zoho_id\n           limit 1) r);\n  end if;\n  if cardinality(p_needs_ids)", "where r.generation = head.generation\n             and r.entity = w.entity and r.zoho_id = w.zoho_id\n           limit 1) r);\n  end if;\n  if cardinality(p_needs_ids)"),
    ],
    "fingerprint concatenates": [
        ("projections.state", 'parts.append(_NO_MAC if mac is None else b"\\x01" + mac)', 'parts.append(b"" if mac is None else mac)'),
        ("ledger.vault", 'salt=field_number.to_bytes(2, "big")', 'salt=b""'),
    ],
    "UNCHANGED is not appended": [
        ("projections.inline", "        async for event, outcome in in_turns(results):\n", "        said = [o.status for _, o in results]\n        flush.events = [e for e, s in zip(flush.events, said) if s != 'UNCHANGED']\n        async for event, outcome in in_turns(results):\n"),
    ],
    "a thin record wipes fields": [
        ("projections.fold", "{**known, **came}", "dict(came)"),
        ("projections.fold", "        fields = dict(self._row.fields)\n", "        fields = {}\n"),
    ],
    "drafts are applied": [
        ("projections.fold", '        if event.flags & NOT_APPROVED:\n            return Outcome("SKIPPED", "not_approved")\n', ""),
    ],
    "a second deletion deletes again": [
        ("projections.fold", '            row.effective_at = effective if stated is None else max(effective, stated)\n            return Outcome("UNCHANGED")\n', "            pass\n"),
    ],
    "the cache outlives another process's append": [
        ("ledger.lane", "                self._drop()\n                self._head = loaded.head\n                run.reset", "                self._head = loaded.head\n                run.reset"),
        ("ledger.lane", "            if answer != KNOWN:\n                self._drop()\n", "            if answer != KNOWN:\n                self._head = None\n"),
    ],
    "an active enrollment that moves to an unknown class stays active": [
        ("projections.fold", "tuple(n for n in after_needs if not _is_active(view, n))", "() if row.state == ACTIVE else tuple(n for n in after_needs if not _is_active(view, n))"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_the_machine_notices(name: str, installation: Installation, request: pytest.FixtureRequest) -> None:
    """A defect makes it fail."""
    request.getfixturevalue("unbound_world" if name.startswith("tenant") else "world")
    with mutated(MUTANTS[name], installation), pytest.raises(BaseException) as caught:  # noqa: PT011
        run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=400, **ONLY_GENERATE))
    # a disagreement, not an accident of the defect
    found = isinstance(caught.value, AssertionError | BaseExceptionGroup)
    assert found or "is missing" in str(caught.value), repr(caught.value)
