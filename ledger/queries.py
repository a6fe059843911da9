"""Named queries from a `.sql` file: `-- name: what it is for`, then one statement."""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- ([a-z_]+): .*$", re.MULTILINE)


def load_queries(package: str, file: str = "queries.sql") -> dict[str, str]:
    """The statements of a package's file by name, without their last semicolon."""
    parts = _NAME.split((files(package) / file).read_text("utf-8"))
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return {name: sql.strip().removesuffix(";") for name, sql in pairs}
