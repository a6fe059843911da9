"""A new entity is one declaration: it syncs, lists, waits and replays."""

from __future__ import annotations

import asyncio
import socket

import httpx
import uvicorn

from api.app import create_app
from ledger.database import Database
from ledger.installation import Installation
from ledger.zoho.entities import ENTITIES, Entities, Entity, Field
from tests.harness import Ledger

UNIT = Entity(
    "unit",
    "units",
    (
        Field("name", 1, ("Unit_Name", "Name"), required=True),
        Field("code", 2, ("Unit_Code",)),
        Field("program_zoho_id", 3, ("BTEC_Program",), "lookup", refers="program", needs=True),
    ),
)
FIVE = Entities((*ENTITIES, UNIT))


async def test_it_syncs_lists_waits_and_replays(
    installation: Installation, database: Database, tenant: str
) -> None:
    """Over HTTP, with nothing but the declaration above."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(installation, FIVE), log_level="warning"))
    serving = asyncio.create_task(server.serve([listening]))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with httpx.AsyncClient(base_url=url, headers={"X-Tenant-ID": tenant}) as client:
        unit = {"id": "U", "Unit_Name": "Programming", "Unit_Code": "P1", "BTEC_Program": "P"}
        [waits] = (await client.post("/v1/sync/units", json=unit)).json()["results"]
        assert (waits["zoho_unit_id"], waits["reason"]) == ("U", "program_not_synced_yet")
        program = await client.post("/v1/sync/programs", json={"id": "P", "Product_Name": "x"})
        assert program.json()["released"] == [{"zoho_unit_id": "U", "status": "NEW", "position": 1}]
        [item] = (await client.get("/v1/units")).json()["items"]
        assert (item["name"], item["code"], item["state"]) == ("Programming", "P1", "active")
        assert "/v1/sync/units" in (await client.get("/openapi.json")).json()["paths"]
    server.should_exit = True
    await serving
    ledger = Ledger(installation, database, tenant, FIVE)
    assert await ledger.live() == await ledger.rebuilt()
