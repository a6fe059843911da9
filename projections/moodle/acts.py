"""Carrying out a plan: calls to Moodle in batches, each call's outcome reported when it is there.

Nothing here is needed for correctness but the order: whoever dies half-way leaves records
queued, and the next plan reads what Moodle has before it decides again.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from ledger.pace import in_turns
from projections.moodle.accounts import EMAIL_TAKEN, OF_OTHERS
from projections.moodle.client import AwayError, RefusedError, WaitError
from projections.moodle.plan import (
    REFUSED_BY_MOODLE,
    AccountChange,
    Plan,
    SeatChange,
    Settled,
    Unknown,
    new_account,
    seat_id,
)
from projections.moodle.planner import Planner
from projections.moodle.report import KEEP, Report
from projections.moodle.rules import SHORTNAME_CHARACTERS, Reason
from projections.moodle.seats import former_student
from projections.moodle.site import Account, SeatAt, Site, Unmade, parts_of, together
from projections.moodle.wanted import QUEUED, Course, User, Wanted
from projections.state import Name

_GONE = frozenset({"invaliduserid", "invaliduser", "userdeleted"})
"""The account has gone: it is looked up again."""

_OTHER_WAY, _EMAIL_DUPLICATE = "other_enrolment", "useremailduplicate"
_SAID = {
    "wsnoinstance": "manual enrolment is switched off in the course, or in the whole Moodle: switch it on",
    "wsusercannotassign": "the token's user may not give the role MOODLE_STUDENT_ROLE_ID: allow it in Moodle",
    "nopermissions": "the token's user lacks a capability for it: run sync-ledger moodle check",
    "requireloginerror": "the token's user may not enter the course",
    "guestsarenotallowed": "the account is the guest's",
    "courseidnumbertaken": "a course with this idnumber is there, but the token may not see it",
    "unknowcategory": "there is no category MOODLE_CATEGORY_ID",
    "errorcatcontextnotvalid": "the token's user may not make courses in the category MOODLE_CATEGORY_ID",
    "useremailinvalid": "Moodle does not take the e-mail address: correct it in Zoho",
    _OTHER_WAY: "the person is in the course by another enrolment method, too (self-enrolment, a cohort): "
    "end it in Moodle",
    "invalidparameter": "Moodle does not take one of the values, and does not say which (is MOODLE_AUTH right?)",
    "passwordpolicy": "Moodle's password policy refuses what MOODLE_AUTH needs",
}


class Progress(msgspec.Struct):
    """How many of the planned things are done."""

    done: int
    all: int


class Acts:
    """Brings one plan to Moodle.

    `again`: records that must be planned anew, since Moodle is not as the plan found it.
    `freed`: e-mail addresses, in lower case, that an account has left. `replaced`: students and
    classes that have another account or course than Moodle said before, or one after they were refused
    it, so that seats are missing.
    `in_the_way`: students who were refused since somebody else's account is in the way. `later`: records
    that wait `later_seconds` for what becomes of a call without an answer. `refused`: how many of the
    planned things Moodle refused.
    """

    def __init__(
        self,
        site: Site,
        planner: Planner,
        wanted: Wanted,
        making_courses: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        """`making_courses`: around each call that makes courses, see `projections.moodle.turn`."""
        self._site = site
        self._planner = planner
        self._wanted = wanted
        self._making_courses = making_courses
        self._done = self._all = 0
        self._aside: dict[int, str] = {}
        self.again: set[Name] = set()
        self.freed: set[str] = set()
        self.replaced: set[Name] = set()
        self.in_the_way: set[str] = set()
        self.later: set[Name] = set()
        self.later_seconds = 0.0
        self.refused = 0

    async def carry_out(
        self,
        plan: Plan,
        report: Callable[[list[Report]], Awaitable[None]],
        *,
        prune: bool = False,
        tell: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        """Does everything. `report` puts outcomes on disk; what it raises ends the work. Raises as
        `Site` and `report` do.
        """
        self._report_to, self._tell = report, tell
        self._all = plan.count + (len(plan.unknown) if prune else 0)
        self._tell(Progress(0, self._all))
        await self._settle([s for s in plan.settled if s.name[0] != "enrollment"])
        await self._report(
            [
                Report(b.name, b.asked, {"call": None}, b.moodle_id, b.reason)
                for b in plan.blocked
                if b.asked is not None
            ]
        )
        await self._update(plan.update_users)
        changes, settled = len(plan.update_users), len(plan.settled)
        await self._create_users(plan.create_users)
        await self._update(plan.update_users[changes:])  # accounts that were there after all
        await self._settle(plan.settled[settled:])
        await self._create_courses(plan.create_courses)
        for kind in ("suspend", "unenrol", "enrol"):
            await self._seats(kind, [change for change in plan.seats if change.kind == kind])
        # last, since some of these left another seat just now
        await self._settle([s for s in plan.settled[:settled] if s.name[0] == "enrollment"])
        if prune:
            await self._prune(plan.unknown)

    async def _settle(self, settled: Sequence[Settled]) -> None:
        await self._report([Report(s.name, s.asked, {"call": None}, s.moodle_id) for s in settled])

    async def _report(self, reports: list[Report]) -> None:
        """Puts on disk what is news."""
        news = [self._with_student(r) async for r in in_turns(reports) if self._is_news(r)]
        self.in_the_way.update(
            report.name[1] for report in reports if report.reason and report.reason[0] in OF_OTHERS
        )
        self.replaced.update(report.name for report in news if self._is_replaced(report))
        if news:
            await self._report_to(news)

    def _is_news(self, report: Report) -> bool:
        known = self._wanted.known(report.name)
        reason = report.reason[0] if report.reason else None
        same = known.asked == report.asked and known.reason == reason
        same = same and self._wanted.status(report.name) != QUEUED
        return not same or report.record["call"] is not None or known.moodle_id != report.moodle_id

    def _with_student(self, report: Report) -> Report:
        """An enrollment's report is sealed under the key of its student."""
        if report.name[0] != "enrollment":
            return report
        student = self._wanted.student_of(report.name)
        if report.asked is None:  # it left the seat of the one whose it was
            student = former_student(self._wanted.known(report.name)) or student
        return msgspec.structs.replace(report, student=student)

    def _is_replaced(self, report: Report) -> bool:
        known = self._wanted.known(report.name)
        if report.name[0] not in ("student", "class") or report.reason is not None:
            return False
        if known.moodle_id is None:
            return known.reason is not None
        return report.moodle_id not in (known.moodle_id, KEEP)

    def _count(self, things: int) -> None:
        self._done += things
        self._tell(Progress(min(self._done, self._all), self._all))

    # -- accounts

    async def _update(self, changes: Sequence[AccountChange]) -> None:
        """Changes accounts. An address that another one still has is tried again once that one has
        moved; where they wait for each other, one of them moves out of the way.
        """
        pending = list(changes)
        for _ in range(2 * len(pending) + 1):
            if not pending:
                return
            stuck: list[AccountChange] = []

            async def some(part: Sequence[AccountChange], stuck: list[AccountChange] = stuck) -> None:
                stuck += await self._update_some(part)

            fields = 1 + max(len(change.changes) for change in pending)
            await together(some, parts_of(pending, self._site.at_once(fields)))
            if len(stuck) == len(pending) and not await self._make_way(stuck):
                break
            pending = stuck
        await self._put_back(pending)
        function = "core_user_update_users"
        await self._report(
            [
                Report(
                    ("student", c.user.zoho_id),
                    c.user.asked,
                    _record(function, {"id": c.account_id}, RefusedError(_EMAIL_DUPLICATE, "")),
                    str(c.account_id),
                    EMAIL_TAKEN,
                )
                for c in pending
            ]
        )
        self.refused += len(pending)
        self._count(len(pending))

    async def _update_some(self, part: Sequence[AccountChange]) -> list[AccountChange]:
        """Those that wait for an e-mail address."""
        sent = [{"id": c.account_id, **{f: new for f, (_, new) in c.changes.items()}} for c in part]
        results = await self._site.update_users(sent)
        reports, stuck = [], []
        for change, fields, refused in zip(part, sent, results, strict=True):
            name, asked = ("student", change.user.zoho_id), change.user.asked
            record = _record("core_user_update_users", fields, refused)
            if refused is None:
                reports.append(Report(name, asked, record, str(change.account_id), change.reason))
                if "email" in change.changes:
                    self.freed.add(str(change.changes["email"][0]).lower())
            elif refused.code == _EMAIL_DUPLICATE:
                stuck.append(change)
            elif refused.code in _GONE:
                self._planner.users.pop(name[1], None)
                self.again.add(name)
            else:
                self.refused += 1
                reports.append(Report(name, asked, record, str(change.account_id), reason_of(refused)))
        await self._report(reports)
        self._count(len(part) - len(stuck))
        return stuck

    async def _make_way(self, stuck: list[AccountChange]) -> bool:
        """Where accounts wait for each other in a circle, gives one of them an address of nobody's, for a
        moment. Whether it did.
        """
        by_old = {str(c.changes["email"][0]).lower(): c for c in stuck}
        for change in stuck:
            behind, steps = by_old.get(change.changes["email"][1].lower()), 0
            while behind is not None and behind is not change and steps < len(stuck):
                behind, steps = by_old.get(behind.changes["email"][1].lower()), steps + 1
            if behind is change:
                aside = f"moving-{change.account_id}-{secrets.token_hex(4)}@moving.invalid"
                old, new = change.changes["email"]
                fields = {"id": change.account_id, "email": aside}
                [refused] = await self._site.update_users([fields])
                await self._report([self._step(change, fields, refused)])
                change.changes["email"] = (aside, new)
                self._aside[change.account_id] = old
                return refused is None
        return False

    async def _put_back(self, pending: list[AccountChange]) -> None:
        """Whoever made way in vain has the old address again."""
        moved = [change for change in pending if change.account_id in self._aside]
        back = [{"id": c.account_id, "email": self._aside[c.account_id]} for c in moved]
        if back:
            results = await self._site.update_users(back)
            await self._report([self._step(*step) for step in zip(moved, back, results, strict=True)])

    def _step(self, change: AccountChange, fields: dict[str, Any], refused: RefusedError | None) -> Report:
        """A call on the way to an account's wanted state."""
        record = _record("core_user_update_users", fields, refused)
        return Report(("student", change.user.zoho_id), None, record, str(change.account_id))

    async def _create_users(self, users: Sequence[User]) -> None:
        extra = self._password()
        made: set[str] = set()

        async def some(part: Sequence[User]) -> None:
            sent = [{**new_account(user), **extra()} for user in part]
            results = await self._site.create_users(sent)
            away = _unanswered(results)
            reports, refused = [], []
            for user, fields, result in zip(part, sent, results, strict=True):
                if isinstance(result, AwayError):
                    continue
                if isinstance(result, RefusedError):
                    refused.append((user, fields, result))
                    continue
                made.add(user.zoho_id)
                self._planner.users[user.zoho_id] = result
                record = _record("core_user_create_users", fields, None, {"id": result})
                reports.append(Report(("student", user.zoho_id), user.asked, record, str(result)))
            await self._report(reports)  # before more is asked, which may fail
            if away is not None:
                raise away
            for user, fields, error in refused:
                await self._report(await self._explain(user, fields, error))
            self._count(len(part))

        rest = list(users)
        while self._site.unsure and rest:  # until one was made, and is seen
            first = rest.pop(0)
            await some([first])
            if first.zoho_id in made:
                await self._site.must_see(first.zoho_id)
        await together(some, parts_of(rest, self._site.at_once(8)))

    def _password(self) -> Callable[[], dict[str, Any]]:
        """How an account's owner comes to a password: Moodle mails one; `nologin` needs one that
        nobody knows; other kinds of log-in have their own.
        """
        auth = self._wanted.moodle.auth
        if auth == "manual":
            return lambda: {"auth": auth, "createpassword": 1}
        if auth == "nologin":
            return lambda: {"auth": auth, "password": f"Aa1!{secrets.token_urlsafe(18)}"}
        return lambda: {"auth": auth}

    async def _explain(self, user: User, fields: dict[str, Any], refused: RefusedError) -> list[Report]:
        """An account that Moodle would not make: it is there after all, or it is another's."""
        name, function = ("student", user.zoho_id), "core_user_create_users"
        found = await self._planner.accounts.explain(user)
        if isinstance(found, Account):
            self._planner.accounts.take(user, found)
            return []
        self.refused += 1
        return [
            Report(name, user.asked, _record(function, fields, refused), None, found or reason_of(refused))
        ]

    # -- courses

    async def _create_courses(self, courses: Sequence[Course]) -> None:
        """Makes courses; classes that name the same idnumber share one."""
        by_idnumber: dict[str, list[Course]] = {}
        for course in courses:
            by_idnumber.setdefault(course.idnumber or "", []).append(course)

        for part in parts_of(list(by_idnumber.values()), self._site.at_once(6)):
            try:
                await self._create_some(part)  # one call at once: Moodle would make a course twice
            except WaitError as error:
                self.later_seconds = max(self.later_seconds, error.seconds)
                self.later.update(course.name for shared in part for course in shared)

    async def _create_some(self, part: Sequence[list[Course]]) -> None:
        sent = [self._new_course(shared[0]) for shared in part]
        results = await self._site.create_courses(sent, self._making_courses)
        taken: list[tuple[list[Course], dict[str, Any]]] = []
        for shared, fields, result in zip(part, sent, results, strict=True):
            if isinstance(result, RefusedError) and result.code == "shortnametaken":
                suffix = f" ({shared[0].name[1]})"
                name = shared[0].shortname[: SHORTNAME_CHARACTERS - len(suffix)] + suffix
                taken.append((shared, {**fields, "shortname": name}))
            elif not isinstance(result, AwayError):
                await self._report(self._course_reports(shared, fields, result))
        if (away := _unanswered(results)) is not None:
            raise away
        for shared, fields in taken:
            [again] = await self._site.create_courses([fields], self._making_courses)
            assert not isinstance(again, AwayError)
            await self._report(self._course_reports(shared, fields, again))
        self._count(sum(map(len, part)))

    def _course_reports(
        self, shared: list[Course], fields: dict[str, Any], result: int | RefusedError
    ) -> list[Report]:
        function = "core_course_create_courses"
        if isinstance(result, RefusedError):
            self.refused += len(shared)
            record = _record(function, fields, result)
            return [Report(c.name, c.asked, record, None, reason_of(result)) for c in shared]
        self._planner.courses.update((course.name, result) for course in shared)
        record = _record(function, fields, None, {"id": result})
        return [Report(course.name, course.asked, record, str(result)) for course in shared]

    def _new_course(self, course: Course) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "fullname": course.fullname,
            "shortname": course.shortname,
            "categoryid": self._wanted.moodle.category_id,
            "idnumber": course.idnumber,
        }
        if course.start:
            fields["startdate"] = course.start
            if course.end > course.start:
                fields["enddate"] = course.end
        return fields

    # -- seats

    async def _seats(self, kind: str, changes: Sequence[SeatChange]) -> None:
        ready: list[tuple[SeatAt, SeatChange]] = []
        for change in changes:
            course_id = change.course_id or self._planner.courses.get(change.course or ("", ""))
            user_id = change.user_id or self._planner.users.get(change.student)
            if course_id is None or user_id is None:  # its account or course was refused just now
                if change.course in self.later:
                    self.later.update(("enrollment", e.zoho_id) for e in change.enrollments)
                self._count(1)
                continue
            seat = SeatAt(course_id, user_id, kind == "suspend", change.start, change.end)
            ready.append((seat, change))
        ready.sort(key=lambda pair: pair[0].key)

        async def some(part: Sequence[tuple[SeatAt, SeatChange]]) -> None:
            seats = [seat for seat, _ in part]
            results = await self._seat_call(kind, seats)
            away = _unanswered(results)
            reports: list[Report] = []
            refusals: list[tuple[SeatAt, SeatChange, RefusedError]] = []
            for (seat, change), result in zip(part, results, strict=True):
                if isinstance(result, RefusedError):
                    refusals.append((seat, change, result))
                elif result is None:
                    reports += await self._seat_reports(seat, change, None)
            await self._report(reports)  # first: more is asked below
            if away is not None:
                raise away
            for refusal in refusals:
                await self._report(await self._seat_reports(*refusal))
            self._count(len(part))

        await together(some, parts_of(ready, self._site.at_once(2 if kind == "unenrol" else 6)))

    async def _seat_call(self, kind: str, seats: list[SeatAt]) -> list[Unmade | None]:
        """Enrols, suspends or unenrols. Who was to leave and sits there all the same came by another
        way than manual enrolment.
        """
        if kind == "enrol":
            return await self._site.enrol(seats)
        if kind == "suspend":
            results = await self._site.enrol(seats)
        else:
            results = await self._site.unenrol([seat.key for seat in seats])
        left = [seat.key for seat, refused in zip(seats, results, strict=True) if refused is None]
        there = await self._site.occupied(left)
        other = RefusedError(_OTHER_WAY, "the person came by another enrolment method, too")
        return [
            other if refused is None and seat.key in there else refused
            for seat, refused in zip(seats, results, strict=True)
        ]

    async def _seat_reports(
        self, seat: SeatAt, change: SeatChange, refused: RefusedError | None
    ) -> list[Report]:
        leaves = change.kind != "enrol"
        if refused is not None and await self._has_gone(seat, change, refused):
            if not leaves:
                self.again.update(("enrollment", e.zoho_id) for e in change.enrollments)
                return []
            refused = None  # nobody sits where there is no account or no course
        function = "enrol_manual_unenrol_users" if change.kind == "unenrol" else "enrol_manual_enrol_users"
        sent = msgspec.to_builtins(seat)
        record = _record(function, sent, refused)
        reason = reason_of(refused) if refused is not None else None
        self.refused += reason is not None
        moodle_id = seat_id(*seat.key) if reason is None else KEEP
        reports = []
        for enrollment in change.enrollments:
            # who moves leaves the old seat first: a step on the way
            step = leaves and enrollment.active and reason is None
            asked = None if step else enrollment.asked
            reports.append(Report(("enrollment", enrollment.zoho_id), asked, record, moodle_id, reason))
        return reports

    async def _has_gone(self, seat: SeatAt, change: SeatChange, refused: RefusedError) -> bool:
        """Whether a seat was refused since its account or its course is there no more."""
        if refused.code in _GONE:
            self._planner.users.pop(change.student, None)
            self.again.add(("student", change.student))
            return True
        if refused.code not in ("invalidparameter", "invalidrecord"):
            return False
        if await self._site.courses_at(("id", str(seat.course_id))):
            return False
        if change.course is not None:
            self._planner.courses.pop(change.course, None)
            self.again.add(change.course)
        return True

    async def _prune(self, unknown: Sequence[Unknown]) -> None:
        """Takes away seats that the ledger does not know; no record of it speaks of them."""
        kind = self._wanted.moodle.on_withdraw
        for part in parts_of(unknown, self._site.at_once(6)):
            seats = [SeatAt(seat.course_id, seat.user_id, suspended=True) for seat in part]
            results = await self._seat_call(kind, seats)
            self.refused += sum(result is not None for result in results)
            self._count(len(part))


def _unanswered(results: Sequence[Any]) -> AwayError | None:
    """The error of those that had no answer while others had."""
    return next((result for result in results if isinstance(result, AwayError)), None)


def reason_of(refused: RefusedError) -> Reason:
    """Why Moodle did not do something, in words, where its code has any."""
    said = _SAID.get(refused.code, f"Moodle refused it ({refused.code})")
    return REFUSED_BY_MOODLE + refused.code, said


def _record(
    function: str, sent: dict[str, Any], refused: RefusedError | None, answer: Any = None
) -> dict[str, Any]:
    """A call as it is kept; a password is never."""
    shown = {key: value for key, value in sent.items() if key != "password"}
    answer = {"errorcode": refused.code} if refused is not None else answer
    return {"call": function, "sent": shown, "answer": answer}
