"""What the API says of Moodle: ids and statuses of records, now and in the past; the audit; the explanation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from api.app import create_app
from tests.harness import Ledger
from tests.moodle.college import College, class_, enrollment, student
from tests.moodle.double import MoodleDouble

IDS = {
    "students": "moodle_user_id",
    "classes": "moodle_course_id",
    "programs": "moodle_course_id",
    "enrollments": "moodle_enrollment_id",
}


@pytest.fixture
def college(ledger: Ledger, moodle: MoodleDouble) -> College:
    """A college whose Moodle has a course for C1."""
    moodle.site.add_course(shortname="C1", idnumber="C1")
    return College(ledger, moodle)


@pytest.fixture
async def client(college: College) -> AsyncIterator[httpx.AsyncClient]:
    """The HTTP face in this process; its worker is run by hand."""
    async with serving(college) as client:
        yield client


@asynccontextmanager
async def serving(college: College) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that has the college's settings."""
    installation, tenant = college.ledger.installation, college.ledger.tenant
    settings = msgspec.structs.replace(installation.settings, tenants={tenant: college.settings})
    app = create_app(msgspec.structs.replace(installation, settings=settings), moodle_worker=False)
    up, done = asyncio.Event(), asyncio.Event()

    async def live() -> None:  # from beginning to end in one task, as a server has it
        async with app.lifespan():
            up.set()
            await done.wait()

    life = asyncio.create_task(live())
    await up.wait()
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
    headers = {"X-Tenant-ID": tenant}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client
    done.set()
    await life


async def got(client: httpx.AsyncClient, path: str, **parameters: Any) -> Any:
    """The JSON of a GET that must succeed."""
    response = await client.get(path, params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def post(client: httpx.AsyncClient, plural: str, *records: Any) -> list[dict[str, Any]]:
    """The results of a POST."""
    response = await client.post(f"/v1/sync/{plural}", json=list(records))
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    return results


async def send_all(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """S1 in C1, and S2, who has no address; all results."""
    return [
        *await post(client, "programs", {"id": "P", "Product_Name": "P", "Moodle_ID": "C1"}),
        *await post(client, "students", student("S1"), student("S2") | {"Academic_Email": None}),
        *await post(client, "classes", class_("C1")),
        *await post(client, "enrollments", enrollment("E1", "S1", "C1"), enrollment("E2", "S2", "C1")),
        *await post(client, "enrollments", enrollment("E3", "S1", "unknown")),
    ]


async def shown(client: httpx.AsyncClient, path: str, **parameters: Any) -> tuple[Any, Any]:
    """A record's moodle_status and Moodle's id."""
    item = await got(client, f"/v1/{path}", **parameters)
    return item["moodle_status"], item[IDS[path.split("/", maxsplit=1)[0]]]


async def test_statuses_and_ids(college: College, client: httpx.AsyncClient) -> None:
    """Answers say QUEUED; afterwards every record shows what became of it, by id and in lists, now
    and at a position or an instant of the past.
    """
    results = await send_all(client)
    assert [r.get("moodle_status") for r in results] == ["QUEUED"] * 6 + [None]
    assert await shown(client, "students/S1") == ("QUEUED", None)
    assert await shown(client, "enrollments/E3") == (None, None)
    before = results[-1]["position"]
    await college.settle()
    user = college.user("S1").id
    [(course, _)] = college.moodle.site.seats()
    expected = {
        "students/S1": ("SYNCED", str(user)),
        "students/S2": ("FAILED", None),
        "classes/C1": ("SYNCED", str(course)),
        "programs/P": ("SYNCED", str(course)),
        "enrollments/E1": ("SYNCED", f"{course}:{user}"),
        "enrollments/E2": ("FAILED", None),
        "enrollments/E3": (None, None),
    }
    events = (await got(client, "/v1/audit/events"))["items"]
    last, then = events[-1]["position"], events[before - 1]["recorded_at"]
    for path, has in expected.items():
        assert await shown(client, path) == has, path
        assert await shown(client, path, at_position=last) == has, path
        was = (None, None) if path == "enrollments/E3" else ("QUEUED", None)
        assert await shown(client, path, at_position=before) == was, path
        assert await shown(client, path, as_of=then) == was, path
    for plural, key in IDS.items():
        for when in ({}, {"at_position": last}):
            items = (await got(client, f"/v1/{plural}", **when))["items"]
            found = {f"{plural}/{i['zoho_id']}": (i["moodle_status"], i[key]) for i in items}
            assert found == {p: e for p, e in expected.items() if p.startswith(plural) and e[0]}
        items = (await got(client, f"/v1/{plural}", at_position=before))["items"]
        assert {(i["moodle_status"], i[key]) for i in items} == {("QUEUED", None)}
    [waiting] = (await got(client, "/v1/enrollments", state="waiting"))["items"]
    assert waiting["moodle_status"] is None


async def test_each_change_is_queued_and_done(college: College, client: httpx.AsyncClient) -> None:
    """A change that Moodle is to hear of is QUEUED until it has; what it is not to hear of stays
    SYNCED; what is deleted is taken back.
    """
    await send_all(client)
    await college.settle()
    [seat] = [f"{course}:{user}" for course, user in college.moodle.site.seats()]
    await post(client, "students", {"id": "S1", "Student_ID": "0815"})
    assert (await shown(client, "students/S1"))[0] == "SYNCED"
    await post(client, "students", {"id": "S1", "First_Name": "Layla"})
    assert (await shown(client, "students/S1"))[0] == "QUEUED"
    assert await shown(client, "enrollments/E1") == ("SYNCED", seat)
    [result] = await post(client, "enrollments", {"id": "E1", "operation": "delete"})
    assert result["moodle_status"] == "QUEUED"
    assert await shown(client, "enrollments/E1") == ("QUEUED", seat)
    await college.settle()
    assert (await shown(client, "students/S1"))[0] == "SYNCED"
    assert await shown(client, "enrollments/E1") == ("SYNCED", seat)


async def test_without_a_moodle(college: College) -> None:
    """A college without one has PENDING_MOODLE, whatever another Moodle once reported."""
    off = college.but(enabled=False)
    async with serving(off) as client:
        results = await send_all(client)
        assert {r["moodle_status"] for r in results if "moodle_status" in r} == {"PENDING_MOODLE"}
        await college.settle()
        assert await shown(client, "students/S1") == ("PENDING_MOODLE", None)


async def test_the_audit(college: College, client: httpx.AsyncClient) -> None:
    """Every outcome is an event: found by source, status and reason, part of its record's life, with
    what was sent to Moodle and what it answered, but no password and no token.
    """
    await send_all(client)
    await college.settle()
    events = (await got(client, "/v1/audit/events", source="moodle", payload="true"))["items"]
    assert {(e["entity"], e["zoho_id"], e["status"], e["reason"]) for e in events} == {
        ("student", "S2", "FAILED", "no_email"),
        ("class", "C1", "SYNCED", None),
        ("program", "P", "SYNCED", None),
        ("student", "S1", "SYNCED", None),
        ("enrollment", "E1", "SYNCED", None),
    }
    made = next(e for e in events if e["zoho_id"] == "S1")
    assert made["changes"] == {"moodle_id": {"old": None, "new": str(college.user("S1").id)}}
    called = str(made)
    assert "core_user_create_users" in called
    assert "s1@college.test" in called
    failures = (await got(client, "/v1/audit/events", status="FAILED"))["items"]
    assert [(e["zoho_id"], e["reason"]) for e in failures] == [("S2", "no_email")]
    assert "e-mail" in failures[0]["errors"][0]["problem"]
    assert (await got(client, "/v1/audit/events", reason="no_email"))["items"] == failures
    assert (await got(client, "/v1/audit/events", reason="ambiguous"))["items"] == []
    synced = (await got(client, "/v1/audit/events", status="SYNCED", entity="student"))["items"]
    assert [e["zoho_id"] for e in synced] == ["S1"]
    life = (await got(client, "/v1/audit/records/enrollment/E1"))["items"]
    assert [(e["source"], e["status"]) for e in life] == [("sync", "NEW"), ("moodle", "SYNCED")]
    export = (await client.get("/v1/audit/export", params={"payload": "true"})).text
    assert college.moodle.token not in export
    by_key = (await got(client, "/v1/audit/events", zoho_id="S1"))["items"]
    assert [e["source"] for e in by_key] == ["sync", "moodle"]


async def links(client: httpx.AsyncClient, zoho_id: str = "E1") -> tuple[str, list[Any], str]:
    """The answer, what the three links of Moodle say, and why."""
    found = await got(client, f"/v1/audit/explain/enrollments/{zoho_id}")
    last = found["links"][-3:]
    assert [link["link"] for link in last] == ["moodle_user", "moodle_course", "moodle_enrolment"]
    assert (found["answer"] == "not_enrolled") is any(link["ok"] is False for link in found["links"])
    return found["answer"], [link["ok"] for link in last], found["because"]


async def test_the_explanation(college: College, client: httpx.AsyncClient) -> None:
    """From queued to confirmed, refused, mended, and given up: each state in its words."""
    await send_all(client)
    answer, ok, because = await links(client)
    assert (answer, ok) == ("not_enrolled", [None, None, False])
    assert "queued" in because
    college.moodle.site.settings.manual_enrol_enabled = False
    await college.settle()
    answer, ok, because = await links(client)
    assert (answer, ok) == ("not_enrolled", [True, True, False])
    assert "manual enrolment" in because
    college.moodle.site.settings.manual_enrol_enabled = True
    await college.apply()
    await post(client, "enrollments", {"id": "E1", "Start_Date": "2026-01-01"})
    await college.settle()
    assert (await links(client))[:2] == ("enrolled", [True, True, True])
    answer, ok, because = await links(client, "E2")
    assert (answer, ok) == ("not_enrolled", [False, True, False])
    assert "e-mail" in because
    await post(client, "enrollments", {"id": "E1", "status": "Withdrawn"})
    answer, ok, because = await links(client)
    assert (answer, ok) == ("not_enrolled", [None, None, None])
    assert "Withdrawn" in because
    found = await got(client, "/v1/audit/explain/enrollments/E1")
    assert "still to be taken back" in found["links"][-1]["detail"]
    await college.settle()
    found = await got(client, "/v1/audit/explain/enrollments/E1")
    assert "acknowledged that" in found["links"][-1]["detail"]


async def test_no_course_in_the_explanation(college: College, client: httpx.AsyncClient) -> None:
    """Where Moodle has no course for the class, that is the reason, with what to do about it."""
    await post(client, "students", student("S1"))
    await post(client, "classes", class_("C9"))
    await post(client, "enrollments", enrollment("E1", "S1", "C9"))
    await college.settle()
    answer, ok, because = await links(client)
    assert (answer, ok) == ("not_enrolled", [True, False, False])
    assert "no course with idnumber C9" in because
    found = await got(client, "/v1/audit/explain/enrollments/E1")
    assert "retry --entity class --zoho-id C9" in found["next_step"]


async def test_an_old_seat_in_the_explanation(college: College, client: httpx.AsyncClient) -> None:
    """A change that Moodle refused does not take the account away: the link holds, and says so."""
    await send_all(client)
    await college.settle()
    college.moodle.site.add_user(username="other", email="taken@college.test")
    await post(client, "students", {"id": "S1", "Academic_Email": "taken@college.test"})
    await college.settle()
    assert await shown(client, "students/S1") == ("FAILED", str(college.user("S1").id))
    assert (await links(client))[:2] == ("enrolled", [True, True, True])
    found = await got(client, "/v1/audit/explain/enrollments/E1")
    assert "another account" in found["links"][-3]["detail"]


async def test_days_that_are_over_in_the_explanation(college: College, client: httpx.AsyncClient) -> None:
    """Moodle has the seat with its dates, and keeps it shut: the days are the reason, and the links of
    Moodle are shown as they are.
    """
    await send_all(client)
    dates = {"Start_Date": "2024-02-01", "End_Date": "2024-06-30"}
    await post(client, "enrollments", {"id": "E1", **dates})
    answer, ok, because = await links(client)
    assert (answer, ok, "2024-06-30" in because) == ("not_enrolled", [None, None, False], True)
    await college.settle()
    answer, ok, because = await links(client)
    assert (answer, ok, "2024-06-30" in because) == ("not_enrolled", [True, True, True], True)
    await post(client, "enrollments", {"id": "E1", "End_Date": None})
    await college.settle()
    assert (await links(client))[:2] == ("enrolled", [True, True, True])


async def codes(client: httpx.AsyncClient, zoho_id: str = "E1") -> tuple[str, list[Any]]:
    """The answer, and what the three links of Moodle say: whether they hold, their codes, positions."""
    found = await got(client, f"/v1/audit/explain/enrollments/{zoho_id}")
    return found["answer"], [(link["ok"], link["code"], link["position"]) for link in found["links"][-3:]]


async def test_reports_in_the_explanation_without_a_moodle(
    college: College, client: httpx.AsyncClient
) -> None:
    """Where no Moodle is connected, the links show what the events tell of one, as far as that covers
    what is asked for now.
    """
    await send_all(client)
    async with serving(college.but(enabled=False, base_url=None, token=None)) as off:
        answer, told = await codes(off)
        assert (answer, [t[1] for t in told]) == ("unknown", ["no_moodle", "no_moodle", "seat_not_known"])
        college.moodle.site.settings.manual_enrol_enabled = False
        await college.settle()
        answer, told = await codes(off)
        assert (answer, [t[:2] for t in told]) == (
            "not_enrolled", [(True, "in_moodle"), (True, "in_moodle"), (False, "seat_refused")],
        )  # fmt: skip
        assert (answer, told) == await codes(client)
        college.moodle.site.settings.manual_enrol_enabled = True
        await post(client, "enrollments", {"id": "E1", "status": "Active"})
        assert (await codes(off))[1][2][:2] == (None, "report_outdated")
        await college.settle()
        # what is not asked of Moodle is covered all the same
        await post(client, "students", student("S1"), {"id": "S1", "Student_ID": "0815"})
        await post(client, "enrollments", enrollment("E1", "S1", "C1"))
        answer, told = await codes(off)
        assert (answer, told[2][:2]) == ("enrolled", (True, "seat_confirmed"))
        assert (answer, told) == await codes(client)
        answer, told = await codes(off, "E2")
        assert (answer, told) == await codes(client, "E2")
        assert (answer, told[0][1]) == ("not_enrolled", "not_in_moodle")
        # newer than the report
        await post(client, "enrollments", {"id": "E1", "Start_Date": "2026-01-01"})
        await post(client, "students", {"id": "S1", "First_Name": "Layla"})
        answer, unclear = await codes(off)
        assert answer == "unknown"
        assert [t[:2] for t in unclear] == [
            (None, "report_outdated"), (True, "in_moodle"), (None, "report_outdated"),
        ]  # fmt: skip
        assert [t[2] for t in unclear] == [t[2] for t in (await codes(client))[1][:2]] + [
            (await college.known("enrollment", "E1")).position
        ]
        await college.settle()
        assert (await codes(off)) == (await codes(client))
        # withdrawn, and taken back
        await post(client, "enrollments", {"id": "E1", "status": "Withdrawn"})
        assert (await codes(off))[1][2][:2] == (None, "report_outdated")
        await college.settle()
        answer, told = await codes(off)
        assert (answer, told[2][:2]) == ("not_enrolled", (None, "seat_given_up"))
        # a class on which nothing was reported
        await post(client, "classes", class_("C2"))
        await post(client, "enrollments", enrollment("E4", "S1", "C2"))
        answer, told = await codes(off, "E4")
        assert answer == "unknown"
        assert [t[:2] for t in told] == [(True, "in_moodle"), (None, "not_reported"), (None, "not_reported")]


async def test_reports_of_other_settings_in_the_explanation(
    college: College, client: httpx.AsyncClient
) -> None:
    """Role, made courses and the way to withdraw are those of the Moodle that reported, not those that
    are the default.
    """
    other = college.but(student_role_id=4, create_courses=True, on_withdraw="unenrol")
    await post(client, "students", student("S1"))
    await post(client, "classes", class_("C9"))
    await post(client, "enrollments", enrollment("E1", "S1", "C9"))
    await other.settle()
    async with serving(college.but(enabled=False)) as off:
        answer, told = await codes(off)
        assert (answer, [t[1] for t in told]) == ("enrolled", ["in_moodle", "in_moodle", "seat_confirmed"])
        await post(client, "enrollments", {"id": "E1", "status": "Withdrawn"})
        await other.settle()
        assert (await codes(off))[1][2][1] == "seat_given_up"
