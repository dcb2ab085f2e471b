"""Statistics of a lane: what the views show, and what the controller needs, such as lag in frames and demand."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klais.control.shares import demand
from klais.core.lane.state import LaneState, Tally
from klais.core.wire.constants import VERDICTS
from klais.telemetry.schema import Restoring

MIN_S = 0.08  # rates over shorter intervals are noise
MEMORY_S = 0.5  # time constant of the arrival rate
FRAMES_MEMORY = 64  # number of records over which the mean frames per record is taken


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """Statistics of one lane at one moment.

    ``steps``, ``records`` (by output), ``checkpoints`` and ``checkpoint_s`` count since this session went live, and
    ``live_tally`` is the tally at that moment (uint64 [TALLIES]). ``checkpoint_age_s`` is None before the first
    session. ``unsent``: frames that passed and are neither pending nor acknowledged; ``missing``: acknowledged records
    that the clean topic does not hold. Both are 0 unless there is a defect. ``alarms``: violated invariants found by
    recovery. ``oldest_waiting_ns`` and ``taken_ns``: when the edge received the oldest batch that waits for the lane,
    and the newest batch that the lane has taken (ns since the epoch), 0 = none. ``restoring``: progress of its
    recovery, None while the lane is live or waits after a failure.
    """

    partition: int
    live: bool
    fenced: bool
    failure: str | None
    restarts: int
    pending_bytes: int
    pending_frames: int
    steps: int
    records: dict[str, int]
    checkpoints: int
    checkpoint_s: float
    checkpoint_age_s: float | None
    live_tally: npt.NDArray[np.uint64]
    unsent: int = 0
    missing: int = 0
    alarms: tuple[str, ...] = ()
    oldest_waiting_ns: int = 0
    taken_ns: int = 0
    restoring: Restoring | None = None


@dataclass(slots=True)
class _Seen:
    at_s: float
    frames: int
    records: int
    per_s: float = 0.0
    frames_per_record: float = 0.0


class LagAge:
    """Age of the oldest batch that a lane has not taken, by partition.

    For batches that have arrived in this process, the receive time at the edge is known. For those still in Kafka, only
    bounds are known: they came after the newest batch taken, and after the last moment without lag.
    """

    def __init__(self) -> None:
        self._caught_up_ns: dict[int, int] = {}

    def sample(self, lanes: dict[int, LaneStatistics], lag_records: dict[int, int], now_ns: int) -> dict[int, float]:
        """Seconds by partition at ``now_ns`` (ns since the epoch); 0 for a lane without lag."""
        out, caught_up = {}, {}
        for p, lane in lanes.items():
            lag = lag_records.get(p, 0) > 0 or lane.oldest_waiting_ns > 0
            caught_up[p] = self._caught_up_ns.get(p, 0) if lag else now_ns
            since_ns = lane.oldest_waiting_ns or max(lane.taken_ns, caught_up[p]) or now_ns
            out[p] = max(0, now_ns - since_ns) / 1e9 if lag else 0.0
        self._caught_up_ns = caught_up
        return out


def frames_taken(state: LaneState) -> int:
    """Frames of all raw records that the lane has taken, including repeated ones."""
    return int(state.tally[:VERDICTS].sum()) + int(state.tally[Tally.REPEATED_FRAMES])


class LaneFigures:
    """Arrival rate and mean frames per record of each lane, from its tallies, sampled a few times a second."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def sample(self, lanes: Iterable[tuple[int, LaneState]], now_s: float) -> None:
        """Record the present counters of the lanes."""
        here = {}
        for partition, state in lanes:
            frames, records = frames_taken(state), int(state.tally[Tally.RAW_RECORDS])
            seen = self._seen.get(partition)
            if seen is None or frames < seen.frames or records < seen.records:  # the lane is new here, or it recovered
                mean = frames / records if records else 0.0
                here[partition] = _Seen(now_s, frames, records, 0.0, mean)
                continue
            here[partition] = seen
            elapsed_s = now_s - seen.at_s
            if elapsed_s < MIN_S:
                continue
            weight = elapsed_s / (MEMORY_S + elapsed_s)
            seen.per_s += ((frames - seen.frames) / elapsed_s - seen.per_s) * weight
            taken = records - seen.records
            if taken:
                mean = (frames - seen.frames) / taken
                new = min(1.0, taken / FRAMES_MEMORY) if seen.frames_per_record else 1.0
                seen.frames_per_record += (mean - seen.frames_per_record) * new
            seen.at_s, seen.frames, seen.records = now_s, frames, records
        self._seen = here

    def lag_frames(self, lag_records: dict[int, int]) -> dict[str, float]:
        """Frames not yet taken, by partition: records x mean frames of recent records."""
        return {
            str(p): round(records * (self._seen[p].frames_per_record if p in self._seen else 0.0), 1)
            for p, records in lag_records.items()
        }

    def demand(self, lanes: Iterable[tuple[int, LaneState]]) -> dict[str, float]:
        """Frames/s that each lane could use (see :func:`klais.control.shares.demand`)."""
        return {
            str(p): round(demand(self._seen[p].per_s if p in self._seen else 0.0, state.queue.depth), 1)
            for p, state in lanes
        }
