"""What commands print: data to stdout, tables on a terminal, progress to stderr."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_STATUS_STYLE = {
    "NEW": "green", "UPDATED": "cyan", "UNCHANGED": "dim", "DELETED": "magenta",
    "SKIPPED": "yellow", "INVALID": "red", "ERROR": "bold red",
}  # fmt: skip
_PLAIN_WIDTH = 10_000
_FOLDABLE = frozenset(
    {"changes", "errors", "warnings", "payload", "unreadable", "detail", "waits for", "live", "rebuilt"}
)
_LEAST_WIDTH = 30  # of a column that is folded
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
PLAIN_SECONDS = 2.0
"""So often a progress line is printed where there is no terminal."""


def console() -> Console:
    """Stdout; without a terminal lines are neither cut nor coloured."""
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False)


def harmless(text: str) -> str:
    """Text that came from outside, as a terminal may show it: control characters spelt out."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def one_line(error: BaseException) -> str:
    """What an error says, for people: its first line, or its name where it says nothing; of several
    that came together, the first.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def print_json(value: Any) -> None:
    """One JSON document."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table; a value named like a status has its colour."""
    cells = [[_cell(value) for value in row] for row in rows]
    # what is empty in every row is left out; what must not be broken makes the lines as long as it is
    shown = [i for i in range(len(columns)) if not cells or any(row[i].plain for row in cells)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    fixed = 0
    for i in shown:
        foldable = columns[i] in _FOLDABLE
        table.add_column(columns[i], overflow="fold", no_wrap=not foldable)
        width = max([len(columns[i]), *(row[i].cell_len for row in cells)])
        fixed += 2 + (min(width, _LEAST_WIDTH) if foldable else width)
    for row in cells:
        table.add_row(*(row[i] for i in shown))
    out = console()
    out.print(table, width=None if fixed <= out.width else _PLAIN_WIDTH)


def _cell(value: Any) -> Text:
    if value is None:
        return Text()
    text = harmless(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return Text(text, style=_STATUS_STYLE.get(text, ""))


class Meter:
    """Progress of several tenants: bars on a terminal, else a line now and then; to stderr."""

    def __init__(self, what: str, of: str = "events") -> None:
        """`what` is done; `of`: what is counted."""
        self._what = what
        self._of = of
        self._tasks: dict[str, Any] = {}
        self._started: dict[str, tuple[float, int]] = {}
        self._said: dict[str, float] = {}
        self._bars: Progress | None = None
        if sys.stderr.isatty():
            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def tell(self, tenant_id: str, position: int, head: int) -> None:
        """A tenant has come to a position."""
        now = time.monotonic()
        if tenant_id not in self._started:
            self._started[tenant_id] = (now, position)
            self._said[tenant_id] = now
        since, first = self._started[tenant_id]
        rate = (position - first) / (now - since) if now > since else 0.0
        said = f"{rate:,.0f} {self._of}/s" if rate else ""
        if self._bars is not None:
            if tenant_id not in self._tasks:
                self._tasks[tenant_id] = self._bars.add_task(f"{self._what} {tenant_id}", total=head, rate="")
            self._bars.update(self._tasks[tenant_id], completed=position, total=head, rate=said)
        elif now - self._said[tenant_id] > PLAIN_SECONDS:
            self._said[tenant_id] = now
            left = f", {(head - position) / rate:,.0f} s left" if rate else ""
            print(
                f"{self._what} {tenant_id}: {position:,} of {head:,} {self._of}, "
                f"{rate:,.0f} {self._of}/s{left}",
                file=sys.stderr,
                flush=True,
            )
