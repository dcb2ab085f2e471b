"""The live screen of ``klais up``: stages with rates, drops by reason, latency, and the newest records."""

from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from klais.cli.up.reporter import Addresses, Summary
from klais.cli.up.sampler import Newest
from klais.cli.up.snapshot import Snapshot, count_text, latency_text, rate_text
from klais.system.durations import format_duration
from klais.text import escape, escape_lines

LANES_SHOWN = 32


class ScreenReporter:
    """Prints lines during the start, then a screen that is drawn once a second."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._addresses: Addresses | None = None

    def progress(self, text: str) -> None:
        """Print a line, above the screen if there is one."""
        self._console.print(escape_lines(text), markup=False, style="dim")

    def ready(self, addresses: Addresses) -> None:
        """Start drawing the screen: everything runs."""
        self._addresses = addresses
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()

    def snapshot(self, snapshot: Snapshot) -> None:
        """Draw the screen again."""
        if self._live is not None and self._addresses is not None:
            self._live.update(picture(snapshot, self._addresses, self._console.height), refresh=True)

    def summary(self, summary: Summary) -> None:
        """Print the summary."""
        self._console.print("\n".join(map(escape, summary.lines())), markup=False)

    def close(self) -> None:
        """Leave the last screen in place."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def picture(snapshot: Snapshot, addresses: Addresses, height: int = 1000) -> Group:
    """The whole screen, top to bottom; in a terminal with few lines first fewer records, then fewer addresses."""
    t, rates = snapshot.totals, snapshot.rates
    head = Text(f"KLAIS  {format_duration(round(snapshot.elapsed_s))}", style="bold")
    head.append("   Ctrl-C stops", style="dim")
    stages = Table(box=None, pad_edge=False, header_style="dim")
    stages.add_column("stage", min_width=24)
    for name in ("frames/s", "frames"):
        stages.add_column(name, justify="right", min_width=12)
    stages.add_column("", no_wrap=True, overflow="ellipsis")
    rows = [("sent", "sent", t.sent, addresses.simulated)] if addresses.simulated else []
    inflight = f"{snapshot.inflight_bytes / 1024:,.0f} KiB on their way to Kafka" if snapshot.inflight_bytes else ""
    plural = "workers" if snapshot.workers != 1 else "worker"
    rows += [
        ("received by the edge", "edge_received", t.edge_received, ""),
        ("published", "published", t.published, inflight),
        ("received by the worker", "worker_received", t.worker_received, f"{snapshot.workers} {plural}"),
        (f"landed in {addresses.telemetry}", "landed", t.landed, latency_text(snapshot.latency)),
    ]
    for name, stage, total, note in rows:
        stages.add_row(
            Text(escape(name)), rate_text(rates.get(stage)), f"{total:,}", Text(escape(note or ""), style="dim")
        )
    below, where = _state(snapshot), _where(addresses)
    # Above are the head and the stages with their headings, below is the line of the cursor.
    room = height - 1 - (4 + len(rows)) - len(below)
    shown = [Text(), *where[: room - 1]] if room >= 2 else []
    room -= len(shown)
    if room >= 3:  # an empty line, a heading, and at least one record
        below += [Text(), *_newest(snapshot.newest, room - 2)]
    return Group(head, Text(), stages, Text(), *below, *shown)


def _state(snapshot: Snapshot) -> list[Text]:
    t = snapshot.totals
    dropped = ", ".join(f"{frames:,} {reason}" for reason, frames in t.dropped().items())
    live = sum(state == "live" for state in snapshot.lanes.values())
    lanes = f"{live} of {len(snapshot.lanes)} live" if snapshot.workers else "unknown: no worker reports"
    missing = [str(p) for p, state in snapshot.lanes.items() if state == "starting"][:LANES_SHOWN]
    lanes += f" (not: {', '.join(missing)})" if missing else ""
    if snapshot.checkpoint_age_s is not None:
        lanes += f", checkpoint {snapshot.checkpoint_age_s:.1f} s ago"
    return [
        _row("dropped", escape(dropped) or "none", "red" if dropped else ""),
        _row("lag, queue", f"{count_text(snapshot.lag)} batches behind, {t.queued:,} frames wait"),
        _row("limit", rate_text(snapshot.rate_limit) + (f", {escape(snapshot.rate_by)}" if snapshot.rate_by else "")),
        _row("lanes", lanes, "yellow" if missing or not snapshot.workers else ""),
        _row(
            "devices",
            f"{count_text(snapshot.devices)}, {count_text(snapshot.anomaly_devices)} flagged now, "
            f"{t.flags:,} anomalies written",
        ),
        _row("dead letters", f"{t.dead_letters:,}"),
    ]


def _row(name: str, text: str, style: str = "") -> Text:
    return Text(f"{name:<14}", style="dim", no_wrap=True).append(text, style=style or "not dim")


def _newest(newest: list[Newest], room: int) -> list[Text]:
    out = [Text("newest records", style="dim")]
    for record in newest[-room:]:
        at = _time(record.ts_ms)
        line = Text(f"  {at}  {escape(record.value.decode(errors='replace'))}", no_wrap=True, overflow="ellipsis")
        out.append(line)
    return out if newest else [*out, Text("  none yet", style="dim")]


def _time(ms: int) -> str:
    """The time of day; ``-`` if no clock shows it, as in a record of another program."""
    try:
        return datetime.fromtimestamp(ms / 1000).strftime("%H:%M:%S.%f")[:-3]
    except (OverflowError, ValueError, OSError):
        return f"{'-':<12}"


def _where(addresses: Addresses) -> list[Text]:
    return [Text(escape(line), style="cyan", no_wrap=True, overflow="ellipsis") for line in addresses.lines()]
