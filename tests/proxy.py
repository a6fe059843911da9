"""A proxy before PostgreSQL that can lose what passes through it, as a network does."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

T = TypeVar("T")
Loses = Literal["both ways", "to the server", "to the client"]


class Proxy:
    """Listens on loopback and passes bytes on to a Unix socket, in a thread of its own.

    `mute` makes the connections that exist silent: their bytes are read and dropped, and nobody
    closes them. New ones work.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._lost: dict[asyncio.Task[None], set[str]] = {}
        self._refuses = False
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._server.close()
            for task in self._lost:
                task.cancel()
            await asyncio.gather(*self._lost, return_exceptions=True)

        self._call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def mute(self, loses: Loses = "both ways", *, new_ones: bool = False) -> None:
        """From now on the connections that exist are silent; with `new_ones` those that come, too."""

        async def mute() -> None:
            for directions in self._lost.values():
                directions.update({"to the server", "to the client"} if loses == "both ways" else {loses})
            self._refuses = new_ones

        self._call(mute())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        lost = self._lost[task] = {"to the server", "to the client"} if self._refuses else set()
        server_reader, server_writer = await asyncio.open_unix_connection(self._socket)
        try:
            await asyncio.gather(
                self._pass_on(reader, server_writer, lost, "to the server"),
                self._pass_on(server_reader, writer, lost, "to the client"),
            )
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for stream in (writer, server_writer):
                stream.close()
            del self._lost[task]

    @staticmethod
    async def _pass_on(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: set[str], direction: str
    ) -> None:
        while data := await reader.read(65_536):
            if direction not in lost:
                writer.write(data)
                await writer.drain()
        if direction not in lost:  # a silent one does not tell that the other side has gone
            writer.close()
        else:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
