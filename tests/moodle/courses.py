"""The functions about courses and their categories."""

from __future__ import annotations

from typing import Any

import msgspec

from tests.moodle.call import Context, Function
from tests.moodle.errors import MoodleError, failure, invalid_parameter, missing_record
from tests.moodle.shapes import INT, PLUGIN, RAW, TEXT, Many, Shape, Struct, boolean, maybe, number
from tests.moodle.tables import SITE_COURSE, Category, Course
from tests.moodle.users import check_lengths

LIMITS = {"fullname": 254, "shortname": 255, "idnumber": 100}
DAY = 86_400
COLUMNS = frozenset(Course.__struct_fields__)

OPTIONAL_FIELDS: dict[str, Shape] = {
    "idnumber": maybe(RAW),
    "summary": maybe(RAW),
    "summaryformat": maybe(INT),
    "format": maybe(PLUGIN),
    "showgrades": maybe(INT),
    "newsitems": maybe(INT),
    "startdate": maybe(INT),
    "enddate": maybe(INT),
    "numsections": maybe(INT),
    "maxbytes": maybe(INT),
    "showreports": maybe(INT),
    "visible": maybe(INT),
    "hiddensections": maybe(INT),
    "groupmode": maybe(INT),
    "groupmodeforce": maybe(INT),
    "defaultgroupingid": maybe(INT),
    "enablecompletion": maybe(INT),
    "completionnotify": maybe(INT),
    "lang": maybe(PLUGIN),
    "forcetheme": maybe(PLUGIN),
    "courseformatoptions": Many(Struct({"name": PLUGIN, "value": RAW}), optional=True),
    "customfields": Many(Struct({"shortname": PLUGIN, "value": RAW}), optional=True),
}
NEW_COURSE = Struct({**OPTIONAL_FIELDS, "fullname": TEXT, "shortname": TEXT, "categoryid": INT})
CHANGED_COURSE = Struct(
    {
        **OPTIONAL_FIELDS,
        "id": INT,
        "fullname": maybe(TEXT),
        "shortname": maybe(TEXT),
        "categoryid": maybe(INT),
    }
)

# courses


def create_courses(context: Context, courses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of them, or none."""
    created = []
    for new in courses:
        if new["categoryid"] not in context.tables.categories:
            raise failure(
                "errorcatcontextnotvalid",
                "You cannot execute functions in the category context "
                f"(category id:{new['categoryid']}). "
                "The context error message was: Invalid parameter value detected",
            )
        context.require("moodle/course:create")
        _check_names(new)
        now = context.site.now()
        start = new.get("startdate", now // DAY * DAY)
        dates = {"startdate": start, "enddate": new.get("enddate", start + 365 * DAY)}
        course = Course(
            id=context.site.next_id("courses"),
            **_columns({**new, **dates}),
            timecreated=now,
            timemodified=now,
        )
        _check_row(context, course)
        context.tables.courses[course.id] = course
        created.append({"id": course.id, "shortname": course.shortname})
    return created


def _columns(given: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key in COLUMNS}


def _check_names(given: dict[str, Any]) -> None:
    for key in ("fullname", "shortname"):
        if key in given and not given[key].strip():
            raise failure("errorinvalidparam", f'The param "{key}" is invalid.')


def _check_row(context: Context, course: Course) -> None:
    """What Moodle checks of a course as it would be, and what its database refuses."""
    others = [other for other in context.tables.courses.values() if other.id != course.id]
    if any(other.shortname == course.shortname for other in others):
        raise failure("shortnametaken", f"Short name is already used for another course ({course.shortname})")
    if course.idnumber and any(other.idnumber == course.idnumber for other in others):
        raise failure(
            "courseidnumbertaken", f"ID number is already used for another course ({course.idnumber})"
        )
    if course.enddate and course.enddate <= course.startdate:
        raise failure("enddatebeforestartdate", "The course end date must be after the start date.")
    check_lengths(LIMITS, msgspec.structs.asdict(course))


def update_courses(context: Context, courses: list[dict[str, Any]]) -> dict[str, Any]:
    """Each by itself: what fails becomes a warning, and the others are changed."""
    warnings = []
    for change in courses:
        try:
            _update(context, change)
        except MoodleError as error:
            warnings.append(_warning(change["id"], error))
    return {"warnings": warnings}


def _update(context: Context, change: dict[str, Any]) -> None:
    course = existing_course(context, change["id"])
    context.enter_by_id(course.id)
    context.require("moodle/course:update")
    if change.get("categoryid", course.categoryid) not in context.tables.categories:
        raise missing_record("course_categories", change["categoryid"])
    _check_names(change)
    changed = msgspec.structs.replace(course, **_columns(change), timemodified=context.site.now())
    _check_row(context, changed)
    context.tables.courses[course.id] = changed


def _warning(course_id: int, error: MoodleError) -> dict[str, Any]:
    return {
        "item": "course",
        "itemid": course_id,
        "warningcode": error.errorcode or "",
        "message": error.message,
    }


def existing_course(context: Context, course_id: int) -> Course:
    """A course that has to be there."""
    course = context.tables.courses.get(course_id)
    if course is None:
        raise missing_record("course", course_id)
    return course


def delete_courses(context: Context, courseids: list[int]) -> dict[str, Any]:
    """Each by itself."""
    warnings = []
    for course_id in courseids:
        try:
            _delete(context, course_id)
        except MoodleError as error:
            warnings.append(_warning(course_id, error))
    return {"warnings": warnings}


def _delete(context: Context, course_id: int) -> None:
    tables = context.tables
    if course_id not in tables.courses or course_id == SITE_COURSE:
        raise failure("unknowncourseidnumber", f"Unknown course ID {course_id}")
    if not context.may("moodle/course:delete"):
        raise failure("cannotdeletecourse", "You do not have the permission to delete this course")
    del tables.courses[course_id]
    for key in [key for key in tables.enrolments if key[0] == course_id]:
        del tables.enrolments[key]
    for group in [group for group in tables.groups.values() if group.courseid == course_id]:
        for key in [key for key in tables.group_members if key[0] == group.id]:
            del tables.group_members[key]
        del tables.groups[group.id]


def get_courses_by_field(context: Context, field: str, value: str) -> dict[str, Any]:
    """Courses by one field; those that the caller may not see are silently left out."""
    courses = context.tables.courses
    match field:
        case "":
            found = list(courses.values())
        case "id":
            found = [course for course in courses.values() if str(course.id) == value]
        case "ids":
            found = _by_ids(context, value)
        case "shortname" | "idnumber":
            found = [course for course in courses.values() if getattr(course, field) == value]
        case "category":
            found = [course for course in courses.values() if str(course.categoryid) == value]
        case _:
            raise invalid_parameter("Invalid field name")
    shown = [
        _full(context, course) if context.may("moodle/course:update") else _public(context, course)
        for course in sorted(found, key=lambda course: course.id)
        if course.visible or context.may("moodle/course:viewhiddencourses")
    ]
    return {"courses": shown, "warnings": []}


def _by_ids(context: Context, value: str) -> list[Course]:
    """The courses of a list of ids; Moodle 4.5 stumbles over one that it does not know."""
    found = [context.tables.courses.get(number(part)) for part in value.split(",")]
    known = [course for course in found if course is not None]
    if len(known) < len(found):
        raise MoodleError("Error", None, 'Attempt to assign property "contextvalidated" on null')
    return known


def _public(context: Context, course: Course) -> dict[str, Any]:
    """What everybody sees of a course."""
    site = context.site
    category = context.tables.categories.get(course.categoryid)
    ordinary = course.id != SITE_COURSE
    return {
        "id": course.id,
        "fullname": course.fullname,
        "displayname": course.fullname,
        "shortname": course.shortname,
        "courseimage": image_url(context, course),
        "categoryid": course.categoryid,
        "categoryname": category.name if category else "",
        "sortorder": sort_order(context, course),
        "summary": course.summary,
        "summaryformat": course.summaryformat,
        "summaryfiles": [],
        "overviewfiles": [],
        "showactivitydates": ordinary,
        "showcompletionconditions": True if ordinary else None,
        "contacts": [],
        "enrollmentmethods": ["manual"] if course.manual_enrol and site.settings.manual_enrol_enabled else [],
    }


def _full(context: Context, course: Course) -> dict[str, Any]:
    """What those see who may change the course."""
    shown = _public(context, course) | {
        "idnumber": course.idnumber,
        "format": course.format,
        "showgrades": course.showgrades,
        "newsitems": course.newsitems,
        "startdate": course.startdate,
        "enddate": course.enddate,
        "maxbytes": course.maxbytes,
        "showreports": course.showreports,
        "visible": course.visible,
        "groupmode": course.groupmode,
        "groupmodeforce": course.groupmodeforce,
        "defaultgroupingid": course.defaultgroupingid,
        "enablecompletion": course.enablecompletion,
        "completionnotify": course.completionnotify,
        "lang": course.lang,
        "theme": course.theme,
        "marker": 0,
        "legacyfiles": 0,
        "calendartype": "",
        "timecreated": course.timecreated,
        "timemodified": course.timemodified,
        "requested": 0,
        "cacherev": course.timemodified,
        "filters": [{"filter": name, "localstate": 0, "inheritedstate": 1} for name in FILTERS],
    }
    if course.id != SITE_COURSE:
        shown["courseformatoptions"] = [*_format_options(course), {"name": "indentation", "value": "1"}]
    return shown


FILTERS = ("displayh5p", "activitynames", "mathjaxloader", "emoticon", "urltolink", "mediaplugin")


def _format_options(course: Course) -> list[dict[str, Any]]:
    if course.id == SITE_COURSE:
        return [{"name": "numsections", "value": course.numsections}]
    return [
        {"name": "hiddensections", "value": course.hiddensections},
        {"name": "coursedisplay", "value": 0},
    ]


def image_url(context: Context, course: Course) -> str:
    """The picture that Moodle makes for a course without one."""
    return f"{context.site.url}/pluginfile.php/{course.id + 26}/course/generated/course.svg"


def sort_order(context: Context, course: Course) -> int:
    """A new course comes first in its category."""
    category = context.tables.categories.get(course.categoryid)
    if category is None:
        return 1
    newer = sum(
        other.categoryid == course.categoryid and other.id >= course.id
        for other in context.tables.courses.values()
    )
    return category_order(context, category) + newer


def category_order(context: Context, category: Category) -> int:
    """Categories are numbered down the tree, with room for their courses."""
    others = context.tables.categories.values()
    return 10_000 * sum(_numbers(other) <= _numbers(category) for other in others)


def _numbers(category: Category) -> list[int]:
    return [int(part) for part in category.path.split("/")[1:]]


def get_courses(context: Context, options: dict[str, list[int]] | None = None) -> list[dict[str, Any]]:
    """All courses, or those of some ids; unknown ones are left out."""
    courses = context.tables.courses
    ids = sorted(courses) if not options else [key for key in options["ids"] if key in courses]
    return [_listed(context, courses[key]) for key in ids if _may_list(context, courses[key])]


def _may_list(context: Context, course: Course) -> bool:
    context.enter(course)
    return bool(course.visible) or context.may("moodle/course:viewhiddencourses")


def _listed(context: Context, course: Course) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": course.id,
        "shortname": course.shortname,
        "categoryid": course.categoryid,
        "categorysortorder": sort_order(context, course),
        "fullname": course.fullname,
        "displayname": course.fullname,
        "idnumber": course.idnumber,
        "summary": course.summary,
        "summaryformat": course.summaryformat,
        "format": course.format,
        "showgrades": course.showgrades,
        "newsitems": course.newsitems,
        "startdate": course.startdate,
        "enddate": course.enddate,
        "numsections": course.numsections,
        "maxbytes": course.maxbytes,
        "showreports": course.showreports,
        "visible": course.visible,
    }
    if course.id != SITE_COURSE:
        shown["hiddensections"] = course.hiddensections
    return shown | {
        "groupmode": course.groupmode,
        "groupmodeforce": course.groupmodeforce,
        "defaultgroupingid": course.defaultgroupingid,
        "timecreated": course.timecreated,
        "timemodified": course.timemodified,
        "enablecompletion": course.enablecompletion,
        "completionnotify": course.completionnotify,
        "lang": course.lang,
        "forcetheme": course.theme,
        "courseformatoptions": _format_options(course),
        "showactivitydates": course.id != SITE_COURSE,
        "showcompletionconditions": True if course.id != SITE_COURSE else None,
    }


# categories


def create_categories(context: Context, categories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of them, or none; names may repeat."""
    created = []
    for new in categories:
        parent = new["parent"]
        if parent and parent not in context.tables.categories:
            raise failure("unknowcategory", "Category not known!")
        context.require("moodle/category:manage")
        if not new["name"]:
            raise failure("categorynamerequired", "Category name is required")
        idnumber = new.get("idnumber") or None
        others = context.tables.categories.values()
        if idnumber and any(other.idnumber == idnumber for other in others):
            raise failure("categoryidnumbertaken", "ID number is already used for another category")
        row_id = context.site.next_id("categories")
        context.site.add_category(**{**new, "id": row_id, "idnumber": idnumber})
        created.append({"id": row_id, "name": new["name"]})
    return created


CRITERIA = frozenset({"id", "ids", "name", "parent", "idnumber", "visible", "theme"})


def get_categories(
    context: Context,
    criteria: list[dict[str, str]],
    addsubcategories: bool,
) -> list[dict[str, Any]]:
    """Categories for which all criteria hold, with those below them."""
    if any(criterion["key"] not in CRITERIA for criterion in criteria):
        raise failure("criteriaerror", "Missing permissions to search on a criterion.")
    categories = context.tables.categories
    found = {
        category.path
        for category in categories.values()
        if all(_fits(category, criterion["key"], criterion["value"]) for criterion in criteria)
    }
    below = tuple(f"{path}/" for path in found) if addsubcategories else ()
    return [
        _category(context, category)
        for category in sorted(categories.values(), key=_numbers)
        if category.path in found or category.path.startswith(below)
    ]


def _fits(category: Category, key: str, value: str) -> bool:
    if key == "ids":
        return str(category.id) in value.split(",")
    if key == "visible":
        return value == "1"
    return str(getattr(category, key) or "") == value


def _category(context: Context, category: Category) -> dict[str, Any]:
    return {
        "id": category.id,
        "name": category.name,
        "idnumber": category.idnumber,
        "description": category.description,
        "descriptionformat": category.descriptionformat,
        "parent": category.parent,
        "sortorder": category_order(context, category),
        "coursecount": sum(course.categoryid == category.id for course in context.tables.courses.values()),
        "visible": 1,
        "visibleold": 1,
        "timemodified": category.timemodified,
        "depth": category.depth,
        "path": category.path,
        "theme": category.theme,
    }


NEW_CATEGORY = Struct(
    {
        "name": TEXT,
        "parent": maybe(INT, 0),
        "idnumber": maybe(RAW),
        "description": maybe(RAW, ""),
        "descriptionformat": maybe(INT, 1),
        "theme": maybe(PLUGIN, ""),
    }
)
FUNCTIONS = {
    "core_course_create_courses": Function(
        create_courses, Struct({"courses": Many(NEW_COURSE)}), transaction=True
    ),
    "core_course_update_courses": Function(update_courses, Struct({"courses": Many(CHANGED_COURSE)})),
    "core_course_delete_courses": Function(delete_courses, Struct({"courseids": Many(INT)})),
    "core_course_get_courses_by_field": Function(
        get_courses_by_field, Struct({"field": maybe(PLUGIN, ""), "value": maybe(RAW, "")})
    ),
    "core_course_get_courses": Function(
        get_courses, Struct({"options": Struct({"ids": Many(INT)}, optional=True)})
    ),
    "core_course_create_categories": Function(
        create_categories, Struct({"categories": Many(NEW_CATEGORY)}), transaction=True
    ),
    "core_course_get_categories": Function(
        get_categories,
        Struct(
            {
                "criteria": Many(Struct({"key": PLUGIN, "value": RAW}), optional=True),
                "addsubcategories": boolean(default=True),
            }
        ),
    ),
}
