"""The dam: what each lane received, passed, holds and dropped since its step 0, and that the figures add up."""

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.dam.bucket import refill
from klais.core.lane.journal import Limits
from klais.core.lane.state import TALLIES, LaneState, Tally
from klais.core.wire.constants import VERDICTS, Reason
from klais.worker.web.times import iso

Counts = npt.NDArray[np.int64]


def dropped_by_reason(tally: Counts) -> dict[str, int]:
    """Frames dropped, by the label of their reason; a record that is no frame batch counts as one frame."""
    out = {r.label: int(tally[r]) for r in Reason if Reason.DUPLICATE <= r < VERDICTS and tally[r]}
    if tally[Tally.CORRUPT_RECORDS]:
        out[Reason.CORRUPT_BATCH.label] = int(tally[Tally.CORRUPT_RECORDS])
    if tally[Tally.REPEATED_FRAMES]:
        out[Reason.REPEATED_BATCH.label] = int(tally[Tally.REPEATED_FRAMES])
    if tally[Tally.QUEUE_LOST]:
        out[Reason.QUEUE_EXPIRED.label] = int(tally[Tally.QUEUE_LOST])
    return out


def received(tally: Counts) -> int:
    """Frames taken in: those with a verdict, those of repeated batches, and one for each corrupt record."""
    frames = int(tally[:VERDICTS].sum())
    return frames + int(tally[Tally.REPEATED_FRAMES]) + int(tally[Tally.CORRUPT_RECORDS])


def passed(tally: Counts) -> int:
    """Frames decided to go on to the clean topic, at once or out of the queue."""
    return int(tally[Reason.PASSED]) + int(tally[Tally.RELEASED])


def conservation(tally: Counts, queue_depth: int) -> dict[str, Any]:
    """``received = passed + queued_waiting + dropped``, with what is actually in the queue as ``queued_waiting``."""
    dropped = sum(dropped_by_reason(tally).values())
    missing = received(tally) - passed(tally) - queue_depth - dropped
    return {
        "received": received(tally),
        "passed": passed(tally),
        "queued_waiting": queue_depth,
        "dropped": dropped,
        "missing": missing,
        "holds": missing == 0,
    }


def tokens_now(state: LaneState, limits: Limits, now_ns: int) -> float:
    """Tokens of the lane's global bucket now; changes nothing."""
    if state.tokens < 0:
        return limits.burst
    return float(refill(state.tokens, state.bucket_ns, now_ns, limits.rate, limits.burst))


def oldest_waiting_s(state: LaneState, now_ns: int) -> float | None:
    """How long the first frame of the queue has waited since it was received; None when nothing waits."""
    first = next(iter(state.queue.parts()), None)
    if first is None:
        return None
    columns, index = first
    return round(max(0, now_ns - int(columns.time_ns[index[0]])) * 1e-9, 3)


def lane_dam(partition: int, lane: Any, limits: Limits, queue_limit: int, now_ns: int) -> dict[str, Any]:
    """One lane's part of ``/dam/``."""
    state = lane.it.state if lane.it is not None else None
    out: dict[str, Any] = {"partition": partition, "live": lane.live.is_set(), "failure": lane.failure}
    if state is None or not lane.live.is_set():
        return out
    tally = state.tally.astype(np.int64)
    return out | {
        "step": state.step,
        "next_raw": state.next_raw,
        "rate": limits.rate,
        "burst": limits.burst,
        "tokens": round(tokens_now(state, limits, now_ns), 3),
        "queue_depth": state.queue.depth,
        "queue_limit": queue_limit,
        "oldest_waiting_s": oldest_waiting_s(state, now_ns),
        "pending_bytes": lane.pending_bytes,
        "pending_frames": lane.pending_frames,
        "devices": state.used,
        "verdicts": {r.label: int(tally[r]) for r in Reason if r < VERDICTS and tally[r]},
        "dropped": dropped_by_reason(tally),
        "tallies": {t.name.lower(): int(tally[t]) for t in Tally},
        "conservation": conservation(tally, state.queue.depth),
    }


def dam(lanes: dict[int, Any], limits: Any, worker_id: str) -> dict[str, Any]:
    """Body of ``/dam/``. Counters are each lane's since its step 0: they live in its checkpoints, whichever worker owned it.

    Parameters
    ----------
    lanes : dict of int to Lane
        By partition.
    limits : LaneLimits
        In force.
    worker_id : str
        Who answers.
    """
    now_ns = time.time_ns()
    in_force = {partition: limits.of_lane(partition) for partition in sorted(lanes) or [0]}
    share, bounds = next(iter(in_force.values()))
    each = [
        lane_dam(partition, lane, in_force[partition][0], bounds.queue_limit, now_ns)
        for partition, lane in sorted(lanes.items())
    ]
    live_at = {p: lane.it.state for p, lane in lanes.items() if lane.it is not None and lane.live.is_set()}
    live = list(live_at.values())
    tally = sum((state.tally.astype(np.int64) for state in live), np.zeros(TALLIES, np.int64))
    depth = sum(state.queue.depth for state in live)
    return {
        "worker": worker_id,
        "at": iso(now_ns),
        "limits": {
            "rate": limits.rate,
            "burst": limits.burst,
            "lane_rates": {str(partition): at.rate for partition, (at, _) in in_force.items() if partition in lanes},
            "lane_burst": share.burst,
            "lane_queue_limit": bounds.queue_limit,
            "device_rate": share.device_rate,
            "device_burst": share.device_burst,
            "blocked_devices": len(bounds.blocked),
            "special_devices": len(bounds.special),
        },
        "total": {
            "tokens": round(sum(tokens_now(state, in_force[p][0], now_ns) for p, state in live_at.items()), 3),
            "queue_depth": depth,
            "verdicts": {r.label: int(tally[r]) for r in Reason if r < VERDICTS and tally[r]},
            "dropped": dropped_by_reason(tally),
            "conservation": conservation(tally, depth),
        },
        "lanes": each,
    }
