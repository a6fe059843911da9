"""Statuses as words, and which ones a tenant has by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger import statuses
from ledger.settings import MoodleSettings, Settings, TenantSettings, load
from tests.harness import ROOT

OF_NOW, OF_THEN = "Blocked", "Freeze"


@pytest.mark.parametrize(
    "written",
    [
        "Waiting Assessment",
        "  waiting   ASSESSMENT ",
        "WaitingAssessment",
        "Waiting\u00a0Assessment",  # no-break space
        "\u200fWaiting\u200b Assess\u00adment\ufeff",  # direction mark, zero width, soft hyphen, BOM
        "Waiting\tAssessment\n",
        "\u2067Waiting\u3000Assessment\u2069",
    ],
)
def test_spellings_of_one_status(written: str) -> None:
    """Case, blanks and what cannot be seen do not count."""
    assert statuses.normal(written) == "waitingassessment"
    assert not MoodleSettings().is_unknown(written)
    assert MoodleSettings(inactive_statuses=statuses.words(["waiting assessment"])).takes_no_seat(written)


@pytest.mark.parametrize("nothing", [None, "", "  ", "\u200f", "\u00a0\ufeff"])
def test_no_status(nothing: str | None) -> None:
    """It takes a seat and is not unknown, whatever the lists are."""
    moodle = MoodleSettings(inactive_statuses=statuses.words(["", " "]), known_statuses=frozenset())
    assert not moodle.takes_no_seat(nothing)
    assert not moodle.is_unknown(nothing)


def test_other_words() -> None:
    """Letters count, those with marks and of other scripts too."""
    for one, other in (("End", "Ended"), ("Resume", "R\u00e9sum\u00e9"), ("\u0646\u0634\u0637", "Active")):
        assert statuses.normal(one) != statuses.normal(other)
    assert statuses.normal("STRASSE") == statuses.normal("stra\u00dfe")


def test_default_lists() -> None:
    """No word is in both; the first list is part of the wider one; each is as it is compared."""
    assert not statuses.INACTIVE & statuses.KNOWN
    assert statuses.FIRST_INACTIVE < statuses.INACTIVE
    for word in statuses.INACTIVE | statuses.KNOWN:
        assert statuses.normal(word) == word
    assert (len(statuses.INACTIVE), len(statuses.KNOWN)) == (12, 16)


def test_a_word_in_neither_list() -> None:
    """It takes a seat and is unknown; in either list it is not."""
    assert MoodleSettings().is_unknown("On leave")
    assert not MoodleSettings().takes_no_seat("On leave")
    on_leave = statuses.words(["on leave"])
    assert not MoodleSettings(known_statuses=on_leave).is_unknown("On leave")
    assert not MoodleSettings(inactive_statuses=on_leave).is_unknown("On leave")
    assert MoodleSettings(inactive_statuses=on_leave).is_unknown("Withdrawn")


def test_settings(tmp_path: Path) -> None:
    """From the environment for the default tenant, from the tenants' file for each."""
    file = tmp_path / "tenants.toml"
    file.write_text(
        '[tenants.amman.moodle]\ninactive_statuses = ["On Leave"]\nknown_statuses = ["Not\u00a0Yet ", "x"]\n'
        "[tenants.zarqa]\n"
    )
    given = {
        "TENANTS_FILE": str(file),
        "MOODLE_INACTIVE_STATUSES": "Gone, \u200fOn Leave,,",
        "MOODLE_KNOWN_STATUSES": "Here",
    }
    settings = load(given, tmp_path / "none")
    own, amman, zarqa = (settings.tenant(name).moodle for name in ("default", "amman", "zarqa"))
    assert (own.inactive_statuses, own.known_statuses) == ({"gone", "onleave"}, {"here"})
    assert (amman.inactive_statuses, amman.known_statuses) == ({"onleave"}, {"notyet", "x"})
    assert (zarqa.inactive_statuses, zarqa.known_statuses) == (None, statuses.KNOWN)


def test_the_example_file_sets_no_list(tmp_path: Path) -> None:
    """Whoever copies it to .env keeps the list that the tenant was founded with."""
    moodle = load({}, ROOT / ".env.example").tenant("default").moodle
    assert (moodle.inactive_statuses, moodle.known_statuses) == (None, statuses.KNOWN)


def test_lists_of_former_and_later_tenants() -> None:
    """A tenant that was founded with the first list has it, unless one is set for it."""
    set_ = MoodleSettings(inactive_statuses=statuses.words(["Gone"]))
    settings = Settings(
        home=Path(),
        tenants={"named": TenantSettings(date_order="mdy"), "set": TenantSettings(moodle=set_)},
        first_statuses=frozenset({"old", "named", "set"}),
    )
    for tenant, now, then, gone in (
        ("old", False, True, False),
        ("named", False, True, False),
        ("new", True, True, False),
        ("set", False, False, True),
    ):
        moodle = settings.tenant(tenant).moodle
        found = moodle.takes_no_seat(OF_NOW), moodle.takes_no_seat(OF_THEN), moodle.takes_no_seat("GONE")
        assert found == (now, then, gone), tenant
        assert moodle.is_unknown(OF_NOW) is not now
    assert settings.tenant("named").date_order == "mdy"
