"""A college for tests: a ledger with a Moodle, and a worker that is run by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from ledger.settings import MoodleSettings, Secret, TenantSettings
from projections.moodle.acts import Acts
from projections.moodle.known import read
from projections.moodle.plan import Plan
from projections.moodle.turn import Turn
from projections.moodle.wanted import Known, Wanted
from projections.moodle.whole import Whole
from projections.moodle.worker import Worker
from tests.harness import Ledger
from tests.moodle.double import MoodleDouble
from tests.moodle.tables import Enrolment, User


class College:
    """A ledger with a Moodle. Settings other than those of `MoodleSettings`: `zone`."""

    def __init__(self, ledger: Ledger, moodle: MoodleDouble, *, zone: str = "UTC", **settings: Any) -> None:
        self.ledger = ledger
        self.moodle = moodle
        self._zone = zone
        self._given = settings
        given = {"enabled": True, "base_url": moodle.url, "token": Secret(moodle.token), **settings}
        self.settings = TenantSettings(
            timezone=ZoneInfo(zone), moodle=msgspec.structs.replace(MoodleSettings(timeout=5.0), **given)
        )

    def but(self, *, moodle: MoodleDouble | None = None, **settings: Any) -> College:
        """The same college with other settings."""
        return College(self.ledger, moodle or self.moodle, zone=self._zone, **{**self._given, **settings})

    async def send(self, **records: Any) -> None:
        """Posts records from Zoho by their endpoint; each must be usable."""
        for plural, some in records.items():
            answer = await self.ledger.post(plural, *(some if isinstance(some, list) else [some]))
            assert {result["status"] for result in answer["results"]}.isdisjoint({"INVALID", "ERROR"}), answer

    # -- the worker

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """One worker, which keeps what it learnt as long as it lives."""
        worker = Worker(self.ledger.database, self.ledger.tenant, self.settings, self.ledger.lane)
        try:
            yield worker
        finally:
            await worker.close()

    async def settle(self) -> None:
        """A new worker works until nothing is left to do."""
        async with self.worker() as worker:
            await worker.settle()

    async def calls(self) -> list[str | None]:
        """The functions that a new worker calls until nothing is left to do."""
        before = len(self.moodle.calls)
        await self.settle()
        return [call.function for call in self.moodle.calls[before:]]

    # -- the whole Moodle at once

    @asynccontextmanager
    async def whole(self, turn: Turn | None = None) -> AsyncIterator[Whole]:
        """What the commands work with."""
        whole = Whole(self.ledger.database, self.ledger.tenant, self.settings, turn)
        try:
            yield whole
        finally:
            await whole.client.close()

    async def planned(self, *, fresh: bool = False) -> tuple[Plan, Acts]:
        """The plan of now; `fresh`: as if Moodle had acknowledged nothing."""
        async with self.whole() as whole:
            return await whole.plan(await whole.rows(), since=2**62 if fresh else 0)

    async def plan(self, *, fresh: bool = False) -> dict[str, list[dict[str, Any]]]:
        """The parts of the plan of now that are not empty, as a document."""
        plan, _ = await self.planned(fresh=fresh)
        return {kind: items for kind, items in plan.document().items() if items}

    async def apply(self, **how: bool) -> tuple[int, int]:
        """Brings Moodle to the plan of now: how much was done, how much refused."""
        async with self.whole() as whole:
            return await whole.apply(self.ledger.lane, **how)

    # -- what came of it

    async def wanted(self, *names: tuple[str, str]) -> Wanted:
        """The wanted state of some records."""
        rows: dict[Any, Any] = {}
        async with self.ledger.database.transaction(self.ledger.tenant) as connection:
            await read(connection, self.ledger.tenant, names, rows)
        return Wanted(self.settings, rows)

    async def known(self, entity: str, zoho_id: str) -> Known:
        """What Moodle reported on a record."""
        return (await self.wanted((entity, zoho_id))).known((entity, zoho_id))

    async def status(self, entity: str, zoho_id: str) -> tuple[str | None, str | None]:
        """moodle_status and Moodle's id."""
        name = (entity, zoho_id)
        wanted = await self.wanted(name)
        return wanted.status(name), wanted.known(name).moodle_id

    async def failure(self, entity: str, zoho_id: str) -> str | None:
        """Why a record is FAILED; None where it is SYNCED, so that it must not be QUEUED."""
        status, _ = await self.status(entity, zoho_id)
        assert status in ("SYNCED", "FAILED"), status
        return (await self.known(entity, zoho_id)).reason if status == "FAILED" else None

    def user(self, zoho_id: str) -> User:
        """The account that has a student's idnumber."""
        user = self.moodle.site.user_by_idnumber(zoho_id)
        assert user is not None, zoho_id
        return user

    def emails(self) -> dict[str, str]:
        """By idnumber, the e-mail addresses of those who have one."""
        return {user.idnumber: user.email for user in self.moodle.site.live_users() if user.idnumber}

    def seats(self) -> dict[tuple[str, str], str]:
        """Who sits where, by the course's short name and the person's idnumber (else username)."""
        tables = self.moodle.site.tables
        found = {}
        for (course_id, user_id), suspended in self.moodle.site.seats().items():
            user = tables.users[user_id]
            name = tables.courses[course_id].shortname, user.idnumber or user.username
            found[name] = "suspended" if suspended else "active"
        return found

    def enrolment(self, course_id: int, zoho_id: str) -> Enrolment:
        """A seat with its times."""
        return self.moodle.site.tables.enrolments[course_id, self.user(zoho_id).id]


def student(zoho_id: str, email: str | None = None, **more: Any) -> dict[str, Any]:
    """A student as Zoho sends it."""
    email = email or f"{zoho_id.lower()}@college.test"
    return {
        "id": zoho_id,
        "First_Name": "F" + zoho_id,
        "Last_Name": "L" + zoho_id,
        "Academic_Email": email,
        **more,
    }


def class_(zoho_id: str, **more: Any) -> dict[str, Any]:
    """A class as Zoho sends it."""
    return {"id": zoho_id, "BTEC_Class_Name": f"Class {zoho_id}", **more}


def enrollment(zoho_id: str, student_id: str, class_id: str, **more: Any) -> dict[str, Any]:
    """An enrollment as Zoho sends it."""
    return {"id": zoho_id, "Student": student_id, "BTEC_Class": class_id, **more}


def deleted(zoho_id: str) -> dict[str, Any]:
    """A record that Zoho deleted."""
    return {"id": zoho_id, "operation": "delete"}
