"""The ledger behaves as the reference model does; and the machine that says so is
itself tested: it notices each of a list of defects.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from ledger.database import ConnectionSettings, Database
from ledger.installation import Installation
from tests.model.machine import LedgerMachine, World

COMMON = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "stateful_step_count": 30,
}


@pytest.fixture
def world(installation: Installation) -> Iterator[type[World]]:
    """A loop and a pool for all examples of one test."""
    yield from _world(installation, installation.database())


@pytest.fixture
def unbound_world(installation: Installation) -> Iterator[type[World]]:
    """The same under a login that row-level security does not bind."""
    embedded = installation.embedded
    assert embedded is not None
    admin = ConnectionSettings(embedded.dsn(), password=embedded.password())
    yield from _world(installation, Database(admin))


def _world(installation: Installation, database: Database) -> Iterator[type[World]]:
    World.loop = asyncio.new_event_loop()
    World.installation, World.database = installation, database
    World.loop.run_until_complete(database.open())
    yield World
    World.loop.run_until_complete(database.close())
    World.loop.close()


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
        ("projections.fold", '        if row.state != NONE and effective < (row.effective_at or 0):\n            return Outcome("SKIPPED", "stale")\n        if event.flags', "        if event.flags"),
    ],
    "equal instants: the earlier arrival wins": [
        ("projections.fold", 'if row.state != NONE and effective < (row.effective_at or 0):\n            return Outcome("SKIPPED", "stale")\n        if event.flags', 'if row.state != NONE and effective <= (row.effective_at or 0):\n            return Outcome("SKIPPED", "stale")\n        if event.flags'),
    ],
    "a tombstone yields to an equal instant": [
        ("projections.fold", "effective <= (row.effective_at or 0)", "effective < (row.effective_at or 0)"),
    ],
    "release drops one": [
        ("projections.fold", "        for dependent in view.dependents_of(name):\n            before = view.row(dependent)\n            if before is None or name not in before.waiting_for", "        for dependent in view.dependents_of(name)[:1]:\n            before = view.row(dependent)\n            if before is None or name not in before.waiting_for"),
    ],
    "a deleted class leaves its enrollments active": [
        ("projections.fold", "        if before_state == ACTIVE:\n            self._depart(view, row.name, event, outcome.effects)\n        return outcome\n\n    def _arrive", "        return outcome\n\n    def _arrive"),
    ],
    "A-B-A answers the first A": [
        ("ledger.lane", "            and stored.derived\n", "            and False\n"),
    ],
    "tenant forgotten in one query": [
        ("sql", "where r.tenant_id = p_tenant and r.generation = head.generation\n             and r.entity = w.entity and r.zoho_id = w.zoho_id\n           limit 1) r);\n  end if;\n  if cardinality(p_needs_ids)", "where r.generation = head.generation\n             and r.entity = w.entity and r.zoho_id = w.zoho_id\n           limit 1) r);\n  end if;\n  if cardinality(p_needs_ids)"),
    ],
    "fingerprint concatenates": [
        ("projections.state", 'parts.append(_NO_MAC if mac is None else b"\\x01" + mac)', 'parts.append(b"" if mac is None else mac)'),
        ("ledger.vault", 'salt=field_number.to_bytes(2, "big")', 'salt=b""'),
    ],
    "UNCHANGED is not appended": [
        ("projections.inline", "        for event, outcome in results:\n", "        said = [o.status for _, o in results]\n        flush.events = [e for e, s in zip(flush.events, said) if s != 'UNCHANGED']\n        for event, outcome in results:\n"),
    ],
    "a thin record wipes fields": [
        ("projections.fold", "{**known, **came}", "dict(came)"),
        ("projections.fold", "        fields = dict(self._row.fields)\n", "        fields = {}\n"),
    ],
    "drafts are applied": [
        ("projections.fold", '        if event.flags & NOT_APPROVED:\n            return Outcome("SKIPPED", "not_approved")\n', ""),
    ],
    "a second deletion deletes again": [
        ("projections.fold", '            row.effective_at = max(effective, row.effective_at or 0)\n            return Outcome("UNCHANGED")\n', "            pass\n"),
    ],
    "the cache outlives another process's append": [
        ("ledger.lane", "                self._drop()\n                self._head = loaded.head\n                run.reset", "                self._head = loaded.head\n                run.reset"),
        ("ledger.lane", "            if answer != KNOWN:\n                self._drop()\n", "            if answer != KNOWN:\n                self._head = None\n"),
    ],
    "an active enrollment that moves to an unknown class stays active": [
        ("projections.fold", "tuple(n for n in after_needs if not _is_active(view, n))", "() if row.state == ACTIVE else tuple(n for n in after_needs if not _is_active(view, n))"),
    ],
}  # fmt: skip


@contextmanager
def _mutated(changes: list[tuple[str, str, str]], installation: Installation) -> Iterator[None]:
    """The product with a defect in it: other code in the same functions."""
    undo: list[Any] = []
    try:
        for module_name in {m for m, _, _ in changes if m != "sql"}:
            module = importlib.import_module(module_name)
            source = inspect.getsource(module)
            for _, old, new in (c for c in changes if c[0] == module_name):
                assert source.count(old) == 1, (module_name, old)
                source = source.replace(old, new)
            namespace: dict[str, Any] = {"__name__": module_name, "__file__": module.__file__}
            exec(compile(source, module_name, "exec", dont_inherit=True), namespace)  # noqa: S102
            undo += _swap_code(module, namespace)
        for _, old, new in (c for c in changes if c[0] == "sql"):
            sql = (Path(__file__).parents[2] / "ledger/schema/0003_append.sql").read_text()
            assert sql.count(old) == 1
            start = sql.index("create function ledger.load_v1")
            original = sql[start:].replace("create function", "create or replace function")
            asyncio.run(_execute(installation, original.replace(old, new)))
            undo.append(lambda original=original: asyncio.run(_execute(installation, original)))
        yield
    finally:
        for step in undo:
            step()


def _swap_code(module: ModuleType, namespace: dict[str, Any]) -> list[Any]:
    undo = []
    for name, mine in vars(module).items():
        other = namespace.get(name)
        if getattr(mine, "__module__", None) != module.__name__ or other is None:
            continue
        pairs = [(mine, other)]
        if isinstance(mine, type):
            pairs = [(f, vars(other).get(n)) for n, f in vars(mine).items()]
        for function, replacement in pairs:
            if isinstance(function, FunctionType) and isinstance(replacement, FunctionType):
                if function.__code__.co_code == replacement.__code__.co_code and (
                    function.__code__.co_consts == replacement.__code__.co_consts
                ):
                    continue
                before = function.__code__
                function.__code__ = replacement.__code__
                undo.append(lambda f=function, code=before: setattr(f, "__code__", code))
    assert undo, "no function is different"
    return undo


async def _execute(installation: Installation, sql: str) -> None:
    assert installation.embedded is not None
    connection = await asyncpg.connect(installation.embedded.dsn(), password=installation.embedded.password())
    await connection.execute(sql)
    await connection.close()


@pytest.mark.parametrize("name", MUTANTS)
def test_the_machine_notices(name: str, installation: Installation, request: pytest.FixtureRequest) -> None:
    """A defect makes it fail."""
    request.getfixturevalue("unbound_world" if name.startswith("tenant") else "world")
    only_generate = {**COMMON, "phases": [Phase.generate], "derandomize": True, "print_blob": False}
    with _mutated(MUTANTS[name], installation), pytest.raises(BaseException) as caught:  # noqa: PT011
        run_state_machine_as_test(LedgerMachine, settings=settings(max_examples=400, **only_generate))
    # a disagreement, not an accident of the defect
    found = isinstance(caught.value, AssertionError | BaseExceptionGroup)
    assert found or "is missing" in str(caught.value), repr(caught.value)
