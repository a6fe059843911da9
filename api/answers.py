"""What a sync endpoint says of each record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from ledger.lane import Delivery, Result
from ledger.pace import in_turns
from ledger.zoho.entities import Entities, Entity
from projections.fold import MISSING, Outcome
from projections.history import changes_of, problems_of

PENDING, QUEUED = "PENDING_MOODLE", "QUEUED"

_encode = msgspec.json.Encoder().encode
_VERBS = {"NEW": "created", "UPDATED": "updated", "UNCHANGED": "unchanged", "DELETED": "deleted"}
_SKIPPED = {
    "stale": "skipped: the ledger knows a newer version",
    "deleted": "skipped: not newer than its deletion",
    "not_approved": "skipped: not approved in Zoho yet",
}


def moodle_status(*, enabled: bool) -> str:
    """What becomes of an applied record in Moodle."""
    return QUEUED if enabled else PENDING


def renderer(
    entities: Entities, *, moodle_enabled: bool
) -> Callable[[Delivery, Sequence[Result]], Awaitable[tuple[bytes, bool]]]:
    """Makes the function that writes a delivery's answer. An answer with an ERROR in it
    is not remembered, so that the same request may be tried again.
    """
    moodle = moodle_status(enabled=moodle_enabled)

    async def render(delivery: Delivery, results: Sequence[Result]) -> tuple[bytes, bool]:
        answer: dict[str, Any] = {
            "status": "success",
            "idempotency_key": delivery.key,
            "results": [
                Raw(_encode(_entry(entities[r.record.entity], r, moodle))) async for r in in_turns(results)
            ],
        }
        if any(r.outcome.effects for r in results):
            released = await _released(entities, results)
            if released:
                answer["released"] = released
        return _encode(answer), all(r.outcome.status != "ERROR" for r in results)

    return render


async def _released(entities: Entities, results: Sequence[Result]) -> list[Raw]:
    """What is free now, in the ledger's order: the last word on each counts, since one that was
    released may wait again.
    """
    effects = in_turns(effect for r in results for effect in r.outcome.effects)
    last = {(e.entity, e.zoho_id): e async for e in effects}
    free = [effect for effect in last.values() if effect.reason == "released"]
    free.sort(key=lambda effect: effect.own_position)
    return [
        Raw(_encode({entities[e.entity].id_key: e.zoho_id, "status": e.status, "position": e.own_position}))
        async for e in in_turns(free)
    ]


def _entry(entity: Entity, result: Result, moodle: str) -> dict[str, Any]:
    outcome: Outcome = result.outcome
    entry: dict[str, Any] = {
        entity.id_key: result.record.zoho_id,
        "status": outcome.status,
        "message": message(entity, outcome),
    }
    if outcome.reason is not None:
        entry["reason"] = outcome.reason
    entry["position"] = result.position
    if outcome.status in _VERBS:
        entry["moodle_status"] = moodle
    if outcome.changes:
        entry["changes"] = changes_of(outcome.changes)
    if outcome.waiting_for:
        entry["waiting_for"] = [{"entity": e, "zoho_id": i} for e, i in outcome.waiting_for]
    if outcome.errors:
        entry["errors"] = problems_of(outcome.errors)
    if outcome.warnings:
        entry["warnings"] = problems_of(outcome.warnings)
    return entry


def message(entity: Entity, outcome: Outcome) -> str:
    """One sentence for a person who reads a webhook's log."""
    if outcome.status in _VERBS:
        return f"{entity.title} {_VERBS[outcome.status]}"
    if outcome.waiting_for:
        needed, zoho_id = outcome.waiting_for[0]
        return f"{needed.capitalize()} {zoho_id} not synced yet"
    if outcome.status == "INVALID" and outcome.errors:
        field, problem = outcome.errors[0]
        if problem == MISSING:
            return f"Missing required field: {field}"
        return f"Unusable field {field}: {problem}"
    if outcome.status == "ERROR":
        return f"{entity.title} recorded, but it could not be applied; it is kept to be tried again"
    return f"{entity.title} {_SKIPPED.get(outcome.reason or '', 'skipped')}"
