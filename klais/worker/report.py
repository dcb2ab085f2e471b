"""The reports of a worker: records on ``klais_stats``, and metrics for Prometheus.

There are two ways to count:

- ``counters`` of the record and ``/dam/`` are sums of the lanes' tallies. A tally covers the whole history of its lane
  since its step 0: the checkpoints keep it, whichever worker owned the lane. So the records of all workers add up to
  the totals of the system, across restarts. The sum of one worker changes when a lane comes or goes; ``rates`` excludes
  such changes.
- Prometheus counters are the increments in this process since its start, because ``rate()`` needs counters that only
  grow and begin at 0.

Nothing here runs per frame. The report samples tallies once a second, and sums over the rows in a thread for at most
2 % of the time.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from klais.config.host import host_of
from klais.config.load import Settings
from klais.core.anomaly.budget import CpuBudget
from klais.core.lane.counters import conservation, dropped, passed, received, tallies, tokens_now
from klais.core.lane.state import TALLIES, LaneState, Tally
from klais.core.wire.constants import Reason
from klais.kafka.end_offsets import EndOffsets
from klais.kafka.stats import ControlProducer
from klais.kafka.topics import Topics
from klais.system.cpu import CpuShare
from klais.system.loop_watch import LoopWatch
from klais.telemetry import log as logs
from klais.telemetry.counters import ResetSafeCounter
from klais.telemetry.landing import LateShare, missed_target
from klais.telemetry.metrics import WorkerMetrics
from klais.telemetry.quantiles import Quantiles, RecentHighest, both
from klais.telemetry.snapshots import STATES, ScoringSnapshot, TypesSnapshot, WorkerSnapshot
from klais.telemetry.stats import EXTRA_S, Due, StatsPublisher
from klais.worker.controller import ControllerStatistics
from klais.worker.lane import Lane
from klais.worker.lane_statistics import LagAge, LaneFigures, LaneStatistics
from klais.worker.lanes import Lanes
from klais.worker.limits import LaneLimits
from klais.worker.offenders import TopOffenders
from klais.worker.rows import DeviceLimits, Part, Sums, sum_rows
from klais.worker.statistics import OUTPUTS, WORK, Counts, WorkerStatistics, snapshot
from klais.worker.types import TypeKeeper

log = logs.get("klais.worker.report")

SUMS_PAUSE = 49.0  # pause this many times the CPU time of summing the rows: 2 % of the time
BLOCK_WINDOW_S = 60.0
FORGET_S = 30.0  # a lane that returns within this time (a rebalance) continues; later, another worker had it


class Report:
    """Counters, gauges and metrics of one worker. All but the sums over rows runs in the event loop.

    Parameters
    ----------
    settings, worker_id, lanes, limits, offsets
        Parts of the worker.
    controller : callable
        Statistics of this worker's controller.
    highwater : callable
        Partition of the staging topic -> its end offset as of the consumer's newest fetch, 0 if unknown.
    scoring : CpuBudget
        Counters of the lanes' detectors.
    types : TypeKeeper
        The model of device types.
    """

    def __init__(
        self,
        settings: Settings,
        worker_id: str,
        lanes: Lanes,
        limits: LaneLimits,
        offsets: EndOffsets,
        controller: Callable[[], ControllerStatistics],
        highwater: Callable[[int], int],
        scoring: CpuBudget | None = None,
        types: TypeKeeper | None = None,
        instance: str | None = None,
    ) -> None:
        self._types, self._instance = types, instance
        self._scoring = scoring or CpuBudget(settings.anomaly_cpu_share, time.perf_counter_ns)
        self._settings, self._worker_id = settings, worker_id
        self._topics = Topics.of(settings)
        self._lanes, self._limits, self._offsets = lanes, limits, offsets
        self._controller, self._highwater = controller, highwater
        self._tallies = ResetSafeCounter(TALLIES)
        self._work = ResetSafeCounter(len(WORK))
        self._sequence = ResetSafeCounter(3)  # late, gaps, resets
        self._restarts = ResetSafeCounter(1)
        self._lag_age, self._blocks = LagAge(), RecentHighest(BLOCK_WINDOW_S)
        self._sums, self._sums_next_s = Sums(), 0.0
        self._before: tuple[float, dict[str, float]] | None = None
        self._rates: dict[str, float] = {}
        self._figures, self._cpu = LaneFigures(), CpuShare()
        self._top_offenders, self._offenders = self._top(), dict[str, float]()
        self._publish: Callable[[str], None] | None = None  # of `run`; None before it, and after the last record
        self._processing, self._kafka, self._landed = Quantiles(), Quantiles(), Quantiles()
        self._late = LateShare(settings.latency_ms / 1e3)
        self.metrics = WorkerMetrics(self.snapshot, worker_id)
        self.on_step = both(self.metrics.processing.observe, self._processing.observe)
        self.on_sent = both(self.metrics.kafka.observe, self._kafka.observe)
        self.on_landed = both(self.metrics.landed.observe, both(self._landed.observe, self._late.observe))

    def _top(self) -> TopOffenders:
        return TopOffenders(spare_known=self._settings.control_auto_block != "all")

    # -- sampling the lanes

    def _live(self) -> Iterator[tuple[int, Lane, LaneState]]:
        for partition, lane in sorted(self._lanes.by_partition.items()):
            if lane.session is not None and lane.live.is_set() and not lane.closed:
                yield partition, lane, lane.session.state

    def sample(self, now_s: float) -> None:
        """Add the growth of the lanes' counters since the last sample (``now_s`` monotonic)."""
        for partition, lane, state in self._live():
            of_lane = lane.statistics()
            self._tallies.sample(partition, state.tally, of_lane.live_tally, now_s)
            # A Lane object lives from one rebalance to the next, its work counters for one session.
            life = (lane.number, of_lane.restarts)
            self._work.sample(life, _work_of(of_lane), np.zeros(len(WORK), np.int64), now_s)
        for lane in self._lanes.by_partition.values():
            restarts = np.array([lane.restarts], np.int64)
            self._restarts.sample(lane.number, restarts, np.zeros(1, np.int64), now_s)
        for counter in (self._tallies, self._work, self._sequence, self._restarts):
            counter.forget(now_s - FORGET_S)
        self._figures.sample(((partition, state) for partition, _, state in self._live()), now_s)

    def _history(self) -> Counts:
        """Sum of the lanes' tallies since their step 0; a recovering lane counts as in the newest sample."""
        live = {partition: state for partition, _, state in self._live()}
        out = tallies(live.values())
        for partition in self._lanes.by_partition:
            known = self._tallies.highest(partition)
            if partition not in live and known is not None:
                out += known
        return out

    async def refresh_sums(self, now_s: float) -> None:
        """Sum over the rows again if due (in a thread: a million rows take some 20 ms)."""
        if now_s < self._sums_next_s:
            return
        parts = [Part.of(partition, state) for partition, _, state in self._live()]
        limits = DeviceLimits(*self._limits.device(b""), frozenset(self._limits.blocked()), time.time_ns())
        each, busy_s = await asyncio.to_thread(_sum_all, parts, limits)
        for part, of_lane in zip(parts, each, strict=True):
            values = np.array([of_lane.late, of_lane.gaps, of_lane.resets], np.int64)
            self._sequence.sample(part.partition, values, values, now_s)
        flagged = sum(of_lane.flagged_now for of_lane in each)
        self._sums = Sums(
            flagged_now=flagged,
            top_score=max((of_lane.top_score for of_lane in each), default=0.0),
            by_state=tuple(sum(of_lane.by_state[k] for of_lane in each) for k in range(len(STATES))),
        )
        self._sums_next_s = now_s + SUMS_PAUSE * busy_s

    async def _refresh_offenders(self, now_s: float) -> None:
        """Refresh only if the controller blocks or monitors offenders, or in an attack: it reads a whole column."""
        if self._settings.control_auto_block != "off" or self._limits.tightened:
            parts = [Part.of(partition, state) for partition, _, state in self._live()]
            self._offenders = await asyncio.to_thread(self._top_offenders.sample, parts, now_s)

    def lag(self) -> dict[int, int]:
        """Records not yet taken, by partition of this worker: newest known end offset minus the lane's next offset."""
        newest = self._offsets.newest()
        out = {}
        for partition, _, state in self._live():
            sampled = newest.ends.get((self._topics.raw, partition), 0) if newest else 0
            out[partition] = max(0, max(sampled, self._highwater(partition)) - state.next_raw)
        return out

    # -- what it knows

    def controller(self) -> ControllerStatistics:
        """Statistics of this worker's controller."""
        return self._controller()

    def statistics(self, now_s: float | None = None) -> WorkerStatistics:
        """The state of the worker at ``now_s`` (monotonic, default: now), without side effects."""
        now_s = time.monotonic() if now_s is None else now_s
        now_ns = time.time_ns()
        live = list(self._live())
        states = [(partition, state) for partition, _, state in live]
        each = [lane.statistics() for _, lane, _ in live]
        lag, limits, depth = self.lag(), self._limits, sum(state.queue.depth for _, state in states)
        check = conservation(
            tallies(state for _, state in states), depth, sum(at.unsent for at in each), sum(at.missing for at in each)
        )
        return WorkerStatistics(
            history=self._history(),
            steps=sum(state.step for _, state in states),
            checkpoints=sum(of_lane.checkpoints for of_lane in each),
            queue_depth=depth,
            queue_limit=len(live) * limits.queue_limit,
            queue_bytes=sum(state.queue.bytes for _, state in states),
            queue_limit_bytes=len(live) * limits.queue_bytes,
            tokens=sum(tokens_now(state, limits.of_lane(p)[0], now_ns) for p, state in states),
            rate_limit=limits.rate,
            lag_records=lag,
            lag_frames=self._figures.lag_frames(lag),
            lag_s=self._lag_age.sample(dict(zip(lag, each, strict=True)), lag, now_ns),
            demand=self._figures.demand(states),
            offenders=self._offenders,
            devices=sum(state.devices for _, state in states),
            devices_limit=len(live) * limits.device_limit,
            devices_by_state=dict(zip(STATES, self._sums.by_state, strict=True)),
            anomaly_devices=self._sums.flagged_now,
            anomaly_score=self._sums.top_score,
            checkpoint_age_s=max((of_lane.checkpoint_age_s or 0.0 for of_lane in each), default=0.0),
            pending_bytes=sum(of_lane.pending_bytes for of_lane in each),
            pending_frames=sum(of_lane.pending_frames for of_lane in each),
            lanes=len(self._lanes.by_partition),
            lanes_live=len(live),
            lane_restarts=sum(lane.restarts for lane in self._lanes.by_partition.values()),
            restoring=self._lanes.restoring(),
            lane_live={p: lane.live.is_set() and not lane.closed for p, lane in self._lanes.by_partition.items()},
            unaccounted=abs(check.missing) + abs(check.unsent) + abs(check.lost),
        )

    def rates(self, now_s: float) -> dict[str, float]:
        """Growth per second of this worker's own work since the last call (moving lanes cause no jump)."""
        tally = self._tallies.sum
        counters: dict[str, float] = {
            "received": received(tally),
            "passed": passed(tally),
            "queued": int(tally[Reason.QUEUED]),
            "released": int(tally[Tally.RELEASED]),
            "dropped": sum(dropped(tally).values()),
            "raw_records": int(tally[Tally.RAW_RECORDS]),
            "raw_bytes": int(tally[Tally.RAW_BYTES]),
            "dead_letters": int(tally[Tally.DEAD_WRITTEN]),
            "flags": int(tally[Tally.FLAGS_WRITTEN]),
        }
        out: dict[str, float] = {}
        if self._before is not None and now_s > self._before[0]:
            elapsed_s, before = now_s - self._before[0], self._before[1]
            out = {name: round((value - before[name]) / elapsed_s, 3) for name, value in counters.items()}
        self._before = (now_s, counters)
        return out

    def snapshot(self) -> WorkerSnapshot:
        """The work of this process since its start, for the metrics."""
        now_s = time.monotonic()
        self.sample(now_s)
        work = dict(zip(WORK, self._work.sum.tolist(), strict=True)) | {"restarts": int(self._restarts.sum[0])}
        controller = self._controller()
        return snapshot(
            self.statistics(now_s),
            self._tallies.sum,
            work,
            self._sequence.sum,
            partitions=self._settings.partitions,
            latency_target_s=self._settings.latency_ms / 1e3,
            late_share=self._late.share,
            longest_block_s=self._blocks.highest(now_s),
            burst_probability=controller.burst_probability,
            control=controller.snapshot(self._limits.overrides(), self._limits.controlled()),
            scoring=self._scoring_snapshot(),
            types=self._types.snapshot() if self._types else TypesSnapshot(),
        )

    @property
    def missed_target(self) -> str | None:
        """A message if frames land later than ``KLAIS_LATENCY_MS``, else None."""
        return missed_target(self._late.share, self._settings.latency_ms)

    @property
    def type_problems(self) -> tuple[str, ...]:
        """Why a better model of types is not in use, or the newest training failed."""
        return self._types.problems if self._types else ()

    def _scoring_snapshot(self) -> ScoringSnapshot:
        at = self._scoring
        period_s = self._settings.anomaly_period_s * at.stretch
        return ScoringSnapshot(at.scored, at.skipped, at.opened, at.without_channel, at.spent_ns * 1e-9, period_s)

    # -- publishing

    async def run(self, producer: ControlProducer, on_regular: Callable[[], object] = lambda: None) -> None:
        """Publish a record each second and when limits change, until cancelled; errors are logged, not raised.

        ``on_regular``: called after each record that is due by time.
        """
        changed, loop = asyncio.Event(), asyncio.get_running_loop()
        with LoopWatch() as watch, self._limits.changes(lambda: loop.call_soon_threadsafe(changed.set)):

            def now() -> tuple[dict[str, Any], dict[str, Any]]:
                statistics = self.statistics()
                latency: dict[str, Any] = {"processing_ms": self._processing.sample(), "kafka_ms": self._kafka.sample()}
                latency |= {"landed_ms": self._landed.sample(), "late_share": self._late.sample(time.monotonic())}
                latency |= {"latency_target_ms": self._settings.latency_ms}
                blocks = watch.sample()
                self._blocks.observe(blocks["event_loop_longest_block_ms"] / 1e3, time.monotonic())
                gauges = statistics.gauges().model_dump(exclude_none=True) | self._cpu.sample() | blocks | latency
                # Growth in this process: rows hold these counters, and a lane that leaves takes them along.
                return statistics.counters() | {"resets": int(self._sequence.sum[2])}, gauges

            publisher = StatsPublisher(
                producer, "worker", self._worker_id, now, host=host_of(self._settings), instance=self._instance
            )

            def publish(what: str) -> None:
                now_s = time.monotonic()
                self.sample(now_s)
                if what == "regular":
                    self._rates = self.rates(now_s)
                producer.stats(self._worker_id, publisher.record(now_s, what == "extra") | {"rates": self._rates})

            self._publish = publish
            due = Due(self._limits.version)
            while True:
                await asyncio.sleep(EXTRA_S)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due.wait_s(time.monotonic())):  # `wait_for` may miss a cancellation
                        await changed.wait()
                changed.clear()
                now_s = time.monotonic()
                what = due.now(now_s)
                if not what:
                    continue
                try:
                    if what == "regular":
                        await self.refresh_sums(now_s)
                        await self._refresh_offenders(now_s)
                    if self._publish is None:  # the last record is sent
                        return
                    publish(what)
                    if what == "regular":
                        on_regular()
                except Exception:
                    if logs.every(60, "klais.worker.report"):
                        log.exception("statistics_failed")

    async def publish_last(self) -> None:
        """Publish what the lanes have done up to now; :meth:`run` publishes nothing afterwards.

        Call it just before the lanes stop: a later record would lack their counters.
        """
        self._sums_next_s = 0.0
        try:
            await self.refresh_sums(time.monotonic())
        finally:
            publish, self._publish = self._publish, None
            if publish is not None:
                publish("regular")


def _work_of(lane: LaneStatistics) -> Counts:
    """The counters of :data:`~klais.worker.statistics.WORK` in a lane's present session."""
    written = [lane.records[name] for name in OUTPUTS]
    return np.array([*written, lane.steps, lane.checkpoints, int(lane.checkpoint_s * 1e6)], np.int64)


def _sum_all(parts: list[Part], limits: DeviceLimits) -> tuple[list[Sums], float]:
    """Sums of each lane's rows, and the CPU seconds used."""
    began_s = time.thread_time()
    return [sum_rows(part, limits) for part in parts], time.thread_time() - began_s
