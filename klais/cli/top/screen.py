"""State of the screen of ``klais top``, and the effects of keys (pure: no terminal, no network)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from klais.cli.output import Row
from klais.cli.top.tabs import DEVICES, TABS, Tab

MAX_DEVICES = 200
MAX_REASON_CHARS = 200


@dataclass(frozen=True, slots=True)
class Sorting:
    """Column (its place in the tab) and order."""

    column: int = 0
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """A line of input: ``filter``, or the ``reason`` of a block of ``device_id``."""

    what: str
    text: str = ""
    device_id: str = ""


# Most recent devices first, and most frequent reasons first.
_SORTED = (None, None, Sorting(7, True), Sorting(1, True))


@dataclass(slots=True)
class Screen:
    """The state of the screen.

    Attributes
    ----------
    tab : int
        Place in ``TABS``.
    sorting : list of Sorting or None
        Per tab; None keeps the order of the rows.
    filters : list of str
        Per tab: text that a row must contain.
    row : int
        The selected row, from 0.
    paused, ended : bool
        Whether the figures are paused; whether the user wants to quit.
    prompt : Prompt or None
        The present input of the user.
    message : str
        Result of the last action.
    """

    tab: int = 0
    sorting: list[Sorting | None] = field(default_factory=lambda: list(_SORTED))
    filters: list[str] = field(default_factory=lambda: [""] * len(TABS))
    row: int = 0
    paused: bool = False
    ended: bool = False
    prompt: Prompt | None = None
    message: str = ""

    @property
    def shown(self) -> Tab:
        """The tab."""
        return TABS[self.tab]

    def question(self) -> dict[str, str | int | None] | None:
        """Parameters of ``/devices/`` if the tab needs them, else None."""
        if self.tab != DEVICES:
            return None
        sorting = self.sorting[DEVICES] or Sorting()
        return {
            "sort": TABS[DEVICES].columns[sorting.column].key,
            "order": "desc" if sorting.descending else "asc",
            "q": self.filters[DEVICES] or None,
            "size": MAX_DEVICES,
            "scope": "all",
        }

    def rows(self, event: Mapping[str, Any] | None, devices: list[Row]) -> list[Row]:
        """The rows of the tab, filtered and sorted; rows of devices arrive that way from the worker."""
        if self.shown.rows is None:
            return devices
        found = self.shown.rows(event) if event is not None else []
        wanted = self.filters[self.tab].lower()
        found = [row for row in found if wanted in " ".join(map(str, row.values())).lower()]
        sorting = self.sorting[self.tab]
        if sorting is not None:
            key = self.shown.columns[sorting.column].key
            known = [row for row in found if row.get(key) is not None]
            known.sort(key=lambda row: row[key], reverse=sorting.descending)
            found = known + [row for row in found if row.get(key) is None]
        return found

    def press(self, key: str, rows: list[Row], block: Callable[[str, str], str]) -> None:
        """Handle a key: a character, or the name of one (``up``, ``enter``, ``escape``, ...).

        Parameters
        ----------
        key : str
            The pressed key.
        rows : list
            The visible rows.
        block : callable
            Blocks a device with a reason and returns the result as text.
        """
        if self.prompt is not None:
            self._write(self.prompt, key, block)
            return
        self.message = ""
        if key in ("q", "escape", "ctrl-c"):
            self.ended = True
        elif key in ("1", "2", "3", "4"):
            self._go(int(key) - 1)
        elif key in ("tab", "right", "left"):
            self._go((self.tab + (-1 if key == "left" else 1)) % len(TABS))
        elif key in ("<", ">"):
            self._sort_by(1 if key == ">" else -1)
        elif key == "r":
            self.sorting[self.tab] = self._turned()
        elif key == " ":
            self.paused = not self.paused
        elif key == "/":
            self.prompt = Prompt("filter", self.filters[self.tab])
        elif key == "b":
            self._ask_reason(rows)
        else:
            self._move(key, len(rows))

    def _go(self, tab: int) -> None:
        self.tab, self.row = tab, 0

    def _sort_by(self, step: int) -> None:
        before = self.sorting[self.tab]
        column = (before.column + step) % len(self.shown.columns) if before else 0 if step > 0 else -1
        column %= len(self.shown.columns)
        first_is_text = column == 0
        self.sorting[self.tab], self.row = Sorting(column, not first_is_text), 0

    def _turned(self) -> Sorting:
        sorting = self.sorting[self.tab] or Sorting(0, True)
        return replace(sorting, descending=not sorting.descending)

    def _move(self, key: str, count: int) -> None:
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page-up": -10, "page-down": 10, "home": -count, "end": count}
        self.row = max(0, min(self.row + steps.get(key, 0), count - 1))

    def _ask_reason(self, rows: list[Row]) -> None:
        if self.tab != DEVICES or not rows:
            self.message = "b blocks the selected device of tab 3"
            return
        marked = str(rows[min(self.row, len(rows) - 1)]["device_id"])
        self.prompt = Prompt("reason", device_id=marked)

    def _write(self, prompt: Prompt, key: str, block: Callable[[str, str], str]) -> None:
        if key in ("escape", "ctrl-c"):
            self.prompt, self.message = None, "nothing was blocked" if prompt.what == "reason" else ""
        elif key == "enter":
            self._finish(prompt, block)
        elif key == "backspace":
            self.prompt = replace(prompt, text=prompt.text[:-1])
        elif len(key) == 1 and key.isprintable() and len(prompt.text) < MAX_REASON_CHARS:
            self.prompt = replace(prompt, text=prompt.text + key)

    def _finish(self, prompt: Prompt, block: Callable[[str, str], str]) -> None:
        if prompt.what == "filter":
            self.filters[self.tab], self.prompt, self.row = prompt.text, None, 0
        elif prompt.text.strip():
            self.prompt = None
            self.message = block(prompt.device_id, prompt.text.strip())
