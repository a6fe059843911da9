"""A plan in the making, and what was found in Moodle on the way."""

from __future__ import annotations

from projections.moodle.plan import REFUSED_BY_MOODLE, Blocked, Plan, Settled
from projections.moodle.rules import Reason
from projections.moodle.site import Site
from projections.moodle.wanted import QUEUED, SYNCED, Wanted
from projections.state import Name


class Draft:
    """What all parts of a plan share. `users` and `courses`: Moodle's ids that were found, by student
    and by record; they outlive the draft. `whole`: everything is read and compared. Otherwise
    what Moodle has acknowledged is not read again, but for what is `doubtful`, since a call without an
    answer may have come behind a later one.
    """

    def __init__(
        self,
        site: Site,
        wanted: Wanted,
        users: dict[str, int],
        courses: dict[Name, int],
        *,
        whole: bool,
        doubtful: frozenset[Name] = frozenset(),
    ) -> None:
        self.site = site
        self.wanted = wanted
        self.users = users
        self.courses = courses
        self.whole = whole
        self.doubtful = doubtful
        self.plan = Plan()
        self.blocked: dict[Name, Reason] = {}

    def is_open(self, name: Name) -> bool:
        """Whether Moodle has not acknowledged a record's wanted state, or not for good."""
        return self.wanted.status(name) != SYNCED or name in self.doubtful

    def block(
        self, name: Name, reason: Reason, asked: str | None = None, moodle_id: str | None = None
    ) -> None:
        """It cannot be done. `asked`: the wanted state that is reported as refused; None: no report."""
        self.blocked[name] = reason
        if name[0] == "enrollment" and moodle_id is None:  # the seat that it has is not forgotten
            moodle_id = self.wanted.known(name).moodle_id
        if reason[0].startswith(REFUSED_BY_MOODLE):  # it was reported when Moodle refused it
            asked, moodle_id = None, moodle_id or self.wanted.known(name).moodle_id
        self.plan.blocked.append(Blocked(name, moodle_id, reason, asked))

    def settle(self, name: Name, moodle_id: str | None, asked: str | None) -> None:
        """Moodle has all that is wanted."""
        if asked is not None:
            self.plan.settled.append(Settled(name, moodle_id, asked))

    def refused_before(self, name: Name, asked: str | None) -> Reason | None:
        """Why Moodle itself refused exactly this before."""
        known = self.wanted.known(name)
        if known.asked != asked or not (known.reason or "").startswith(REFUSED_BY_MOODLE):
            return None
        if self.wanted.status(name) == QUEUED:  # a newer version came
            return None
        return known.reason or "", known.said or ""
