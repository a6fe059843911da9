"""What can go wrong with a call, and which call it goes wrong with."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from tests.moodle.errors import MoodleError, database_down, site_maintenance, upgrade_running, write_failed


class Fault(StrEnum):
    """The kinds; those named `..._after` change the site before they hit."""

    refused = "refused"  # the port is closed from this call on
    reset_before = "reset_before"  # the connection is closed without an answer
    reset_after = "reset_after"  # the connection is closed in the middle of the answer
    slow = "slow"  # the answer trickles
    timeout_before = "timeout_before"  # nothing is done, and no answer comes
    timeout_after = "timeout_after"  # the call is carried out, and no answer comes
    http_503_html = "http_503_html"
    garbage_before = "garbage_before"  # 200 with something that is no JSON
    garbage_after = "garbage_after"
    empty_200 = "empty_200"  # 200 with an empty body, nothing done
    token_revoked = "token_revoked"
    dmlwriteexception = "dmlwriteexception"  # a lost race
    dbconnectionfailed = "dbconnectionfailed"
    sitemaintenance = "sitemaintenance"
    upgraderunning = "upgraderunning"

    def error(self) -> MoodleError | None:
        """The error that a fault reports in place of a result."""
        match self:
            case Fault.dmlwriteexception:
                return write_failed("ERROR:  deadlock detected")
            case Fault.dbconnectionfailed:
                return database_down()
            case Fault.sitemaintenance:
                return site_maintenance()
            case Fault.upgraderunning:
                return upgrade_running()
        return None


class Plan(msgspec.Struct):
    """A fault that hits the nth call of a function, counted from now, and those after it."""

    fault: Fault
    function: str | None = None
    nth: int = 1
    times: int = 1

    def hits(self, function: str | None) -> bool:
        """Counts a call; whether the fault hits it."""
        if self.times < 1 or self.function not in {None, function}:
            return False
        if self.nth > 1:
            self.nth -= 1
            return False
        self.times -= 1
        return True


class Plans:
    """Faults to come."""

    def __init__(self) -> None:
        self._plans: list[Plan] = []

    def add(self, plan: Plan) -> None:
        self._plans.append(plan)

    def clear(self) -> None:
        self._plans.clear()

    def next(self, function: str | None) -> Fault | None:
        """The fault of this call, if one is due."""
        due = [plan.fault for plan in self._plans if plan.hits(function)]
        self._plans = [plan for plan in self._plans if plan.times]
        return due[0] if due else None
