"""``klais devices blocked``: every block, by whom, why, since when and until when, and what it dropped."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import click

from klais.cli.output import FORM, Column, Row, writer
from klais.cli.printing import say, say_json
from klais.cli.views import URL, WorkerViews, lacks
from klais.system.moments import iso_of

KEYS = ("device_id", "since", "until", "by", "reason", "acts_in", "lane_dropped", "kernel_dropped")
SHOWN = (Column("device_id", width=16), *map(Column, KEYS[1:]))
DEVICE, SOURCE = "device/", "source/"  # beginnings of scopes


@click.command()
@FORM
@URL
def blocked(form: str, url: str | None) -> None:
    """List the blocked devices: since when, until when, by whom, why, and what was dropped.

    LANE_DROPPED counts the frames of the device that its lane dropped as blocked, in this block and earlier ones.
    KERNEL_DROPPED counts the packets that XDP filters dropped since the block began; what they drop reaches no lane.
    Blocks of `klais xdp block` act on one host only, which is named.

    \b
    Examples:
      klais devices blocked
      klais devices blocked -o jsonl | jq -r .device_id
    """
    views = WorkerViews.of(url)
    control = views.get("/control/")
    event = next(views.events(), {})
    pages = list(views.devices(None, state="blocked", sort="device_id"))
    rows = rows_of(control["overrides"], event, (row for page in pages for row in page["items"]))
    if missing := lacks(pages):
        say(f"klais: some LANE_DROPPED are unknown: {missing}", err=True)
    if form == "json":
        say_json({"blocked": rows})
    elif rows or form != "table":
        writer(form, SHOWN, KEYS).write(rows)
    else:
        say("no device is blocked")


def rows_of(overrides: Iterable[Row], event: dict[str, Any], items: Iterable[Row]) -> list[Row]:
    """The blocks of ``klais_control``, by device, then those of single filters.

    Parameters
    ----------
    overrides : iterable of dict
        Of ``/control/``: the records in force.
    event : dict
        Of the page's stream: its edges report their filters. Empty if the worker sent none.
    items : iterable of dict
        Of ``/devices/?state=blocked``.
    """
    filters = filters_of(event)
    in_lanes = {item["device_id"]: item["blocked"] for item in items}
    in_kernels: Counter[str] = Counter()
    for filtered in filters.values():
        in_kernels.update(filtered.get("block_drops") or {})
    at_ms = event.get("at_ms", 0)
    rows = []
    for record in blocks_of(overrides, DEVICE, at_ms):
        device_id = record["scope"].removeprefix(DEVICE)
        counts = in_lanes.get(device_id), in_kernels[device_id] if filters else None
        why = record.get("author"), record.get("reason")
        rows.append(_row(device_id, since(record), end_of(record), *why, "everywhere", *counts))
    rows.sort(key=lambda row: str(row["device_id"]))
    for host, filtered in sorted(filters.items()):
        for block in filtered.get("local_blocks") or ():
            left_s = block.get("left_s")
            end = None if left_s is None else iso_of(at_ms + int(left_s * 1000))
            where = f"the filter of {host}"
            rows.append(_row(block["device_id"], None, end, "klais xdp block", "", where, None, block.get("dropped")))
    return rows


def blocks_of(overrides: Iterable[Row], kind: str, at_ms: int) -> list[Row]:
    """The records that block something of this kind (the beginning of their scopes) at a time (epoch ms)."""
    of_kind = [record for record in overrides if str(record.get("scope", "")).startswith(kind)]
    blocks = [record for record in of_kind if record.get("block") and not record.get("unblock")]
    return [record for record in blocks if record.get("until_ms") is None or record["until_ms"] > at_ms]


def end_of(record: Row) -> str | None:
    """When a block ends; None = it has no end."""
    until_ms = record.get("until_ms")
    return None if until_ms is None else iso_of(until_ms)


def filters_of(event: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The filter of each host: every edge of the host reports the same."""
    edges = event.get("edges") or ()
    return {edge.get("host") or edge["id"]: xdp for edge in edges if (xdp := edge.get("gauges", {}).get("xdp"))}


def since(record: Row) -> str | None:
    """When a block was set; None = unknown."""
    return iso_of(int(record["at"])) if isinstance(record.get("at"), int | float) else None


def _row(*values: Any) -> Row:
    return dict(zip(KEYS, values, strict=True))
