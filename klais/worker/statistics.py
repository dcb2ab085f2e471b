"""The statistics of a worker at one moment, for ``klais_stats``, the web views and Prometheus."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.lane.counters import dropped, dropped_by_reason, passed, received
from klais.core.lane.state import TALLIES, Tally
from klais.core.wire.constants import FIRST_MALFORMED, LAST_MALFORMED, VERDICTS, Reason
from klais.telemetry.schema import Gauges, Restoring
from klais.telemetry.snapshots import WorkerSnapshot, reason_counts

OUTPUTS = ("telemetry", "anomalies", "dead_letter")
WORK = (*OUTPUTS, "steps", "checkpoints", "checkpoint_us")
"""Counters of one session of a lane: records written by topic, steps, checkpoints and their duration."""

Counts = npt.NDArray[np.int64]


def no_tally() -> Counts:
    """Return an empty tally, int64 [TALLIES]."""
    return np.zeros(TALLIES, np.int64)


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Statistics of a worker.

    Attributes
    ----------
    history : int64 [TALLIES]
        Sum of the lanes' tallies since their step 0, whichever worker owned them.
    steps, checkpoints : int
        Of the live lanes, since their step 0 and since they came to this worker.
    queue_depth : int
        Frames in the lanes' queues.
    tokens, rate_limit : float
        Frames left in the buckets of these lanes; global rate in force (frames/s).
    lag_records, lag_frames, lag_s, demand : dict
        By partition: records not taken, their estimated frames, the age of the oldest of them, and frames/s that the
        lane could use.
    offenders : dict of str to float
        Devices with the most frames/s dropped above their own rate.
    queue_limit, queue_bytes, queue_limit_bytes : int
        Frames and bytes that may wait in the queues of the live lanes, and bytes that wait.
    devices, devices_limit, anomaly_devices : int
        Known devices and their limit, and devices whose newest frame was flagged.
    devices_by_state : dict of str to int
        As of the last pass over the rows.
    anomaly_score : float
        Highest score of a device now.
    checkpoint_age_s : float
        Age of the oldest lane's newest checkpoint.
    pending_bytes, pending_frames : int
        Passed and not yet acknowledged by the next topic.
    lanes, lanes_live, lane_restarts : int
        Owned lanes, those that take records now, and restarts of owned lanes.
    lane_live : dict of int to bool
        Whether the lane takes records now, by partition, for owned lanes.
    restoring : dict of int to Restoring
        Progress of the lanes that recover, by partition.
    unaccounted : int
        Frames missing in the conservation check of the live lanes.
    """

    history: Counts = field(default_factory=no_tally)
    steps: int = 0
    checkpoints: int = 0
    queue_depth: int = 0
    tokens: float = 0.0
    rate_limit: float = 0.0
    lag_records: dict[int, int] = field(default_factory=dict)
    lag_frames: dict[str, float] = field(default_factory=dict)
    lag_s: dict[int, float] = field(default_factory=dict)
    demand: dict[str, float] = field(default_factory=dict)
    offenders: dict[str, float] = field(default_factory=dict)
    queue_limit: int = 0
    queue_bytes: int = 0
    queue_limit_bytes: int = 0
    devices: int = 0
    devices_limit: int = 0
    devices_by_state: dict[str, int] = field(default_factory=dict)
    anomaly_devices: int = 0
    anomaly_score: float = 0.0
    checkpoint_age_s: float = 0.0
    pending_bytes: int = 0
    pending_frames: int = 0
    lanes: int = 0
    lanes_live: int = 0
    lane_restarts: int = 0
    lane_live: dict[int, bool] = field(default_factory=dict)
    restoring: dict[int, Restoring] = field(default_factory=dict)
    unaccounted: int = 0

    def counters(self) -> dict[str, Any]:
        """Counters of the record on ``klais_stats``."""
        tally = self.history
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
            "devices_forgotten": int(tally[Tally.FORGOTTEN]),
            "corrupt_records": int(tally[Tally.CORRUPT_RECORDS]),
            "lost_records": int(tally[Tally.LOST_RECORDS]),
            "doubled_records": int(tally[Tally.DOUBLED]),
            "raw_records": int(tally[Tally.RAW_RECORDS]),
            "raw_bytes": int(tally[Tally.RAW_BYTES]),
            "dead_letters": int(tally[Tally.DEAD_WRITTEN]),
            "dead_letters_suppressed": int(tally[Tally.DEAD_SUPPRESSED]),
            "flags": int(tally[Tally.FLAGS_WRITTEN]),
            "flags_suppressed": int(tally[Tally.FLAGS_SUPPRESSED]),
            "steps": self.steps,
            "checkpoints": self.checkpoints,
        }

    def gauges(self) -> Gauges:
        """Gauges of the record on ``klais_stats``."""
        return Gauges(
            queue_depth=self.queue_depth,
            tokens=round(self.tokens, 3),
            rate_limit=self.rate_limit,
            lag_records={str(partition): float(records) for partition, records in self.lag_records.items()},
            lag=sum(self.lag_records.values()),
            lag_frames=self.lag_frames,
            lag_s={str(partition): round(seconds, 3) for partition, seconds in self.lag_s.items()},
            demand=self.demand,
            offenders=self.offenders or None,
            devices=self.devices,
            anomaly_devices=self.anomaly_devices,
            anomaly_score=round(self.anomaly_score, 3),
            checkpoint_age_s=round(self.checkpoint_age_s, 3),
            pending_bytes=self.pending_bytes,
            pending_frames=self.pending_frames,
            lanes=self.lanes,
            lanes_live=self.lanes_live,
            restoring={str(p): at for p, at in self.restoring.items()} or None,
            lane_restarts=self.lane_restarts,
        )

    def snapshot_gauges(self) -> dict[str, Any]:
        """Gauges of :class:`WorkerSnapshot`."""
        same = (
            *("queue_depth", "queue_limit", "queue_bytes", "queue_limit_bytes", "rate_limit", "tokens"),
            *("lag_records", "lag_s", "lane_live", "checkpoint_age_s", "unaccounted"),
            *("devices", "devices_limit", "devices_by_state", "anomaly_devices"),
        )
        return {name: getattr(self, name) for name in same} | {"lanes": self.lanes_live}


def drops(tally: Counts) -> npt.NDArray[np.int64]:
    """Frames dropped, int64 [REASONS], as the metrics count them."""
    out = reason_counts()
    for reason, frames in dropped(tally).items():
        out[reason] = frames
    return out


def snapshot(
    now: WorkerStatistics, tally: Counts, work: dict[str, int], sequence: Counts, **more: Any
) -> WorkerSnapshot:
    """The work of this process since its start, for Prometheus.

    Parameters
    ----------
    now : WorkerStatistics
        For the gauges.
    tally : int64 [TALLIES]
        Growth of the lanes' tallies while this worker owned them.
    work : dict of str to int
        Growth of the counters of :data:`WORK`, and ``restarts`` of lanes.
    sequence : int64 [3]
        Growth of late frames, gaps and resets.
    more
        Other fields of the snapshot.
    """
    return WorkerSnapshot(
        received=received(tally),
        received_bytes=int(tally[Tally.RAW_BYTES]),
        passed=passed(tally),
        dropped=drops(tally),
        kafka_messages={name: work[name] for name in OUTPUTS} | {"journal": work["steps"]},
        dead_letters=int(tally[Tally.DEAD_WRITTEN]),
        dead_letters_suppressed=int(tally[Tally.DEAD_SUPPRESSED]),
        verdicts=tally[:VERDICTS],
        batches=int(tally[Tally.RAW_RECORDS]),
        steps=work["steps"],
        checkpoints=work["checkpoints"],
        checkpoint_s=work["checkpoint_us"] / 1e6,
        lane_restarts=work["restarts"],
        forgotten=int(tally[Tally.FORGOTTEN]),
        late=int(sequence[0]),
        gaps=int(sequence[1]),
        resets=int(sequence[2]),
        flags=int(tally[Tally.FLAGS_WRITTEN]),
        flags_suppressed=int(tally[Tally.FLAGS_SUPPRESSED]),
        lost_records=int(tally[Tally.LOST_RECORDS]),
        missing_batches=int(tally[Tally.MISSING_BATCHES]),
        **now.snapshot_gauges(),
        **more,
    )
