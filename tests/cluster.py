"""Databases and logins on the session's PostgreSQL, as a hosted service would hand them out, and
a pgbouncer before it.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import asyncpg

from ledger.embedded import Embedded
from tests.harness import need

PASSWORD = "a-password-of-tests"


class Cluster:
    """A PostgreSQL as its superuser sees it. No ledger has made a role there."""

    def __init__(self, embedded: Embedded, admin: asyncpg.Connection) -> None:
        self.host = embedded.socket_dir
        self._hba = embedded.home / "pgdata" / "pg_hba.conf"
        self.password = embedded.password()
        self.admin = admin
        self._databases: list[str] = []
        self._logins: list[str] = []

    async def login(self, attributes: str = "") -> str:
        """A new login that is no superuser."""
        name = f"login_{uuid.uuid4().hex[:8]}"
        await self.admin.execute(f"create role {name} login {attributes} password '{PASSWORD}'")
        self._logins.append(name)
        return name

    async def database(self, owner: str = "postgres") -> str:
        """A new database of a login."""
        name = f"hosted_{uuid.uuid4().hex[:8]}"
        await self.admin.execute(f"create database {name} owner {owner}")
        self._databases.append(name)
        return name

    def url(self, login: str, database: str, host: Path | None = None, port: int = 5432) -> str:
        """Where a login reaches a database."""
        password = self.password if login == "postgres" else PASSWORD
        return f"postgresql://{login}:{password}@/{database}?host={host or self.host}&port={port}"

    async def run(self, database: str, *statements: str, login: str = "postgres") -> None:
        """Executes statements in a database."""
        connection = await asyncpg.connect(self.url(login, database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def roles(self) -> set[str]:
        """The roles that ledgers have made."""
        rows = await self.admin.fetch("select rolname from pg_roles where rolname ~ '^sync_ledger_app'")
        return {row["rolname"] for row in rows}

    @asynccontextmanager
    async def refusing(self, role: str) -> AsyncIterator[None]:
        """A server that does not let a role in."""
        rules = self._hba.read_text()
        self._hba.write_text(f"local all {role} reject\n{rules}")
        await self.admin.execute("select pg_reload_conf()")
        try:
            yield
        finally:
            self._hba.write_text(rules)
            await self.admin.execute("select pg_reload_conf()")

    async def close(self) -> None:
        """Removes what was made, by the product too."""
        for name in self._databases:
            await self.admin.execute(f"drop database if exists {name} (force)")
        for name in [*await self.roles(), *self._logins]:
            await self.admin.execute(f"drop owned by {name}; drop role {name}")


class Pooler:
    """A pgbouncer in transaction mode. Each transaction gets another of its few servers."""

    def __init__(self, home: Path, cluster: Cluster, *, size: int = 2, **settings: object) -> None:
        """`home`: where its files go; everybody must be able to enter it."""
        self._program = need("pgbouncer")
        self.host = home / "pooler"
        self._cluster = cluster
        self._settings = {
            "listen_port": 6432,
            "unix_socket_dir": self.host,
            "unix_socket_mode": "0777",
            "auth_type": "scram-sha-256",
            "auth_file": self.host / "users",
            "auth_user": "postgres",
            "auth_query": "select usename, passwd from pg_shadow where usename = $1",
            "pool_mode": "transaction",
            "default_pool_size": size,
            "min_pool_size": size,
            "server_round_robin": 1,
            "max_client_conn": 500,
            "logfile": self.host / "log",
            **settings,
        }

    def __enter__(self) -> Self:
        self.host.mkdir()
        self.host.chmod(0o777)
        file = self.host / "pgbouncer.ini"
        lines = [f"{name} = {value}" for name, value in self._settings.items() if value is not None]
        servers = f"* = host={self._cluster.host} port=5432"
        file.write_text("\n".join(["[databases]", servers, "[pgbouncer]", *lines, ""]))
        (self.host / "users").write_text(f'"postgres" "{self._cluster.password}"\n')
        user = {"user": pwd.getpwnam("nobody").pw_uid, "extra_groups": []} if os.geteuid() == 0 else {}
        self._process = subprocess.Popen([self._program, "--quiet", file], **user)  # type: ignore[call-overload]
        while not self._listens():
            if self._process.poll() is not None:
                raise RuntimeError((self.host / "log").read_text())
            time.sleep(0.02)
        return self

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.host / ".s.PGSQL.6432")) == 0

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def url(self, login: str, database: str) -> str:
        """Where a login reaches a database through it."""
        return self._cluster.url(login, database, self.host, 6432)
