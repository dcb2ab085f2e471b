"""``klais xdp rate``: limits of one device, of each device, of each source, of all frames."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from klais.cli.xdp import show
from klais.cli.xdp.params import RATE, default_burst, device_id

if TYPE_CHECKING:
    from klais.xdp.maps import XdpMaps


def run(
    maps: "XdpMaps", words: tuple[str, ...], scopes: list[str], burst: float | None, clear: bool, as_json: bool
) -> None:
    """See ``klais xdp rate --help``; ``scopes`` are the given ones of ``global``, ``each``, ``source``."""
    if len(scopes) > 1:
        raise click.UsageError(f"one of --{' and --'.join(scopes)}, not both")
    if scopes:
        if len(words) != 1 or clear:
            raise click.UsageError(f"one RATE goes with --{scopes[0]}")
        rate = RATE.convert(words[0], None, None)
        _set_common(maps, scopes[0], rate, burst or default_burst(rate))
        found = maps.status()
        limit = found.source_limit if scopes[0] == "source" else found.at_load
        show.echo(show.limit_lines(found), show.jsonable(limit), as_json)
        return
    if words:
        _of_device(maps, words, burst, clear)
    rules = [rule for rule in maps.devices_overridden() if not words or rule.device_id == words[0]]
    nothing = f"{words[0]}: no own rate" if words else "no device has its own rate"
    show.echo(
        [show.rule_line(rule) for rule in rules] or [nothing], {"rates": [show.public(r) for r in rules]}, as_json
    )


def _set_common(maps: "XdpMaps", scope: str, rate: float, burst: float) -> None:
    if scope == "source":
        maps.sources.set_limit(replace(maps.sources.limit(), rate_per_s=rate, burst=burst))
    elif scope == "global":
        maps.set_limits_at_load(replace(maps.status().at_load, rate_per_s=rate, burst=burst))
    else:
        maps.set_limits_at_load(replace(maps.status().at_load, device_rate=rate, device_burst=burst))


def _of_device(maps: "XdpMaps", words: tuple[str, ...], burst: float | None, clear: bool) -> None:
    device_id(click.get_current_context(), click.Argument(["device"]), words[0])
    if clear and len(words) == 1:
        maps.clear_device(words[0])
    elif not clear and len(words) == 2:
        rate = RATE.convert(words[1], None, None)
        maps.set_device(words[0], rate, burst or default_burst(rate))
    else:
        raise click.UsageError("DEVICE RATE, or DEVICE --clear")
