"""What a worker says of itself: records on ``klais_stats``, and the metrics for Prometheus.

Two ways to count, on purpose:

- ``counters`` of the record and ``/dam/`` are sums of the lanes' tallies. A tally is the whole history of its lane, since
  its step 0: it is kept in the checkpoints, whichever worker owned the lane. So the records of all workers add up to what
  the system did, over any restart; a worker's own sum changes when a lane comes or goes. ``rates`` leave that out.
- Prometheus counters are what this process added since it started, because ``rate()`` wants counters that only grow
  and begin at 0.

Nothing here costs anything for each frame: tallies are read once a second, sums over the rows in a thread, at most 2 % of
the time.
"""

import asyncio
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.config.host import host_of
from klais.config.load import Settings
from klais.core.lane.state import TALLIES, LaneState, Tally
from klais.core.wire.constants import FIRST_MALFORMED, LAST_MALFORMED, VERDICTS, Reason
from klais.kafka.end_offsets import EndOffsets
from klais.kafka.stats import ControlProducer
from klais.kafka.topics import Topics
from klais.system.cpu import CpuShare
from klais.system.loop_watch import LoopWatch
from klais.telemetry import log as logs
from klais.telemetry.metrics import ControlSnapshot, WorkerMetrics, WorkerSnapshot, reason_counts
from klais.telemetry.quantiles import Quantiles
from klais.telemetry.stats import EXTRA_S, Due, StatsPublisher, total
from klais.worker.controller import Controller
from klais.worker.lane import Lane
from klais.worker.lane_statistics import LaneFigures
from klais.worker.lanes import Lanes
from klais.worker.limits import LaneLimits
from klais.worker.offenders import TopOffenders
from klais.worker.rows import Part, Sums, sum_rows
from klais.worker.web.dam import dropped_by_reason, passed, received, tokens_now

log = logs.get("klais.worker.report")

SUMS_REST = 49.0  # rest this many times as long as summing the rows kept the CPU busy
FORGET_S = 30.0  # a lane that is back within this time goes on where it was (a rebalance); later it was elsewhere
OUTPUTS = ("telemetry", "anomalies", "dead_letter")

Counts = npt.NDArray[np.int64]


class Grown:
    """What counters of lanes grew by while they were here: only grows, whatever comes, goes or starts again.

    Examples
    --------
    >>> grown = Grown(1)
    >>> for value in (120, 130, 120, 135):  # a lane that started at 100, once lost steps and took them again
    ...     grown.see(0, np.array([value]), np.array([100]), now_s=0.0)
    >>> grown.sum.tolist()
    [35]
    """

    def __init__(self, size: int) -> None:
        self.sum: Counts = np.zeros(size, np.int64)
        self._highest: dict[Hashable, tuple[Counts, float]] = {}

    def see(self, key: Hashable, values: npt.NDArray[Any], start: npt.NDArray[Any], now_s: float) -> None:
        """Look at a lane's counters, which were at ``start`` when it came here."""
        values = values.astype(np.int64)
        highest, _ = self._highest.get(key, (start.astype(np.int64), now_s))
        self.sum += np.maximum(values - highest, 0)
        self._highest[key] = (np.maximum(values, highest), now_s)

    def highest(self, key: Hashable) -> Counts | None:
        """The highest values seen of a lane that is still remembered."""
        entry = self._highest.get(key)
        return None if entry is None else entry[0]

    def forget(self, before_s: float) -> None:
        """Forget lanes that were last seen before that time."""
        self._highest = {key: entry for key, entry in self._highest.items() if entry[1] >= before_s}


class Report:
    """Counters, gauges and metrics of one worker. Everything but the sums over rows runs in the event loop."""

    def __init__(
        self, settings: Settings, worker_id: str, lanes: Lanes, limits: LaneLimits, offsets: EndOffsets
    ) -> None:
        self._settings, self._worker_id = settings, worker_id
        self._topics = Topics.of(settings)
        self._lanes, self._limits, self._offsets = lanes, limits, offsets
        self._tallies = Grown(TALLIES)
        self._work = Grown(len(_WORK))
        self._rows = Grown(3)  # late, gaps, resets
        self._sums, self._sums_next_s = Sums(), 0.0
        self._before: tuple[float, dict[str, float]] | None = None
        self._rates: dict[str, float] = {}
        self._figures, self._cpu = LaneFigures(), CpuShare()
        self._top_offenders, self._offenders = TopOffenders(), dict[str, float]()
        self.processing, self.kafka = Quantiles(), Quantiles()
        self.controller: Controller | None = None  # of this worker, reigning or not
        self.highwater: Callable[[int], int] | None = None  # of a raw partition, from the consumer's fetches
        self.metrics = WorkerMetrics(self.snapshot)

    # -- looking at the lanes

    def _live(self) -> Iterator[tuple[int, Lane, LaneState]]:
        for partition, lane in sorted(self._lanes.by_partition.items()):
            if lane.it is not None and lane.live.is_set() and not lane.closed:
                yield partition, lane, lane.it.state

    def look(self, now_s: float) -> None:
        """Take in what the lanes counted since the last look."""
        for partition, lane, state in self._live():
            self._tallies.see(partition, state.tally, lane.began_tally, now_s)
            # a Lane object lives from one rebalance to the next, its counters of work for one of its lives
            life = (partition, id(lane), lane.restarts)
            self._work.see(life, _work_of(lane, state), np.zeros(len(_WORK), np.int64), now_s)
        for grown in (self._tallies, self._work, self._rows):
            grown.forget(now_s - FORGET_S)

    def _history(self) -> Counts:
        """Sum of the lanes' tallies since their step 0; a lane that recovers counts as it was last seen."""
        out = np.zeros(TALLIES, np.int64)
        live = {partition: state for partition, _, state in self._live()}
        for partition in self._lanes.by_partition:
            state = live.get(partition)
            known = self._tallies.highest(partition)
            if state is not None:
                out += state.tally.astype(np.int64)
            elif known is not None:
                out += known
        return out

    async def refresh_sums(self, now_s: float) -> None:
        """Sum over the rows again when its turn has come (in a thread: a million rows take some 20 ms)."""
        if now_s < self._sums_next_s:
            return
        parts = [Part.of(partition, state) for partition, _, state in self._live()]
        each, busy_s = await asyncio.to_thread(_sum_all, parts)
        for part, of_lane in zip(parts, each, strict=True):
            values = np.array([of_lane.late, of_lane.gaps, of_lane.resets], np.int64)
            self._rows.see(part.partition, values, values, now_s)
        flagged = sum(of_lane.flagged_now for of_lane in each)
        self._sums = Sums(flagged_now=flagged, top_score=max((of_lane.top_score for of_lane in each), default=0.0))
        self._sums_next_s = now_s + SUMS_REST * busy_s

    async def _refresh_offenders(self, now_s: float) -> None:
        """Only where somebody wants to know: it looks at every device."""
        if self._settings.control_auto_block != "off":
            parts = [Part.of(partition, state) for partition, _, state in self._live()]
            self._offenders = await asyncio.to_thread(self._top_offenders.look, parts, now_s)

    def lag(self) -> dict[int, int]:
        """Raw records not yet taken, by partition of this worker: newest known end offset - the lane's next raw offset."""
        sample = self._offsets.newest()
        out = {}
        for partition, _, state in self._live():
            end = sample.ends.get((self._topics.raw, partition), 0) if sample else 0
            if self.highwater is not None:
                end = max(end, self.highwater(partition))
            out[partition] = max(0, end - state.next_raw)
        return out

    # -- the record

    def totals(self) -> dict[str, Any]:
        """Counters of the record: the lanes' whole history."""
        tally = self._history()
        checkpoints = sum(lane.checkpointer.count for _, lane, _ in self._live() if lane.checkpointer)
        return {
            "received": received(tally),
            "passed": passed(tally),
            "queued": int(tally[Reason.QUEUED]),
            "released": int(tally[Tally.RELEASED]),
            "dropped": dropped_by_reason(tally),
            "duplicates": int(tally[Reason.DUPLICATE]),
            "malformed": int(tally[FIRST_MALFORMED : LAST_MALFORMED + 1].sum()),
            "repeated": int(tally[Tally.REPEATED_FRAMES]),
            "repeated_batches": int(tally[Tally.REPEATED_BATCHES]),
            "missing_batches": int(tally[Tally.MISSING_BATCHES]),
            "corrupt_records": int(tally[Tally.CORRUPT_RECORDS]),
            "lost_records": int(tally[Tally.LOST_RECORDS]),
            "raw_records": int(tally[Tally.RAW_RECORDS]),
            "raw_bytes": int(tally[Tally.RAW_BYTES]),
            "dead_letters": int(tally[Tally.DEAD_WRITTEN]),
            "dead_letters_suppressed": int(tally[Tally.DEAD_SUPPRESSED]),
            "flags": int(tally[Tally.FLAGS_WRITTEN]),
            "flags_suppressed": int(tally[Tally.FLAGS_SUPPRESSED]),
            "steps": sum(state.step for _, _, state in self._live()),
            "checkpoints": checkpoints,
        }

    def gauges(self, now_s: float) -> dict[str, Any]:
        """Gauges of the record: what is so now."""
        now_ns = time.time_ns()
        live = list(self._live())
        ages = [now_s - lane.checkpointer.done_at for _, lane, _ in live if lane.checkpointer is not None]
        lag = self.lag()
        states = [(p, state) for p, _, state in live]
        self._figures.look(states, now_s)
        return {
            "queue_depth": sum(state.queue.depth for _, _, state in live),
            "tokens": round(sum(tokens_now(state, self._limits.of_lane(p)[0], now_ns) for p, _, state in live), 3),
            "rate_limit": self._limits.rate,
            "lag_records": {str(partition): records for partition, records in lag.items()},
            "lag": sum(lag.values()),
            "lag_frames": self._figures.lag_frames(lag),
            "demand": self._figures.demand(states),
            **({"offenders": self._offenders} if self._offenders else {}),
            **self._cpu.sample(),
            "devices": sum(state.used for _, _, state in live),
            "anomaly_devices": self._sums.flagged_now,
            "anomaly_score": round(self._sums.top_score, 3),
            "checkpoint_age_s": round(max(ages, default=0.0), 3),
            "pending_bytes": sum(lane.pending_bytes for _, lane, _ in live),
            "pending_frames": sum(lane.pending_frames for _, lane, _ in live),
            "lanes": len(self._lanes.by_partition),
            "lanes_live": len(live),
            "lane_restarts": sum(lane.restarts for lane in self._lanes.by_partition.values()),
        }

    def rates(self, now_s: float) -> dict[str, float]:
        """Growth per second since the last call, of what this worker itself did (lanes that come or go make no jump)."""
        tally = self._tallies.sum
        grown: dict[str, float] = {
            "received": received(tally),
            "passed": passed(tally),
            "queued": int(tally[Reason.QUEUED]),
            "released": int(tally[Tally.RELEASED]),
            "dropped": total(dropped_by_reason(tally)),
            "raw_records": int(tally[Tally.RAW_RECORDS]),
            "raw_bytes": int(tally[Tally.RAW_BYTES]),
            "dead_letters": int(tally[Tally.DEAD_WRITTEN]),
            "flags": int(tally[Tally.FLAGS_WRITTEN]),
        }
        out: dict[str, float] = {}
        if self._before is not None and now_s > self._before[0]:
            elapsed_s, before = now_s - self._before[0], self._before[1]
            out = {name: round((value - before[name]) / elapsed_s, 3) for name, value in grown.items()}
        self._before = (now_s, grown)
        return out

    async def run(self, producer: ControlProducer) -> None:
        """Publish a record each second, and when limits changed, for ever; trouble is logged, never raised."""
        with LoopWatch() as watch:

            def now() -> tuple[dict[str, Any], dict[str, Any]]:
                latency = {"processing_ms": self.processing.take(), "kafka_ms": self.kafka.take()}
                return self.totals(), self.gauges(time.monotonic()) | watch.take() | latency

            publisher = StatsPublisher(producer, "worker", self._worker_id, now, host=host_of(self._settings))
            due = Due(self._limits.version)
            while True:
                await asyncio.sleep(EXTRA_S)
                now_s = time.monotonic()
                what = due.now(now_s)
                if not what:
                    continue
                try:
                    if what == "regular":
                        await self.refresh_sums(now_s)
                        await self._refresh_offenders(now_s)
                        self.look(now_s)
                        self._rates = self.rates(now_s)
                    record = publisher.record(now_s, what == "extra") | {"rates": self._rates}
                    producer.stats(self._worker_id, record)
                except Exception:
                    if logs.every(60, "klais.worker.report"):
                        log.exception("stats_failed")

    # -- Prometheus

    def snapshot(self) -> WorkerSnapshot:
        """What this process did since it started, for the metrics."""
        now_s = time.monotonic()
        self.look(now_s)
        tally, work = self._tallies.sum, dict(zip(_WORK, self._work.sum.tolist(), strict=True))
        gauges = self.gauges(now_s)
        dropped = reason_counts()
        dropped[Reason.DUPLICATE : VERDICTS] = tally[Reason.DUPLICATE : VERDICTS]
        dropped[Reason.CORRUPT_BATCH] = tally[Tally.CORRUPT_RECORDS]
        dropped[Reason.REPEATED_BATCH] = tally[Tally.REPEATED_FRAMES]
        dropped[Reason.QUEUE_EXPIRED] = tally[Tally.QUEUE_LOST]
        return WorkerSnapshot(
            received=received(tally),
            received_bytes=int(tally[Tally.RAW_BYTES]),
            passed=passed(tally),
            dropped=dropped,
            queue_depth=gauges["queue_depth"],
            rate_limit=gauges["rate_limit"],
            tokens=gauges["tokens"],
            anomaly_devices=gauges["anomaly_devices"],
            kafka_messages={name: work[name] for name in OUTPUTS} | {"journal": work["steps"]},
            dead_letters=int(tally[Tally.DEAD_WRITTEN]),
            dead_letters_suppressed=int(tally[Tally.DEAD_SUPPRESSED]),
            verdicts=tally[:VERDICTS],
            batches=int(tally[Tally.RAW_RECORDS]),
            steps=work["steps"],
            checkpoints=work["checkpoints"],
            checkpoint_s=work["checkpoint_us"] / 1e6,
            checkpoint_age_s=gauges["checkpoint_age_s"],
            lag_records={int(p): records for p, records in gauges["lag_records"].items()},
            lanes=gauges["lanes_live"],
            devices=gauges["devices"],
            late=int(self._rows.sum[0]),
            gaps=int(self._rows.sum[1]),
            resets=int(self._rows.sum[2]),
            flags=int(tally[Tally.FLAGS_WRITTEN]),
            flags_suppressed=int(tally[Tally.FLAGS_SUPPRESSED]),
            lost_records=int(tally[Tally.LOST_RECORDS]),
            missing_batches=int(tally[Tally.MISSING_BATCHES]),
            burst_probability=self.controller.burst_probability if self.controller else 0.0,
            control=self.controller.snapshot(self._limits.overrides()) if self.controller else ControlSnapshot(),
        )


# Counters of one life of a lane: what was put out, steps, checkpoints.
_WORK = (*OUTPUTS, "steps", "checkpoints", "checkpoint_us")


def _work_of(lane: Lane, state: LaneState) -> Counts:
    checkpointer = lane.checkpointer
    written = [out.records for out in (lane.telemetry, lane.anomalies, lane.dead_letter)]
    count, seconds = (checkpointer.count, checkpointer.total_s) if checkpointer is not None else (0, 0.0)
    return np.array([*written, state.step - lane.began_step, count, int(seconds * 1e6)], np.int64)


def _sum_all(parts: list[Part]) -> tuple[list[Sums], float]:
    """Sums of each lane's rows, and the seconds of CPU they took."""
    began_s = time.thread_time()
    return [sum_rows(part, time.time_ns()) for part in parts], time.thread_time() - began_s
