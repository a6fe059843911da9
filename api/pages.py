"""Health, readiness, metrics, and the documentation with its assets."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Annotated, Any

import msgspec
import swagger_ui
from litestar import MediaType, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.params import PathParameter
from litestar.router import Router
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.problems import MEDIA_TYPE, RETRY_AFTER_SECONDS, ProblemError, body_of, documented, respond
from api.service import Service
from ledger.errors import DatabaseAwayError
from ledger.patience import within

READY_SECONDS = 1.5
STATUSES_SECONDS = 0.3
"""How long `ready` waits for a look at the statuses. The next call sees what a longer look found."""
_ASSETS = "/docs/assets"

SWAGGER = SwaggerRenderPlugin(
    path="/",
    js_url=f"{_ASSETS}/swagger-ui-bundle.js",
    css_url=f"{_ASSETS}/swagger-ui.css",
    standalone_preset_js_url=f"{_ASSETS}/swagger-ui-standalone-preset.js",
    favicon=f'<link rel="icon" href="{_ASSETS}/favicon-32x32.png">',
)


def docs_router() -> Router:
    """Where the documentation is; what is not there is a problem like everywhere."""

    def checked(response: Response[Any]) -> Response[Any]:
        if response.status_code != 404:  # Litestar's own is a page
            return response
        return respond(ProblemError(404, "There is no such page: the documentation is at /docs."))

    return Router("/docs", route_handlers=[], include_in_schema=False, after_request=checked)


def assets() -> HTTPRouteHandler:
    """Swagger UI's files, from this machine: those that are there at the start, by name."""
    folder = Path(swagger_ui.__file__).parent / "static"
    files = {file.name: file for file in folder.iterdir() if file.is_file()}

    @get(f"{_ASSETS}/{{name:str}}", include_in_schema=False, sync_to_thread=True)
    def asset(name: Annotated[str, PathParameter()]) -> Response[bytes]:
        if (file := files.get(name)) is None:
            raise ProblemError(404, f"There is no file {name[:80]!r} of the documentation: see /docs.")
        media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(file.read_bytes(), media_type=media_type, headers={"cache-control": "max-age=3600"})

    return asset


def page_handlers(service: Service) -> list[HTTPRouteHandler]:
    """The routes for machines that watch this one."""

    @get(
        "/v1/health",
        operation_id="health",
        summary="The process lives",
        tags=["operations"],
        responses=documented(),
        sync_to_thread=False,
    )
    def health() -> dict[str, str]:
        return {"status": "healthy"}

    @get(
        "/v1/ready",
        operation_id="ready",
        summary="Records can be accepted",
        description="503 only when a record could not be accepted; `degraded` names the rest.",
        tags=["operations"],
        responses=documented(503),
    )
    async def ready() -> Response[Any]:
        try:
            await within(READY_SECONDS, service.try_to_write())
        except (DatabaseAwayError, TimeoutError):
            return Response(
                body_of(503, "The ledger's database cannot be written."),
                status_code=503,
                media_type=MEDIA_TYPE,
                headers={"Retry-After": RETRY_AFTER_SECONDS},
            )
        await service.statuses.look_at_all(STATUSES_SECONDS)
        return Response({"status": "ready", "degraded": service.degraded})

    @get(
        "/metrics",
        operation_id="metrics",
        summary="Counters for Prometheus",
        description="Of the one process that answers; with several workers each has its own.",
        tags=["operations"],
        media_type=MediaType.TEXT,
        responses=documented(),
        sync_to_thread=False,
    )
    def metrics() -> Response[bytes]:
        return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    @get("/openapi.json", include_in_schema=False, sync_to_thread=False)
    def openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
        document = msgspec.json.encode(request.app.openapi_schema.to_schema())
        return Response(document, media_type="application/vnd.oai.openapi+json")

    return [health, ready, metrics, openapi]
