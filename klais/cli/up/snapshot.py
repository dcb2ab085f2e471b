"""The state that ``klais up`` shows once a second, from the records on ``klais_stats``."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klais.cli.up.sampler import Latency, Newest, Sampler
from klais.kafka.stats import StatsFollower
from klais.system.durations import format_duration
from klais.telemetry.view import SystemView
from klais.verify.conservation import FrameAccount, Totals

RATE_OVER_S = 2.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The system at one moment. ``rates`` are frames/s by stage; None if the stage sent no recent record.

    Other figures are also None if no process sent a recent record, as while Kafka is unavailable.
    """

    elapsed_s: float
    totals: Totals
    rates: Mapping[str, float | None]
    lag: int | None
    rate_limit: float | None
    rate_by: str
    lanes: Mapping[int, str]
    workers: int
    devices: int | None
    anomaly_devices: int | None
    checkpoint_age_s: float | None
    inflight_bytes: int
    latency: Latency | None
    newest: list[Newest] = field(default_factory=list)

    def line(self) -> str:
        """One plain line."""
        names = (("sent", "sent"), ("edge_received", "edge"), ("published", "published"), ("worker_received", "worker"))
        parts = [format_duration(round(self.elapsed_s))]
        parts += [f"{word} {rate_text(self.rates.get(name))}" for name, word in (*names, ("landed", "landed"))]
        parts.append(f"dropped {sum(self.totals.dropped().values()):,}")
        parts += [f"{reason} {frames:,}" for reason, frames in self.totals.dropped().items()]
        parts += [f"lag {count_text(self.lag)}", f"queue {self.totals.queued:,}"]
        parts.append(latency_text(self.latency))
        not_live = [str(p) for p, state in self.lanes.items() if state == "starting"]
        if not_live:
            parts.append(f"lanes not live: {','.join(not_live)}")
        elif not self.workers:
            parts.append("no worker reports")
        return "  ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        late = self.latency
        return {
            "elapsed_s": round(self.elapsed_s, 3),
            "rates_per_s": dict(self.rates),
            "totals": totals_dict(self.totals),
            "lag_records": self.lag,
            "rate_limit": self.rate_limit,
            "rate_by": self.rate_by,
            "lanes": {str(p): state for p, state in self.lanes.items()},
            "workers": self.workers,
            "devices": self.devices,
            "anomaly_devices": self.anomaly_devices,
            "latency_ms": None if late is None else {"p50": late.p50_ms, "p99": late.p99_ms, "records": late.count},
        }


def totals_dict(totals: Totals) -> dict[str, Any]:
    """Totals as one JSON object."""
    return {
        "sent": totals.sent,
        "edge_received": totals.edge_received,
        "held": totals.held,
        "published": totals.published,
        "worker_received": totals.worker_received,
        "queued": totals.queued,
        "passed": totals.passed,
        "landed": totals.landed,
        "dropped": {"edge": dict(totals.edge_dropped), "worker": dict(totals.worker_dropped)},
        "dead_letters": totals.dead_letters,
        "flags": totals.flags,
    }


def rate_text(rate: float | None) -> str:
    """Frames per second as text.

    Examples
    --------
    >>> rate_text(1234.4), rate_text(None)
    ('1,234/s', '-')
    """
    return "-" if rate is None else f"{rate:,.0f}/s"


def count_text(count: float | None) -> str:
    """A whole number as text.

    Examples
    --------
    >>> count_text(1234), count_text(None)
    ('1,234', '-')
    """
    return "-" if count is None else f"{count:,.0f}"


def latency_text(latency: Latency | None) -> str:
    """Both percentiles as text."""
    return "p50 -  p99 -" if latency is None else f"p50 {latency.p50_ms:.0f} ms  p99 {latency.p99_ms:.0f} ms"


def rate_by(system: SystemView) -> str:
    """Source of the rate as text; empty if it is fixed or unknown."""
    words = {"auto": "set by the controller", "manual": "set by an operator"}
    modes = (controller.gauges.mode for controller in system.controllers.values())
    return next((words[mode] for mode in modes if mode in words), "")


class Simulated:
    """The log of the simulator: one JSON object per second, and a summary at its end."""

    def __init__(self, log: Path) -> None:
        self._log, self._at, self._rest = log, 0, b""

    def read(self) -> list[dict[str, Any]]:
        """Objects written since the last call, oldest first."""
        try:
            with open(self._log, "rb") as file:
                file.seek(self._at)
                data = file.read()
        except OSError:
            return []
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        out = []
        for line in lines:
            if line.startswith(b"{"):
                try:
                    out.append(json.loads(line))
                except ValueError:
                    continue
        return out


def _of_workers(system: SystemView, name: str) -> int | None:
    """A gauge, summed over the workers; None if no worker reports."""
    return int(system.gauge(name)) if system.workers else None


class Monitor:
    """Follows the whole system through the records of its processes.

    Parameters
    ----------
    edge : str
        Id of this edge on ``klais_stats``.
    partitions : int
        Partition count of the topics.
    follower, sampler
        Sources of the figures.

    """

    def __init__(self, edge: str, partitions: int, follower: StatsFollower, sampler: Sampler) -> None:
        self._edge, self._partitions = edge, partitions
        self._follower, self._sampler = follower, sampler
        self._simulated: Simulated | None = None
        self.account = FrameAccount(partitions)
        self._began_s = time.monotonic()
        self._sent: dict[str, Any] = {}
        self._sent_at_s = 0.0
        self._landed: list[tuple[float, int]] = []
        self.others = False  # whether other edges feed this system
        self.start_ends: dict[int, int] = {}

    def follow_simulator(self, log: Path) -> None:
        """Read the counts of a simulator from its log."""
        self._simulated = Simulated(log)

    def start(self) -> None:
        """Start counting frames."""
        self.refresh()
        self.start_ends = dict(self._sampler.ends() or {})
        self.account.start()

    def start_clock(self) -> None:
        """Start the clock."""
        self._began_s = time.monotonic()

    def refresh(self) -> None:
        """Read new records."""
        now_s = time.monotonic()
        for line in self._simulated.read() if self._simulated else ():
            self.account.observe_sent(line)
            self._sent, self._sent_at_s = line, now_s
        system = self._follower.view()
        self.others = self.others or bool(system.edges.keys() - {self._edge})
        if self._edge in system.edges:
            self.account.observe_edge(system.edges[self._edge])
        self.account.observe_workers(system)
        ends = self._sampler.ends()
        self._landed = [row for row in self._landed if now_s - row[0] <= RATE_OVER_S]
        if ends is not None:
            landed = sum(ends.values())
            self.account.observe_landed(landed)
            if self._sampler.is_fresh():
                self._landed.append((now_s, landed))

    def snapshot(self) -> Snapshot:
        """The state as of the last :meth:`refresh`."""
        system = self._follower.view()
        edge, live = system.edges.get(self._edge), system.live_lanes()
        edge_rates = edge.rates if edge else {}
        not_live = "starting" if system.workers else "unknown"
        return Snapshot(
            elapsed_s=time.monotonic() - self._began_s,
            totals=self.account.totals(),
            rates={
                "sent": self._sent_rate(),
                "edge_received": edge_rates.get("received"),
                "published": edge_rates.get("passed"),
                "worker_received": system.rate("received"),
                "passed": system.rate("passed"),
                "landed": self._landed_rate(),
            },
            lag=_of_workers(system, "lag"),
            rate_limit=system.highest("rate_limit") if system.workers else None,
            rate_by=rate_by(system),
            lanes={p: "live" if p in live else not_live for p in range(self._partitions)},
            workers=len(system.workers),
            devices=_of_workers(system, "devices"),
            anomaly_devices=_of_workers(system, "anomaly_devices"),
            checkpoint_age_s=system.highest("checkpoint_age_s") if system.workers else None,
            inflight_bytes=int(edge.gauges.inflight_bytes or 0) if edge else 0,
            latency=self._sampler.latency(),
            newest=self._sampler.newest(),
        )

    def _sent_rate(self) -> float | None:
        fresh = self._sent and time.monotonic() - self._sent_at_s < 2 * RATE_OVER_S
        return self._sent.get("rate_per_s") if fresh else None

    def _landed_rate(self) -> float | None:
        rows = self._landed
        if len(rows) < 2 or rows[-1][0] <= rows[0][0]:
            return None
        return (rows[-1][1] - rows[0][1]) / (rows[-1][0] - rows[0][0])
