"""Every way in which a link of the explanation can fail, in words for a registrar."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ledger import clock
from ledger.settings import MoodleSettings, TenantSettings
from projections.explain import explain_enrollment
from projections.past import Past
from projections.sentences import SENTENCES
from tests.harness import Ledger

ENROLLMENT = {"id": "E", "Student": "S", "Class": "C", "status": "Active"}
STUDENT = {"id": "S", "Last_Name": "Nasser", "Status": "Active"}
CLASS = {"id": "C", "Class_Name": "Programming T1"}
ON = TenantSettings(moodle=MoodleSettings(enabled=True))
OFF = TenantSettings()
AMMAN = TenantSettings(timezone=ZoneInfo("Asia/Amman"))  # three hours ahead of UTC all the year


async def explained(ledger: Ledger, settings: TenantSettings = ON, now: str | None = None) -> Any:
    """The explanation of E, at an instant."""
    async with ledger.database.transaction(ledger.tenant, snapshot=True) as connection:
        key = ledger.installation.master_key
        past = await Past.at(connection, ledger.tenant, key, ledger.projection, position=2**62)
        instant = None if now is None else clock.parse(now)
        return await explain_enrollment(past, connection, ledger.tenant, settings, "E", now=instant)


async def recorded_at(ledger: Ledger, position: int) -> str:
    """When a position was recorded."""
    async with ledger.database.transaction(ledger.tenant) as connection:
        instant = await connection.fetchval(
            "select recorded_at from ledger.events where tenant_id = $1 and position = $2",
            ledger.tenant,
            position,
        )
    return clock.to_text(instant)


def broken(found: Any) -> str | None:
    """The first link that does not hold."""
    return next((link["link"] for link in found["links"] if link["ok"] is False), None)


CASES: dict[str, tuple[list[tuple[str, Any]], str, int, str]] = {
    # what was sent, the link that fails, the position since when, a word of the reason
    "student unknown": ([("enrollments", ENROLLMENT), ("classes", CLASS)], "student", 1, "has not come"),
    "class unknown": ([("enrollments", ENROLLMENT), ("students", STUDENT)], "class", 1, "has not come"),
    "student deleted": (
        [
            ("students", STUDENT),
            ("classes", CLASS),
            ("enrollments", ENROLLMENT),
            ("students", {"id": "S", "operation": "delete"}),
        ],
        "student", 4, "deleted",
    ),
    "class deleted": (
        [
            ("students", STUDENT),
            ("classes", CLASS),
            ("enrollments", ENROLLMENT),
            ("classes", {"id": "C", "Record_Status__s": "Trash"}),
        ],
        "class", 4, "deleted",
    ),
    "class invalid": (
        [("students", STUDENT), ("enrollments", ENROLLMENT), ("classes", {"id": "C"})], "class", 2, "Name: missing",
    ),
    "student not approved": (
        [("classes", CLASS), ("enrollments", ENROLLMENT), ("students", {**STUDENT, "$approved": False})],
        "student", 2, "not approved",
    ),
    "student inactive": (
        [
            ("students", STUDENT), ("classes", CLASS), ("enrollments", ENROLLMENT),
            ("students", {"id": "S", "Status": "Freezed"}), ("students", {"id": "S", "First_Name": "L"}),
        ],
        "student", 4, "Freezed",
    ),
    "class inactive": (
        [("students", STUDENT), ("classes", {**CLASS, "status": "cancelled"}), ("enrollments", ENROLLMENT)],
        "class", 3, "cancelled",
    ),
    "enrollment withdrawn": (
        [
            ("students", STUDENT), ("classes", CLASS), ("enrollments", ENROLLMENT),
            ("enrollments", {"id": "E", "status": "Withdrawn"}),
        ],
        "valid", 4, "Withdrawn",
    ),
    "enrollment deleted": (
        [
            ("students", STUDENT), ("classes", CLASS), ("enrollments", ENROLLMENT),
            ("enrollments", {"id": "E", "operation": "delete"}),
        ],
        "record", 4, "deleted",
    ),
    "enrollment invalid": (
        [("enrollments", {"id": "E", "Student": "Layla Nasser"})], "valid", 1, "Class: missing",
    ),
    "enrollment a draft": ([("enrollments", {**ENROLLMENT, "$state": "draft"})], "valid", 1, "not approved"),
    "moodle queued": (
        [("students", STUDENT), ("classes", CLASS), ("enrollments", ENROLLMENT)], "moodle_enrolment", 3, "queued",
    ),
    "withdrawn, then the class deleted": (
        [
            ("students", STUDENT), ("classes", CLASS), ("enrollments", ENROLLMENT),
            ("enrollments", {"id": "E", "status": "Withdrawn"}), ("classes", {"id": "C", "operation": "delete"}),
        ],
        "valid", 4, "Withdrawn",
    ),
    "withdrawn while waiting, then released": (
        [
            ("students", STUDENT), ("enrollments", ENROLLMENT),
            ("enrollments", {"id": "E", "status": "Withdrawn"}), ("classes", CLASS),
        ],
        "valid", 2, "Withdrawn",
    ),
    "frozen before the enrollment came": (
        [("students", {**STUDENT, "Status": "Freeze"}), ("classes", CLASS), ("enrollments", ENROLLMENT)],
        "student", 3, "Freeze",
    ),
    "back from a freeze": (
        [
            ("students", {**STUDENT, "Status": "Freeze"}), ("classes", CLASS), ("enrollments", ENROLLMENT),
            ("students", STUDENT),
        ],
        "moodle_enrolment", 4, "queued",
    ),
    "sent again, but not newer than its deletion": (
        [
            ("students", STUDENT), ("classes", CLASS), ("enrollments", ENROLLMENT),
            ("enrollments", {"id": "E", "operation": "delete"}),
            ("enrollments", {**ENROLLMENT, "Modified_Time": "2001-01-01T00:00:00Z"}),
        ],
        "record", 4, "not newer",
    ),
    "class changed to an unknown one": (
        [
            ("students", STUDENT), ("classes", CLASS), ("enrollments", ENROLLMENT),
            ("enrollments", {"id": "E", "Class": "C2"}),
        ],
        "class", 4, "Class C2 has not come",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_what_fails(ledger: Ledger, case: str) -> None:
    """The first link that fails is the reason, since the event that broke it."""
    steps, link, position, word = CASES[case]
    for plural, record in steps:
        await ledger.post(plural, record)
    found = await explained(ledger)
    assert found["answer"] == "not_enrolled"
    assert broken(found) == link
    assert word in found["because"]
    assert found["since"] == await recorded_at(ledger, position)
    assert found["next_step"].endswith((".", "again."))
    assert [k["link"] for k in found["links"]] == [
        "record", "valid", "student", "class", "program", "period",
        "moodle_user", "moodle_course", "moodle_enrolment",
    ]  # fmt: skip
    reason = next(k for k in found["links"] if k["link"] == link)
    assert found["because"] == reason["detail"]
    assert all(k["code"] in SENTENCES for k in found["links"])


async def test_no_moodle(ledger: Ledger) -> None:
    """All of Zoho's side holds; nobody can say what Moodle has."""
    for plural, record in (("students", STUDENT), ("classes", CLASS), ("enrollments", ENROLLMENT)):
        await ledger.post(plural, record)
    found = await explained(ledger, OFF)
    assert found["answer"] == "unknown"
    assert broken(found) is None
    assert "no Moodle is connected" in found["because"]
    assert [k["ok"] for k in found["links"]] == [True, True, True, True, None, True, None, None, None]


async def test_a_version_that_was_not_used(ledger: Ledger) -> None:
    """A stale or invalid newer event does not hide that an earlier one counts."""
    stated = {**ENROLLMENT, "Modified_Time": "2002-01-01T00:00:00Z"}
    for plural, record in (("students", STUDENT), ("classes", CLASS), ("enrollments", stated)):
        await ledger.post(plural, record)
    await ledger.post("enrollments", {**ENROLLMENT, "Modified_Time": "2001-01-01T00:00:00Z"})
    found = await explained(ledger, OFF)
    assert found["links"][1]["ok"] is True
    assert "position 4 does not" in found["links"][1]["detail"]
    assert "older" in found["links"][1]["detail"]


async def test_programs_keep_nobody_out(ledger: Ledger) -> None:
    """A program that is not there, is there, is deleted."""
    enrollment = {**ENROLLMENT, "BTEC_Program": "P"}
    for plural, record in (("students", STUDENT), ("classes", CLASS), ("enrollments", enrollment)):
        await ledger.post(plural, record)
    assert (await explained(ledger, OFF))["links"][4]["ok"] is None
    await ledger.post("programs", {"id": "P", "Product_Name": "x"})
    assert (await explained(ledger, OFF))["links"][4]["ok"] is True
    await ledger.post("programs", {"id": "P", "operation": "delete"})
    link = (await explained(ledger, OFF))["links"][4]
    assert (link["ok"], "deleted" in link["detail"]) == (None, True)


async def test_nobody(ledger: Ledger) -> None:
    """An id of which the ledger never heard has no explanation."""
    await ledger.post("students", STUDENT)
    assert await explained(ledger) is None


async def test_which_event_made_it_so(ledger: Ledger) -> None:
    """The status of a student is that of the event that brought it, whatever came behind."""
    for plural, record in (("students", STUDENT), ("classes", CLASS), ("enrollments", ENROLLMENT)):
        await ledger.post(plural, record)
    await ledger.post("students", {"id": "S", "Status": "Freezed"}, {"id": "S", "Email": "x@college.example"})
    await ledger.post("students", *[{"id": "S", "Status": "Freezed"}] * 205)
    found = await explained(ledger)
    assert found["since"] == await recorded_at(ledger, 4)
    assert found["links"][2]["position"] == 4


async def send(ledger: Ledger, **dates: Any) -> None:
    """All that a seat needs, the enrollment with these dates."""
    for plural, record in (
        ("students", STUDENT),
        ("classes", CLASS),
        ("enrollments", {**ENROLLMENT, **dates}),
    ):
        await ledger.post(plural, record)


def period(found: Any) -> tuple[bool | None, str]:
    """The link of that name."""
    link = found["links"][5]
    assert link["link"] == "period"
    return link["ok"], link["code"]


SPRING = {"Start_Date": "2090-02-01", "End_Date": "2090-06-30"}
PERIODS: dict[str, tuple[dict[str, Any], str, bool, str]] = {
    # the dates, now (in Amman it is three hours later), whether today is within, the code
    "no dates": ({}, "2090-01-01T00:00:00Z", True, "no_dates"),
    "the day before the first": (SPRING, "2090-01-31T20:59:59.999999Z", False, "not_begun"),
    "the first day": (SPRING, "2090-01-31T21:00:00Z", True, "within_dates"),
    "the last day": (SPRING, "2090-06-30T20:59:59.999999Z", True, "within_dates"),
    "the day after the last": (SPRING, "2090-06-30T21:00:00Z", False, "ended"),
    "a start alone, before": ({"Start_Date": "2090-02-01"}, "2090-01-01T00:00:00Z", False, "not_begun"),
    "a start alone, later": ({"Start_Date": "2090-02-01"}, "2190-01-01T00:00:00Z", True, "within_dates"),
    "an end alone, before": ({"End_Date": "2090-02-01"}, "2090-01-01T00:00:00Z", True, "within_dates"),
    "an end alone, later": ({"End_Date": "2090-02-01"}, "2190-01-01T00:00:00Z", False, "ended"),
    "the end before the start": (
        {"Start_Date": "2090-06-30", "End_Date": "2090-02-01"}, "2090-03-01T00:00:00Z", False, "end_before_start",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PERIODS)
async def test_the_period(ledger: Ledger, case: str) -> None:
    """Today is a day of the college's zone; first and last day are within. It is the reason where
    all else holds, and rests on the event that brought the dates.
    """
    dates, now, ok, code = PERIODS[case]
    await send(ledger, **dates)
    await ledger.post("enrollments", {"id": "E", "status": "Registered"})
    found = await explained(ledger, AMMAN, now)
    assert period(found) == (ok, code)
    link = found["links"][5]
    assert (link["position"], link["at"]) == (3, await recorded_at(ledger, 3))
    assert found["answer"] == ("unknown" if ok else "not_enrolled")
    assert broken(found) == (None if ok else "period")
    if not ok:
        assert found["because"] == link["detail"]
        assert "enrollment" in found["next_step"]
    assert all(day in link["detail"] for day in dates.values()) or code in ("not_begun", "ended")


async def test_no_period(ledger: Ledger) -> None:
    """Where no version of the enrollment can be used, its dates are not known; of a deleted one they
    are not looked at.
    """
    await ledger.post("enrollments", {"id": "E", "Student": "Layla Nasser", "End_Date": "2020-01-01"})
    assert period(await explained(ledger)) == (None, "no_usable_version")
    await send(ledger, End_Date="2020-01-01")
    assert period(await explained(ledger)) == (False, "ended")
    await ledger.post("enrollments", {"id": "E", "operation": "delete"})
    assert period(await explained(ledger)) == (None, "not_looked_at_deleted")


async def test_dates_that_changed(ledger: Ledger) -> None:
    """The period rests on the event that brought the dates as they are, and since is its instant."""
    await send(ledger, End_Date="2020-01-01")
    await ledger.post("enrollments", {"id": "E", "status": "Registered"})
    found = await explained(ledger)
    assert (found["because"], found["since"]) == (found["links"][5]["detail"], await recorded_at(ledger, 3))
    await ledger.post("enrollments", {"id": "E", "End_Date": "2090-01-01"})
    await ledger.post("enrollments", {"id": "E", "status": "Active"})
    found = await explained(ledger, OFF)
    assert (found["answer"], period(found)) == ("unknown", (True, "within_dates"))
    assert (found["links"][5]["position"], found["since"]) == (5, await recorded_at(ledger, 5))
    await ledger.post("enrollments", {"id": "E", "End_Date": None})
    found = await explained(ledger, OFF)
    assert (period(found), found["links"][5]["position"]) == ((True, "no_dates"), 7)
    assert found["since"] == await recorded_at(ledger, 5)


async def test_since_goes_with_the_calendar(ledger: Ledger) -> None:
    """The days turn the answer without an event; what is not asked for any more does not turn."""
    await send(ledger, **SPRING)
    came = await recorded_at(ledger, 3)
    first, behind = "2090-01-31T21:00:00.000000Z", "2090-06-30T21:00:00.000000Z"
    for now, since in (
        ("2090-01-01T00:00:00Z", came),
        (first, first),
        ("2090-05-01T00:00:00Z", first),
        (behind, behind),
        ("2190-01-01T00:00:00Z", behind),
    ):
        assert (await explained(ledger, AMMAN, now))["since"] == since, now
    await ledger.post("enrollments", {"id": "E", "status": "Withdrawn"})
    found = await explained(ledger, AMMAN, "2190-01-01T00:00:00Z")
    assert (broken(found), found["since"]) == ("valid", came)
