"""What Moodle takes: usernames, addresses, names, lengths."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.settings import USERNAME_PARTS
from projections.moodle import rules
from tests.moodle.users import EMAIL

PERSON = {
    "email": "Layla.Nasser@College.Test",
    "zoho_id": "S-001",
    "student_number": "AB/12",
    "first_name": "Zoë Lúcia",
    "last_name": "O'Neill",
}
GOOD = {"email": "layla@college.test", "first_name": "Layla", "last_name": "Nasser", "zoho_id": "S1"}


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("{email}", "layla.nasser@college.test"),
        ("{local}", "layla.nasser"),
        ("{zoho_id}", "s-001"),
        ("{student_number}", "ab_12"),
        ("{first_name}.{last_name}", "zoe_lucia.o_neill"),
        ("st-{zoho_id}", "st-s-001"),
        (" {zoho_id} ", "s-001"),
    ],
)
def test_usernames(template: str, made: str) -> None:
    """Lower case, without accents, and `_` for what Moodle does not take."""
    assert rules.username(template, dict(PERSON)) == made


@pytest.mark.parametrize("part", USERNAME_PARTS)
@pytest.mark.parametrize("value", [None, ""])
def test_no_username_without_its_value(part: str, value: str | None) -> None:
    """A template that names a value that the person lacks makes no username."""
    person = {**PERSON, "email" if part == "local" else part: value}
    assert rules.username(f"x{{{part}}}", person) is None


def test_no_username_of_nothing() -> None:
    """Where nothing is left of the values there is no username."""
    assert rules.username("{first_name}", {**PERSON, "first_name": "\u0301"}) is None


@given(st.dictionaries(st.sampled_from(("email", "zoho_id", "first_name")), st.text(min_size=1)))
@example({"email": "\u0130@x"})
def test_whatever_the_values(values: dict[str, str]) -> None:
    """Every username has only Moodle's characters, and is as Moodle would keep it."""
    made = rules.username("{email}{zoho_id}{first_name}", dict(values))
    if made is not None:
        assert re.fullmatch(r"[a-z0-9_.@-]+", made)
        assert made == made.strip().lower()


@pytest.mark.parametrize(
    "email",
    [
        "layla@college.test", "o'neill@college.test", "a+b@x.co", "a_b-c@x-y.example", "1@2.de", "A@B.CD",
        "x" * 64 + "@college.test", "a@" + "b" * 63 + ".test", "x@" + ".".join(["a" * 40] * 2) + ".test",
    ],
)  # fmt: skip
def test_addresses(email: str) -> None:
    """What Moodle takes as an address."""
    assert rules.user_problem({**GOOD, "email": email}) is None
    assert EMAIL.fullmatch(email)


@pytest.mark.parametrize(
    "email",
    [
        "layla", "layla@", "@college.test", "layla@college", "a b@college.test", "a@b@college.test",
        "a..b@college.test", ".a@college.test", "a.@college.test", "a@-b.test", "a@b-.test", "a@b..test",
        "a@b.test.", "a@b_c.test", "läyla@college.test", "a@käse.test", "x" * 65 + "@college.test",
        "a@" + "b" * 64 + ".test", "a@" + "b." * 50 + "test", "a@b.test\n", "a@b.te\x00st", "<a@b.test>",
    ],
)  # fmt: skip
def test_no_addresses(email: str) -> None:
    """What it does not take is not sent, and the reason holds nothing of the value."""
    problem = rules.user_problem({**GOOD, "email": email})
    assert problem is not None
    code, said = problem
    assert code == "bad_email"
    assert email not in said


@given(st.emails())
def test_what_is_sent_is_taken(email: str) -> None:
    """No address that passes is one that Moodle would refuse."""
    if rules.user_problem({**GOOD, "email": email}) is None:
        assert EMAIL.fullmatch(email)
        assert len(email) <= 100


@pytest.mark.parametrize("field", ["first_name", "last_name"])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("<b>Layla</b>", "bad_name"),
        ("Layla<br", "bad_name"),
        ("</x>", "bad_name"),
        ("A < B", None),
        ("A > B", None),
        ("\u0644\u064a\u0644\u0649", None),
        ('O\'Neill-Smith, Jr. & "Co"', None),
        ("N" * 100, None),
        ("\u00e9" * 100, None),
        ("N" * 101, "name_too_long"),
    ],
)
def test_names(field: str, name: str, code: str | None) -> None:
    """Something like a tag, or more than 100 characters, is not sent; a lone `<` passes."""
    problem = rules.user_problem({**GOOD, field: name})
    assert (problem and problem[0]) == code
    if problem is not None:
        assert field.replace("_", " ") in problem[1]


def test_long_ids() -> None:
    """A Zoho id goes into the idnumber of 255 characters, of a course 100; a full name has 254."""
    assert rules.user_problem({**GOOD, "zoho_id": "1" * 255}) is None
    assert (rules.user_problem({**GOOD, "zoho_id": "1" * 256}) or ("",))[0] == "id_too_long"
    assert rules.course_problem("x" * 254, "x", "1" * 100) is None
    assert (rules.course_problem("x" * 255, "x", "1") or ("",))[0] == "name_too_long"
    assert (rules.course_problem("x", "x", "1" * 101) or ("",))[0] == "id_too_long"


@pytest.mark.parametrize(
    ("field", "code", "word"),
    [
        ("email", "no_email", "e-mail address"),
        ("first_name", "no_first_name", "first name"),
        ("last_name", "no_last_name", "last name"),
    ],
)
@pytest.mark.parametrize("value", [None, ""])
def test_what_is_lacking(field: str, code: str, word: str, value: str | None) -> None:
    """Moodle makes no account without these; each has its reason."""
    assert rules.lacking(dict(GOOD), "layla") is None
    reason = rules.lacking({**GOOD, field: value}, "layla")
    assert reason is not None
    assert reason[0] == code
    assert word in reason[1]


@pytest.mark.parametrize(
    ("login", "code"), [(None, "no_username"), ("x" * 100, None), ("x" * 101, "username_too_long")]
)
def test_lacking_usernames(login: str | None, code: str | None) -> None:
    """No account without a username, or with one of more than 100 characters."""
    reason = rules.lacking(dict(GOOD), login)
    assert (reason and reason[0]) == code


def test_what_is_not_there_is_no_problem() -> None:
    """Of an account that is there, Moodle keeps the values that Zoho does not have."""
    assert rules.user_problem({"email": None, "first_name": None, "last_name": None, "zoho_id": "S1"}) is None
