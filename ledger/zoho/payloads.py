"""Request bodies as Zoho and its scripts send them: one meaning, many shapes.

Zoho's workflow webhooks arrive as JSON, as a form, in the query, under any content
type; Deluge sends maps as text, JSON inside JSON, form fields `data`, `payload` or
`arguments`. So the content type is a hint only: what the bytes are is tried.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import msgspec
import multipart

from ledger.errors import TooLargeError, UnreadableBodyError
from ledger.zoho.records import says_delete

MAX_DEPTH = 64
_ENVELOPES = ("data", "records")
_FORM_FIELDS = ("data", "payload", "arguments")
_MAX_FIELDS = 10_000


def _exact(text: str) -> Decimal:
    """A JSON number with every digit. Raises `ValueError` for an exponent out of range."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("a number's exponent is out of range") from None


_decoder = msgspec.json.Decoder(float_hook=_exact)


class Payload(msgspec.Struct):
    """The records of one body, still as decoded JSON. `deletion`: the envelope says
    that they are gone. `suspect`: NUL or lone surrogates are possible in them.
    """

    records: list[Any]
    deletion: bool = False
    suspect: bool = True


def read_payload(body: bytes, content_type: str, query: bytes, *, max_records: int = 10_000) -> Payload:
    """The records of a POST.

    Raises `UnreadableBodyError` (nothing in it can be used) or `TooLargeError`.
    """
    value: Any = _NOT_JSON
    if body[:1] in (b"{", b"[") and content_type.startswith("application/json"):
        try:
            value = _decoder.decode(body)  # nearly every request
            if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
                _check_depth(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            value = _NOT_JSON
    usual = value is not _NOT_JSON
    payload = _records(value if usual else _unusual(body, content_type, query))
    payload.suspect = not usual or b"\\u" in body
    if len(payload.records) > max_records:
        raise TooLargeError(
            f"the payload holds {len(payload.records)} records, at most {max_records} are "
            "taken at once (MAX_RECORDS): send it in parts"
        )
    return payload


_NOT_JSON = object()


def _json(data: bytes | str) -> Any:
    """The decoded value, or `_NOT_JSON`. Fractions are exact decimals."""
    try:
        value = _decoder.decode(data)
    except RecursionError:
        _too_deep()
    except (msgspec.DecodeError, UnicodeError):
        value = _tolerant_json(data)
    if value is not _NOT_JSON:
        _check_depth(value)
    return value


def _tolerant_json(data: bytes | str) -> Any:
    # lone surrogates, a byte order mark, UTF-16: the standard library reads them
    try:
        if isinstance(data, bytes):
            data = data.decode(json.detect_encoding(data), "surrogatepass")
        return json.loads(data, parse_float=_exact, parse_constant=_refuse_constant)
    except RecursionError:
        _too_deep()
    except (json.JSONDecodeError, UnicodeError):
        return _NOT_JSON
    except ValueError:
        raise UnreadableBodyError(
            "a number in the body cannot be kept exactly: it is not finite, or it has thousands "
            "of digits, or an exponent out of range"
        ) from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _too_deep() -> NoReturn:
    raise UnreadableBodyError(f"the body is nested deeper than {MAX_DEPTH} levels")


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for container in level:
            inner = container.values() if type(container) is dict else container
            deeper += [v for v in inner if type(v) is dict or type(v) is list]
        if not deeper:
            return
        level = deeper
    if level:
        _too_deep()


def _unusual(body: bytes, content_type: str, query: bytes) -> Any:
    stripped = body.strip()
    if not stripped:
        fields = _form(query)
        if not fields:
            raise UnreadableBodyError("the body is empty: send a record, a list of records, or a form")
        return fields
    if stripped.startswith(b"--"):
        return _multipart(stripped, content_type)
    if body[:2] == b"\x1f\x8b":
        raise UnreadableBodyError("the body is compressed: send it plain")
    value = _json(body)
    if value is not _NOT_JSON:
        return value
    if stripped[:1] == b"<":
        raise UnreadableBodyError("the body is XML or HTML: send JSON or a form")
    if b"=" in stripped and stripped[:1] not in b'{["':
        return _form(stripped)
    raise UnreadableBodyError(f"the body is neither JSON nor a form: {_reason(body)}")


def _reason(body: bytes) -> str:
    try:
        _decoder.decode(body)
    except UnicodeError:
        return "its text is not UTF-8, send UTF-8"
    except msgspec.DecodeError as error:
        return f"{error}"
    return "no reason"


def _form(encoded: bytes) -> dict[str, Any]:
    try:
        # what is no UTF-8 becomes U+FFFD later, with a warning
        pairs = parse_qsl(
            encoded.decode("utf-8", "surrogateescape"),
            keep_blank_values=True,
            max_num_fields=_MAX_FIELDS,
            errors="surrogateescape",
        )
    except ValueError as error:
        raise UnreadableBodyError(f"the form cannot be read: {error}") from None
    return _unwrapped(dict(pairs))


def _multipart(body: bytes, content_type: str) -> dict[str, Any]:
    told = multipart.parse_options_header(content_type)[1].get("boundary", "")
    seen = body.split(b"\n", 1)[0].strip()[2:].decode("latin-1")
    reason: Exception | None = None
    for boundary in dict.fromkeys((told or seen, seen)):  # what the header says may be wrong
        try:
            if fields := _parts(body, boundary):
                return _unwrapped(fields)
        except (multipart.MultipartError, ValueError, AssertionError) as error:
            reason = reason or error
    raise UnreadableBodyError(f"the multipart form cannot be read: {reason or 'it has no fields'}")


def _parts(body: bytes, boundary: str) -> dict[str, Any]:
    fields: dict[str, str] = {}
    with multipart.PushMultipartParser(boundary, max_segment_count=_MAX_FIELDS) as parser:
        segment, value = None, bytearray()
        for part in parser.parse(body):
            if isinstance(part, multipart.MultipartSegment):
                segment, value = part, bytearray()
            elif part:
                value += part
            elif segment is not None and segment.name is not None:
                fields[segment.name] = value.decode("utf-8", "surrogateescape")
    return fields


def _unwrapped(fields: dict[str, Any]) -> dict[str, Any]:
    """Form fields as a body: `data`, `payload` and `arguments` hold it as JSON text."""
    for name in _FORM_FIELDS:
        if name in fields:
            inner = _json(fields[name])
            if inner is _NOT_JSON:
                raise UnreadableBodyError(f"the form field {name} does not hold JSON")
            rest = {key: value for key, value in fields.items() if key != name}
            return {**rest, "data": inner}
    return fields


def _records(value: Any) -> Payload:
    value = _decoded(value)
    if value is _NOT_JSON:
        raise UnreadableBodyError("the body is a text that holds no JSON")
    if isinstance(value, list):
        return Payload(value)
    if not isinstance(value, dict):
        raise UnreadableBodyError("the body holds no record: send an object or a list of objects")
    is_record = "id" in value or "ID" in value
    wrong, empty = None, None
    for name in _ENVELOPES:
        if name in value:
            inner = _unpacked(value[name])
            if inner is None:
                wrong = wrong or name
            elif inner.records:
                inner.deletion = inner.deletion or says_delete(value)
                return inner
            else:
                empty = inner
    if is_record or not (wrong or empty):
        return Payload([value])
    if empty is None:
        raise UnreadableBodyError(f"the value of {wrong!r} should be a record or a list of records")
    return empty


def _decoded(value: Any) -> Any:
    """Text decoded as JSON, as often as it was encoded."""
    for _ in range(MAX_DEPTH):
        if not isinstance(value, str):
            break
        value = _json(value)
    return value


def _unpacked(value: Any) -> Payload | None:
    """The records in an envelope's field; None where it is no envelope after all."""
    value = _decoded(value)
    if isinstance(value, list):
        return Payload(value)
    if isinstance(value, dict):
        return _records(value)
    return None
