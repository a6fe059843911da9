"""How state machines are run, and the product with a defect in it, which they must notice."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import asyncpg
from hypothesis import HealthCheck, Phase

from ledger.database import Database
from ledger.installation import Installation

World = TypeVar("World", bound=Any)

COMMON = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "stateful_step_count": 30,
}
ONLY_GENERATE = {**COMMON, "phases": [Phase.generate], "derandomize": True, "print_blob": False}


def opened(world: World, installation: Installation, database: Database) -> Iterator[World]:
    """A loop and a pool for all examples of one test."""
    world.loop = asyncio.new_event_loop()
    world.installation, world.database = installation, database
    world.loop.run_until_complete(database.open())
    yield world
    world.loop.run_until_complete(database.close())
    world.loop.close()


@contextmanager
def mutated(changes: list[tuple[str, str, str]], installation: Installation) -> Iterator[None]:
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
