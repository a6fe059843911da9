"""From settings to a ledger that can be used: database, schema, roles, master key."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable, Iterable

import asyncpg
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger import embedded, migrate
from ledger.anchor import new_signing_key, read_signing_key
from ledger.database import ConnectionSettings, Database, connect
from ledger.errors import ConfigurationError, DamagedError, DatabaseAwayError
from ledger.settings import Settings, decode_master_key
from ledger.store import create_tenant, with_first_statuses
from ledger.vault import MasterKey

APP_ROLE = "sync_ledger_app"
SIGNING_KEY = "signing.pem"
START_SECONDS = 15.0
"""So long a start waits for a connection: a database that is busy with a checkpoint is slow."""

_TRIED_KEYS = 100  # of a tenant, to prove the master key where its check does not


class Installation(msgspec.Struct):
    """A ledger that is ready: migrated, its master key proved. `settings` are those that it was
    opened with, and what its tenants were founded with.
    """

    settings: Settings
    master_key: MasterKey
    application: ConnectionSettings
    embedded: embedded.Embedded | None = None

    def signing_key(self) -> Ed25519PrivateKey:
        """The key that signs anchors. Raises `ConfigurationError`."""
        given = self.settings.signing_key_file
        file = given or self.settings.home / SIGNING_KEY
        try:
            pem = file.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"LEDGER_SIGNING_KEY_FILE: {file} cannot be read: {error.strerror}"
            ) from None
        return read_signing_key(pem, f"LEDGER_SIGNING_KEY_FILE: {file}")

    def database(self, *, size: int = 8, patient: bool = False) -> Database:
        """A pool under the application's role; not yet open. `patient`: for long work, which
        would rather wait for a busy database than end.
        """
        repair = self.embedded.ensure if self.embedded else None
        if patient:
            settings = self.application.patient(START_SECONDS)
            return Database(settings, size=size, on_failure=repair, probe_seconds=START_SECONDS)
        return Database(self.application, size=size, on_failure=repair)

    def close(self) -> None:
        """Gives the embedded PostgreSQL up."""
        if self.embedded:
            self.embedded.stop_using()


async def open_installation(settings: Settings, tell: Callable[[str], None] = lambda _: None) -> Installation:
    """Starts what is needed, migrates, checks the master key, makes the default tenant.

    `tell` gets one line for whatever an administrator should know.
    Raises `ConfigurationError` and `DatabaseAwayError`.
    """
    server: embedded.Embedded | None = None
    if settings.database_url is None:
        if settings.migrate_database_url is not None:
            raise ConfigurationError("MIGRATE_DATABASE_URL is set but DATABASE_URL is not")
        server = embedded.Embedded(settings.home)
        server.start(tell)
        admin = ConnectionSettings(server.dsn(), password=server.password(), timeout=START_SECONDS)
        await _create_database(server)
    else:
        url = settings.migrate_database_url or settings.database_url
        admin = ConnectionSettings(url.reveal(), timeout=START_SECONDS)
    try:
        return await _open(settings, admin, server, tell)
    except BaseException:
        if server:
            server.stop_using()
        raise


async def _create_database(server: embedded.Embedded) -> None:
    settings = ConnectionSettings(server.dsn("postgres"), password=server.password(), timeout=START_SECONDS)
    connection = await connect(settings)
    try:
        name = embedded.DATABASE
        if not await connection.fetchval("select 1 from pg_database where datname = $1", name):
            await connection.execute(f"create database {name}")
    except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        pass  # another server was faster
    finally:
        await connection.close()


async def _open(
    settings: Settings,
    admin: ConnectionSettings,
    server: embedded.Embedded | None,
    tell: Callable[[str], None],
) -> Installation:
    name = "MIGRATE_DATABASE_URL" if settings.migrate_database_url else "DATABASE_URL"
    connection = await _connect(admin, name)
    try:
        major = connection.get_server_version().major
        if major < embedded.OLDEST_MAJOR:
            raise ConfigurationError(f"DATABASE_URL: PostgreSQL {major} is too old: use 15 or newer")
        empty = await _is_empty(connection)
        master_key = _master_key(settings, empty=empty, tell=tell)
        await _require_key(connection, master_key, tell, strictly=empty)
        application = await _prepare_schema(connection, settings, admin, master_key, tell)
    finally:
        await connection.close()
    own = await connect(application.patient(START_SECONDS))
    try:
        async with own.transaction():
            await create_tenant(own, settings.default_tenant, master_key)
        await _require_key(own, master_key, strictly=empty)
        settings = msgspec.structs.replace(settings, first_statuses=await with_first_statuses(own))
    finally:
        await own.close()
    installation = Installation(settings, master_key, application, server)
    _make_signing_key(settings, tell)
    installation.signing_key()
    return installation


async def _connect(settings: ConnectionSettings, variable: str) -> asyncpg.Connection:
    try:
        return await connect(settings)
    except (asyncpg.ClientConfigurationError, ValueError):
        # not the error's own text: a URL that is cut in the wrong place shows its password
        raise ConfigurationError(
            f"{variable} cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE and "
            "percent-encode special characters"
        ) from None
    except (asyncpg.PostgresError, DatabaseAwayError) as error:
        raise ConfigurationError(f"{variable}: no connection: {error}") from None


async def _prepare_schema(
    connection: asyncpg.Connection,
    settings: Settings,
    admin: ConnectionSettings,
    master_key: MasterKey,
    tell: Callable[[str], None],
) -> ConnectionSettings:
    """Migrates, and finds the login with the least power that can do the work."""
    me = await connection.fetchrow(
        "select rolname as name, rolsuper or rolcreaterole as creates_roles,"
        " rolsuper or rolbypassrls as unbound,"
        " rolsuper or has_database_privilege(current_database(), 'create') as migrates"
        " from pg_roles where rolname = current_user"
    )
    if me is None or not me["migrates"]:
        if lacking := await migrate.missing(connection):
            raise ConfigurationError(
                f"MIGRATE_DATABASE_URL: the schema lacks {lacking[0]} and this login may not "
                "create it: set the owner's login"
            )
        return _application_settings(settings)
    if settings.database_url and settings.migrate_database_url:
        application = _application_settings(settings)
        role = await _login_of(application)
        if role is not None:
            await migrate.migrate(connection, role)
            return application
        tell(f"DATABASE_URL is a login with power over the ledger: using the role {APP_ROLE}")
    if not me["creates_roles"]:
        await migrate.migrate(connection, me["name"])
        tell(
            f"DATABASE_URL is the owner of the tables and may not create the role {APP_ROLE}: "
            "nothing keeps this login itself from changing events; give it a login that owns nothing"
        )
        return ConnectionSettings(admin.dsn, **admin.login)
    password = master_key.password(APP_ROLE)
    await _make_role(connection, password)
    await migrate.migrate(connection, APP_ROLE)
    application = admin.with_login(APP_ROLE, password)
    application.pooled = settings.pooled
    try:
        await (await connect(application.patient(START_SECONDS))).close()
    except (asyncpg.PostgresError, DatabaseAwayError):
        tell(
            f"the server does not let the role {APP_ROLE} log in: working as {me['name']}, "
            "whom row-level security may not bind; set DATABASE_URL to a login that owns nothing"
        )
        return ConnectionSettings(admin.dsn, pooled=settings.pooled, **admin.login)
    return application


def _application_settings(settings: Settings) -> ConnectionSettings:
    assert settings.database_url is not None
    return ConnectionSettings(settings.database_url.reveal(), pooled=settings.pooled)


async def _login_of(application: ConnectionSettings) -> str | None:
    """The application's role, or None where it has more power than it may have."""
    connection = await _connect(application, "DATABASE_URL")
    try:
        row = await connection.fetchrow(
            "select rolname, rolsuper or rolbypassrls or exists (select from pg_namespace n"
            " where n.nspname = 'ledger' and n.nspowner = r.oid) as powerful"
            " from pg_roles r where rolname = current_user"
        )
        return None if row is None or row["powerful"] else str(row["rolname"])
    finally:
        await connection.close()


async def _make_role(connection: asyncpg.Connection, password: str) -> None:
    verb = "alter"
    if not await connection.fetchval("select 1 from pg_roles where rolname = $1", APP_ROLE):
        verb = "create"
    # another server may be doing the same with the same password
    same = (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError, asyncpg.InternalServerError)
    with contextlib.suppress(*same):
        await connection.execute(
            f"{verb} role {APP_ROLE} login nosuperuser nobypassrls nocreaterole nocreatedb "
            f"password '{password}'"
        )


async def _is_empty(connection: asyncpg.Connection) -> bool:
    if not await connection.fetchval("select to_regclass('ledger.tenants')"):
        return True
    return not await connection.fetchval("select exists (select from ledger.tenants)")


async def _require_key(
    connection: asyncpg.Connection,
    master_key: MasterKey,
    tell: Callable[[str], None] = lambda _: None,
    *,
    strictly: bool,
) -> None:
    """Raises `ConfigurationError` where the ledger was made with another master key. One check that was
    altered keeps nobody from work, where anything else proves the key; but `strictly`: another server
    may just have founded the ledger with another key.
    """
    if not await connection.fetchval("select to_regclass('ledger.tenants')"):
        return
    rows = await connection.fetch("select tenant_id, key_check from ledger.tenants order by tenant_id")
    failed = dict[str, ConfigurationError]()
    for row in rows:
        try:
            master_key.require(row["key_check"])
        except ConfigurationError as error:
            failed[row["tenant_id"]] = error
    if not failed:
        return
    is_proved = len(failed) < len(rows) or await _opens_a_key(connection, master_key, failed)
    if strictly or not is_proved:
        raise next(iter(failed.values()))
    for tenant_id in failed:
        tell(
            f"the check of the master key of tenant {tenant_id} was altered, or made with another key: put the "
            "row of ledger.tenants back from a backup (sync-ledger verify looks at the keys of its persons)"
        )


async def _opens_a_key(
    connection: asyncpg.Connection, master_key: MasterKey, tenant_ids: Iterable[str]
) -> bool:
    for tenant_id in tenant_ids:
        async with connection.transaction():
            await connection.execute("select set_config('ledger.tenant', $1, true)", tenant_id)
            rows = await connection.fetch(
                "select key_id, subject, wrapped from vault.keys where tenant_id = $1 and wrapped is not null"
                " order by key_id limit $2",
                tenant_id,
                _TRIED_KEYS,
            )
        for key_id, subject, wrapped in rows:
            with contextlib.suppress(DamagedError):
                master_key.unwrap(tenant_id, key_id, subject, wrapped)
                return True
    return False


def _make_signing_key(settings: Settings, tell: Callable[[str], None]) -> None:
    """Makes the key that signs anchors where none is named and none was made yet."""
    if settings.signing_key_file is not None:
        return
    file = settings.home / SIGNING_KEY
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _, made = embedded.generated_secret(file, new_signing_key)
    except OSError as error:
        raise ConfigurationError(f"LEDGER_HOME: {file} cannot be used: {error.strerror}") from None
    if made:
        tell(f"made the signing key {file}: back it up, without it no anchor can be checked")


def _master_key(settings: Settings, *, empty: bool, tell: Callable[[str], None]) -> MasterKey:
    if settings.master_key is not None:
        return MasterKey(decode_master_key(settings.master_key.reveal()))
    file = settings.home / "master.key"
    if not file.exists() and not empty:
        raise ConfigurationError(
            f"LEDGER_MASTER_KEY is not set and {file} does not exist, but this ledger was made "
            "with a key: put it back from your backup"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        text, made = embedded.generated_secret(file, lambda: base64.b64encode(os.urandom(32)).decode())
    except OSError as error:
        raise ConfigurationError(f"LEDGER_HOME: {file} cannot be used: {error.strerror}") from None
    if made:
        tell(f"made the master key {file}: back it up, without it personal data cannot be read")
    try:
        return MasterKey(decode_master_key(text))
    except ValueError:
        raise ConfigurationError(f"LEDGER_HOME: {file} does not hold 32 bytes in base64") from None
