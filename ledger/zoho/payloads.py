"""Request bodies as Zoho and its scripts send them: one meaning, many shapes.

Zoho's workflow webhooks arrive as JSON, as a form, in the query, under any content
type; Deluge sends maps as text, JSON inside JSON, form fields `data`, `payload` or
`arguments`. So the content type is a hint only: what the bytes are is tried. Every
record of a body is found, in the order in which they stand; a body of which a part
would be lost, or that has two meanings, is refused as a whole.
"""

from __future__ import annotations

import json
import re
from binascii import Error as BinasciiError
from binascii import a2b_base64, a2b_qp
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn
from urllib.parse import parse_qsl

import msgspec
import multipart

from ledger.errors import TooLargeError, UnreadableBodyError
from ledger.texts import visible
from ledger.zoho.charsets import ANY, UTF_8, Charset, named_charset, with_mark
from ledger.zoho.records import Reader, Record, says_deleted
from ledger.zoho.values import ID_NAMES, MAX_DEPTH, has_id, is_deeper, is_empty, is_structured

ENVELOPES = ("data", "records", "payload", "arguments")
_NAMED_AS_LIST = {f"{name}[]": name for name in ENVELOPES}  # as PHP and jQuery name repeated fields
_SURE = ("data", "records")  # hook tools put words of their own into the others
_OF_A_RECORD = frozenset({"Modified_Time", "Record_Status__s"})
_MAX_FIELDS = 10_000

Fields = list[tuple[str, str]]
"""A form's fields, in the order in which they stand."""


def _exact(text: str) -> Decimal:
    """A JSON number with every digit. Raises `ValueError` for an exponent out of range."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("a number's exponent is out of range") from None


_decoder = msgspec.json.Decoder(float_hook=_exact)


class Payload(msgspec.Struct):
    """The records of one body, still as decoded JSON. `deleted`: the places of those of which
    their envelope says that they are gone. `suspect`: NUL or lone surrogates are possible in
    them.
    """

    records: list[Any] = []
    deleted: set[int] = set()
    suspect: bool = True


def read_payload(
    body: bytes, content_type: str, query: bytes, names: frozenset[str], *, max_records: int = 10_000
) -> Payload:
    """The records of a POST. `names`: the Zoho names of the entity, which tell a record from
    an envelope.

    Raises `UnreadableBodyError` (nothing in it can be used) or `TooLargeError`.
    """
    value: Any = _NOT_JSON
    if body[:1] in (b"{", b"[") and content_type.lower() in _USUAL:
        try:
            value = _decoder.decode(body)  # nearly every request
            if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
                _check_depth(value)
            _check_twice(body)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            value = _NOT_JSON
    usual = value is not _NOT_JSON
    found = _Records(names)
    if usual:
        found.add_body(value)
    else:
        _unusual(found, body, content_type, query)
    if query and body.strip():
        _check_query(query, names)
    payload = found.payload
    payload.suspect = not usual or b"\\u" in body
    if len(payload.records) > max_records:
        raise TooLargeError(
            f"the payload holds {len(payload.records)} records, at most {max_records} are "
            "taken at once (MAX_RECORDS): send it in parts"
        )
    return payload


def records_of(payload: Payload, reader: Reader, entity_name: str) -> Iterator[Record]:
    """The records of a payload, read one by one as they are asked for."""
    for index, raw in enumerate(payload.records):
        gone = index in payload.deleted
        yield reader.read(entity_name, raw, deletion=gone, suspect=payload.suspect)


_USUAL = frozenset({"application/json", "application/json; charset=utf-8", "application/json;charset=utf-8"})
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
        _check_twice(data)
    return value


def _tolerant_json(data: bytes | str) -> Any:
    # lone surrogates, a byte order mark, UTF-16: the standard library reads them
    try:
        return json.loads(_as_text(data), parse_float=_exact, parse_constant=_refuse_constant)
    except RecursionError:
        _too_deep()
    except (json.JSONDecodeError, UnicodeError):
        return _NOT_JSON
    except ValueError:
        raise UnreadableBodyError(
            "a number in the body cannot be kept exactly: it is not finite, or it has thousands "
            "of digits, or an exponent out of range"
        ) from None


def _as_text(data: bytes | str) -> str:
    text = data.decode(json.detect_encoding(data), "surrogatepass") if isinstance(data, bytes) else data
    return text.removeprefix("\ufeff")


def _check_twice(data: bytes | str) -> None:
    """Raises where one object holds the same envelope twice: a decoder keeps the last one only."""
    if isinstance(data, bytes):
        is_escaped = b"\\" in data and (b"\\u006" in data or b"\\u007" in data)  # letters of a name
        may_be = is_escaped or b"\0" in data or any(data.count(name) > 1 for name in _QUOTED_BYTES)  # UTF-16
    else:
        may_be = "\\u006" in data or "\\u007" in data or any(data.count(name) > 1 for name in _QUOTED)
    if may_be:
        json.loads(_as_text(data), parse_float=str, parse_int=str, object_pairs_hook=_refuse_twice)


_QUOTED = tuple(f'"{name}"' for name in ENVELOPES)
_QUOTED_BYTES = tuple(name.encode() for name in _QUOTED)


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    keys = [key for key, _ in pairs if key in ENVELOPES]
    if len(keys) != len(set(keys)):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UnreadableBodyError(f"an object holds {twice!r} twice: send its records in one list")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _too_deep() -> NoReturn:
    raise UnreadableBodyError(f"the body is nested deeper than {MAX_DEPTH} levels")


def _check_depth(value: Any) -> None:
    if is_deeper(value, MAX_DEPTH):
        _too_deep()


def _unusual(found: _Records, body: bytes, content_type: str, query: bytes) -> None:
    charset = named_charset(content_type)
    stripped = body.strip()
    if not stripped:
        fields = _form(query, charset)
        if not fields:
            raise UnreadableBodyError("the body is empty: send a record, a list of records, or a form")
        found.add_form(fields)
        return
    told = multipart.parse_options_header(content_type)[1].get("boundary", "")
    if stripped.startswith(b"--") or (told and b"\n--" + told.encode() in stripped):
        found.add_form(_multipart(stripped, told, charset))
        return
    if body[:2] == b"\x1f\x8b":
        raise UnreadableBodyError("the body is compressed: send it plain")
    text = (with_mark(body) or charset).text(body) if with_mark(body) or not charset.is_utf_8 else None
    value = _json(body if text is None else text)
    if value is not _NOT_JSON:
        found.add_body(value)
        return
    if stripped[:1] == b"<":
        raise UnreadableBodyError("the body is XML or HTML: send JSON or a form")
    if b"=" in stripped and stripped[:1] not in b'{["':
        found.add_form(_form(stripped, charset))
        return
    why = _reason(body) if text is None else f"as {charset.label} it cannot be read"
    raise UnreadableBodyError(f"the body is neither JSON nor a form: {why}")


def _reason(body: bytes) -> str:
    try:
        _decoder.decode(body)
    except UnicodeError:
        return "it is not written in utf-8, name its charset in Content-Type or send UTF-8"
    except msgspec.DecodeError as error:
        return f"{error}"
    return "no reason"


def _form(encoded: bytes, charset: Charset, *, names_its_own: bool = True) -> Fields:
    if with_mark(encoded) or not charset.is_ascii_like:
        encoded, charset = (
            (with_mark(encoded) or charset).text(encoded).encode("utf-8", "surrogatepass"),
            UTF_8,
        )
    try:
        pairs = parse_qsl(
            encoded.decode("latin-1"),  # so that a character is a byte, escaped or not
            keep_blank_values=True,
            max_num_fields=_MAX_FIELDS,
            encoding="latin-1",
        )
    except ValueError as error:
        raise UnreadableBodyError(f"the form cannot be read: {error}") from None
    raw = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in pairs]
    if names_its_own:
        charset = _said_by_a_field(raw, charset)
    return _as_usual([(charset.text(name), charset.text(text)) for name, text in raw])


def _as_usual(fields: Fields) -> Fields:
    """A form's fields under the names that they have without the library that wrote them: `data[]` is
    `data`, and JSON that was taken for the name of a field is its text.
    """
    if len(fields) == 1 and not fields[0][1] and is_structured(fields[0][0]):
        return [("data", fields[0][0])]
    return [(_NAMED_AS_LIST.get(name, name), text) for name, text in fields]


def _said_by_a_field(fields: Iterable[tuple[Any, bytes]], charset: Charset) -> Charset:
    """The charset that a form's own field `_charset_` names (HTML), else the one that is given."""
    for name, value in fields:
        if name in (b"_charset_", "_charset_") and not is_empty(value.decode("latin-1")):
            return named_charset(f"text/plain; charset={value.decode('latin-1').strip()}", charset)
    return charset


def _multipart(body: bytes, told: str, charset: Charset) -> Fields:
    """The fields of a multipart form. `told`: the boundary that the content type names."""
    seen = body.split(b"\n", 1)[0].strip()[2:].decode("latin-1")
    reason: Exception | None = None
    for boundary in dict.fromkeys((told or seen, seen)):  # what the header says may be wrong
        rest = body.partition(f"\n--{boundary}--".encode())[2]
        if f"\n--{boundary}".encode() in rest:
            raise UnreadableBodyError("the multipart form goes on after its end: send one form")
        try:
            if parts := _parts(body, boundary):
                return _fields(parts, charset)
        except (multipart.MultipartError, ValueError, AssertionError) as error:
            reason = reason or error
    raise UnreadableBodyError(f"the multipart form cannot be read: {reason or 'it has no fields'}")


def _parts(body: bytes, boundary: str) -> list[tuple[Any, bytes]]:
    parts: list[tuple[Any, bytes]] = []
    with multipart.PushMultipartParser(boundary, max_segment_count=_MAX_FIELDS) as parser:
        segment, value = None, bytearray()
        for part in parser.parse(body):
            if isinstance(part, multipart.MultipartSegment):
                segment, value = part, bytearray()
            elif part:
                value += part
            elif segment is not None:
                parts.append((segment, bytes(value)))
    return parts


def _fields(parts: Iterable[tuple[Any, bytes]], charset: Charset) -> Fields:
    """The texts of a multipart form. A file that is no text is left out, unless it stands where
    records should.
    """
    parts = list(parts)
    charset = _said_by_a_field(((segment.name, value) for segment, value in parts), charset)
    fields = []
    for segment, value in parts:
        if not segment.name:
            raise UnreadableBodyError("a part of the multipart form has no name: name it as in the record")
        own = named_charset(segment.header("Content-Type", "") or "", charset)
        sent = _transferred(value, segment.header("Content-Transfer-Encoding", "") or "")
        try:
            fields.append((segment.name, (with_mark(sent) or own).text(sent)))
        except UnreadableBodyError:
            if segment.filename is None or _NAMED_AS_LIST.get(segment.name, segment.name) in ENVELOPES:
                raise
    return _as_usual(fields)


def _transferred(value: bytes, encoding: str) -> bytes:
    """A part's bytes as they were before mail's encodings, which some libraries still use."""
    encoding = encoding.strip().lower()
    try:
        if encoding == "base64":
            return a2b_base64(value)
    except BinasciiError:
        raise UnreadableBodyError("a part of the multipart form is not base64, though it says so") from None
    return a2b_qp(value) if encoding == "quoted-printable" else value


def _check_query(query: bytes, names: frozenset[str]) -> None:
    """Raises where the query of a request with a body holds a record, or says that one is gone."""
    fields = _form(query, ANY, names_its_own=False)
    record = dict(fields)
    holds = _has_own_id(record) and not (names | _OF_A_RECORD).isdisjoint(record)
    holds = holds or any(
        _looks_like_json(text) or isinstance(_decoded(text), dict | list)
        for name, text in fields
        if name in ENVELOPES
    )
    if holds or says_deleted(record):
        raise UnreadableBodyError("the query speaks of records beside the body: say all of it in the body")


class _Records:
    """The records of a body as they are found."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._level = 0
        self.payload = Payload([], set())

    def is_record(self, value: Any) -> bool:
        """Whether a value has an id of its own and a Zoho name of the entity, or of a tombstone."""
        if type(value) is not dict or not _has_own_id(value):
            return False
        return "Record_Status__s" in value or not self._names.isdisjoint(value)

    def add_body(self, value: Any) -> None:
        """What a whole body says. Raises `UnreadableBodyError`."""
        value = _decoded(value)
        if value is _NOT_JSON:
            raise UnreadableBodyError("the body is a text that holds no JSON")
        if not isinstance(value, dict | list):
            raise UnreadableBodyError("the body holds no record: send an object or a list of objects")
        if isinstance(value, list):
            self._add_list(value, gone=False)
        else:
            self._add_object(value, list(value.items()), gone=False, whole=True)

    def add_form(self, fields: Fields) -> None:
        """What a form says: a record, or envelopes as JSON text. A field that comes twice with
        two values is a list of both; an empty one and an equal one count for nothing. Raises
        `UnreadableBodyError`.
        """
        texts: dict[str, dict[str, None]] = {}
        for name, text in fields:
            texts.setdefault(name, {})[text] = None
        record: dict[str, Any] = {}
        for name, own in texts.items():
            several = [text for text in own if not is_empty(text)]
            record[name] = several if len(several) > 1 else several[0] if several else next(iter(own))
        pairs: list[tuple[str, Any]] = list(fields)
        self._add_object(record, pairs, gone=False, whole=True)

    def _add_list(self, values: list[Any], *, gone: bool) -> None:
        for value in values:
            if type(value) is dict and value.keys().isdisjoint(ENVELOPES):
                self._add_record(value, gone=gone)
            else:
                self._add(value, gone=gone)

    def _add(self, value: Any, *, gone: bool) -> None:
        """One element: a record, an envelope, or either of them as JSON text."""
        self._level += 1
        if self._level > MAX_DEPTH:
            _too_deep()
        decoded = _decoded(value)
        if isinstance(decoded, dict):
            self._add_object(decoded, list(decoded.items()), gone=gone, whole=False)
        elif isinstance(decoded, list) and (value is not decoded or any(map(_may_hold_records, decoded))):
            self._add_list(decoded, gone=gone)
        else:
            self._add_record(value, gone=gone)
        self._level -= 1

    def _add_record(self, value: Any, *, gone: bool) -> None:
        if gone:
            self.payload.deleted.add(len(self.payload.records))
        self.payload.records.append(value)

    def _add_object(
        self, value: dict[str, Any], pairs: list[tuple[str, Any]], *, gone: bool, whole: bool
    ) -> None:
        """A record, or an envelope whose fields are read in the order in which they stand.
        `whole`: it is the body, so that what cannot be read makes it unreadable.
        """
        inside = [(name, inner) for name, inner in pairs if name in ENVELOPES]
        if not inside:
            self._add_record(value, gone=gone)
        elif self.is_record(value):
            self._refuse_two_meanings(inside)
            self._add_record(value, gone=gone)
        elif envelopes := self._envelopes(value, inside, whole=whole):
            gone = gone or says_deleted(value)
            for envelope in envelopes:
                if isinstance(envelope, list):
                    self._add_list(envelope, gone=gone)
                else:
                    self._add(envelope, gone=gone)
        else:
            self._add_record(value, gone=gone)

    def _refuse_two_meanings(self, inside: list[tuple[str, Any]]) -> None:
        for name, inner in inside:
            if self._holds_records(inner):
                raise UnreadableBodyError(
                    f"an object is a record and holds records (or a part of some) in its field {name!r}, so "
                    "it has two meanings: send each record once, in one list"
                )

    def _envelopes(
        self, value: dict[str, Any], inside: list[tuple[str, Any]], *, whole: bool
    ) -> list[dict[str, Any] | list[Any]]:
        """What an envelope's fields hold, decoded; nothing where the object is a record after
        all, which has an id or a field of the entity.
        """
        read: list[dict[str, Any] | list[Any]] = []
        wrong = []
        for name, inner in inside:
            decoded = _decoded(inner)
            if isinstance(decoded, dict | list):
                read.append(decoded)
            elif not is_empty(inner):
                wrong.append((name, inner))
        may_be_record = not whole or _has_own_id(value) or not self._names.isdisjoint(value)
        for name, inner in wrong:
            is_lost = (
                bool(read) and name in _SURE and isinstance(inner, str) and not inner.strip().isdecimal()
            )
            if is_lost or _looks_like_json(inner) or not (read or may_be_record):
                raise UnreadableBodyError(f"{name!r} should hold a record or a list of records, as JSON")
        if not (read or may_be_record):
            raise UnreadableBodyError(
                f"{inside[0][0]!r} is empty: it should hold a record or a list of records"
            )
        is_record = _has_own_id(value) or (has_id(value) and not self._names.isdisjoint(value))
        return [] if is_record and not any(read) else read

    def _holds_records(self, value: Any) -> bool:
        """Whether records of the entity or tombstones stand in a field, as JSON text (also one that
        is cut off), in lists or below other envelopes.
        """
        decoded = _decoded(value)
        if isinstance(decoded, list):
            return any(self._holds_records(inner) for inner in decoded)
        if not isinstance(decoded, dict):
            return decoded is _NOT_JSON and _begins_as_records(value)
        if self.is_record(decoded) or (_has_own_id(decoded) and says_deleted(decoded)):
            return True
        return any(self._holds_records(decoded[name]) for name in ENVELOPES if name in decoded)


def _has_own_id(value: dict[str, Any]) -> bool:
    ids = [value[name] for name in ID_NAMES if name in value]
    return any(not (isinstance(own, dict | list) or is_empty(own)) for own in ids)


def _may_hold_records(value: Any) -> bool:
    return isinstance(value, dict | list) or (isinstance(value, str) and is_structured(value))


def _begins_as_records(text: str) -> bool:
    return _RECORDS.match(visible(text).lstrip()) is not None


_RECORDS = re.compile(r'(?:"\s*)?(?:\{\s*\\?"|\[\s*(?:[\[{]|\\?"))')


def _looks_like_json(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return is_structured(value) or value.lstrip()[:3].upper() in ("%7B", "%5B", "%22")


def _decoded(value: Any) -> Any:
    """Text decoded as JSON, as often as it was encoded."""
    for _ in range(MAX_DEPTH):
        if not isinstance(value, str):
            break
        value = _json(value)
    return value
