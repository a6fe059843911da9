"""The bodies of requests that one process keeps in memory, over all tenants."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from api.problems import RETRY_AFTER_SECONDS, ProblemError

MOST_BYTES = 256 * 1024 * 1024


class Bodies:
    """How much there is of them, from the first byte read to the last one recorded."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most = most
        self.held = 0

    def hold(self) -> Hold:
        """What one request will hold."""
        return Hold(self)


class Hold:
    """One request's part. It is given back when all that keep it have let go: the request itself
    (leaving the `with`), and whoever called `keep`.
    """

    __slots__ = ("_bodies", "_bytes", "_keepers")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._bytes = 0
        self._keepers = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.let_go()

    def expect(self, size: int) -> None:
        """Raises `ProblemError` 503 where there is no room for so much more."""
        if self._bodies.held + size > self._bodies.most:
            raise ProblemError(
                503,
                f"The server has {self._bodies.most} bytes of bodies in hand and takes no more now: "
                "send the same request again.",
                {"Retry-After": RETRY_AFTER_SECONDS},
            )

    def add(self, size: int) -> None:
        """Counts bytes that have come. Raises `ProblemError` 503 where there is no room for them."""
        self.expect(size)
        self._bytes += size
        self._bodies.held += size

    def keep(self) -> Hold:
        """Keeps it until one more `let_go`."""
        self._keepers += 1
        return self

    def let_go(self) -> None:
        """Lets go of it."""
        self._keepers -= 1
        if self._keepers == 0:
            self._bodies.held -= self._bytes
