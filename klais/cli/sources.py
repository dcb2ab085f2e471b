"""``klais sources``: block source addresses, whatever device ids their frames name."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import click

from klais.cli.blocked import SOURCE, blocks_of, end_of, filters_of, since
from klais.cli.control import JSON, WHY, ends, write_override
from klais.cli.groups import SuggestingGroup
from klais.cli.options import ENDS
from klais.cli.output import FORM, Column, Row, writer
from klais.cli.printing import say, say_json
from klais.cli.views import URL, WorkerViews
from klais.system.prefix import Network

KEYS = ("prefix", "since", "until", "by", "reason", "edge_dropped", "kernel_dropped")
SHOWN = (Column("prefix", width=18), *map(Column, KEYS[1:]))


@click.group(cls=SuggestingGroup)
def sources() -> None:
    """Block source addresses, whatever device ids their frames name.

    A sender that invents device ids escapes `klais devices block`: block its address. Edges and XDP filters drop its
    frames within a second and count them as blocked_source. Only frames to the ports of the edges are affected, not
    connections to Kafka or the REST API. Any sender can forge an address unless the network prevents it.

    \b
    Examples:
      klais sources block 192.0.2.7 --for 10m --reason "flood of invented ids"
      klais sources block 2001:db8::/32
      klais sources blocked
      klais sources unblock 192.0.2.7
    """


def _prefix(ctx: click.Context, param: click.Parameter, value: str) -> Network:
    from klais.control.source_blocks import source_prefix

    try:
        return source_prefix(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


PREFIX = click.argument("prefix", metavar="CIDR", callback=_prefix)


@sources.command()
@PREFIX
@ENDS
@WHY
@JSON
def block(prefix: Network, for_s: float | None, reason: str, as_json: bool) -> None:
    """Drop every frame from an address or a prefix of addresses.

    IPv4 prefixes have 8 to 32 bits, IPv6 prefixes 16 to 128. In a filter with a list of allowed sources
    (`klais xdp allow-source`), the longer of the two prefixes applies, and of equal ones the allowed one.

    \b
    Examples:
      klais sources block 192.0.2.0/24 --for 10m --reason "flood"
      klais sources block 2001:db8:7::/48
    """
    from klais.control.overrides import blocking
    from klais.control.source_blocks import need_room, source_scope

    write_override(
        source_scope(prefix), blocking(for_s), reason, as_json, f"blocked {prefix}{ends(for_s)}",
        lambda follower: need_room(prefix, follower.blocked_sources_in_force()),
    )  # fmt: skip


@sources.command()
@PREFIX
@WHY
@JSON
def unblock(prefix: Network, reason: str, as_json: bool) -> None:
    """Let the frames from an address or a prefix pass again.

    It ends the block of exactly this prefix: `klais sources blocked` lists them.

    \b
    Example:
      klais sources unblock 192.0.2.0/24
    """
    from klais.control.overrides import unblocking
    from klais.control.source_blocks import source_scope

    write_override(source_scope(prefix), unblocking(), reason, as_json, f"unblocked {prefix}")


@sources.command()
@FORM
@URL
def blocked(form: str, url: str | None) -> None:
    """List the blocked sources: since when, until when, by whom, why, and what was dropped.

    EDGE_DROPPED counts the frames that edges dropped since they learned of the block, KERNEL_DROPPED the packets that
    XDP filters dropped since it began; what a filter drops reaches no edge. An edge and a filter report the 20 blocks
    that dropped the most.

    \b
    Examples:
      klais sources blocked
      klais sources blocked -o jsonl | jq -r .prefix
    """
    views = WorkerViews.of(url)
    control = views.get("/control/")
    rows = rows_of(control["overrides"], next(views.events(), {}))
    if form == "json":
        say_json({"blocked": rows})
    elif rows or form != "table":
        writer(form, SHOWN, KEYS).write(rows)
    else:
        say("no source is blocked")


def rows_of(overrides: Iterable[Row], event: dict[str, Any]) -> list[Row]:
    """The blocked sources.

    Parameters
    ----------
    overrides : iterable of dict
        Of ``/control/``: the records in force.
    event : dict
        Of the page's stream: its edges report their drops and those of their filters. Empty if the worker sent none.
    """
    in_edges, in_kernels, filters = Counter[str](), Counter[str](), filters_of(event)
    for edge in event.get("edges") or ():
        in_edges.update(edge.get("gauges", {}).get("source_drops") or {})
    for filtered in filters.values():
        in_kernels.update(filtered.get("source_drops") or {})
    at_ms, rows = event.get("at_ms", 0), []
    for record in blocks_of(overrides, SOURCE, at_ms):
        prefix = record["scope"].removeprefix(SOURCE)
        dropped = in_edges[prefix] if event else None, in_kernels[prefix] if filters else None
        values = prefix, since(record), end_of(record), record.get("author"), record.get("reason"), *dropped
        rows.append(dict(zip(KEYS, values, strict=True)))
    return sorted(rows, key=lambda row: str(row["prefix"]))
