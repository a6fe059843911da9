"""Amounts of money as people and Zoho write them: one figure, perhaps a currency around it."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, InvalidOperation
from typing import Any

from ledger.texts import visible
from ledger.zoho.values import MAX_DIGITS, UnreadableError, masked, single, western

_MAX_AMOUNT = 100  # characters
_MAX_TOKENS = 2  # on each side of the figure
_MAX_TOKEN = 5  # characters

THREE_DECIMALS = frozenset({"JOD", "KWD", "BHD", "OMR", "IQD", "TND", "LYD"})
"""Currencies whose small coin is a thousandth (ISO 4217)."""
_COMMA = frozenset({"TND", "LYD"})
"""Those of them that are written with a decimal comma."""
# How these currencies are written besides their codes, without dots (CLDR, locale ar; and locally)
_SIGNS = {
    "JD": "JOD", "KD": "KWD", "BD": "BHD", "RO": "OMR", "DT": "TND", "LD": "LYD",
    "دأ": "JOD", "دا": "JOD", "دك": "KWD", "دب": "BHD", "رع": "OMR", "دع": "IQD", "دت": "TND", "دل": "LYD",
}  # fmt: skip

_PLAIN = str.maketrans({"\u2019": "'", "\u066c": "'", "\u060c": ",", "\u2212": "-"})
_PARTS = re.compile(
    r"(?P<before>[^\d]*?)(?P<figure>[.,\u066b]?\d(?:[\d.,\u066b' ]*\d)?)(?P<after>[^\d]*)", re.ASCII
)
_ARABIC_POINT = "\u066b"
_THOUSANDS = re.compile(r"\d{1,3}(,\d{2,3})*,\d{3}", re.ASCII)
_BLANK_GROUPS = re.compile(r"(\d{1,3}(?:([ '])\d{3})(?:\2\d{3})*)([.,]\d+)?", re.ASCII)
_MARKS = frozenset(".,/-:'\u2013\u2014()")
_CODE = re.compile(r"[A-Za-z]{3}")
_SHORTENED = re.compile(r"(?:[^\W\d_]|/)$")
_NO_CENTS = re.compile(r"[.,:/\u066b][-\u2013\u2014=]{1,2}|[.,\u066b]")
# After a figure these make another one of it: 5k is not 5
_MAGNITUDES = frozenset({
    "k", "m", "mm", "mn", "mio", "mln", "bn", "mil", "bin", "thou", "tsd", "thsd", "tys", "lac", "lakh",
    "crore", "dozen", "\u0442\u044b\u0441", "\u043c\u043b\u043d", "\u0647\u0632\u0627\u0631", "\u4e07", "\u5343",
    "\u0623\u0644\u0641", "\u0627\u0644\u0641", "\u0622\u0644\u0627\u0641", "\u0627\u0644\u0627\u0641", "\u0645\u0644\u064a\u0648\u0646",
})  # fmt: skip


def read_price(value: Any, currency: str | None = None) -> str:
    """An exact decimal amount: plain, at least two places, no other trailing zeros.

    One figure with at most two words or signs of up to five characters on each side
    (`"$ 1,299.00"`, `"Rs. 1,299"`, `"1 299,00 zł"`). With one separator, exactly three
    digits behind one to three leading ones are a thousands group, unless the currency has
    three decimals: that of the text, else `currency` (an ISO code).
    """
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise UnreadableError(f"should be an amount, is {masked(value)}")
    amount = Decimal(value) if isinstance(value, int | Decimal) else _amount(value, currency)
    if (
        not amount.is_finite()
        or len(amount.as_tuple().digits) > MAX_DIGITS
        or abs(amount.adjusted()) > MAX_DIGITS
    ):
        raise UnreadableError("is not an amount of money")
    return _plain(amount)


def currency_code(value: Any) -> str | None:
    """The ISO code that a record's field names, as text or in a lookup; None where it names none."""
    value = single(value)
    if isinstance(value, dict):
        value = value.get("name")
    if not isinstance(value, str):
        return None
    text = _bare(visible(value).strip()).upper()
    return _SIGNS.get(text, text if _CODE.fullmatch(text) else None)


def _amount(text: str, currency: str | None) -> Decimal:
    problem = UnreadableError(f"should be one amount, is {masked(text)}")
    if len(text) > _MAX_AMOUNT:  # before any pattern looks at it
        raise problem
    parts = _PARTS.fullmatch(_plainly(text))
    if parts is None:
        raise problem
    before, figure, after = parts["before"], parts["figure"], parts["after"]
    is_code = _CODE.fullmatch(before) and before.isupper()  # `EGP.50` has no dot of its own
    if figure[0] == "." and _SHORTENED.search(before) and not is_code:  # `Rs.500`, `B/.500`
        before, figure = before + figure[0], figure[1:]
    sign, before = _sign(before, problem)
    after = after.strip()
    after = after[found.end() :] if (found := _NO_CENTS.match(after)) else after  # 1299,- and 1299/-
    behind = _tokens(after, problem)
    if any(_is_magnitude(_bare(token)) for token in behind):
        raise problem
    tokens = [*_tokens(before, problem), *behind]
    try:
        return Decimal(sign + _with_point(figure, _currency(tokens) or currency))
    except (InvalidOperation, ValueError):
        raise problem from None


def _plainly(text: str) -> str:
    """Western figures, plain separators, and each blank of any kind as one of ours."""
    plain = western(visible(text)).translate(_PLAIN)
    return "".join(" " if c.isspace() else c for c in plain).strip()


def _sign(before: str, problem: UnreadableError) -> tuple[str, str]:
    """The sign of the figure, and what else stands before it: `-5`, `- $5`, `$-5`, `JOD -5`."""
    bare = before.strip()
    if bare[:1] in ("-", "+"):
        return bare[0], bare[1:]
    if bare[-1:] not in ("-", "+"):
        return "", before
    word = bare[:-1]
    apart = word != word.rstrip()
    if before != before.rstrip() and apart:  # `JOD - 5` may be a dash
        raise problem
    if apart or unicodedata.category(word[-1]) == "Sc" or _CODE.fullmatch(word):
        return bare[-1], word
    raise problem


def _tokens(text: str, problem: UnreadableError) -> list[str]:
    """The words and signs on one side of the figure. Raises where they are too many, too long,
    or say more than a currency can.
    """
    tokens = text.split()
    if len(tokens) > _MAX_TOKENS:
        raise problem
    for token in tokens:
        is_word = any(c not in _MARKS for c in token)
        if len(token) > _MAX_TOKEN or not all(c in _MARKS or _is_of_a_word(c) for c in token):
            raise problem
        if not is_word and token not in (".", "'", ":", "/"):
            raise problem
    return tokens


def _is_of_a_word(character: str) -> bool:
    return unicodedata.category(character)[0] in "LM" or unicodedata.category(character) == "Sc"


def _currency(tokens: list[str]) -> str | None:
    """The currency that the text itself names: one of three decimals, or another code or sign."""
    words = [_bare(token) for token in tokens]
    for word in words:
        if (found := _SIGNS.get(word.upper(), word.upper())) in THREE_DECIMALS:
            return found
    for word in words:
        if (_CODE.fullmatch(word) and word.isupper()) or any(unicodedata.category(c) == "Sc" for c in word):
            return "other"
    return None


def _is_magnitude(word: str) -> bool:
    return word.lower() in _MAGNITUDES or word in ("Cr", "cr")  # CR is a currency


def _bare(token: str) -> str:
    return "".join(c for c in token if c not in _MARKS)


def _with_point(figure: str, currency: str | None) -> str:
    """Grouping removed, the decimal separator a point. Raises `ValueError` where the
    groups are not of three digits (two in the middle, as in India).
    """
    if _ARABIC_POINT in figure:  # never a grouping
        whole, _, fraction = figure.partition(_ARABIC_POINT)
        if not re.fullmatch(r"\d*", fraction):
            raise ValueError(figure)
        return _joined(re.split(r"[.,' ]", whole)) + "." + fraction
    if " " in figure or "'" in figure:
        found = _BLANK_GROUPS.fullmatch(figure)
        if found is None:
            raise ValueError(figure)
        whole = found[1].replace(found[2], "")
        return whole + (found[3] or "").replace(",", ".")
    separators = [c for c in figure if c in ".,"]
    if not separators:
        return figure
    last = separators[-1]
    whole, _, fraction = figure.rpartition(last)
    groups = re.split(r"[.,]", whole)
    if len(set(separators)) == 1:
        # one kind of separator: repeated it groups, alone it groups exactly three digits
        thousands = len(fraction) == 3 and re.fullmatch(r"[1-9]\d{0,2}", whole)
        if len(separators) > 1 or (thousands and not _is_decimal(last, currency)):
            groups, fraction = [*groups, fraction], ""
    elif separators.count(last) > 1:
        raise ValueError(figure)
    return _joined(groups) + "." + fraction


def _joined(groups: list[str]) -> str:
    """The figure that groups make. Raises `ValueError` where they are no groups of thousands."""
    if len(groups) > 1 and not _THOUSANDS.fullmatch(",".join(groups)):
        raise ValueError(groups)
    return "".join(groups)


def _is_decimal(separator: str, currency: str | None) -> bool:
    """Whether a separator before three digits is a decimal one in this currency."""
    return currency in (THREE_DECIMALS if separator == "." else _COMMA)


def _plain(amount: Decimal) -> str:
    text = f"{amount:f}"
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0").ljust(2, "0")
    if not amount:
        whole = whole.lstrip("-")
    return f"{whole}.{fraction}"
