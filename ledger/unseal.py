"""Payloads in clear again: the counterpart of `ledger.seal`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ledger import vault
from ledger.codec import UnknownTopicError, decode
from ledger.database import Connection
from ledger.events import Event
from ledger.pace import in_turns
from ledger.store import wrapped_keys
from ledger.vault import MasterKey, SubjectKey

CACHED_KEYS = 200_000  # some 200 bytes each


class Unsealer:
    """Opens one tenant's sealed payloads with the keys of the vault.

    Keys are looked up when `learn` is called and forgotten with the unsealer, so one
    that lives long would know keys that were destroyed since. What one call has learned
    is known until the call after the next one, however many keys there are.
    """

    def __init__(self, tenant_id: str, master_key: MasterKey) -> None:
        self._tenant = tenant_id
        self._master_key = master_key
        self._keys: dict[bytes, bytes | None] = {}
        self._older: dict[bytes, bytes | None] = {}

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
        self._keys.update(dict.fromkeys(wanted))
        async for key_id, _, wrapped in in_turns(await wrapped_keys(connection, self._tenant, wanted)):
            self._keys[key_id] = self._master_key.sealing_key(self._tenant, key_id, wrapped)

    def _secret(self, key_id: bytes) -> bytes | None:
        """A key's bytes, None where it was destroyed. Raises `KeyError` where nobody has asked."""
        try:
            return self._keys[key_id]
        except KeyError:
            return self._older[key_id]

    def can_open(self, key_id: bytes | None) -> bool:
        """Whether a payload under this key can be read; one under no key always can."""
        return key_id is None or self._secret(key_id) is not None

    def open(self, key_id: bytes | None, payload: bytes, stream: str, version: int) -> bytes | None:
        """The payload in clear, None where its key was destroyed.

        Raises `InvalidTag` where anything was altered.
        """
        if key_id is None:
            return payload
        secret = self._secret(key_id)
        if secret is None:
            return None
        return SubjectKey.opened(secret, payload, vault.bound_to(self._tenant, stream, version))

    def record(self, topic: str, key_id: bytes | None, payload: bytes, stream: str, version: int) -> Any:
        """The record as stored, None where it cannot be read or the event carries none."""
        plain = self.open(key_id, payload, stream, version)
        try:
            return None if plain is None else decode(topic, plain).record
        except (UnknownTopicError, AttributeError):
            return None

    def values_of(self, event: Event) -> SealedValues | None:
        """The canonical values of a record's event, opened when they are asked for; None
        where the key was destroyed.
        """
        return SealedValues(self, event) if self.can_open(event.key_id) else None


class SealedValues:
    """The canonical values of one event, decoded when a fold needs them: most events that
    change nothing are folded from their digests alone.
    """

    __slots__ = ("_event", "_unsealer")

    def __init__(self, unsealer: Unsealer, event: Event) -> None:
        self._unsealer, self._event = unsealer, event

    @property
    def values(self) -> dict[str, str | None]:
        """Field -> value, as in `ledger.events.RecordReceived`."""
        event = self._event
        plain = self._unsealer.open(event.key_id, event.payload, event.stream, event.version)
        assert plain is not None
        values: dict[str, str | None] = decode(event.topic, plain).values
        return values
