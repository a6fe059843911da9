"""The charset that a body is written in: the one it names, by the web's own names.

Names as in https://encoding.spec.whatwg.org/: `latin1` is windows-1252, and so on.
"""

from __future__ import annotations

import codecs

import msgspec
import multipart
import webencodings

from ledger.errors import UnreadableBodyError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Charset(msgspec.Struct, frozen=True):
    """A charset: Python's name of its codec, and how the sender called it."""

    name: str
    label: str = "utf-8"

    @property
    def is_utf_8(self) -> bool:
        """Whether it is that of nearly every body."""
        return self.name == "utf-8"

    @property
    def is_ascii_like(self) -> bool:
        """Whether `=`, `&` and `%` are one byte in it, as forms need."""
        return not self.name.startswith(("utf-16", "utf-32", "iso2022"))

    def text(self, data: bytes) -> str:
        """The text of some bytes. A lone surrogate stays one, the reader of records replaces it.

        Raises `UnreadableBodyError`: no other text may stand in for what cannot be read.
        """
        try:
            errors = "surrogatepass" if self.name.startswith("utf") else "strict"
            return data.decode(self.name, errors).removeprefix("\ufeff")
        except UnicodeError:
            raise UnreadableBodyError(
                f"the text is not written in {self.label}: name its charset in Content-Type or send UTF-8"
            ) from None


UTF_8 = Charset("utf-8")
ANY = Charset("latin-1")
"""In which every byte is a character, where only ASCII is looked for."""


def named_charset(content_type: str, default: Charset = UTF_8) -> Charset:
    """The charset that a content type names. Raises `UnreadableBodyError` for an unknown one."""
    if "charset" not in content_type.lower():
        return default
    options = {k.lower(): v for k, v in multipart.parse_options_header(content_type)[1].items()}
    label = options.get("charset", "").strip().strip("\"'").strip()
    if not label:
        return default
    encoding = webencodings.lookup(label)
    if encoding is None or encoding.name in ("replacement", "x-user-defined"):
        raise UnreadableBodyError("the charset of Content-Type is none of the web's: send UTF-8")
    return Charset(encoding.codec_info.name, label)


def with_mark(data: bytes) -> Charset | None:
    """The charset that a byte order mark names; it is surer than any header."""
    return next(
        (
            Charset(name, f"{name}, as its byte order mark says")
            for mark, name in _MARKS
            if data.startswith(mark)
        ),
        None,
    )
