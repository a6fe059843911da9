"""The functions about groups in courses."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.moodle.call import Context, Function
from tests.moodle.errors import failure, invalid_parameter, missing_record
from tests.moodle.shapes import INT, RAW, TEXT, Many, Struct, boolean, maybe
from tests.moodle.tables import Group
from tests.moodle.users import live_user

MANAGE = "moodle/course:managegroups"


def create_groups(context: Context, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of them, or none; name and idnumber are unique in the course."""
    created = []
    for new in groups:
        in_course = _of_course(context, new["courseid"])
        if not new["name"].strip():
            raise invalid_parameter("Invalid group name")
        if any(group.name == new["name"] for group in in_course):
            raise invalid_parameter("Group with the same name already exists in the course")
        context.enter_by_id(new["courseid"])
        context.require(MANAGE)
        if new["idnumber"] and any(group.idnumber == new["idnumber"] for group in in_course):
            raise failure("idnumbertaken", "This ID number is already in use")
        group = Group(id=context.site.next_id("groups"), **new)
        context.tables.groups[group.id] = group
        created.append(msgspec.structs.asdict(group))
    return created


def _of_course(context: Context, course_id: int) -> list[Group]:
    return [group for group in context.tables.groups.values() if group.courseid == course_id]


def get_course_groups(context: Context, courseid: int) -> list[dict[str, Any]]:
    """The groups of a course; the enrolment key is not told."""
    context.enter_by_id(courseid)
    context.require(MANAGE)
    return [_without_key(group) for group in _of_course(context, courseid)]


def _without_key(group: Group) -> dict[str, Any]:
    return {**msgspec.structs.asdict(group), "enrolmentkey": None}


def _managed_group(context: Context, group_id: int) -> Group:
    """A group that the caller may manage."""
    group = _group(context, group_id)
    context.enter_by_id(group.courseid)
    context.require(MANAGE)
    return group


def _group(context: Context, group_id: int) -> Group:
    group = context.tables.groups.get(group_id)
    if group is None:
        raise missing_record("groups", group_id)
    return group


def add_group_members(context: Context, members: list[dict[str, int]]) -> None:
    """All of them, or none; only who is enrolled can be in a group."""
    for new in members:
        group = _group(context, new["groupid"])
        user = live_user(context, new["userid"])
        _managed_group(context, group.id)
        if (group.courseid, user.id) not in context.tables.enrolments:
            raise invalid_parameter("Only enrolled users may be members of groups")
        context.tables.group_members[group.id, user.id] = None


def delete_group_members(context: Context, members: list[dict[str, int]]) -> None:
    """All of them, or none; who is no member is no error."""
    for old in members:
        group = _group(context, old["groupid"])
        user = live_user(context, old["userid"])
        _managed_group(context, group.id)
        context.tables.group_members.pop((group.id, user.id), None)


def get_group_members(context: Context, groupids: list[int]) -> list[dict[str, Any]]:
    """The ids of the members of each group."""
    return [
        {
            "groupid": _managed_group(context, group_id).id,
            "userids": sorted(user_id for key, user_id in context.tables.group_members if key == group_id),
        }
        for group_id in groupids
    ]


NEW_GROUP = Struct(
    {
        "courseid": INT,
        "name": TEXT,
        "description": RAW,
        "descriptionformat": maybe(INT, 1),
        "enrolmentkey": maybe(RAW, ""),
        "idnumber": maybe(RAW, ""),
        "visibility": maybe(INT, 0),
        "participation": boolean(default=True),
    }
)
MEMBERS = Struct({"members": Many(Struct({"groupid": INT, "userid": INT}))})

FUNCTIONS = {
    "core_group_create_groups": Function(
        create_groups, Struct({"groups": Many(NEW_GROUP)}), transaction=True
    ),
    "core_group_get_course_groups": Function(get_course_groups, Struct({"courseid": INT})),
    "core_group_add_group_members": Function(add_group_members, MEMBERS, transaction=True),
    "core_group_delete_group_members": Function(delete_group_members, MEMBERS, transaction=True),
    "core_group_get_group_members": Function(get_group_members, Struct({"groupids": Many(INT)})),
}
