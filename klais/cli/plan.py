"""``klais plan``: partitions, edges, workers and brokers that a system needs, with memory and disk."""

from dataclasses import asdict
from pathlib import Path

import click

from klais.cli.options import FRAMES_PER_S, Finite
from klais.cli.output import FORM, Column, Form, writer
from klais.cli.printing import say, say_json
from klais.planning.costs import costs
from klais.planning.model import Line, Plan, Question
from klais.planning.model import plan as make_plan
from klais.system.durations import DURATION

COLUMNS = (Column("part"), Column("name", "WHAT"), Column("shown", "VALUE"), Column("unit"), Column("formula"))
KEYS = ("part", "name", "value", "unit", "formula", "source")


@click.command()
@click.option("--devices", type=click.IntRange(1, 10**10), required=True, help="Devices that send.")
@click.option("--rate", type=FRAMES_PER_S, required=True, help="Frames/s of all devices together, at the peak.")
@click.option("--payload-bytes", type=click.IntRange(2, 65_000), default=60, show_default=True, help="Mean payload.")
@click.option(
    "--latency-ms", type=Finite(5, 1000), default=100.0, show_default=True, help="Target from arrival to readable."
)
@click.option(
    "--retention", "retention_s", type=DURATION, default="7d", show_default=True, help="Retention of records."
)
@click.option("--replication", type=click.IntRange(1, 9), default=3, show_default=True, help="Copies of each record.")
@click.option("--compression", type=Finite(0.01, 1), default=0.6, show_default=True, help="lz4 size / plain size.")
@click.option(
    "--outage",
    "outage_s",
    type=DURATION,
    default="1h",
    show_default=True,
    help="Outage of Kafka to bridge with spools.",
)
@click.option("--partitions", type=click.IntRange(1, 1024), help="Partitions of your system.  [default: computed]")
@click.option("--results", type=click.Path(path_type=Path), help="Results of `python -m bench` on your machine.")
@click.option("--explain", is_flag=True, help="Show the source of the measured costs below each line.")
@FORM
def plan(
    devices: int, rate: float, payload_bytes: int, latency_ms: float, retention_s: float, replication: int,
    compression: float, outage_s: float, partitions: int | None, results: Path | None, explain: bool, form: Form,
) -> None:  # fmt: skip
    """Size a system: partitions, edges, workers, brokers, memory, disk, network.

    Each line shows how it is computed from measured costs per frame and per batch. The defaults were measured on a
    medium virtual machine; use --results for your own. docs/scaling.md explains the model and its accuracy.

    \b
    Examples:
      klais plan --devices 1000000 --rate 200000
      klais plan --devices 10000000 --rate 5000000 --latency-ms 50 --explain
      python -m bench worker edge start memory --output mine.json
      klais plan --devices 50000 --rate 20000 --results mine.json -o json
    """
    question = Question(
        devices, rate, payload_bytes, latency_ms / 1e3, retention_s, replication, compression, outage_s, partitions or 0
    )
    _print(make_plan(question, costs(results)), form, explain)


def _print(found: Plan, form: Form, explain: bool) -> None:
    rows = [asdict(line) for line in found.lines]
    if form == "json":
        say_json({"lines": rows, "warnings": list(found.warnings)})
        return
    if form != "table":
        writer(form, COLUMNS, KEYS).write(rows)
        return
    writer(form, COLUMNS, KEYS).write(
        [row | {"shown": _shown(line)} for row, line in zip(rows, found.lines, strict=True)]
    )
    if explain:
        say("", "where the costs are from:")
        say(*(f"  {line.part}, {line.name}: {line.source}" for line in found.lines if line.source))
    say(*(f"warning: {text}" for text in found.warnings))


def _shown(line: Line) -> str:
    return f"{line.value:,.0f}" if line.value >= 100 or line.value == int(line.value) else f"{line.value:.2g}"
