"""Recorded calls that are too large to be kept, made again from their description."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tests.moodle.site import Site


class Crowd(msgspec.Struct):
    """Users of whom a large call is about, in a course or for one."""

    course_id: int
    user_ids: list[int]
    idnumbers: list[str]


def enrol_all(crowd: Crowd) -> list[tuple[str, str]]:
    return [
        (f"enrolments[{index}][{key}]", str(value))
        for index, user_id in enumerate(crowd.user_ids)
        for key, value in (("roleid", 5), ("userid", user_id), ("courseid", crowd.course_id))
    ]


def unenrol_all(crowd: Crowd) -> list[tuple[str, str]]:
    return [
        (f"enrolments[{index}][{key}]", str(value))
        for index, user_id in enumerate(crowd.user_ids)
        for key, value in (("userid", user_id), ("courseid", crowd.course_id))
    ]


def group_all(crowd: Crowd) -> list[tuple[str, str]]:
    return [
        (f"members[{index}][{key}]", str(value))
        for index, user_id in enumerate(crowd.user_ids)
        for key, value in (("groupid", 1), ("userid", user_id))
    ]


def look_up_all(crowd: Crowd) -> list[tuple[str, str]]:
    values = [(f"values[{index}]", idnumber) for index, idnumber in enumerate(crowd.idnumbers)]
    return [("field", "idnumber"), *values]


def look_up_strangers_first(crowd: Crowd) -> list[tuple[str, str]]:
    idnumbers = [f"stranger {number}" for number in range(4997)] + crowd.idnumbers
    return look_up_all(Crowd(crowd.course_id, [], idnumbers))


def read_course(crowd: Crowd) -> list[tuple[str, str]]:
    return [("courseid", str(crowd.course_id))]


def read_three_fields(crowd: Crowd) -> list[tuple[str, str]]:
    fields = [("options[0][name]", "userfields"), ("options[0][value]", "id,username,idnumber")]
    return [*read_course(crowd), *fields]


class Large(msgspec.Struct, frozen=True):
    """A recorded call too large to be kept: how it was made, and who was enrolled after it."""

    users: int
    params: Callable[[Crowd], list[tuple[str, str]]]
    enrolled_before: bool = False
    enrolled_after: int | None = None
    control_in_query: bool = False
    max_input_vars: int = 20_000
    post_max_size: int = 8 * 1024 * 1024


LARGE = {
    "large_add_group_members_500": Large(500, group_all, enrolled_before=True),
    "large_batch_2000_enrol": Large(2000, enrol_all, enrolled_after=2000),
    "large_get_enrolled_users_2000_all_fields": Large(2000, read_course, enrolled_before=True),
    "large_get_enrolled_users_2000_three_fields": Large(2000, read_three_fields, enrolled_before=True),
    "large_lookup_2000_idnumbers": Large(2000, look_up_all),
    "large_unenrol_500": Large(500, unenrol_all, enrolled_before=True, enrolled_after=0),
    "limit_max_input_vars_1000_enrol": Large(393, enrol_all, enrolled_after=0, max_input_vars=1000),
    "limit_max_input_vars_1000_lookup": Large(1500, look_up_all, max_input_vars=1000),
    "limit_max_input_vars_1000_unenrol_error": Large(
        700,
        unenrol_all,
        enrolled_before=True,
        enrolled_after=700,
        control_in_query=True,
        max_input_vars=1000,
    ),
    "limit_max_input_vars_5000_enrol_SILENT_PARTIAL": Large(
        1750, enrol_all, enrolled_after=1666, max_input_vars=5000
    ),
    "limit_max_input_vars_5000_lookup": Large(2400, look_up_all, max_input_vars=5000),
    "limit_max_input_vars_5000_lookup_SILENT_PARTIAL": Large(
        400, look_up_strangers_first, max_input_vars=5000
    ),
    "limit_post_max_size_token_in_body": Large(2000, enrol_all, enrolled_after=0, post_max_size=100 * 1024),
    "limit_post_max_size_token_in_query": Large(
        2000, enrol_all, enrolled_after=0, control_in_query=True, post_max_size=100 * 1024
    ),
}


def crowd(site: Site, large: Large, prefix: str) -> Crowd:
    """Users whose idnumbers begin alike, a course and a group in it."""
    course_id = site.add_course()
    numbers = range(large.users)
    user_ids = [site.add_user(idnumber=f"{prefix}-{number}") for number in numbers]
    site.add_group(id=1, courseid=course_id, name="G")
    if large.enrolled_before:
        for user_id in user_ids:
            site.enrol(course_id, user_id)
    return Crowd(course_id, user_ids, [site.user(user_id).idnumber for user_id in user_ids])
