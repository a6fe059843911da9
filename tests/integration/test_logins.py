"""Opening a ledger with logins that are no superusers, as hosted services hand them out."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path

import asyncpg
import msgspec
import pytest

from ledger import migrate
from ledger.errors import ConfigurationError
from ledger.installation import Installation, open_installation
from ledger.logins import APP_ROLE
from ledger.settings import Secret, Settings
from tests.cluster import PASSWORD, Cluster
from tests.harness import Ledger

OWNER_LINE = (
    "DATABASE_URL is the owner of the tables and may not create the role sync_ledger_app: "
    "nothing keeps this login itself from changing events; give it a login that owns nothing"
)


class Site:
    """An installation's settings, and what its starts told."""

    def __init__(self, home: Path, url: str, migrate_url: str | None = None) -> None:
        self.settings = Settings(
            home=home,
            database_url=Secret(url),
            migrate_database_url=Secret(migrate_url) if migrate_url else None,
            master_key=Secret(base64.b64encode(os.urandom(32)).decode()),
        )
        self.told: list[str] = []

    async def start(self) -> str:
        """Opens the ledger, uses it as a server does, and answers the role that did the work."""
        self.told = []
        installation = await open_installation(self.settings, self.told.append)
        self.told = [line for line in self.told if not line.startswith("made the signing key")]
        return await works(installation)


async def works(installation: Installation) -> str:
    """Appends and reads; answers the role that did."""
    database = installation.database(size=2)
    await database.open()
    ledger = Ledger(installation, database, "t")
    try:
        assert await ledger.statuses("programs", {"id": "P", "Product_Name": os.urandom(4).hex()}) in (
            ["NEW"],
            ["UPDATED"],
        )
        async with database.transaction("t") as connection:
            assert await connection.fetchval("select count(*) from ledger.records") == 1
            return str(await connection.fetchval("select current_user"))
    finally:
        await ledger.close()
        await database.close()
        installation.close()


async def may_change_events(cluster: Cluster, database: str, role: str) -> bool:
    """Whether a role could change an event."""
    await cluster.run(database, "create table if not exists public.answer (found bool)", "delete from answer")
    await cluster.run(
        database,
        f"insert into answer select has_table_privilege('{role}', 'ledger.events', 'update, delete')",
    )
    connection = await asyncpg.connect(cluster.url("postgres", database))
    try:
        return bool(await connection.fetchval("select found from answer"))
    finally:
        await connection.close()


@pytest.mark.parametrize("attributes", ["createrole", "createrole createdb", "superuser"])
async def test_a_login_that_may_create_roles(own_home: Path, cluster: Cluster, attributes: str) -> None:
    """Each start works under a role that can change no event."""
    login = await cluster.login(attributes)
    database = await cluster.database(login)
    site = Site(own_home, cluster.url(login, database))
    for _ in range(3):
        assert await site.start() == APP_ROLE
        assert site.told == []
    assert not await may_change_events(cluster, database, APP_ROLE)
    assert await cluster.roles() == {APP_ROLE}


async def test_a_login_that_owns_its_database_only(own_home: Path, cluster: Cluster) -> None:
    """Each start says in one line what it cannot guarantee."""
    login = await cluster.login()
    site = Site(own_home, cluster.url(login, await cluster.database(login)))
    for _ in range(3):
        assert await site.start() == login
        assert site.told == [OWNER_LINE]


@pytest.mark.parametrize("attributes", ["", "createrole"])
async def test_two_logins(
    own_home: Path, cluster: Cluster, attributes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner for the schema, and one that owns nothing for the work; once the schema is there the
    second is enough, until a release brings a migration.
    """
    owner, app = await cluster.login(attributes), await cluster.login()
    database = await cluster.database(owner)
    both = Site(own_home, cluster.url(app, database), cluster.url(owner, database))
    alone = Site(own_home, cluster.url(app, database))
    alone.settings = msgspec.structs.replace(both.settings, migrate_database_url=None)
    with pytest.raises(ConfigurationError, match="MIGRATE_DATABASE_URL: the schema lacks 0001"):
        await alone.start()
    for site in (both, alone, both, alone):
        assert await site.start() == app
        assert site.told == []
    assert not await may_change_events(cluster, database, app)
    newer = [*migrate.migrations(), ("9999_newer", "create table ledger.newer (tenant_id text)")]
    monkeypatch.setattr(migrate, "migrations", lambda: newer)
    with pytest.raises(ConfigurationError, match="MIGRATE_DATABASE_URL: the schema lacks 9999_newer"):
        await alone.start()
    for site in (both, alone):
        assert await site.start() == app
    assert await cluster.roles() == set()


async def test_the_urls_are_the_wrong_way_round(own_home: Path, cluster: Cluster) -> None:
    """The owner works, and that is said."""
    owner, app = await cluster.login(), await cluster.login()
    database = await cluster.database(owner)
    site = Site(own_home, cluster.url(app, database), cluster.url(owner, database))
    await site.start()
    settings = site.settings
    site.settings = msgspec.structs.replace(
        settings, database_url=settings.migrate_database_url, migrate_database_url=settings.database_url
    )
    assert await site.start() == owner
    assert site.told == [
        "DATABASE_URL is a login with power over the ledger: set it to one that owns nothing"
    ]


@pytest.mark.parametrize("attributes", ["", "createrole"])
async def test_an_upgrade_with_one_url(
    own_home: Path, cluster: Cluster, attributes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner brings the schema up to date."""
    login = await cluster.login(attributes)
    site = Site(own_home, cluster.url(login, await cluster.database(login)))
    first = await site.start()
    newer = [*migrate.migrations(), ("9999_newer", "create table ledger.newer (tenant_id text)")]
    monkeypatch.setattr(migrate, "migrations", lambda: newer)
    assert await site.start() == first


@pytest.mark.parametrize("ways", ["creator", "owner", "two"])
async def test_starts_at_the_same_time(own_home: Path, cluster: Cluster, ways: str) -> None:
    """Several servers on an empty database, then several on one that is there."""
    owner, app = await cluster.login("createrole" if ways == "creator" else ""), await cluster.login()
    database = await cluster.database(owner)
    url = cluster.url(owner, database)
    sites = [Site(own_home, cluster.url(app, database), url) if ways == "two" else Site(own_home, url)]
    sites *= 4
    roles = {"creator": APP_ROLE, "owner": owner, "two": app}
    for _ in range(2):
        opened = await asyncio.gather(*(open_installation(site.settings) for site in sites))
        assert {await works(each) for each in opened} == {roles[ways]}


@pytest.mark.parametrize("attributes", ["", "createrole"])
async def test_twice_the_same_login(own_home: Path, cluster: Cluster, attributes: str) -> None:
    """The owner as DATABASE_URL and as MIGRATE_DATABASE_URL is one powerful login, from the first
    start on.
    """
    login = await cluster.login(attributes)
    url = cluster.url(login, await cluster.database(login))
    site = Site(own_home, url, url)
    for _ in range(2):
        assert await site.start() == (APP_ROLE if attributes else login)
        expected = f"DATABASE_URL is a login with power over the ledger: using the role {APP_ROLE}"
        assert site.told == [expected if attributes else OWNER_LINE]


@pytest.mark.parametrize(
    "power",
    [
        "grant {owner} to {app}",
        "alter role {app} bypassrls",
        "alter role {app} superuser",
        "grant pg_write_all_data to {app}",
        "create role sync_ledger_app_group bypassrls; grant sync_ledger_app_group to {app}",
    ],
)
async def test_an_application_with_power(own_home: Path, cluster: Cluster, power: str) -> None:
    """A login that could change events, or see all tenants' rows, is not used where another one can
    be made, however it came by that power.
    """
    owner, app = await cluster.login("createrole"), await cluster.login()
    database = await cluster.database(owner)
    await cluster.run(database, power.format(owner=owner, app=app))
    site = Site(own_home, cluster.url(app, database), cluster.url(owner, database))
    for _ in range(2):
        assert await site.start() == APP_ROLE
        assert site.told == [f"DATABASE_URL is a login with power over the ledger: using the role {APP_ROLE}"]


async def test_another_ledger_has_made_the_role(own_home: Path, cluster: Cluster) -> None:
    """Two ledgers with keys of their own on one server: neither takes the other's role."""
    login = await cluster.login("createrole")
    sites = [Site(own_home, cluster.url(login, await cluster.database(login))) for _ in range(2)]
    found = [await site.start() for site in (*sites, *sites)]
    assert found[:2] == found[2:]
    assert found[0] == APP_ROLE
    assert found[1].startswith(f"{APP_ROLE}_")
    assert await cluster.roles() == set(found)


async def test_the_role_has_lost_its_password(own_home: Path, cluster: Cluster) -> None:
    """A start gives it back where no other database uses the role."""
    login = await cluster.login("createrole")
    site = Site(own_home, cluster.url(login, await cluster.database(login)))
    assert await site.start() == APP_ROLE
    await cluster.admin.execute(f"alter role {APP_ROLE} password 'another' nologin")
    assert await site.start() == APP_ROLE
    assert await cluster.roles() == {APP_ROLE}


async def test_somebody_else_has_made_the_role(own_home: Path, cluster: Cluster) -> None:
    """Where this login may not change the role that is there, it makes one of its own."""
    await cluster.admin.execute(f"create role {APP_ROLE} superuser login password '{PASSWORD}'")
    login = await cluster.login("createrole")
    database = await cluster.database(login)
    site = Site(own_home, cluster.url(login, database))
    for _ in range(2):
        role = await site.start()
        assert role.startswith(f"{APP_ROLE}_")
        assert not await may_change_events(cluster, database, role)
        assert site.told == []
    powers = f"select rolsuper from pg_roles where rolname = '{APP_ROLE}'"
    assert await cluster.admin.fetchval(powers)
    await cluster.admin.execute(f"drop role {APP_ROLE}")


async def test_a_superuser_takes_power_from_the_role(own_home: Path, cluster: Cluster) -> None:
    """A role of that name with more power than it may have is put right by whoever may."""
    await cluster.admin.execute(f"create role {APP_ROLE} superuser bypassrls createdb createrole")
    database = await cluster.database()
    site = Site(own_home, cluster.url("postgres", database))
    assert await site.start() == APP_ROLE
    assert not await may_change_events(cluster, database, APP_ROLE)


async def test_a_role_that_others_have_given_power(own_home: Path, cluster: Cluster) -> None:
    """What the ledger cannot take away is said."""
    login = await cluster.login("createrole")
    database = await cluster.database(login)
    site = Site(own_home, cluster.url(login, database))
    await site.start()
    await cluster.run(database, f"grant update on ledger.events to {APP_ROLE}")
    assert await site.start() == APP_ROLE
    assert site.told == [f"the role {APP_ROLE} may change events, by its grants or memberships: revoke them"]


@pytest.mark.parametrize("ways", ["owner", "two"])
async def test_schemas_that_an_administrator_has_made(own_home: Path, cluster: Cluster, ways: str) -> None:
    """A login that may create nothing but what is in its schemas."""
    owner, app = await cluster.login(), await cluster.login()
    database = await cluster.database()
    await cluster.run(
        database, f"create schema ledger authorization {owner}", f"create schema vault authorization {owner}"
    )
    url = cluster.url(owner, database)
    site = Site(own_home, url) if ways == "owner" else Site(own_home, cluster.url(app, database), url)
    for _ in range(2):
        assert await site.start() == (owner if ways == "owner" else app)
        assert site.told == ([OWNER_LINE] if ways == "owner" else [])


async def test_schemas_that_stay_an_administrators(own_home: Path, cluster: Cluster) -> None:
    """The rights that only their owner can give are named, and enough when they are given."""
    owner, app = await cluster.login(), await cluster.login()
    database = await cluster.database()
    await cluster.run(
        database,
        "create schema ledger",
        "create schema vault",
        f"grant all on schema ledger, vault to {owner}",
    )
    site = Site(own_home, cluster.url(app, database), cluster.url(owner, database))
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL: permission denied for schema ledger: docs"):
        await site.start()
    await cluster.run(database, f"grant usage on schema ledger, vault to {app}")
    for _ in range(2):
        assert await site.start() == app
        assert site.told == []


@pytest.mark.parametrize("ways", ["creator", "two"])
async def test_a_database_that_is_not_open_to_all(own_home: Path, cluster: Cluster, ways: str) -> None:
    """Where not everybody may connect, the owner gives that right with the others."""
    owner, app = await cluster.login("createrole"), await cluster.login()
    database = await cluster.database(owner)
    await cluster.run(database, f"revoke connect on database {database} from public")
    site = Site(own_home, cluster.url(owner, database))
    if ways == "two":
        site = Site(own_home, cluster.url(app, database), cluster.url(owner, database))
        with pytest.raises(ConfigurationError, match=r"DATABASE_URL: no connection: .*permission denied"):
            await site.start()
        await cluster.run(database, f"grant connect on database {database} to {app}")
    for _ in range(2):
        assert await site.start() == (app if ways == "two" else APP_ROLE)
        assert site.told == []


async def test_a_login_without_rights(own_home: Path, cluster: Cluster) -> None:
    """One line."""
    owner, other = await cluster.login(), await cluster.login()
    database = await cluster.database(owner)
    site = Site(own_home, cluster.url(owner, database))
    await site.start()
    stranger = Site(own_home, cluster.url(other, database))
    with pytest.raises(ConfigurationError, match="DATABASE_URL: permission denied for schema ledger: docs"):
        await stranger.start()


async def test_the_server_refuses_the_role(own_home: Path, cluster: Cluster) -> None:
    """A role that may not log in here is not waited for: the line names the reason."""
    login = await cluster.login("createrole")
    database = await cluster.database(login)
    site = Site(own_home, cluster.url(login, database))
    async with cluster.refusing(APP_ROLE):
        for _ in range(2):
            assert await site.start() == login
            [line] = site.told
            assert line.startswith(f"the server does not let the role {APP_ROLE} log in (pg_hba.conf rejects")
    assert await cluster.roles() == {APP_ROLE}
