"""``klais incidents``: show incidents, acknowledge them, mute known ones."""

from typing import Any

import click

from klais.cli.control import WHY, write_override
from klais.cli.groups import SuggestingGroup
from klais.cli.options import ENDS, SOME_ID, SOME_TEXT
from klais.cli.output import FORM, Column, writer
from klais.cli.printing import say, say_json
from klais.cli.views import URL, WorkerViews
from klais.text import iso_seconds, quote

SHOWN = ("id", "state", "type", "feature", "devices", "flags", "since", "acknowledged_by", "explanation")
KEYS = (
    *("id", "state", "type", "feature", "direction", "opened_at", "newest_at", "closed_at", "devices", "flags"),
    *("before", "acknowledged_by", "explanation"),
)
"""Columns of the list as CSV."""

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object.")
WHAT = (
    click.option("--device", type=SOME_ID, metavar="ID", help="This device."),
    click.option("--prefix", type=SOME_ID, metavar="TEXT", help="All devices with this prefix."),
    click.option(
        "--feature",
        type=SOME_TEXT,
        metavar="NAME",
        help="This feature, of all devices; frames_per_s = the whole fleet.",
    ),
)


@click.group(cls=SuggestingGroup)
def incidents() -> None:
    """Show incidents, acknowledge them, mute known ones.

    Flags of many devices with one cause are one incident. `list` and `show` query a worker. `ack`, `mute` and their
    opposites write to klais_control, and the leader follows within a second.

    \b
    Examples:
      klais incidents list --state open
      klais incidents show i-0123456789
      klais incidents ack i-0123456789 --reason "the sensor is replaced tomorrow"
      klais incidents mute --prefix test- --for 8h --reason "bench"
    """


@incidents.command("list")
@click.option("--state", type=click.Choice(["open", "closed"]), help="Only in this state.  [default: both]")
@click.option("--feature", type=SOME_TEXT, metavar="NAME", help="Only incidents with this feature.")
@click.option("--device", type=SOME_ID, metavar="ID", help="Only incidents with this device.")
@click.option("--unacknowledged", is_flag=True, help="Only incidents without acknowledgement.")
@click.option(
    "-n", "count", type=click.IntRange(0), default=50, show_default=True, help="Number of incidents; 0 = all."
)
@click.option("--after", metavar="CURSOR", help="Continue after this place: `next` in the JSON of an earlier list.")
@FORM
@URL
def list_(
    state: str | None, feature: str | None, device: str | None, unacknowledged: bool, count: int, after: str | None,
    form: str, url: str | None,
) -> None:  # fmt: skip
    """List incidents, newest first.

    \b
    Examples:
      klais incidents list --state open --unacknowledged
      klais incidents list -o jsonl | jq -r 'select(.devices > 10).explanation'
    """
    unknown = "true" if unacknowledged else None
    params = {"state": state, "feature": feature, "device": device, "unacknowledged": unknown}
    rows = None if form == "json" else writer(form, [Column(key) for key in SHOWN], KEYS)
    whole: dict[str, Any] = {}
    items: list[dict[str, Any]] = []
    for page in WorkerViews.of(url).incidents(count or None, after, **params):
        if rows is not None:
            rows.write([_flat(item) for item in page["items"]] if form != "jsonl" else page["items"])
        else:
            items.extend(page["items"])
        whole = page
    if form == "json":
        say_json(whole | {"items": items})
    elif form == "table":
        muted = len(whole.get("mutes", ()))
        say(f"{whole.get('open', 0):,} open, {whole.get('total', 0):,} in all; {muted} muted", err=True)


def _flat(item: dict[str, Any]) -> dict[str, Any]:
    ack = item.get("acknowledged") or {}
    return item | {"since": iso_seconds(item["opened_at"]), "acknowledged_by": ack.get("author")}


@incidents.command()
@click.argument("incident_id", metavar="ID")
@JSON
@URL
def show(incident_id: str, as_json: bool, url: str | None) -> None:
    """Show an incident: summary, devices, first and worst flag.

    \b
    Example:
      klais incidents show i-0123456789
    """
    found = WorkerViews.of(url).incident(_checked(incident_id))
    if as_json:
        say_json(found)
        return
    say(found["explanation"])
    for key, value in found.items():
        if isinstance(value, dict):
            say(f"{key}: " + " ".join(f"{name}={quote(each)}" for name, each in value.items()))
        elif value not in (None, [], "") and key != "explanation":
            say(f"{key}: {quote(value)}")


@incidents.command()
@click.argument("incident_id", metavar="ID")
@ENDS
@WHY
@click.option("--json", "as_json", is_flag=True, help="The record written as one JSON object.")
def ack(incident_id: str, for_s: float | None, reason: str, as_json: bool) -> None:
    """Acknowledge an incident.

    \b
    Example:
      klais incidents ack i-0123456789 --reason "the sensor is replaced tomorrow"
    """
    from klais.control.incidents import ack_scope
    from klais.control.overrides import until

    changes = {"ack": True, "until_ms": until(for_s)}
    write_override(ack_scope(_checked(incident_id)), changes, reason, as_json, f"acknowledged {incident_id}")


@incidents.command()
@click.argument("incident_id", metavar="ID")
@WHY
@click.option("--json", "as_json", is_flag=True, help="The record written as one JSON object.")
def unack(incident_id: str, reason: str, as_json: bool) -> None:
    """Revoke an acknowledgement."""
    from klais.control.incidents import ack_scope

    changes = {"ack": None, "until_ms": None}
    write_override(ack_scope(_checked(incident_id)), changes, reason, as_json, f"{incident_id} is not acknowledged")


def _what(function: Any) -> Any:
    for option in reversed(WHAT):
        function = option(function)
    return function


@incidents.command()
@_what
@ENDS
@WHY
@click.option("--json", "as_json", is_flag=True, help="The record written as one JSON object.")
def mute(
    device: str | None, prefix: str | None, feature: str | None, for_s: float | None, reason: str, as_json: bool
) -> None:
    """Open no new incident for a device, a prefix or a feature.

    Flags still go to klais_anomalies and are counted; an open incident stays open until it is over.

    \b
    Examples:
      klais incidents mute --device dev-7 --for 1d --reason "known to be broken"
      klais incidents mute --feature frames_per_s --for 2h --reason "load test"
    """
    from klais.control.overrides import until

    scope, text = _scope(device, prefix, feature)
    write_override(scope, {"mute": True, "until_ms": until(for_s)}, reason, as_json, f"muted {text}")


@incidents.command()
@_what
@WHY
@click.option("--json", "as_json", is_flag=True, help="The record written as one JSON object.")
def unmute(device: str | None, prefix: str | None, feature: str | None, reason: str, as_json: bool) -> None:
    """Open incidents again for something that was muted."""
    from klais.system.clock import now_ms

    scope, text = _scope(device, prefix, feature)
    write_override(scope, {"mute": None, "until_ms": now_ms()}, reason, as_json, f"{text} is no longer muted")


@incidents.command()
@FORM
@URL
def mutes(form: str, url: str | None) -> None:
    """List the mutes with author, reason and end."""
    found = WorkerViews.of(url).get("/incidents/", size=1)["mutes"]
    keys = ("what", "name", "author", "reason", "until_ms")
    if form == "json":
        say_json({"mutes": found})
        return
    writer(form, [Column(key) for key in keys], keys).write(found)


def _scope(device: str | None, prefix: str | None, feature: str | None) -> tuple[str, str]:
    from klais.control.incidents import mute_scope

    given = {"device": device, "prefix": prefix, "feature": feature}
    named = [(what, name) for what, name in given.items() if name]
    if len(named) != 1:
        raise click.UsageError("give exactly one of --device, --prefix and --feature")
    what, name = named[0]
    return mute_scope(what, name), f"{what} {name}"


def _checked(incident_id: str) -> str:
    from klais.core.incidents.incident import is_id

    if not is_id(incident_id):
        raise click.UsageError(f"{incident_id!r} is not the id of an incident, such as i-0123456789")
    return incident_id
