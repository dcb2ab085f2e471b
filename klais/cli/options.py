"""Options that several commands share, under one name each."""

import click

from klais.system.durations import DURATION

ENDS = click.option(
    "--for", "for_s", type=DURATION, default=None, help="Ends by itself: 30s, 10m, 2h.  [default: never]"
)
