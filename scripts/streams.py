"""Standard streams that may be closed, full or read by nobody."""

from __future__ import annotations

import io
import select
import sys
from typing import Any, TextIO

from scripts.bootstrap import open_closed_descriptors


class OutputError(Exception):
    """What a command had to say could not be written."""


STUCK_SECONDS = 1.0
"""So long a line to stderr waits for a reader, and no line after it until there is one again: a server
whose log nobody reads goes on.
"""


class _Stream(io.FileIO):
    """A standard stream. After its first failure it takes whatever comes, so that nothing fails again
    in the middle of the end. With a name the failure is an `OutputError`, without one it is silent:
    nobody can be told that nobody can be told.
    """

    def __init__(self, descriptor: int, name: str | None = None) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._called = name
        self._failed = self._is_stuck = False

    def write(self, data: Any, /) -> Any:
        """Writes. Raises `OutputError`."""
        if self._called is None:
            data = memoryview(data)[: select.PIPE_BUF]  # so much is taken at once where anything is
            if not self._has_room():
                return len(data)
        if not self._failed:
            try:
                written = super().write(data)
                return memoryview(data).nbytes if written is None else written  # None: it would block
            except OSError as error:
                self._failed = True
                if self._called is not None:
                    raise OutputError(f"{self._called} cannot be written: {error.strerror}") from None
        return memoryview(data).nbytes

    def _has_room(self) -> bool:
        """Whether somebody takes what is written."""
        try:
            poll = select.poll()
            poll.register(self.fileno(), select.POLLOUT)
            self._is_stuck = not poll.poll(0 if self._is_stuck else STUCK_SECONDS * 1000)
        except OSError:
            return True  # the write itself says what is wrong
        return not self._is_stuck


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
        line_buffering=old.line_buffering or old.write_through,
        write_through=old.write_through,
    )
