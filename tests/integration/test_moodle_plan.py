"""A whole Moodle at once: plan, apply, rebuild, check, failed, retry; and what a replay leaves alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ledger.settings import Secret
from projections.check import check as check_rows
from projections.moodle import check as checking
from projections.moodle import worker as working
from projections.moodle.client import AwayError, MisconfiguredError
from projections.moodle.report import Report, Reporter
from projections.moodle.turn import ask_for
from projections.moodle.whole import failed
from projections.moodle.worker import Worker
from projections.rebuild import Rebuild
from tests.harness import ROOT, Ledger
from tests.integration.test_rebuild import followed, head, replay
from tests.moodle.college import College, class_, enrollment, student
from tests.moodle.double import MoodleDouble
from tests.moodle.faults import Fault
from tests.moodle.site import Site

WRITING = ("create", "update", "delete", "enrol_users", "unenrol_users", "add_", "assign")


@pytest.fixture
def college(ledger: Ledger, moodle: MoodleDouble) -> College:
    """A college whose Moodle has a course for C1."""
    moodle.site.add_course(shortname="C1", idnumber="C1")
    return College(ledger, moodle, create_courses=True)


async def term(college: College, *, count: int = 6) -> None:
    """Students in two classes, one of which has a course; one withdrawn, one without an address, seats
    of the past and of the future.
    """
    students = [f"S{number}" for number in range(count)]
    times = [{}, {"Start_Date": "2090-01-01"}, {"Start_Date": "2000-01-01", "End_Date": "2001-01-01"}]
    await college.send(
        students=[*(student(s) for s in students), student("S?") | {"Academic_Email": None}],
        classes=[class_("C1"), class_("C2")],
        programs={"id": "P", "Product_Name": "P"},
        enrollments=[
            *(enrollment(f"E1 {s}", s, "C1", **times[n % 3]) for n, s in enumerate(students)),
            *(enrollment(f"E2 {s}", s, "C2") for s in students),
            enrollment("E?", "S?", "C1"),
        ],
    )


def writes(college: College) -> list[str | None]:
    """The functions that were called and may change something."""
    called = [call.function for call in college.moodle.calls]
    return [function for function in called if any(word in (function or "") for word in WRITING)]


class Commands:
    """`sync-ledger moodle` as processes, for one college."""

    def __init__(self, college: College, directory: Path) -> None:
        moodle = college.settings.moodle
        tenants = directory / "tenants.toml"
        lines = {"enabled": True, "base_url": moodle.base_url, "token": college.moodle.token}
        lines |= {"create_courses": moodle.create_courses, "batch": moodle.batch}
        written = "\n".join(f"{name} = {json.dumps(value)}" for name, value in lines.items())
        tenants.write_text(f'[tenants."{college.ledger.tenant}".moodle]\n{written}\n')
        self._tenant = college.ledger.tenant
        home = college.ledger.installation.settings.home
        self._environment = {**os.environ, "LEDGER_HOME": str(home), "TENANTS_FILE": str(tenants)}

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """A command that goes on."""
        return subprocess.Popen(
            [sys.executable, "-m", "scripts.cli", "moodle", *arguments, "--tenant", self._tenant],
            cwd=ROOT,
            env=self._environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, Any, str]:
        """Exit code, what it printed (read, where it is JSON), and the last line of its errors."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        printed = json.loads(out) if "--json" in arguments and out else out
        return process.returncode, printed, (err.splitlines() or [""])[-1]


@pytest.fixture
def commands(college: College, tmp_path: Path) -> Commands:
    """Commands for the college."""
    return Commands(college, tmp_path)


# -- plan


@pytest.mark.parametrize("mode", ["suspend", "unenrol"])
async def test_the_plan_s_document(college: College, mode: str) -> None:
    """Every kind of difference stands under its key with old and new; nothing is written by asking."""
    college, site = college.but(on_withdraw=mode), college.moodle.site
    [course] = [c.id for c in site.tables.courses.values() if c.idnumber == "C1"]
    old = site.add_user(
        username="old", firstname="Other", lastname="LS2", email="s2@college.test", idnumber="S2"
    )
    for user in (old, site.add_user(username="x"), site.add_user(username="y", idnumber="S9")):
        site.enrol(course, user)
    site.enrol(course, site.add_user(username="teacher"), 3)
    await college.send(
        students=[student("S1"), student("S2"), student("S3") | {"Last_Name": None}],
        classes=[class_("C1"), class_("C2")],
        enrollments=[
            enrollment("E1", "S1", "C1", Start_Date="2026-01-10"),
            enrollment("E2", "S2", "C1", status="Withdrawn"),
            enrollment("E3", "S3", "C1"),
            enrollment("E4", "S2", "C2"),
        ],
    )
    before = (await head(college.ledger))["position"]
    plan, _ = await college.planned()
    document = plan.document()
    leave = {
        "zoho_id": "E2",
        "moodle_id": f"{course}:{old}",
        "changes": {"seat": {"old": "active", "new": "suspended" if mode == "suspend" else "none"}},
    }
    assert document["create_users"] == [
        {
            "zoho_id": "S1",
            "moodle_id": None,
            "changes": {
                "username": {"old": None, "new": "s1@college.test"},
                "firstname": {"old": None, "new": "FS1"},
                "lastname": {"old": None, "new": "LS1"},
                "email": {"old": None, "new": "s1@college.test"},
                "idnumber": {"old": None, "new": "S1"},
            },
        }
    ]
    assert document["update_users"] == [
        {"zoho_id": "S2", "moodle_id": str(old), "changes": {"firstname": {"old": "Other", "new": "FS2"}}}
    ]
    assert document["create_courses"] == [
        {
            "zoho_id": "C2",
            "moodle_id": None,
            "changes": {
                "fullname": {"old": None, "new": "Class C2"},
                "idnumber": {"old": None, "new": "C2"},
            },
        }
    ]
    new = {"old": "none", "new": "active"}
    assert document["enrol"] == [
        {
            "zoho_id": "E1",
            "moodle_id": None,
            "changes": {"seat": new, "timestart": {"old": None, "new": 1_768_003_200}},
        },
        {"zoho_id": "E4", "moodle_id": None, "changes": {"seat": new}},
    ]
    assert (document["suspend"], document["unenrol"]) == (
        ([leave], []) if mode == "suspend" else ([], [leave])
    )
    assert [item["moodle_id"] for item in document["unknown_to_ledger"]] == [
        f"{course}:{old + n}" for n in (1, 2)
    ]
    assert "S9" in document["unknown_to_ledger"][1]["reason"]
    assert [(i["entity"], i["zoho_id"]) for i in document["blocked"]] == [
        ("student", "S3"),
        ("enrollment", "E3"),
    ]
    assert "last name" in document["blocked"][0]["reason"]
    assert "student S3" in document["blocked"][1]["reason"]
    assert writes(college) == []
    assert (await head(college.ledger))["position"] == before


@pytest.mark.parametrize("by", ["worker", "apply", "rebuild"])
async def test_the_plan_is_empty_afterwards(college: College, by: str) -> None:
    """Whoever did the work, the plan finds nothing more to do, and a worker calls nothing."""
    await term(college)
    await (college.settle() if by == "worker" else college.apply(fresh=by == "rebuild"))
    assert set(await college.plan()) == {"blocked"}
    await college.send(enrollments=[{"id": f"E1 S{n}", "status": "Withdrawn"} for n in range(3)])
    assert {kind: len(items) for kind, items in (await college.plan()).items()} == {
        "suspend": 3,
        "blocked": 2,
    }
    await (college.settle() if by == "worker" else college.apply(fresh=by == "rebuild"))
    assert set(await college.plan()) == {"blocked"}
    assert await college.calls() == []
    assert list(college.seats().values()).count("suspended") == 3


async def test_what_was_changed_in_moodle(college: College) -> None:
    """A plan sees, and apply mends, what somebody changed by hand."""
    await term(college)
    await college.settle()
    site, user = college.moodle.site, college.user("S0")
    before = college.seats()
    [course] = [c.id for c in site.tables.courses.values() if c.idnumber == "C2"]
    with college.moodle.locked():
        site.enrol(course, college.user("S1").id, suspended=True)
        del site.tables.enrolments[course, college.user("S2").id]
        site.delete_user(user.id)
    plan = await college.plan()
    assert [item["zoho_id"] for item in plan["create_users"]] == ["S0"]
    assert sorted((i["zoho_id"], i["changes"]["seat"]["old"]) for i in plan["enrol"]) == [
        ("E1 S0", "none"), ("E2 S0", "none"), ("E2 S1", "suspended"), ("E2 S2", "none"),
    ]  # fmt: skip
    await college.apply()
    assert college.seats() == before
    assert set(await college.plan()) == {"blocked"}
    assert (await college.status("student", "S0"))[1] == str(college.user("S0").id)


async def test_unknown_seats(college: College) -> None:
    """Seats that no enrollment asks for are reported and kept; --prune takes away those of the
    student's role, and nobody else's.
    """
    await term(college)
    await college.settle()
    site = college.moodle.site
    [course] = [c.id for c in site.tables.courses.values() if c.idnumber == "C1"]
    elsewhere = site.add_course(shortname="not ours")
    stranger, teacher = site.add_user(username="stranger"), site.add_user(username="teacher")
    site.enrol(course, stranger)
    site.enrol(course, teacher, 3)
    site.enrol(elsewhere, stranger)
    before = college.seats()
    assert [item["moodle_id"] for item in (await college.plan())["unknown_to_ledger"]] == [
        f"{course}:{stranger}"
    ]
    assert await college.apply() == (0, 0)
    assert college.seats() == before
    await college.apply(prune=True)
    assert college.seats() == before | {("C1", "stranger"): "suspended"}
    await college.but(on_withdraw="unenrol").apply(prune=True)
    assert ("C1", "stranger") not in college.seats()
    assert college.seats()["C1", "teacher"] == college.seats()["not ours", "stranger"] == "active"


async def test_the_plan_of_the_past(college: College) -> None:
    """--as-of: what it would take to bring Moodle to what the ledger knew at an instant."""
    await term(college)
    await college.settle()
    position = (await head(college.ledger))["position"]
    await college.send(
        enrollments={"id": "E2 S0", "status": "Withdrawn"}, students={"id": "S1", "First_Name": "New"}
    )
    await college.settle()
    assert set(await college.plan()) == {"blocked"}
    async with college.whole() as whole:
        rows = await whole.rows_at(
            college.ledger.installation.master_key, college.ledger.projection, position
        )
        plan, _ = await whole.plan(rows)
    then = {kind: items for kind, items in plan.document().items() if items}
    assert [item["zoho_id"] for item in then.pop("enrol")] == ["E2 S0"]
    [update] = then.pop("update_users")
    assert update["changes"] == {"firstname": {"old": "New", "new": "FS1"}}
    assert set(then) == {"blocked"}


# -- rebuild


def contents(college: College) -> tuple[Any, Any]:
    """Everything that the ledger brought, without Moodle's ids."""
    tables = college.moodle.site.tables
    users = {
        u.idnumber: (u.username, u.email, u.firstname, u.lastname, u.suspended, u.auth)
        for u in college.moodle.site.live_users()
        if u.idnumber
    }
    seats = {
        (tables.courses[course].idnumber, tables.users[user].idnumber): enrolment
        for (course, user), enrolment in tables.enrolments.items()
    }
    return users, seats


async def test_rebuild(college: College) -> None:
    """A Moodle that is empty gets from the ledger alone what the lost one had, but for those who were
    to have nothing.
    """
    await term(college)
    await college.settle()
    await college.send(
        enrollments={"id": "E1 S0", "status": "Withdrawn"}, students={"id": "S5", "Status": "Freeze"}
    )
    await college.settle()
    users, seats = contents(college)
    old_ids = await college.status("student", "S1")
    college.moodle.reset()
    for _ in range(7):
        college.moodle.site.add_user()
    await college.apply(fresh=True)
    del users["S5"]
    assert contents(college) == (users, {key: e for key, e in seats.items() if not e.suspended})
    assert await college.status("student", "S1") == ("SYNCED", str(college.user("S1").id)) != old_ids
    assert set(await college.plan()) == {"blocked"}
    assert await college.calls() == []


async def test_rebuild_again(college: College) -> None:
    """A rebuild that broke goes on where it was; one that ended is followed by a new one from the start."""
    college = college.but(batch=2, concurrency=1)
    students = [f"S{number}" for number in range(6)]
    await college.send(students=[student(s) for s in students], classes=class_("C1"))
    await college.send(enrollments=[enrollment("E" + s, s, "C1", Start_Date="2090-01-01") for s in students])
    college.moodle.fail(Fault.reset_before, "enrol_manual_enrol_users", nth=2)
    with pytest.raises(AwayError):
        await college.apply(fresh=True)
    assert len(college.seats()) == 2
    assert await college.apply(fresh=True) == (4, 0)
    assert college.seats() == {("C1", s): "active" for s in students}
    assert await college.plan() == {}
    assert await college.apply(fresh=True) == (6, 0), "nobody can see the times that Moodle has"
    assert await college.plan() == {}


FAULTS = [
    ("core_user_create_users", Fault.reset_after),
    ("core_user_create_users", Fault.garbage_after),
    ("core_course_create_courses", Fault.reset_after),
    ("core_course_create_courses", Fault.http_503_html),
    ("enrol_manual_enrol_users", Fault.reset_after),
    ("enrol_manual_enrol_users", Fault.empty_200),
    ("enrol_manual_enrol_users", Fault.sitemaintenance),
    ("enrol_manual_enrol_users", Fault.token_revoked),
    ("core_user_get_users_by_field", Fault.reset_before),
]


@pytest.mark.parametrize(("function", "fault"), FAULTS)
async def test_apply_goes_on(college: College, function: str, fault: Fault) -> None:
    """Whatever breaks half-way, the next apply ends the work, and nothing is there twice."""
    college = college.but(batch=2)
    await term(college)
    college.moodle.fail(fault, function, nth=1 if function.startswith("core_course") else 2)
    with pytest.raises((AwayError, MisconfiguredError)):
        await college.apply()
    college.moodle.restore_token()
    await college.apply()
    assert college.seats() == {
        (course, f"S{number}"): "active" for course in ("C1", "Class C2") for number in range(6)
    }
    idnumbers = [user.idnumber for user in college.moodle.site.live_users() if user.idnumber]
    assert sorted(idnumbers) == [f"S{number}" for number in range(6)]
    assert [c.idnumber for c in college.moodle.site.tables.courses.values()] == ["", "C1", "C2"]
    assert set(await college.plan()) == {"blocked"}


async def test_a_race_is_tried_again(college: College) -> None:
    """A write that lost a race in Moodle's database is repeated once, by itself."""
    await term(college)
    college.moodle.fail(Fault.dmlwriteexception, "enrol_manual_enrol_users")
    await college.apply()
    assert set(await college.plan()) == {"blocked"}


# -- commands


async def test_apply_killed(
    college: College, commands: Commands, admin: asyncpg.Connection, ledger: Ledger
) -> None:
    """SIGKILL of apply while Moodle works: the plan shows what is left, the next apply does it."""
    await term(college)
    assert commands.run("plan", "--json")[0] == 2
    code, _, said = commands.run("apply")
    assert (code, "--yes" in said) == (1, True), "nobody was there to agree"
    assert writes(college) == []
    college.moodle.fail(Fault.timeout_after, "core_course_create_courses")
    process = commands.start("apply", "--yes")
    while "core_course_create_courses" not in writes(college):
        assert process.poll() is None
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    await admin.execute("delete from ledger.leases where tenant_id = $1", ledger.tenant)  # it has run out
    code, plan, _ = commands.run("plan", "--json")
    assert (code, plan["create_users"], plan["create_courses"], len(plan["enrol"])) == (2, [], [], 12)
    code, shown, said = commands.run("apply", "--yes", "--json")
    assert (code, len(shown["enrol"]), said) == (
        0,
        12,
        "12 of 12 changes done, 0 refused; 2 cannot be done",
    )
    await college.send(students=student("S?"))
    assert commands.run("apply", "--yes")[0] == 0
    assert commands.run("plan") == (0, "Moodle is as the ledger wants it.\n", "")
    assert len(college.seats()) == 13


async def test_ctrl_c_at_the_question(college: College, commands: Commands) -> None:
    """Ctrl-C ends an apply that asks at once, while the terminal still waits for a line."""
    await term(college, count=1)
    terminal, stdin = os.openpty()
    process = commands.start("apply", stdin=stdin)
    assert process.stderr is not None
    said = ""
    while "[y/N]" not in said:
        assert process.poll() is None
        said += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    for fd in (terminal, stdin):
        os.close(fd)
    assert "Traceback" not in process.communicate()[1]
    assert writes(college) == []


async def test_a_command_that_waits(college: College, commands: Commands) -> None:
    """A command says for whom it waits, and goes on when that one has ended."""
    await term(college, count=1)
    async with ask_for(college.ledger.database, college.ledger.tenant):
        process = commands.start("apply", "--yes")
        assert process.stderr is not None
        line = await asyncio.to_thread(process.stderr.readline)
        assert line == "waiting until another command has ended\n"
        assert writes(college) == []
    await asyncio.to_thread(process.communicate)
    assert process.returncode == 0
    assert college.seats() == {("C1", "S0"): "active", ("Class C2", "S0"): "active"}


async def test_the_past_and_rebuild_as_commands(college: College, commands: Commands) -> None:
    """The plan --as-of reads the ledger of then; rebuild fills a new Moodle; what Moodle refuses is exit 1."""
    await college.send(students=student("S1"), classes=class_("C1"), enrollments=enrollment("E1", "S1", "C1"))
    assert commands.run("rebuild", "--yes")[0] == 0
    assert college.seats() == {("C1", "S1"): "active"}
    assert commands.run("plan", "--as-of", "2001-01-01T00:00:00Z", "--json")[0] == 0
    assert commands.run("plan", "--as-of", "yesterday")[0] == 1
    college.moodle.site.settings.manual_enrol_enabled = False
    await college.send(students=student("S2"), enrollments=enrollment("E2", "S2", "C1"))
    assert commands.run("apply", "--yes")[0] == 1
    token = college.moodle.token
    college.moodle.revoke_token()
    code, _, said = commands.run("plan")
    assert (code, "MOODLE_TOKEN" in said, token in said) == (1, True, False)
    college.moodle.restore_token()


async def test_failed_and_retry(college: College, commands: Commands) -> None:
    """What Moodle refused is listed with the reason, not tried again by itself, and taken up after retry."""
    await college.send(
        students=[student("S1"), student("S2") | {"Academic_Email": None}], classes=class_("C1")
    )
    await college.send(enrollments=[enrollment("E1", "S1", "C1"), enrollment("E2", "S2", "C1")])
    college.moodle.site.settings.manual_enrol_enabled = False
    await college.settle()
    code, found, _ = commands.run("failed", "--json")
    assert (code, [(i["entity"], i["zoho_id"], i["reason"]) for i in found["items"]]) == (
        0, [("enrollment", "E1", "moodle_wsnoinstance"), ("student", "S2", "no_email")],
    )  # fmt: skip
    assert "manual enrolment" in found["items"][0]["detail"]
    college.moodle.site.settings.manual_enrol_enabled = True
    assert await college.calls() == []
    assert set(await college.plan()) == {"blocked"}, "the plan would not try it again either"
    assert commands.run("retry", "--entity", "enrollment", "--zoho-id", "E9")[0] == 1
    assert commands.run("retry", "--entity", "enrollment", "--zoho-id", "E1")[0] == 0
    assert (await college.status("enrollment", "E1"))[0] == "QUEUED"
    await college.settle()
    assert college.seats() == {("C1", "S1"): "active"}
    async with college.ledger.database.transaction(college.ledger.tenant) as connection:
        left = await failed(connection, college.ledger.tenant, college.settings)
    assert [name for name, _, _ in left] == [("student", "S2")]


# -- check


def without(*capabilities: str) -> Callable[[Site], None]:
    """Takes capabilities from the integration user."""

    def change(site: Site) -> None:
        site.tokens["sync"].capabilities -= set(capabilities)

    return change


def set_(**settings: Any) -> Callable[[Site], None]:
    """Changes the site's settings."""

    def change(site: Site) -> None:
        for name, value in settings.items():
            setattr(site.settings, name, value)

    return change


def lacks_function(name: str) -> Callable[[Site], None]:
    """Takes a function out of the token's service."""

    def change(site: Site) -> None:
        site.settings.functions = tuple(f for f in site.settings.functions if f != name)

    return change


CHECKS: list[tuple[Callable[[Site], None], str, str]] = [
    (set_(webservices_enabled=False), "token", "switched off"),
    (without("webservice/rest:use"), "token", "webservice/rest:use"),
    (lacks_function("enrol_manual_enrol_users"), "function", "enrol_manual_enrol_users"),
    (lacks_function("core_course_create_courses"), "function", "core_course_create_courses"),
    (lacks_function("core_user_get_users"), "function", "core_user_get_users is missing"),
    (without("moodle/user:viewalldetails"), "see accounts", "moodle/user:viewalldetails"),
    (without("moodle/user:create"), "make accounts", "moodle/user:create"),
    (without("moodle/user:update"), "change accounts", "moodle/user:update"),
    (without("enrol/manual:enrol"), "enrol students", "enrol/manual:enrol"),
    (set_(assignable_roles=frozenset({3})), "enrol students", "role 5"),
    (set_(manual_enrol_enabled=False), "enrol students", "manual enrolment"),
    (without("moodle/course:view"), "enrol students", "may not enter"),
    (set_(max_input_vars=60), "limits", "max_input_vars"),
]


async def findings(college: College, token: str | None = None) -> list[checking.Finding]:
    """What a check finds, tried in the college's course."""
    college = college.but(token=Secret(token or college.moodle.token))
    [course] = [c.id for c in college.moodle.site.tables.courses.values() if c.idnumber == "C1"]
    async with college.whole() as whole:
        return await checking.check(whole.client, whole.site, college.settings.moodle, course)


@pytest.mark.parametrize(("change", "what", "word"), CHECKS)
async def test_what_is_missing(
    college: College, change: Callable[[Site], None], what: str, word: str
) -> None:
    """Each thing that the ledger needs of Moodle has its line, which names what to do; the check
    changes nothing.
    """
    change(college.moodle.site)
    before = college.moodle.site.tables.copy()
    missing = [finding for finding in await findings(college) if finding.ok is False]
    assert [finding.what for finding in missing] == [what]
    assert word in missing[0].detail
    assert vars(college.moodle.site.tables) == vars(before)


async def test_check(college: College, commands: Commands) -> None:
    """Where all is well every line is ok and the exit is 0; a wrong token is one line and exit 1."""
    before = college.moodle.site.tables.copy()
    assert {finding.ok for finding in await findings(college)} == {True}
    [finding] = await findings(college, "0" * 32)
    assert (finding.what, finding.ok) == ("token", False)
    code, lines, _ = commands.run("check", "--json")
    assert (code, {line["what"]: line["ok"] for line in lines}) == (
        0,
        {"token": True, "functions": True, "see accounts": True, "make accounts": True, "change accounts": True,
         "enrol students": None, "make courses": True, "limits": True},
    )  # fmt: skip
    college.moodle.revoke_token()
    code, _, said = commands.run("check")
    college.moodle.restore_token()
    assert (code, said) == (1, "")
    assert vars(college.moodle.site.tables) == vars(before)


async def test_a_token_that_does_not_see(college: College) -> None:
    """A token whose look-ups are silently empty is no ground to make everybody anew: nothing is done."""
    await term(college)
    college.moodle.site.tokens["sync"].capabilities -= {"moodle/user:viewalldetails"}
    with pytest.raises(MisconfiguredError, match="viewalldetails"):
        await college.settle()
    with pytest.raises(MisconfiguredError, match="viewalldetails"):
        await college.planned()
    assert writes(college) == []


# -- turns


@asynccontextmanager
async def following(college: College, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """A worker that follows the ledger as that of a server does."""
    monkeypatch.setattr(working, "POLL_SECONDS", 0.02)
    async with college.worker() as worker, asyncio.timeout(30):
        task = asyncio.create_task(worker.run())
        yield worker
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(college: College, zoho_id: str, status: str) -> None:
    """Waits for an enrollment's status."""
    while (await college.status("enrollment", zoho_id))[0] != status:
        await asyncio.sleep(0.02)


async def test_a_worker_follows(college: College, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes up what others append: what was mended in Zoho, what a person asked to try again, with
    the enrollments that waited for it.
    """
    college = college.but(create_courses=False)
    async with following(college, monkeypatch):
        await college.send(
            students=student("S1") | {"Academic_Email": None}, classes=[class_("C1"), class_("C7")]
        )
        await college.send(enrollments=[enrollment("E1", "S1", "C1"), enrollment("E7", "S1", "C7")])
        await until(college, "E1", "FAILED")
        await college.send(students=student("S1"))
        await until(college, "E1", "SYNCED")
        await until(college, "E7", "FAILED")
        college.moodle.site.add_course(shortname="C7", idnumber="C7")
        report = Reporter(college.ledger.lane, college.ledger.tenant, college.moodle.url)
        await report([Report(("class", "C7"), None, {"call": None}, again=True)], source="cli")
        await until(college, "E7", "SYNCED")
        assert college.seats() == {("C1", "S1"): "active", ("C7", "S1"): "active"}
        await college.send(programs={"id": "P", "Product_Name": "P", "Moodle_ID": "C7"})
        await college.send(classes={"id": "C1", "BTEC_Program": "P", "status": "Cancelled"})
        while college.seats()["C1", "S1"] != "suspended":
            await asyncio.sleep(0.02)


async def test_a_worker_waits_for_moodle(college: College, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Moodle is away the worker says what is the matter, and goes on by itself when it is back."""
    college.moodle.refuse()
    async with following(college, monkeypatch) as worker:
        await term(college, count=1)
        while worker.trouble is None:
            await asyncio.sleep(0.02)
        assert "cannot be reached" in worker.trouble.text
        college.moodle.listen()
        await until(college, "E1 S0", "SYNCED")
        assert worker.trouble is None


async def test_a_command_asks_for_the_turn(college: College, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker lets go when a command asks, does nothing meanwhile, and takes up again by itself."""
    await term(college, count=1)
    async with following(college, monkeypatch) as worker:
        await until(college, "E1 S0", "SYNCED")
        async with ask_for(college.ledger.database, college.ledger.tenant) as turn:
            assert turn.holds()
            before = len(college.moodle.calls)
            await college.send(students=student("S9"), enrollments=enrollment("E9", "S9", "C1"))
            worker.wake()
            await asyncio.sleep(0.2)
            assert len(college.moodle.calls) == before
            async with college.whole(turn) as whole:
                assert await whole.apply(college.ledger.lane) == (2, 0)
        await college.send(enrollments={"id": "E9", "status": "Withdrawn"})
        while college.seats()["C1", "S9"] != "suspended":
            await asyncio.sleep(0.02)


async def test_one_worker_at_a_time(college: College) -> None:
    """While one works, a second one does not, and a call without a turn is not made."""
    await term(college, count=1)
    async with ask_for(college.ledger.database, college.ledger.tenant):
        with pytest.raises(Exception, match="moodle"):
            await college.settle()
    assert college.moodle.calls == []


# -- replay


async def test_a_replay_calls_nobody(college: College) -> None:
    """Read models come from the events alone, Moodle's reports with them: the same rows, no call."""
    await term(college)
    await college.settle()
    await college.send(enrollments={"id": "E1 S0", "status": "Withdrawn"})
    await college.settle()
    await followed(college.ledger)
    before, calls = await college.ledger.live(), len(college.moodle.calls)
    assert {row[0] for row in before.records} >= {"moodle_student", "moodle_class", "moodle_enrollment"}
    assert await college.ledger.rebuilt() == before
    status = await college.status("enrollment", "E1 S1")
    await Rebuild(replay(college.ledger)).run()
    assert await college.ledger.live() == before
    assert (await check_rows(replay(college.ledger))).differences == []
    assert await college.status("enrollment", "E1 S1") == status
    assert len(college.moodle.calls) == calls
    assert await college.calls() == []


@pytest.mark.parametrize("by", ["worker", "apply"])
async def test_moving_to_a_seat_that_is_taken(college: College, by: str) -> None:
    """An enrollment that moves to where another of the student's sits already is done in one go."""
    await college.send(
        students=student("S1"),
        classes=[class_("C1"), class_("C2")],
        enrollments=[enrollment("E1", "S1", "C1"), enrollment("E2", "S1", "C2")],
    )
    await college.settle()
    await college.send(enrollments={"id": "E1", "BTEC_Class": "C2"})
    await (college.settle() if by == "worker" else college.apply())
    assert college.seats() == {("C1", "S1"): "suspended", ("Class C2", "S1"): "active"}
    assert await college.status("enrollment", "E1") == await college.status("enrollment", "E2")
    assert (await college.status("enrollment", "E1"))[0] == "SYNCED"
    assert await college.calls() == []


async def test_a_seat_that_was_given_up_for_another(college: College) -> None:
    """A suspended seat that a withdrawn enrollment of times to come never had is no work for each plan."""
    await college.send(
        students=student("S1"),
        classes=[class_("C1"), class_("C2")],
        enrollments=[
            enrollment("E1", "S1", "C1"),
            enrollment("E2", "S1", "C2", Start_Date="2090-01-01"),
        ],
    )
    await college.settle()
    await college.send(enrollments={"id": "E2", "status": "Withdrawn"})
    await college.settle()
    await college.send(enrollments=[{"id": "E1", "BTEC_Class": "C2"}, {"id": "E2", "BTEC_Class": "C1"}])
    await college.settle()
    assert college.seats() == {("C1", "S1"): "suspended", ("Class C2", "S1"): "active"}
    assert await college.plan() == {}
