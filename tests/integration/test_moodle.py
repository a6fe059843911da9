"""Moodle follows the ledger: the worker, against a double of Moodle over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from ledger.settings import MoodleSettings, Secret, TenantSettings
from projections.moodle.known import read
from projections.moodle.wanted import Wanted
from projections.moodle.worker import Worker
from tests.harness import Ledger
from tests.moodle.double import MoodleDouble


@pytest.fixture(scope="session")
def shared_moodle() -> Iterator[MoodleDouble]:
    with MoodleDouble() as double:
        yield double


@pytest.fixture
def moodle(shared_moodle: MoodleDouble) -> MoodleDouble:
    shared_moodle.reset()
    return shared_moodle


class College:
    """A ledger with a Moodle, and a worker that is run by hand."""

    def __init__(self, ledger: Ledger, moodle: MoodleDouble, **settings: Any) -> None:
        self.ledger = ledger
        self.moodle = moodle
        given = {"enabled": True, "base_url": moodle.url, "token": Secret(moodle.token), **settings}
        self.settings = TenantSettings(moodle=msgspec.structs.replace(MoodleSettings(timeout=5.0), **given))

    async def settle(self) -> None:
        """A new worker works until nothing is left to do."""
        worker = Worker(self.ledger.database, self.ledger.tenant, self.settings, self.ledger.lane)
        try:
            await worker.settle()
        finally:
            await worker.close()

    async def status(self, entity: str, zoho_id: str) -> tuple[str | None, str | None]:
        """moodle_status and Moodle's id."""
        rows: dict[Any, Any] = {}
        async with self.ledger.database.transaction(self.ledger.tenant) as connection:
            await read(connection, self.ledger.tenant, [(entity, zoho_id)], rows)
        wanted = Wanted(self.settings, rows)
        return wanted.status((entity, zoho_id)), wanted.known((entity, zoho_id)).moodle_id


def student(zoho_id: str, email: str | None = None, **more: Any) -> dict[str, Any]:
    email = email or f"{zoho_id.lower()}@college.test"
    return {
        "id": zoho_id,
        "First_Name": "F" + zoho_id,
        "Last_Name": "L" + zoho_id,
        "Academic_Email": email,
        **more,
    }


async def test_an_enrolled_student_sits_in_the_course(ledger: Ledger, moodle: MoodleDouble) -> None:
    course = moodle.site.add_course(fullname="Maths", shortname="M", idnumber="C1")
    college = College(ledger, moodle)
    await ledger.post("students", student("S1"))
    await ledger.post("classes", {"id": "C1", "BTEC_Class_Name": "Maths"})
    await ledger.post("enrollments", {"id": "E1", "Student": "S1", "BTEC_Class": "C1"})
    await college.settle()
    user = moodle.site.user_by_idnumber("S1")
    assert moodle.site.seats() == {(course, user.id): False}
    assert (user.email, user.firstname, user.lastname) == ("s1@college.test", "FS1", "LS1")
    assert await college.status("student", "S1") == ("SYNCED", str(user.id))
    assert await college.status("class", "C1") == ("SYNCED", str(course))
    assert await college.status("enrollment", "E1") == ("SYNCED", f"{course}:{user.id}")
    before = len(moodle.calls)
    await college.settle()
    assert len(moodle.calls) == before, "nothing is left to do"
