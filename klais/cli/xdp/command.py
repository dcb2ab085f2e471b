"""``klais xdp``: load the filter onto an interface, control it and watch it while traffic flows."""

import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from klais.cli.groups import SuggestingGroup
from klais.cli.options import ENDS
from klais.cli.settings import load
from klais.cli.xdp.params import BURST, RATE, as_json, default_burst, device_id, pinned, source_prefix
from klais.config.settings import SettingsFields
from klais.system.address import split_address
from klais.system.durations import DURATION

if TYPE_CHECKING:
    from klais.xdp.maps import XdpMaps
_BY_SOURCE = ("source_list", "source_block", "source_rate")
RULES = ("headers", "magic", *_BY_SOURCE, "auth", "block", "device_rate", "global_rate")


def with_maps(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the maps of the loaded filter as its first argument."""

    @pinned
    @functools.wraps(command)
    def wrapped(pin_dir: Path | None, **options: Any) -> Any:
        with open_maps(load(), pin_dir) as maps:
            return command(maps, **options)

    return wrapped


def open_maps(settings: SettingsFields, pin_dir: Path | None) -> "XdpMaps":
    """The maps of the filter that ``--pin-dir`` or the settings name."""
    from klais.xdp.maps import XdpMaps

    return XdpMaps.open(pin_dir or settings.xdp_pin_dir)


@click.group(cls=SuggestingGroup)
def xdp() -> None:
    """Load, control and watch the XDP filter in the kernel.

    The filter sees each packet before the network stack does. It drops frames for our UDP ports that have no magic,
    come from blocked devices or exceed a rate, at some tens of nanoseconds each, and counts all packets by verdict.
    Other packets pass untouched. Its state is in maps pinned under /sys/fs/bpf/klais, so every command here acts on
    the running filter, and the filter keeps running when the process that loaded it ends.

    \b
    Examples:
      sudo klais xdp load --iface eth0
      sudo klais xdp stats --watch
      sudo klais xdp block sensor-42 --for 10m
      sudo klais xdp monitor device_rate on   # only count what it would drop
      sudo klais xdp unload
    """


@xdp.command("load")
@click.option("--iface", help="Interface (KLAIS_IFACE).")
@click.option(
    "--port", "ports", type=click.IntRange(1, 65_535), multiple=True, help="UDP port; default that of KLAIS_UDP_BIND."
)
@click.option(
    "--mode",
    type=click.Choice(["native", "generic", "auto"]),
    default="native",
    show_default=True,
    help="native: in the driver; generic: on any interface, slow; auto: generic if native is refused.",
)
@click.option("--rate", type=RATE, help="Frames/s of all devices without set-points; default KLAIS_PID_RATE_MAX.")
@click.option(
    "--burst", type=BURST, help="Burst of all devices; default KLAIS_DAM_BURST_SIZE, at least a tenth of --rate."
)
@click.option("--device-rate", type=RATE, help="Frames/s of each device; default KLAIS_DAM_DEVICE_RATE.")
@click.option("--device-burst", type=BURST, help="Burst of each device; default KLAIS_DAM_DEVICE_BURST.")
@click.option("--source-rate", type=RATE, default="none", show_default=True, help="Frames/s of each source prefix.")
@click.option(
    "--source-burst", type=BURST, help="Burst of each source prefix; default a tenth of the rate, at least 10."
)
@click.option(
    "--source-prefix-v4",
    type=click.IntRange(1, 32),
    default=32,
    show_default=True,
    help="Prefix length of an IPv4 source.",
)
@click.option(
    "--source-prefix-v6",
    type=click.IntRange(1, 128),
    default=56,
    show_default=True,
    help="Prefix length of an IPv6 source.",
)
@click.option(
    "--fragments",
    type=click.Choice(["pass", "drop"]),
    default="pass",
    show_default=True,
    help="drop: no fragment of UDP passes; pass: the first is checked, the others pass.",
)
@pinned
@as_json
def load_(iface: str | None, ports: tuple[int, ...], mode: Any, rate: float | None, burst: float | None,
          device_rate: float | None, device_burst: float | None, source_rate: float, source_burst: float | None,
          source_prefix_v4: int, source_prefix_v6: int, fragments: Any, pin_dir: Path | None,
          as_json: bool) -> None:  # fmt: skip
    """Load the filter onto an interface, or replace the loaded one by this version.

    A reload is atomic: every packet is checked and none is lost. Rules, buckets, counts, monitor flags and the
    controller's set-points are kept (unless their layout changed, which is reported). Ports, limits and fragments are
    those given now. An XDP program of another owner is never replaced.

    With KLAIS_AUTH other than off, signed frames pass; `klais xdp auth on` checks them in the filter.

    The limits given here apply until a controller writes set-points, and again when its set-points are older than
    KLAIS_XDP_HEARTBEAT_S. `--rate none` means no limit.

    \b
    Examples:
      sudo klais xdp load --iface eth0
      sudo klais xdp load --iface eth0 --port 5000 --rate 200000 --device-rate 50
      sudo klais xdp load --iface eth0 --source-rate 500 --fragments drop
    """
    from klais.cli.xdp import show
    from klais.xdp import loader
    from klais.xdp.auth import admit_signed
    from klais.xdp.limits import Limits
    from klais.xdp.sources import SourceLimit

    settings = load()
    if not (name := iface or settings.iface):
        raise click.UsageError("which interface? --iface IF, or KLAIS_IFACE")
    whole = rate or settings.pid_rate_max
    limits = Limits(
        whole,
        burst or max(settings.dam_burst_size, 0.1 * whole if whole < float("inf") else 1),
        device_rate or settings.dam_device_rate,
        device_burst or settings.dam_device_burst,
    )
    request = loader.Request(
        iface=name, pin_dir=pin_dir or settings.xdp_pin_dir, ports=ports or [split_address(settings.udp_bind)[1]],
        limits=limits, heartbeat_s=settings.xdp_heartbeat_s, devices=settings.xdp_devices,
        ring_bytes=settings.xdp_ring_bytes, mode=mode, fragments=fragments,
        source_limit=SourceLimit(
            source_rate, source_burst or default_burst(source_rate), source_prefix_v4, source_prefix_v6
        ),
    )  # fmt: skip
    done = loader.load(request)
    if settings.auth != "off":
        with open_maps(settings, request.pin_dir) as maps:
            admit_signed(maps.fd("auth"))
    show.echo(show.loaded(done), asdict(done), as_json)


@xdp.command()
@click.option("--iface", help="Only from this interface; default: from all interfaces with the filter.")
@click.option("--keep-maps", is_flag=True, help="Keep rules, buckets and counts pinned for the next load.")
@pinned
@as_json
def unload(iface: str | None, keep_maps: bool, pin_dir: Path | None, as_json: bool) -> None:
    """Unload the filter; all packets then reach the stack. XDP programs of other owners stay."""
    from klais.cli.xdp import show
    from klais.xdp import loader

    folder = pin_dir or load().xdp_pin_dir
    gone = loader.unload(folder, iface, keep_maps)
    text = f"unloaded from {', '.join(gone)}" if gone else f"no interface has the filter of {folder}"
    show.echo([text], {"unloaded": gone}, as_json)


@xdp.command()
@pinned
@as_json
def status(pin_dir: Path | None, as_json: bool) -> None:
    """Show interfaces, owner and limits of the filter.

    Interfaces with driver, mode, program id and tag; who loaded the filter; the age of the controller's heartbeat and
    whether its set-points or the limits given at load are in force; monitor flags; maps.
    """
    from klais.cli.xdp import show

    folder = pin_dir or load().xdp_pin_dir
    with open_maps(load(), folder) as maps:
        found = show.gather(maps)
    show.echo(show.status(found), found, as_json)


@xdp.command()
@click.option("--watch", is_flag=True, help="Repeat every second with rates, until Ctrl-C.")
@click.option("--interval", type=DURATION, default="1s", show_default=True, help="Time between two updates.")
@as_json
@with_maps
def stats(maps: "XdpMaps", watch: bool, interval: float, as_json: bool) -> None:
    """Show packets and bytes by verdict, summed over CPUs.

    Verdicts that start with would_ passed because their rule is in monitor mode. The sum of all verdicts is the number
    of packets received on the interfaces.
    """
    from klais.cli.xdp import show

    show.watch(lambda last, past_s: show.stats(maps, last, past_s, as_json), watch, interval, as_json)


@xdp.command()
@click.option("--watch", is_flag=True, help="Repeat every second with rates, until Ctrl-C.")
@click.option("--interval", type=DURATION, default="1s", show_default=True, help="Time between two updates.")
@click.option("-n", "count", type=click.IntRange(1, 10_000), default=20, show_default=True, help="Number of devices.")
@click.option("--by", type=click.Choice(["dropped", "passed"]), default="dropped", show_default=True, help="Order.")
@as_json
@with_maps
def top(maps: "XdpMaps", watch: bool, interval: float, count: int, by: str, as_json: bool) -> None:
    """Show devices by dropped or passed frames, with their remaining tokens.

    Counts start when the filter first sees the device (or sees it again after it was forgotten); with --watch, they are
    those of the last interval. Blocked devices are not counted here: `klais xdp stats` has their sum.
    """
    from klais.cli.xdp import show

    show.watch(lambda last, past_s: show.top(maps, count, by, last, past_s, as_json), watch, interval, as_json)


@xdp.command()
@click.argument("device", callback=device_id, required=False)
@ENDS
@as_json
@with_maps
def block(maps: "XdpMaps", device: str | None, for_s: float | None, as_json: bool) -> None:
    """Drop all frames of a device; without DEVICE, list blocked devices.

    With --for the block expires in the kernel, even if no KLAIS process runs. A device on the allow list still passes.

    \b
    Examples:
      sudo klais xdp block sensor-42 --for 10m
      sudo klais xdp block
    """
    _listed("blocked", maps, device, as_json, lambda: maps.block(device or "", for_s))


@xdp.command()
@click.argument("device", callback=device_id)
@as_json
@with_maps
def unblock(maps: "XdpMaps", device: str, as_json: bool) -> None:
    """Remove a block."""
    from klais.cli.xdp import show

    was = any(rule.device_id == device for rule in maps.blocked())
    maps.unblock(device)
    show.echo([f"{device}: {'unblocked' if was else 'was not blocked'}"], {"device_id": device, "was": was}, as_json)


@xdp.command()
@click.argument("device", callback=device_id, required=False)
@ENDS
@click.option("--clear", is_flag=True, help="Remove the device from the list.")
@as_json
@with_maps
def allow(maps: "XdpMaps", device: str | None, for_s: float | None, clear: bool, as_json: bool) -> None:
    """Let a device pass regardless of blocks and rates; without DEVICE, show the list.

    Its frames must still have the magic, a valid device id and an allowed source. They take no tokens from the global
    rate.
    """
    change = (lambda: maps.disallow(device or "")) if clear else (lambda: maps.allow(device or "", for_s))
    _listed("allowed", maps, device, as_json, change)


@xdp.command()
@click.argument("device_and_rate", nargs=-1)
@click.option("--global", "everything", is_flag=True, help="The rate of all devices together, without set-points.")
@click.option("--each", is_flag=True, help="The rate of every device without its own, without set-points.")
@click.option("--each-source", is_flag=True, help="The rate of every source prefix.")
@click.option("--burst", type=BURST, help="Frames at once; default a tenth of the rate, at least 10.")
@click.option("--clear", is_flag=True, help="Remove the device's own rate.")
@as_json
@with_maps
def rate(maps: "XdpMaps", device_and_rate: tuple[str, ...], everything: bool, each: bool, each_source: bool,
         burst: float | None, clear: bool, as_json: bool) -> None:  # fmt: skip
    """Set rates in frames per second; without arguments, list devices with their own rate.

    RATE is a number above 0, or `none` for no limit.

    \b
    Examples:
      sudo klais xdp rate sensor-42 5 --burst 20     # one device
      sudo klais xdp rate sensor-42 --clear
      sudo klais xdp rate --each 100                 # every device
      sudo klais xdp rate --each-source 500          # every source address
      sudo klais xdp rate --global 50000             # all together
    """
    from klais.cli.xdp import rates

    scopes = [name for name, on in (("global", everything), ("each", each), ("source", each_source)) if on]
    rates.run(maps, device_and_rate, scopes, burst, clear, as_json)


@xdp.command()
@click.argument("rule", type=click.Choice(RULES), required=False)
@click.argument("state", type=click.Choice(["on", "off"]), required=False)
@as_json
@with_maps
def monitor(maps: "XdpMaps", rule: str | None, state: str | None, as_json: bool) -> None:
    """Let a rule only count what it would drop; without arguments, show the mode of each rule.

    \b
    Rules: headers (unparsable packets), source_list (klais xdp allow-source),
    source_block (klais sources block), magic (also too short frames and bad
    device ids), source_rate, auth (tags), block, device_rate, global_rate.

    \b
    Example:
      sudo klais xdp monitor global_rate on
    """
    from klais.cli.xdp import show

    if rule and not state:
        raise click.UsageError("on or off?")
    if rule:
        maps.set_monitor(rule, state == "on")
    now = {name: name in maps.status().monitor for name in RULES}
    lines = [f"{name:12} {'monitor: counts, drops nothing' if on else 'in force'}" for name, on in now.items()]
    show.echo(lines, now, as_json)


@xdp.command()
@click.argument("state", type=click.Choice(["on", "pass", "off"]), required=False)
@click.option(
    "--unverified-rate",
    type=RATE,
    default=10_000.0,
    show_default=True,
    help="Frames/s of signed frames that the filter cannot check.",
)
@as_json
@with_maps
def auth(maps: "XdpMaps", state: str | None, unverified_rate: float, as_json: bool) -> None:
    """Set the handling of signed frames in the filter; without STATE, show it.

    on: check their tags with the keys of KLAIS_AUTH_KEY_FILE; with KLAIS_AUTH=require and no KLAIS_AUTH_EXEMPT also
    drop plain frames. pass: let them pass unchecked. off: treat them as bad magic. Repeat it after a rotation.
    """
    from klais.cli.xdp import show
    from klais.xdp.auth import read_auth, set_auth

    if state is not None:
        set_auth(maps.fd("auth"), state, load(), unverified_rate)
    found = read_auth(maps.fd("auth"))
    show.echo([f"{name}: {value}" for name, value in asdict(found).items()], asdict(found), as_json)


@xdp.command("allow-source")
@click.argument("prefix", metavar="[CIDR]", callback=source_prefix, required=False)
@click.option("--clear", is_flag=True, help="Remove the prefix from the list.")
@as_json
@with_maps
def allow_source(maps: "XdpMaps", prefix: str | None, clear: bool, as_json: bool) -> None:
    """Allow only listed source addresses to send to the filtered ports; without CIDR, show the list.

    The first prefix denies all other sources, for every device. After the last one is removed, all may send again. The
    list survives a reload. Any sender in its network can forge an address.

    \b
    Examples:
      sudo klais xdp monitor source_list on   # only count what it would drop
      sudo klais xdp allow-source 10.20.0.0/16
      sudo klais xdp allow-source 2001:db8:7::/48
      sudo klais xdp allow-source 10.20.0.0/16 --clear
    """
    from klais.cli.xdp import show

    if prefix is not None:
        if clear:
            maps.sources.disallow(prefix)
        else:
            maps.sources.allow(prefix)
    elif clear:
        raise click.UsageError("which prefix? CIDR --clear")
    allowed = [str(network) for network in maps.sources.allowed()]
    show.echo(allowed or ["no list: every source may send"], {"allowed_sources": allowed}, as_json)


def _listed(what: str, maps: "XdpMaps", device: str | None, as_json: bool, change: Callable[[], Any]) -> None:
    """Change one entry of the block or allow list, or show the list."""
    from klais.cli.xdp import show

    if device is not None:
        change()
    rules = maps.blocked() if what == "blocked" else maps.allowed()
    if device is not None:
        rules = [rule for rule in rules if rule.device_id == device]
    rows = [show.public(rule) for rule in rules]
    nothing = f"{device}: not {what}" if device else f"no device is {what}"
    show.echo([show.rule_line(rule) for rule in rules] or [nothing], {what: rows}, as_json)
