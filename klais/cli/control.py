"""``klais control``: show the reasons of the limits, and override them."""

import getpass
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from klais.cli.groups import SuggestingGroup
from klais.cli.options import BURST, ENDS, FRAMES_PER_S, Finite
from klais.cli.printing import say, say_json
from klais.cli.settings import load
from klais.cli.views import complete_device_id
from klais.cli.waiting import Outage
from klais.system.durations import DURATION

if TYPE_CHECKING:
    from klais.control.setpoints import ControlFollower

RATE = FRAMES_PER_S
MANY = 100  # devices: a list that is longer may be a mistake
GAIN = Finite(0, 1000)
DEVICE_ID = click.argument("device_id", shell_complete=complete_device_id)
DEVICE_IDS = click.argument("device_ids", nargs=-1, required=True, shell_complete=complete_device_id)
YES = click.option("--yes", is_flag=True, help=f"Needed for more than {MANY} devices.")
WHY = click.option("--reason", default="", metavar="TEXT", help="The reason, shown with the override.")
JSON = click.option("--json", "as_json", is_flag=True, help="The record written as one JSON object.")
JSON_EACH = click.option("--json", "as_json", is_flag=True, help="Each record written as one JSON object per line.")


@click.group(cls=SuggestingGroup)
def control() -> None:
    """Show the limits in force with their reasons, and override them.

    Overrides reach every worker, edge and XDP filter within a second and survive restarts. /control/ and
    `klais control status` show them with author, reason and end.

    \b
    Examples:
      klais control watch
      klais control set --rate 50000 --for 10m --reason "database is slow"
      klais control auto
      klais control block dev-7 --for 1h --reason "floods"
      klais control device dev-8 --rate 5 --burst 20
    """


def author() -> str:
    """Author of a change: user@host; ``uid-N`` for a user without a name, as containers often have."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def write_override(
    scope: str,
    changes: dict[str, Any],
    reason: str,
    as_json: bool,
    text: str,
    check: "Callable[[ControlFollower], object] | None" = None,
) -> None:
    """Change the record of a scope, and print a confirmation; ``check`` may refuse it by an exception."""
    from klais.control.overrides import write

    record = write(load(), scope, changes, author(), reason, check)
    if as_json:
        say_json({"scope": scope, **record})
    else:
        say(f"{text}; by {record['author']}")


def ends(for_s: float | None) -> str:
    """The end of a change, for its confirmation."""
    return "" if for_s is None else f" for {for_s:g} s"


@control.command("set")
@click.option("--rate", type=RATE, help="Global rate, frames/s; sets mode manual.")
@click.option("--burst", type=BURST, help="Global burst, frames.")
@click.option("--kp", type=GAIN, help="Proportional gain.")
@click.option("--ki", type=GAIN, help="Integral gain, 1/s.")
@click.option("--kd", type=GAIN, help="Derivative gain, s.")
@click.option("--filter", "filter_s", type=GAIN, help="Time constant of the derivative's filter, s.")
@click.option("--lag", type=Finite(min=1), help="Set-point of the lag, frames.")
@click.option("--cpu", type=Finite(0.01, 1), help="Set-point of the CPU share.")
@ENDS
@WHY
@JSON
def set_(
    rate: float | None, burst: float | None, lag: float | None, cpu: float | None, for_s: float | None, reason: str,
    as_json: bool, **gains: float | None,
) -> None:  # fmt: skip
    """Set the global rate and burst, or tune the controller's gains and set-points."""
    from klais.control.overrides import until
    from klais.control.setpoints import OVERRIDE

    tuned = {name: value for name, value in gains.items() if value is not None}
    setpoints = {name: value for name, value in (("lag", lag), ("cpu", cpu)) if value is not None}
    changes: dict[str, Any] = {"until_ms": until(for_s)}
    changes |= {"rate": rate, "mode": "manual"} if rate is not None else {}
    changes |= {"burst": burst} if burst is not None else {}
    changes |= {"gains": tuned} if tuned else {}
    changes |= {"setpoints": setpoints} if setpoints else {}
    if len(changes) == 1:
        raise click.UsageError("nothing to set: give --rate, --burst, a gain or a set-point")
    text = ", ".join(f"{name} {value}" for name, value in changes.items() if value is not None)
    write_override(OVERRIDE, changes, reason, as_json, f"set {text}")


@control.command()
@click.option("--forget", is_flag=True, help="Also reset tuned gains, set-points and burst.")
@WHY
@JSON
def auto(forget: bool, reason: str, as_json: bool) -> None:
    """Let the controller set the rate, starting from the present one."""
    from klais.control.setpoints import OVERRIDE

    changes: dict[str, Any] = {"mode": "auto", "rate": None, "until_ms": None}
    changes |= {"gains": None, "setpoints": None, "burst": None} if forget else {}
    write_override(OVERRIDE, changes, reason, as_json, "the controller sets the rate")


@control.command()
@DEVICE_IDS
@ENDS
@WHY
@YES
@JSON_EACH
def block(device_ids: tuple[str, ...], for_s: float | None, reason: str, yes: bool, as_json: bool) -> None:
    """Drop every frame of devices.

    With - as DEVICE_IDS, the ids are read from standard input, one per line.

    \b
    Examples:
      klais devices block dev-7 --for 1h --reason "floods"
      klais devices list --match evil -n 0 -o jsonl | jq -r .device_id > ids
      klais devices block - --for 10m < ids
    """
    from klais.control.overrides import blocking

    _write_all(device_ids, yes, blocking(for_s), reason, as_json, f"blocked {{}}{ends(for_s)}")


@control.command()
@DEVICE_IDS
@WHY
@YES
@JSON_EACH
def unblock(device_ids: tuple[str, ...], reason: str, yes: bool, as_json: bool) -> None:
    """Let the frames of devices pass again.

    With - as DEVICE_IDS, the ids are read from standard input, one per line.

    \b
    Example:
      klais devices blocked -o jsonl | jq -r .device_id | klais devices unblock -
    """
    from klais.control.overrides import unblocking

    _write_all(device_ids, yes, unblocking(), reason, as_json, "unblocked {}")


def _write_all(
    device_ids: tuple[str, ...], yes: bool, changes: dict[str, Any], reason: str, as_json: bool, text: str
) -> None:
    """Change the records of devices, and print a confirmation for each; all ids are checked first."""
    from klais.control.overrides import write_all

    scopes = {scope_of_device(device_id): device_id for device_id in _ids(device_ids)}
    if not scopes:
        raise click.UsageError("standard input holds no device id")
    if len(scopes) > MANY and not yes:
        raise click.UsageError(f"these are {len(scopes):,} devices: more than {MANY} need --yes")
    for scope, record in write_all(load(), scopes, changes, author(), reason):
        if as_json:
            say_json({"scope": scope, **record})
        else:
            say(f"{text.format(scopes[scope])}; by {record['author']}")


def _ids(device_ids: tuple[str, ...]) -> tuple[str, ...]:
    """Ids of arguments; those of standard input in the place of ``-``."""
    if device_ids != ("-",):
        return device_ids
    try:
        lines = click.get_binary_stream("stdin").read().decode().split("\n")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input is not UTF-8 text: byte {error.start} of it") from None
    return tuple(line for each in lines if (line := each.removesuffix("\r")))


@control.command()
@DEVICE_ID
@click.option("--rate", type=RATE, help="Its own rate, frames/s.")
@click.option("--burst", type=BURST, help="Its own burst, frames.")
@click.option("--clear", is_flag=True, help="Return to the default limits.")
@ENDS
@WHY
@JSON
def device(
    device_id: str,
    rate: float | None,
    burst: float | None,
    clear: bool,
    for_s: float | None,
    reason: str,
    as_json: bool,
) -> None:
    """Set a device's own rate and burst."""
    from klais.control.overrides import until

    if clear == (rate is not None or burst is not None):
        raise click.UsageError("give --rate, --burst or both, or else --clear")
    changes: dict[str, Any] = {"limits_until_ms": until(for_s)}
    changes |= {"rate": rate} if rate is not None or clear else {}
    changes |= {"burst": burst} if burst is not None or clear else {}
    message = f"{'cleared' if clear else 'set'} limits of {device_id}"
    write_override(scope_of_device(device_id), changes, reason, as_json, message)


def scope_of_device(device_id: str) -> str:
    """The scope of a device on ``klais_control``; an invalid id is a usage error."""
    from klais.control.overrides import device_scope
    from klais.core.wire.constants import ID_RULE, is_device_id

    if not is_device_id(device_id.encode()):
        raise click.UsageError(f"{ID_RULE}: {device_id!r} does not")
    return device_scope(device_id)


@control.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(as_json: bool) -> None:
    """Show the limits in force, with author and reason."""
    from klais.control.overrides import following

    settings = load()
    with following(settings) as follower:
        decision = follower.record("global") or {}
        now: dict[str, Any] = {
            "mode": follower.mode(),
            "rate": follower.rate(settings.dam_max_rate),
            "burst": follower.burst(settings.dam_burst_size),
            "overrides": follower.overrides(),
            "decision": decision or None,
        }
    if as_json:
        say_json(now)
        return
    say(f"mode {now['mode']}, rate {now['rate']:,.0f}/s, burst {now['burst']:,.0f} frames")
    if decision:
        say(line(decision))
    for record in now["overrides"]:
        say(override_line(record))


@control.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per decision.")
@click.option("--last", type=click.IntRange(0, 600), default=10, show_default=True, help="Number of earlier decisions.")
@click.option("--for", "for_s", type=DURATION, default=None, help="End after this.  [default: Ctrl-C]")
def watch(as_json: bool, last: int, for_s: float | None) -> None:
    """Print each new decision: the rate and its inputs."""
    from klais.control.overrides import following

    changed = threading.Event()
    with following(load()) as follower, follower.changes(changed.set):
        shown = max(0, len(follower.decisions) - last)
        until_s = time.monotonic() + (for_s if for_s is not None else float("inf"))
        seen = list(follower.decisions)[shown:]
        newest = follower.decisions[-1] if follower.decisions else None
        outage = Outage(f"{follower.topic} can be read again")
        try:
            while True:
                outage.update(follower.outage())
                for record in seen:
                    if as_json:
                        say_json(record)
                    else:
                        say(line(record))
                if time.monotonic() >= until_s:
                    return
                changed.wait(min(0.5, max(0.01, until_s - time.monotonic())))
                changed.clear()
                kept = list(follower.decisions)
                at = next((n for n in range(len(kept) - 1, -1, -1) if kept[n] is newest), -1)
                seen, newest = kept[at + 1 :], kept[-1] if kept else None
        except KeyboardInterrupt:
            return


def line(record: dict[str, Any]) -> str:
    """A decision as a line of text."""
    at_ms, terms, inputs = record.get("at") or 0, record.get("terms") or {}, record.get("inputs") or {}
    at = time.strftime("%H:%M:%S", time.localtime(at_ms / 1000))
    parts = [f"{at}.{at_ms % 1000 // 100}", record.get("mode") or "manual", f"{record.get('rate') or 0:,.0f}/s"]
    if inputs:
        lag, cpu, queue = (inputs.get(name, 0) for name in ("lag", "cpu", "queue_depth"))
        parts += [f"lag {lag:,.0f}", f"cpu {100 * cpu:.0f} %", f"queue {queue:,.0f}"]
    if terms:
        p, i, d, output = (terms.get(name, 0) for name in ("p", "i", "d", "output"))
        parts.append(f"P {p:+.3f} I {i:+.3f} D {d:+.3f} = {output:.3f}")
    if record.get("cut"):
        parts.append(f"cut {100 * record['cut']:.0f} %")
    return "  ".join([*parts, f"by {record.get('by') or record.get('author')}: {record.get('reason', '')}"])


def override_line(record: dict[str, Any]) -> str:
    """An override as a line of text."""
    names = ("mode", "rate", "burst", "gains", "setpoints", "block")
    sets = ", ".join(f"{name} {record[name]}" for name in names if record.get(name) is not None)
    why = f" ({record['reason']})" if record.get("reason") else ""
    return f"override {record['scope']}: {sets}; by {record.get('author')}{why}, {_ends_of(record)}"


def _ends_of(record: dict[str, Any]) -> str:
    """When an override ends; the block and the limits of a device have each their own end."""

    def until(name: str) -> str:
        at_ms = record.get(name)
        at = "further notice" if at_ms is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))
        return f"until {at}"

    limits = record.get("rate") is not None or record.get("burst") is not None
    if not limits or not str(record["scope"]).startswith("device/"):
        return until("until_ms")
    if not record.get("block"):
        return until("limits_until_ms")
    return f"block {until('until_ms')}, limits {until('limits_until_ms')}"
