"""`POST /v1/sync/{plural}`: records in, one durable answer out.

Written against ASGI itself: this is the one endpoint whose speed matters.
"""

from __future__ import annotations

import asyncio
import re
from hashlib import sha256
from typing import Any

import msgspec
from litestar import asgi
from litestar.types import Receive, Scope, Send

from api.bodies import Hold
from api.guards import delivery_header, header, new_delivery_id, send_problem, tenant_of
from api.metrics import RESULTS
from api.problems import RETRY_AFTER_SECONDS, ProblemError, away, not_recorded
from api.service import Service
from ledger.errors import (
    BusyError,
    DatabaseAwayError,
    KeyConflictError,
    KeyInFlightError,
    LostAnswerError,
    NotRecordedError,
    OtherVersionError,
    QueueFullError,
    TooLargeError,
    UnreadableBodyError,
)
from ledger.lane import Answer, Delivery
from ledger.seal import Origin
from ledger.zoho.entities import Entity
from ledger.zoho.intake import Body
from ledger.zoho.records import Record

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def sync_handler(service: Service, entity: Entity) -> object:
    """The route of one entity."""
    path = f"/v1/sync/{entity.plural}"

    @asgi(path, name=f"sync_{entity.plural}", copy_scope=False)
    async def sync(scope: Scope, receive: Receive, send: Send) -> None:
        delivery_id = new_delivery_id()
        try:
            with service.bodies.hold() as hold:
                answer = await _sync(service, entity, scope, receive, delivery_id, hold)
        except asyncio.CancelledError:
            # the server is stopping and this request was not complete, or not answered in time
            await send_problem(send, away(), [delivery_header(delivery_id)])
            return
        except ProblemError as problem:
            await send_problem(send, problem, [delivery_header(delivery_id)])
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(answer.body)).encode()),
            delivery_header(answer.delivery_id),
        ]
        if answer.replayed:
            headers.append((b"idempotency-replayed", b"true"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": False})

    return sync


async def _sync(
    service: Service, entity: Entity, scope: Scope, receive: Receive, delivery_id: str, hold: Hold
) -> Answer:
    if scope["method"] != "POST":  # type: ignore[typeddict-item]
        raise ProblemError(405, "Records are sent with POST.", {"Allow": "POST"})
    headers = scope["headers"]
    tenant_id = tenant_of(headers, service.settings)
    given_key = _given_key(header(headers, b"x-idempotency-key"))
    body = await _body(scope, receive, service.settings.max_body_bytes, hold)
    query = scope["query_string"]
    hashed = sha256(len(query).to_bytes(4, "big") + query)
    hashed.update(body)
    body_hash = hashed.digest()
    key = given_key or f"body-{body_hash.hex()}"
    content_type = header(headers, b"content-type") or ""
    records = await _records(
        service,
        tenant_id,
        Body(
            body,
            content_type,
            query,
            entity.name,
            service.settings.max_records,
            service.settings.max_body_bytes,
        ),
    )
    if not records and given_key is None:
        answer = {"status": "success", "idempotency_key": key, "results": []}
        return Answer(msgspec.json.encode(answer), delivery_id)
    delivery = Delivery(
        endpoint=entity.plural,
        key=key,
        derived=given_key is None,
        body_hash=body_hash,
        origin=Origin(tenant_id, "sync", delivery_id),
        records=records,
        let_go=hold.keep().let_go,
    )
    answered = await _submit(service, delivery)
    RESULTS.labels(entity.name, "replayed" if answered.replayed else "recorded").inc(len(records))
    return answered


async def _submit(service: Service, delivery: Delivery) -> Answer:
    """The answer of the tenant's lane. Raises `ProblemError` where there is none."""
    tenant_id = delivery.origin.tenant_id
    try:
        return await service.lanes.submit(delivery)
    except KeyConflictError:
        raise ProblemError(
            422, "X-Idempotency-Key was used before for another body: use a new key."
        ) from None
    except LostAnswerError as error:
        raise ProblemError(
            409,
            "The answer remembered under this idempotency key cannot be read. Its records are in the ledger, as "
            f"delivery {error.delivery_id[:80]!r}: use a new key to send them again.",
        ) from None
    except KeyInFlightError:
        raise ProblemError(
            409, "The first request with this idempotency key has no answer yet: try again later."
        ) from None
    except QueueFullError:
        raise ProblemError(
            503,
            f"The queue of tenant {tenant_id} is full: send the same request again.",
            {"Retry-After": RETRY_AFTER_SECONDS},
        ) from None
    except OtherVersionError as error:
        if not error.is_newer:
            service.rebuild_soon(tenant_id)
        raise ProblemError(
            503,
            f"The read models of tenant {tenant_id} are of another release: send the same request again.",
            {"Retry-After": RETRY_AFTER_SECONDS},
        ) from None
    except NotRecordedError:
        raise not_recorded() from None
    except DatabaseAwayError:
        raise away() from None


async def _records(service: Service, tenant_id: str, body: Body) -> list[Record]:
    try:
        return await service.intake.read(tenant_id, service.reader(tenant_id), body)
    except UnreadableBodyError as error:
        raise ProblemError(400, _sentence(str(error))) from None
    except TooLargeError as error:
        raise ProblemError(413, _sentence(str(error))) from None
    except BusyError as error:
        raise ProblemError(503, _sentence(str(error)), {"Retry-After": RETRY_AFTER_SECONDS}) from None


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _given_key(key: str | None) -> str | None:
    if key is not None and not _KEY.fullmatch(key):
        raise ProblemError(
            400, "X-Idempotency-Key should be 1 to 255 visible ASCII characters without blanks."
        )
    return key


async def _body(scope: Scope, receive: Receive, limit: int, hold: Hold) -> bytes:
    problem = ProblemError(413, f"The body is larger than {limit} bytes (MAX_BODY_BYTES): send it in parts.")
    length = header(scope["headers"], b"content-length")
    if length is not None and length.isdecimal():
        if int(length) > limit:
            raise problem
        hold.expect(int(length))
    chunks: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ProblemError(400, "The client went away before its body had come.")
        chunk: bytes = message.get("body", b"")
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise problem
        hold.add(len(chunk))
        if not message.get("more_body"):
            return b"".join(chunks)
