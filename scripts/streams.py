"""Standard streams that may be closed, full or read by nobody."""

from __future__ import annotations

import io
import sys
from typing import Any, TextIO

from scripts.bootstrap import open_closed_descriptors


class OutputError(Exception):
    """What a command had to say could not be written."""


class _Stream(io.FileIO):
    """A standard stream. After its first failure it takes whatever comes, so that nothing fails again
    in the middle of the end. With a name the failure is an `OutputError`, without one it is silent:
    nobody can be told that nobody can be told.
    """

    def __init__(self, descriptor: int, name: str | None = None) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._called = name
        self._failed = False

    def write(self, data: Any, /) -> Any:
        """Writes. Raises `OutputError`."""
        if not self._failed:
            try:
                return super().write(data)
            except OSError as error:
                self._failed = True
                if self._called is not None:
                    raise OutputError(f"{self._called} cannot be written: {error.strerror}") from None
        return memoryview(data).nbytes


def open_standard_streams() -> None:
    """Makes stdout say in one line that it cannot be written, and stderr take everything."""
    open_closed_descriptors()
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115  (a descriptor, for good)
    sys.stdout = _as(sys.stdout, _Stream(1, "stdout"))
    sys.stderr = _as(sys.stderr, _Stream(2))


def _as(old: TextIO | None, stream: _Stream) -> TextIO:
    """A text stream as Python had made it, where it had."""
    if not isinstance(old, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(stream), "utf-8", "backslashreplace", line_buffering=True)
    return io.TextIOWrapper(
        io.BufferedWriter(stream),
        old.encoding,
        old.errors,
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )
