"""Proof that the keys of the vault are whole: each opens under the master key, none is missing,
and each stands under the subject whose events it seals.

A key's row binds tenant, key id and wrapped bytes to each other; that the subject is the right
one follows from the envelopes of the events that the key seals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import asyncpg
import msgspec

from ledger import vault
from ledger.database import Connection, Database
from ledger.errors import ConfigurationError, DamagedError
from ledger.store import keys_of_vault
from ledger.vault import MasterKey
from ledger.zoho.entities import ENTITIES

NAMED = 1_000
"""So many bad keys are named; all are counted."""
_PAGE = 5_000
_REMEMBERED = 200_000  # key ids, some 150 bytes each

_LIVE_KEYS = (
    "select key_id, subject, wrapped from vault.keys where tenant_id = $1 and wrapped is not null"
    " and subject >= $2 and (subject, key_id) > ($2, $3) order by subject, key_id limit $4"
)
SELECT_CHECK = "select key_check from ledger.tenants where tenant_id = $1"
_decode_refs = msgspec.json.Decoder(dict[str, str | None]).decode


class BadKey(msgspec.Struct, frozen=True):
    """A key that is not as it should be. `subject`: whose it is, `person:<id>` or the like."""

    subject: str
    problem: str


class Keyring:
    """The keys of one tenant as they were found: `bad` names those that are not as they should be,
    and `more` says that there are others.
    """

    def __init__(self, tenant_id: str, master_key: MasterKey) -> None:
        self._tenant = tenant_id
        self._master_key = master_key
        self._subjects: dict[bytes, str | None] = {}
        self._named: set[bytes] = set()
        self.count = 0
        """Keys that were opened."""
        self.bad: list[BadKey] = []
        self.more = False

    async def open_all(self, database: Database) -> None:
        """Opens every key that is not destroyed, page by page. Raises `DatabaseAwayError`."""
        async with database.transaction(self._tenant) as connection:
            check = await connection.fetchval(SELECT_CHECK, self._tenant)
        try:
            self._master_key.require(check or b"")
        except ConfigurationError:
            self._name("master key", "the check of the master key in ledger.tenants was altered")
        subject, key_id = "", b""
        while True:
            async with database.transaction(self._tenant) as connection:
                rows = await connection.fetch(_LIVE_KEYS, self._tenant, subject, key_id, _PAGE)
            self.count += len(rows)
            for row in rows:
                if row["subject"] == subject:
                    self._name(subject, f"{subject} has more than one key in vault.keys")
                key_id, subject, wrapped = row
                try:
                    self._master_key.unwrap(self._tenant, key_id, subject, wrapped)
                except DamagedError as error:
                    self._name(subject, str(error), key_id)
            if len(rows) < _PAGE:
                return
            await asyncio.sleep(0)

    async def find(self, connection: Connection, events: Iterable[asyncpg.Record]) -> None:
        """Whether the keys that these events are sealed under are there, and whether each stands
        under the subject that the events speak of. Needs a transaction.
        """
        sealed = [event for event in events if event["key_id"] is not None]
        if len(self._subjects) > _REMEMBERED:
            self._subjects = {}
        if unknown := {event["key_id"] for event in sealed} - self._subjects.keys():
            self._subjects.update(dict.fromkeys(unknown))
            for key_id, subject, _ in await keys_of_vault(connection, self._tenant, unknown):
                self._subjects[key_id] = subject
        for event in sealed:
            filed, speaks_of = self._subjects[event["key_id"]], _speaks_of(event)
            if filed is None:
                problem = f"the key of {speaks_of}, which seals {_place(event)}, is not in vault.keys"
            elif not _is_of(vault.owner(filed), speaks_of):
                problem = f"the key of {speaks_of}, which seals {_place(event)}, is filed under {filed} in vault.keys"
            else:
                continue
            self._name(speaks_of or "unknown", problem, event["key_id"])

    def _name(self, subject: str, problem: str, key_id: bytes | None = None) -> None:
        if key_id in self._named:
            return
        if len(self.bad) == NAMED:
            self.more = True
            return
        self.bad.append(BadKey(subject, problem))
        if key_id is not None:
            self._named.add(key_id)


def _place(event: asyncpg.Record) -> str:
    return f"position {event['position']} ({event['stream']})"


def _speaks_of(event: asyncpg.Record) -> str | None:
    """The subject whose key seals an event, as far as its envelope tells."""
    zoho_id, entity = event["zoho_id"], event["entity"]
    if zoho_id is None:
        return vault.QUARANTINE
    if entity not in ENTITIES or (sealed_by := ENTITIES[entity].sealed_by) is None:
        return None
    if sealed_by == "zoho_id":
        return f"{vault.PERSON}{zoho_id}"
    try:
        refs = _decode_refs(event["refs"] or "{}")
    except msgspec.MsgspecError:  # the chain tells
        return None
    person = refs.get(sealed_by)
    return f"{vault.PERSON}{person}" if person else None


def _is_of(subject: str, speaks_of: str | None) -> bool:
    return speaks_of in (None, subject) or (speaks_of == vault.QUARANTINE and subject.startswith(speaks_of))
