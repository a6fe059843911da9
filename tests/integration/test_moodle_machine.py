"""Moodle ends as the model of the wanted state has it, whatever went wrong on the way; and the machine
that says so is itself tested: it notices each of a list of defects.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from ledger.installation import Installation
from tests.model.moodle_machine import MoodleMachine, MoodleWorld
from tests.model.mutants import COMMON, ONLY_GENERATE, mutated, opened
from tests.moodle.double import MoodleDouble


@pytest.fixture
def world(installation: Installation, shared_moodle: MoodleDouble) -> Iterator[type[MoodleWorld]]:
    """A loop, a pool and a Moodle for all examples of one test."""
    MoodleWorld.moodle = shared_moodle
    yield from opened(MoodleWorld, installation, installation.database())


@pytest.mark.usefixtures("world")
def test_as_the_model_has_it() -> None:
    """Histories, faults and hands: always the same ones here, others in the long form."""
    always = {**COMMON, "derandomize": True, "print_blob": False}
    run_state_machine_as_test(MoodleMachine, settings=settings(max_examples=30, **always))


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.usefixtures("world")
def test_as_the_model_has_it_for_long() -> None:
    """The same with many more histories."""
    run_state_machine_as_test(MoodleMachine, settings=settings(max_examples=1000, **COMMON))


MUTANTS: dict[str, list[tuple[str, str, str]]] = {
    "an account is made without a look": [
        ("projections.moodle.accounts", 'in await self._site.users_by("idnumber", sorted(sought)):', "in [] if sought else []:"),
    ],
    "siblings are not asked before a seat is given up": [
        ("projections.moodle.worker", "dict.fromkeys([*todo, *others])", "dict.fromkeys(todo)"),
    ],
    "who moves keeps the old seat": [
        ("projections.moodle.seats", "        if known.moodle_id:\n            course, _, user", "        if known.moodle_id is known:\n            course, _, user"),
    ],
    "an account that was made is not reported": [
        ("projections.moodle.acts", "            await self._report(reports)  # before more is asked, which may fail\n", ""),
    ],
}  # fmt: skip
QUICK = set(MUTANTS) - {"siblings are not asked before a seat is given up"}
"""Those that some dozens of histories show."""


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in MUTANTS]
)
def test_the_machine_notices(name: str, installation: Installation) -> None:
    """A defect makes it fail."""
    with mutated(MUTANTS[name], installation), pytest.raises(BaseException) as caught:  # noqa: PT011
        run_state_machine_as_test(MoodleMachine, settings=settings(max_examples=300, **ONLY_GENERATE))
    assert isinstance(caught.value, AssertionError | BaseExceptionGroup), repr(caught.value)
