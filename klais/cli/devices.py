"""``klais devices``: show devices, and block, limit or forget single ones."""

import time
from typing import Any

import click

from klais.cli import control
from klais.cli.blocked import blocked
from klais.cli.control import DEVICE_ID, scope_of_device, write_override
from klais.cli.groups import SuggestingGroup
from klais.cli.output import FORM, Column, writer
from klais.cli.printing import say, say_json
from klais.cli.views import URL, WorkerViews, lacks
from klais.core.wire.constants import is_device_id
from klais.errors import WorkerUnavailable
from klais.system.durations import DURATION
from klais.text import quote

STATES = ("normal", "silent", "flagged", "limited", "blocked")
SORTS = (
    "device_id", "partition", "state", "first_seen", "last_seen", "flagged_at", "tokens", "received", "admitted",
    "gaps", "duplicate", "blocked", "device_rate", "queue_full", "malformed", "dropped", "late", "resets", "flags",
    "score",
)  # fmt: skip
SHOWN = ("device_id", "state", "partition", "last_seen", "received", "admitted", "dropped", "flags")
KEYS = (*SORTS, "replayed", "unsigned", "jumps", "source_turns")
"""Columns of the list as CSV."""

REASON = click.option("--reason", default="", metavar="TEXT", help="The reason, kept with the request.")
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@click.group(cls=SuggestingGroup)
def devices() -> None:
    """Show devices, and block, limit or forget single ones.

    `list`, `blocked`, `show` and `why` query a worker, which queries the others. `block`, `unblock`, `limit` and
    `forget` write to klais_control, and every worker and edge follows within a second.

    \b
    Examples:
      klais devices blocked
      klais devices why dev-7
      klais devices block dev-7 --for 1h --reason "floods"
      klais devices limit dev-8 --rate 5 --burst 20
    """


@devices.command("list")
@click.option("--sort", type=click.Choice(SORTS), metavar="COLUMN",
              help=f"Sort by this column: {', '.join(SORTS)}.  [default: last_seen; device_id if all are listed]"
              )  # fmt: skip
@click.option("--asc/--desc", "ascending", default=None, help="Order.  [default: ids ascending, figures descending]")
@click.option("--state", type=click.Choice(STATES), help="Only devices in this state.")
@click.option("--match", metavar="TEXT", help="Only devices with this in their id.")
@click.option("--dropped", is_flag=True, help="Only devices with dropped frames.")
@click.option("--queued", is_flag=True, help="Only devices with frames in the queue.")
@click.option("--silent", "silent_s", type=DURATION, help="Only devices without a frame for this time: 10m, 1d.")
@click.option("--silent-intervals", type=click.IntRange(1, 10**6), metavar="N",
              help="Only devices without a frame for more than N of their own mean intervals.")  # fmt: skip
@click.option("-n", "count", type=click.IntRange(0), default=50, show_default=True, help="Number of devices; 0 = all.")
@click.option("--after", metavar="CURSOR", help="Continue after this place: `next` in the JSON of an earlier list.")
@FORM
@URL
def list_(
    sort: str | None, ascending: bool | None, state: str | None, match: str | None, dropped: bool, queued: bool,
    silent_s: float | None, silent_intervals: int | None, count: int, after: str | None, form: str, url: str | None,
) -> None:  # fmt: skip
    """List the devices of all workers.

    A list of more than 500 devices is read in parts. If a device changes its place meanwhile, it may be missing or
    listed twice: a list sorted by device_id has each device once.

    \b
    Examples:
      klais devices list --sort dropped --dropped
      klais devices list --silent 1h --sort last_seen --asc
      klais devices list --silent-intervals 20
      klais devices list -n 0 -o csv > devices.csv
      klais devices list -n 0 -o jsonl | jq -r 'select(.score > 5).device_id'
    """
    if match is not None and not is_device_id(match.encode()):
        text = "part of a device_id has 1 to 16 bytes in UTF-8 and no NUL"
        raise click.UsageError(f"--match: {text}: {match!r} does not")
    sort = sort or ("last_seen" if count or after else "device_id")
    params: dict[str, str | int | None] = {
        "sort": sort,
        "order": None if ascending is None else "asc" if ascending else "desc",
        "state": state,
        "q": match,
        "dropped": "true" if dropped else None,
        "queued": "true" if queued else None,
        "silent_s": None if silent_s is None else round(silent_s),
        "silent_intervals": silent_intervals,
    }
    pages = WorkerViews.of(url).devices(count or None, after, **params)
    shown = Column("device_id", width=16), *map(Column, SHOWN[1:]), *([] if sort in SHOWN else [Column(sort)])
    rows = None if form == "json" else writer(form, shown, KEYS)
    whole: dict[str, Any] = {}
    items: list[dict[str, Any]] = []
    missing: dict[str, set[Any]] = {"workers_missing": set(), "partitions_missing": set()}
    listed = 0
    for page in pages:
        listed += len(page["items"])
        for key, all_missing in missing.items():
            all_missing |= set(page.get(key, ()))
        if rows is not None:
            rows.write(page["items"])
        else:
            items.extend(page["items"])
        whole = page
    if form == "json":
        say_json(whole | {"items": items})
    elif form == "table":
        filtered = any((state, match, dropped, queued, silent_s is not None, silent_intervals))
        none = "no device matches all of these options" if filtered else "no device has sent a valid frame yet"
        say(f"{listed:,} of {whole.get('total', 0):,} devices" if listed or after else none, err=True)
    if incomplete := lacks([missing]):
        raise WorkerUnavailable(incomplete)


@devices.command()
@DEVICE_ID
@JSON
@URL
def show(device_id: str, as_json: bool, url: str | None) -> None:
    """Show the state of a device: counters, bucket, sequence window, learned profile.

    \b
    Example:
      klais devices show dev-7
    """
    scope_of_device(device_id)
    found = WorkerViews.of(url).device(device_id)
    if as_json:
        say_json(found)
        return
    for key, value in found.items():
        if key == "profile":
            say(*(f"profile of {quote(each['feature'])}: {_pairs(each, 'feature')}" for each in value))
        elif isinstance(value, dict):
            say(f"{key}: {_pairs(value, 'numbers')}")
        elif value is not None:
            say(f"{key}: {quote(value)}")


@devices.command()
@DEVICE_ID
@JSON
@URL
def why(device_id: str, as_json: bool, url: str | None) -> None:
    """Explain, rule by rule, why frames of a device pass or are dropped now.

    A line that begins with `*` is a rule that applies now.

    \b
    Examples:
      klais devices why dev-7
      klais devices why dev-7 --json | jq -r .verdict
    """
    scope_of_device(device_id)
    found = WorkerViews.of(url).device(device_id, "why/")
    if as_json:
        say_json(found)
        return
    say(f"{found['device_id']}: {found['verdict']}. {found['explanation']}")
    for rule in found["rules"]:
        say(f"{'*' if rule['active'] else ' '} {rule['rule']:<12} {rule['explanation']}")


def _pairs(values: dict[str, Any], without: str) -> str:
    return " ".join(f"{key}={quote(value)}" for key, value in values.items() if key != without)


devices.add_command(blocked)
devices.add_command(control.block)
devices.add_command(control.unblock)
devices.add_command(control.device, "limit")


@devices.command()
@DEVICE_ID
@REASON
@click.option("--json", "as_json", is_flag=True, help="The record written as one JSON object.")
def forget(device_id: str, reason: str, as_json: bool) -> None:
    """Forget a device: its counters, sequence window and learned profile.

    The worker that owns its lane does so within a second. Its frames in the queue are still released, and its next
    frame makes it a new device. Its block and limits stay.

    \b
    Example:
      klais devices forget dev-7 --reason "taken out of service"
    """
    changes = {"forget_ms": time.time_ns() // 1_000_000}
    write_override(scope_of_device(device_id), changes, reason, as_json, f"asked to forget {device_id}")
