"""The functions about cohorts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tests.moodle.call import Context, Function
from tests.moodle.errors import invalid_parameter, missing_record
from tests.moodle.shapes import ALPHA, INT, PLUGIN, RAW, TEXT, Many, Struct, boolean, maybe
from tests.moodle.tables import Cohort

MANAGE, VIEW, ASSIGN = "moodle/cohort:manage", "moodle/cohort:view", "moodle/cohort:assign"


def create_cohorts(context: Context, cohorts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of them, or none; the idnumber is required and unique, even an empty one."""
    created = []
    for new in cohorts:
        category_type = new.pop("categorytype")
        category_id = _category(context, category_type["type"], category_type["value"])
        context.require(MANAGE)
        if any(cohort.idnumber == new["idnumber"] for cohort in context.tables.cohorts.values()):
            raise invalid_parameter("record already exists: idnumber=" + new["idnumber"])
        new.pop("customfields")
        cohort = Cohort(id=context.site.next_id("cohorts"), categoryid=category_id, **new)
        context.tables.cohorts[cohort.id] = cohort
        created.append(_row(cohort))
    return created


def _category(context: Context, key: str, value: str) -> int:
    categories = context.tables.categories.values()
    match key:
        case "system":
            return 0
        case "id":
            found = [category.id for category in categories if str(category.id) == value]
        case "idnumber":
            found = [category.id for category in categories if category.idnumber == value]
        case _:
            raise invalid_parameter(f"category type only support system, id, idnumber: {key}")
    if not found:
        raise invalid_parameter(f"category not exists: {key}={value}")
    return found[0]


def _row(cohort: Cohort) -> dict[str, Any]:
    row = msgspec.structs.asdict(cohort)
    del row["categoryid"]
    return row


def get_cohorts(context: Context, cohortids: list[int]) -> list[dict[str, Any]]:
    """Cohorts by id, or all."""
    context.require(VIEW)
    return [
        {**_row(_cohort(context, cohort_id)), "customfields": []}
        for cohort_id in cohortids or sorted(context.tables.cohorts)
    ]


def _cohort(context: Context, cohort_id: int) -> Cohort:
    cohort = context.tables.cohorts.get(cohort_id)
    if cohort is None:
        raise missing_record("cohort", cohort_id)
    return cohort


def search_cohorts(
    context: Context, /, query: str, limitfrom: int, limitnum: int, **_: Any
) -> dict[str, Any]:
    """Cohorts with this text in name or idnumber."""
    context.require(VIEW)
    found = [
        {**_row(cohort), "customfields": []}
        for cohort in context.tables.cohorts.values()
        if query.lower() in cohort.name.lower() or query.lower() in cohort.idnumber.lower()
    ]
    return {"cohorts": found[limitfrom : limitfrom + limitnum if limitnum else None]}


def add_cohort_members(context: Context, members: list[dict[str, Any]]) -> dict[str, Any]:
    """Each by itself; what fails becomes a warning with a number."""
    context.require(ASSIGN)
    warnings = [warning for new in members if (warning := _add_member(context, **new))]
    return {"warnings": [{"warningcode": code, "message": message} for code, message in warnings]}


def _add_member(
    context: Context, *, cohorttype: dict[str, str], usertype: dict[str, str]
) -> tuple[str, str] | None:
    """What is wrong with a membership, which is otherwise made."""
    if cohorttype["type"] not in {"id", "idnumber"}:
        return "1", f"invalid parameter: cohorttype={cohorttype['type']}"
    if usertype["type"] not in {"id", "username"}:
        return "1", f"invalid parameter: usertype={usertype['type']}"
    user = _find(context.site.live_users(), usertype)
    user_text = f"{usertype['type']}={usertype['value']}"
    if user is None:
        return "2", f"user {user_text} not exists"
    cohort = _find(context.tables.cohorts.values(), cohorttype)
    cohort_text = f"{cohorttype['type']}={cohorttype['value']}"
    if cohort is None:
        return "2", f"cohort {cohort_text} not exists"
    if (cohort.id, user.id) in context.tables.cohort_members:
        return "3", f"record already exists: cohort({cohort_text} {user_text})"
    context.tables.cohort_members[cohort.id, user.id] = None
    return None


def _find(rows: Iterable[Any], wanted: dict[str, str]) -> Any:
    return next((row for row in rows if str(getattr(row, wanted["type"])) == wanted["value"]), None)


def delete_cohort_members(context: Context, members: list[dict[str, int]]) -> None:
    """All of them, or none; who is no member is no error."""
    for old in members:
        cohort = _cohort(context, old["cohortid"])
        context.require(ASSIGN)
        context.tables.cohort_members.pop((cohort.id, old["userid"]), None)


def get_cohort_members(context: Context, cohortids: list[int]) -> list[dict[str, Any]]:
    """The ids of the members of each cohort."""
    context.require(VIEW)
    return [
        {
            "cohortid": _cohort(context, cohort_id).id,
            "userids": sorted(user_id for key, user_id in context.tables.cohort_members if key == cohort_id),
        }
        for cohort_id in cohortids
    ]


TYPE_AND_VALUE = Struct({"type": ALPHA, "value": RAW})
NEW_COHORT = Struct(
    {
        "categorytype": TYPE_AND_VALUE,
        "name": TEXT,
        "idnumber": RAW,
        "description": maybe(RAW, ""),
        "descriptionformat": maybe(INT, 1),
        "visible": boolean(default=True),
        "theme": maybe(PLUGIN, ""),
        "customfields": Many(Struct({"shortname": PLUGIN, "value": RAW}), optional=True),
    }
)
NEW_MEMBER = Struct({"cohorttype": TYPE_AND_VALUE, "usertype": TYPE_AND_VALUE})
SEARCH = Struct(
    {
        "query": RAW,
        "context": Struct({"contextid": maybe(INT), "contextlevel": maybe(ALPHA), "instanceid": maybe(INT)}),
        "includes": maybe(ALPHA, "parents"),
        "limitfrom": maybe(INT, 0),
        "limitnum": maybe(INT, 25),
    }
)

FUNCTIONS = {
    "core_cohort_create_cohorts": Function(
        create_cohorts, Struct({"cohorts": Many(NEW_COHORT)}), transaction=True
    ),
    "core_cohort_get_cohorts": Function(get_cohorts, Struct({"cohortids": Many(INT, optional=True)})),
    "core_cohort_search_cohorts": Function(search_cohorts, SEARCH),
    "core_cohort_add_cohort_members": Function(add_cohort_members, Struct({"members": Many(NEW_MEMBER)})),
    "core_cohort_delete_cohort_members": Function(
        delete_cohort_members,
        Struct({"members": Many(Struct({"cohortid": INT, "userid": INT}))}),
        transaction=True,
    ),
    "core_cohort_get_cohort_members": Function(get_cohort_members, Struct({"cohortids": Many(INT)})),
}
