"""The rows of a Moodle database, as far as the web services show them."""

from __future__ import annotations

import msgspec

GUEST, ADMIN = 1, 2
SITE_COURSE = 1
STUDENT = 5


class User(msgspec.Struct, frozen=True, kw_only=True):
    """An account."""

    id: int
    username: str
    firstname: str = "First"
    lastname: str = "Last"
    email: str = ""
    idnumber: str = ""
    auth: str = "manual"
    suspended: bool = False
    deleted: bool = False
    city: str = ""
    country: str = ""
    department: str = ""
    institution: str = ""
    phone1: str = ""
    phone2: str = ""
    address: str = ""
    description: str = ""
    lang: str = "en"
    theme: str = ""
    timezone: str = "99"
    mailformat: int = 1
    preferences: dict[str, str] = {}


class Category(msgspec.Struct, frozen=True, kw_only=True):
    """A course category; `path` is the ids from the top."""

    id: int
    name: str
    idnumber: str | None = None
    description: str = ""
    descriptionformat: int = 1
    parent: int = 0
    path: str = ""
    theme: str = ""
    timemodified: int = 0

    @property
    def depth(self) -> int:
        return self.path.count("/")


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """A course; `manual_enrol` is its instance of the manual enrolment plugin."""

    id: int
    fullname: str
    shortname: str
    categoryid: int = 1
    idnumber: str = ""
    summary: str = ""
    summaryformat: int = 1
    format: str = "topics"
    startdate: int = 0
    enddate: int = 0
    numsections: int = 0
    visible: int = 1
    showgrades: int = 1
    newsitems: int = 5
    maxbytes: int = 0
    showreports: int = 0
    groupmode: int = 0
    groupmodeforce: int = 0
    defaultgroupingid: int = 0
    enablecompletion: int = 1
    completionnotify: int = 0
    hiddensections: int = 1
    lang: str = ""
    theme: str = ""
    manual_enrol: bool = True
    timecreated: int = 0
    timemodified: int = 0


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """A manual enrolment with the roles in the course."""

    suspended: bool = False
    timestart: int = 0
    timeend: int = 0
    roles: tuple[int, ...] = (STUDENT,)

    def active(self, now: int) -> bool:
        """Whether it lets the user into the course at this time."""
        return not self.suspended and self.timestart <= now and (self.timeend == 0 or self.timeend > now)


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group in a course."""

    id: int
    courseid: int
    name: str
    description: str = ""
    descriptionformat: int = 1
    enrolmentkey: str = ""
    idnumber: str = ""
    visibility: int = 0
    participation: bool = True


class Cohort(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort; `categoryid` 0 is the system context."""

    id: int
    name: str
    idnumber: str
    description: str = ""
    descriptionformat: int = 1
    visible: bool = True
    theme: str = ""
    categoryid: int = 0


class Tables:
    """All rows; rows are immutable, so that a copy of the tables is a savepoint."""

    def __init__(self) -> None:
        self.users: dict[int, User] = {}
        self.categories: dict[int, Category] = {}
        self.courses: dict[int, Course] = {}
        self.enrolments: dict[tuple[int, int], Enrolment] = {}  # by course and user
        self.groups: dict[int, Group] = {}
        self.group_members: dict[tuple[int, int], None] = {}  # group and user
        self.cohorts: dict[int, Cohort] = {}
        self.cohort_members: dict[tuple[int, int], None] = {}  # cohort and user

    def copy(self) -> Tables:
        """A savepoint."""
        other = Tables()
        for name, rows in vars(self).items():
            setattr(other, name, rows.copy())
        return other
