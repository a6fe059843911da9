"""The processes that serve: one, or several below one that watches them."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from uvicorn.supervisors.multiprocess import Multiprocess, Process

RESTART_SECONDS = 2.0
"""At the least so long passes from one replacement of a process to the next."""
LOOKS = 60
END_SECONDS = 8.0
"""So long the processes have for their end."""


class OneProcess(uvicorn.Server):
    """This process serves. `serving` is called when it takes requests."""

    def __init__(self, config: uvicorn.Config, serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._serving = serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to take requests."""
        await super().startup(sockets)
        self._serving()


class Workers(Multiprocess):
    """Several processes serve. `serving` is called when all of them take requests. One that ends
    before that fails the start (`failed`); later `ended` is called and it is replaced, at a pace:
    one that cannot open the ledger now would else be begun anew all the time.

    A process is asked twice a second whether it serves, and nobody waits for the answer: a machine
    that is busy may take its time to start one. One that has served and leaves `LOOKS` questions
    unanswered is killed.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        sockets: list[socket.socket],
        serving: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(config, sockets)
        self._serving = serving
        self._ended = ended
        self._unanswered: dict[Process, int] = {}
        self._serve: set[Process] = set()
        self._served = False
        self._next = 0.0
        self.failed = False

    def init_processes(self) -> None:
        """Begins them all."""
        with _deaf_to_ctrl_c():
            super().init_processes()

    def keep_subprocess_alive(self) -> None:
        """Looks at each process; called twice a second."""
        if self.should_exit.is_set() or self.signal_queue:
            return  # the end has begun, and may reach them first
        for index, process in enumerate(self.processes):
            if time.monotonic() < self._next or self._lives(process):
                continue
            process.kill()
            process.join()
            if not self._served:
                self.failed = True
                self.should_exit.set()
                return
            self._ended()
            self._next = time.monotonic() + RESTART_SECONDS
            self._serve.discard(process)
            self._unanswered.pop(process, None)
            process.process.close()
            self.processes[index] = Process(self.config, self.sockets)
            with _deaf_to_ctrl_c():
                self.processes[index].start()
        if not self._served and self._serve.issuperset(self.processes):
            self._served = True
            self._serving()

    def _lives(self, process: Process) -> bool:
        """Whether a process has neither ended nor stopped to answer."""
        try:
            if process.parent_conn.poll():
                self._unanswered[process] = 0
                if process.parent_conn.recv():
                    self._serve.add(process)
            if not self._unanswered.get(process):
                process.parent_conn.send(b"ping")
        except (OSError, EOFError):
            return False
        self._unanswered[process] = self._unanswered.get(process, 0) + 1
        hangs = process in self._serve and self._unanswered[process] > LOOKS
        return process.process.is_alive() and not hangs

    def join_all(self) -> None:
        """Returns when all have ended; one that hangs is killed."""
        give_up = time.monotonic() + END_SECONDS
        for process in self.processes:
            process.process.join(max(0.0, give_up - time.monotonic()))
            process.kill()
            process.join()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A process that begins inherits it, and so ends by what its parent tells it, until it serves."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
