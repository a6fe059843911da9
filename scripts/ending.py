"""The end of a server, which comes whatever hangs."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import structlog

log = structlog.get_logger()

LAST_SECONDS = 9.5
"""After a signal: by then all that has a bound of its own has ended."""


def bound_the_end(seconds: float = LAST_SECONDS) -> None:
    """From SIGTERM or SIGINT on the process lives for so many seconds at the most, and ends with 1
    if it has not ended by itself. To be called in the main thread, once the signals are handled.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        handler: Any = signal.getsignal(number)

        def handled(number: int, frame: FrameType | None, handler: Any = handler) -> None:
            timer = threading.Timer(seconds, _end)
            timer.daemon = True
            timer.start()
            if callable(handler):
                handler(number, frame)

        signal.signal(number, handled)


def _end() -> None:
    log.error("the end took too long: something hangs, and was cut off")
    os._exit(1)
