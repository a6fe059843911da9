"""What had happened on the recorded Moodle before a call, under other names.

The rows here are those that the recorded calls made; `before` leaves out the ones
with that id and above.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tests.moodle.renaming import Renaming
from tests.moodle.site import Site

RECORDED_AT = 1_795_380_635
END = 1 << 30


class World:
    """A site whose rows are added under other names and ids."""

    def __init__(self, site: Site, renaming: Renaming) -> None:
        self.site = site
        self.renaming = renaming
        site.clock = lambda: RECORDED_AT
        site.settings.sitename = renaming.text(site.settings.sitename)
        for table in ("users", "courses", "categories"):
            rows = getattr(site.tables, table)
            for row in list(rows.values()):
                other = renaming.row(table, msgspec.structs.asdict(row))
                rows[row.id] = type(row)(**other)

    def next_id(self, table: str, recorded: int) -> None:
        """The id that the next row of a table gets."""
        self.site.sequences[table] = self._other_id(table, recorded) - 1

    def _other_id(self, table: str, recorded: int) -> int:
        row: dict[str, int] = self.renaming.row(table, {"id": recorded})
        return row["id"]

    def user(self, user_id: int, **fields: Any) -> None:
        self.site.add_user(**self.renaming.row("users", {"id": user_id, **fields}))

    def delete_user(self, user_id: int) -> None:
        self.site.delete_user(self._other_id("users", user_id))

    def category(self, category_id: int, name: str, **fields: Any) -> None:
        row = {"id": category_id, "name": name, **fields}
        self.site.add_category(**self.renaming.row("categories", row))

    def course(self, course_id: int, **fields: Any) -> None:
        self.site.add_course(**self.renaming.row("courses", {"id": course_id, **fields}))

    def change_course(self, course_id: int, **fields: Any) -> None:
        row = self.renaming.row("courses", {"id": course_id, **fields})
        self.site.change_course(row.pop("id"), **row)

    def delete_course(self, course_id: int) -> None:
        del self.site.tables.courses[self._other_id("courses", course_id)]

    def enrol(self, course_id: int, *user_ids: int, role_id: int = 5, **fields: Any) -> None:
        for user_id in user_ids:
            self.site.enrol(
                self._other_id("courses", course_id),
                self._other_id("users", user_id),
                role_id,
                **fields,
            )

    def group(self, group_id: int, *user_ids: int, **fields: Any) -> None:
        """A group with members."""
        row = self.renaming.row("groups", {"id": group_id, **fields})
        self.site.add_group(**row)
        for user_id in user_ids:
            self.site.tables.group_members[row["id"], self._other_id("users", user_id)] = None

    def cohort(self, cohort_id: int, *user_ids: int, **fields: Any) -> None:
        """A cohort with members."""
        row = self.renaming.row("cohorts", {"id": cohort_id, **fields})
        self.site.add_cohort(**row)
        for user_id in user_ids:
            self.site.tables.cohort_members[row["id"], self._other_id("users", user_id)] = None


Scene = Callable[[World, int], None]


def installed(world: World, before: int = END) -> None:
    """Nothing had happened."""


STUDENTS = {
    6: "1",
    7: "2",
    8: "3",
    10: "4",
    11: "5",
    12: "6",
    13: "7",
    14: "8",
    15: "9",
    16: "21",
    17: "22",
    18: "23",
    22: "35",
    23: "36",
}
SPECIAL_STUDENTS: dict[int, dict[str, Any]] = {
    8: {
        "city": "Köln",
        "country": "DE",
        "department": "Math",
        "institution": "Uni",
        "phone1": "+49 1",
        "timezone": "Europe/Berlin",
    },
    10: {"firstname": "Zoë 李", "lastname": "O'Neil-Ñandú & Co", "city": "  Köln  "},
    12: {"auth": "oauth2"},
    13: {"auth": "nologin"},
    14: {"idnumber": ""},
    15: {"idnumber": "S-1"},
    16: {"username": "a.b-c_d@x.test"},
}


def students(world: World, before: int = END) -> None:
    """The users that the tries of create_users had left."""
    for user_id, number in STUDENTS.items():
        if user_id < before:
            fields = {
                "username": f"stud{number}",
                "firstname": f"First{number}",
                "lastname": f"Last{number}",
                "email": f"stud{number}@example.test",
                "idnumber": f"S-{number}",
            }
            world.user(user_id, **{**fields, **SPECIAL_STUDENTS.get(user_id, {})})


def students_one_deleted(world: World, before: int = END) -> None:
    """One of them was deleted again."""
    students(world, before)
    world.delete_user(18)


def categories(world: World, before: int = END) -> None:
    """The categories that the tries of create_categories had left."""
    rows: dict[int, dict[str, Any]] = {
        2: {"name": "Faculty A", "idnumber": "CAT-A", "description": "d"},
        3: {"name": "Dept A1", "idnumber": "CAT-A1", "parent": 2},
        4: {"name": "Faculty A"},
    }
    for category_id, row in rows.items():
        if category_id < before:
            world.category(category_id, **row)


def courses(world: World, before: int = END) -> None:
    """The courses that the tries of create_courses had left."""
    categories(world)
    rows: dict[int, dict[str, Any]] = {
        2: {
            "fullname": "Course 1",
            "shortname": "C1",
            "idnumber": "CRS-1",
            "summary": "<p>s</p>",
            "startdate": 1767225600,
            "enddate": 1775001600,
            "numsections": 3,
        },
        3: {"fullname": "Course 2", "shortname": "C2", "idnumber": "CRS-2"},
        4: {"fullname": "Course 3", "shortname": "C3", "idnumber": "CRS-3", "visible": 0},
        5: {"fullname": "Course 5x", "shortname": "c1", "idnumber": "CRS-5x"},
        6: {"fullname": "Course 6", "shortname": "C6"},
        7: {"fullname": "Course 7", "shortname": "C7"},
        8: {"fullname": "Course 10", "shortname": "C10", "idnumber": "CRS-10", "format": "nosuch"},
    }
    for course_id, row in rows.items():
        if course_id < before:
            world.course(course_id, categoryid=2, **row)


def participants(world: World, before: int = END) -> None:
    """Users of the tries of enrolment, nobody enrolled; one suspended, one deleted."""
    everybody(world)
    world.delete_user(13)


def everybody(world: World, before: int = END) -> None:
    """The same, nobody deleted yet."""
    courses(world)
    world.change_course(2, fullname="Course 1 changed", summary="new1")
    for number in range(1, 11):
        world.user(
            number + 5,
            username=f"e{number}",
            firstname=f"E{number}",
            lastname="Test",
            email=f"e{number}@example.test",
            idnumber=f"E-{number}",
            suspended=number == 7,
        )


def without_course(world: World, before: int = END) -> None:
    """One of the courses was deleted."""
    participants(world)
    world.delete_course(6)


def enrolled(world: World, before: int = END) -> None:
    """Enrolments with several roles, one with an end in the past, one suspended."""
    participants(world)
    world.enrol(2, 6, 10)
    world.enrol(2, 6, role_id=4)
    world.enrol(2, 7, timestart=1767225600, timeend=1784505600)
    world.enrol(2, 8, suspended=True)
    world.enrol(2, 9, role_id=3)


def enrolled_again(world: World, before: int = END) -> None:
    """The end in the past was taken away."""
    enrolled(world)
    world.enrol(2, 7)


def grouped(world: World, before: int = END) -> None:
    """Groups in two courses; `before` leaves out groups."""
    enrolled_again(world)
    if before > 1:
        world.group(1, courseid=2, name="G1", idnumber="GRP-1")
    if before > 2:
        world.group(2, courseid=2, name="G2", description="x", idnumber="GRP-2")
        world.group(3, courseid=3, name="G1", description="x", idnumber="GRP-1")


def group_members(world: World, before: int = END) -> None:
    """Two members in a group."""
    enrolled_again(world)
    world.group(1, 7, 8, courseid=2, name="G1", idnumber="GRP-1")


def nameless(world: World, before: int = END) -> None:
    """Users without idnumber, one of them in a group."""
    courses(world)
    for number in (1, 2):
        world.user(number + 5, username=f"g{number}", firstname="G", lastname="G")
    world.enrol(2, 6, 7)
    world.group(1, 6, courseid=2, name="G")


def before_deletion(world: World, before: int = END) -> None:
    """Enrolments of users of whom one is to be deleted."""
    everybody(world)
    world.enrol(2, 7, 8, 9, 11, 12, 13, 14)


def cohorts(world: World, before: int = END) -> None:
    """Cohorts, nobody in them; `before` leaves out cohorts."""
    participants(world)
    rows: dict[int, dict[str, Any]] = {
        1: {"name": "Cohort 1", "idnumber": "COH-1", "description": "d"},
        2: {"name": "Cohort 2", "idnumber": "COH-2"},
        3: {"name": "x", "idnumber": ""},
    }
    for cohort_id, row in rows.items():
        if cohort_id < before:
            world.cohort(cohort_id, **row)


def cohort_members(world: World, before: int = END) -> None:
    """Some members in a cohort."""
    participants(world)
    world.cohort(1, 6, 7, 8, 9, name="Cohort 1", idnumber="COH-1")


def racers(world: World, before: int = END) -> None:
    """The site on which calls raced, with rights and settings tried there."""
    world.course(2, fullname="R", shortname="R", idnumber="R")
    for number in range(1, 61):
        world.user(
            number + 5,
            username=f"r{number}",
            firstname=f"R{number}",
            lastname="Race",
            email=f"r{number}@example.test",
            idnumber=f"R-{number}",
        )
