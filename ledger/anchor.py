"""Anchors: signed heads, to be kept where the ledger's administrators cannot reach them.

An anchor is a JSON file: the heads of some tenants at one moment and an Ed25519
signature (RFC 8032) over them. Whoever holds it can prove later that what lay before
is still what it was.
"""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from ledger import clock
from ledger.errors import ConfigurationError
from ledger.verify import Anchored

FORMAT = "sync-ledger anchor 1"


class AnchorError(Exception):
    """A file that is no anchor of this ledger, or was altered. The text says why."""


class Heads(msgspec.Struct, frozen=True):
    """What is signed."""

    format: str
    made_at: str
    heads: tuple[Anchored, ...]
    public_key: str


class Anchor(Heads, frozen=True):
    """What is written: the heads and the signature over them, in base64."""

    signature: str


_encode = msgspec.json.Encoder().encode


def new_signing_key() -> str:
    """A new Ed25519 private key as PEM."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def read_signing_key(pem: bytes, name: str) -> Ed25519PrivateKey:
    """The key of a PEM file. Raises `ConfigurationError` that names the variable."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            f"{name} does not hold an Ed25519 private key in PEM without a password: make one with "
            "`openssl genpkey -algorithm ed25519`"
        )
    return key


def _public(key: Ed25519PublicKey) -> str:
    return base64.b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def write_anchor(file: Path, heads: list[Anchored], key: Ed25519PrivateKey) -> Anchor:
    """Signs heads into a new file. Raises `AnchorError` where it exists or cannot be written."""
    signed = Heads(FORMAT, clock.to_text(clock.now()), tuple(heads), _public(key.public_key()))
    signature = base64.b64encode(key.sign(_encode(signed))).decode()
    anchor = Anchor(**msgspec.structs.asdict(signed), signature=signature)
    try:
        with file.open("xb") as handle:
            handle.write(msgspec.json.format(_encode(anchor), indent=1) + b"\n")
    except FileExistsError:
        raise AnchorError(f"{file} exists: an anchor is never overwritten, use another name") from None
    except OSError as error:
        raise AnchorError(f"{file} cannot be written: {error.strerror}") from None
    return anchor


def read_anchor(file: Path, key: Ed25519PublicKey) -> dict[str, Anchored]:
    """The heads of an anchor by tenant. Raises `AnchorError` where it is missing, altered, or
    signed by another key than `key`.
    """
    try:
        anchor = msgspec.json.decode(file.read_bytes(), type=Anchor)
    except OSError as error:
        raise AnchorError(f"{file} cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError:
        raise AnchorError(f"{file} is not an anchor of a sync ledger") from None
    if anchor.format != FORMAT:
        raise AnchorError(f"{file} is not an anchor of a sync ledger")
    if anchor.public_key != _public(key):
        raise AnchorError(f"{file} was signed by another key than LEDGER_SIGNING_KEY_FILE")
    signed = Heads(anchor.format, anchor.made_at, anchor.heads, anchor.public_key)
    try:
        key.verify(base64.b64decode(anchor.signature, validate=True), _encode(signed))
    except (InvalidSignature, ValueError):
        raise AnchorError(f"{file} was altered: its signature does not hold") from None
    return {head.tenant: head for head in anchor.heads}
