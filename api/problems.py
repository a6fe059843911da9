"""Errors as RFC 9457 `application/problem+json`: status, title, detail."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec

from api.metrics import REFUSED
from ledger.errors import DatabaseAwayError

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "2"


class Problem(msgspec.Struct):
    """RFC 9457, as every error is answered."""

    type: str
    title: str
    status: int
    detail: str


def documented(*statuses: int) -> dict[int, ResponseSpec]:
    """Problem responses for the OpenAPI document; every operation has 403 (`api.callers`)."""
    return {
        status: ResponseSpec(
            Problem,
            generate_examples=False,
            description=_WHEN[status],
            media_type=MEDIA_TYPE,
        )
        for status in sorted({403, *statuses})
    }


_WHEN = {
    400: "A header or parameter is unknown or wrong",
    403: "A page of another site sent the request, or it came through a proxy or names another host",
    404: "The ledger never accepted such a record",
    503: "The database cannot be reached",
}


_OF_THE_ROUTER = {
    404: "There is no such address: /docs lists those that there are.",
    405: "This address does not take this method: the header Allow names those that it takes.",
}
"""What is said where no route fits."""


class ProblemError(Exception):
    """An error with its HTTP status. The detail names the thing, the value, the way out."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


class Refusals:
    """Lines of the log that anybody can cause: one a second at the most."""

    def __init__(self, event: str, now: Callable[[], float] = time.monotonic) -> None:
        self._event = event
        self._now = now
        self._next = 0.0
        self._left_out = 0

    def tell(self, problem: ProblemError) -> None:
        """Counts a request that was refused, and logs why, or leaves that to the next line."""
        REFUSED.labels(self._event).inc()
        if (now := self._now()) < self._next:
            self._left_out += 1
            return
        # not what the sender chose, which the detail shows in quotes or brackets
        reason = problem.detail.partition(" (")[0].partition(" '")[0]
        log.warning(self._event, status=problem.status, reason=reason, left_out=self._left_out)
        self._next, self._left_out = now + 1.0, 0


def away() -> ProblemError:
    """The database is away: nothing was done, or the same key will tell."""
    return ProblemError(
        503,
        "The ledger cannot reach its database: send the same request again.",
        {"Retry-After": RETRY_AFTER_SECONDS},
    )


def not_recorded() -> ProblemError:
    """The database is there, but a request could not be recorded."""
    return ProblemError(
        503,
        "The request could not be recorded, and nothing of it was: the server's log says why. The same "
        "request may be sent again.",
        {"Retry-After": RETRY_AFTER_SECONDS},
    )


def body_of(status: int, detail: str) -> bytes:
    """The problem document."""
    return msgspec.json.encode(Problem("about:blank", HTTPStatus(status).phrase, status, detail))


def respond(problem: ProblemError) -> Response[bytes]:
    """A problem as a response."""
    return Response(
        body_of(problem.status, problem.detail),
        status_code=problem.status,
        headers=problem.headers,
        media_type=MEDIA_TYPE,
    )


def _from_problem(_: Request[Any, Any, Any], error: ProblemError) -> Response[bytes]:
    return respond(error)


def _from_http(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    headers = dict(error.headers or {})
    detail = _OF_THE_ROUTER.get(error.status_code, error.detail or "")
    return respond(ProblemError(error.status_code, detail, headers))


def _from_away(_: Request[Any, Any, Any], __: DatabaseAwayError) -> Response[bytes]:
    return respond(away())


def _from_anything(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("a request failed", exc_info=error)
    return respond(ProblemError(500, "The server failed on this request; its log says why."))


HANDLERS: dict[Any, Any] = {
    ProblemError: _from_problem,
    HTTPException: _from_http,
    DatabaseAwayError: _from_away,
    Exception: _from_anything,
}
"""What Litestar is to do with each kind of error."""
