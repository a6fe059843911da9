"""The keyed digests of a record's canonical fields, as they stand in an event.

Fields have numbers that never change (see `ledger.zoho.entities.Field`). A digest is
`ledger.vault.MAC_BYTES` long; equal values of one field under one key give equal digests.
"""

from __future__ import annotations

from collections.abc import Collection

from ledger.vault import MAC_BYTES

_NULL, _PROVISIONAL, _NUMBER = 0x80, 0x40, 0x3F

_MARKS = [bytes((mark,)) for mark in range(256)]

Macs = dict[int, bytes | None]
"""Field number -> its digest, None for an empty value."""


def pack(macs: Macs, provisional: Collection[int] = ()) -> bytes:
    """By field number: `number || digest`; bit 0x80 and no digest where the value is empty,
    bit 0x40 where it counts only while the state has none.
    """
    parts = []
    for number, digest in sorted(macs.items()):
        mark = number | _PROVISIONAL if number in provisional else number
        parts.append(_MARKS[mark | _NULL] if digest is None else _MARKS[mark] + digest)
    return b"".join(parts)


def unpack(packed: bytes) -> tuple[Macs, set[int]]:
    """The digests, and the numbers of the provisional ones."""
    macs: Macs = {}
    provisional = set()
    at, end = 0, len(packed)
    while at < end:
        mark = packed[at]
        at += 1
        if mark <= _NUMBER:  # nearly every one
            macs[mark] = packed[at : at + MAC_BYTES]
            at += MAC_BYTES
            continue
        number = mark & _NUMBER
        if mark & _PROVISIONAL:
            provisional.add(number)
        if mark & _NULL:
            macs[number] = None
        else:
            macs[number] = packed[at : at + MAC_BYTES]
            at += MAC_BYTES
    return macs, provisional
