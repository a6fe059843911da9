"""Who may ask, and for which tenant.

Without keys the server is for its own machine only: a request that came through a
proxy, or that names another host (as a page in a browser could make it do), is
refused.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import Annotated

from litestar.enums import ScopeType
from litestar.params import HeaderParameter
from litestar.types import ASGIApp, Receive, Scope, Send

from api.problems import MEDIA_TYPE, ProblemError, body_of
from ledger.settings import TENANT, Settings

TenantHeader = Annotated[
    str | None, HeaderParameter(name="X-Tenant-ID", description="the college; absent: the default one")
]
"""As the document shows it; `tenant_of` reads and checks it."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def header(scope_headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """A request header, None where it is absent."""
    for key, value in scope_headers:
        if key == name:
            return value.decode("latin-1")
    return None


def tenant_of(scope_headers: Iterable[tuple[bytes, bytes]], settings: Settings) -> str:
    """The tenant that a request names, else the default one. Raises `ProblemError` 400."""
    name = header(scope_headers, b"x-tenant-id")
    if name is None:
        return settings.default_tenant
    if not TENANT.fullmatch(name):
        raise ProblemError(
            400,
            "X-Tenant-ID should be 1 to 64 letters, digits, dots, dashes or underscores, "
            f"starting with a letter or digit; it is {name[:80]!r}.",
        )
    return name


def host_name(host: str) -> str:
    """`[::1]:8000` -> `::1`, `localhost:8000` -> `localhost`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def loopback_only(app: ASGIApp) -> ASGIApp:
    """Middleware: refuses whatever did not come from this machine itself."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            headers = scope["headers"]
            detail = None
            if header(headers, b"x-forwarded-for") is not None:
                detail = "The request came through a proxy, and AUTH=off serves on loopback only."
            host = host_name(header(headers, b"host") or "localhost")
            if host not in LOOPBACK:
                detail = (
                    f"The request names the host {host[:80]!r}, and AUTH=off serves on loopback "
                    "only: use localhost."
                )
            if detail is not None:
                await send_problem(send, ProblemError(403, detail), [delivery_header()])
                return
        await app(scope, receive, send)

    return guarded


def new_delivery_id() -> str:
    """32 hex digits: microseconds first, so that they sort by time and an index of them
    grows at its end, then 72 random bits.
    """
    return f"{time.time_ns() // 1000:014x}{secrets.token_hex(9)}"


def delivery_header(delivery_id: str | None = None) -> tuple[bytes, bytes]:
    """`X-Delivery-ID`, which every answer to a delivery carries."""
    return b"x-delivery-id", (delivery_id or new_delivery_id()).encode()


async def send_problem(
    send: Send, problem: ProblemError, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Answers a problem from plain ASGI."""
    body = body_of(problem.status, problem.detail)
    await send(
        {
            "type": "http.response.start",
            "status": problem.status,
            "headers": [
                (b"content-type", MEDIA_TYPE.encode()),
                (b"content-length", str(len(body)).encode()),
                *((k.lower().encode(), v.encode()) for k, v in problem.headers.items()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})
