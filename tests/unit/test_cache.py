"""One bound over what all lanes keep."""

from __future__ import annotations

from ledger.cache import Budget


class Kept:
    """What one lane keeps; `in_use` while a flush works with it."""

    def __init__(self, given_up: list[Kept], *, in_use: bool = False) -> None:
        self._given_up = given_up
        self.in_use = in_use

    def give_up(self) -> bool:
        """As a lane does."""
        if not self.in_use:
            self._given_up.append(self)
        return not self.in_use


def test_those_used_longest_ago_give_up() -> None:
    """As many as it takes, and no more; what is used again counts as new, with its new weight."""
    gone: list[Kept] = []
    first, second, third = Kept(gone), Kept(gone), Kept(gone)
    budget = Budget(10)
    assert budget.used(first, 4)
    assert budget.used(second, 4)
    assert budget.used(first, 5)
    assert (gone, budget.total) == ([], 9)
    assert budget.used(third, 4)
    assert (gone, budget.total) == ([second], 9)
    assert budget.used(third, 10)
    assert (gone, budget.total) == ([second, first], 10)


def test_what_is_in_use_stays() -> None:
    """The next one gives up in its place; where all others are in use, the one that asks."""
    gone: list[Kept] = []
    busy, idle, last = Kept(gone, in_use=True), Kept(gone), Kept(gone)
    budget = Budget(10)
    assert budget.used(busy, 6)
    assert budget.used(idle, 4)
    assert budget.used(last, 3)
    assert gone == [idle]
    assert not budget.used(last, 5)
    assert gone == [idle]
    budget.forget(last)
    assert budget.total == 6
    busy.in_use = False
    assert budget.used(last, 5)
    assert (gone, budget.total) == ([idle, busy], 5)


def test_one_that_is_too_large_alone() -> None:
    """There is no room for it, even where everybody else has given up."""
    gone: list[Kept] = []
    small, large = Kept(gone), Kept(gone)
    budget = Budget(10)
    assert budget.used(small, 1)
    assert not budget.used(large, 11)
    assert gone == [small]
    budget.forget(large)
    assert budget.total == 0
