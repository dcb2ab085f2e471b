"""``klais tap``: a live sample of the frames that lanes decide, from all workers."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from klais.cli.options import SOME_ID
from klais.cli.output import Column, Row, writer
from klais.cli.printing import say
from klais.cli.views import URL, WorkerViews, complete_device_id
from klais.errors import WorkerUnavailable
from klais.system.durations import DURATION
from klais.system.moments import clock_of
from klais.telemetry.tap_choices import (
    EDGE_REASONS,
    EDGE_VERDICTS,
    LANE_REASONS,
    LANE_VERDICTS,
    MAX_SAMPLE,
    contradiction,
)  # fmt: skip
from klais.text import escape

_ALL_REASONS = tuple(dict.fromkeys(LANE_REASONS + EDGE_REASONS))
KEYS = ("time", "ts", "partition", "device_id", "seq", "verdict", "reason", "flagged", "bytes", "edge", "source",
        "payload")  # fmt: skip
SHOWN = (
    Column("time", width=12), Column("partition", "PART"), Column("device_id", "DEVICE", 16), Column("seq", width=10),
    Column("outcome", width=12), Column("payload"),
)  # fmt: skip
MAX_WORKERS = 1000  # workers
RETRY_S = 2.0


class Rate(click.ParamType):
    """Frames per second: ``100`` or ``100/s``."""

    name = "rate"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        text = str(value).removesuffix("/s")
        if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_SAMPLE):
            self.fail(f"{value!r} is not a number of frames per second from 1 to {MAX_SAMPLE}", param, ctx)
        return int(text)


@click.command()
@click.option("--stage", type=click.Choice(["lane", "edge"]), default="lane", show_default=True,
              help="Frames that lanes decide, or those that an edge receives.")  # fmt: skip
@click.option(
    "--device", "device_id", type=SOME_ID, metavar="ID", help="Only this device.", shell_complete=complete_device_id
)
@click.option("--prefix", type=SOME_ID, metavar="TEXT", help="Only devices with this prefix of their id.")
@click.option("--verdict", type=click.Choice(LANE_VERDICTS), help="Verdict of the frame; dropped includes malformed.")
@click.option("--reason", type=click.Choice(_ALL_REASONS), metavar="REASON",
              help=f"Reason of the drop, by a lane: {', '.join(LANE_REASONS)}; or by an edge: "
              f"{', '.join(EDGE_REASONS)}.")  # fmt: skip
@click.option("--sample", type=Rate(), default=20, show_default=True, help="Maximum number of frames/s: 100 or 100/s.")
@click.option("--for", "for_s", type=DURATION, help="End after this: 30s, 5m.  [default: Ctrl-C]")
@click.option("-n", "count", type=click.IntRange(1), help="End after this number of frames.")
@click.option("-q", "--quiet", is_flag=True, help="No notices on stderr.")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json", "jsonl", "csv"]), default="table",
              show_default=True, help="A table, one JSON object per line (json and jsonl), or CSV.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
@URL
def tap(
    sample: int, for_s: float | None, count: int | None, quiet: bool, form: str, as_json: bool, url: str | None,
    stage: str, **wanted: str | None,
) -> None:  # fmt: skip
    """Show a live sample of the frames that lanes decide or an edge receives, with their verdicts.

    It queries a worker, which returns the addresses of all others. Workers choose an even sample of the matching frames
    once a second; they read nothing from Kafka for it. Payloads are cut at 1,024 bytes. If changes need a token, so
    does this: set KLAIS_API_TOKEN.

    With --stage edge it queries the edge at KLAIS_API_BIND (or --url), which also shows frames that never reach a lane,
    such as bad_magic, bad_mac or unsigned.

    \b
    Examples:
      klais tap
      klais tap --device dev-7 --for 30s
      klais tap --verdict dropped --reason device_rate --sample 100/s
      klais tap --prefix meter- -n 50 -o json | jq .payload
      klais tap --stage edge --verdict malformed
    """
    _check(stage, wanted)
    form = "json" if as_json else form
    workers = _servers(stage, url)
    first = workers[0]
    params: dict[str, str | int] = {name: text for name, text in wanted.items() if text}
    params["sample"] = max(1, -(-sample // len(workers)))
    follow = Followers(workers, params)

    def notice(line: str) -> None:
        if not quiet:
            say(f"klais: {line}", err=True)

    notice(f"taps {len(workers)} {first.kind}{'s' if len(workers) > 1 else ''}, at most {sample} frames/s")
    out = writer("jsonl" if form == "json" else form, SHOWN, KEYS)
    shown, interrupted = 0, False
    try:
        for rows in follow.samples(for_s, notice):
            some = rows if count is None else rows[: count - shown]
            shown += len(some)
            if some:
                out.write(some if form != "table" else [for_people(row) for row in some])
            if shown == count:
                break
    except KeyboardInterrupt:
        interrupted = True
    notice(f"{shown:,} of {follow.matched:,} frames that matched were shown")
    if not follow.answered and not (interrupted and follow.problem is None):
        raise WorkerUnavailable(follow.problem or f"the {first.kind} at {first.url} showed nothing in that time")


def _check(stage: str, wanted: dict[str, str | None]) -> None:
    """Refuse a verdict or reason that frames of the stage never have: nothing would be shown."""
    known = {"verdict": LANE_VERDICTS, "reason": LANE_REASONS}
    if stage == "edge":
        known = {"verdict": EDGE_VERDICTS, "reason": EDGE_REASONS}
    for name, words in known.items():
        given = wanted.get(name)
        if given is not None and given not in words:
            raise click.UsageError(f"--stage {stage} has no {name} {given}; there are {', '.join(words)}")
    names = ("verdict", "reason", "device_id", "prefix")
    if text := contradiction(*(wanted.get(name) or "" for name in names)):
        raise click.UsageError(escape(text))


def _servers(stage: str, url: str | None) -> list[WorkerViews]:
    """The edge, or the worker and all others that it knows."""
    if stage == "edge":
        return [WorkerViews.of(url, kind="edge")]
    first = WorkerViews.of(url)
    others = first.get("/api/v1/about").get("workers")
    return [
        first,
        *(first.of_worker(str(other)) for other in (others if isinstance(others, list) else ())[:MAX_WORKERS]),
    ]


def for_people(row: Row) -> Row:
    """A row for the table."""
    outcome = row["reason"] or row["verdict"]
    mark = " flagged" if row["flagged"] else ""
    seq = None if row["seq"] is None else str(row["seq"])
    return row | {"outcome": f"{outcome}{mark}", "seq": seq}


def is_sample(found: Row) -> bool:
    """Whether an event is the sample of a second, with all shown fields of a frame."""
    frames = found.get("frames")
    return (
        isinstance(found.get("matched"), int)
        and isinstance(frames, list)
        and all(isinstance(row, dict) and set(KEYS[1:]) <= row.keys() and _is_time(row["ts"]) for row in frames)
    )


def _is_time(ts_ms: object) -> bool:
    try:
        return isinstance(ts_ms, int) and bool(clock_of(ts_ms))
    except (ValueError, OverflowError, OSError):
        return False


class Followers:
    """One thread per worker; all samples arrive in one queue.

    Attributes
    ----------
    matched : int
        Matching frames so far, shown or not.
    answered : bool
        Whether any worker has sent a sample.
    problem : str or None
        The newest reason why a worker did not.
    """

    def __init__(self, workers: list[WorkerViews], params: dict[str, str | int]) -> None:
        self.matched, self.answered = 0, False
        self.problem: str | None = None
        self._workers, self._params = workers, params
        self._queue: queue.Queue[tuple[str, int, Any]] = queue.Queue(256)

    def samples(self, for_s: float | None, notice: Callable[[str], None]) -> Iterator[list[Row]]:
        """Rows on arrival, until ``for_s`` is over."""
        for worker in self._workers:
            threading.Thread(target=self._follow, args=(worker,), daemon=True).start()
        until_s = time.monotonic() + (float("inf") if for_s is None else for_s)
        newest: dict[str, int] = {}
        failed: dict[str, str] = {}
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                url, number, found = self._queue.get(timeout=min(1.0, left_s))
            except queue.Empty:
                continue
            if isinstance(found, str):
                self.problem = found
                if failed.get(url) != found:
                    notice(found)
                failed[url] = found
                if not self.answered and len(failed) == len(self._workers):
                    return
                continue
            if failed.pop(url, None) is not None and url in newest:
                notice(f"{url} sends samples again")
            if url in newest and number > newest[url] + 1:
                notice(f"{number - newest[url] - 1} seconds of {url} were not shown: this reader is slow")
            newest[url], self.answered = number, True
            self.matched += int(found["matched"])
            yield [{"time": clock_of(row["ts"]), **row} for row in found["frames"]]

    def _follow(self, worker: WorkerViews) -> None:
        while True:
            try:
                for number, found in worker.tap(self._params):
                    right = is_sample(found)
                    self._queue.put((worker.url, number, found if right else f"{worker.url} sends no samples of a tap"))
                self._queue.put((worker.url, 0, f"the {worker.kind} at {worker.url} ended its tap"))
            except WorkerUnavailable as error:
                self._queue.put((worker.url, 0, str(error)))
            time.sleep(RETRY_S)
