"""Whose address, whose account: what other accounts and the token's rights have to do with it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.harness import Ledger
from tests.integration.test_moodle_running import running, short_pauses
from tests.moodle.college import College, class_, enrollment, student
from tests.moodle.double import MoodleDouble
from tests.moodle.persistent import until

__all__ = ["short_pauses"]


@pytest.fixture
def college(ledger: Ledger, moodle: MoodleDouble) -> College:
    """A college whose Moodle has a course for C1."""
    moodle.site.add_course(shortname="C1", idnumber="C1")
    return College(ledger, moodle)


async def addressed(college: College, **emails: str) -> None:
    """Students get these e-mail addresses."""
    await college.send(students=[student(s, f"{name}@college.test") for s, name in emails.items()])


def addresses(college: College) -> dict[str, str]:
    """Who has which, without the part that all share."""
    return {s: email.removesuffix("@college.test") for s, email in college.emails().items()}


def accounts(college: College) -> list[tuple[str, str]]:
    """Every account's address and idnumber."""
    return [(user.email, user.idnumber) for user in college.moodle.site.live_users()]


# -- addresses that wait for each other


@pytest.mark.parametrize("by", ["worker", "apply"])
async def test_a_chain_behind_an_outsider(college: College, by: str) -> None:
    """Who waits for an address that an outsider has keeps the old one, and so does who waits for that
    one; others who pass theirs round are not held up.
    """
    before = {"S1": "a", "S2": "b", "S3": "c", "T1": "x", "T2": "y", "T3": "z"}
    await addressed(college, **before)
    await college.settle()
    college.moodle.site.add_user(username="outsider", email="d@college.test")
    await addressed(college, S1="b", S2="c", S3="d", T1="y", T2="z", T3="x")
    await (college.settle() if by == "worker" else college.apply())
    assert addresses(college) == before | {"T1": "y", "T2": "z", "T3": "x"}
    assert [await college.failure("student", s) for s in ("S1", "S2", "S3")] == ["email_taken"] * 3
    assert set(await college.plan()) == {"blocked"}
    assert await college.calls() == []


@pytest.mark.parametrize("letters", [str.lower, str.upper])
async def test_an_address_that_is_left_while_a_worker_runs(college: College, letters: Any) -> None:
    """A student who was refused an address gets it, and the seats with it, as soon as it is left."""
    college = college.but(username="{zoho_id}")
    await addressed(college, S1="x")
    await college.send(classes=class_("C1"))
    async with college.worker() as worker, running(worker):
        await until(lambda: "S1" in college.emails())
        await college.send(students=student("S2", letters("x@college.test")))
        await college.send(enrollments=enrollment("E2", "S2", "C1"))
        await until(lambda: is_(college, "FAILED", ("student", "S2"), ("enrollment", "E2")))
        assert (await college.known("student", "S2")).reason in ("email_taken", "id_of_another")
        await addressed(college, S1="other")
        await until(lambda: is_(college, "SYNCED", ("student", "S2"), ("enrollment", "E2")))
    assert college.emails() == {"S1": "other@college.test", "S2": letters("x@college.test")}
    assert college.seats() == {("C1", "S2"): "active"}


async def is_(college: College, status: str, *names: tuple[str, str]) -> bool:
    """Whether all of some records have a status."""
    return {(await college.status(*name))[0] for name in names} == {status}


# -- accounts that are not found


CHANGES: dict[str, dict[str, Any]] = {
    "address": {"Academic_Email": "b@college.test"},
    "status": {"Status": "Freeze"},
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_token_that_loses_its_sight(college: College, change: str) -> None:
    """To a token that lost viewalldetails everybody seems missing: nobody is made a second time, or
    thought to have no account, and the worker says why.
    """
    await addressed(college, S1="a")
    sync = college.moodle.site.tokens["sync"]
    async with college.worker() as worker, running(worker):
        await until(lambda: is_(college, "SYNCED", ("student", "S1")))
        before = accounts(college)
        sync.capabilities -= {"moodle/user:viewalldetails"}
        await college.send(students={"id": "S1", **CHANGES[change]})
        await until(lambda: worker.trouble is not None)
        assert worker.trouble is not None
        assert "moodle/user:viewalldetails" in worker.trouble.text
        assert accounts(college) == before
        assert await is_(college, "QUEUED", ("student", "S1"))
        sync.capabilities |= {"moodle/user:viewalldetails"}
        await until(lambda: is_(college, "SYNCED", ("student", "S1")))
    assert college.user("S1").suspended is (change == "status")
    assert len(accounts(college)) == len(before)


@pytest.mark.parametrize("by", ["worker", "apply"])
async def test_an_idnumber_blanked_by_hand(college: College, by: str) -> None:
    """The account is found again by Moodle's own id, where the address is the one that it had."""
    await addressed(college, S1="a")
    await college.settle()
    before, user = accounts(college), college.user("S1")
    college.moodle.site.tables.users[user.id] = msgspec.structs.replace(user, idnumber="")
    await addressed(college, S1="b")
    await (college.settle() if by == "worker" else college.apply())
    assert (college.user("S1").id, addresses(college)) == (user.id, {"S1": "b"})
    assert len(accounts(college)) == len(before)


@pytest.mark.parametrize("by", ["worker", "apply"])
async def test_an_id_that_is_somebody_else_now(college: College, by: str) -> None:
    """An account that has another address than the student's had is not taken for the student's."""
    await addressed(college, S1="a")
    await college.settle()
    user = college.user("S1")
    other = msgspec.structs.replace(user, idnumber="", username="other", email="other@college.test")
    college.moodle.site.tables.users[user.id] = other
    await addressed(college, S1="b")
    await (college.settle() if by == "worker" else college.apply())
    assert college.user("S1").id != user.id
    assert college.moodle.site.user(user.id) == other


# -- settings and rights


async def test_another_username(college: College) -> None:
    """Who had no username under one MOODLE_USERNAME gets one under another, by a new worker."""
    numbered = college.but(username="{student_number}")
    await college.send(students=student("S1"), classes=class_("C1"), enrollments=enrollment("E1", "S1", "C1"))
    await numbered.settle()
    assert await numbered.failure("student", "S1") == "no_username"
    await college.settle()
    assert college.user("S1").username == "s1@college.test"
    assert college.seats() == {("C1", "S1"): "active"}
    assert await college.calls() == []


async def test_a_token_that_makes_no_accounts(college: College) -> None:
    """Without moodle/user:create one call refuses all students of a batch."""
    college.moodle.site.tokens["sync"].capabilities -= {"moodle/user:create"}
    students = [f"S{number}" for number in range(30)]
    await college.send(students=[student(s) for s in students])
    assert (await college.calls()).count("core_user_create_users") == 1
    assert {await college.failure("student", s) for s in students} == {"moodle_nopermissions"}
