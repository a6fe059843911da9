"""Fixtures: a real PostgreSQL for the whole run, a tenant of its own for each test.

`TEST_POSTGRES_BINDIR` names the server binaries to test on; without it, the
embedded ones.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from ledger.database import Database
from ledger.embedded import Embedded
from ledger.installation import Installation, open_installation
from ledger.settings import Settings
from tests.cluster import Cluster
from tests.harness import Ledger, Server
from tests.moodle.double import MoodleDouble


def fresh_home() -> Path:
    """A directory that PostgreSQL's user may enter, with a path short enough for sockets."""
    home = Path(tempfile.mkdtemp(prefix="slt-", dir="/tmp"))
    home.chmod(0o711)
    return home


def remove_home(home: Path) -> None:
    """Removes a LEDGER_HOME once its PostgreSQL has stopped; one that goes on is left alone."""
    give_up = time.monotonic() + 10
    lock = home / "supervisor.lock"
    while lock.exists() and time.monotonic() < give_up:
        with lock.open("r+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A LEDGER_HOME whose PostgreSQL runs for the whole session."""
    home = fresh_home()
    bindir = os.environ.get("TEST_POSTGRES_BINDIR")
    embedded = Embedded(home, Path(bindir) if bindir else None)
    embedded.start()
    yield home
    embedded.stop_using()
    remove_home(home)


@pytest.fixture
def own_home() -> Iterator[Path]:
    """A LEDGER_HOME that nobody uses yet."""
    home = fresh_home()
    yield home
    embedded = Embedded(home)
    if embedded.is_ready():  # whatever a failed test left
        embedded.start()
        embedded.stop_using()
    remove_home(home)


@pytest.fixture(scope="session")
def installation(home: Path) -> Iterator[Installation]:
    """The session's ledger, migrated."""
    installation = asyncio.run(open_installation(Settings(home=home)))
    yield installation
    installation.close()


@pytest.fixture
async def database(installation: Installation) -> AsyncIterator[Database]:
    """A pool under the application's role."""
    database = installation.database()
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def admin(installation: Installation) -> AsyncIterator[asyncpg.Connection]:
    """The superuser, who may change anything."""
    assert installation.embedded is not None
    connection = await asyncpg.connect(installation.embedded.dsn(), password=installation.embedded.password())
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def hosted() -> Iterator[Embedded]:
    """A PostgreSQL on which no ledger was opened, for logins that are no superusers."""
    home = fresh_home()
    bindir = os.environ.get("TEST_POSTGRES_BINDIR")
    embedded = Embedded(home, Path(bindir) if bindir else None)
    embedded.start()
    yield embedded
    embedded.stop_using()
    remove_home(home)


@pytest.fixture
async def cluster(hosted: Embedded) -> AsyncIterator[Cluster]:
    """Databases and logins there, gone after the test."""
    connection = await asyncpg.connect(hosted.dsn("postgres"), password=hosted.password())
    cluster = Cluster(hosted, connection)
    yield cluster
    await cluster.close()
    await connection.close()


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test knows."""
    return f"t-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def ledger(installation: Installation, database: Database, tenant: str) -> AsyncIterator[Ledger]:
    """One tenant's lane and readers in this process."""
    ledger = Ledger(installation, database, tenant)
    yield ledger
    await ledger.close()


@pytest.fixture(scope="session")
def server(home: Path, installation: Installation) -> Iterator[Server]:
    """A server process that lasts for the session."""
    del installation  # the server finds it migrated
    with Server(home) as server:
        yield server


@pytest.fixture(scope="session")
def shared_moodle() -> Iterator[MoodleDouble]:
    """A double of a Moodle that lasts for the session."""
    with MoodleDouble() as double:
        yield double


@pytest.fixture
def moodle(shared_moodle: MoodleDouble) -> MoodleDouble:
    """A Moodle as installed."""
    shared_moodle.reset()
    shared_moodle.listen()
    return shared_moodle


@pytest.fixture
def other_moodle() -> Iterator[MoodleDouble]:
    """A second Moodle as installed."""
    with MoodleDouble() as double:
        yield double
