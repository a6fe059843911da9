"""What tests drive the product with: a lane in this process, servers in others."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
import pytest

from api.answers import renderer
from ledger.database import Database
from ledger.installation import Installation
from ledger.lane import Answer, Delivery, Lane
from ledger.seal import Origin
from ledger.settings import TenantSettings
from ledger.unseal import Unsealer
from ledger.vault import MasterKey
from ledger.zoho.entities import ENTITIES, Entities
from ledger.zoho.payloads import read_payload, records_of
from ledger.zoho.records import Reader
from projections.fold import CurrentState, outcome_columns
from projections.inline import InlineState
from projections.replay import Folding, pages, parked_positions
from projections.state import to_columns


class Rebuilt(msgspec.Struct):
    """Read-model rows as a replay from nothing gives them, in the order of `ledger.*_v1`."""

    records: set[tuple[Any, ...]]
    links: set[tuple[Any, ...]]
    outcomes: set[tuple[Any, ...]]


async def rebuild(
    database: Database,
    tenant_id: str,
    master_key: MasterKey,
    projection: CurrentState,
    until: int | None = None,
) -> Rebuilt:
    """Folds all events of a tenant, or those up to a position."""
    async with database.transaction(tenant_id) as connection:
        parked = await parked_positions(connection, tenant_id, projection)
    unsealer = Unsealer(tenant_id, master_key)
    folding = Folding(projection, unsealer, parked)
    outcomes: set[tuple[Any, ...]] = set()
    async for page in pages(database, tenant_id, master_key, unsealer, 0, until):
        for event in page:
            if (outcome := folding.fold(event)) is not None:
                outcomes.update(outcome_columns(outcome, event))
    view = folding.view
    return Rebuilt(
        {to_columns(row) for row in view.rows.values() if row is not None},
        {(*needed, *dependent) for needed, ds in view.dependents.items() for dependent in ds},
        outcomes,
    )


ROOT = Path(__file__).resolve().parent.parent


def need(program: str) -> str:
    """The path of a program that not every machine has. Without it the test is skipped; it fails
    where `TEST_REQUIRES` (names, separated by blanks) says that the program must be there.
    """
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        missing = f"{program} is not installed: Debian's package of that name has it"
        if program in os.environ.get("TEST_REQUIRES", "").split():
            pytest.fail(missing)
        pytest.skip(missing)
    return path


def run_command(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`sync-ledger` with these arguments; it must end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, "LEDGER_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Ledger:
    """One tenant, without HTTP: posts go through the real reader and the real lane."""

    def __init__(
        self,
        installation: Installation,
        database: Database,
        tenant: str,
        entities: Entities = ENTITIES,
        projection: CurrentState | None = None,
    ) -> None:
        self.installation = installation
        self.database = database
        self.tenant = tenant
        self.entities = entities
        self.projection = projection or CurrentState(entities)
        self.reader = Reader(entities, TenantSettings())
        self.lane = self.new_lane()

    def new_lane(self) -> Lane:
        """A lane as another process would have."""
        return Lane(
            self.tenant,
            self.database,
            self.installation.master_key,
            self.entities,
            InlineState(self.entities, self.projection),
            renderer(self.entities, moodle_enabled=False),
        )

    def delivery(self, plural: str, records: Any, key: str | None = None) -> Delivery:
        """What a POST of these records becomes."""
        entity = self.entities.by_plural[plural]
        body = json.dumps({"data": records}).encode()
        payload = read_payload(body, "application/json", b"", self.reader.zoho_names(entity.name))
        digest = sha256(body).digest()
        return Delivery(
            endpoint=plural,
            key=key or digest.hex(),
            derived=key is None,
            body_hash=digest,
            origin=Origin(self.tenant, "sync", uuid.uuid4().hex),
            records=list(records_of(payload, self.reader, entity.name)),
        )

    async def submit(self, plural: str, records: Any, key: str | None = None) -> Answer:
        """Posts records and answers as the lane does."""
        return await self.lane.submit(self.delivery(plural, records, key))

    async def post(self, plural: str, *records: Any) -> dict[str, Any]:
        """Posts records under a key of their own, so that nothing is replayed."""
        answer = await self.submit(plural, list(records), key=uuid.uuid4().hex)
        body: dict[str, Any] = json.loads(answer.body)
        return body

    async def statuses(self, plural: str, *records: Any) -> list[str]:
        """The statuses of a post."""
        return [result["status"] for result in (await self.post(plural, *records))["results"]]

    async def rows(self, table: str) -> set[tuple[Any, ...]]:
        """A read model's rows without tenant and generation."""
        async with self.database.transaction(self.tenant) as connection:
            rows = await connection.fetch(
                f"select * from ledger.{table} where tenant_id = $1",
                self.tenant,
            )
        return {tuple(row)[2:] for row in rows}

    async def live(self) -> Rebuilt:
        """The read models as they are."""
        return Rebuilt(await self.rows("records"), await self.rows("links"), await self.rows("outcomes"))

    async def rebuilt(self) -> Rebuilt:
        """The read models as a replay from nothing gives them."""
        return await rebuild(self.database, self.tenant, self.installation.master_key, self.projection)

    async def close(self) -> None:
        """Finishes what was accepted."""
        await self.lane.close()


class Server:
    """`sync-ledger serve` as a process of its own, on a free port. `limits` are arguments of the
    shell's `ulimit`, such as `-n 256`.
    """

    program: tuple[str, ...] = (sys.executable, "-m", "scripts.cli")

    def __init__(self, home: Path, *arguments: str, limits: str = "", **environment: str) -> None:
        self.home = home
        self._before = ["sh", "-c", f'ulimit {limits} && exec "$@"', "sh"] if limits else []
        self._arguments = arguments
        self._environment = environment
        self.url = ""
        self.log: list[str] = []

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the server says that it serves."""
        self.process = subprocess.Popen(
            [*self._before, *self.program, "serve", "--port", "0", *self._arguments],
            cwd=ROOT,
            env={**os.environ, "LEDGER_HOME": str(self.home), **self._environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip())
            if found := re.match(r"serving on (http://\S+?)[, ]", line):
                self.url = found[1]
                break
        else:
            raise RuntimeError("\n".join(self.log))
        threading.Thread(target=self._drain, daemon=True).start()
        with httpx.Client(transport=httpx.HTTPTransport(retries=5), timeout=60) as client:
            client.get(f"{self.url}/v1/health").raise_for_status()

    def _drain(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(ValueError):
            self.log.extend(line.rstrip() for line in self.process.stderr)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=15)

    def client(self, tenant: str) -> httpx.Client:
        """An HTTP client for one tenant."""
        return httpx.Client(base_url=self.url, headers={"X-Tenant-ID": tenant}, timeout=60)


def results(response: httpx.Response) -> list[dict[str, Any]]:
    """The results of a sync answer, which must be a 200."""
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["results"]
    return found


def statuses(response: httpx.Response) -> list[str]:
    """The statuses of a sync answer."""
    return [result["status"] for result in results(response)]


def names(pairs: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    """[{"entity", "zoho_id"}] as tuples."""
    return [(pair["entity"], pair["zoho_id"]) for pair in pairs]
