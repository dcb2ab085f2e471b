"""The dam: the frames that each lane received, passed, holds and dropped since its step 0, with their conservation."""

import time
from dataclasses import asdict
from typing import Any

from klais.core.lane.counters import Conservation, conservation, dropped_by_reason, tallies, tokens_now, verdicts
from klais.core.lane.journal import Limits
from klais.core.lane.state import LaneState, Tally
from klais.worker.web.times import iso


def conservation_body(check: Conservation) -> dict[str, Any]:
    """The check as JSON."""
    return asdict(check) | {"missing": check.missing, "holds": check.holds}


def _unsent_and_missing(lanes: dict[int, Any]) -> tuple[int, int]:
    """Unsent frames and lost records, as counted by the lanes' sessions."""
    each = [lane.statistics() for lane in lanes.values() if lane.session is not None and lane.live.is_set()]
    return sum(of_lane.unsent for of_lane in each), sum(of_lane.missing for of_lane in each)


def oldest_waiting_s(state: LaneState, now_ns: int) -> float | None:
    """Seconds since the oldest frame in the queue was received; None if the queue is empty."""
    oldest_ns = state.queue.oldest_ns()
    return None if oldest_ns is None else round(max(0, now_ns - oldest_ns) * 1e-9, 3)


def lane_dam(partition: int, lane: Any, limits: Limits, queue_limit: int, now_ns: int) -> dict[str, Any]:
    """One lane's part of ``/dam/``."""
    state = lane.session.state if lane.session is not None else None
    of_lane = lane.statistics()
    out: dict[str, Any] = {"partition": partition, "live": lane.live.is_set(), "failure": of_lane.failure}
    if state is None or not lane.live.is_set():
        return out
    tally = tallies([state])
    return out | {
        "step": state.step,
        "next_raw": state.next_raw,
        "rate": limits.rate,
        "burst": limits.burst,
        "tokens": round(tokens_now(state, limits, now_ns), 3),
        "queue_depth": state.queue.depth,
        "queue_limit": queue_limit,
        "oldest_waiting_s": oldest_waiting_s(state, now_ns),
        "pending_bytes": of_lane.pending_bytes,
        "pending_frames": of_lane.pending_frames,
        "queue_bytes": state.queue.bytes,
        "devices": state.devices,
        "verdicts": verdicts(tally),
        "dropped": dropped_by_reason(tally),
        "tallies": {t.name.lower(): int(tally[t]) for t in Tally},
        "conservation": conservation_body(conservation(tally, state.queue.depth, of_lane.unsent, of_lane.missing)),
        "alarms": list(of_lane.alarms),
    }


def dam(lanes: dict[int, Any], limits: Any, worker_id: str) -> dict[str, Any]:
    """Body of ``/dam/``. The counters of each lane count since its step 0: its checkpoints keep them, whichever worker
    owned it.

    Parameters
    ----------
    lanes : dict of int to Lane
        By partition.
    limits : LaneLimits
        The limits in force.
    worker_id : str
        Id of the answering worker.
    """
    now_ns = time.time_ns()
    in_force = {partition: limits.of_lane(partition) for partition in sorted(lanes) or [0]}
    share, bounds = next(iter(in_force.values()))
    each = [
        lane_dam(partition, lane, in_force[partition][0], bounds.queue_limit, now_ns)
        for partition, lane in sorted(lanes.items())
    ]
    live_at = {p: lane.session.state for p, lane in lanes.items() if lane.session is not None and lane.live.is_set()}
    tally = tallies(live_at.values())
    depth = sum(state.queue.depth for state in live_at.values())
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
            "overridden_devices": len(bounds.overrides),
        },
        "total": {
            "tokens": round(sum(tokens_now(state, in_force[p][0], now_ns) for p, state in live_at.items()), 3),
            "queue_depth": depth,
            "verdicts": verdicts(tally),
            "dropped": dropped_by_reason(tally),
            "conservation": conservation_body(conservation(tally, depth, *_unsent_and_missing(lanes))),
        },
        "lanes": each,
    }
