"""``klais up``: start everything, show it, stop it cleanly."""

import logging.config
import sys

import click

from klais.cli.options import FRAMES_PER_S
from klais.config.load import Settings, load
from klais.system.durations import DURATION
from klais.telemetry.log import dict_config


@click.command()
@click.option(
    "--for",
    "duration",
    type=DURATION,
    help="Stop after this time (30s, 2m) and check the totals.  [default: until Ctrl-C]",
)
@click.option("--no-simulate", is_flag=True, help="Start no simulated devices: wait for frames of real ones.")
@click.option(
    "--devices", type=click.IntRange(1, 10_000_000), default=1000, show_default=True, help="Simulated devices."
)
@click.option("--rate", type=FRAMES_PER_S, help="Frames per second of simulated devices, instead of recorded traffic.")
@click.option("--partitions", type=int, help="Partitions of every topic that is split by device (KLAIS_PARTITIONS, 4).")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Faust workers.")
@click.option("--plain", is_flag=True, help="One line per second, as without a terminal.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line: progress, ready, snapshot, summary.")
def up(
    duration: float | None,
    no_simulate: bool,
    devices: int,
    rate: float | None,
    partitions: int | None,
    workers: int,
    plain: bool,
    as_json: bool,
) -> None:
    """Start everything on this machine: Kafka, topics, edge, worker and simulated devices.

    Kafka is an embedded Apache Kafka with its data in the state folder, or the cluster of KLAIS_KAFKA_BOOTSTRAP. The
    simulated devices replay the traffic of a recorded day. Ctrl-C stops everything cleanly; a second Ctrl-C kills it.
    Accepted frames are in Kafka in both cases, and the next start continues from there.

    With --for it stops after that time, waits until every frame has landed, and checks the totals: frames sent,
    received, published, dropped by reason, landed. Exit code 0 if they add up, else 1.

    \b
    Two systems on one machine each need their own folder and ports:
      KLAIS_STATE_DIR   data and logs (.klais)
      KLAIS_KAFKA_PORT  the broker (9092)
      KLAIS_UDP_BIND    frames (0.0.0.0:5000)
      KLAIS_API_BIND    REST API (127.0.0.1:8080)
      KLAIS_WEB_PORT    web views (6066; with --workers N also those after it)

    \b
    Examples:
      klais up
      klais up --for 30s --rate 5000 --devices 10000
      klais up --no-simulate --partitions 8
      KLAIS_KAFKA_BOOTSTRAP=kafka1:9092,kafka2:9092 klais up --workers 2
      klais up --for 1m --json | jq -c 'select(.event == "summary")'
    """
    if no_simulate and rate is not None:
        raise click.UsageError("--rate is the simulated devices' rate: leave it out with --no-simulate")
    from klais.cli.up.launch_options import LaunchOptions
    from klais.cli.up.reporter import JsonReporter, PlainReporter, Reporter
    from klais.cli.up.run import Up

    settings = load(partitions=partitions, edge_id_from="number")
    _log_to_file(settings)
    reporter: Reporter = JsonReporter() if as_json else PlainReporter()
    if not (as_json or plain) and sys.stdout.isatty():
        from klais.cli.up.screen import ScreenReporter

        reporter = ScreenReporter()
    options = LaunchOptions(settings, duration, not no_simulate, devices, rate, workers)
    raise SystemExit(Up(options, reporter).run())


def _log_to_file(settings: Settings) -> None:
    """Send the log of this process to a file, because the terminal shows the screen."""
    path = settings.state_dir / "logs" / "up.log"
    config = dict_config(settings, "up")
    config["handlers"]["stderr"] = {
        "class": "klais.telemetry.log.OwnFileHandler",
        "formatter": "klais",
        "filename": str(path),
        "delay": True,  # its folder is created, or refused, later
    }
    logging.config.dictConfig(config)
