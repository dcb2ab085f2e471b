"""``klais xdp rate``: limits of one device, of each device, of all together."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from klais.cli.xdp import show as xdp_show
from klais.cli.xdp.command import RATE, device_id

if TYPE_CHECKING:
    from klais.xdp.maps import XdpMaps


def run(
    maps: "XdpMaps", words: tuple[str, ...], everything: bool, each: bool, burst: float | None, clear: bool, as_json: bool
) -> None:
    """See ``klais xdp rate --help``."""
    if everything and each:
        raise click.UsageError("--global or --each, not both")
    if everything or each:
        if len(words) != 1 or clear:
            raise click.UsageError("one RATE goes with --global or --each")
        _of_all(maps, RATE.convert(words[0], None, None), burst, everything)
        found = maps.status()
        xdp_show.echo(xdp_show.limit_lines(found), xdp_show.jsonable(found.at_load), as_json)
        return
    if words:
        _of_device(maps, words, burst, clear)
    rules = [rule for rule in maps.devices_overridden() if not words or rule.device_id == words[0]]
    nothing = f"{words[0]}: no rate of its own" if words else "no device has a rate of its own"
    xdp_show.echo(
        [xdp_show.rule_line(rule) for rule in rules] or [nothing], {"rates": [xdp_show.public(r) for r in rules]}, as_json
    )


def _of_all(maps: "XdpMaps", rate: float, burst: float | None, everything: bool) -> None:
    limits = maps.status().at_load
    size = burst or max(10.0, rate / 10)
    if everything:
        limits = replace(limits, rate_per_s=rate, burst=size)
    else:
        limits = replace(limits, device_rate=rate, device_burst=size)
    maps.set_limits_at_load(limits)


def _of_device(maps: "XdpMaps", words: tuple[str, ...], burst: float | None, clear: bool) -> None:
    device_id(click.get_current_context(), click.Argument(["device"]), words[0])
    if clear and len(words) == 1:
        maps.clear_device(words[0])
    elif not clear and len(words) == 2:
        rate = RATE.convert(words[1], None, None)
        maps.set_device(words[0], rate, burst or max(10.0, rate / 10))
    else:
        raise click.UsageError("DEVICE RATE, or DEVICE --clear")
