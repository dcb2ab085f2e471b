"""Lists in the format of ``-o``: a table, JSON, JSON lines or CSV."""

import csv
import functools
import io
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import click

from klais.cli.printing import say, say_json
from klais.text import escape

Form = Literal["table", "json", "jsonl", "csv"]
R = TypeVar("R")
_FORM = click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["table", "json", "jsonl", "csv"]),
    default="table",
    show_default=True,
    help="A table, one JSON object, one JSON object per line, or CSV.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
Row = dict[str, Any]
GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: the key in a row, the heading (None = the key in capitals), minimum width."""

    key: str
    heading: str | None = None
    width: int = 0

    @property
    def title(self) -> str:
        """The heading."""
        return self.heading if self.heading is not None else self.key.upper()


def FORM(command: Callable[..., R]) -> Callable[..., R]:
    """Add ``-o`` and ``--json`` to a command that prints rows; it gets ``form``."""

    @functools.wraps(command)
    def with_form(*args: Any, form: str, as_json: bool, **kwargs: Any) -> R:
        return command(*args, form="json" if as_json else form, **kwargs)

    return _FORM(_JSON(with_form))


def text_of(value: Any) -> str:
    """Text of a cell: numbers with separators, ``-`` for unknown or not applicable."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
    return escape(str(value))


def terminal_width() -> int | None:
    """Columns of the terminal that the standard output writes to; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


class TableWriter:
    """Prints rows on arrival; the first batch of rows sets the widths.

    A terminal gets no line that is longer than its width: the last columns that do not fit are omitted, and a line on
    the standard error names them. A file or a pipe gets all columns.

    Parameters
    ----------
    columns : sequence of Column
        Left to right.
    width : int, optional
        Maximum number of characters in a line; by default the width of the terminal, and unlimited without one.
    """

    def __init__(self, columns: Sequence[Column], width: int | None = None) -> None:
        self._columns = list(columns)
        self._widths: list[int] | None = None
        self._limit = terminal_width() if width is None else width

    def write(self, rows: Iterable[Row]) -> None:
        """Print rows, with headings before the first ones."""
        batch = list(rows)
        first = self._widths is None
        if first:
            self._fit(batch)
        cells = [[text_of(row.get(column.key)) for column in self._columns] for row in batch]
        titled = {column.key: column.title for column in self._columns}
        right = [
            all(isinstance(row.get(c.key), int | float | None) for row in batch or [titled]) for c in self._columns
        ]
        if first:
            self._line([column.title for column in self._columns], right)
        for line in cells:
            self._line(line, right)

    def _fit(self, batch: list[Row]) -> None:
        """Set the widths, and omit the last columns that do not fit."""
        widths = [max(c.width, len(c.title), *(len(text_of(row.get(c.key))) for row in batch)) for c in self._columns]
        ends = [sum(widths[: k + 1]) + len(GAP) * k for k in range(len(widths))]
        fits = max(1, sum(end <= self._limit for end in ends)) if self._limit else len(ends)
        if fits < len(ends):
            omitted = ", ".join(column.title for column in self._columns[fits:])
            say(f"columns omitted in a terminal of {self._limit} characters: {omitted} (-o json shows all)", err=True)
        self._columns, self._widths = self._columns[:fits], widths[:fits]

    def _line(self, cells: list[str], right: list[bool]) -> None:
        widths = self._widths or []
        pairs = zip(cells, widths, right, strict=True)
        say(GAP.join(cell.rjust(width) if r else cell.ljust(width) for cell, width, r in pairs).rstrip())


class CsvWriter:
    """Prints rows as CSV with a header line; text cells are escaped, None is empty.

    A device id may be ``=1+1``. Spreadsheets would evaluate such a text without a leading apostrophe. JSON lines have
    every text unchanged.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = keys
        self._headed = False

    def write(self, rows: Iterable[Row]) -> None:
        """Print rows, with the keys before the first ones."""
        if not self._headed:
            self._line(list(self._keys))
            self._headed = True
        for row in rows:
            self._line([row.get(key) for key in self._keys])

    def _line(self, cells: list[Any]) -> None:
        target = io.StringIO()
        csv.writer(target, lineterminator="").writerow([_inert(c) if isinstance(c, str) else c for c in cells])
        say(target.getvalue())


def _inert(text: str) -> str:
    """Text without special meaning for a terminal or a spreadsheet."""
    return ("'" if text.startswith(("=", "+", "-", "@")) else "") + escape(text)


class JsonLines:
    """Prints one JSON object per row."""

    def write(self, rows: Iterable[Row]) -> None:
        """Print rows."""
        for row in rows:
            say_json(row)


def writer(form: str, columns: Sequence[Column], keys: Sequence[str]) -> TableWriter | CsvWriter | JsonLines:
    """The writer of rows in a format other than ``json``; ``keys`` are the columns of CSV."""
    made = {"table": TableWriter(columns), "csv": CsvWriter(keys), "jsonl": JsonLines()}
    return cast(TableWriter | CsvWriter | JsonLines, made[form])
