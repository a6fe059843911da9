"""A Moodle site without its HTTP: state, and the rules by which calls read and change it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tests.moodle import cohorts, courses, enrolments, groups, users
from tests.moodle.call import Context, Function
from tests.moodle.errors import (
    MoodleError,
    access_denied,
    database_down,
    invalid_parameter,
    invalid_token,
    missing_record,
    site_maintenance,
    upgrade_running,
)
from tests.moodle.form import Form
from tests.moodle.settings import (
    LEAST_PRIVILEGE,
    VIEW_ALL_DETAILS,
    WIDE_FUNCTIONS,
    Settings,
    Token,
)
from tests.moodle.shapes import Struct
from tests.moodle.tables import (
    ADMIN,
    GUEST,
    SITE_COURSE,
    Category,
    Cohort,
    Course,
    Enrolment,
    Group,
    Tables,
    User,
)

PLAIN, NO_REST, SYNC = 3, 4, 5
DAY = 86_400

NOT_IN_SERVICE = """Access to the function {}() is not allowed.
                     There could be multiple reasons for this:
                     1. The service linked to the user token does not contain the function.
                     2. The service is user-restricted and the user is not listed.
                     3. The service is IP-restricted and the user IP is not listed.
                     4. The service is time-restricted and the time has expired.
                     5. The token is time-restricted and the time has expired.
                     6. The service requires a specific capability which the user does not have.
                     7. The function is called with username/password (no user token is sent)
                     and none of the services has the function to allow the user.
                     These settings can be found in Administration > Site administration
                     > Server > Web services > External services and Manage tokens."""


class Site:
    """A site as installed, with service users and their tokens.

    `tokens` has, by name: `admin`; `sync`, least privilege with a view of all details;
    `least`, the same without; `plain`, who may nothing; and `none`, who may not use REST.
    """

    def __init__(self, url: str = "http://127.0.0.1") -> None:
        self.url = url
        self.settings = Settings()
        self.tables = Tables()
        self.clock: Callable[[], float] = time.time
        self.sequences: dict[str, int] = {}
        self.tokens: dict[str, Token] = {}
        self._install()

    def _install(self) -> None:
        self.add_category(id=1, name="Category 1")
        self.add_course(
            id=SITE_COURSE,
            fullname=self.settings.sitename,
            shortname="mdltest",
            categoryid=0,
            summaryformat=0,
            format="site",
            startdate=0,
            enddate=0,
            newsitems=3,
            numsections=1,
            enablecompletion=0,
            manual_enrol=False,
        )
        self.add_user(
            id=GUEST,
            username="guest",
            firstname="Guest user",
            lastname=" ",
            email="root@localhost",
            description="This user is a special user that allows read-only access to some courses.",
        )
        self.add_user(
            id=ADMIN,
            username="admin",
            firstname="Admin",
            lastname="User",
            email="admin@example.test",
            preferences={"last_time_enrolments_synced": str(self.now())},
        )
        for user_id, name in ((PLAIN, "Plain"), (NO_REST, "None"), (SYNC, "Sync")):
            username = f"ws{name.lower()}"
            self.add_user(
                id=user_id,
                username=username,
                firstname="Ws",
                lastname=name,
                email=f"{username}@example.test",
            )
        rest = frozenset({"webservice/rest:use"})
        self.add_token("admin", ADMIN, admin=True)
        self.add_token("sync", SYNC, capabilities=LEAST_PRIVILEGE | {VIEW_ALL_DETAILS})
        self.add_token("least", SYNC, capabilities=LEAST_PRIVILEGE)
        self.add_token("plain", PLAIN, capabilities=rest)
        self.add_token("none", NO_REST)
        self.add_token("wide", ADMIN, admin=True, functions=WIDE_FUNCTIONS)

    # calls

    def now(self) -> int:
        """The site's time."""
        return int(self.clock())

    def call(self, function: str | None, params: Form, token: str | None) -> Any:
        """What a function answers; raises MoodleError where Moodle does."""
        caller = self._authenticate(token)
        described = self._function(function, caller)
        values = described.parameters.read(params, extended_usernames=self.settings.extended_username_chars)
        context = Context(self, caller)
        savepoint = self.tables.copy() if described.transaction else self.tables
        try:
            return described.run(context, **values)
        except MoodleError:
            self.tables = savepoint
            raise

    def _authenticate(self, value: str | None) -> Token:
        """The token, after the checks that come before any function."""
        if self.settings.database_down:
            raise database_down()
        if self.settings.upgrade_running:
            raise upgrade_running()
        name, token = self._find_token(value)
        if token.expired:
            del self.tokens[name]
            raise access_denied("Invalid token - token expired - check validuntil time for the token")
        if token.ip_restricted:
            raise access_denied("Invalid token - IP is not supported")
        user = self.tables.users[token.user_id]
        if self.settings.maintenance == "setting" and not token.admin:
            raise site_maintenance()
        if user.deleted or user.suspended:
            raise access_denied(f"Refused web service access for user: {user.username}")
        if not token.may("webservice/rest:use"):
            raise access_denied("You are not allowed to use the REST protocol (missing capability)")
        return token

    def _find_token(self, value: str | None) -> tuple[str, Token]:
        for name, token in self.tokens.items():
            if token.value == value:
                return name, token
        raise invalid_token()

    def _function(self, name: str | None, caller: Token) -> Function:
        """The function, if Moodle has it and the token's service contains it."""
        if not name:
            raise invalid_parameter("Missing function name")
        if name not in WIDE_FUNCTIONS:
            raise missing_record("external_functions", name)
        if not self.settings.service_enabled or name not in self.functions_of(caller):
            raise access_denied(NOT_IN_SERVICE.format(name))
        if name not in FUNCTIONS:
            raise NotImplementedError(name)
        return FUNCTIONS[name]

    def functions_of(self, token: Token) -> tuple[str, ...]:
        """The functions in the token's service."""
        return self.settings.functions if token.functions is None else token.functions

    # seeding

    def next_id(self, table: str) -> int:
        """A new id; those of calls that were rolled back do not come again."""
        self.sequences[table] = self.sequences.get(table, 0) + 1
        return self.sequences[table]

    def _id(self, table: str, fields: dict[str, Any]) -> int:
        """The id that a row is given, or else the next one."""
        row_id: int = fields.setdefault("id", self.sequences.get(table, 0) + 1)
        self.sequences[table] = max(self.sequences.get(table, 0), row_id)
        return row_id

    def add_user(self, **fields: Any) -> int:
        """A user, as if created by hand; the id may be given."""
        row_id = self._id("users", fields)
        fields.setdefault("username", f"user{row_id}")
        fields.setdefault("email", f"{fields['username']}@example.test")
        self.tables.users[row_id] = User(**fields)
        return row_id

    def add_category(self, **fields: Any) -> int:
        """A course category."""
        row_id = self._id("categories", fields)
        parent = self.tables.categories.get(fields.get("parent", 0))
        fields["path"] = f"{parent.path if parent else ''}/{row_id}"
        fields.setdefault("timemodified", self.now())
        self.tables.categories[row_id] = Category(**fields)
        return row_id

    def add_course(self, **fields: Any) -> int:
        """A course with manual enrolment."""
        row_id, now = self._id("courses", fields), self.now()
        fields.setdefault("shortname", f"course{row_id}")
        fields.setdefault("fullname", f"Course {row_id}")
        fields.setdefault("startdate", now // DAY * DAY)
        fields.setdefault("enddate", fields["startdate"] + 365 * DAY)
        course = Course(timecreated=now, timemodified=now, **fields)
        self.tables.courses[row_id] = course
        return row_id

    def add_group(self, **fields: Any) -> int:
        """A group in a course."""
        row_id = self._id("groups", fields)
        self.tables.groups[row_id] = Group(**fields)
        return row_id

    def add_cohort(self, **fields: Any) -> int:
        """A cohort."""
        row_id = self._id("cohorts", fields)
        self.tables.cohorts[row_id] = Cohort(**fields)
        return row_id

    def enrol(
        self,
        course_id: int,
        user_id: int,
        role_id: int = 5,
        *,
        suspended: bool = False,
        **times: int,
    ) -> None:
        """A manual enrolment; a role is added to those the user has."""
        old = self.tables.enrolments.get((course_id, user_id))
        roles = sorted({*(old.roles if old else ()), role_id})
        self.tables.enrolments[course_id, user_id] = Enrolment(
            suspended=suspended, roles=tuple(roles), **times
        )

    def add_token(self, name: str, user_id: int, **rights: Any) -> str:
        """A token with a random value."""
        self.tokens[name] = Token(value=secrets.token_hex(16), user_id=user_id, **rights)
        return self.tokens[name].value

    # reading

    def seats(self) -> dict[tuple[int, int], bool]:
        """For course and user of each enrolment, whether it is suspended."""
        return {key: enrolment.suspended for key, enrolment in self.tables.enrolments.items()}

    def user(self, user_id: int) -> User:
        """A user, deleted ones too."""
        return self.tables.users[user_id]

    def user_by_idnumber(self, idnumber: str) -> User | None:
        """The first live user with this idnumber."""
        return next((user for user in self.live_users() if user.idnumber == idnumber), None)

    def live_users(self) -> Iterable[User]:
        """The users that are not deleted, by id."""
        return (self.tables.users[key] for key in sorted(self.tables.users) if not self.user(key).deleted)

    def delete_user(self, user_id: int) -> None:
        """What stays of a user is a row that only a look-up by id finds."""
        users.delete(self, user_id)

    def change_course(self, course_id: int, **fields: Any) -> None:
        """Changes a course as an administrator would on its page."""
        course = self.tables.courses[course_id]
        self.tables.courses[course_id] = msgspec.structs.replace(course, **fields)


def get_site_info(context: Context) -> dict[str, Any]:
    """Who calls, what the service contains, and which Moodle this is."""
    site, token = context.site, context.caller
    user = site.user(token.user_id)
    version = site.settings.version
    return {
        "sitename": site.settings.sitename,
        "username": user.username,
        "firstname": user.firstname,
        "lastname": user.lastname,
        "fullname": f"{user.firstname} {user.lastname}",
        "lang": user.lang,
        "userid": user.id,
        "siteurl": site.url,
        "userpictureurl": users.picture_url(site, 1),
        "functions": [
            {"name": name, "version": version if name.startswith("core_") else f"{version[:-2]}00"}
            for name in site.functions_of(token)
        ],
        "downloadfiles": 0,
        "uploadfiles": 0,
        "release": site.settings.release,
        "version": version,
        "mobilecssurl": "",
        "advancedfeatures": [{"name": name, "value": value} for name, value in ADVANCED_FEATURES.items()],
        "usercanmanageownfiles": True,
        "userquota": 0 if token.admin else 100 * 1024 * 1024,
        "usermaxuploadfilesize": -1 if token.admin else 2 * 1024 * 1024,
        "userhomepage": 1,
        "userprivateaccesskey": "KEY",
        "siteid": SITE_COURSE,
        "sitecalendartype": "gregorian",
        "usercalendartype": "gregorian",
        "userissiteadmin": token.admin,
        "theme": "boost",
        "limitconcurrentlogins": 0,
        "policyagreed": 0,
    }


ADVANCED_FEATURES = {
    "usecomments": 1,
    "usetags": 1,
    "enablenotes": 1,
    "messaging": 1,
    "enableblogs": 1,
    "enablecompletion": 1,
    "enablebadges": 1,
    "messagingallusers": 0,
    "enablecustomreports": 1,
    "enableglobalsearch": 0,
    "mnet_dispatcher_mode": 0,
    "enablecompetencies": 1,
}

FUNCTIONS: dict[str, Function] = {
    "core_webservice_get_site_info": Function(get_site_info, Struct({})),
    **users.FUNCTIONS,
    **courses.FUNCTIONS,
    **enrolments.FUNCTIONS,
    **groups.FUNCTIONS,
    **cohorts.FUNCTIONS,
}
