"""Commands whose standard streams are closed, full, or read by nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT, Server, statuses
from tests.moodle.double import MoodleDouble

CLOSED = "Bad file descriptor"
FULL = "No space left on device"
PROGRAM = {"id": "P", "Product_Name": "x"}
VERIFY, CHECK = "verify --tenant default", "replay --check --tenant default"  # the other tests' are many


def redirected(redirection: str) -> tuple[str, ...]:
    """What a command begins with to have its streams redirected by a shell."""
    return ("/bin/sh", "-c", f'exec "$@" {redirection}', "sh")


def run(
    home: Path, *command: str, stdout: int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command, to its end."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "LEDGER_HOME": str(home), **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("redirection", "reason"), [(">&-", CLOSED), (">/dev/full", FULL)])
@pytest.mark.parametrize(
    "command", ["--help", "tenants", "audit events --json", "audit export", VERIFY, CHECK]
)
def test_stdout_that_cannot_be_written(
    home: Path, server: Server, redirection: str, reason: str, command: str
) -> None:
    """One line that says so, exit 1."""
    with server.client("default") as client:
        client.post("/v1/sync/programs", json=PROGRAM).raise_for_status()
    done = run(home, *redirected(redirection), *Server.program, *command.split())
    assert done.stderr == f"sync-ledger: stdout cannot be written: {reason}\n"
    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("command", ["--help", "tenants", "audit export"])
def test_stdout_that_nobody_reads(home: Path, server: Server, command: str) -> None:
    """The same."""
    with server.client("default") as client:
        client.post("/v1/sync/programs", json=PROGRAM).raise_for_status()
    reading, writing = os.pipe()
    os.close(reading)
    done = run(home, *Server.program, *command.split(), stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "sync-ledger: stdout cannot be written: Broken pipe\n")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_stderr_that_cannot_be_written(home: Path, server: Server, redirection: str) -> None:
    """What is done is done, what fails has its exit code, and nobody can be told more."""
    del server  # its PostgreSQL is used
    done = run(home, *redirected(redirection), *Server.program, "tenants")
    assert (done.returncode, "default" in done.stdout) == (0, True)
    done = run(home, *redirected(redirection), *Server.program, "audit", "explain", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    done = run(home, *redirected(f"{redirection} >&-"), *Server.program, "tenants")
    assert (done.returncode, done.stdout) == (1, "")


def test_a_closed_stdin_agrees_to_nothing(own_home: Path, moodle: MoodleDouble) -> None:
    """A question that nobody can answer."""
    environment = {"MOODLE_BASE_URL": moodle.url, "MOODLE_TOKEN": moodle.token}
    with Server(own_home) as server, server.client("default") as client:
        student = {"id": "S", "First_Name": "A", "Last_Name": "B", "Academic_Email": "a@college.example"}
        assert statuses(client.post("/v1/sync/students", json=student)) == ["NEW"]
        done = run(own_home, *redirected("<&-"), *Server.program, "moodle", "apply", **environment)
    assert done.returncode == 1
    assert "nothing was done" in done.stderr
    assert not [call for call in moodle.calls if call.function == "core_user_create_users"]


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("redirection", [">&-", "<&- >&-"])
def test_a_server_without_streams(own_home: Path, redirection: str, workers: str) -> None:
    """It serves, and no file and no socket has the number of a standard stream."""
    server = Server(own_home, "--workers", workers)
    server.program = (*redirected(redirection), *Server.program)
    with server, server.client("t") as client:
        assert statuses(client.post("/v1/sync/programs", json=PROGRAM)) == ["NEW"]
        assert Path(f"/proc/{server.process.pid}/fd/1").readlink() == Path(os.devnull)
        assert server.stop() == 0


def test_a_log_that_cannot_be_written(home: Path) -> None:
    """Whoever logs does not fail for it."""
    code = (
        "import sys; from scripts.streams import open_standard_streams; open_standard_streams()\n"
        "from scripts.server import configure_logging; configure_logging('INFO'); import structlog\n"
        "for _ in range(3): structlog.get_logger().warning('something'); print('x', file=sys.stderr)"
    )
    assert run(home, *redirected("2>/dev/full"), sys.executable, "-c", code).returncode == 0


@pytest.mark.parametrize("redirection", [">&-", "<&- >&- 2>&-"])
def test_the_doors(home: Path, server: Server, redirection: str) -> None:
    """They open what is closed before they look for the environment."""
    del server
    done = run(home, *redirected(redirection), "scripts/replay", *CHECK.split()[1:])
    said = "" if "2>" in redirection else f"sync-ledger: stdout cannot be written: {CLOSED}\n"
    assert (done.returncode, done.stderr) == (1, said)
