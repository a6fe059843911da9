"""A college whose worker goes on, whatever its Moodle does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from projections.moodle.client import MoodleError
from projections.moodle.known import ENTITIES
from projections.moodle.turn import COURSES
from projections.moodle.wanted import SYNCED, Wanted
from projections.moodle.worker import Worker
from tests.harness import Ledger
from tests.moodle.college import College
from tests.moodle.double import MoodleDouble


class Persistent(College):
    """A college whose worker stays the same, whatever its Moodle does."""

    def __init__(self, ledger: Ledger, moodle: MoodleDouble, **settings: Any) -> None:
        super().__init__(ledger, moodle, **settings)
        self.lasting = self._new_worker()

    def _new_worker(self) -> Worker:
        return Worker(self.ledger.database, self.ledger.tenant, self.settings, self.ledger.lane)

    async def restart(self) -> None:
        """Another process takes over."""
        await self.lasting.close()
        self.lasting = self._new_worker()

    async def through(self) -> list[MoodleError]:
        """Settles, again after each error, when Moodle can be reached again; the errors."""
        errors: list[MoodleError] = []
        while True:
            try:
                await self.lasting.settle()
            except MoodleError as error:
                errors.append(error)
                assert len(errors) < 5, errors
                await self.let_time_pass()
                self.moodle.listen()
                self.moodle.restore_token()
            else:
                return errors

    def wait_longer(self) -> None:
        """The next worker waits for Moodle's answers however busy the machine is."""
        settings = self.settings
        moodle = msgspec.structs.replace(settings.moodle, timeout=60.0)
        self.settings = msgspec.structs.replace(settings, moodle=moodle)

    async def let_time_pass(self) -> None:
        """A call that makes courses and had no answer must have ended by now."""
        async with self.ledger.database.transaction(self.ledger.tenant) as connection:
            await connection.execute(
                "delete from ledger.leases where tenant_id = $1 and name = $2", self.ledger.tenant, COURSES
            )

    def accounts(self) -> Counter[str]:
        """How many accounts there are by idnumber."""
        return Counter(user.idnumber for user in self.moodle.site.live_users() if user.idnumber)

    async def reason(self, entity: str, zoho_id: str) -> tuple[str | None, str | None]:
        """A record's status, and the code of the reason why it is so."""
        wanted = await self.wanted((entity, zoho_id))
        return wanted.status((entity, zoho_id)), wanted.known((entity, zoho_id)).reason

    async def is_settled(self) -> bool:
        """Whether the ledger knows of everything that Moodle has it."""
        rows = await self._rows()
        wanted = Wanted(self.settings, rows)
        names = [name for name in rows if name[0] in ENTITIES and rows[name] is not None]
        return all(wanted.status(name) == SYNCED for name in names)

    async def _rows(self) -> dict[Any, Any]:
        async with self.whole() as whole:
            return await whole.rows()

    async def check(self) -> None:
        """Nothing is there twice, nothing is left to do, and a replay gives the same rows without a call."""
        assert max(self.accounts().values(), default=1) == 1
        courses = [c.idnumber for c in self.moodle.site.tables.courses.values() if c.idnumber]
        assert len(courses) == len(set(courses))
        assert await self.plan() == {}
        calls = len(self.moodle.calls)
        assert await self.ledger.live() == await self.ledger.rebuilt()
        assert len(self.moodle.calls) == calls


def moodle_environment(tenant: str, moodle: MoodleDouble, **settings: Any) -> dict[str, str]:
    """The variables under which a process works on a double for a tenant."""
    given = {"enabled": True, "base_url": moodle.url, "token": moodle.token, **settings}
    shown = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()
    }
    return {"DEFAULT_TENANT_ID": tenant, **{f"MOODLE_{name.upper()}": value for name, value in shown.items()}}


async def until(condition: Callable[[], Any]) -> None:
    """Returns when a condition, which may be awaited, is true; fails where it does not become so."""
    async with asyncio.timeout(30):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.01)
