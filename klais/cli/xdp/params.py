"""Parameters that several commands of ``klais xdp`` share."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from klais.cli.options import MAX_PER_S, Finite


class Rate(click.ParamType):
    """Frames per second, or ``none`` for no limit."""

    name = "rate"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A number above 0, ``inf`` for none."""
        if value == "none":
            return math.inf
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if not 0 < number <= MAX_PER_S:
            text = f"{value!r} is neither a number above 0, at most {MAX_PER_S:,.0f}, nor `none`"
            self.fail(f"{text}; to stop a device, block it", param, ctx)
        return number


RATE = Rate()
BURST = Finite(min=1)
as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")


def pinned(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--pin-dir`` to a command, to select the filter."""
    text = "bpffs folder of the filter (KLAIS_XDP_PIN_DIR)."
    return click.option("--pin-dir", type=click.Path(path_type=Path), help=text)(command)


def device_id(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A device id; refused with the reason if no frame could have it."""
    from klais.xdp.device_id import padded

    if value is not None:
        try:
            padded(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return value


def source_prefix(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A CIDR prefix; refused with the reason if it is invalid."""
    from klais.system.prefix import network_of

    if value is not None:
        try:
            network_of(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return value


def default_burst(rate: float) -> float:
    """Default burst for a rate: a tenth of a second's frames, at least 10."""
    return max(10.0, rate / 10)
