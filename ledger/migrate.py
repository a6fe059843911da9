"""Brings the schema up to date and gives the application's role its few rights."""

from __future__ import annotations

import re
from hashlib import sha256
from importlib.resources import files

import asyncpg

from ledger.errors import ConfigurationError

_LOCK = 7_014_412_001  # any constant: two migrating servers wait for each other

_SCHEMA = re.compile(r"^create schema if not exists (\w+);$", re.MULTILINE)

_BOOTSTRAP = """
create schema if not exists ledger;
create table if not exists ledger.migrations (
  name       text collate "C" primary key,
  checksum   text not null,
  applied_at timestamptz not null default now()
);
"""


def migrations() -> list[tuple[str, str]]:
    """Every migration in order: its name and its SQL."""
    folder = files("ledger.schema")
    names = sorted(f.name for f in folder.iterdir() if f.name[:4].isdigit())
    return [(name.removesuffix(".sql"), (folder / name).read_text()) for name in names]


async def migrate(connection: asyncpg.Connection, app_role: str) -> list[str]:
    """Applies what is missing and renews the grants, in one transaction.

    Returns the names of the migrations applied. Raises `ConfigurationError` where
    one that was applied has changed since, or the database is of a newer release.
    """
    applied: list[str] = []
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
        await _execute(connection, _BOOTSTRAP)
        done = await _applied(connection)
        for name, sql in migrations():
            checksum = sha256(sql.encode()).hexdigest()
            if name not in done:
                await _execute(connection, sql)
                await connection.execute(
                    "insert into ledger.migrations (name, checksum) values ($1, $2)", name, checksum
                )
                applied.append(name)
            elif done[name] != checksum:
                raise ConfigurationError(
                    f"migration {name} was applied in another form: this database was made by "
                    "another build; use that build, or an empty database"
                )
        roles = (files("ledger.schema") / "roles.sql").read_text()
        await connection.execute(roles.replace('"$app"', _quoted(app_role)))
    return applied


async def missing(connection: asyncpg.Connection) -> list[str]:
    """The names of the migrations that this release needs and the database lacks."""
    try:
        done = await _applied(connection)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        done = {}
    return [name for name, _ in migrations() if name not in done]


async def _execute(connection: asyncpg.Connection, sql: str) -> None:
    """Executes statements, without `create schema` of a schema that is there: PostgreSQL would ask for
    the right to create schemas all the same, which whoever was given these has not.
    """
    there = {row["nspname"] for row in await connection.fetch("select nspname from pg_namespace")}
    await connection.execute(_SCHEMA.sub(lambda found: "" if found[1] in there else found[0], sql))


async def _applied(connection: asyncpg.Connection) -> dict[str, str]:
    rows = await connection.fetch("select name, checksum from ledger.migrations")
    return {row["name"]: row["checksum"] for row in rows}


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
