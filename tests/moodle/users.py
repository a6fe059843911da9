"""The functions about users."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from tests.moodle.call import Context, Function
from tests.moodle.errors import (
    MoodleError,
    failure,
    invalid_parameter,
    invalid_response,
    invalid_user,
    too_long,
    write_failed,
)
from tests.moodle.settings import VIEW_ALL_DETAILS
from tests.moodle.shapes import (
    ALPHA,
    INT,
    NOTAGS,
    PLUGIN,
    RAW,
    RAW_TRIMMED,
    TEXT,
    USERNAME,
    Many,
    Shape,
    Struct,
    Value,
    boolean,
    maybe,
)
from tests.moodle.tables import ADMIN, GUEST, User

if TYPE_CHECKING:
    from tests.moodle.site import Site

LIMITS = {
    "username": 100,
    "firstname": 100,
    "lastname": 100,
    "email": 100,
    "idnumber": 255,
    "city": 120,
    "department": 255,
    "institution": 255,
    "phone1": 20,
    "phone2": 20,
    "address": 255,
}
AUTHS_WITH_PASSWORD = frozenset({"manual", "nologin", "email"})
AUTHS = AUTHS_WITH_PASSWORD | {"oauth2", "ldap", "shibboleth", "cas", "db", "lti", "webservice", "none"}
LANGUAGES = frozenset({"en"})
EMAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[a-zA-Z0-9-]{1,63}(\.[a-zA-Z0-9-]{1,63})*", re.ASCII)
COUNTRY_CODES = """
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV
BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES
ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE
IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY
MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU
NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM
SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE
VG VI VN VU WF WS YE YT ZA ZM ZW
"""
COUNTRIES = frozenset(COUNTRY_CODES.split())

TYPE_AND_VALUE = Struct({"type": RAW, "value": RAW})
PROFILE: dict[str, Shape] = {
    "auth": maybe(PLUGIN),
    "password": maybe(RAW),
    "maildisplay": maybe(INT),
    "city": maybe(TEXT),
    "country": maybe(ALPHA),
    "timezone": maybe(RAW),
    "description": maybe(RAW),
    "firstnamephonetic": maybe(NOTAGS),
    "lastnamephonetic": maybe(NOTAGS),
    "middlename": maybe(NOTAGS),
    "alternatename": maybe(NOTAGS),
    "interests": maybe(TEXT),
    "idnumber": maybe(RAW),
    "institution": maybe(TEXT),
    "department": maybe(TEXT),
    "phone1": maybe(NOTAGS),
    "phone2": maybe(NOTAGS),
    "address": maybe(TEXT),
    "lang": maybe(PLUGIN),
    "calendartype": maybe(PLUGIN),
    "theme": maybe(PLUGIN),
    "mailformat": maybe(INT),
    "customfields": Many(TYPE_AND_VALUE, optional=True),
    "preferences": Many(TYPE_AND_VALUE, optional=True),
}
NEW_USER = Struct(
    {
        **PROFILE,
        "createpassword": boolean(),
        "username": USERNAME,
        "firstname": NOTAGS,
        "lastname": NOTAGS,
        "email": RAW_TRIMMED,
    }
)
CHANGED_USER = Struct(
    {
        **PROFILE,
        "id": INT,
        "username": maybe(USERNAME),
        "suspended": boolean(),
        "firstname": maybe(NOTAGS),
        "lastname": maybe(NOTAGS),
        "email": maybe(RAW_TRIMMED),
        "userpicture": maybe(INT),
    }
)
COLUMNS = frozenset(User.__struct_fields__)

# create, update, delete


class Taken:
    """The usernames and e-mails of the live users, looked up once for a call."""

    def __init__(self, users: Iterable[User]) -> None:
        self._usernames: Counter[str] = Counter()
        self._emails: Counter[str] = Counter()
        for user in users:
            self.add(user)

    def add(self, user: User) -> None:
        self._usernames[user.username] += 1
        self._emails[user.email.lower()] += 1

    def remove(self, user: User) -> None:
        self._usernames[user.username] -= 1
        self._emails[user.email.lower()] -= 1

    def username(self, name: str) -> bool:
        return self._usernames[name] > 0

    def email(self, address: str) -> bool:
        return self._emails[address.lower()] > 0


def create_users(context: Context, users: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of them, or none."""
    context.require("moodle/user:create")
    site = context.site
    taken = Taken(site.live_users())
    created = []
    for new in users:
        _check_new(context, new, taken)
        user = User(id=site.next_id("users"), **_columns({"auth": "manual", **new}))
        check_lengths(LIMITS, msgspec.structs.asdict(user))
        context.tables.users[user.id] = user
        taken.add(user)
        created.append({"id": user.id, "username": user.username})
    return created


def _check_new(context: Context, new: dict[str, Any], taken: Taken) -> None:
    settings = context.site.settings
    auth = new.get("auth", "manual")
    password = new.get("password", "")
    needs_password = auth in AUTHS_WITH_PASSWORD and not new.get("createpassword")
    if needs_password and not password:
        raise invalid_parameter("Invalid password: you must provide a password, or set createpassword.")
    for key in ("username", "firstname", "lastname"):
        if not new[key].strip():
            raise invalid_parameter(f"The field {key} cannot be blank")
    if taken.username(new["username"]):
        raise invalid_parameter(f"Username already exists: {new['username']}")
    if auth not in AUTHS:
        raise invalid_parameter(f"Invalid authentication type: {auth}")
    if new.get("lang", "en") not in LANGUAGES:
        raise invalid_parameter(f"Invalid language code: {new['lang']}")
    if not EMAIL.fullmatch(new["email"]):
        raise invalid_parameter(f"Email address is invalid: {new['email']}")
    if taken.email(new["email"]) and not settings.allow_accounts_same_email:
        raise invalid_parameter(f"Email address already exists: {new['email']}")
    if needs_password and (complaints := settings.password_policy.complaints(password)):
        raise failure(complaints)


def _columns(given: dict[str, Any]) -> dict[str, Any]:
    """What of a user is kept; an unknown country becomes none."""
    columns = {key: value for key, value in given.items() if key in COLUMNS and key != "preferences"}
    if columns.get("country", "") not in COUNTRIES:
        columns.pop("country", None)
    return columns


def check_lengths(limits: dict[str, int], row: dict[str, Any]) -> None:
    """The database refuses what does not fit its columns."""
    for key, limit in limits.items():
        if len(row[key] or "") > limit:
            raise too_long(limit)


def update_users(context: Context, users: list[dict[str, Any]]) -> dict[str, Any]:
    """Each by itself: what fails becomes a warning, and the others are changed."""
    context.require("moodle/user:update")
    taken = Taken(context.site.live_users())
    warnings = []
    for change in users:
        try:
            _update(context, change, taken)
        except MoodleError as error:
            warnings.append(
                {
                    "item": "user",
                    "itemid": change["id"],
                    "warningcode": error.errorcode or "",
                    "message": error.message,
                }
            )
    if any("<" in warning["warningcode"] for warning in warnings):
        raise invalid_response("warnings => Invalid response value detected: warningcode")
    return {"warnings": warnings}


def _update(context: Context, change: dict[str, Any], taken: Taken) -> None:
    site = context.site
    user = context.tables.users.get(change["id"])
    if user is None:
        raise failure("invaliduserid", "Invalid user ID")
    if user.id == ADMIN and not context.caller.admin:
        raise failure("usernotupdatedadmin")
    if user.deleted:
        raise failure("usernotupdateddeleted")
    if user.id == GUEST:
        raise failure("usernotupdatedguest")
    email = change.get("email", user.email)
    if "email" in change and email.lower() != user.email.lower():
        if not EMAIL.fullmatch(email):
            raise failure("useremailinvalid")
        if taken.email(email) and not site.settings.allow_accounts_same_email:
            raise failure("useremailduplicate", "Duplicate address")
    if change.get("password") and (
        complaints := site.settings.password_policy.complaints(change["password"])
    ):
        raise failure(complaints)
    name = change.get("username", user.username)
    if name != user.username and taken.username(name):
        raise write_failed('ERROR:  duplicate key value violates unique constraint "mdl_user_mneuse_uix"')
    changed = msgspec.structs.replace(user, **_columns(change))
    check_lengths(LIMITS, msgspec.structs.asdict(changed))
    context.tables.users[user.id] = changed
    taken.remove(user)
    taken.add(changed)


def delete_users(context: Context, userids: list[int]) -> None:
    """All of them, or none."""
    context.require("moodle/user:delete")
    for user_id in userids:
        user = live_user(context, user_id)
        if user.id == ADMIN:
            raise failure("useradminodelete", "Administrator accounts cannot be deleted.")
        if user.id == context.caller.user_id:
            raise failure("usernotdeletederror", "User was not deleted")
        delete(context.site, user.id)


def live_user(context: Context, user_id: int) -> User:
    """A user that exists and is not deleted."""
    user = context.tables.users.get(user_id)
    if user is None or user.deleted:
        raise invalid_user(user_id)
    return user


def delete(site: Site, user_id: int) -> None:
    """Frees username, e-mail and idnumber, and ends all enrolments and memberships."""
    tables = site.tables
    user = tables.users[user_id]
    tables.users[user_id] = msgspec.structs.replace(
        user,
        username=f"{user.email}.{site.now()}"[:100],
        email=hashlib.md5(user.username.encode(), usedforsecurity=False).hexdigest(),
        idnumber="",
        deleted=True,
    )
    for rows in (tables.enrolments, tables.group_members, tables.cohort_members):
        for key in [key for key in rows if key[1] == user_id]:
            del rows[key]


# look-ups


FIELDS: dict[str, Value] = {
    "id": INT,
    "idnumber": RAW,
    "username": USERNAME,
    "email": RAW_TRIMMED,
}


def get_users_by_field(context: Context, field: str, values: list[str]) -> list[dict[str, Any]]:
    """Exact matches by id; a user whose field the caller may not see is silently left out."""
    if field not in FIELDS:
        raise MoodleError(
            r"core\exception\coding_exception",
            "codingerror",
            "Coding error detected, it must be fixed by a programmer: invalid field parameter",
        )
    wanted = {_clean(context, field, value) for value in values}
    users = context.tables.users
    found = (
        sorted(wanted & users.keys())
        if field == "id"
        else [user.id for user in context.site.live_users() if getattr(user, field) in wanted]
    )
    seen = (visible(context, users[user_id]) for user_id in found)
    return [shown for shown in seen if shown.get(field)]


def _clean(context: Context, field: str, value: str) -> Any:
    extended = context.site.settings.extended_username_chars
    try:
        return FIELDS[field].read(value, extended_usernames=extended)
    except MoodleError as error:
        raise invalid_parameter(f"The parameter values is invalid: {value}") from error


def visible(context: Context, user: User) -> dict[str, Any]:
    """What the caller sees of a user; nothing without the right to."""
    if user.id != context.caller.user_id and not context.may("moodle/user:viewdetails"):
        return {}
    return details(context, user)


WHERE_FILLED = ("address", "phone1", "phone2", "institution", "idnumber", "city", "country")
ALL_DETAILS = (
    "username",
    "idnumber",
    "address",
    "phone1",
    "phone2",
    "department",
    "institution",
    "auth",
    "confirmed",
    "lang",
    "theme",
    "mailformat",
    "trackforums",
)


def details(context: Context, user: User) -> dict[str, Any]:
    """A user's data without the keys that are empty or that the caller may not see."""
    site = context.site
    shown: dict[str, Any] = {
        "id": user.id,
        "username": user.username,
        "firstname": user.firstname,
        "lastname": user.lastname,
        "fullname": f"{user.firstname} {user.lastname}",
        "email": user.email,
        "address": user.address,
        "phone1": user.phone1,
        "phone2": user.phone2,
        "department": user.department,
        "institution": user.institution,
        "idnumber": user.idnumber,
        "firstaccess": 0,
        "lastaccess": 0,
        "auth": user.auth,
        "suspended": user.suspended,
        "confirmed": True,
        "lang": user.lang,
        "theme": user.theme,
        "timezone": user.timezone,
        "mailformat": user.mailformat,
        "trackforums": 0,
    }
    if user.description:
        shown |= {"description": user.description, "descriptionformat": 1}
    shown |= {"city": user.city, "country": user.country}
    shown |= {
        "profileimageurlsmall": picture_url(site, 2),
        "profileimageurl": picture_url(site, 1),
    }
    if user.id == context.caller.user_id:
        preferences: dict[str, Any] = {**user.preferences, "_lastloaded": site.now()}
        shown["preferences"] = [{"name": name, "value": value} for name, value in preferences.items()]
    elif not context.may(VIEW_ALL_DETAILS):
        for key in ALL_DETAILS:
            del shown[key]
    for key in WHERE_FILLED:
        if not shown.get(key):
            shown.pop(key, None)
    return shown


def picture_url(site: Site, size: int) -> str:
    """The picture of a user without one."""
    return f"{site.url}/theme/image.php/boost/core/{THEME_REVISION}/u/f{size}"


THEME_REVISION = 1_700_000_000

EXACT_KEYS = frozenset({"id", "idnumber", "username", "auth"})
LIKE_KEYS = frozenset({"firstname", "lastname", "email"})


def get_users(context: Context, criteria: list[dict[str, str]]) -> dict[str, Any]:
    """Users for whom all criteria hold; an unknown key is dropped, and then all users match."""
    warnings = []
    tests: dict[str, re.Pattern[str]] = {}
    for criterion in criteria:
        key, value = criterion["key"], criterion["value"]
        if key in tests:
            raise failure("keyalreadyset", debuginfo="The same criteria key was used twice")
        if key in EXACT_KEYS:
            if key in FIELDS:
                _clean(context, key, value)
            tests[key] = re.compile(re.escape(value))
        elif key in LIKE_KEYS:
            tests[key] = like(value)
        else:
            warnings.append(
                {
                    "item": key,
                    "warningcode": "invalidfieldparameter",
                    "message": f"The search key '{key}' is not supported, "
                    "look at the web service documentation",
                }
            )
    found = [
        visible(context, user)
        for user in context.site.live_users()
        if all(pattern.fullmatch(str(getattr(user, key))) for key, pattern in tests.items())
    ]
    users = [shown for shown in found if shown and all(shown.get(key) for key in tests)]
    return {"users": users, "warnings": warnings}


def like(value: str) -> re.Pattern[str]:
    """SQL's LIKE without regard to case."""
    wildcards = {"%": ".*", "_": "."}
    pattern = "".join(wildcards.get(char) or re.escape(char) for char in value)
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


FUNCTIONS = {
    "core_user_create_users": Function(create_users, Struct({"users": Many(NEW_USER)}), transaction=True),
    "core_user_update_users": Function(update_users, Struct({"users": Many(CHANGED_USER)})),
    "core_user_delete_users": Function(delete_users, Struct({"userids": Many(INT)}), transaction=True),
    "core_user_get_users_by_field": Function(
        get_users_by_field, Struct({"field": PLUGIN, "values": Many(RAW)})
    ),
    "core_user_get_users": Function(
        get_users, Struct({"criteria": Many(Struct({"key": PLUGIN, "value": RAW}))})
    ),
}
