"""Other names and ids for everything in a recording, so that no answer can be a copy of it."""

from __future__ import annotations

import random
import re
import string
from typing import Any

from tests.moodle.form import flatten, nest

TEXT_KEYS = frozenset(
    {
        "username",
        "firstname",
        "lastname",
        "fullname",
        "displayname",
        "shortname",
        "name",
        "categoryname",
        "sitename",
        "email",
        "idnumber",
        "query",
    }
)
MESSAGE_KEYS = frozenset({"message", "debuginfo"})
NAMED_BY_MOODLE = frozenset(
    {"functions", "advancedfeatures", "courseformatoptions", "preferences", "roles", "options"}
)
ID_KEYS = {
    "userid": "user",
    "userids": "user",
    "courseid": "course",
    "courseids": "course",
    "categoryid": "category",
    "category": "category",
    "parent": "category",
    "groupid": "group",
    "groupids": "group",
    "cohortid": "cohort",
    "cohortids": "cohort",
}
OWNERS = {
    "users": "user",
    "usertype": "user",
    "courses": "course",
    "options": "course",
    "enrolledcourses": "course",
    "groups": "group",
    "cohorts": "cohort",
    "cohorttype": "cohort",
    "categories": "category",
    "categorytype": "category",
}
FUNCTION_ENDINGS = {
    "create_categories": "category",
    "get_categories": "category",
    "create_groups": "group",
    "get_course_groups": "group",
    "create_cohorts": "cohort",
    "get_cohorts": "cohort",
    "create_courses": "course",
    "get_courses": "course",
    "get_courses_by_field": "course",
    "get_users_courses": "course",
    "create_users": "user",
    "get_users": "user",
    "get_users_by_field": "user",
    "get_enrolled_users": "user",
}
INSTALLED = {"user": 5, "course": 1, "category": 1, "group": 0, "cohort": 0}
WORD = re.compile(r"[A-Za-z0-9]+")
MADE_BY_MOODLE = re.compile(r"\d{10}|[0-9a-f]{32}")  # a time, or the e-mail of a deleted user


class Renaming:
    """One random renaming, the same wherever a name or an id occurs.

    Letters become letters and digits digits; two words that begin alike still do, so
    that searches for a part of a name find the same. Ids keep their order. What a
    Moodle has from its installation keeps its id.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        draw = random.Random(seed)
        self._shifts = {kind: draw.randrange(1_000, 9_000_000) for kind in INSTALLED}
        self._said: dict[str, str] = {}

    def id(self, kind: str, number: int) -> int:
        """Another id."""
        return number if number <= INSTALLED[kind] else number + self._shifts[kind]

    def text(self, text: str) -> str:
        """Another text of the same form."""
        return WORD.sub(lambda match: self._word(match[0]), text)

    def _word(self, word: str) -> str:
        if MADE_BY_MOODLE.fullmatch(word):
            return word
        return "".join(self._letter(word[:position].lower(), char) for position, char in enumerate(word))

    def _letter(self, before: str, char: str) -> str:
        alphabet = string.digits if char.isdigit() else string.ascii_lowercase
        shuffled = random.Random(f"{self._seed} {before} {alphabet}").sample(alphabet, len(alphabet))
        other = shuffled[alphabet.index(char.lower())]
        return other.upper() if char.isupper() else other

    def request(self, function: str, params: dict[str, str]) -> dict[str, str]:
        """The parameters of a call; messages that answer it may repeat them."""
        renamed = flatten(self._walk(nest(list(params.items())), "", {}, function))
        self._said = {params[name]: value for name, value in renamed.items() if params[name] != value}
        return renamed

    def body(self, function: str, body: Any) -> Any:
        """The answer to the last call."""
        return self._walk(body, "", {}, function)

    def row(self, table: str, row: dict[str, Any]) -> dict[str, Any]:
        """A row of a table."""
        renamed: dict[str, Any] = self._walk(row, table, {}, "")
        return renamed

    def _walk(self, value: Any, key: str, siblings: dict[str, Any], owner: str) -> Any:
        """Goes down; `owner` is the list that a row stands in, or else the function."""
        if isinstance(value, dict):
            if all(name.isdigit() for name in value):
                return {name: self._walk(item, key, siblings, owner) for name, item in value.items()}
            return {name: self._walk(item, name, value, key or owner) for name, item in value.items()}
        if isinstance(value, list):
            return [self._walk(item, key, siblings, owner) for item in value]
        if isinstance(value, bool) or not isinstance(value, int | str):
            return value
        return self._scalar(value, key, siblings, owner)

    def _scalar(self, value: int | str, key: str, siblings: dict[str, Any], owner: str) -> int | str:
        if key in MESSAGE_KEYS:
            return self._message(str(value))
        if key == "path":
            return re.sub(r"\d+", lambda match: str(self.id("category", int(match[0]))), str(value))
        if kind := id_kind(key, siblings, owner):
            return self._ids(kind, value)
        chosen = selector(siblings) if key in {"value", "values"} else key
        if chosen in TEXT_KEYS and owner not in NAMED_BY_MOODLE:
            return self.text(str(value))
        return value

    def _ids(self, kind: str, value: int | str) -> int | str:
        """An id as a number or as text, or several with commas between."""
        if isinstance(value, int):
            return self.id(kind, value)
        parts = value.split(",")
        if not all(part.isdigit() for part in parts):
            return value
        return ",".join(str(self.id(kind, int(part))) for part in parts)

    def _message(self, message: str) -> str:
        if not self._said:
            return message
        said = "|".join(re.escape(text) for text in sorted(self._said, key=len, reverse=True))
        return re.sub(rf"(?<!\w)(?:{said})(?!\w)", lambda match: self._said[match[0]], message)


def selector(siblings: dict[str, Any]) -> str:
    """What a `value` is a value of."""
    for key in ("field", "key", "type", "name"):
        if key in siblings:
            return str(siblings[key])
    return ""


def id_kind(key: str, siblings: dict[str, Any], owner: str) -> str | None:
    """What the value is an id of, if it is one."""
    if key == "itemid":
        return str(siblings["item"])
    if key in {"value", "values"}:
        key = selector(siblings)
    if key in ID_KEYS:
        return ID_KEYS[key]
    if key not in {"id", "ids"}:
        return None
    ending = re.sub(r"^(core|enrol)_[a-z]+_", "", owner)
    return OWNERS.get(owner) or FUNCTION_ENDINGS.get(ending)
