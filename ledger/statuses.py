"""The words of a status: how they are compared, and those that every college has by default.

Zoho's statuses are free words of a picklist, written by hand and by integrations, so two of
them are equal without case, blanks and invisible characters (Unicode category Cf, such as the
direction marks that come with Arabic and Hebrew).
"""

from __future__ import annotations

from collections.abc import Iterable

from ledger.texts import visible


def normal(status: str | None) -> str:
    """A status as it is compared; empty where there is none."""
    if not status:
        return ""
    return "".join(visible(status).split()).casefold()


def words(statuses: Iterable[str]) -> frozenset[str]:
    """A list of statuses as it is compared."""
    return frozenset(found for status in statuses if (found := normal(status)))


def is_in(status: str | None, listed: frozenset[str]) -> bool:
    """Whether a status is in a list. The first default list is compared as it was then, without
    case and the blanks around it, so that an upgrade takes no seat away.
    """
    if listed is FIRST_INACTIVE:
        return (status or "").strip().lower() in listed
    return normal(status) in listed


INACTIVE = words(
    (
        "Withdrawn", "Withdraw", "Cancelled", "Canceled", "Dropped", "Suspended", "Blocked",
        "Freeze", "Freezed", "Inactive", "Expelled", "Terminated",
    )
)  # fmt: skip
"""Statuses that take no seat in a course, of a tenant that says nothing else."""
FIRST_INACTIVE = words(
    ("Withdrawn", "Cancelled", "Dropped", "Suspended", "Freeze", "Freezed", "Inactive")
)  # fmt: skip
"""The same for a tenant that was founded when the list was shorter (`ledger.tenants.statuses` is 1)."""
KNOWN = words(
    (
        "Active", "Approved", "Enrolled", "Registered", "New", "Current", "Special", "Passive",
        "Completed", "Graduated", "End", "Enabled", "Waiting Assessment", "Waiting Reassessment",
        "Waiting Submission", "Waiting Resubmission",
    )
)  # fmt: skip
"""Statuses that take a seat and surprise nobody."""
