"""An outage of the database, as the log tells it: its begin, once a minute, its end."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

log = structlog.get_logger()

REMIND_SECONDS = 60.0
SETTLE_SECONDS = 3.0
"""After so long without a failure the outage is over: connections are lost one by one."""


class Outage:
    """Whether the database works now. One for all that works on a database in a process."""

    def __init__(
        self,
        remind_seconds: float = REMIND_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remind_seconds = remind_seconds
        self._settle_seconds = settle_seconds
        self._now = now
        self._since: float | None = None
        self._remind_at = self._failed_at = 0.0
        self._failures = 0
        self._why: str | None = None

    def failed(self, reason: str) -> None:
        """Something could not be done, or its outcome is not known."""
        now = self._failed_at = self._now()
        self._failures += 1
        if self._since is None:
            self._since = now
            log.error("the database does not work", reason=reason)
        elif now >= self._remind_at:
            log.error(
                "the database still does not work",
                reason=reason,
                seconds=round(now - self._since),
                failures=self._failures,
            )
        else:
            return
        self._remind_at = now + self._remind_seconds

    def worked(self) -> None:
        """Something was done."""
        if self._since is None or (now := self._now()) < self._failed_at + self._settle_seconds:
            return
        log.warning("the database works again", seconds=round(now - self._since, 1), failures=self._failures)
        self._since, self._failures, self._why = None, 0, None

    def not_repaired(self, reason: str) -> None:
        """What would bring the database back has failed."""
        if reason != self._why:
            self._why = reason
            log.error("the database cannot be brought back", reason=reason)
