"""The application: routes, guards, errors, OpenAPI, and the life of its service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar
from litestar.config.app import AppConfig
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, Tag

from api.audit import FORMATS, audit_handlers
from api.documents import document_stream, document_sync
from api.edge import at_the_edge
from api.pages import SWAGGER, assets, docs_router, page_handlers
from api.problems import HANDLERS
from api.service import Service
from api.state import state_handlers
from api.sync import sync_handler
from ledger.installation import Installation
from ledger.zoho.entities import ENTITIES, Entities
from projections.fold import CurrentState


def create_app(
    installation: Installation,
    entities: Entities = ENTITIES,
    projection: CurrentState | None = None,
    *,
    moodle_worker: bool = True,
) -> Litestar:
    """The whole HTTP face over an installation that is open, with the workers of its followers."""
    service = Service(installation, entities, projection, moodle_worker=moodle_worker)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with service.running():
            yield

    handlers: list[Any] = [*page_handlers(service), *audit_handlers(service), assets()]
    for entity in entities:
        handlers += [sync_handler(service, entity), *state_handlers(service, entity)]
    config = AppConfig(
        route_handlers=handlers,
        lifespan=[lifespan],
        exception_handlers=HANDLERS,
        openapi_config=OpenAPIConfig(
            title=installation.settings.app_name,
            version="1",
            description="Carries a college's data from Zoho CRM to Moodle, and can prove it.",
            path="/docs",
            render_plugins=[SWAGGER],
            openapi_router=docs_router(),
            components=Components(),
            tags=[
                Tag("sync", "Records from Zoho"),
                Tag("state", "What is known now"),
                Tag("audit", "What happened, when, and why"),
                Tag("operations", "For machines that watch this one"),
            ],
        ),
    )
    app = Litestar.from_config(config)
    app.asgi_handler = at_the_edge(app.asgi_handler)
    app.state.service = service
    document_sync(app, entities)
    document_stream(app, "/v1/audit/export", FORMATS.values())
    return app
