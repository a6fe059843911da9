"""How a test drives a double that runs as a process of its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from tests.moodle.faults import Fault
from tests.moodle.settings import Settings

if TYPE_CHECKING:
    from tests.moodle.double import MoodleDouble


class Control:
    """The paths under `/_double/`."""

    def __init__(self, double: MoodleDouble) -> None:
        self._double = double

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """Does what is asked; bodies and answers are JSON."""
        given: Any = json.loads(body) if body else None
        match method, path.removeprefix("/_double/"):
            case "POST", "let_go":
                self._double.let_go()
            case "POST", "restore_token":
                self._double.restore_token()
            case "POST", "reset":
                self._double.reset()
            case "POST", "fail":
                self._double.fail(**{**given, "fault": Fault(given["fault"])})
            case _, resource:
                return self._about_site(method, resource, given)
        return None

    def _about_site(self, method: str, resource: str, given: Any) -> Any:
        with self._double.locked() as site:
            match method, resource:
                case "GET", "state":
                    return self._state()
                case "GET", "calls":
                    return msgspec.to_builtins(self._double.calls)
                case "POST", "settings":
                    self._change(given)
                case "POST", "users":
                    return [site.add_user(**fields) for fields in given]
                case "POST", "courses":
                    return [site.add_course(**fields) for fields in given]
                case "POST", "enrolments":
                    for fields in given:
                        site.enrol(**fields)
                case _:
                    return {"error": f"nothing the double knows: {method} {resource}"}
        return None

    def _state(self) -> dict[str, Any]:
        tables = self._double.site.tables
        return {
            "users": [msgspec.to_builtins(user) for user in tables.users.values()],
            "courses": [msgspec.to_builtins(course) for course in tables.courses.values()],
            "enrolments": [
                {"course_id": course_id, "user_id": user_id, **msgspec.to_builtins(enrolment)}
                for (course_id, user_id), enrolment in tables.enrolments.items()
            ],
        }

    def _change(self, given: dict[str, Any]) -> None:
        """Settings of the site, and costs of the double."""
        site = self._double.site
        for name in ("call_seconds", "item_seconds", "slow_seconds", "refused_seconds"):
            if name in given:
                setattr(self._double, name, given.pop(name))
        site.settings = msgspec.convert({**msgspec.to_builtins(site.settings), **given}, Settings)
