"""Makes `.venv` from the lock file where it is missing or out of date. Standard library only.

`bootstrap.py runtime|dev` prints nothing when there is nothing to do. Two runs at
once wait for each other; a run that was killed is begun anew.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCKS = {"runtime": "requirements.lock", "dev": "requirements-dev.lock"}


def main() -> int:
    """Returns the exit code."""
    open_closed_descriptors()
    kind = sys.argv[1] if len(sys.argv) > 1 else "runtime"
    if sys.version_info < (3, 11):  # noqa: UP036  (this file runs under any Python)
        print("sync-ledger needs Python 3.11 or newer", file=sys.stderr)
        return 1
    with (ROOT / ".bootstrap.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            ensure(kind)
        except subprocess.CalledProcessError as error:
            print(
                f"sync-ledger: setting up .venv failed: {' '.join(map(str, error.cmd[:6]))}", file=sys.stderr
            )
            return 1
    return 0


def open_closed_descriptors() -> None:
    """Opens those of stdin, stdout and stderr that are closed on nothing: else the next file or
    socket would get their numbers, and what is printed (or libuv, which aborts). Stdout is opened
    for reading, so that whoever writes to it hears that it is closed.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)  # the lowest number is free
            os.set_inheritable(descriptor, True)


def ensure(kind: str) -> None:
    """Installs what the lock file names, unless that was done."""
    stamp = VENV / f"stamp-{kind}"
    wanted = _digest(kind)
    if any(_is(VENV / f"stamp-{k}", _digest(k)) for k in {kind, "dev"}):
        return
    if not (VENV / "bin" / "python").exists() or not _same_python():
        print(f"making {VENV}", file=sys.stderr)
        shutil.rmtree(VENV, ignore_errors=True)
        _make_venv()
    print(f"installing from {LOCKS[kind]}", file=sys.stderr)
    _pip("install", "--require-hashes", "-r", str(ROOT / LOCKS[kind]))
    _pip("install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    stamp.write_text(wanted)


def _make_venv() -> None:
    try:
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True, capture_output=True)
    except subprocess.CalledProcessError:
        # Debian's Python without python3-venv has no ensurepip, but may have pip
        shutil.rmtree(VENV, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(VENV)], check=True)


def _pip(*arguments: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]
    own = VENV / "bin" / "pip"
    if own.exists():
        subprocess.run([str(VENV / "bin" / "python"), "-m", "pip", *arguments, *quiet], check=True)
    else:
        python = ["--python", str(VENV / "bin" / "python")]
        subprocess.run([sys.executable, "-m", "pip", *python, *arguments, *quiet], check=True)


def _same_python() -> bool:
    found = subprocess.run(
        [str(VENV / "bin" / "python"), "-c", "import sys; print(sys.version_info[:2])"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() == str(sys.version_info[:2])


def _digest(kind: str) -> str:
    files = (LOCKS[kind], "pyproject.toml")
    content = b"".join((ROOT / name).read_bytes() for name in files)
    return hashlib.sha256(content + str(ROOT).encode()).hexdigest()


def _is(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text() == wanted


if __name__ == "__main__":
    sys.exit(main())
