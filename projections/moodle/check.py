"""Whether a Moodle is set up as the ledger needs it; nothing is changed by asking.

What a token may do is not to be read anywhere, so it is tried with calls that Moodle must
refuse for another reason: which reason it names tells how far they came.
"""

from __future__ import annotations

import msgspec

from ledger.settings import MoodleSettings
from projections.moodle.client import MOST_FIELDS, MisconfiguredError, MoodleClient, RefusedError
from projections.moodle.site import GUEST, UNSEEN, Site

FUNCTIONS = (
    "core_webservice_get_site_info",
    "core_user_get_users_by_field",
    "core_user_get_users",
    "core_user_create_users",
    "core_user_update_users",
    "core_course_get_courses_by_field",
    "core_enrol_get_enrolled_users",
    "core_enrol_get_users_courses",
    "enrol_manual_enrol_users",
    "enrol_manual_unenrol_users",
)
"""What the token's service must hold; with MOODLE_CREATE_COURSES the next one, too."""
CREATE_COURSES = "core_course_create_courses"

_NOBODY = 2_000_000_000  # an id that no account has
_GUESTS_NAME = "guest"
_LONG = MOST_FIELDS - 10  # values, with room for the other fields


class Finding(msgspec.Struct):
    """One thing that was looked at. `ok` None: it cannot be told."""

    what: str
    ok: bool | None
    detail: str


async def sees_accounts(site: Site) -> bool | None:
    """Whether accounts that are not found are not there. None: no other account is to be seen at
    all, so that it cannot be told. The guest's account is part of every Moodle.
    """
    if await site.users_by("username", [_GUESTS_NAME]):
        return True
    return False if await site.users_by("id", [str(GUEST)]) else None


async def prepare(site: Site) -> int:
    """The self-test before work: the token's own user id. Raises `MisconfiguredError` where the token
    cannot tell who is missing.
    """
    info = await site.info()
    sees = await sees_accounts(site)
    if sees is False:
        raise MisconfiguredError(UNSEEN)
    site.unsure = sees is None
    return int(info.get("userid", 0))


async def check(
    client: MoodleClient, site: Site, settings: MoodleSettings, course_id: int | None
) -> list[Finding]:
    """Everything that can be told. `course_id`: a course of the ledger, where there is one.

    Raises `AwayError`; what is wrong with address or token becomes a finding.
    """
    try:
        info = await site.info()
    except MisconfiguredError as error:
        return [Finding("token", False, str(error))]
    findings = [
        Finding(
            "token", True, f"{info.get('sitename')}, Moodle {info.get('release')}, as {info.get('username')}"
        )
    ]
    own_id = int(info.get("userid", 0))
    has = {function["name"] for function in info.get("functions", ())}
    needed = [*FUNCTIONS, *([CREATE_COURSES] if settings.create_courses else [])]
    missing = [function for function in needed if function not in has]
    findings += [
        Finding("function", False, f"{function} is missing: add it to the token's service")
        for function in missing
    ]
    if not missing:
        findings.append(Finding("functions", True, f"all {len(needed)} are in the token's service"))
    sees = await sees_accounts(site) if "core_user_get_users_by_field" not in missing else None
    findings.append(
        Finding("see accounts", sees, "other accounts are found by username and idnumber" if sees else UNSEEN)
    )
    if "core_user_create_users" not in missing:
        nobody = {"firstname": "-", "lastname": "-", "email": "no address", "createpassword": 1}
        findings.append(
            await _refused(
                client, "make accounts", "moodle/user:create", "core_user_create_users",
                users=[{"username": "sync-ledger-check", **nobody}],
            )
        )  # fmt: skip
    if "core_user_update_users" not in missing:
        findings.append(
            await _refused(
                client,
                "change accounts",
                "moodle/user:update",
                "core_user_update_users",
                users=[{"id": _NOBODY}],
            )
        )
    if "enrol_manual_enrol_users" not in missing:
        findings.append(await _enrolling(client, settings, course_id, own_id))
    if settings.create_courses and CREATE_COURSES not in missing:
        findings.append(await _making_courses(client, settings.category_id))
    if "core_user_get_users_by_field" not in missing:
        findings.append(await _limit(client, own_id))
    return findings


async def _refused(
    client: MoodleClient, what: str, capability: str, function: str, **parameters: object
) -> Finding:
    """Calls what cannot succeed: only a missing capability is refused as such."""
    try:
        await client.call(function, **parameters)
    except RefusedError as error:
        if error.code in ("nopermissions", "requireloginerror"):
            return Finding(what, False, f"not allowed: give the token's role {capability}")
    return Finding(what, True, f"allowed ({capability})")


async def _enrolling(
    client: MoodleClient, settings: MoodleSettings, course_id: int | None, own_id: int
) -> Finding:
    """Tries to enrol the token's user together with nobody, so that Moodle undoes both. Alone, nobody
    would be refused before Moodle looks at the role and the course.
    """
    what = "enrol students"
    if course_id is None:
        return Finding(what, None, "not tried: no class of the ledger has a course in this Moodle yet")
    role = settings.student_role_id
    seats = [{"roleid": role, "userid": user_id, "courseid": course_id} for user_id in (own_id, _NOBODY)]
    try:
        await client.call("enrol_manual_enrol_users", enrolments=seats)
    except RefusedError as error:
        detail = {
            "wsusercannotassign": f"the token's role may not assign role {role}: allow it, or set "
            "MOODLE_STUDENT_ROLE_ID",
            "nopermissions": "not allowed: give the token's role enrol/manual:enrol and enrol/manual:manage",
            "requireloginerror": f"the token's user may not enter course {course_id}",
            "wsnoinstance": f"manual enrolment is switched off in course {course_id}",
        }.get(error.code)
        if detail is not None:
            return Finding(what, False, detail)
    return Finding(what, True, f"allowed (role {role}, tried in course {course_id})")


async def _limit(client: MoodleClient, own_id: int) -> Finding:
    """Whether the last field of a long call arrives."""
    ids = [_NOBODY + number for number in range(_LONG - 1)]
    function = "core_user_get_users_by_field"
    try:
        found = await client.call(function, field="id", values=[*ids, own_id])
    except MisconfiguredError:  # the token, which stands behind them, did not arrive
        found = []
    if found or not own_id:
        return Finding("limits", True, f"calls of {_LONG} values arrive whole")
    return Finding(
        "limits", False,
        f"of {_LONG} form fields some are dropped: raise PHP's max_input_vars to 5000, or lower MOODLE_BATCH",
    )  # fmt: skip


async def _making_courses(client: MoodleClient, category_id: int) -> Finding:
    """Tries to make a course that ends before it begins, which Moodle never makes."""
    what, never = "make courses", {"startdate": 2, "enddate": 1}
    course = {"fullname": "-", "shortname": "sync-ledger-check", "categoryid": category_id, **never}
    try:
        await client.call(CREATE_COURSES, courses=[course])
    except RefusedError as error:
        if error.code in ("nopermissions", "requireloginerror"):
            return Finding(what, False, "not allowed: give the token's role moodle/course:create")
        if error.code in ("errorcatcontextnotvalid", "unknowcategory", "invalidrecord"):
            detail = f"there is no category {category_id} that the token may use: set MOODLE_CATEGORY_ID"
            return Finding(what, False, detail)
    return Finding(what, True, f"allowed (moodle/course:create, category {category_id})")
