"""The screen of ``klais top``: text with the lines and columns of the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from klais.cli.output import Row, text_of
from klais.cli.top.screen import Screen
from klais.cli.top.tabs import TABS
from klais.text import escape

KEYS = "1-4 tab  < > sort  r reverse  / filter  space pause  b block  q quit"
_STYLES = {"ok": "green", "warning": "yellow", "critical": "bold red"}


def picture(
    screen: Screen, event: Mapping[str, Any] | None, rows: list[Row], problem: str | None, width: int, height: int
) -> Text:
    """Render the whole screen: at most ``height`` lines of at most ``width`` cells.

    Parameters
    ----------
    screen : Screen
        State of the screen.
    event : mapping or None
        The newest figures; None before the first.
    rows : list
        Rows of the tab.
    problem : str or None
        Why there are no new figures.
    width, height : int
        Of the terminal.
    """
    head = [_sentence(event, problem), _tabs(screen)]
    room = max(1, height - len(head) - 2)
    lines = [*head, *_table(screen, rows, width, room), *[Text()] * room][: height - 1]
    lines.append(_foot(screen, len(rows)))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n", no_wrap=True, end="").join(lines[-height:])


def _sentence(event: Mapping[str, Any] | None, problem: str | None) -> Text:
    if problem is not None:
        return Text(escape(problem), style="bold red")
    if event is None:
        return Text("waiting for the first figures", style="dim")
    return Text(escape(str(event.get("sentence", ""))), style=_STYLES.get(str(event.get("status")), ""))


def _tabs(screen: Screen) -> Text:
    line = Text()
    for place, tab in enumerate(TABS):
        line.append(f" {place + 1} {tab.name} ", style="reverse" if place == screen.tab else "dim")
    if screen.filters[screen.tab]:
        line.append(f"  filter: {escape(screen.filters[screen.tab])}")
    if screen.paused:
        line.append("  PAUSED", style="bold")
    return line


def _table(screen: Screen, rows: list[Row], width: int, room: int) -> list[Text]:
    """The headings and the rows around the selected one; the last columns are omitted if they do not fit."""
    columns, sorting = screen.shown.columns, screen.sorting[screen.tab]
    marked = min(screen.row, max(0, len(rows) - 1))
    start = max(0, min(marked - room // 2, len(rows) - room))
    part = rows[start : start + room]
    cells = [[text_of(row.get(column.key)) for column in columns] for row in part]
    titles = [column.title for column in columns]
    if sorting is not None:
        titles[sorting.column] += "↓" if sorting.descending else "↑"
    right = [all(isinstance(row.get(c.key), int | float | None) for row in part) for c in columns]
    widths = [max(c.width, *(cell_len(line[k]) for line in [titles, *cells])) for k, c in enumerate(columns)]
    fits = max(1, sum(sum(widths[: k + 1]) + 2 * k <= width for k in range(len(widths))))
    out = [Text(_line(titles[:fits], widths, right), style="bold")]
    for place, line in enumerate(cells, start):
        out.append(Text(_line(line[:fits], widths, right), style="reverse" if place == marked else ""))
    return out if rows else [*out, Text("nothing", style="dim")]


def _line(cells: list[str], widths: list[int], right: list[bool]) -> str:
    out = []
    for cell, width, is_right in zip(cells, widths, right, strict=False):
        padding = " " * (width - cell_len(cell))
        out.append(padding + cell if is_right else set_cell_size(cell, width))
    return "  ".join(out)


def _foot(screen: Screen, count: int) -> Text:
    if screen.prompt is not None:
        what = f"block {escape(screen.prompt.device_id)}, reason" if screen.prompt.what == "reason" else "filter"
        return Text(f"{what}: {escape(screen.prompt.text)}_  (Enter; Esc cancels)", style="bold")
    if screen.message:
        return Text(escape(screen.message), style="bold")
    return Text(f"{count} rows  {KEYS}", style="dim")
