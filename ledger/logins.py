"""Logins: who migrates, and with how little power the work can be done.

A login of a hosted server is no superuser. It may own its database and make roles, or own the
schema alone, or nothing; and what it may not do it must not try, because PostgreSQL refuses
`alter role ... nosuperuser` even where that changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import asyncpg

from ledger import migrate
from ledger.database import ConnectionSettings, connect
from ledger.errors import ConfigurationError, DatabaseAwayError
from ledger.queries import load_queries
from ledger.vault import MasterKey

APP_ROLE = "sync_ledger_app"
START_SECONDS = 15.0
"""So long a start waits for a connection: a database that is busy with a checkpoint is slow."""

_SQL = load_queries("ledger", "logins.sql")

_WRONG_PASSWORD = (asyncpg.InvalidPasswordError, asyncpg.ProtocolViolationError)
"""What PostgreSQL says, and a pooler, which says the same of a role that it does not know."""
_LATER = (asyncpg.InsufficientResourcesError, asyncpg.OperatorInterventionError, asyncpg.PostgresSystemError)
"""Refusals that say nothing about the login."""


async def connect_as_set(settings: ConnectionSettings, variable: str) -> asyncpg.Connection:
    """A connection for a start. Raises `ConfigurationError` that names the variable."""
    try:
        return await connect(settings.patient(START_SECONDS))
    except (asyncpg.ClientConfigurationError, ValueError):
        # not the error's own text: a URL that is cut in the wrong place shows its password
        raise ConfigurationError(
            f"{variable} cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE and "
            "percent-encode special characters"
        ) from None
    except (asyncpg.PostgresError, DatabaseAwayError) as error:
        raise ConfigurationError(f"{variable}: no connection: {error.args[0]}") from None


async def prepare_schema(
    connection: asyncpg.Connection,
    given: ConnectionSettings,
    master_key: MasterKey,
    tell: Callable[[str], None],
    *,
    two: bool,
) -> ConnectionSettings:
    """Migrates on the owner's connection, and finds the login with the least power that can do the
    work. `given` is the one that was set for it; `two`: it is not the owner's.

    `tell` gets one line where something cannot be guaranteed.
    Raises `ConfigurationError`, and `asyncpg.InsufficientPrivilegeError` where a right is missing.
    """
    me = await connection.fetchrow(_SQL["me"])
    assert me is not None
    name = await _name_of(given) if two else str(me["name"])
    if not me["migrates"]:
        if lacking := await migrate.missing(connection):
            raise ConfigurationError(
                f"MIGRATE_DATABASE_URL: the schema lacks {lacking[0]} and this login may not "
                "create it: set the owner's login"
            )
        if await connection.fetchval(_SQL["powerful"], name):
            tell("DATABASE_URL is a login with power over the ledger: set it to one that owns nothing")
        return given
    if two:
        await migrate.migrate(connection, name)
        if not await connection.fetchval(_SQL["powerful"], name):
            return given
    found = await _with_less_power(connection, given, name, master_key, tell, may_create=me["creates_roles"])
    if two and found is not given:
        role = found.overrides["user"]
        tell(f"DATABASE_URL is a login with power over the ledger: using the role {role}")
    return found


async def _with_less_power(
    connection: asyncpg.Connection,
    given: ConnectionSettings,
    name: str,
    master_key: MasterKey,
    tell: Callable[[str], None],
    *,
    may_create: bool,
) -> ConnectionSettings:
    """The login of a role made for the work, instead of the powerful one that is `given` (by `name`);
    that one itself where there can be no other.
    """
    try:
        role = await _make_role(connection, given, master_key, may_create=may_create)
    except asyncpg.PostgresError as error:
        role = None
        problem = (
            f"the server does not let the role {APP_ROLE} log in ({error.args[0]}): working as {name}, "
            "whom row-level security may not bind; set DATABASE_URL to a login that owns nothing"
        )
    else:
        problem = (
            f"DATABASE_URL is the owner of the tables and may not create the role {APP_ROLE}: "
            "nothing keeps this login itself from changing events; give it a login that owns nothing"
        )
    await migrate.migrate(connection, role or name)
    if role is None:
        tell(problem)
        return given
    if await connection.fetchval(_SQL["powerful"], role):
        tell(f"the role {role} may change events, by its grants or memberships: revoke them")
    return given.with_login(role, master_key.password(role))


async def _name_of(login: ConnectionSettings) -> str:
    connection = await connect_as_set(login, "DATABASE_URL")
    try:
        return str(await connection.fetchval("select current_user"))
    finally:
        await connection.close()


async def _make_role(
    connection: asyncpg.Connection, given: ConnectionSettings, master_key: MasterKey, *, may_create: bool
) -> str | None:
    """A role for the application that no other ledger uses, made or put right where that is needed.
    None where there is none and this login may not create it.

    Raises `asyncpg.PostgresError` where the server does not let it log in.
    """
    for role in (APP_ROLE, f"{APP_ROLE}_{master_key.password('name')[:8]}"):
        password = master_key.password(role)
        login = given.with_login(role, password)
        found = await connection.fetchrow(_SQL["role"], role)
        if found is None and not may_create:
            return None
        try:
            if found is None:
                await _unless_done(connection, f"create role {role} login password '{password}'")
            elif found["changes"]:
                await _unless_done(connection, f"alter role {role} {' '.join(found['changes'])}")
            try:
                await _log_in(login)
            except _WRONG_PASSWORD:
                if found is None:
                    raise
                if found["elsewhere"]:
                    continue  # another ledger's, with another password
                await _unless_done(connection, f"alter role {role} password '{password}'")
                await _log_in(login)
        except asyncpg.InsufficientPrivilegeError:
            continue  # somebody else's, who alone may change it
        return role
    return None


async def _log_in(login: ConnectionSettings) -> None:
    try:
        connection = await connect(login.patient(START_SECONDS))
    except DatabaseAwayError as error:
        cause = error.__cause__
        if isinstance(cause, asyncpg.InsufficientPrivilegeError):
            return  # the password is right, and the right to connect comes with the others
        if isinstance(cause, asyncpg.PostgresError) and not isinstance(cause, _LATER):
            raise cause from None
        raise
    await connection.close()


async def _unless_done(connection: asyncpg.Connection, statement: str) -> None:
    """Executes what another server may be doing at the same time, with the same values."""
    same = (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError, asyncpg.InternalServerError)
    with contextlib.suppress(*same):
        await connection.execute(statement)
