"""The connections of one process: how many there may be, and how long one may keep others waiting.

Nothing here costs a timer for each connection or request: once a second every connection is looked
at. Time is counted by those looks, so that a process that was busy never takes its own time for its
clients'.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
from itertools import chain
from typing import Protocol, TypeAlias

import msgspec
import structlog

log = structlog.get_logger()

MOST_CONNECTIONS = 4_096
MOST_REQUESTS = 1_024
SWEEP_SECONDS = 1.0

_MACOS_MOST = 10_240
"""OPEN_MAX of macOS, whose hard limit says "infinite" and which takes no more than this."""


def raise_descriptors() -> None:
    """Raises this process's limit of open files, and that of the processes it starts, as far as
    the system lets it. Where it does not, the limit stays.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _MACOS_MOST):
        if wanted == hard or (hard == resource.RLIM_INFINITY and soft < wanted):
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
                return


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What clients may take. Seconds are looks at a connection, of which there is one a second."""

    connections: int = MOST_CONNECTIONS
    requests: int = MOST_REQUESTS
    """Requests that are worked on. One that waits for its client, to send its body or to take its
    answer, is none of them.
    """
    quiet_seconds: int = 10
    """Without a request, or without a byte of one that is not complete."""
    head_seconds: int = 20
    """From the first byte of a request to the end of its header."""
    pace_seconds: int = 30
    pace_bytes: int = 240 * 1024
    """So much of a body in each `pace_seconds`: 8 KiB a second, the sixteenth part of 1 Mbit/s."""
    stalled_seconds: int = 30
    """Without a byte of its answer taken."""
    linger_seconds: int = 30
    """How long a client that is answered may go on sending before the connection is closed. Closed
    at once, the system would reset it, and the client would not see why.
    """

    @classmethod
    def here(cls) -> Limits:
        """The limits of this process: a quarter of its files is left to the database and Moodle."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MOST_CONNECTIONS
        if files != resource.RLIM_INFINITY:
            most = min(most, files * 3 // 4)
        return cls(connections=most, requests=min(MOST_REQUESTS, most // 2))


class Connection(Protocol):
    """A connection as the others see it."""

    loop: asyncio.AbstractEventLoop
    group: Group

    def look(self) -> None:
        """Ends it, if its client has kept it waiting for too long."""

    def give_way(self) -> None:
        """Ends it in favour of another one."""


Group: TypeAlias = dict[Connection, None]
"""Connections in the order in which they came to it."""


class Connections:
    """Every connection of one server, each in one group.

    Beyond the limit one that waits for its client gives way: the one that has had no request for
    longest, else the one whose body has not gone on for longest, else the one whose answer has not.
    """

    def __init__(self, limits: Limits | None = None, *, sweep_seconds: float = SWEEP_SECONDS) -> None:
        self.limits = limits or Limits.here()
        self.tick = 0
        """Looks since the start."""
        self.resting: Group = {}
        """Without a request, or without all of its head."""
        self.half: Group = {}
        """Whose body is coming, in the order of the last bytes."""
        self.streaming: Group = {}
        """Whose answer goes on when more of it is taken, in the order of the last looks that saw some taken."""
        self.taking: Group = {}
        """The same, of an answer that is complete."""
        self.busy: Group = {}
        self._sweep_seconds = sweep_seconds
        self._is_sweeping = False
        self._gave_way = 0

    def admit(self, connection: Connection) -> bool:
        """Takes a connection in, and whether there is room for it: if not, it is to be refused."""
        has_room = self.count < self.limits.connections or self._make_room()
        connection.group = self.resting
        self.resting[connection] = None
        if not self._is_sweeping:
            self._is_sweeping = True
            self._sweep_later(connection.loop)
        return has_room

    def remove(self, connection: Connection) -> None:
        """Forgets a connection that is closed."""
        connection.group.pop(connection, None)

    def move(self, connection: Connection, group: Group) -> None:
        """Puts a connection at the end of a group."""
        del connection.group[connection]
        group[connection] = None
        connection.group = group

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(map(len, (*self._waiting, self.busy)))

    @property
    def _waiting(self) -> tuple[Group, ...]:
        return self.resting, self.half, self.taking, self.streaming

    def are_working_hard(self, tasks: int) -> bool:
        """Whether so many requests that have begun are too many for another one."""
        return tasks - len(self.half) - len(self.streaming) >= self.limits.requests

    def _make_room(self) -> bool:
        for group in self._waiting:
            for connection in group:
                connection.give_way()
                self.move(connection, self.busy)  # until it is closed
                self._gave_way += 1
                return True
        return False

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        # two turns of the loop later: by then it has read whatever came while it was busy
        loop.call_later(self._sweep_seconds, loop.call_soon, loop.call_soon, self._sweep_on, loop)

    def _sweep_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.count:
            self._sweep_later(loop)
        else:
            self._is_sweeping = False
        self.sweep()

    def sweep(self) -> None:
        """Looks at every connection."""
        self.tick += 1
        for connection in chain(*map(list, (*self._waiting, self.busy))):
            connection.look()
        if self._gave_way:
            log.warning("connections had to give way", count=self._gave_way, most=self.limits.connections)
            self._gave_way = 0
