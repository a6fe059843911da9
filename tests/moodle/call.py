"""What a web service function sees of the site it runs in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.moodle.errors import MoodleError, failure, invalid_parameter, lacks, not_accessible
from tests.moodle.settings import Token
from tests.moodle.shapes import Struct
from tests.moodle.tables import SITE_COURSE, Course, Tables

if TYPE_CHECKING:
    from tests.moodle.site import Site


class Function:
    """A function with the shape of its parameters; in a transaction unless each item stands alone."""

    def __init__(self, run: Callable[..., Any], parameters: Struct, *, transaction: bool = False) -> None:
        self.run = run
        self.parameters = parameters
        self.transaction = transaction


class Context:
    """The site and the caller of one call."""

    def __init__(self, site: Site, caller: Token) -> None:
        self.site = site
        self.caller = caller

    @property
    def tables(self) -> Tables:
        return self.site.tables

    def may(self, capability: str) -> bool:
        """Whether the caller has a capability."""
        return self.caller.may(capability)

    def require(self, capability: str) -> None:
        """Refuses the call without a capability."""
        if not self.may(capability):
            raise lacks(capability)

    def enter(self, course: Course) -> None:
        """Refuses a course that the caller cannot enter."""
        if course.id == SITE_COURSE:
            return
        enrolment = self.tables.enrolments.get((course.id, self.caller.user_id))
        inside = self.may("moodle/course:view") or (
            enrolment is not None and enrolment.active(self.site.now())
        )
        if not inside or not (course.visible or self.may("moodle/course:viewhiddencourses")):
            raise not_accessible()

    def enter_by_id(self, course_id: int) -> Course:
        """The course, for functions that wrap what goes wrong on the way in."""
        try:
            course = self.tables.courses.get(course_id)
            if course is None:
                raise invalid_parameter("Context does not exist")
            self.enter(course)
        except MoodleError as error:
            raise failure(
                "errorcoursecontextnotvalid",
                f"You cannot execute functions in the course context (course id:{course_id}). "
                f"The context error message was: {error.message}",
            ) from error
        return course
