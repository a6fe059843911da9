"""Random deliveries into the real ledger and into the reference model, side by side."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from ledger import chain
from ledger.database import Database
from ledger.errors import KeyConflictError
from ledger.installation import Installation
from ledger.store import EventStore
from ledger.verify import follow
from projections.state import from_columns
from tests.harness import Ledger
from tests.model import reference

PLURALS = {"student": "students", "program": "programs", "class": "classes", "enrollment": "enrollments"}
IDS = {
    "student": ["S1", "S2", "S1\u200f"], "program": ["P1", " zcrm_P2 "], "class": ["C1", "C2"],
    "enrollment": ["E1", "E2", "E3"],
}  # fmt: skip
TEXTS = ["ab", "b", None, "", "-None-", "a", ["x", "y"], "${!A.B} ${!C}"]
# the same text on the two sides of a border between fields
NEIGHBOURS = [
    {"First_Name": "ab", "Last_Name": None},
    {"First_Name": None, "Last_Name": "ab"},
    {"First_Name": "a", "Last_Name": "b"},
]
LOOKUPS = {
    "Student": [{"id": "S1", "name": "x"}, "S1", {"id": "S2"}, "S2", None, "Layla N"],
    "class": ["C1", "\ufeffC1", {"id": "C1"}, "C2", {"id": "C2", "name": "y"}, ""],
    "other": ["P1", {"id": "P1"}, None, {"name": "no id"}],
}


def _value(field: str, kind: str) -> st.SearchStrategy[Any]:
    if kind == "price":
        return st.sampled_from([*reference.PRICES, None])
    if kind == "date":
        return st.sampled_from([*reference.DATES, None])
    if kind == "lookup":
        pool = {"student_zoho_id": "Student", "class_zoho_id": "class"}.get(field, "other")
        return st.sampled_from(LOOKUPS[pool])
    return st.sampled_from(TEXTS)


@st.composite
def records(draw: Any, entity: str) -> Any:
    """One record: whole or thin, odd, stale, deleted, a draft, or no record at all."""
    if draw(st.integers(0, 30)) == 0:
        return draw(st.sampled_from([7, None, {"Name": "x"}, {"id": ""}, {"id": "-None-"}]))
    raw: dict[str, Any] = {"id": draw(st.sampled_from(IDS[entity]))}
    if entity == "student" and draw(st.integers(0, 3)) == 0:
        return {**raw, **draw(st.sampled_from(NEIGHBOURS))}
    thin = draw(st.booleans())
    for field, (names, kind) in reference.FIELDS[entity].items():
        needed = field in reference.REQUIRED[entity]
        if needed and (not thin or draw(st.booleans())):
            good = {"student_zoho_id": ["S1", "S2"], "class_zoho_id": ["C1", "C2"]}.get(field, ["n", "m"])
            raw[draw(st.sampled_from(names))] = draw(
                st.sampled_from(good) if draw(st.integers(0, 9)) else _value(field, kind)
            )
        elif draw(st.integers(0, 3)) == 0:
            for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
                raw[name] = draw(_value(field, kind))
    if entity == "class" and draw(st.integers(0, 9)) == 0:
        raw["Name"] = "C26"
    if draw(st.integers(0, 2)) == 0:
        raw["Modified_Time"] = draw(st.sampled_from(list(reference.INSTANTS)))
    odd = draw(st.integers(0, 14))
    if odd in (0, 1):
        raw.update(
            draw(
                st.sampled_from(
                    [{"Record_Status__s": "Trash"}, {"Record_Status__s": 0}, {"operation": "delete"}]
                )
            )
        )
    elif odd == 2:
        raw.update(
            draw(st.sampled_from([{"$state": "draft"}, {"$approved": False}, {"Record_Status__s": "Draft"}]))
        )
    return raw


@st.composite
def deliveries(draw: Any) -> tuple[str, list[Any]]:
    """A request: mostly a few records, sometimes up to fifty."""
    entity = draw(st.sampled_from(["enrollment", "class", "student", "program", "enrollment"]))
    most = 50 if draw(st.integers(0, 20)) == 0 else 4
    return entity, draw(st.lists(records(entity), min_size=1, max_size=most))


class World:
    """What all examples of a run share: an event loop, the database, an installation."""

    loop: asyncio.AbstractEventLoop
    installation: Installation
    database: Database


class LedgerMachine(RuleBasedStateMachine):
    """Two tenants, two lanes each (as two processes would have), one reference model each."""

    world: type[World] = World

    def __init__(self) -> None:
        super().__init__()
        self.models = [reference.Tenant(), reference.Tenant()]
        self.ledgers = [
            [Ledger(self.world.installation, self.world.database, tenant) for _ in range(2)]
            for tenant in (f"m-{uuid.uuid4().hex[:12]}", f"m-{uuid.uuid4().hex[:12]}")
        ]
        self.sent: list[tuple[int, str, list[Any], str | None]] = []

    def run(self, coroutine: Any) -> Any:
        """Runs a coroutine in the shared loop."""
        return self.world.loop.run_until_complete(coroutine)

    def _send(self, tenant: int, lane: int, entity: str, raw: list[Any], key: str | None) -> None:
        expected = self.models[tenant].deliver(entity, raw, key)
        try:
            answer = self.run(self.ledgers[tenant][lane].submit(PLURALS[entity], raw, key))
        except KeyConflictError:
            assert expected == "conflict"
            return
        assert isinstance(expected, dict), "the ledger should have refused the key"
        assert answer.replayed == expected["replayed"]
        body = json.loads(answer.body)
        assert [_told(entity, r) for r in body["results"]] == [_asked(r) for r in expected["results"]]
        released = [
            {"id": r["zoho_enrollment_id"], "status": r["status"], "position": r["position"]}
            for r in body.get("released", [])
        ]
        assert released == expected["released"]

    @rule(tenant=st.sampled_from([0, 0, 0, 1]), lane=st.sampled_from([0, 0, 1]), delivery=deliveries(),
          key=st.sampled_from([None, None, None, "k1", "k2"]))  # fmt: skip
    def deliver(self, tenant: int, lane: int, delivery: tuple[str, list[Any]], key: str | None) -> None:
        """A request arrives."""
        entity, raw = delivery
        self.sent.append((tenant, entity, raw, key))
        self._send(tenant, lane, entity, raw, key)

    @rule(lane=st.integers(0, 1), data=st.data())
    def at_the_same_instant(self, lane: int, data: Any) -> None:
        """A record, its deletion and its return, all of one instant, in any order."""
        stated = {"id": "P9", "Modified_Time": data.draw(st.sampled_from(list(reference.INSTANTS)))}
        versions = [
            {**stated, "Product_Name": "n"}, {**stated, "operation": "delete"}, {**stated, "Product_Name": "m"},
        ]  # fmt: skip
        for raw in data.draw(st.permutations(versions)):
            self._send(0, lane, "program", [raw], uuid.uuid4().hex)

    @rule(lane=st.integers(0, 1), later=st.booleans())
    def moved_while_it_waited(self, lane: int, later: bool) -> None:
        """The same text moves to the next field while an enrollment is active nowhere: only the
        fingerprint of its last activity tells that it is another one when it is released.
        """
        said = {"id": "E9", "Student": "S9", "Class": "C9", "Program": "ab", "status": None}
        for entity, raw in (
            ("student", {"id": "S9"}),
            ("class", {"id": "C9", "Class_Name": "n"}),
            ("enrollment", said),
            ("class", {"id": "C9", "operation": "delete"}),
            ("enrollment", {**said, "Program": None, "status": "ab"} if later else said),
            ("class", {"id": "C9", "Class_Name": "n"}),
        ):
            self._send(0, lane, entity, [raw], uuid.uuid4().hex)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), lane=st.integers(0, 1))
    def again(self, data: Any, lane: int) -> None:
        """A former request arrives again, perhaps at the other process."""
        tenant, entity, raw, key = data.draw(st.sampled_from(self.sent))
        self._send(tenant, lane, entity, raw, key)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), lane=st.integers(0, 1))
    def permuted(self, data: Any, lane: int) -> None:
        """The records of a former request arrive in another order."""
        tenant, entity, raw, _ = data.draw(st.sampled_from(self.sent))
        self._send(tenant, lane, entity, data.draw(st.permutations(raw)), None)

    @rule(tenant=st.integers(0, 1), lane=st.integers(0, 1))
    def restart(self, tenant: int, lane: int) -> None:
        """A process ends and another takes its place."""
        ledger = self.ledgers[tenant][lane]
        self.run(ledger.close())
        ledger.lane = ledger.new_lane()

    @rule(tenant=st.integers(0, 1))
    def look(self, tenant: int) -> None:
        """State, waiting ones and statuses are as the model has them."""
        self.run(self._compare(tenant))

    async def _compare(self, tenant: int) -> None:
        ledger, model = self.ledgers[tenant][0], self.models[tenant]
        live = await ledger.live()
        found = {}
        for columns in live.records:
            row = from_columns(columns)
            found[row.name] = (
                row.state, row.version, row.state_version, row.position,
                {k: v for k, v in row.fields.items() if v is not None}, list(row.waiting_for),
            )  # fmt: skip
        expected = {
            name: (
                r.state, r.version, r.state_version, r.position,
                {k: v for k, v in r.fields.items() if v is not None}, r.waiting_for,
            )
            for name, r in model.records.items()
            if r.version
        }  # fmt: skip
        assert found == expected
        own = sorted((o[0], o[4], o[5]) for o in live.outcomes if o[3])
        assert own == [(i, *status) for i, status in enumerate(model.statuses, 1)]
        for row in expected.values():
            assert not any(model.is_active(*need) for need in row[5]), "a need that is there"

    async def _prove(self, tenant: int) -> None:
        ledger, model = self.ledgers[tenant][0], self.models[tenant]
        store = EventStore(ledger.database, ledger.tenant, ledger.installation.master_key)
        events = await store.events()
        assert [e.position for e in events] == list(range(1, model.position + 1))
        follow(chain.GENESIS, events)
        assert await ledger.live() == await ledger.rebuilt()

    def teardown(self) -> None:
        """At the end everything holds, and a replay from nothing gives the same rows."""
        try:
            for tenant in (0, 1):
                self.run(self._compare(tenant))
                self.run(self._prove(tenant))
        finally:
            for ledger in (ledger for pair in self.ledgers for ledger in pair):
                self.run(ledger.close())


def _told(entity: str, result: dict[str, Any]) -> dict[str, Any]:
    """The ledger's result in the model's words."""
    told = {"id": result[f"zoho_{entity}_id"], "status": result["status"], "position": result["position"]}
    if "reason" in result:
        told["reason"] = result["reason"]
    if "changes" in result:
        told["changes"] = result["changes"]
    if "waiting_for" in result:
        told["waiting_for"] = [(w["entity"], w["zoho_id"]) for w in result["waiting_for"]]
    if "errors" in result:
        told["errors"] = [e["field"] for e in result["errors"]]
    if "warnings" in result:
        told["warnings"] = sorted(w["field"] for w in result["warnings"])
    return told


def _asked(result: dict[str, Any]) -> dict[str, Any]:
    """The model's result without what a former delivery's answer may have shared."""
    asked = dict(result)
    if "warnings" in asked:
        asked["warnings"] = sorted(asked["warnings"])
    return asked
