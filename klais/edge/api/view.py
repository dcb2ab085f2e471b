"""What the edge tells about itself and the system: for the REST API, the metrics and ``klais_stats``."""

import math
import time
from contextlib import nullcontext
from typing import Any

import orjson

from klais import __version__
from klais.config.load import Settings
from klais.control.setpoints import OVERRIDE, ControlFollower
from klais.control.xdp_applier import Applier
from klais.core.wire.constants import Reason
from klais.edge.counts import Counts
from klais.edge.sinks.store_and_forward import Forwarder
from klais.edge.spine import Spine
from klais.kafka.stats import ControlProducer, StatsFollower, clock_warning
from klais.system.clock import now_ms
from klais.system.cpu import CpuShare
from klais.telemetry.metrics import EdgeMetrics, EdgeSnapshot
from klais.telemetry.quantiles import Quantiles, both
from klais.telemetry.stats import total

RECENT_S = 5.0
FULL_HOST = 0.85  # what a worker's host counts as when all its cores are busy: enough to stretch the linger
REFUSED = (Reason.BACKPRESSURE, Reason.SPOOL_FULL, Reason.SPOOL_FAILED)


class EdgeState:
    """One place that knows; its methods may be called from any thread.

    Attributes
    ----------
    spine, forwarder : Spine, Forwarder or None
        Set once the edge receives.
    waiting_for : str
        Why it does not receive yet; empty once it does.
    passed_over : dict[str, str]
        Sources that ``auto`` did not take, with the reason.
    """

    def __init__(
        self,
        settings: Settings,
        counts: Counts,
        control: ControlFollower,
        system: StatsFollower,
        producer: ControlProducer,
    ) -> None:
        self._settings, self._counts = settings, counts
        self._control, self._system, self._producer = control, system, producer
        self._started_s = time.monotonic()
        self._refused = (0, float("-inf"))  # frames dropped so far, when that last grew
        self.spine: Spine | None = None
        self.forwarder: Forwarder | None = None
        self.waiting_for = "starting"
        self.passed_over: dict[str, str] = {}
        self._metrics = EdgeMetrics(self.metrics_snapshot)
        self._cpu, self._kafka, self._batch = CpuShare(), Quantiles(), Quantiles()
        self.applier: Applier | None = None
        counts.observe_kafka_s = both(self._metrics.kafka.observe, self._kafka.observe)
        counts.observe_batch_s = both(self._metrics.processing.observe, self._batch.observe)

    def said(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same as :meth:`own` for ``klais_stats``, with CPU and latency since the record before.

        Called once a second, so this is also where the spine hears how busy the workers are.
        """
        counters, gauges = self.own()
        if self.spine:
            self.spine.pace.load(self._busiest_worker(), time.monotonic_ns())
        latency = {"processing_ms": self._batch.take(), "kafka_ms": self._kafka.take()}
        state = {"breaker": self.forwarder.breaker.state.value} if self.forwarder else {}
        return counters, gauges | {"rate_limit": self.rate()} | state | self._cpu.sample() | latency

    def own(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Counters and gauges of this edge, taken between two rounds of the spine."""
        spine, counts = self.spine, self._counts
        with spine.lock if spine else nullcontext():
            if spine:
                counts.kernel_drops = spine.source.kernel_drops()
            counters = counts.snapshot()
            gauges: dict[str, Any] = {
                "queue_depth": counts.depth(),
                "waiting": counts.waiting,
                "inflight": counts.inflight,
                "inflight_bytes": counts.inflight_bytes,
            }
            refused = sum(int(counts.by_reason[reason]) for reason in REFUSED)
            if self.forwarder:
                gauges |= self.forwarder.gauges()
        if spine:
            gauges |= {
                "frames_per_s": round(spine.pace.rate_per_s, 1),
                "intake_per_s": None if math.isinf(spine.intake.rate_per_s) else round(spine.intake.rate_per_s, 1),
                "linger_ms": round(spine.pace.linger_ns / 1e6, 2),
                "receive_buffer_bytes": spine.source.buffer_bytes // 2,
            }
        if refused > self._refused[0]:
            self._refused = (refused, time.monotonic())
        counters["cpu_s"] = round(time.process_time(), 3)
        return counters, gauges

    def _busiest_worker(self) -> float:
        """Share of a core that the busiest worker needs, as the workers say; a host with all cores busy as ``FULL_HOST``."""
        gauges = [record["gauges"] for record in self._system.newest("worker").values()]
        shares = (max(float(g.get("cpu_share") or 0), FULL_HOST * float(g.get("host_cpu_share") or 0)) for g in gauges)
        return max(shares, default=0.0)

    def health(self) -> dict[str, Any]:
        """Body of ``/health``; ``status`` is ``degraded`` when frames do not get through, and ``problems`` says why."""
        self.own()
        dam = self._dam()
        problems = [self.waiting_for] if self.waiting_for else []
        problems += self.forwarder.problems() if self.forwarder else []
        problems += [text for follower in (self._control, self._system) if (text := follower.problem())]
        if time.monotonic() - self._refused[1] < RECENT_S:
            problems.append("frames were dropped in the last 5 s: neither Kafka nor the spool takes more")
        if dam["queue_depth"] >= self._settings.dam_queue_limit > 0:
            problems.append(f"the dam's queue is full ({dam['queue_depth']} frames)")
        warning = clock_warning(self._system.clock_offset_s(f"edge-{self._settings.edge_id}"))
        return {
            "status": "degraded" if problems else "ok",
            "problems": problems,
            "warnings": [warning] if warning else [],
            "queue_depth": dam["queue_depth"],
            "rate_limit": self.rate(),
            "version": __version__,
            "uptime_secs": round(time.monotonic() - self._started_s, 3),
            "edge_id": self._settings.edge_id,
            "workers": len(self._system.newest("worker")),
        }

    def stats(self) -> dict[str, Any]:
        """Body of ``/stats``: the system's dam and control, this edge, every worker's own record."""
        counters, gauges = self.own()
        workers = self._system.newest("worker")
        return {
            "dam": self._dam(),
            "control": self._control_figures(),
            "edge": {"id": self._settings.edge_id, "counters": counters, "gauges": gauges, "source": self._source()},
            "workers": workers,
            "senders": self._system.senders(),
        }

    def _source(self) -> dict[str, Any] | None:
        spine = self.spine
        if spine is None:
            return None
        with spine.lock:
            details = spine.source.details()
        return {"name": spine.source.name, "passed_over": self.passed_over} | details

    def _dam(self) -> dict[str, Any]:
        records = list(self._system.newest("worker").values())
        out: dict[str, Any] = {
            name: int(sum(total(r["counters"].get(name, 0)) for r in records))
            for name in ("received", "passed", "queued", "dropped")
        }
        by_reason: dict[str, int] = {}
        for record in records:
            dropped = record["counters"].get("dropped", {})
            for reason, frames in dropped.items() if isinstance(dropped, dict) else ():
                by_reason[reason] = by_reason.get(reason, 0) + int(frames)
        out["queue_depth"] = int(sum(r["gauges"].get("queue_depth", 0) for r in records))
        out["tokens"] = float(sum(r["gauges"].get("tokens", 0.0) for r in records))
        return out | {"dropped_by_reason": by_reason}

    def _control_figures(self) -> dict[str, Any]:
        workers = list(self._system.newest("worker").values())
        controllers = self._system.newest("controller")
        # While one takes over from another both may be fresh: the newer reign has the higher epoch.
        name = max(controllers, key=lambda at: controllers[at]["gauges"].get("epoch", -1), default=None)
        gauges = controllers[name]["gauges"] if name is not None else {}
        return {
            "current_rate": self.rate(),
            "mode": self._control.mode(),
            "burst_probability": float(gauges.get("burst_probability", 0.0)),
            "anomaly_score": float(max((r["gauges"].get("anomaly_score", 0.0) for r in workers), default=0.0)),
            "pid_output": float(gauges.get("pid_output", 0.0)),
            "anomaly_devices": int(sum(r["gauges"].get("anomaly_devices", 0) for r in workers)),
            "cut": float(gauges.get("cut", 0.0)),
            "alert": bool(gauges.get("alert", False)),
            "controller": name,
            "overrides": self._control.overrides(),
        }

    def rate(self) -> float:
        """Global rate in force (frames/s)."""
        return self._control.rate(self._settings.dam_max_rate)

    def set_rate(self, new_rate: int, client: str) -> float:
        """Write the global rate as an override for ``client`` (its address). Returns the rate before.

        What else was set with the override stays, its end too: the new rate ends when the old one would have.

        Raises
        ------
        confluent_kafka.KafkaException
            Kafka did not acknowledge it.
        """
        previous = self.rate()
        record = (self._control.override() or {}) | {
            "scope": OVERRIDE,
            "mode": "manual",
            "rate": new_rate,
            "author": f"rest {client}",
            "reason": "POST /config",
            "at": now_ms(),
        }
        self._producer.control(OVERRIDE, record)
        self._control.take(OVERRIDE, orjson.dumps(record))  # the next request sees it, before the topic comes round
        return previous

    def metrics(self) -> tuple[bytes, str]:
        """Body and content type of ``/metrics``."""
        return self._metrics.render()

    def metrics_snapshot(self) -> EdgeSnapshot:
        """The same figures for the collector."""
        counters, gauges = self.own()
        dam, control = self._dam(), self._control_figures()
        forwarder = self.forwarder
        return EdgeSnapshot(
            received=counters["received"],
            received_bytes=counters["received_bytes"],
            passed=counters["passed"],
            dropped=self._counts.dropped(),
            queue_depth=gauges["queue_depth"],
            rate_limit=self.rate(),
            tokens=dam["tokens"],
            burst_probability=control["burst_probability"],
            anomaly_devices=control["anomaly_devices"],
            kafka_messages={"raw": counters["batches"], "dead_letter": counters["dead_letters"]},
            kafka_errors={"raw": counters["batches_failed"], "dead_letter": counters["dead_letters_failed"]},
            dead_letters=counters["dead_letters"],
            dead_letters_suppressed=counters["dead_letters_suppressed"],
            batches=counters["batches"],
            inflight_bytes=gauges["inflight_bytes"],
            rcvbuf_bytes=gauges.get("receive_buffer_bytes", 0),
            breaker_open=forwarder is not None and not forwarder.breaker.closed,
            breaker_moves={state.value: n for state, n in forwarder.breaker.moves.items()} if forwarder else {},
            spool_frames=gauges.get("spooled", 0),
            spool_bytes=gauges.get("spool_bytes", 0),
            spool_recovered=counters["spool_recovered"],
            spool_replayed=counters["spool_replayed"],
            xdp_maps=self.applier is not None and self.applier.available,
            xdp_writes=self.applier.applied if self.applier else 0,
            xdp_packets=self.applier.packets if self.applier else {},
        )
