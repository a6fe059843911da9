"""What was stored by an earlier release is read, verified and replayed by this one."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ledger import chain, codec
from ledger.codec import UnknownTopicError, decode, encode, register
from ledger.database import ConnectionSettings, Database, connect
from ledger.events import RecordReceived
from ledger.installation import Installation
from ledger.store import EventStore
from ledger.vault import MasterKey
from ledger.verify import follow, verify
from ledger.zoho.entities import ENTITIES
from projections.fold import CurrentState
from projections.history import Filter, History
from tests.golden import FOLDER, packed, restore
from tests.harness import rebuild

DUMPS = sorted(path for path in FOLDER.glob("ledger_*.json"))
EVENTS = sorted(path for path in FOLDER.glob("*.v*.json"))


@pytest.mark.parametrize("path", DUMPS, ids=lambda path: path.stem)
async def test_golden_dump(path: Path, installation: Installation, database: Database) -> None:
    """The chain holds and a replay gives the rows that the earlier release had."""
    document = json.loads(path.read_text())
    assert installation.embedded is not None
    admin = await connect(
        ConnectionSettings(installation.embedded.dsn(), password=installation.embedded.password())
    )
    try:
        await restore(admin, document)
    finally:
        await admin.execute("delete from ledger.tenants where tenant_id = $1", document["tenant"])
        await admin.close()
    tenant, master_key = document["tenant"], MasterKey(base64.b64decode(document["master_key"]))
    events = await EventStore(database, tenant, master_key).events()
    head = document["rows"]["ledger.heads"][0]
    assert packed(follow(chain.GENESIS, events)) == head["chain"]
    verdict = await verify(database, tenant, master_key)
    assert (verdict.ok, verdict.events) == (True, len(events)), verdict
    rebuilt = await rebuild(database, tenant, master_key, CurrentState(ENTITIES))
    for table, expected in document["expected"].items():
        found = sorted(([packed(v) for v in row] for row in getattr(rebuilt, table)), key=repr)
        assert found == expected, table
    listed = await History(database, tenant, master_key, ENTITIES).events(Filter(warnings=True), 100)
    fields = {warning["field"] for item in listed.items for warning in item["warnings"]}
    assert fields >= {"price", "start_date", "last_name"}, "stored before they were listed"


@pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)
def test_golden_event(path: Path) -> None:
    """The bytes of each version of each payload mean what they meant."""
    document = json.loads(path.read_text())
    payload = decode(path.stem, document["stored"].encode())
    assert json.loads(msgspec.json.encode(payload)) == document["means"]


def test_every_payload_version_has_a_golden_file() -> None:
    """A new version cannot come without one."""
    assert {path.stem for path in EVENTS} >= set(codec._decoders)


def test_upcasting(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old version is brought up step by step; a newer or unknown one is left alone."""
    monkeypatch.setattr(codec, "_types", dict(codec._types))
    monkeypatch.setattr(codec, "_decoders", dict(codec._decoders))

    class Greeted(msgspec.Struct):
        class_version = 3
        first: str
        last: str
        loud: bool

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> dict[str, Any]:
            first, _, last = state.pop("name").partition(" ")
            return {**state, "first": first, "last": last}

        @staticmethod
        def upcast_v2_v3(state: dict[str, Any]) -> dict[str, Any]:
            return {**state, "loud": False}

    register(Greeted)
    expected = Greeted("Layla", "Nasser", loud=False)
    assert decode("Greeted.v1", b'{"name": "Layla Nasser"}') == expected
    assert decode("Greeted.v2", b'{"first": "Layla", "last": "Nasser"}') == expected
    assert decode("Greeted.v3", encode(expected)) == expected
    for topic in ("Unknown.v1", "nonsense", "Greeted.vx"):
        with pytest.raises(UnknownTopicError):
            decode(topic, b"{}")


def test_the_mapper_and_the_library() -> None:
    """A payload becomes the library's stored event and comes back."""
    payload = RecordReceived(record=msgspec.Raw(b'{"id":"1"}'), values={"name": "x"})
    stored = codec.Mapper().to_stored_event("program-1", 1, payload)
    assert (stored.topic, stored.originator_version) == ("RecordReceived.v1", 1)
    assert codec.Mapper().to_domain_event(stored) == payload
