"""The functions about who is in which course."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tests.moodle.call import Context, Function
from tests.moodle.courses import existing_course, image_url
from tests.moodle.errors import failure, invalid_parameter, invalid_user, lacks
from tests.moodle.settings import COURSE_ROLES, ROLES
from tests.moodle.shapes import INT, PLUGIN, RAW, Many, Struct, boolean, maybe, number
from tests.moodle.tables import GUEST, Course, Enrolment, User
from tests.moodle.users import details

# enrol and unenrol


def enrol_users(context: Context, enrolments: list[dict[str, Any]]) -> None:
    """All of them, or none; status and times are written each time, roles only ever added."""
    enrolled = context.tables.enrolments
    for new in enrolments:
        course = context.tables.courses.get(new["courseid"])
        if course is None:
            raise invalid_parameter("Context does not exist")
        context.enter(course)
        context.require("enrol/manual:enrol")
        user = _enrollable(context, new["userid"])
        if new["roleid"] not in _assignable(context):
            raise failure(
                "wsusercannotassign",
                f"You don't have the permission to assign this role ({new['roleid']}) "
                f"to this user ({user.id}) in this course ({course.id}).",
            )
        _require_manual(context, course)
        old = enrolled.get((course.id, user.id))
        roles = {*(old.roles if old else ()), new["roleid"]}
        enrolled[course.id, user.id] = Enrolment(
            suspended=bool(new["suspend"]),
            timestart=new["timestart"],
            timeend=new["timeend"],
            roles=tuple(sorted(roles)),
        )


def _enrollable(context: Context, user_id: int) -> User:
    user = context.tables.users.get(user_id)
    if user is None:
        raise invalid_user(user_id)
    if user.deleted:
        raise failure("userdeleted")
    if user.id == GUEST:
        raise failure("guestsarenotallowed", "The guest user is not allowed to do this")
    return user


def _assignable(context: Context) -> frozenset[int]:
    return COURSE_ROLES if context.caller.admin else context.site.settings.assignable_roles


def _require_manual(context: Context, course: Course) -> None:
    if not (course.manual_enrol and context.site.settings.manual_enrol_enabled):
        raise failure(
            "wsnoinstance",
            "Manual enrolment plugin instance doesn't exist or is disabled "
            f"for the course (id = {course.id})",
        )


def unenrol_users(context: Context, enrolments: list[dict[str, Any]]) -> None:
    """All of them, or none; the role is ignored, and group memberships go with the enrolment."""
    tables = context.tables
    for old in enrolments:
        course = existing_course(context, old["courseid"])
        context.enter(course)
        context.require("enrol/manual:unenrol")
        _require_manual(context, course)
        user = _enrollable(context, old["userid"])
        if tables.enrolments.pop((course.id, user.id), None) is not None:
            for group in tables.groups.values():
                if group.courseid == course.id:
                    tables.group_members.pop((group.id, user.id), None)


# look-ups


class Options:
    """The options of get_enrolled_users; those that Moodle does not know are ignored."""

    def __init__(self, options: list[dict[str, str]]) -> None:
        given = {option["name"]: option["value"] for option in options}
        self.only_active = given.get("onlyactive", "0") != "0"
        self.only_suspended = given.get("onlysuspended", "0") != "0"
        self.group_id = number(given.get("groupid", ""))
        self.limit_from = number(given.get("limitfrom", ""))
        self.limit_number = number(given.get("limitnumber", ""))
        fields = given.get("userfields", "")
        self.user_fields = frozenset(fields.split(",")) if fields else None

    def page(self, rows: list[int]) -> list[int]:
        """The rows of the page that was asked for."""
        end = self.limit_from + self.limit_number if self.limit_number else None
        return rows[self.limit_from : end]


def get_enrolled_users(
    context: Context, courseid: int, options: list[dict[str, str]]
) -> list[dict[str, Any]]:
    """Who is enrolled, by id; the suspended too unless told otherwise."""
    course = existing_course(context, courseid)
    context.enter_by_id(courseid)
    if not (context.may("moodle/course:viewparticipants") or context.may("moodle/course:update")):
        raise lacks("moodle/course:viewparticipants")
    wanted = Options(options)
    if wanted.only_active and wanted.only_suspended:
        raise failure("onlyactiveoronlysuspended", "The two filters exclude each other")
    now = context.site.now()
    found = sorted(
        user_id
        for (course_id, user_id), enrolment in context.tables.enrolments.items()
        if course_id == course.id
        and (not wanted.only_active or enrolment.active(now))
        and (not wanted.only_suspended or not enrolment.active(now))
        and (not wanted.group_id or (wanted.group_id, user_id) in context.tables.group_members)
    )
    page = wanted.page(found)
    roster = Roster(context, course, page)
    rows = [roster.row(user_id) for user_id in page]
    if wanted.user_fields is None:
        return rows
    fields = wanted.user_fields | {"id", "fullname"}
    return [{key: row[key] for key in row if key in fields} for row in rows]


ONLY_IN_PROFILE = ("auth", "suspended", "confirmed", "lang", "theme", "timezone", "mailformat", "trackforums")


class Roster:
    """Who is in a course, with their roles and groups there."""

    def __init__(self, context: Context, course: Course, user_ids: list[int]) -> None:
        self._context = context
        self._course = course
        self._groups = [group for group in context.tables.groups.values() if group.courseid == course.id]
        self._courses = active_courses(context, set(user_ids))

    def row(self, user_id: int) -> dict[str, Any]:
        """A user as the caller sees them in the course."""
        tables = self._context.tables
        row = details(self._context, tables.users[user_id])
        for key in ONLY_IN_PROFILE:
            row.pop(key, None)
        row["lastcourseaccess"] = 0
        if groups := self._groups_of(user_id):
            row["groups"] = groups
        row["roles"] = [
            {"roleid": role_id, "name": "", "shortname": ROLES[role_id], "sortorder": 0}
            for role_id in tables.enrolments[self._course.id, user_id].roles
        ]
        if courses := self._courses[user_id]:
            row["enrolledcourses"] = [
                {"id": course.id, "fullname": course.fullname, "shortname": course.shortname}
                for course in courses
            ]
        return row

    def _groups_of(self, user_id: int) -> list[dict[str, Any]]:
        return [
            {
                "id": group.id,
                "name": group.name,
                "description": group.description,
                "descriptionformat": group.descriptionformat,
            }
            for group in self._groups
            if (group.id, user_id) in self._context.tables.group_members
        ]


def active_courses(context: Context, user_ids: set[int]) -> defaultdict[int, list[Course]]:
    """By user, the courses that they can enter."""
    now = context.site.now()
    courses = defaultdict(list)
    for (course_id, user_id), enrolment in context.tables.enrolments.items():
        if user_id in user_ids and enrolment.active(now):
            courses[user_id].append(context.tables.courses[course_id])
    return courses


def get_users_courses(context: Context, userid: int, returnusercount: bool) -> list[dict[str, Any]]:
    """The courses in which a user is active; none for a user who does not exist."""
    if userid != context.caller.user_id and not context.may("moodle/course:viewparticipants"):
        return []
    courses = active_courses(context, {userid})[userid]
    return [_user_course(context, course, count=returnusercount) for course in courses]


def _user_course(context: Context, course: Course, *, count: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": course.id,
        "shortname": course.shortname,
        "fullname": course.fullname,
        "displayname": course.fullname,
        "idnumber": course.idnumber,
        "visible": course.visible,
        "summary": course.summary,
        "summaryformat": course.summaryformat,
        "format": course.format,
        "courseimage": image_url(context, course),
        "showgrades": bool(course.showgrades),
        "lang": course.lang,
        "enablecompletion": bool(course.enablecompletion),
        "completionhascriteria": False,
        "completionusertracked": True,
        "category": course.categoryid,
        "progress": None,
        "completed": False,
        "startdate": course.startdate,
        "enddate": course.enddate,
        "marker": 0,
        "lastaccess": None,
        "isfavourite": False,
        "hidden": False,
        "overviewfiles": [],
        "showactivitydates": True,
        "showcompletionconditions": True,
        "timemodified": course.timemodified,
    }
    if count:
        shown["enrolledusercount"] = sum(course_id == course.id for course_id, _ in context.tables.enrolments)
    return shown


def get_course_enrolment_methods(context: Context, courseid: int) -> list[dict[str, Any]]:
    """The ways in that an outsider can use; the manual one is none."""
    existing_course(context, courseid)
    return []


ENROLMENT = Struct(
    {
        "roleid": INT,
        "userid": INT,
        "courseid": INT,
        "timestart": maybe(INT, 0),
        "timeend": maybe(INT, 0),
        "suspend": maybe(INT, 0),
    }
)
UNENROLMENT = Struct({"userid": INT, "courseid": INT, "roleid": maybe(INT)})
OPTION = Struct({"name": PLUGIN, "value": RAW})

FUNCTIONS = {
    "enrol_manual_enrol_users": Function(
        enrol_users, Struct({"enrolments": Many(ENROLMENT)}), transaction=True
    ),
    "enrol_manual_unenrol_users": Function(
        unenrol_users, Struct({"enrolments": Many(UNENROLMENT)}), transaction=True
    ),
    "core_enrol_get_enrolled_users": Function(
        get_enrolled_users, Struct({"courseid": INT, "options": Many(OPTION, optional=True)})
    ),
    "core_enrol_get_users_courses": Function(
        get_users_courses, Struct({"userid": INT, "returnusercount": boolean(default=True)})
    ),
    "core_enrol_get_course_enrolment_methods": Function(
        get_course_enrolment_methods, Struct({"courseid": INT})
    ),
}
