"""What is stored of a record: enough to prove and to read it again, and no person in the clear.

Records of persons are sealed under their own key and keep what was sent, without users,
secrets and identity numbers. All others keep of nested objects and rows only ids: a class
may list its students, an enrollment may copy the words of another student.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from ledger.texts import clean
from ledger.zoho.entities import Entity
from ledger.zoho.values import (
    ID_NAMES,
    UnreadableError,
    container_in,
    decoded_in,
    has_figure,
    has_id,
    is_empty,
    is_shown,
    is_structured,
    looked_up,
    read_id,
    single,
)

REDACTED = "[redacted]"
BUILT_IN_REDACTION = frozenset({
    "academic_password", "password", "passwd", "moodle_password", "portal_password",
    "passport", "passport_number", "passport_no",
    "national_number", "national_id", "national_id_number", "national_no",
    "client_secret", "access_token", "refresh_token", "secret",
})  # fmt: skip

_USERS = frozenset({"owner", "created_by", "modified_by"})
_OF_EVERY_RECORD = frozenset(
    {*ID_NAMES, "Name", "Currency", "Modified_Time", "Record_Status__s", "operation", "event_type"}
)
_API_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*", re.ASCII)
_ADDRESS = re.compile(r"\S@\S|\+\d[\d ().-]{6,}")  # of mail, or a telephone number
_TELEPHONE = re.compile(r"(?:^|_|[a-z])(?<!micro)phone|(?:^|_)mobile|whatsapp|(?:^|_)tel(?=[_\d]|$)")
_SMALL = 1_000_000  # a count or an amount; a telephone number is longer
_ZOHO_ID = re.compile(r"(?:zcrm_)?\d{15,20}", re.ASCII)

_KEEP, _DROP, _REDACT, _OPEN, _ID, _PERSON_ID, _PERSON = range(7)
_FATES = 10_000  # distinct keys remembered; a bound against invented ones


class Keeping:
    """What is stored of the records of one entity.

    `entities`: all of them under the tenant's Zoho names, which say where persons are named.
    `redacted`: field names in lower case whose values are never stored.
    """

    def __init__(self, entity: Entity, entities: Iterable[Entity], redacted: frozenset[str]) -> None:
        self._is_person = entity.is_person
        self._redacted = redacted
        self._mapped = {n for f in entity.fields if f.kind != "lookup" for n in (*f.names, *f.fallback)}
        lookups = [f for f in entity.fields if f.kind == "lookup"]
        self._persons = {n for f in lookups if f.personal and entity.sealed_by is None for n in f.names}
        self._lookups = {n for f in lookups for n in f.names} - self._persons
        personal = [f for e in entities for f in e.fields if f.personal]
        self._named = {n.lower() for f in personal if f.kind == "lookup" for n in f.names}
        # Student_Name, Students, Teacher_List
        self._copied = tuple(f"{name}_" for name in _USERS) + tuple(n.rstrip("s") or n for n in self._named)
        words = {n.lower() for f in personal if f.kind != "lookup" for n in f.names}
        self._personal = words - {"name"}  # what any record is called
        self._fates: dict[str, int] = {}

    def is_redacted(self, key: str) -> bool:
        """Whether a field's value is never stored, and so not read either."""
        return self._fate_of(key) == _REDACT

    def of(self, value: Any) -> Any:
        """What is kept of a record, or of what came instead of one."""
        if isinstance(value, dict):
            return self._record(value)
        return value if self._is_person and not isinstance(value, list) else self._nested(value, _OPEN)

    def _record(self, record: dict[str, Any]) -> dict[str, Any]:
        kept = {}
        for key, sent in record.items():
            fate = self._fates.get(key)
            if fate is None:
                fate = self._fate_of(key)
            if fate == _DROP:
                continue
            if fate == _REDACT:
                kept[key] = REDACTED if sent is not None else None
                continue
            value, kind = sent, type(sent)
            if kind is str and not sent[:1].isalnum():
                value = self._opened(sent, fate)
                kind = type(value)
            if kind is dict or kind is list:
                kept[key] = self._nested(value, fate, looked_up(value) if fate == _ID else None)
            elif fate == _KEEP or (
                fate == _OPEN and kind is str and value[:1].isalnum() and _is_plain(value)
            ):
                kept[key] = value
            else:
                kept[key] = self._scalar(value, fate)
        return kept

    def _opened(self, text: str, fate: int) -> Any:
        """What a text holds as JSON, as forms carry rows; else the text itself."""
        if not is_structured(text):
            return text
        opened = container_in(text) if fate == _KEEP else decoded_in(text)
        if opened is not text:
            return clean(opened)
        low = text.lower()
        return REDACTED if any(name in low for name in self._redacted) else text

    def _scalar(self, value: Any, fate: int) -> Any:
        """A text or number of a record that no key of its own seals."""
        if isinstance(value, bool) or is_empty(value):
            return value
        if fate == _PERSON:
            return value if isinstance(value, int | Decimal) and -_SMALL < value < _SMALL else REDACTED
        if fate == _OPEN:
            if not isinstance(value, str):
                return value
            return value if _is_plain(value) and not is_structured(value) else REDACTED
        return value if _is_id(value) and (fate == _ID or has_figure(str(value))) else REDACTED

    def _nested(self, value: Any, fate: int, read: Any = None, *, in_list: bool = False) -> Any:
        """What is kept of an object or a list below a key of this fate, and of what stands in them.
        `read`: the object from which a lookup is read, so that whatever stands as its id is one.
        """
        if type(value) is str and not value[:1].isalnum():
            value = self._opened(value, fate)
        if isinstance(value, dict):
            if self._is_person and not _is_other_record(value, in_list=in_list):
                return self._record(value)
            return self._ids(value, value if self._is_person else read)
        if isinstance(value, list):
            if fate == _KEEP and isinstance(single(value), list):
                fate = _OPEN  # of several nothing is read
            return [self._nested(inner, fate, read, in_list=True) for inner in value]
        if self._is_person or fate == _KEEP or isinstance(value, bool) or is_empty(value):
            return value
        if fate in (_ID, _PERSON_ID):
            return self._scalar(value, fate)
        return value if _ZOHO_ID.fullmatch(str(value).strip()) else REDACTED

    def _ids(self, value: dict[str, Any], read: Any) -> dict[str, Any]:
        """An object without all but its id and the ids below it; see `_nested`."""
        kept: dict[str, Any] = {}
        own = value.get("id")
        if type(own) is str and own.isalnum():  # nearly every id
            kept["id"] = own
        elif has_id(value):
            own = next((value[n] for n in ID_NAMES if not is_empty(value.get(n))), None)
            kept["id"] = own if own is None or _is_id(own, is_read=value is read) else REDACTED
        for key, inner in value.items():
            below = clean(decoded_in(inner)) if type(inner) is str and not inner[:1].isalnum() else inner
            if isinstance(below, dict | list) and self._fate_of(key) not in (_DROP, _REDACT):
                kept[key] = self._ids_below(below, read)
        return kept

    def _ids_below(self, value: Any, read: Any) -> Any:
        if isinstance(value, dict):
            return self._ids(value, read)
        return [self._ids_below(inner, read) for inner in value if isinstance(inner, dict | list)]

    def _fate_of(self, key: str) -> int:
        if (known := self._fates.get(key)) is not None:
            return known
        fate = self._judged(key)
        if len(self._fates) < _FATES:
            self._fates[key] = fate
        return fate

    def _judged(self, key: str) -> int:
        low = key.lower()
        if low in self._redacted:
            return _REDACT
        if low in _USERS or key.startswith("$"):
            return _DROP
        if self._is_person or key in self._mapped or key in _OF_EVERY_RECORD:
            return _KEEP
        if key in self._lookups:
            return _ID
        if key in self._persons or low in self._named:
            return _PERSON_ID
        if low in self._personal or low.startswith(self._copied) or _TELEPHONE.search(low):
            return _PERSON
        return _OPEN if _API_NAME.fullmatch(key) else _DROP


def _is_other_record(value: dict[str, Any], *, in_list: bool) -> bool:
    """Whether an object inside a record is another record, a lookup, and not a row of its own."""
    return has_id(value) and not (in_list and any(key.lower() == "parent_id" for key in value))


def _is_plain(text: str) -> bool:
    """Whether a text holds neither an address nor a telephone number."""
    return not (("@" in text or "+" in text) and _ADDRESS.search(text))


def _is_id(value: Any, *, is_read: bool = False) -> bool:
    """Whether a value can be an id: neither a name for people nor an address, nor a list."""
    try:
        found = read_id(value)
    except UnreadableError:
        return False
    return found is None or is_read or not is_shown(found)
