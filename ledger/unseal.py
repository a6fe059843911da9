"""Payloads in clear again: the counterpart of `ledger.seal`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ledger import vault
from ledger.codec import UnknownTopicError, decode
from ledger.database import Connection
from ledger.errors import DamagedError
from ledger.events import Event
from ledger.pace import in_turns
from ledger.store import keys_of_vault
from ledger.vault import MasterKey, SubjectKey

CACHED_KEYS = 200_000  # some 200 bytes each


class Unsealer:
    """Opens one tenant's sealed payloads with the keys of the vault.

    Keys are looked up when `learn` is called and forgotten with the unsealer, so one
    that lives long would know keys that were destroyed since. What one call has learned
    is known until the call after the next one, however many keys there are. A key that
    cannot be used is no obstacle for the others: what is wrong is said where it is needed.
    """

    def __init__(self, tenant_id: str, master_key: MasterKey) -> None:
        self._tenant = tenant_id
        self._master_key = master_key
        self._keys: dict[bytes, bytes | str | None] = {}  # its bytes, or what is wrong with it
        self._older: dict[bytes, bytes | str | None] = {}

    async def learn(self, connection: Connection, key_ids: Iterable[bytes | None]) -> None:
        """Reads the keys that are not known yet; one that was destroyed is known as such."""
        needed = {key_id for key_id in key_ids if key_id is not None}
        if len(self._keys.keys() | needed) > CACHED_KEYS:
            self._older, self._keys = self._keys, {}
        for key_id in needed & self._older.keys():
            self._keys.setdefault(key_id, self._older[key_id])
        wanted = needed - self._keys.keys()
        if not wanted:
            return
        self._keys.update(dict.fromkeys(wanted, "the key that seals the payload is not in vault.keys"))
        found = await keys_of_vault(connection, self._tenant, wanted)
        async for key_id, subject, wrapped in in_turns(found):
            self._keys[key_id] = self._usable(key_id, subject, wrapped)

    def _usable(self, key_id: bytes, subject: str, wrapped: bytes | None) -> bytes | str | None:
        if wrapped is None:
            return None
        try:
            return self._master_key.sealing_key(self._tenant, key_id, subject, wrapped)
        except DamagedError as error:
            return str(error)

    def _key(self, key_id: bytes) -> bytes | str | None:
        """A key's bytes, None where it was destroyed, or what is wrong with it. Raises `KeyError`
        where nobody has asked.
        """
        try:
            return self._keys[key_id]
        except KeyError:
            return self._older[key_id]

    def is_destroyed(self, key_id: bytes | None) -> bool:
        """Whether nobody can read what is under this key, and nobody is to."""
        return key_id is not None and self._key(key_id) is None

    def payload(
        self, topic: str, key_id: bytes | None, payload: bytes, stream: str, version: int
    ) -> Any | None:
        """The payload of an event, decoded; None where its key was destroyed.

        Raises `DamagedError` where it or its key was altered or is gone, `UnknownTopicError`.
        """
        if key_id is not None:
            key = self._key(key_id)
            if key is None:
                return None
            if isinstance(key, str):
                raise DamagedError(key)
            payload = SubjectKey.opened(key, payload, vault.bound_to(self._tenant, stream, version))
        try:
            return decode(topic, payload)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise DamagedError("the payload was altered") from None

    def record(self, topic: str, key_id: bytes | None, payload: bytes, stream: str, version: int) -> Any:
        """The record as stored, None where its key was destroyed or the event carries none.

        Raises `DamagedError`, as `payload`.
        """
        try:
            found = self.payload(topic, key_id, payload, stream, version)
        except (UnknownTopicError, AttributeError):  # the latter: of a version that nobody brings up
            return None
        return getattr(found, "record", None)

    def values_of(self, event: Event) -> SealedValues | None:
        """The canonical values of a record's event, opened when they are asked for; None
        where the key was destroyed.
        """
        return None if self.is_destroyed(event.key_id) else SealedValues(self, event)


class SealedValues:
    """The canonical values of one event, decoded when a fold needs them: most events that
    change nothing are folded from their digests alone.
    """

    __slots__ = ("_event", "_unsealer")

    def __init__(self, unsealer: Unsealer, event: Event) -> None:
        self._unsealer, self._event = unsealer, event

    @property
    def values(self) -> dict[str, str | None]:
        """Field -> value, as in `ledger.events.RecordReceived`. Raises `DamagedError`."""
        event = self._event
        found = self._unsealer.payload(event.topic, event.key_id, event.payload, event.stream, event.version)
        assert found is not None
        values: dict[str, str | None] = found.values
        return values
