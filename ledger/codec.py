"""Events as bytes and back: topics, schema versions, upcasting.

A topic is the payload's type and schema version: `RecordReceived.v1`. An older
version is brought up step by step by the type's static methods
`upcast_v1_v2(state: dict) -> dict`, as in the `eventsourcing` library.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import msgspec
from eventsourcing.persistence import StoredEvent

from ledger.events import Event, MoodleReported, RecordReceived


class Payload(Protocol):
    """A msgspec Struct that says which version of its schema it is."""

    class_version: ClassVar[int]


class UnknownTopicError(Exception):
    """No type is registered for this topic; the event is kept, verified and ignored."""


_encoder = msgspec.json.Encoder(decimal_format="number")
_types: dict[str, type[Any]] = {}
_decoders: dict[str, msgspec.json.Decoder[Any]] = {}


def register(payload_type: type[Any]) -> type[Any]:
    """Makes a payload type known by its name."""
    _types[payload_type.__name__] = payload_type
    _decoders[topic_of(payload_type)] = msgspec.json.Decoder(payload_type)
    return payload_type


def topic_of(payload_type: type[Any]) -> str:
    """`RecordReceived` of version 1 -> `"RecordReceived.v1"`."""
    return f"{payload_type.__name__}.v{payload_type.class_version}"


def encode(payload: Payload) -> bytes:
    """The payload as JSON, decimals as plain JSON numbers with every digit."""
    return _encoder.encode(payload)


def decode(topic: str, state: bytes) -> Any:
    """The payload of a topic, upcast to the newest version of its type.

    Raises `UnknownTopicError`.
    """
    if decoder := _decoders.get(topic):
        return decoder.decode(state)
    name, _, version = topic.rpartition(".v")
    payload_type = _types.get(name)
    if payload_type is None or not version.isdigit():
        raise UnknownTopicError(topic)
    document = msgspec.json.decode(state)
    for old in range(int(version), payload_type.class_version):
        document = getattr(payload_type, f"upcast_v{old}_v{old + 1}")(document)
    return _decoders[topic_of(payload_type)].decode(_encoder.encode(document))


class Mapper:
    """Our Structs as the `eventsourcing` library's `StoredEvent` and back."""

    def to_stored_event(self, stream: str, version: int, payload: Payload) -> StoredEvent:
        """A stored event whose state is the payload in clear."""
        return StoredEvent(
            originator_id=stream,
            originator_version=version,
            topic=topic_of(type(payload)),
            state=encode(payload),
        )

    def to_domain_event(self, stored: StoredEvent) -> Any:
        """The payload of a stored event. Raises `UnknownTopicError`."""
        return decode(stored.topic, stored.state)


def stored_event(event: Event) -> StoredEvent:
    """An event of the ledger as the library knows it; a sealed payload stays sealed."""
    return StoredEvent(
        originator_id=event.stream,
        originator_version=event.version,
        topic=event.topic,
        state=event.payload,
    )


register(RecordReceived)
register(MoodleReported)
