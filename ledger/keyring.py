"""Proof that the keys of the vault are whole: each opens under the master key, none is missing,
and each stands under the subject whose events it seals.

A key's row binds tenant, key id and wrapped bytes to each other; that the subject is the right
one follows from the envelopes of the events that the key seals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

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

_CHECK = "select key_check from ledger.tenants where tenant_id = $1"
_SEVERAL = (  # an index keeps it from happening, unless somebody has removed that
    "select subject from vault.keys where tenant_id = $1 and wrapped is not null"
    " group by subject having count(*) > 1 order by subject limit $2"
)
_LIVE_KEYS = (
    "select key_id, subject, wrapped from vault.keys where tenant_id = $1 and wrapped is not null"
    " and subject > $2 order by subject limit $3"
)
_SEALED_BY = {entity.name: entity.sealed_by for entity in ENTITIES}
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
        self.bad: list[BadKey] = []
        self.more = False

    async def open_all(self, database: Database) -> None:
        """Opens every key that is not destroyed, page by page. Raises `DatabaseAwayError`."""
        async with database.transaction(self._tenant) as connection:
            check = await connection.fetchval(_CHECK, self._tenant)
            several = await connection.fetch(_SEVERAL, self._tenant, NAMED + 1)
        try:
            if check is not None:
                self._master_key.require(check)
        except ConfigurationError:
            self._name("master key", "the check of the master key in ledger.tenants was altered")
        for row in several:
            self._name(row["subject"], f"{row['subject']} has more than one key in vault.keys")
        subject = ""
        while True:
            async with database.transaction(self._tenant) as connection:
                rows = await connection.fetch(_LIVE_KEYS, self._tenant, subject, _PAGE)
            for key_id, subject, wrapped in rows:
                try:
                    self._master_key.unwrap(self._tenant, key_id, subject, wrapped)
                except DamagedError as error:
                    self._name(subject, str(error), key_id)
            if len(rows) < _PAGE:
                return
            await asyncio.sleep(0)

    async def find(self, connection: Connection, events: Collection[asyncpg.Record]) -> None:
        """Whether the keys that these events are sealed under are there, and whether each stands
        under the subject that the events speak of. Needs a transaction.
        """
        if len(self._subjects) > _REMEMBERED:
            self._subjects = {}
        subjects = self._subjects
        if unknown := {event["key_id"] for event in events} - subjects.keys() - {None}:
            subjects.update(dict.fromkeys(unknown))
            for key_id, subject, _ in await keys_of_vault(connection, self._tenant, unknown):
                subjects[key_id] = subject
        for event in events:
            if (key_id := event["key_id"]) is None:
                continue
            filed, speaks_of = subjects[key_id], _speaks_of(event)
            if filed is None:
                found = "not in vault.keys"
            elif not _is_of(vault.owner(filed), speaks_of):
                found = f"filed under {filed} in vault.keys"
            else:
                continue
            whose = f"of {speaks_of}, which seals" if speaks_of else "that seals"
            problem = f"the key {whose} position {event['position']} ({event['stream']}), is {found}"
            self._name(speaks_of or event["stream"], problem, key_id)

    def _name(self, subject: str, problem: str, key_id: bytes | None = None) -> None:
        if key_id in self._named:
            return
        if len(self.bad) == NAMED:
            self.more = True
            return
        self.bad.append(BadKey(subject, problem))
        if key_id is not None:
            self._named.add(key_id)


def _speaks_of(event: asyncpg.Record) -> str | None:
    """The subject whose key seals an event, as far as its envelope tells."""
    zoho_id, sealed_by = event["zoho_id"], _SEALED_BY.get(event["entity"])
    if zoho_id is None:
        return vault.QUARANTINE
    if sealed_by is None or sealed_by == "zoho_id":
        return f"{vault.PERSON}{zoho_id}" if sealed_by else None
    try:
        refs = _decode_refs(event["refs"] or "{}")
    except msgspec.MsgspecError:  # the chain tells
        return None
    person = refs.get(sealed_by)
    return f"{vault.PERSON}{person}" if person else None


def _is_of(subject: str, speaks_of: str | None) -> bool:
    return speaks_of in (None, subject) or (speaks_of == vault.QUARANTINE and subject.startswith(speaks_of))
