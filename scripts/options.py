"""What options of several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token


def _whole(_: Any, tokens: Sequence[Token]) -> int:
    text = tokens[0].value
    if not re.fullmatch("-?[0-9]{1,18}", text):
        raise ValueError(f"{text[:80]!r} is not a whole number: write it with the figures 0 to 9")
    return int(text)


Whole = Annotated[int, Parameter(converter=_whole)]
"""A whole number. (By itself the command line would also take `1.5`, `0x10`, `1_0` and other scripts' figures.)"""
