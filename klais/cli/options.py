"""Options and number types that several commands share."""

import math
import os
from pathlib import Path
from typing import Any

import click

from klais.core.wire.constants import ID_SIZE, is_device_id
from klais.errors import KlaisError
from klais.system.durations import SOME_DURATION

MAX_PER_S = 1e9


class Finite(click.FloatRange):
    """A range that refuses NaN, whose comparisons are all false, and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class _Text(click.ParamType):
    """A text that is not empty: ``--device "$ID"`` with ID unset must not mean all devices."""

    name = "text"

    def __init__(self, of_ids: bool = False) -> None:
        self._of_ids = of_ids

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text."""
        if not value:
            self.fail("is empty: omit the option to select all", param, ctx)
        if self._of_ids and not is_device_id(value.encode()):
            self.fail(f"{value!r} matches no device: a device_id has 1 to {ID_SIZE} bytes in UTF-8", param, ctx)
        return value


class OutputFile(click.Path):
    """A file to write; refused before any work is done if its folder does not exist or is not writable."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        folder = path.parent
        if not folder.is_dir():
            self.fail(f"{str(path)!r} cannot be written: there is no folder {str(folder)!r}", param, ctx)
        if not path.exists() and not os.access(folder, os.W_OK):
            self.fail(f"{str(path)!r} cannot be written: no permission for {str(folder)!r}", param, ctx)
        return path


def write_output(path: Path, text: str) -> None:
    """Write a file that an option names.

    Raises
    ------
    KlaisError
        If it cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise KlaisError(f"{path} cannot be written: {error.strerror or error}") from None


SOME_TEXT = _Text()
SOME_ID = _Text(of_ids=True)
"""A device_id, or the beginning or a part of one."""
OUTPUT_FILE = OutputFile()
MAX_COUNT = 10**9
"""Highest number of records or rows that an option may ask for; containers and slices have limits near 2^63."""
SHARE = Finite(0, 1)
FRAMES_PER_S = Finite(0, MAX_PER_S, min_open=True)
BURST = Finite(1, MAX_PER_S)
"""Frames at once: with less than one, no frame would ever pass."""
SEED = click.IntRange(0, 2**63 - 1)
PARTITION = click.IntRange(0, 1023)
ENDS = click.option(
    "--for", "for_s", type=SOME_DURATION, default=None, help="Expires after this time: 30s, 10m, 2h.  [default: never]"
)
