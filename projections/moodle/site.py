"""What the ledger reads in a Moodle and does there: typed, in batches, each item with its result.

Most of Moodle's writing functions do all of a call or nothing and do not say which item was
bad, so a refused batch is halved until the bad one stands alone. Behind a write of many items
the last one is looked for, since a site with a low `max_input_vars` drops what is too much and
answers success.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar

import msgspec

from ledger.pace import in_turns
from ledger.settings import MoodleSettings
from projections.moodle.client import (
    MOST_FIELDS,
    AwayError,
    MisconfiguredError,
    MoodleClient,
    RefusedError,
    fields_of,
)
from projections.moodle.wanted import Place

T = TypeVar("T")
Unmade = RefusedError | AwayError
"""Why an item was not done, or may not have been."""
Around = Callable[[], AbstractAsyncContextManager[None]]

GUEST, FRONT_PAGE = 1, 1
"""The ids of the guest's account, and of the site's own course, in which nobody is enrolled."""
COUNTED_FROM = 100
"""Behind a write of so many fields the last item is looked for."""
_FEW = 4
"""So many people of a course are looked up one by one; of more, the whole course is read."""
_LEAST_FIELDS = 20
_FIELDS_LEFT = MOST_FIELDS - 20  # for the control fields and what is not an item
_PAGE = 1_000
_RACE, _INVALID = "dmlwriteexception", "invalidparameter"
_NOT_ALLOWED = "nopermissions"
_OF_THE_SITE = frozenset({"core_user_create_users", "core_user_update_users", "core_course_create_courses"})
"""Whoever may not do these for one item may not for any."""
_ID_DIGITS = 18
"""Ids with more digits may not fit Moodle's database."""

UNSEEN = (
    "the token's user sees no other accounts by username or idnumber, so that nobody could tell who is "
    "missing: give its role moodle/user:viewdetails and moodle/user:viewalldetails"
)


class Account(msgspec.Struct, rename={"first_name": "firstname", "last_name": "lastname"}):
    """A user as Moodle shows it; what the token may not see, or is empty, is missing."""

    id: int
    username: str = ""
    first_name: str = ""
    last_name: str = ""
    email: str = ""
    idnumber: str = ""
    suspended: bool = False


class FoundCourse(msgspec.Struct):
    """A course as Moodle shows it."""

    id: int
    idnumber: str = ""


class SeatAt(msgspec.Struct, frozen=True):
    """One person in one course. Times are epoch seconds, 0 for none."""

    course_id: int
    user_id: int
    suspended: bool = False
    start: int = 0
    end: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """(course id, user id)"""
        return self.course_id, self.user_id


class Occupied(msgspec.Struct, frozen=True):
    """A seat that Moodle has. `idnumber` is the person's, `roles` their roles in the course.
    `suspended`: or its time has not come, or is over, which Moodle does not tell apart.
    """

    suspended: bool
    idnumber: str = ""
    roles: frozenset[int] = frozenset()


class _Role(msgspec.Struct):
    roleid: int


class _Participant(msgspec.Struct):
    id: int
    idnumber: str = ""
    roles: list[_Role] = []


class _Users(msgspec.Struct):
    users: list[Account]


class _Courses(msgspec.Struct):
    courses: list[FoundCourse]


class _Id(msgspec.Struct):
    id: int


class _Warning(msgspec.Struct):
    itemid: int | None = None
    warningcode: str = "warning"


class _Warnings(msgspec.Struct):
    warnings: list[_Warning] = []


class Site:
    """One Moodle. Every method raises `AwayError` and `MisconfiguredError`; those that read raise
    `RefusedError` where Moodle does not let itself be asked.
    """

    def __init__(self, client: MoodleClient, settings: MoodleSettings) -> None:
        self._client = client
        self._settings = settings
        self._most_fields = _FIELDS_LEFT
        self._at_most = settings.batch
        self.unsure = False
        """Nobody knows yet whether what the token does not see is not there."""

    def begin(self) -> None:
        """Tries again after whatever went wrong."""
        self._client.begin()

    def shrink(self) -> None:
        """A call had no answer: the next ones are half as large, in case that was too much."""
        self._at_most = max(1, self._at_most // 2)

    def grow(self) -> None:
        """All went well: calls come back to their size."""
        self._at_most = min(self._settings.batch, self._at_most * 2)

    # -- reading

    async def _ask(self, function: str, **parameters: Any) -> Any:
        """Moodle writes while it reads, too (who was here last); what fails then is asked later."""
        try:
            return await self._client.call(function, **parameters)
        except RefusedError as error:
            if error.code != _RACE:
                raise
            raise AwayError(f"its database failed on {function} ({error.code})") from None

    async def info(self) -> dict[str, Any]:
        """What the site says of itself and of the token's user."""
        answer: dict[str, Any] = await self._ask("core_webservice_get_site_info")
        return answer

    async def users_by(self, field: str, values: Iterable[str]) -> list[Account]:
        """Accounts whose `idnumber`, `username`, `email` or `id` is one of these, exactly."""
        function = "core_user_get_users_by_field"

        async def look(some: Sequence[str]) -> list[Account]:
            try:
                answer = await self._ask(function, field=field, values=list(some))
            except RefusedError as error:
                if error.code != _INVALID:
                    raise _blind(function, error) from None
                if len(some) == 1:  # what Moodle does not take, nobody has
                    return []
                half = len(some) // 2
                return [*await look(some[:half]), *await look(some[half:])]
            return _read(list[Account], answer, function)

        parts = parts_of([v for v in dict.fromkeys(values) if v], self.at_once(1))
        return [account for some in await together(look, parts) for account in some]

    async def holders_of(self, email: str) -> list[Account]:
        """Accounts with an e-mail address, upper and lower case alike."""
        function = "core_user_get_users"
        answer = await self._ask(function, criteria=[{"key": "email", "value": email}])
        found = _read(_Users, answer, function).users
        return [account for account in found if account.email.lower() == email.lower()]

    async def must_see(self, idnumber: str) -> None:
        """An account that was just made must be found, or the token does not see who is there.

        Raises `MisconfiguredError`.
        """
        if not await self.users_by("idnumber", [idnumber]):
            raise MisconfiguredError(UNSEEN)
        self.unsure = False

    async def courses_at(self, place: Place) -> list[FoundCourse]:
        """The courses with an `id` or `idnumber`, one at the most in a sound Moodle; never the front page."""
        function, (field, value) = "core_course_get_courses_by_field", place
        try:
            answer = await self._ask(function, field=field, value=value)
        except RefusedError as error:
            if error.code == _INVALID or (field == "id" and len(value) > _ID_DIGITS):  # no course has it
                return []
            raise _blind(function, error) from None
        found = [c for c in _read(_Courses, answer, function).courses if c.id != FRONT_PAGE]
        if field == "idnumber":  # shown to those who may change courses
            found = [c for c in found if c.idnumber in ("", value)]
        return found

    async def seats_in(self, course_id: int) -> dict[int, Occupied]:
        """Who sits in a course, by user id; empty where there is no such course."""
        found: dict[int, Occupied] = {}
        for only, suspended in (("onlyactive", False), ("onlysuspended", True)):
            async for person in self._participants(course_id, only):
                roles = frozenset(role.roleid for role in person.roles)
                found.setdefault(person.id, Occupied(suspended, person.idnumber, roles))
        return found

    async def _participants(
        self, course_id: int, only: str | None = None, fields: str = "id,idnumber,roles"
    ) -> AsyncIterator[_Participant]:
        function, first = "core_enrol_get_enrolled_users", 0
        while True:
            options = {"userfields": fields, "limitfrom": first, "limitnumber": _PAGE}
            if only is not None:
                options[only] = 1
            try:
                answer = await self._ask(
                    function,
                    courseid=course_id,
                    options=[{"name": name, "value": value} for name, value in options.items()],
                )
            except RefusedError as error:
                if error.code == "invalidrecord":  # the course has gone
                    return
                raise
            people = _read(list[_Participant], answer, function)
            for person in people:
                yield person
            if len(people) < _PAGE:
                return
            first += _PAGE

    async def active_courses_of(self, user_id: int) -> set[int]:
        """The courses in which a person sits and is not suspended."""
        function = "core_enrol_get_users_courses"
        answer = await self._ask(function, userid=user_id, returnusercount=0)
        return {course.id for course in _read(list[_Id], answer, function)}

    async def occupied(self, keys: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Those of some seats (course id, user id) that are taken and not suspended."""
        by_course: dict[int, set[int]] = {}
        by_user: dict[int, set[int]] = {}
        for course_id, user_id in keys:
            by_course.setdefault(course_id, set()).add(user_id)
        for course_id, user_ids in list(by_course.items()):
            if len(user_ids) <= _FEW:
                for user_id in user_ids:
                    by_user.setdefault(user_id, set()).add(course_id)
                del by_course[course_id]

        async def whole(course_id: int) -> set[tuple[int, int]]:
            people = self._participants(course_id, "onlyactive", fields="id")
            return {(course_id, p.id) async for p in people if p.id in by_course[course_id]}

        async def one(user_id: int) -> set[tuple[int, int]]:
            courses = await self.active_courses_of(user_id)
            return {(c, user_id) for c in by_user[user_id] if c in courses}

        found = [*await together(whole, by_course), *await together(one, by_user)]
        return set().union(*found)

    # -- writing: each item has its result

    def at_once(self, fields: int) -> int:
        """How many items of so many fields a call may have."""
        return max(1, min(self._at_most, self._most_fields // fields))

    async def create_users(self, users: Sequence[dict[str, Any]]) -> list[int | Unmade]:
        """The new accounts' ids."""
        return await self._each("core_user_create_users", "users", users, _ids)

    async def create_courses(
        self, courses: Sequence[dict[str, Any]], around: Around = nullcontext
    ) -> list[int | Unmade]:
        """The new courses' ids. `around`: held during each call."""
        return await self._each("core_course_create_courses", "courses", courses, _ids, around)

    async def update_users(self, users: Sequence[dict[str, Any]]) -> list[RefusedError | None]:
        """Changes accounts, each with its `id`; Moodle does the good ones of a call."""
        function = "core_user_update_users"

        async def update(some: Sequence[dict[str, Any]]) -> list[RefusedError | None]:
            answer = await self._client.call(function, users=list(some))
            warnings = _read(_Warnings, answer or {}, function).warnings
            bad = {w.itemid: w.warningcode for w in warnings}
            return [_refused(bad[u["id"]]) if u["id"] in bad else None for u in some]

        async def or_alone(
            some: Sequence[dict[str, Any]], *, again: bool = False
        ) -> list[RefusedError | None]:
            try:
                return await update(some)
            except RefusedError as error:
                if error.code == _RACE and not again:
                    return await or_alone(some, again=True)
                if len(some) == 1 or error.code == _NOT_ALLOWED:
                    return [error] * len(some)
                return [result for user in some for result in await or_alone([user])]

        found = await together(or_alone, parts_of(users, self.at_once(max(map(fields_of, users), default=1))))
        return [result for some in found for result in some]

    async def enrol(self, seats: Sequence[SeatAt]) -> list[Unmade | None]:
        """Takes seats, or changes what they are: role, times, suspended or not."""
        role = self._settings.student_role_id
        items = [
            {
                "roleid": role,
                "userid": seat.user_id,
                "courseid": seat.course_id,
                "timestart": seat.start,
                "timeend": seat.end,
                "suspend": seat.suspended,
            }
            for seat in seats
        ]
        results = await self._each("enrol_manual_enrol_users", "enrolments", items, _nothing)
        if sum(map(fields_of, items)) >= COUNTED_FROM:
            await self._look_for_last(seats, results)
        return results

    async def _look_for_last(self, seats: Sequence[SeatAt], results: list[Unmade | None]) -> None:
        """PHP drops fields from the end, so where the last one has its seat nobody was dropped.

        Raises `AwayError` where Moodle answered success and did not do all; calls are smaller then.
        """
        done = [seat for seat, result in zip(seats, results, strict=True) if result is None]
        if not done:
            return
        course_id, user_id = done[-1].key
        try:
            if not done[-1].suspended and course_id in await self.active_courses_of(user_id):
                return
            # suspended, or of another time, or not to be seen there
            async for person in self._participants(course_id, fields="id"):
                if person.id == user_id:
                    return
        except RefusedError:  # whoever may enrol may perhaps not look
            return
        self._most_fields = max(_LEAST_FIELDS, self._most_fields // 2)
        raise AwayError(
            f"of {len(done)} enrolments in one call some were dropped without an error: "
            "raise PHP's max_input_vars to 5000, or lower MOODLE_BATCH"
        )

    async def unenrol(self, keys: Sequence[tuple[int, int]]) -> list[Unmade | None]:
        """Gives seats (course id, user id) up, with the person's groups in the course."""
        items = [{"userid": user_id, "courseid": course_id} for course_id, user_id in keys]
        return await self._each("enrol_manual_unenrol_users", "enrolments", items, _nothing)

    async def _each(
        self,
        function: str,
        key: str,
        items: Sequence[dict[str, Any]],
        read: Callable[[Any, int, str], list[T]],
        around: Around = nullcontext,
    ) -> list[T | RefusedError | AwayError]:
        """Results of a function that does all of a call or nothing: of each item its own, that it was
        refused, or (where others have one) that it had no answer.
        """

        async def some(
            part: Sequence[dict[str, Any]], *, again: bool = False
        ) -> list[T | RefusedError | AwayError]:
            try:
                async with around():
                    answer = await self._client.call(function, **{key: list(part)})
            except RefusedError as error:
                if error.code == _RACE and not again:  # somebody else wrote the same at the same time
                    return await some(part, again=True)
                if error.code == _RACE and len(part) == 1:
                    raise AwayError(f"its database does not take {function} ({error.code})") from None
                if len(part) == 1 or (error.code == _NOT_ALLOWED and function in _OF_THE_SITE):
                    return [error] * len(part)
                half = len(part) // 2
                first = await some(part[:half])
                try:
                    return [*first, *await some(part[half:])]
                except AwayError as away:
                    if all(isinstance(result, AwayError) for result in first):
                        raise
                    return [*first, *[away] * (len(part) - half)]  # what was answered is not lost
            return [*read(answer, len(part), function)]

        fields = [fields_of(item) async for item in in_turns(items)]
        found = await together(some, parts_of(items, self.at_once(max(fields, default=1))))
        return [result for part in found for result in part]


def _ids(answer: Any, count: int, function: str) -> list[int]:
    ids = [made.id for made in _read(list[_Id], answer, function)]
    if len(ids) != count:
        raise AwayError(f"{function} answered {len(ids)} results for {count}")
    return ids


def _nothing(_answer: Any, count: int, _function: str) -> list[None]:
    return [None] * count


def _blind(function: str, error: RefusedError) -> MisconfiguredError:
    """Whoever may not look up cannot tell who is missing."""
    return MisconfiguredError(f"it does not let the token look up anything by {function} ({error.code})")


def _refused(code: str) -> RefusedError:
    return RefusedError(code, f"Moodle refused the change ({code})")


def _read(shape: type[T], answer: Any, function: str) -> T:
    try:
        return msgspec.convert(answer, shape, strict=False)
    except msgspec.ValidationError as error:
        raise AwayError(f"{function} answered what no Moodle answers: {error}") from None


def parts_of(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in their order, so many at once."""
    return [items[i : i + size] for i in range(0, len(items), size)]


async def together(work: Callable[[Any], Awaitable[T]], parts: Iterable[Any]) -> list[T]:
    """Runs all to their ends, then raises the first error: what was done beside it is not lost."""
    found = await asyncio.gather(*(work(part) for part in parts), return_exceptions=True)
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return [result for result in found if not isinstance(result, BaseException)]
