"""Reports a running simulation: a progress bar on a terminal, else one line per second, or JSON lines."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from klais.sim.run import Progress, Report
from klais.system.durations import format_duration


def line_of(progress: Progress) -> str:
    """One plain line.

    Examples
    --------
    >>> line_of(Progress(2.0, 2000, 114_000, 1000.0))
    '2s  1,000 frames/s  2,000 sent  0.1 MB'
    """
    text = f"{format_duration(progress.elapsed_s)}  {progress.rate:,.0f} frames/s  {progress.sent:,} sent"
    text += f"  {progress.sent_bytes / 1e6:.1f} MB"
    if progress.refused:
        text += f"  port unreachable ({progress.refused:,} responses)"
    if progress.slipped_s >= 0.1:
        text += f"  {format_duration(progress.slipped_s)} behind"
    return text


@contextmanager
def reporter(mode: str, duration_s: float | None, count: int | None) -> Iterator[tuple[Report, float]]:
    """A report function and the seconds between two calls of it. ``mode``: quiet, json, plain, or auto."""
    if mode == "auto":
        mode = "bar" if sys.stderr.isatty() else "plain"
    if mode == "bar":
        with _bar(duration_s, count) as report:
            yield report, 0.2
    elif mode == "json":
        yield (lambda progress: print(json.dumps(progress.public()), flush=True)), 1.0
    elif mode == "plain":
        yield (lambda progress: print(line_of(progress), file=sys.stderr, flush=True)), 1.0
    else:
        yield (lambda progress: None), 1.0


@contextmanager
def _bar(duration_s: float | None, count: int | None) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [SpinnerColumn(), BarColumn(bar_width=12), TextColumn("{task.description}"), TimeRemainingColumn()]
    if duration_s is None and count is None:
        columns = [SpinnerColumn(), TextColumn("{task.description}  Ctrl-C stops")]
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=duration_s if duration_s is not None else count)

        def report(progress: Progress) -> None:
            completed = progress.elapsed_s if duration_s is not None else progress.sent
            bar.update(task, description=line_of(progress), completed=completed)

        yield report


def summary_text(summary: dict[str, Any], manifest: str | None) -> str:
    """The summary of a run as text."""
    lines = [
        f"{summary['frames']:,} frames in {format_duration(summary['seconds'])}: "
        f"{summary['rate_per_s']:,.0f} frames/s, "
        f"{summary['bytes'] / 1e6:,.1f} MB, {summary['cpu_us_per_frame']:.2f} us of CPU per frame, "
        f"{summary['devices']:,} devices, seed {summary['seed']}"
    ]
    odd = {name: n for name, n in summary["kinds"].items() if name != "good"}
    if odd:
        lines.append("  " + ", ".join(f"{n:,} {name}" for name, n in odd.items()))
    if summary["slipped_s"] >= 0.1:
        lines.append(f"  slower than requested: {format_duration(summary['slipped_s'])} of the schedule skipped")
    if summary["refused"]:
        lines.append(f"  port unreachable at times: {summary['refused']:,} responses")
    if manifest:
        lines.append(f"  manifest: {manifest}  (check with: klais simulate check --manifest {manifest})")
    return "\n".join(lines)
