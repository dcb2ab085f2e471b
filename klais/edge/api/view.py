"""Reports about this edge and the system for the REST API, the metrics and ``klais_stats``. Read-only except
:meth:`EdgeView.set_rate`.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from klais import __version__
from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.control.xdp_applier import Applier
from klais.core.wire.constants import Reason
from klais.edge.api.models import LOOP_HUNG_S
from klais.edge.api.rate import RateSetter
from klais.edge.sinks.spool.forecast import FillForecast
from klais.edge.sinks.store_and_forward import Forwarder, ForwarderStatistics
from klais.edge.spine import Spine
from klais.kafka.stats import StatsFollower, clock_warning
from klais.system.cpu import CpuShare
from klais.telemetry.landing import missed_target
from klais.telemetry.metrics import EdgeMetrics
from klais.telemetry.quantiles import Quantiles
from klais.telemetry.schema import Gauges
from klais.telemetry.snapshots import KINDS, EdgeSnapshot
from klais.telemetry.view import ProcessView, SystemView

RECENT_S = 5.0
LOCK_WAIT_S = 1.0  # a round takes some milliseconds
REFUSED = (Reason.BACKPRESSURE, Reason.SPOOL_FULL, Reason.SPOOL_FAILED)

Problems = Callable[[], list[str]]


@dataclass(frozen=True, slots=True)
class EdgeStatistics:
    """Counters and gauges of this edge, read together between two rounds of the spine.

    ``dropped`` (int64 [REASONS]) is by ``Reason``; ``refused`` frames had room neither in Kafka nor in the spool;
    ``limit_per_s`` is None while no frames are shed. ``blocked``: gauges of the blocked sources.
    """

    counters: dict[str, Any]
    dropped: npt.NDArray[np.int64]
    queue_depth: int
    waiting: int
    inflight: int
    inflight_bytes: int
    forwarder: ForwarderStatistics
    frames_per_s: float
    limit_per_s: float | None
    linger_ms: float
    receive_buffer_bytes: int
    refused: int
    unaccounted: int
    blocked: dict[str, Any]

    def gauges(self) -> dict[str, Any]:
        """The gauges of ``/stats`` and ``klais_stats``."""
        excluded = ("counters", "dropped", "forwarder", "transitions", "refused", "unaccounted", "blocked")
        all_of_it = {name: getattr(self, name) for name in self.__slots__} | asdict(self.forwarder)
        return {name: value for name, value in all_of_it.items() if name not in excluded} | self.blocked


class EdgeView:
    """Collects all reports of the edge; its methods may be called from any thread.

    Parameters
    ----------
    settings : Settings
        Defaults for values that the controller sets.
    spine, forwarder
        The data path; read under the spine's lock.
    control, system, applier
        Set-points, records of all processes, and the kernel filter's part.
    rate : RateSetter
        Writes ``POST /config``.
    batch_ms, kafka_ms : Quantiles
        Latency of batches, and of Kafka's acknowledgements.
    metrics : EdgeMetrics
        Renders :meth:`metrics_snapshot`.
    problems : callable
        Other problems as texts: topics, clock, id.
    stopping : callable
        Whether the edge is draining.
    skipped : dict[str, str]
        Sources that ``auto`` skipped, with the reason.
    """

    def __init__(
        self,
        settings: Settings,
        spine: Spine,
        forwarder: Forwarder,
        control: ControlFollower,
        system: StatsFollower,
        applier: Applier,
        rate: RateSetter,
        batch_ms: Quantiles,
        kafka_ms: Quantiles,
        metrics: EdgeMetrics,
        problems: Problems,
        stopping: Callable[[], bool],
        skipped: dict[str, str],
    ) -> None:
        self._settings, self._spine, self._forwarder = settings, spine, forwarder
        self._control, self._system, self._applier, self._rate = control, system, applier, rate
        self._batch, self._kafka, self._metrics = batch_ms, kafka_ms, metrics
        self._problems, self._stopping, self._skipped = problems, stopping, skipped
        self._cpu, self._forecast = CpuShare(), FillForecast()
        self._started_s = time.monotonic()
        self._details: dict[str, Any] = {}  # of the source
        self._known: EdgeStatistics | None = None
        self._stuck_round_s: float | None = None  # when the round began that does not end
        self._refused = (0, float("-inf"))  # frames refused so far, and when that number last grew

    def statistics(self) -> EdgeStatistics:
        """Counters and gauges, read between two rounds of the spine; the last ones if it does not end its round."""
        if not self._lock() and self._known is not None:
            return self._known
        spine, forwarder = self._spine, self._forwarder
        try:
            counts = spine.counts
            self._known = EdgeStatistics(
                dropped=counts.dropped(),
                counters=counts.totals() | {"cpu_s": round(time.process_time(), 3)},
                queue_depth=counts.depth(),
                waiting=counts.waiting,
                inflight=counts.inflight,
                inflight_bytes=counts.inflight_bytes,
                forwarder=forwarder.statistics(),
                frames_per_s=round(spine.linger.rate_per_s, 1),
                limit_per_s=None if math.isinf(spine.shedder.rate_per_s) else round(spine.shedder.rate_per_s, 1),
                linger_ms=round(spine.linger.linger_ns / 1e6, 2),
                receive_buffer_bytes=spine.source.buffer_bytes // 2,
                refused=sum(int(counts.by_reason[reason]) for reason in REFUSED),
                unaccounted=counts.unaccounted(),
                blocked=spine.blocked_sources.gauges(),
            )
            return self._known
        finally:
            spine.lock.release()

    def _lock(self) -> bool:
        """Take the lock of the spine; False if a round does not end, for example because a disk does not answer.

        Only one reader waits for such a round: ``/livez`` is answered in the same thread. Without figures of before,
        all wait.
        """
        lock, round_s = self._spine.lock, self._spine.round_began_s
        wait_s = 0.0 if self._stuck_round_s == round_s else LOCK_WAIT_S
        if lock.acquire(timeout=wait_s) or (self._known is None and lock.acquire()):
            self._stuck_round_s = None
            return True
        self._stuck_round_s = round_s
        return False

    def record(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Counters and gauges for ``klais_stats``, with CPU and latency since the previous record; called once a
        second.
        """
        now, now_s = self.statistics(), time.monotonic()
        latency = {"processing_ms": self._batch.sample(), "kafka_ms": self._kafka.sample()}
        second = None
        if self._lock():
            try:
                second = self._spine.activity.second(now_s)
            finally:
                self._spine.lock.release()
        traffic = {} if second is None else {"traffic": second}
        at, batch = now.forwarder, self._settings.batch_max_bytes
        self._forecast.sample(now_s, at.spool_bytes, at.spool_max_bytes, batch)
        gauges = now.gauges() | self._forecast.gauges() | self._applier.figures.gauges()
        return now.counters, gauges | {"rate_limit": self.rate()} | self._cpu.sample() | latency | traffic

    def problems(self) -> list[str]:
        """Problems that may stop frames, as texts; empty if there are none."""
        refuses = self._refuses()
        out = self._problems() + self._forwarder.problems()
        out += [text for follower in (self._control, self._system) if (text := follower.problem())]
        if self._stuck_round_s is not None and (age_s := time.monotonic() - self._stuck_round_s) > RECENT_S:
            out.append(
                f"the loop that reads the socket has been in one round for {age_s:.0f} s; these figures are of before: "
                "look at the disk of the spool, and at the CPU"
            )
        if refuses:
            out.append(
                "frames were dropped in the last 5 s: neither Kafka nor the spool takes more; `/stats` has the reasons"
            )
        if missing := self.statistics().unaccounted:
            out.append(f"{abs(missing)} frames are in no counter: a defect of KLAIS, report it with `/stats`")
        depth = self._dam()["queue_depth"]
        if depth >= self._settings.dam_queue_limit > 0:
            out.append(f"the dam's queue is full ({depth} frames): raise the rate, or KLAIS_DAM_QUEUE_LIMIT")
        return out

    def _refuses(self) -> bool:
        """Whether frames were refused in the last seconds."""
        refused = self.statistics().refused
        if refused > self._refused[0]:
            self._refused = (refused, time.monotonic())
        return time.monotonic() - self._refused[1] < RECENT_S

    def live(self) -> dict[str, Any]:
        """Body of ``/livez``: whether the loop that reads the socket turns. Does not depend on Kafka."""
        age_s = time.monotonic() - self._spine.round_began_s
        return {"live": self._stopping() or age_s < LOOP_HUNG_S, "loop_age_s": round(age_s, 3)}

    def ready(self) -> dict[str, Any]:
        """Body of ``/readyz``: whether Kafka, the spool or memory can keep frames that arrive now."""
        waits = ["nothing: the edge is stopping"] if self._stopping() else []
        if not waits and (why := self._forwarder.no_room):
            waits.append(f"capacity for frames: {why}")
        if not waits and self._refuses():
            waits.append("capacity for frames: some were dropped in the last 5 s")
        return {"ready": not waits, "waiting_for": waits, "edge_id": self._settings.edge_id}

    def health(self) -> dict[str, Any]:
        """Body of ``/health``; ``status`` is ``degraded`` if frames do not get through, ``problems`` has reasons."""
        problems = self.problems()
        late = [missed_target(seen.gauges.late_share, seen.gauges.latency_target_ms) for seen in self._workers()]
        clock = clock_warning(self._system.clock_offset_s(f"edge-{self._settings.edge_id}"))
        return {
            "status": "degraded" if problems else "ok",
            "problems": problems,
            "warnings": [text for text in (clock, self._forwarder.backlog.warning, self._bypassed(), *late) if text],
            "queue_depth": self._dam()["queue_depth"],
            "rate_limit": self.rate(),
            "version": __version__,
            "uptime_secs": round(time.monotonic() - self._started_s, 3),
            "edge_id": self._settings.edge_id,
            "workers": len(self._system.newest("worker")),
        }

    def _bypassed(self) -> str:
        """A warning if packets go around the kernel filter; empty otherwise."""
        if not self._applier.figures.bypassed:
            return ""
        return (
            f"the XDP filter in {self._settings.xdp_pin_dir} is attached to no interface and sees no packets: blocks "
            "and limits act in edges and workers only. `klais xdp load --iface IF` attaches it, `klais xdp unload` "
            "removes it"
        )

    def _workers(self) -> list[ProcessView]:
        return list(self._seen().workers.values())

    def _seen(self) -> SystemView:
        """The newest records of all processes; each is parsed once, which takes 0.3 ms."""
        return SystemView.of(self._system.newest, self._system.read)

    def stats(self) -> dict[str, Any]:
        """Body of ``/stats``: the system's dam and control, this edge, and the records of all workers."""
        now = self.statistics()
        edge = {
            "id": self._settings.edge_id,
            "counters": now.counters,
            "gauges": now.gauges() | self._forecast.gauges(),
            "source": self._source(),
        }
        return {
            "dam": self._dam(),
            "control": self._control_figures(),
            "edge": edge,
            "workers": self._system.newest("worker"),
            "senders": self._system.senders(),
        }

    def _source(self) -> dict[str, Any]:
        if self._lock():
            try:
                self._details = self._spine.source.details()
            finally:
                self._spine.lock.release()
        return {"name": self._spine.source.name, "skipped": self._skipped} | self._details

    def _dam(self) -> dict[str, Any]:
        system = self._seen()
        out: dict[str, Any] = {name: system.counter(name) for name in ("received", "passed", "queued", "dropped")}
        out |= {"queue_depth": int(system.gauge("queue_depth")), "tokens": float(system.gauge("tokens"))}
        return out | {"dropped_by_reason": system.dropped()}

    def _control_figures(self) -> dict[str, Any]:
        system = self._seen()
        name = system.leader()
        gauges = system.controllers[name].gauges if name is not None else Gauges()
        return {
            "current_rate": self.rate(),
            "mode": self._control.mode(),
            "burst_probability": gauges.burst_probability or 0.0,
            "anomaly_score": system.highest("anomaly_score"),
            "pid_output": gauges.pid_output or 0.0,
            "anomaly_devices": int(system.gauge("anomaly_devices")),
            "cut": gauges.cut or 0.0,
            "alert": bool(gauges.alert),
            "controller": name,
            "overrides": self._control.overrides(),
        }

    def rate(self) -> float:
        """Global rate in force (frames/s)."""
        return self._rate.rate()

    def set_rate(self, new_rate: int, client: str) -> float:
        """See :meth:`RateSetter.set_rate`."""
        return self._rate.set_rate(new_rate, client)

    def metrics(self) -> tuple[bytes, str]:
        """Body and content type of ``/metrics``."""
        return self._metrics.render()

    def metrics_snapshot(self) -> EdgeSnapshot:
        """The same figures for the collector."""
        now = self.statistics()
        counters, forwarder = now.counters, now.forwarder
        dam, control, settings, filtered = self._dam(), self._control_figures(), self._settings, self._applier.figures
        ages = {kind: [age_s for age_s, _ in self._system.recent(kind).values()] for kind in KINDS}
        return EdgeSnapshot(
            received=counters["received"],
            received_bytes=counters["received_bytes"],
            passed=counters["passed"],
            dropped=now.dropped,
            queue_depth=now.queue_depth,
            rate_limit=self.rate(),
            tokens=dam["tokens"],
            burst_probability=control["burst_probability"],
            anomaly_devices=control["anomaly_devices"],
            kafka_messages={"raw": counters["batches"], "dead_letter": counters["dead_letters"]},
            kafka_errors={"raw": counters["batches_failed"], "dead_letter": counters["dead_letters_failed"]},
            dead_letters=counters["dead_letters"],
            dead_letters_suppressed=counters["dead_letters_suppressed"],
            partitions=settings.partitions,
            unaccounted=now.unaccounted,
            batches=counters["batches"],
            inflight_bytes=now.inflight_bytes,
            inflight_max_bytes=settings.publish_max_inflight_bytes,
            rcvbuf_bytes=now.receive_buffer_bytes,
            breaker_open=forwarder.breaker != "closed",
            breaker_transitions=forwarder.transitions,
            spool_frames=forwarder.spooled,
            spool_bytes=forwarder.spool_bytes,
            spool_max_bytes=forwarder.spool_max_bytes,
            spool_recovered=counters["spool_recovered"],
            spool_replayed=counters["spool_replayed"],
            blocked_sources=now.blocked.get("blocked_sources", 0),
            xdp_maps=self._applier.available,
            xdp_writes=self._applier.applied,
            xdp_packets=filtered.packets,
            xdp_bytes=filtered.bytes,
            set_points_age_s=filtered.set_points_age_s,
            limits_by=filtered.limits_by,
            auth_frames={} if self._spine.auth is None else self._spine.auth.frames(),
            stats_age_s={kind: max(found) for kind, found in ages.items() if found},
        )
