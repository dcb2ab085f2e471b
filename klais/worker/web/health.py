"""What is wrong with a worker, in words that say what to do: the body of ``/health``."""

from typing import Any

from klais.core.lane.counters import conservation
from klais.worker.lane import Lane
from klais.worker.lane_statistics import LaneStatistics

QUIET_S = 3.0  # a broker that does not answer for so long is a problem worth telling
NO_LANES_S = 30.0  # a rebalance takes less
FENCED = "another worker owns it now; if that lasts, two workers disagree: see `klais lag`, and restart this one"
FAILED = "the lane tries again by itself; if that lasts, `klais topics check` and the log say more"


def lanes_body(lanes: dict[int, Lane]) -> dict[str, Any]:
    """Each lane's state."""
    out = {}
    for partition, lane in sorted(lanes.items()):
        of_lane = lane.statistics()
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


def lane_problems(partition: int, lane: Lane) -> list[str]:
    """What is wrong with one lane."""
    of_lane = lane.statistics()
    out = []
    if not of_lane.live and of_lane.failure:
        out.append(f"lane {partition}: {of_lane.failure}: {FENCED if of_lane.fenced else FAILED}")
    out += [f"lane {partition}: {text}" for text in of_lane.alarms]
    if of_lane.live and (text := _not_conserved(lane, of_lane)):
        out.append(f"lane {partition}: {text}")
    return out


def _not_conserved(lane: Lane, of_lane: LaneStatistics) -> str:
    """How the lane's figures differ from what is on the topics; empty where they do not."""
    if lane.session is None:
        return ""
    state = lane.session.state
    check = conservation(state.tally, state.queue.depth, of_lane.unsent, of_lane.missing)
    if check.holds:
        return ""
    parts = []
    if check.lost:
        parts.append(
            f"the clean topic lacks {check.lost} records that Kafka acknowledged: "
            "somebody deleted the topic, or Kafka lost them"
        )
    if check.missing or check.unsent:
        parts.append(f"{abs(check.missing) + abs(check.unsent)} frames are in no counter: a defect of KLAIS, report it")
    return f"conservation does not hold, {' and '.join(parts)}; `/dam/` has the figures, `klais replay --check` a proof"


def no_lanes(empty_s: float, standby: str, waiting_for: tuple[str, ...]) -> str:
    """What to say of a worker that has had no lane for so long; empty where that is right.

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
    """What to say of a broker that has not answered for so long; empty while it does."""
    if failing_s <= QUIET_S:
        return ""
    return (
        f"Kafka has not answered for {failing_s:.0f} s: frames wait, nothing is lost; see to the broker or the network"
    )
