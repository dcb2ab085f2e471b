"""``klais redrive``: send dead letters back to ``klais_raw``, once each."""

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from klais.cli.control import author
from klais.cli.options import SOME_ID, Finite
from klais.cli.output import FORM, Column, Row, writer
from klais.cli.printing import say, say_json
from klais.cli.settings import load
from klais.cli.views import complete_device_id
from klais.cli.waiting import Progress
from klais.errors import KlaisError
from klais.system.moments import MOMENT, Moment
from klais.text import iso_seconds

if TYPE_CHECKING:
    from klais.redrive.dead_letters import DeadLetter

MAX_GROUPS = 1000  # pairs of reason and outcome in a summary
MAX_DEVICES = 100_000  # counted in each of them
MAX_ROWS = 100_000  # in one JSON object
OTHERS = "(others)"
GOES = "goes"
STILL = "still "
PROGRESS_S = 1.0
REASONS = ("bad_utf8", "bad_json", "not_object", "too_deep", "not_strict", "too_short", "bad_magic", "bad_device_id",
           "too_long", "corrupt_batch", "poison")  # fmt: skip
_WHY = {
    "redriven": "was redriven",
    "too_often": "was redriven too often",
    "clipped": "is incomplete: the dead letter was cut",
    "foreign": "is not a frame",
    "forged": "has an invalid tag",
    "unchecked": "has an unchecked tag",
}
_LISTED = ("partition", "offset", "device_id", "reason", "ts", "bytes", "times", "outcome")


@click.command()
@click.option("--reason", "reasons", type=click.Choice(REASONS), metavar="REASON", multiple=True,
              help=f"Only these (may be given again): {', '.join(REASONS)}.")  # fmt: skip
@click.option(
    "--device", type=SOME_ID, metavar="ID", help="Only frames of this device.", shell_complete=complete_device_id
)
@click.option("--from", "begin", type=MOMENT, help="Dead letters since: 2h (ago) or ISO 8601 (UTC).  [default: all]")
@click.option("--to", "end", type=MOMENT, help="Dead letters until, in the same format.  [default: now]")
@click.option("-n", "count", type=click.IntRange(1), help="Maximum number of frames.  [default: all]")
@click.option("--strip-nul", is_flag=True, help="Cut NUL bytes off the end of payloads.")
@click.option("--rate", type=Finite(1, 100_000), default=200.0, show_default=True, help="Frames/s.")
@click.option("--max-redrives", type=click.IntRange(1, 16), default=3, show_default=True,
              help="Skip dead letters that were redriven this often.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Send the frames. Without it nothing is written.")
@click.option("--note", default="", metavar="TEXT", help="Reason, stored in klais_audit.")
@click.option("--list", "listed", is_flag=True, help="One row per frame instead of a summary.")
@FORM
def redrive(
    reasons: tuple[str, ...], device: str | None, begin: Moment | None, end: Moment | None, count: int | None,
    strip_nul: bool, rate: float, max_redrives: int, yes: bool, note: str, listed: bool, form: str,
) -> None:  # fmt: skip
    """Send dead letters back to klais_raw after their cause is fixed.

    Without --yes it only shows what it would send. It sends a frame if a lane would accept it now: first fix the cause
    (a setting such as KLAIS_JSON_STRICT, a defect of KLAIS) or use --strip-nul. Frames keep their receive time.

    klais_audit records every frame before it is sent, and recorded frames are never sent a second time, so you can
    interrupt the command and run it again. A frame that becomes a dead letter again counts how often it was redriven.
    It reads and sends in parts, so the number of dead letters has no limit; DEVICES is `-` above 100,000.

    \b
    Examples:
      klais redrive
      klais redrive --reason not_strict --from 2h --list
      klais redrive --reason not_strict --from 2h --yes --note "not strict"
      klais redrive --device dev-7 --strip-nul --yes
    """
    from klais import fault
    from klais.kafka.offsets import need_partitions
    from klais.kafka.probe import need_kafka
    from klais.kafka.topics import Topics
    from klais.redrive.ledger import read_ledger
    from klais.redrive.run import Choice, Redrive, find_dead_letters

    if any(moment is not None and moment.ms is None for moment in (begin, end)):
        raise click.UsageError("--from and --to are times here, not offsets")
    settings = load()
    need_kafka(settings)
    choice = Choice(
        reasons, (device or "").encode(), begin.ms if begin else None, end.ms if end else None, count, max_redrives,
        strip_nul,
    )  # fmt: skip
    searched, report = Progress("dead letters read"), Report(listed, form)
    if not yes:
        need_partitions(settings, Topics.of(settings).raw)
        for part in find_dead_letters(settings, choice, asyncio.run(read_ledger(settings)), searched):
            report.add(part)
        report.end()
        if form == "table":
            say(f"{report.goes:,} of {report.frames:,} frames would be sent: use --yes to send them", err=True)
        return
    fault.arm(settings.fault_point)
    work = Redrive(settings, author(), note, rate, progress_of(sys.stderr.isatty()))
    again, gone = work.finish()
    if again:
        say(f"sent {again:,} frames of an interrupted run again; lanes drop duplicates", err=True)
    if gone:
        say(f"klais: {gone:,} frames of an interrupted run are gone; it is unknown whether they were sent", err=True)
    parts = find_dead_letters(settings, choice, work.ledger, searched)
    what = {"reasons": list(reasons), "device_id": device, "from_ms": choice.begin_ms, "to_ms": choice.end_ms}
    try:
        sent = work.send(report.through(parts), choice, what | {"strip_nul": strip_nul})
    except KeyboardInterrupt:
        raise KlaisError("interrupted: run this again to send the rest, no frame is sent twice") from None
    report.end(sent)
    if form == "table":
        say(f"sent {sent:,} frames to klais_raw", err=True)


def progress_of(shown: bool) -> Any:
    """A function that reports progress on stderr, if it is a terminal."""
    said_at = 0.0

    def progress(sent: int) -> None:
        nonlocal said_at
        if shown and time.monotonic() - said_at > PROGRESS_S:
            said_at = time.monotonic()
            say(f"{sent:,} frames sent", err=True)

    return progress


def outcome_of(verdict: str) -> str:
    """Outcome of a dead letter as text."""
    return GOES if not verdict else _WHY.get(verdict, STILL + verdict)


@dataclass(slots=True)
class _Group:
    """Dead letters with one reason and outcome."""

    frames: int = 0
    devices: set[bytes] | None = field(default_factory=set)  # None = more than MAX_DEVICES
    oldest_ms: int = 1 << 63
    newest_ms: int = -1

    def add(self, one: "DeadLetter") -> None:
        """Count one."""
        self.frames += 1
        self.oldest_ms, self.newest_ms = min(self.oldest_ms, one.ts_ms), max(self.newest_ms, one.ts_ms)
        if one.device_id and self.devices is not None:
            self.devices.add(one.device_id)
            if len(self.devices) > MAX_DEVICES:
                self.devices = None

    def row(self, reason: str, outcome: str) -> Row:
        """The group as a row."""
        devices = None if self.devices is None else len(self.devices)
        row: Row = {"reason": reason or "none", "outcome": outcome, "frames": self.frames, "devices": devices}
        return row | {"oldest": _iso(self.oldest_ms), "newest": _iso(self.newest_ms)}


class Report:
    """Counts dead letters by reason and outcome, in bounded memory; with ``listed`` prints a row for each on arrival.

    One JSON object has at most ``MAX_ROWS`` rows; a line on stderr says how many are missing.

    Attributes
    ----------
    frames, goes : int
        Dead letters so far, and those of them that can be sent.
    """

    def __init__(self, listed: bool, form: str) -> None:
        self.frames = self.goes = 0
        self._listed, self._form = listed, form
        self._groups: dict[tuple[str, str], _Group] = {}
        self._rows: list[Row] = []
        keys = _LISTED if listed else ("reason", "outcome", "frames", "devices", "oldest", "newest")
        columns = [Column(keys[0], width=12), *map(Column, keys[1:])]
        self._out = None if form == "json" else writer(form, columns, keys)

    def add(self, part: "Sequence[DeadLetter]") -> None:
        """Count these."""
        for one in part:
            self.frames += 1
            self.goes += not one.verdict
            key = one.reason, outcome_of(one.verdict)
            if key not in self._groups and len(self._groups) >= MAX_GROUPS:
                key = OTHERS, key[1]  # anyone who may write to the topic may invent reasons
            self._groups.setdefault(key, _Group()).add(one)
        if self._listed and self._out is not None:
            self._out.write(map(_row, part))
        elif self._listed:
            self._rows += map(_row, part[: MAX_ROWS - len(self._rows)])

    def through(self, parts: "Iterable[Sequence[DeadLetter]]") -> "Iterator[Sequence[DeadLetter]]":
        """The same parts, each counted before it is passed on."""
        for part in parts:
            self.add(part)
            yield part

    def outcomes(self) -> list[Row]:
        """One row per reason and outcome, most frames first."""
        groups = sorted(self._groups.items(), key=lambda group: -group[1].frames)
        return [group.row(*key) for key, group in groups]

    def end(self, sent: int | None = None) -> None:
        """Print what is not printed yet; ``sent``: frames sent."""
        if self._out is None:
            rows = {"dead_letters": self._rows} if self._listed else {"outcomes": self.outcomes()}
            say_json({"frames": self.frames, "goes": self.goes, "sent": sent} | rows)
            if self._listed and self.frames > len(self._rows):
                omitted = f"{self.frames - len(self._rows):,} rows are omitted in one JSON object"
                say(f"klais: {omitted}: -o jsonl prints all", err=True)
        elif not self._listed:
            self._out.write(self.outcomes())
        elif not self.frames:
            self._out.write([])  # the headings


def _row(dead_letter: "DeadLetter") -> Row:
    partition, offset, _ = dead_letter.place
    return {
        "partition": partition,
        "offset": offset,
        "device_id": dead_letter.device_id.decode(errors="replace"),
        "reason": dead_letter.reason,
        "ts": _iso(dead_letter.ts_ms),
        "bytes": len(dead_letter.frame),
        "times": dead_letter.times,
        "outcome": outcome_of(dead_letter.verdict),
    }


def _iso(ms: int) -> str | None:
    try:
        return iso_seconds(ms) if ms >= 0 else None
    except (ValueError, OverflowError, OSError):  # a foreign record may have any time
        return None
