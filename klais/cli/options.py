"""Options and number types that several commands share."""

import math
from typing import Any

import click

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


SHARE = Finite(0, 1)
FRAMES_PER_S = Finite(0, MAX_PER_S, min_open=True)
SEED = click.IntRange(0, 2**63 - 1)
PARTITION = click.IntRange(0, 1023)
ENDS = click.option(
    "--for", "for_s", type=SOME_DURATION, default=None, help="Expires after this time: 30s, 10m, 2h.  [default: never]"
)
