"""Keys that seal personal data, so that one person can be forgotten.

Each subject (a person: `person:<student id>`; a day's unreadable deliveries:
`quarantine:<date>`) has a key of 32 random bytes, stored wrapped by the master key
(AES-256-GCM). Payloads are sealed with AES-256-GCM under a key derived from it, and
canonical values are digested with BLAKE2b keyed by another (RFC 7693): equal values
of one subject compare equal for ever, and nobody can guess them without the key.

What comes while a subject's key cannot be used (its row was altered, or is gone) is sealed
under a spare one (subject `spare:person:<id>`), since the row may come back from a backup.
Whoever forgets a person destroys both.
"""

from __future__ import annotations

import os
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ledger.errors import ConfigurationError, DamagedError

NONCE_BYTES = 12
KEY_ID_BYTES = 16
MAC_BYTES = 8
QUARANTINE_DAYS = 90
"""After so many days the key of a day's unreadable deliveries is destroyed."""

PERSON, QUARANTINE, SPARE = "person:", "quarantine:", "spare:"
"""How subjects begin; after `SPARE` comes the subject whose own key cannot be used."""

_CHECK = b"sync-ledger master key"
_NOT_OPENED = (InvalidTag, ValueError)  # altered; cut so short that there is not even a nonce


def owner(subject: str) -> str:
    """The subject that a key is for, be it its own one or a spare one."""
    while subject.startswith(SPARE):
        subject = subject.removeprefix(SPARE)
    return subject


def _sealing_key(secret: bytes) -> bytes:
    return blake2b(secret, digest_size=32, person=b"seal").digest()


class SubjectKey:
    """One subject's key, unwrapped. It holds bytes alone: a cipher that is ready for use weighs
    2.5 KB and is made in a microsecond.
    """

    __slots__ = ("_sealing_key", "key_id", "mac_key", "subject")

    def __init__(self, key_id: bytes, subject: str, secret: bytes) -> None:
        self.key_id = key_id
        self.subject = subject
        self._sealing_key = _sealing_key(secret)
        self.mac_key = blake2b(secret, digest_size=32, person=b"mac").digest()

    def seal(self, plain: bytes, bound_to: bytes) -> bytes:
        """Nonce || ciphertext || tag; opens only with the same `bound_to`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + AESGCM(self._sealing_key).encrypt(nonce, plain, bound_to)

    def open(self, sealed: bytes, bound_to: bytes) -> bytes:
        """The plain bytes. Raises `DamagedError` where anything was altered."""
        return self.opened(self._sealing_key, sealed, bound_to)

    @staticmethod
    def opened(sealing_key: bytes, sealed: bytes, bound_to: bytes) -> bytes:
        """The same for a key that is known by its 32 bytes alone (`MasterKey.sealing_key`)."""
        return _decrypted(AESGCM(sealing_key), sealed, bound_to, "the payload")


def _decrypted(key: AESGCM, sealed: bytes, bound_to: bytes | None, what: str) -> bytes:
    try:
        return key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound_to)
    except _NOT_OPENED:
        raise DamagedError(f"{what} was altered") from None


def bound_to(tenant_id: str, stream: str, version: int) -> bytes:
    """What a payload is sealed to: its place in the ledger."""
    return f"{tenant_id}\0{stream}\0{version}".encode()


def mac(mac_key: bytes, field_number: int, value: str) -> bytes:
    """8 bytes that tell equal values of one field under one key, and only those."""
    return blake2b(
        value.encode(), digest_size=MAC_BYTES, key=mac_key, salt=field_number.to_bytes(2, "big")
    ).digest()


class MasterKey:
    """Wraps subject keys, and proves to a ledger that it is the one it was made with."""

    def __init__(self, key: bytes) -> None:
        self._key = AESGCM(key)
        self._secret = key

    def check(self) -> bytes:
        """A constant sealed under this key, to be stored when a tenant is made."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._key.encrypt(nonce, _CHECK, None)

    def require(self, check: bytes) -> None:
        """Raises `ConfigurationError` where `check` was made with another key."""
        try:
            _decrypted(self._key, check, None, "the check")
        except DamagedError:
            raise ConfigurationError(
                "LEDGER_MASTER_KEY is not the key that this ledger was made with: "
                "put back the key from your backup (environment, or master.key in LEDGER_HOME)"
            ) from None

    def password(self, role: str) -> str:
        """A database password that every server with this key derives alike."""
        return blake2b(role.encode(), key=self._secret, digest_size=24, person=b"role").hexdigest()

    def create(self, tenant_id: str, subject: str) -> tuple[SubjectKey, bytes]:
        """A new key for a subject, and its wrapped form for the vault."""
        key_id, secret = os.urandom(KEY_ID_BYTES), os.urandom(32)
        nonce = os.urandom(NONCE_BYTES)
        wrapped = nonce + self._key.encrypt(nonce, secret, tenant_id.encode() + b"\0" + key_id)
        return SubjectKey(key_id, subject, secret), wrapped

    def unwrap(self, tenant_id: str, key_id: bytes, subject: str, wrapped: bytes) -> SubjectKey:
        """A key of the vault. Raises `DamagedError` where its row was altered, but for the subject."""
        return SubjectKey(key_id, subject, self._unwrapped(tenant_id, key_id, subject, wrapped))

    def sealing_key(self, tenant_id: str, key_id: bytes, subject: str, wrapped: bytes) -> bytes:
        """The 32 bytes that open a subject's payloads: all that a reader needs of its key.

        Raises `DamagedError`, as `unwrap`.
        """
        return _sealing_key(self._unwrapped(tenant_id, key_id, subject, wrapped))

    def _unwrapped(self, tenant_id: str, key_id: bytes, subject: str, wrapped: bytes) -> bytes:
        what = f"the key of {subject} in vault.keys"
        return _decrypted(self._key, wrapped, tenant_id.encode() + b"\0" + key_id, what)
