"""What an administrator of the site can switch, and who may call what."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

SERVICE_FUNCTIONS = (
    "core_webservice_get_site_info",
    "core_user_create_users",
    "core_user_update_users",
    "core_user_delete_users",
    "core_user_get_users_by_field",
    "core_user_get_users",
    "core_course_get_courses_by_field",
    "core_course_get_courses",
    "core_course_create_courses",
    "core_course_update_courses",
    "core_course_create_categories",
    "core_course_get_categories",
    "enrol_manual_enrol_users",
    "enrol_manual_unenrol_users",
    "core_enrol_get_enrolled_users",
    "core_enrol_get_users_courses",
    "core_group_create_groups",
    "core_group_get_course_groups",
    "core_group_add_group_members",
    "core_group_delete_group_members",
    "core_cohort_create_cohorts",
    "core_cohort_add_cohort_members",
)

WIDE_FUNCTIONS = (
    *SERVICE_FUNCTIONS,
    "core_course_get_contents",
    "core_group_get_group_members",
    "core_cohort_get_cohorts",
    "core_cohort_search_cohorts",
    "core_cohort_get_cohort_members",
    "core_cohort_delete_cohort_members",
    "core_course_delete_courses",
    "core_enrol_get_course_enrolment_methods",
    "core_role_assign_roles",
    "core_role_unassign_roles",
    "core_group_delete_groups",
    "core_cohort_delete_cohorts",
    "core_course_delete_categories",
    "core_course_update_categories",
    "core_group_get_groups",
    "core_cohort_update_cohorts",
    "core_group_update_groups",
    "core_enrol_unenrol_user_enrolment",
)

LEAST_PRIVILEGE = frozenset(
    {
        "webservice/rest:use",
        "moodle/user:create",
        "moodle/user:update",
        "moodle/user:delete",
        "moodle/user:viewdetails",
        "moodle/user:viewhiddendetails",
        "moodle/course:create",
        "moodle/course:update",
        "moodle/course:view",
        "moodle/course:viewhiddencourses",
        "moodle/course:visibility",
        "moodle/course:viewparticipants",
        "moodle/course:useremail",
        "moodle/course:managegroups",
        "moodle/course:enrolreview",
        "moodle/category:manage",
        "moodle/category:viewhiddencategories",
        "moodle/role:assign",
        "moodle/cohort:manage",
        "moodle/cohort:view",
        "moodle/cohort:assign",
        "enrol/manual:enrol",
        "enrol/manual:unenrol",
        "enrol/manual:manage",
    }
)
VIEW_ALL_DETAILS = "moodle/user:viewalldetails"

ROLES = {
    1: "manager",
    2: "coursecreator",
    3: "editingteacher",
    4: "teacher",
    5: "student",
    6: "guest",
    7: "user",
    8: "frontpage",
}
COURSE_ROLES = frozenset({1, 3, 4, 5})


class Token(msgspec.Struct, kw_only=True):
    """A token with its user's rights.

    `functions` None means those of the site's service; an IP-restricted token is of no
    use from here.
    """

    value: str
    user_id: int
    admin: bool = False
    capabilities: frozenset[str] = frozenset()
    functions: tuple[str, ...] | None = None
    expired: bool = False
    ip_restricted: bool = False

    def may(self, capability: str) -> bool:
        """Whether the user has the capability; an administrator has all."""
        return self.admin or capability in self.capabilities


class PasswordPolicy(msgspec.Struct, kw_only=True):
    """Moodle's default password policy; `enabled` off accepts anything."""

    enabled: bool = True
    length: int = 8
    digits: int = 1
    lower: int = 1
    upper: int = 1
    special: int = 1

    def complaints(self, password: str) -> str:
        """What is wrong with a password, as the HTML Moodle makes of it; empty if nothing."""
        if not self.enabled:
            return ""
        rules = (
            (len(password), self.length, "Passwords must be at least {} characters long."),
            (len(re.findall(r"\d", password)), self.digits, "Passwords must have at least {} digit(s)."),
            (
                len(re.findall(r"[a-z]", password)),
                self.lower,
                "Passwords must have at least {} lower case letter(s).",
            ),
            (
                len(re.findall(r"[A-Z]", password)),
                self.upper,
                "Passwords must have at least {} upper case letter(s).",
            ),
            (
                len(re.findall(r"[^0-9a-zA-Z]", password)),
                self.special,
                "The password must have at least {} special character(s) such as *, -, or #.",
            ),
        )
        return "".join(f"<div>{text.format(least)}</div>" for count, least, text in rules if count < least)


class Settings(msgspec.Struct, kw_only=True):
    """The switches; any can be changed while the site is up."""

    debug: bool = False
    max_input_vars: int = 5000
    post_max_size: int = 8 * 1024 * 1024
    maintenance: Literal["none", "setting", "cli"] = "none"
    upgrade_running: bool = False
    database_down: bool = False
    webservices_enabled: bool = True
    rest_enabled: bool = True
    service_enabled: bool = True
    functions: tuple[str, ...] = SERVICE_FUNCTIONS
    manual_enrol_enabled: bool = True
    allow_accounts_same_email: bool = False
    extended_username_chars: bool = False
    password_policy: PasswordPolicy = msgspec.field(default_factory=PasswordPolicy)
    assignable_roles: frozenset[int] = frozenset({3, 4, 5})
    sitename: str = "Moodle Test"
    version: str = "2024100706"
    release: str = "4.5.6 (Build: 20250811)"
