"""The sync endpoints in the OpenAPI document (they are plain ASGI, so not found by Litestar)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from litestar import Litestar
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    PathItem,
    Reference,
    RequestBody,
    Schema,
)

from ledger.zoho.entities import Entities, Entity

_RECORDS: dict[str, dict[str, Any]] = {
    "student": {
        "id": "STUDENT_001",
        "First_Name": "Layla",
        "Last_Name": "Nasser",
        "Academic_Email": "layla.nasser@college.example",
    },
    "program": {
        "id": "PROD_001",
        "Product_Name": "Python Essentials",
        "Price": "199.99",
        "status": "Active",
    },
    "class": {
        "id": "CLASS_001",
        "BTEC_Class_Name": "Python Fundamentals - Cohort A",
        "Short_Name": "PY101-A",
        "BTEC_Program": {"id": "PROD_001"},
    },
    "enrollment": {
        "id": "ENR_001",
        "Student": {"id": "STUDENT_001"},
        "BTEC_Class": {"id": "CLASS_001"},
        "status": "Active",
    },
}

_PROBLEMS = {
    "403": "A page of another site sent the request, or it came through a proxy or names another host; nothing was stored.",
    "400": "The body cannot be read or has two meanings, or a header is wrong; nothing was stored.",
    "408": "The request did not come to its end in time; nothing was stored.",
    "409": "The first request with this idempotency key has no answer yet, or its answer was altered.",
    "413": "The body is too large, or holds too many records; nothing was stored.",
    "422": "The idempotency key was used before for another body; nothing was stored.",
    "503": "Not recorded, or the outcome is not known: send the same request again.",
}


def example_id(entity: str) -> str:
    """The id of an entity's example record."""
    return str(_example(entity)["id"])


def _example(entity: str) -> dict[str, Any]:
    return _RECORDS.get(entity, {"id": f"{entity.upper()}_001"})


def document_sync(app: Litestar, entities: Entities) -> None:
    """Adds one operation an entity, and its record's id as the example of the address that reads it."""
    paths = app.openapi_schema.paths
    assert paths is not None
    for entity in entities:
        paths[f"/v1/sync/{entity.plural}"] = PathItem(post=_operation(entity))
        for parameter in _get(app, f"/v1/{entity.plural}/{{zoho_id}}").parameters or ():
            if isinstance(parameter, Parameter) and parameter.param_in == "path":
                parameter.examples = {"example": Example(value=example_id(entity.name))}


def _get(app: Litestar, path: str) -> Operation:
    paths = app.openapi_schema.paths
    assert paths is not None
    operation = paths[path].get
    assert operation is not None
    return operation


def document_stream(app: Litestar, path: str, media_types: Iterable[str]) -> None:
    """Says of which kinds a stream may be (Litestar knows one kind an operation)."""
    responses = _get(app, path).responses
    assert responses is not None
    text = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
    responses["200"] = OpenAPIResponse(
        description="The events, one a line.", content=dict.fromkeys(media_types, text)
    )


def _operation(entity: Entity) -> Operation:
    record = _example(entity.name)
    answer = {
        "status": "success",
        "idempotency_key": "body-5f1d…",
        "results": [
            {
                entity.id_key: record["id"],
                "status": "NEW",
                "message": f"{entity.title} created",
                "position": 1,
                "moodle_status": "PENDING_MOODLE",
            }
        ],
    }
    responses: dict[str, OpenAPIResponse | Reference] = {
        "200": OpenAPIResponse(
            description="Every record is on disk; each has its own result.",
            content={"application/json": _media({"type": "object"}, "answer", answer)},
        )
    }
    for status, why in _PROBLEMS.items():
        responses[status] = OpenAPIResponse(
            description=why,
            content={"application/problem+json": OpenAPIMediaType(schema=_object())},
        )
    return Operation(
        operation_id=f"sync_{entity.plural}",
        summary=f"Records of {entity.plural} from Zoho",
        description=(
            'Takes `{"data": [record, ...]}`, `{"data": record}`, a list, one record, any of them as '
            "JSON text, also under `records`, `payload` or `arguments` and in form fields of these "
            "names, form fields named as in the record, or the same in the query of an empty POST. The "
            "content type is a hint only; a charset that it names is used. Every record counts. A body "
            "of which a part would be lost, or that has two meanings, is 400. A value that cannot be "
            "read counts as absent and is named in `warnings`."
        ),
        tags=["sync"],
        parameters=[
            _header("X-Tenant-ID", "the college; absent: the default one"),
            _header("X-Idempotency-Key", "1 to 255 visible ASCII characters; absent: derived"),
        ],
        request_body=RequestBody(
            required=False,
            content={"application/json": _media({}, "one record", {"data": [record]})},
        ),
        responses=responses,
    )


def _object() -> Schema:
    return Schema(type=OpenAPIType.OBJECT)


def _media(schema: dict[str, Any], name: str, value: Any) -> OpenAPIMediaType:
    return OpenAPIMediaType(schema=_object() if schema else Schema(), examples={name: Example(value=value)})


def _header(name: str, description: str) -> Parameter:
    return Parameter(
        name=name,
        param_in="header",
        required=False,
        description=description,
        schema=Schema(type=OpenAPIType.STRING),
    )
