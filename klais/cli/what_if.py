"""``klais what-if``: an interval of ``klais_raw`` under other settings, compared with the original verdicts."""

import asyncio
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from klais.cli.options import OUTPUT_FILE, PARTITION, Finite, write_output
from klais.cli.output import FORM, Column, Row, writer
from klais.cli.printing import say, say_json
from klais.cli.settings import load
from klais.cli.waiting import Progress
from klais.errors import ConfigError
from klais.system.durations import DURATION, format_duration
from klais.system.moments import MOMENT, Moment
from klais.text import iso_seconds

if TYPE_CHECKING:
    from klais.config.load import Settings
    from klais.verify.whatif import Answer, Counts, Question

_COUNTS = ("received", "admitted", "dropped", "malformed", "flags")
_SERIES = ("passed", "queued", "dropped", "flagged")
_SIDES = ("happened", "would")
_KEYS = {
    "reason": ("outcome", "happened", "would", "difference"),
    "device": ("device_id", *(f"{side}_{name}" for name in _COUNTS for side in _SIDES)),
    "time": ("at_s", *(f"{side}_{name}" for name in _SERIES for side in _SIDES)),
}  # fmt: skip
_SHOWN_DEVICES = ("device_id", "happened_admitted", "would_admitted", "happened_dropped", "would_dropped",
                  "happened_flags", "would_flags")  # fmt: skip


@click.command("what-if")
@click.option(
    "--from", "begin", type=MOMENT, help="First record: 10m (ago), ISO 8601 (UTC) or @OFFSET.  [default: all]"
)
@click.option("--to", "end", type=MOMENT, help="End, in the same format.  [default: now]")
@click.option("-p", "--partition", type=PARTITION, multiple=True, help="Only this partition (may be given again).")
@click.option("--warm", "warm_s", type=DURATION, default=0.0, help="Learn devices for this time before --from: 10m.")
@click.option("--rate", "dam_max_rate", type=Finite(), help="Global rate, frames/s over all partitions.")
@click.option("--burst", "dam_burst_size", type=Finite(), help="Global burst, frames.")
@click.option("--device-rate", "dam_device_rate", type=Finite(), help="Rate of a device, frames/s.")
@click.option("--device-burst", "dam_device_burst", type=Finite(), help="Burst of a device, frames.")
@click.option(
    "--detector", "anomaly_detector", type=click.Choice(["two-tier", "zscore"]), help="Detector of anomalies."
)
@click.option("--set", "others", multiple=True, metavar="KLAIS_X=VALUE", help="Any other setting (may be given again).")
@click.option(
    "--by", type=click.Choice(["reason", "device", "time"]), default="reason", help="Grouping of the rows (reason)."
)
@click.option("-n", "count", type=click.IntRange(0), default=20, show_default=True, help="Number of devices; 0 = all.")
@click.option("--svg", type=OUTPUT_FILE, help="Draw both time series as SVG.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no notices on stderr.")
@FORM
def what_if(
    begin: Moment | None, end: Moment | None, partition: tuple[int, ...], warm_s: float, others: tuple[str, ...],
    by: str, count: int, svg: Path | None, quiet: bool, form: str, **tried: float | str | None,
) -> None:  # fmt: skip
    """Show the verdicts that past frames of klais_raw would have had under other settings.

    It reads klais_raw and the journal, and writes nothing. The code of a lane decides each frame again, at the time of
    the original decision, with the limits that were in force then except those that you change. The controller's
    decisions are not recomputed.

    This lane starts without devices: windows, buckets and profiles are empty. With --warm it first processes the frames
    before the interval. It needs the raw records: 24 h by default.

    \b
    Examples:
      klais what-if --from 1h --rate 20000
      klais what-if --from 2026-11-29T10:00 --warm 10m --device-rate 5 --by device
      klais what-if --from 10m --detector zscore --set KLAIS_ANOMALY_Z=8 -o json
      klais what-if -p 0 --from @1200 --to @1300 --rate 500 --svg course.svg
    """
    from klais.kafka.offsets import need_partitions
    from klais.kafka.probe import need_kafka
    from klais.kafka.topics import Topics
    from klais.verify.stretches import find_stretches
    from klais.verify.whatif import Question, ask

    begin, end = begin or Moment(), end or Moment()
    if (begin.offset is not None or end.offset is not None) and len(partition) != 1:
        raise click.UsageError("offsets need a partition: give it with -p")
    if warm_s and begin.ms is None:
        raise click.UsageError("--warm needs a time in --from")
    now = load()
    other = _tried(now, tried, others)
    question = Question(other, _changed(now, other))
    wanted = tuple(dict.fromkeys(partition)) or tuple(range(now.partitions))
    need_kafka(now)
    need_partitions(now, Topics.of(now).raw)
    stretches, notices = asyncio.run(find_stretches(now, wanted, begin, end, warm_s))
    if not quiet:
        say(*(f"klais: {notice}" for notice in notices), err=True)
    total = sum(stretch.end - stretch.warm for stretch in stretches)
    progress = Progress("records", quiet)
    done = itertools.count(1)
    answers = []
    for stretch in stretches:
        answers.append(asyncio.run(ask(now, question, stretch, lambda _: progress(next(done), total))))
    found = Found(answers)
    if svg is not None:
        write_output(svg, draw(found))
    if form == "json":
        whole = summary(found, question) | {"notices": notices}
        say_json({**whole, "outcomes": found.reasons(), "devices": found.devices(count), "seconds": found.seconds()})
        return
    rows = {"reason": found.reasons, "device": lambda: found.devices(count), "time": found.seconds}[by]()
    shown = _SHOWN_DEVICES if by == "device" else _KEYS[by]
    writer(form, [Column(shown[0], width=16), *map(Column, shown[1:])], _KEYS[by]).write(rows)
    if form == "table" and not quiet:
        say(*_words(found, question), err=True)


def _tried(now: "Settings", tried: dict[str, Any], others: tuple[str, ...]) -> "Settings":
    """The settings to try; names and values are checked as those of the environment."""
    environ = dict(os.environ)
    for text in others:
        name, sign, value = text.partition("=")
        if not sign or not name.startswith("KLAIS_"):
            raise click.UsageError(f"--set needs KLAIS_NAME=VALUE, not {text!r}")
        environ[name] = value
    other = load(environ, **tried)
    for name in ("partitions", "topic_prefix", "kafka_bootstrap"):
        if getattr(now, name) != getattr(other, name):
            raise ConfigError(f"KLAIS_{name.upper()} selects the records: set it in the environment, not here")
    return other


def _changed(now: "Settings", other: "Settings") -> frozenset[str]:
    return frozenset(name for name in type(now).model_fields if getattr(now, name) != getattr(other, name))


@dataclass(frozen=True, slots=True)
class Found:
    """The results of all partitions, as rows."""

    answers: "list[Answer]"

    def reasons(self) -> list[Row]:
        """One row per verdict."""
        names = dict.fromkeys(name for answer in self.answers for name in answer.reasons)
        out = []
        for name in names:
            pairs = [answer.reasons.get(name, (0, 0)) for answer in self.answers]
            happened, would = (sum(pair[side] for pair in pairs) for side in (0, 1))
            out.append({"outcome": name, "happened": happened, "would": would, "difference": would - happened})
        return out

    def devices(self, max_count: int) -> list[Row]:
        """One row per device, largest difference first."""
        import numpy as np

        sides = [[getattr(answer, name).devices() for answer in self.answers] for name in _SIDES]
        ids = np.unique(np.concatenate([part for side in sides for part, _ in side]))
        counts = np.zeros((2, len(ids), len(_COUNTS)), np.int64)
        for side, parts in enumerate(sides):
            for part, each in parts:
                counts[side, np.searchsorted(ids, part)] += each
        differs = np.abs(counts[1] - counts[0]).sum(axis=1)
        order = np.lexsort((ids, -differs))[: max_count or None]
        out = []
        for at in order.tolist():
            row: Row = {"device_id": ids[at].decode(errors="replace")}
            for place, name in enumerate(_COUNTS):
                row |= {f"happened_{name}": int(counts[0, at, place]), f"would_{name}": int(counts[1, at, place])}
            out.append(row)
        return out

    def seconds(self) -> list[Row]:
        """One row per second with decisions."""
        happened, would = (self._summed(name) for name in _SIDES)
        out = []
        for second in sorted({*happened, *would}):
            row: Row = {"at_s": second}
            for place, name in enumerate(_SERIES):
                row |= {f"{side}_{name}": int(sums[second][place]) if second in sums else 0
                        for side, sums in (("happened", happened), ("would", would))}  # fmt: skip
            out.append(row)
        return out

    def _summed(self, side: str) -> "dict[int, Counts]":
        out: dict[int, Counts] = {}
        for answer in self.answers:
            for second, counts in getattr(answer, side).seconds.items():
                out[second] = out[second] + counts if second in out else counts
        return out


def summary(found: Found, question: "Question") -> dict[str, Any]:
    """Parameters and range of the comparison."""
    answers = [answer for answer in found.answers if answer.records]
    changed = {f"KLAIS_{name.upper()}": str(getattr(question.settings, name)) for name in sorted(question.changed)}
    return {
        "changed": changed,
        "partitions": [answer.partition for answer in found.answers],
        "from": iso_seconds(min(answer.first_ns for answer in answers) // 1_000_000) if answers else None,
        "to": iso_seconds(max(answer.last_ns for answer in answers) // 1_000_000) if answers else None,
        "records": sum(answer.records for answer in answers),
        "frames": sum(answer.frames for answer in answers),
        "not_in_journal": sum(answer.unknown for answer in answers),
        "would_still_wait": sum(answer.waiting for answer in answers),
    }


def _words(found: Found, question: "Question") -> list[str]:
    at = summary(found, question)
    changed = " ".join(f"{name}={value}" for name, value in at["changed"].items()) or "nothing changed"
    out = [f"{at['frames']:,} frames of {at['records']:,} records, {at['from']} to {at['to']}; {changed}"]
    if at["not_in_journal"]:
        out.append(f"of {at['not_in_journal']:,} frames the journal has no verdict: they count on one side only")
    if at["would_still_wait"]:
        rate = question.settings.dam_max_rate
        took = format_duration(at["would_still_wait"] / rate)
        out.append(f"{at['would_still_wait']:,} frames would still wait at the end, {took} at {rate:,.0f} frames/s")
    return out


def draw(found: Found) -> str:
    """Both time series as SVG."""
    import numpy as np

    from klais.cli.plot import compare

    rows = found.seconds()
    t = np.array([row["at_s"] for row in rows], np.float64)
    panels = []
    for name in ("passed", "dropped", "flagged"):
        happened, would = (np.array([row[f"{side}_{name}"] for row in rows], np.float64) for side in _SIDES)
        panels.append((name, happened, would))
    return compare("frames per second: actual (blue), with the other settings (orange)", t, panels)
