"""For which tenant a request is, and what plain ASGI answers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import Annotated

from litestar.params import HeaderParameter
from litestar.types import Send

from api.problems import MEDIA_TYPE, ProblemError, body_of
from ledger.settings import TENANT, Settings

TenantHeader = Annotated[
    str | None, HeaderParameter(name="X-Tenant-ID", description="the college; absent: the default one")
]
"""As the document shows it; `tenant_of` reads and checks it."""


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
