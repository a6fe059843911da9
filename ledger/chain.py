"""The digest chain: proof that no event was altered, removed, inserted or moved.

`digest = SHA256(0x01 || columns)`, where columns is the MessagePack array of every
column of the event but `chain`, in the order of `ledger.events.Event`: MessagePack
tags each value with its type and length, null included, so two different events
never give the same bytes. `chain = SHA256(previous chain || digest)`; before the
first event it is 32 zero bytes. MessagePack is written in its shortest form.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec

GENESIS = bytes(32)
"""The chain value before a tenant's first event."""

_VERSION = b"\x01"
_encode = msgspec.msgpack.Encoder().encode


def link(previous: bytes, columns: Sequence[Any]) -> bytes:
    """The chain value of the event with these columns (all but `chain`).

    Instants are microseconds since 1970 UTC, as in `Event`.
    """
    return sha256(previous + sha256(_VERSION + _encode(columns)).digest()).digest()
