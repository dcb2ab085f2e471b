"""``klais simulate``: frames of simulated devices, and a check of their delivery."""

import math
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from klais.cli.groups import SuggestingGroup
from klais.cli.herd import herd
from klais.cli.options import OUTPUT_FILE, SEED, SHARE, Finite
from klais.cli.printing import say_json, say_text
from klais.cli.settings import load
from klais.system.durations import DURATION

if TYPE_CHECKING:
    from klais.sim.sign import Signing
    from klais.sim.stream import StreamOptions
    from klais.sim.traffic import Schedule

DEFAULT_RATE = 1000.0


class _Rate(click.ParamType):
    """Frames per second, or ``max``."""

    name = "rate"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if value == "max":
            return math.inf
        try:
            rate = float(value)
        except ValueError:
            rate = math.nan
        if not 0 < rate < math.inf:
            self.fail(f"{value!r} is not a rate: give frames per second above 0, or max", param, ctx)
        return rate


MANIFEST = click.option(
    "--manifest",
    "path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Manifest of `klais simulate --manifest`.",
)


@click.group(cls=SuggestingGroup, invoke_without_command=True)
@click.option(
    "--devices", type=click.IntRange(1, 10_000_000), default=1000, show_default=True, help="Number of devices."
)
@click.option("--rate", type=_Rate(), help="Frames per second, all devices together, or max.  [default: 1000]")
@click.option("--for", "duration", type=DURATION, help="Duration: 30s, 2m, 1h30m.  [default: until Ctrl-C]")
@click.option("--count", type=click.IntRange(min=0), help="Stop after this number of frames.")
@click.option("--to", "to", metavar="HOST:PORT", help="Destination.  [default: KLAIS_UDP_BIND on this machine]")
@click.option("--source-ports", type=click.IntRange(1, 256), default=1, show_default=True, help="Sockets to send from.")
@click.option(
    "--trace", metavar="FILE.csv|nasa", help="Replay recorded counts: rows timestamp,count; nasa is included."
)
@click.option("--trace-scale", type=Finite(0, min_open=True), help="Multiply the counts.  [default: 1; nasa: 400]")
@click.option("--trace-start", metavar="ROW|TIME", help="Start at a row, 09:40 or a timestamp.  [nasa: 09:40]")
@click.option(
    "--speed",
    type=Finite(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Speed factor of the replay.",
)
@click.option(
    "--series", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of recorded values."
)
@click.option("--malformed", type=SHARE, default=0.0, help="Share of malformed frames, of seven kinds.")
@click.option("--duplicates", type=SHARE, default=0.0, help="Share of valid frames that are sent twice.")
@click.option("--reorder", type=Finite(0, 0.5), default=0.0, help="Share of frames overtaken by the next one.")
@click.option(
    "--reboot", type=SHARE, default=0.0, help="Share of frames before which the device restarts its sequence at 0."
)
@click.option("--spikes", type=SHARE, default=0.0, help="Share of frames with an outlier temperature.")
@click.option("--auth", is_flag=True, help="Sign the frames with the keys of KLAIS_AUTH_KEY_FILE.")
@click.option("--forged", type=SHARE, default=0.0, help="Share of signed frames with an invalid tag.")
@click.option("--seed", type=SEED, help="Same seed, same frames.  [default: a new one each run]")
@click.option("--id-prefix", default="sim-", show_default=True, help="Prefix of the device ids.")
@click.option(
    "--first-sequence", type=click.IntRange(0, 2**32 - 1), default=0, help="First sequence number of each device."
)
@click.option("--day", type=DURATION, default=86_400.0, help="Length of the modelled day.  [default: 24h]")
@click.option("--manifest", type=OUTPUT_FILE, help="Record every sent frame in this file.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object on standard output.")
@click.option("--json-lines", is_flag=True, help="One JSON object per second on standard output, the summary last.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress and no summary.")
@click.pass_context
def simulate(ctx: click.Context, /, **options: Any) -> None:
    """Send frames of simulated devices over UDP.

    Sensor values are modelled (a daily sine and correlated noise for each device) or, with --series, recorded: each CSV
    file of timestamp,value is one device. The same seed and options produce the same frames in the same order.

    \b
    Examples:
      klais simulate --devices 10000 --rate 50000 --for 30s
      klais simulate --trace nasa --trace-start 09:40 --speed 2
      klais simulate --malformed 0.01 --for 10s --manifest sent.klm
      klais simulate check --manifest sent.klm
    """
    if ctx.invoked_subcommand is None:
        _simulate(options)


def _simulate(options: dict[str, Any]) -> None:
    from klais.sim.report import reporter, summary_text
    from klais.sim.run import Plan, run
    from klais.sim.stream import FrameStream
    from klais.system.address import destination

    try:
        host, port = destination(options["to"] or load().udp_bind)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--to") from None
    stream = FrameStream(_stream_options(options), _schedule(options))
    stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    as_json, quiet = options["as_json"] or options["json_lines"], options["quiet"]
    mode = "json" if options["json_lines"] else "quiet" if quiet else "auto"
    duration_s, count, manifest = options["duration"], options["count"], options["manifest"]
    with reporter(mode, duration_s, count) as (report, report_s):
        summary = run(
            stream,
            Plan(host, port, options["source_ports"], duration_s, count, manifest, report_s, report, lambda: stopped),
        )
    if as_json:
        say_json(summary)
    elif not quiet:
        say_text(summary_text(summary, None if manifest is None else str(manifest)))


def _stream_options(options: dict[str, Any]) -> "StreamOptions":
    from klais.sim.stream import StreamOptions
    from klais.sim.traffic import load_series

    if options["forged"] and not options["auth"]:
        raise click.UsageError("--forged needs --auth")
    seed = options["seed"]
    shared = ("devices", "malformed", "duplicates", "reorder", "reboot", "spikes", "id_prefix", "first_sequence")
    return StreamOptions(
        **{name: options[name] for name in shared},
        seed=int.from_bytes(os.urandom(4)) if seed is None else seed,
        day_s=options["day"],
        series=None if options["series"] is None else load_series(options["series"]),
        signing=_signing(options["forged"]) if options["auth"] else None,
    )


def _signing(forged: float) -> "Signing":
    from klais.config.auth_keys import read_key_ring
    from klais.sim.sign import Signing

    ring = read_key_ring(load())
    if not ring.masters:
        raise click.UsageError("--auth needs a generation in KLAIS_AUTH_KEY_FILE")
    return Signing(ring.masters[ring.newest], ring.newest, int(time.time()), forged)


def _schedule(options: dict[str, Any]) -> "Schedule":
    from klais.sim import traffic

    name, scale, start = options["trace"], options["trace_scale"], options["trace_start"]
    if name is None:
        if scale is not None or start is not None or options["speed"] != 1.0:
            raise click.UsageError("--trace-scale, --trace-start and --speed need --trace")
        return traffic.SteadyRate(options["rate"] or DEFAULT_RATE)
    if options["rate"] is not None:
        raise click.UsageError("--rate and --trace are mutually exclusive: use --trace-scale")
    for option, value in (("--trace-scale", scale), ("--speed", options["speed"])):
        if value is not None and not 0 < value < math.inf:
            raise click.UsageError(f"{option} must be above 0, not {value}")
    trace = traffic.load_trace(name)
    shipped = name == "nasa"
    if scale is None:
        scale = traffic.NASA_DEFAULT_SCALE if shipped else 1.0
    where = start or (traffic.NASA_DEFAULT_START if shipped else "0")
    return traffic.TraceReplay(trace, scale, trace.row_of(where), options["speed"])


@simulate.command()
@MANIFEST
@click.option("--json", "as_json", is_flag=True, help="The verdict as one JSON object.")
@click.option("--wait", type=DURATION, default=10.0, help="Wait this long for frames in flight.  [default: 10s]")
@click.option(
    "--allow-missing",
    type=click.IntRange(min=0),
    default=0,
    help="Valid frames that may be missing (UDP may lose frames).",
)
@click.option("--strict", is_flag=True, help="Also require every malformed frame in the dead letters.")
@click.pass_context
def check(ctx: click.Context, path: Path, as_json: bool, wait: float, allow_missing: int, strict: bool) -> None:
    """Read the topics and check that every frame of the manifest has landed, once and in order.

    Exit code 0 if so, else 1. UDP may lose frames, and the dam drops frames above its limits; both are missing here.
    Compare with `klais stats`.
    """
    from klais.sim.manifest import read_manifest
    from klais.verify.check import check_manifest

    verdict = check_manifest(load(), read_manifest(path), wait)
    ok = verdict.ok(allow_missing=allow_missing, strict=strict)
    if as_json:
        say_json(verdict.public() | {"ok": ok})
    else:
        say_text(verdict.table(ok))
    ctx.exit(0 if ok else 1)


@simulate.command()
@MANIFEST
def show(path: Path) -> None:
    """Print options, totals and frames by kind of a manifest as JSON."""
    from klais.sim.manifest import read_manifest

    manifest = read_manifest(path)
    header = {name: value for name, value in manifest.header.items() if name not in ("ids", "kinds")}
    complete = manifest.totals is not None
    say_json({**header, "frames": manifest.count, "kinds": manifest.by_kind(), "complete": complete}, indent=2)


simulate.add_command(herd)
