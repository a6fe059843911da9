"""Counters for Prometheus, one registry a process."""

from __future__ import annotations

from prometheus_client import Counter

RESULTS = Counter(
    "sync_ledger_records_total",
    "Records answered by the sync endpoints",
    ["entity", "answer"],
)
REFUSED = Counter(
    "sync_ledger_refused_total",
    "Requests that were refused before anything looked at them",
    ["why"],
)
