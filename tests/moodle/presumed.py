"""What each recorded exchange presumes of the site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tests.moodle import scenes
from tests.moodle.recordings import Recording
from tests.moodle.scenes import Scene
from tests.moodle.site import Site


class Given(msgspec.Struct, frozen=True):
    """What a recording presumes: rows, other recorded calls made before it, and switches."""

    scene: Scene = scenes.installed
    after: tuple[str, ...] = ()
    settings: dict[str, Any] = {}
    change: Callable[[Site], None] | None = None


def more_rights(site: Site) -> None:
    """The integration user was given moodle/user:viewalldetails."""
    site.tokens["least"].capabilities = site.tokens["sync"].capabilities


def expired(site: Site) -> None:
    site.tokens["admin"].expired = True


def ip_restricted(site: Site) -> None:
    site.tokens["admin"].ip_restricted = True


def manual_disabled_in_courses(site: Site) -> None:
    for course_id in site.tables.courses:
        site.change_course(course_id, manual_enrol=False)


FAMILIES: list[tuple[Given, str]] = [
    (
        Given(),
        """
        create_user_ok
        err_array_instead_of_scalar err_bearer_header_and_json_body err_empty_token err_function_not_in_service
        err_function_unknown err_int_expected err_invalid_token err_json_body_ignored
        err_missing_nested_parameter err_missing_nested_parameter_second_item err_missing_parameter
        err_missing_token err_missing_wsfunction err_no_array_at_all err_no_capability_create_user
        err_scalar_instead_of_array err_unknown_nested_parameter err_unknown_parameter
        err_user_without_rest_capability err_xml_invalid_token err_create_users_empty_batch
        get_users_courses_unknown_user site_info_default_xml site_info_get_method
        site_info_least_privilege_user site_info_ok err_get_users_by_field_no_values
        err_get_users_by_unknown_field err_get_users_no_criteria
        plain_user_lookup_by_email_silently_empty plain_user_lookup_is_silently_empty
        err_get_enrolled_users_unknown_course err_get_course_groups_unknown_course
        get_course_by_id_unknown err_get_course_bad_field
        """,
    ),
    (
        Given(scenes.students),
        """
        create_users_batch_ok create_user_name_with_lone_lt_accepted create_user_unicode_ok
        create_user_createpassword_ok create_user_auth_oauth2_no_password_ok create_user_auth_nologin_ok
        create_user_no_idnumber_ok create_user_duplicate_idnumber_allowed
        create_user_username_allowed_punctuation create_user_unknown_country_accepted
        create_user_customfield_unknown_ignored create_users_sparse_indices
        err_create_user_blank_firstname err_create_user_blank_space_lastname err_create_user_duplicate_email
        err_create_user_duplicate_email_other_case err_create_user_duplicate_username
        err_create_user_email_101_chars err_create_user_empty_email err_create_user_firstname_101_chars
        err_create_user_idnumber_256_chars err_create_user_invalid_email err_create_user_name_with_tags
        err_create_user_no_password err_create_user_unknown_auth err_create_user_unknown_lang
        err_create_user_uppercase_username err_create_user_username_101_chars
        err_create_user_username_accent err_create_user_username_bad_chars err_create_user_weak_password
        err_create_users_batch_same_email_twice err_create_users_batch_same_username_twice
        err_create_users_batch_second_bad
        delete_user_ok err_delete_user_admin err_delete_user_unknown err_delete_users_batch_one_bad
        err_get_users_by_id_not_number err_get_users_by_username_bad_chars err_get_users_by_username_upper
        err_get_users_same_key_twice err_update_user_missing_id err_update_user_uppercase_username
        err_update_user_weak_password err_update_users_batch_weak_password_hides_result
        get_user_by_duplicate_idnumber get_user_unicode
        get_users_by_email_least_privilege get_users_by_email_ok get_users_by_email_other_case
        get_users_by_id_ok get_users_by_idnumber_empty_value get_users_by_idnumber_least_privilege
        get_users_by_idnumber_many_some_unknown get_users_by_idnumber_unknown
        get_users_by_username_least_privilege get_users_by_username_ok
        get_users_criteria_email_exact_ci get_users_criteria_email_wildcard get_users_criteria_empty_value
        get_users_criteria_idnumber get_users_criteria_invalid_key_returns_all get_users_criteria_two_keys
        get_users_criteria_unknown_idnumber plain_user_lookup_by_idnumber
        update_user_blank_firstname update_user_duplicate_email update_user_idnumber
        update_user_invalid_email update_user_no_change_ok update_user_ok update_user_restore_name
        update_user_suspend update_user_unknown_id update_user_unsuspend update_user_username_taken
        update_users_batch_one_bad
        """,
    ),
    (
        Given(scenes.students_one_deleted),
        "recreate_deleted_username_ok update_deleted_user err_delete_user_twice",
    ),
    (Given(scenes.students, after=("delete_user_ok",)), "get_deleted_user_by_id"),
    (
        Given(scenes.students, after=("create_user_unknown_country_accepted",)),
        "get_user_unknown_country",
    ),
    (
        Given(scenes.students, after=("err_create_users_batch_second_bad",)),
        "after_bad_batch_none_created",
    ),
    (
        Given(
            scenes.students,
            after=("err_create_users_batch_same_username_twice", "err_create_users_batch_same_email_twice"),
        ),
        "after_bad_batch_none_created_2",
    ),
    (Given(scenes.students, after=("err_delete_users_batch_one_bad",)), "after_bad_delete_batch"),
    (
        Given(scenes.students, after=("update_user_ok", "update_users_batch_one_bad")),
        "after_update_batch_one_bad",
    ),
    (
        Given(
            scenes.students,
            after=("update_user_ok", "err_update_users_batch_weak_password_hides_result"),
        ),
        "after_update_batch_weak_password",
    ),
    (
        Given(
            scenes.students,
            after=(
                "update_user_idnumber",
                "update_user_suspend",
                "err_update_users_batch_weak_password_hides_result",
            ),
        ),
        "get_suspended_user",
    ),
    (
        Given(scenes.categories),
        """
        create_category_child_ok create_category_duplicate_name_allowed create_category_ok
        err_create_categories_batch_one_bad err_create_category_blank_name
        err_create_category_duplicate_idnumber err_create_category_unknown_parent
        err_get_categories_bad_key get_categories_all_no_criteria get_categories_by_idnumber
        get_categories_by_idnumber_with_children get_categories_unknown_idnumber
        """,
    ),
    (
        Given(scenes.categories, after=("err_create_categories_batch_one_bad",)),
        "after_bad_category_batch",
    ),
    (
        Given(scenes.courses),
        """
        create_course_no_idnumber_ok create_course_no_idnumber_second_ok create_course_ok
        create_course_shortname_other_case create_course_unknown_format_accepted create_courses_batch_ok
        err_create_course_blank_fullname err_create_course_category_zero err_create_course_duplicate_idnumber
        err_create_course_duplicate_shortname err_create_course_end_before_start
        err_create_course_fullname_too_long err_create_course_idnumber_101
        err_create_course_missing_shortname err_create_course_shortname_256
        err_create_course_unknown_category err_create_courses_batch_one_bad
        delete_course_ok delete_course_unknown delete_courses_batch_one_bad
        get_course_by_idnumber_empty get_course_by_idnumber_ok get_course_by_idnumber_unknown
        get_course_by_shortname_ok get_course_enrolment_methods get_course_hidden_least_privilege
        get_course_hidden_plain get_course_visible_plain_has_no_idnumber get_courses_all
        get_courses_by_category get_courses_by_ids get_courses_by_ids_all_known get_courses_by_ids_option
        get_courses_unknown_id_ignored
        update_course_blank_fullname update_course_duplicate_idnumber update_course_duplicate_shortname
        update_course_end_before_start update_course_hide update_course_ok update_course_show
        update_course_unknown_category update_course_unknown_id update_courses_batch_one_bad
        """,
    ),
    (Given(scenes.courses, after=("err_create_courses_batch_one_bad",)), "after_bad_course_batch"),
    (
        Given(scenes.courses, after=("update_course_ok", "update_courses_batch_one_bad")),
        "after_update_courses_batch",
    ),
    (
        Given(scenes.participants),
        """
        enrol_batch_ok enrol_hidden_course_ok enrol_least_privilege_ok enrol_ok
        enrol_same_user_twice_in_batch_ok enrol_suspended_account_ok enrol_timeend_in_past_ok
        err_enrol_batch_one_bad err_enrol_deleted_user err_enrol_front_page_course err_enrol_guest_user
        err_enrol_least_privilege_role_not_allowed err_enrol_missing_role err_enrol_plain_user_no_access
        err_enrol_role_not_assignable_in_course err_enrol_unknown_course err_enrol_unknown_role
        err_enrol_unknown_user err_unenrol_deleted_user err_unenrol_unknown_course err_unenrol_unknown_user
        get_enrolled_users_empty_course get_users_courses_none unenrol_never_enrolled_ok
        unenrol_not_enrolled_ok get_course_groups_none
        """,
    ),
    (
        Given(scenes.participants, after=("enrol_ok",)),
        "enrol_second_role_adds_role enrol_twice_ok_idempotent",
    ),
    (
        Given(scenes.enrolled, after=("enrol_suspended_user_again_without_suspend_reactivates",)),
        "enrol_suspend_existing",
    ),
    (Given(scenes.without_course), "err_enrol_deleted_course"),
    (
        Given(scenes.enrolled),
        """
        enrol_suspended_user_again_without_suspend_reactivates
        enrol_without_times_clears_times get_enrolled_users_ok get_users_courses_ok
        get_users_courses_suspended_enrolment unenrol_ok unenrol_suspended_account_ok
        unenrol_with_roleid_removes_all_roles
        """,
    ),
    (
        Given(scenes.enrolled, after=("enrol_without_times_clears_times",)),
        """
        get_enrolled_users_onlyactive get_enrolled_users_onlysuspended get_enrolled_users_page
        get_enrolled_users_unknown_option_ignored
        """,
    ),
    (
        Given(scenes.enrolled, after=("enrol_suspended_account_ok", "err_enrol_batch_one_bad")),
        "after_bad_enrol_batch",
    ),
    (
        Given(scenes.before_deletion, after=("err_unenrol_batch_one_bad", "(delete a participant)")),
        "user_deleted_enrolments_gone",
    ),
    (Given(scenes.before_deletion), "err_unenrol_batch_one_bad"),
    (Given(scenes.nameless), "get_enrolled_users_roles_groups"),
    (
        Given(scenes.participants, settings={"manual_enrol_enabled": False}),
        "err_enrol_manual_plugin_disabled",
    ),
    (
        Given(scenes.participants, change=manual_disabled_in_courses),
        "err_enrol_manual_instance_disabled_in_course",
    ),
    (
        Given(scenes.grouped),
        """
        create_group_ok create_groups_batch_ok err_create_group_duplicate_idnumber
        err_create_group_duplicate_name err_create_group_missing_description
        err_create_group_unknown_course err_create_groups_batch_one_bad
        add_group_member_ok add_group_member_suspended_enrolment_ok err_add_group_member_not_enrolled
        err_add_group_member_unknown_group err_add_group_member_unknown_user
        err_add_group_members_batch_one_bad err_delete_group_member_unknown_group
        err_delete_group_member_unknown_user delete_group_member_not_member_ok
        """,
    ),
    (Given(scenes.grouped, after=("err_create_groups_batch_one_bad",)), "get_course_groups_ok"),
    (Given(scenes.group_members), "add_group_member_twice_ok delete_group_member_ok"),
    (
        Given(scenes.group_members, after=("err_add_group_members_batch_one_bad",)),
        "get_group_members",
    ),
    (Given(scenes.group_members, after=("(unenrol a group member)",)), "group_members_after_unenrol"),
    (
        Given(scenes.group_members, after=("(unenrol a group member)", "enrol_without_times_clears_times")),
        "group_members_after_reenrol",
    ),
    (
        Given(scenes.cohorts),
        """
        create_cohort_empty_idnumber create_cohort_in_category_by_idnumber_ok create_cohort_ok
        err_create_cohort_duplicate_idnumber err_create_cohort_empty_idnumber_second
        err_create_cohort_missing_idnumber err_create_cohort_unknown_category
        err_create_cohorts_batch_one_bad add_cohort_member_by_idnumber_username_ok
        add_cohort_member_by_ids_ok add_cohort_member_unknown_cohort add_cohort_member_unknown_user
        add_cohort_member_user_by_idnumber_unsupported add_cohort_members_batch_one_bad
        get_cohorts_all search_cohorts delete_cohort_member_not_member
        """,
    ),
    (
        Given(scenes.cohorts, after=("add_cohort_member_by_idnumber_username_ok",)),
        "add_cohort_member_twice delete_cohort_member_ok",
    ),
    (
        Given(
            scenes.cohorts,
            after=(
                "add_cohort_member_by_idnumber_username_ok",
                "add_cohort_member_by_ids_ok",
                "add_cohort_members_batch_one_bad",
            ),
        ),
        "get_cohort_members",
    ),
    (
        Given(scenes.racers),
        """
        least_privilege_create_course least_privilege_create_group least_privilege_create_user
        least_privilege_create_cohort least_privilege_get_enrolled_users after_database_back
        pending_upgrade_enrol pending_upgrade_lookup
        """,
    ),
    (Given(scenes.racers, after=("least_privilege_create_user",)), "least_privilege_delete_user"),
    (
        Given(scenes.racers, change=more_rights),
        """
        least_privilege_with_viewalldetails_by_idnumber least_privilege_with_viewalldetails_by_username
        """,
    ),
    (Given(settings={"version": "2024100705"}), "pending_upgrade_site_info"),
    (
        Given(scenes.racers, settings={"debug": True}),
        """
        debug_on_err_create_user_duplicate_email debug_on_err_create_user_duplicate_username
        debug_on_err_create_user_invalid_email debug_on_err_create_user_missing_lastname
        debug_on_err_create_user_uppercase_username debug_on_err_enrol_unknown_course
        debug_on_err_enrol_unknown_user debug_on_err_function_not_in_service
        debug_on_err_group_same_name debug_on_err_unknown_parameter debug_on_err_username_101
        """,
    ),
    (
        Given(scenes.racers, settings={"allow_accounts_same_email": True}),
        "create_user_same_email_when_site_allows",
    ),
    (
        Given(scenes.racers, settings={"extended_username_chars": True}),
        "create_user_extended_username_chars_setting",
    ),
    (Given(settings={"maintenance": "cli"}), "err_cli_maintenance"),
    (
        Given(settings={"maintenance": "setting"}),
        "err_maintenance_setting_normal_token maintenance_setting_admin_token_still_works",
    ),
    (Given(settings={"database_down": True}), "err_database_down"),
    (Given(settings={"upgrade_running": True}), "err_upgrade_running"),
    (Given(settings={"rest_enabled": False}), "err_rest_protocol_disabled"),
    (Given(settings={"webservices_enabled": False}), "err_webservices_disabled"),
    (Given(settings={"service_enabled": False}), "err_service_disabled"),
    (Given(change=expired), "err_token_expired_first"),
    (Given(change=expired, after=("err_token_expired_first",)), "err_token_expired_second"),
    (Given(change=ip_restricted), "err_token_ip_restricted"),
]
GIVEN = {name: given for given, names in FAMILIES for name in names.split()}

# calls made between recorded ones, which were not recorded themselves
UNRECORDED = {
    "(unenrol a group member)": Recording(
        name="(unenrol a group member)",
        wsfunction="enrol_manual_unenrol_users",
        params={"enrolments[0][userid]": "7", "enrolments[0][courseid]": "2"},
        response=None,
        http_status=200,
        token_kind="sync",
    ),
    "(delete a participant)": Recording(
        name="(delete a participant)",
        wsfunction="core_user_delete_users",
        params={"userids[0]": "13"},
        response=None,
        http_status=200,
        token_kind="sync",
    ),
}
