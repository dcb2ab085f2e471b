"""``klais simulate herd``: many devices reconnect at the same time, with a verdict about the system."""

import signal
from types import FrameType

import click

from klais.cli.options import MAX_PER_S, SEED, Finite
from klais.cli.printing import say, say_json
from klais.cli.settings import load
from klais.system.durations import DURATION


@click.command()
@click.option(
    "--devices", type=click.IntRange(1, 5_000_000), default=10_000, show_default=True, help="Devices that reconnect."
)
@click.option(
    "--model", type=click.Choice(["beta", "uniform"]), default="beta", help="Over 10 s or 60 s.  [default: beta]"
)
@click.option(
    "--burst", type=click.IntRange(1, 10_000), default=5, show_default=True, help="Buffered frames of each device."
)
@click.option("--back-off/--no-back-off", default=False, help="Clients wait with full jitter.  [default: they do not]")
@click.option(
    "--steady-rate",
    type=Finite(0, MAX_PER_S),
    default=2000.0,
    show_default=True,
    help="Frames/s of devices that stay connected.",
)
@click.option("--wait", type=DURATION, default=15.0, help="Watch this long after the last arrival.  [default: 15s]")
@click.option("--to", metavar="HOST:PORT", help="Destination.  [default: the edge's KLAIS_UDP_BIND on this machine]")
@click.option("--seed", type=SEED, default=1, show_default=True, help="Same seed, same arrivals.")
@click.option("--json", "as_json", is_flag=True, help="The verdict as one JSON object.")
def herd(
    devices: int, model: str, burst: int, back_off: bool, steady_rate: float, wait: float, to: str | None, seed: int,
    as_json: bool,
) -> None:  # fmt: skip
    """Send a thundering herd to a running system and print a verdict.

    Arrivals follow 3GPP TR 37.868: Beta(3,4) over 10 s, or evenly over 60 s. Recovery is the time from the last arrival
    until the 99th percentile of the latency is back below twice its value before.

    \b
    Examples:
      klais simulate herd --devices 100000
      klais simulate herd --devices 10000 --model uniform --back-off
    """
    from klais.kafka.probe import need_kafka
    from klais.sim.herd import Herd, verdict_lines
    from klais.sim.herd_run import run
    from klais.system.address import destination

    settings = load()
    try:
        host, port = destination(to or settings.udp_bind)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--to") from None
    need_kafka(settings)
    stopped = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    which = Herd(
        devices,
        "beta" if model == "beta" else "uniform",
        burst,
        back_off,
        seed,
        steady_per_s=steady_rate,
        after_s=wait,
    )
    verdict = run(settings, which, host, port, lambda: stopped, lambda text: say(f"klais: {text}", err=True))
    if as_json:
        say_json(verdict)
    else:
        say(*verdict_lines(verdict))
