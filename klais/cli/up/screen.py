"""The live screen of ``klais up``: the stages with their rates, what was dropped, how late records are, the newest ones."""

from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from klais.cli.up.reporter import Addresses, Summary
from klais.cli.up.sampler import Newest
from klais.cli.up.snapshot import Figures, latency_text, rate_text
from klais.system.durations import format_duration
from klais.text import escape

LANES_SHOWN = 32


class Screen:
    """Lines while it starts, then one picture that is drawn again with every look."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._addresses: Addresses | None = None

    def say(self, text: str) -> None:
        """What goes on; above the picture when there is one."""
        self._console.print(escape_lines(text), markup=False, style="dim")

    def ready(self, addresses: Addresses) -> None:
        """All is up: the picture begins."""
        self._addresses = addresses
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()

    def figures(self, figures: Figures) -> None:
        """Draw it again."""
        if self._live is not None and self._addresses is not None:
            self._live.update(picture(figures, self._addresses), refresh=True)

    def summary(self, summary: Summary) -> None:
        """The end."""
        self._console.print("\n".join(summary.lines()), markup=False)

    def close(self) -> None:
        """Leave the last picture where it is."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def picture(figures: Figures, addresses: Addresses) -> Group:
    """Everything, top to bottom."""
    t, rates = figures.totals, figures.rates
    head = Text(f"KLAIS  {format_duration(round(figures.elapsed_s))}", style="bold")
    head.append("   Ctrl-C stops", style="dim")
    stages = Table(box=None, pad_edge=False, header_style="dim")
    stages.add_column("stage", min_width=24)
    for name in ("frames/s", "frames"):
        stages.add_column(name, justify="right", min_width=12)
    stages.add_column("", no_wrap=True, overflow="ellipsis")
    rows = [("sent", "sent", t.sent, addresses.simulated)] if addresses.simulated else []
    inflight = f"{figures.inflight_bytes / 1024:,.0f} KiB on their way to Kafka" if figures.inflight_bytes else ""
    plural = "workers" if figures.workers != 1 else "worker"
    rows += [
        ("received by the edge", "edge_received", t.edge_received, ""),
        ("published", "published", t.published, inflight),
        ("received by the worker", "worker_received", t.worker_received, f"{figures.workers} {plural}"),
        (f"landed in {addresses.telemetry}", "landed", t.landed, latency_text(figures.latency)),
    ]
    for name, stage, total, note in rows:
        stages.add_row(name, rate_text(rates.get(stage)), f"{total:,}", Text(note or "", style="dim"))
    return Group(head, Text(), stages, Text(), *_state(figures), Text(), *_newest(figures.newest), Text(), *_where(addresses))


def _state(figures: Figures) -> list[Text]:
    t = figures.totals
    dropped = ", ".join(f"{frames:,} {reason}" for reason, frames in t.dropped().items())
    live = sum(state == "live" for state in figures.lanes.values())
    lanes = f"{live} of {len(figures.lanes)} live"
    missing = [str(p) for p, state in figures.lanes.items() if state != "live"][:LANES_SHOWN]
    lanes += f" (not: {', '.join(missing)})" if missing else ""
    return [
        _row("dropped", dropped or "none", "red" if dropped else ""),
        _row("lag, queue", f"{figures.lag:,} batches behind, {t.queued:,} frames wait"),
        _row("limit", f"{figures.rate_limit:,.0f}/s" + (f", {figures.rate_by}" if figures.rate_by else "")),
        _row("lanes", f"{lanes}, checkpoint {figures.checkpoint_age_s:.1f} s ago", "yellow" if missing else ""),
        _row("devices", f"{figures.devices:,}, {figures.anomaly_devices:,} flagged now, {t.flags:,} anomalies written"),
        _row("dead letters", f"{t.dead_letters:,}"),
    ]


def _row(name: str, text: str, style: str = "") -> Text:
    return Text(f"{name:<14}", style="dim", no_wrap=True).append(text, style=style or "not dim")


def _newest(newest: list[Newest]) -> list[Text]:
    out = [Text("newest records", style="dim")]
    for record in newest:
        at = datetime.fromtimestamp(record.ts_ms / 1000).strftime("%H:%M:%S.%f")[:-3]
        line = Text(f"  {at}  {escape(record.value.decode(errors='replace'))}", no_wrap=True, overflow="ellipsis")
        out.append(line)
    return out if newest else [*out, Text("  none yet", style="dim")]


def _where(addresses: Addresses) -> list[Text]:
    return [Text(line, style="cyan", no_wrap=True, overflow="ellipsis") for line in addresses.lines()]


def escape_lines(text: str) -> str:
    """Every line of a message without control characters: it may hold the end of a log."""
    return "\n".join(escape(line) for line in text.split("\n"))
