"""The errors a Moodle reports in its replies."""

from __future__ import annotations


class MoodleError(Exception):
    """A call that failed; `errorcode` is None for an error of PHP itself."""

    def __init__(self, exception: str, errorcode: str | None, message: str, debuginfo: str = "") -> None:
        super().__init__(f"{errorcode}: {message}")
        self.exception = exception
        self.errorcode = errorcode
        self.message = message
        self.debuginfo = debuginfo

    def body(self, *, debug: bool) -> dict[str, str]:
        """The JSON object; the cause is told only with debugging on."""
        body = {"exception": self.exception, "message": self.message}
        if self.errorcode is not None:
            body = {"exception": self.exception, "errorcode": self.errorcode, "message": self.message}
        if debug and self.debuginfo:
            body["debuginfo"] = self.debuginfo
        return body


def failure(errorcode: str, message: str | None = None, debuginfo: str = "") -> MoodleError:
    """The common kind; a code without a text of its own shows as `error/<code>`."""
    text = f"error/{errorcode}" if message is None else message
    return MoodleError(r"core\exception\moodle_exception", errorcode, text, debuginfo)


def invalid_parameter(debuginfo: str) -> MoodleError:
    """The same message for whatever is wrong; only `debuginfo` tells."""
    return MoodleError(
        r"core\exception\invalid_parameter_exception",
        "invalidparameter",
        "Invalid parameter value detected",
        debuginfo,
    )


def invalid_response(debuginfo: str) -> MoodleError:
    """A result that does not fit the function's description."""
    return MoodleError(
        r"core\exception\invalid_response_exception",
        "invalidresponse",
        "Invalid response value detected",
        debuginfo,
    )


def access_denied(debuginfo: str) -> MoodleError:
    """The token may not call this."""
    return MoodleError(
        "webservice_access_exception", "accessexception", "Access control exception", debuginfo
    )


def invalid_token() -> MoodleError:
    """No such token."""
    return failure("invalidtoken", "Invalid token - token not found")


def invalid_user(user_id: int) -> MoodleError:
    """No live user has this id."""
    return MoodleError("dml_missing_record_exception", "invaliduser", "Invalid user", select("user", user_id))


def missing_record(table: str, key: int | str) -> MoodleError:
    """A row that had to be there."""
    message = f"Can't find data record in database table {table}."
    return MoodleError("dml_missing_record_exception", "invalidrecord", message, select(table, key))


def select(table: str, key: int | str) -> str:
    """The statement that found nothing, as Moodle prints it."""
    return f"SELECT * FROM {{{table}}} WHERE id = ?\n[array (\n  0 => {key},\n)]"


def write_failed(debuginfo: str) -> MoodleError:
    """The database refused a write: too long, not unique, or a lost race."""
    return MoodleError("dml_write_exception", "dmlwriteexception", "Error writing to database", debuginfo)


def too_long(limit: int) -> MoodleError:
    """A value longer than its column."""
    return write_failed(f"ERROR:  value too long for type character varying({limit})")


def database_down() -> MoodleError:
    """PostgreSQL does not answer."""
    return MoodleError(
        "dml_connection_exception",
        "dbconnectionfailed",
        "<p>Error: Database connection failed</p>\n"
        "<p>It is possible that the database is overloaded or otherwise not running properly.</p>\n"
        "<p>The site administrator should also check that the database details have been correctly "
        "specified in config.php</p>",
    )


def site_maintenance() -> MoodleError:
    """The maintenance setting is on."""
    return failure("sitemaintenance", "The site is undergoing maintenance and is currently not available")


def upgrade_running() -> MoodleError:
    """An upgrade is under way."""
    return failure("upgraderunning", "Site is being upgraded, please retry later.")


def not_accessible() -> MoodleError:
    """The caller cannot enter the course."""
    return MoodleError(
        r"core\exception\require_login_exception",
        "requireloginerror",
        "Course or activity not accessible.",
        "Not enrolled",
    )


def lacks(capability: str) -> MoodleError:
    """The caller has no such capability."""
    name = CAPABILITY_NAMES.get(capability, capability)
    return MoodleError(
        r"core\exception\required_capability_exception",
        "nopermissions",
        f"Sorry, but you do not currently have permissions to do that ({name}).",
    )


CAPABILITY_NAMES = {
    "moodle/user:create": "Create users",
    "moodle/user:update": "Update user profiles",
    "moodle/user:delete": "Delete users",
    "moodle/course:create": "Create courses",
    "moodle/course:update": "Update course settings",
    "moodle/course:delete": "Delete courses",
    "moodle/course:viewparticipants": "View participants",
    "moodle/course:managegroups": "Manage groups",
    "moodle/category:manage": "Manage categories",
    "moodle/cohort:manage": "Create, delete and move cohorts",
    "moodle/cohort:assign": "Add and remove cohort members",
    "moodle/cohort:view": "View site-wide cohorts",
    "moodle/role:assign": "Assign roles to users",
    "enrol/manual:enrol": "Enrol users",
    "enrol/manual:unenrol": "Unenrol users from the course",
}
