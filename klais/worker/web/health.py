"""Problems of a worker with their remedies, for ``/health``."""

from collections.abc import Mapping
from typing import Any

from klais.core.lane.counters import conservation
from klais.core.lane.state import LaneState
from klais.worker.lane_statistics import LaneStatistics

QUIET_S = 3.0  # without an answer of a broker: then it is a problem
NO_LANES_S = 30.0  # a rebalance takes less
FENCED = "another worker owns it now; if this persists, two workers disagree: see `klais lag`, and restart this one"
FAILED = "the lane retries automatically; if this persists, see `klais topics check` and the log"


def lanes_body(lanes: Mapping[int, LaneStatistics]) -> dict[str, Any]:
    """The state of each lane."""
    out = {}
    for partition, of_lane in lanes.items():
        age_s = of_lane.checkpoint_age_s
        out[str(partition)] = {
            "live": of_lane.live,
            "fenced": of_lane.fenced,
            "failure": of_lane.failure,
            "restoring": of_lane.restoring.model_dump() if of_lane.restoring else None,
            "restarts": of_lane.restarts,
            "checkpoint_age_s": None if age_s is None else round(age_s, 3),
            "alarms": list(of_lane.alarms),
        }
    return out


def lane_problems(partition: int, of_lane: LaneStatistics, state: LaneState | None) -> list[str]:
    """Problems of one lane; ``state`` only if it is live."""
    out = []
    if not of_lane.live and of_lane.failure:
        out.append(f"{of_lane.failure}: {FENCED if of_lane.fenced else FAILED}")
    out += of_lane.alarms
    if state is not None and (text := _not_conserved(of_lane, state)):
        out.append(text)
    return [f"lane {partition}: {text}" for text in out]


def _not_conserved(of_lane: LaneStatistics, state: LaneState) -> str:
    """The difference between the lane's counters and the topics; empty if there is none."""
    check = conservation(state.tally, state.queue.depth, of_lane.unsent, of_lane.missing)
    if check.holds:
        return ""
    parts = []
    if check.lost:
        parts.append(
            f"the clean topic lacks {check.lost} records that Kafka acknowledged: "
            "the topic was deleted, or Kafka lost them"
        )
    if check.missing or check.unsent:
        parts.append(f"{abs(check.missing) + abs(check.unsent)} frames are in no counter: a defect of KLAIS, report it")
    what = f"conservation does not hold, {' and '.join(parts)}"
    return f"{what}; `/dam/` has the figures, `klais replay --check` compares every record"


def no_lanes(empty_s: float, standby: str, waiting_for: tuple[str, ...]) -> str:
    """The problem of a worker that has had no lane for ``empty_s``; empty if it needs none.

    Examples
    --------
    >>> no_lanes(90.0, "standby: no lanes assigned, 3 workers for 2 partitions", ())
    ''
    >>> no_lanes(90.0, "", ("the rebalance to end",))
    'this worker has had no lane for 90 s, it waits for the rebalance to end: `klais topics check` says what to do'
    """
    if standby or empty_s < NO_LANES_S:
        return ""
    waits = ", ".join(waiting_for) or "a partition"
    return (
        f"this worker has had no lane for {empty_s:.0f} s, it waits for {waits}: `klais topics check` says what to do"
    )


def kafka_silent(failing_s: float) -> str:
    """The problem of a broker that has not answered for ``failing_s``; empty if there is none."""
    if failing_s <= QUIET_S:
        return ""
    return (
        f"Kafka has not answered for {failing_s:.0f} s: frames wait, nothing is lost; check the broker and the network"
    )
