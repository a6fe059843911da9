"""What Moodle takes: its rules for names, addresses and ids, checked before anything is sent.

Moodle answers most of what it does not take with `invalidparameter` and no word of the
cause, so a value that it would refuse is not sent at all, and the reason is said here.
Limits are those of Moodle 4.5's tables (user, course); characters those of its parameter
types PARAM_USERNAME and PARAM_NOTAGS; addresses those of PHP's FILTER_VALIDATE_EMAIL.
"""

from __future__ import annotations

import re
import unicodedata

from ledger.settings import USERNAME_PART

NAME_CHARACTERS = 100  # username, first name, last name, e-mail
USER_IDNUMBER_CHARACTERS = 255
COURSE_IDNUMBER_CHARACTERS = 100
SHORTNAME_CHARACTERS = 255
FULLNAME_CHARACTERS = 254

Reason = tuple[str, str]
"""A code, and the same in words; no value of a person is in it."""

REASONS = frozenset({
    "bad_email", "name_too_long", "bad_name", "id_too_long", "username_too_long",
    "no_email", "no_first_name", "no_last_name", "no_username",
})  # fmt: skip
"""The codes of what is said of a person here; it follows from the record and the settings alone."""
EVERY_REASON = (
    *sorted(REASONS),
    "email_taken", "username_taken", "id_of_another", "ambiguous", "reserved", "no_course", "other_roles",
    "unreadable_course", "no_answer", "error", "moodle_ERRORCODE",
)  # fmt: skip
"""The codes of all that may be FAILED, for help texts; `docs/moodle.md` says what each means."""

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"(?=.{{1,64}}@){_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+{_LABEL}")
_TAG = re.compile(r"<\S")
_NOT_IN_USERNAMES = re.compile(r"[^a-z0-9_.@-]")


def username(template: str, values: dict[str, str | None]) -> str | None:
    """The username that a template makes: lower case, what Moodle does not take replaced by `_`,
    accents left out. None where a value that the template names is missing, or nothing is left.
    """
    email = values.get("email") or ""
    parts = {**values, "local": email.partition("@")[0] or None}
    if any(not parts.get(name) for name in USERNAME_PART.findall(template)):
        return None
    text = USERNAME_PART.sub(lambda found: parts[found[1]] or "", template).strip().lower()
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    made = _NOT_IN_USERNAMES.sub("_", plain)
    return made if made.strip("_.@-") else None


def user_problem(values: dict[str, str | None]) -> Reason | None:
    """Why Moodle would not take the values of a person that are there; None where it would."""
    email = values.get("email")
    if email is not None and (len(email) > NAME_CHARACTERS or not _EMAIL.fullmatch(email)):
        return "bad_email", "Moodle does not take the e-mail address: correct it in Zoho"
    for field in ("first_name", "last_name"):
        name = values.get(field)
        if name is None:
            continue
        shown = field.replace("_", " ")
        if len(name) > NAME_CHARACTERS:
            return "name_too_long", f"the {shown} has more than {NAME_CHARACTERS} characters: shorten it"
        if _TAG.search(name):
            return "bad_name", f"the {shown} holds something like an HTML tag: correct it in Zoho"
    if len(values.get("zoho_id") or "") > USER_IDNUMBER_CHARACTERS:
        return "id_too_long", f"the Zoho id has more than {USER_IDNUMBER_CHARACTERS} characters"
    return None


def lacking(values: dict[str, str | None], login: str | None) -> Reason | None:
    """Why no account can be made of the values of a person; None where one can."""
    for field in ("email", "first_name", "last_name"):
        if not values.get(field):
            shown = "e-mail address" if field == "email" else field.replace("_", " ")
            return f"no_{field}", f"Moodle makes no account without {shown}: fill it in in Zoho"
    if login is None:
        return (
            "no_username",
            "MOODLE_USERNAME names a value that this student does not have, or not in Latin letters",
        )
    if len(login) > NAME_CHARACTERS:
        return "username_too_long", f"the username has more than {NAME_CHARACTERS} characters"
    return None


def course_problem(fullname: str, shortname: str, idnumber: str) -> Reason | None:
    """Why no course can be made for a class; None where one can."""
    if _TAG.search(fullname) or _TAG.search(shortname):
        return "bad_name", "the class's name holds something like an HTML tag: correct it in Zoho"
    if len(fullname) > FULLNAME_CHARACTERS:
        return "name_too_long", f"the class's name has more than {FULLNAME_CHARACTERS} characters: shorten it"
    if len(idnumber) > COURSE_IDNUMBER_CHARACTERS:
        return "id_too_long", f"the course's idnumber has more than {COURSE_IDNUMBER_CHARACTERS} characters"
    return None
