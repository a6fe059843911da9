"""From settings to a ledger that can be used: database, schema, roles, master key."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Callable, Iterable

import asyncpg
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ledger import embedded
from ledger.anchor import new_signing_key, read_signing_key
from ledger.database import LIMITS, ConnectionSettings, Database, Limits, connect
from ledger.errors import ConfigurationError, DamagedError
from ledger.logins import START_SECONDS, connect_as_set, prepare_schema
from ledger.outage import Outage
from ledger.settings import Settings, decode_master_key
from ledger.store import create_tenant, with_first_statuses
from ledger.vault import MasterKey

SIGNING_KEY = "signing.pem"
PATIENT = Limits(connect=START_SECONDS, acquire=START_SECONDS + 5, patience=5.0, probe=START_SECONDS)
"""Of long work, which would rather wait for a busy database than end."""

_TRIED_KEYS = 100  # of a tenant, to prove the master key where its check does not


class Installation(msgspec.Struct):
    """A ledger that is ready: migrated, its master key proved. `settings` are those that it was
    opened with, and what its tenants were founded with.
    """

    settings: Settings
    master_key: MasterKey
    application: ConnectionSettings
    embedded: embedded.Embedded | None = None
    outage: Outage = msgspec.field(default_factory=Outage)

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
        """A pool under the application's role; not yet open. `patient`: for long work."""
        return Database(
            self.application,
            size=size,
            on_failure=self.embedded.ensure if self.embedded else None,
            limits=PATIENT if patient else LIMITS,
            outage=self.outage,
        )

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
        admin = ConnectionSettings(server.dsn(), pooled=settings.pooled, password=server.password())
        await _create_database(server)
    else:
        url = settings.migrate_database_url or settings.database_url
        admin = ConnectionSettings(url.reveal(), pooled=settings.pooled)
    try:
        return await _open(settings, admin, server, tell)
    except BaseException:
        if server:
            server.stop_using()
        raise


async def _create_database(server: embedded.Embedded) -> None:
    settings = ConnectionSettings(server.dsn("postgres"), password=server.password())
    connection = await connect(settings.patient(START_SECONDS))
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
    # no two transactions are open at once: a pooler with one server would wait for ever
    name = "MIGRATE_DATABASE_URL" if settings.migrate_database_url else "DATABASE_URL"
    given = admin
    if settings.migrate_database_url is not None and settings.database_url is not None:
        given = ConnectionSettings(settings.database_url.reveal(), pooled=settings.pooled)
    try:
        connection = await connect_as_set(admin, name)
        try:
            major = connection.get_server_version().major
            if major < embedded.OLDEST_MAJOR:
                raise ConfigurationError(f"{name}: PostgreSQL {major} is too old: use 15 or newer")
            empty = await _is_empty(connection)
            master_key = _master_key(settings, empty=empty, tell=tell)
            await _require_key(connection, master_key, tell, strictly=empty)
            application = await prepare_schema(connection, given, master_key, tell, two=given is not admin)
        finally:
            await connection.close()
        name = "DATABASE_URL"
        own = await connect_as_set(application, name)
        try:
            async with own.transaction():
                await create_tenant(own, settings.default_tenant, master_key)
            if empty:  # it may have been founded just now, by a server with another key
                await _require_key(own, master_key, strictly=True)
            first_statuses = await with_first_statuses(own)
        finally:
            await own.close()
    except asyncpg.InsufficientPrivilegeError as error:
        reason = error.args[0]  # not its detail, which is a line of its own
        raise ConfigurationError(f"{name}: {reason}: docs/hosted.md says what each login needs") from None
    settings = msgspec.structs.replace(settings, first_statuses=first_statuses)
    installation = Installation(settings, master_key, application, server)
    _make_signing_key(settings, tell)
    installation.signing_key()
    return installation


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
    """Raises `ConfigurationError` where the ledger was made with another master key. One check that was altered keeps nobody from work, where anything else proves the key; but
    `strictly`: another server may just have founded the ledger with another key.
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
