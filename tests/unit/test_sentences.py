"""The codes of an explanation's sentences: those in the source, and those in the document."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from projections import explain
from projections.sentences import SENTENCES
from tests.harness import ROOT


def codes_of(argument: ast.expr) -> set[str]:
    """The codes that an argument stands for: a text, or all that a text with parts in braces fits."""
    if isinstance(argument, ast.Constant):
        return {argument.value}
    if isinstance(argument, ast.JoinedStr):
        parts = [re.escape(p.value) if isinstance(p, ast.Constant) else ".+" for p in argument.values]
        return {code for code in SENTENCES if re.fullmatch("".join(parts), code)}
    assert ast.unparse(argument) == "why.code", "write the code itself, so that it can be found"
    return set()


def test_codes_in_the_source() -> None:
    """Every code that a link is given has a sentence, and every sentence is said."""
    places = {"_link": 2, "_Why": 0}
    said: set[str] = set()
    for node in ast.walk(ast.parse(Path(explain.__file__).read_text())):
        if isinstance(node, ast.Call) and (place := places.get(ast.unparse(node.func))) is not None:
            said |= codes_of(node.args[place])
    assert said == set(SENTENCES)


def test_codes_in_the_document() -> None:
    """The document lists all codes with their sentences, and no others."""
    document = (ROOT / "docs" / "explain.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \| (.+) \|$", document, re.MULTILINE)
    assert len(rows) == len(SENTENCES)
    assert dict(rows) == SENTENCES
