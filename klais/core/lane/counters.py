"""Sums of the lanes' tallies: received, passed, dropped by reason, and the conservation check over them.

A tally is int64 or uint64 [TALLIES]: frames by verdict (``Reason``), then the counters that ``Tally`` names
(:mod:`klais.core.lane.state`). Tallies of several lanes add up element by element, so every function here takes one
lane's tally or a sum of many.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.dam.bucket import refill
from klais.core.lane.journal import Limits
from klais.core.lane.state import TALLIES, LaneState, Tally
from klais.core.wire.constants import VERDICTS, Reason

Counts = npt.NDArray[Any]

# Drops that are not a verdict on a frame. A record that is not a frame batch counts as one frame.
_OTHER_DROPS = {
    Reason.CORRUPT_BATCH: Tally.CORRUPT_RECORDS,
    Reason.REPEATED_BATCH: Tally.REPEATED_FRAMES,
    Reason.QUEUE_EXPIRED: Tally.QUEUE_LOST,
    Reason.POISON: Tally.POISON_FRAMES,
    Reason.OUTPUT_LOST: Tally.OUTPUT_LOST,
}


@dataclass(frozen=True, slots=True)
class Conservation:
    """The check ``received = passed + queued_waiting + dropped`` (frames), with the real queue depth.

    The lanes' own counters cannot prove that a frame landed. So two figures come from elsewhere: ``unsent``, frames
    that passed and are neither pending nor acknowledged by Kafka, and ``lost``, acknowledged records that the end
    offset of the clean topic does not cover.
    """

    received: int
    passed: int
    queued_waiting: int
    dropped: int
    unsent: int = 0
    lost: int = 0

    @property
    def missing(self) -> int:
        """Frames received but not accounted for; below 0: frames accounted for but not received."""
        return self.received - self.passed - self.queued_waiting - self.dropped

    @property
    def holds(self) -> bool:
        """Whether every frame is accounted for, in the place that the counters state."""
        return self.missing == 0 and self.unsent == 0 and self.lost == 0


def tallies(states: Iterable[LaneState]) -> npt.NDArray[np.int64]:
    """Sum of the lanes' tallies, int64 [TALLIES]."""
    return sum((state.tally.astype(np.int64) for state in states), np.zeros(TALLIES, np.int64))


def verdicts(tally: Counts) -> dict[str, int]:
    """Frames by the label of their verdict, without zeros."""
    return {reason.label: int(tally[reason]) for reason in Reason if reason < VERDICTS and tally[reason]}


def dropped(tally: Counts) -> dict[Reason, int]:
    """Frames dropped, by reason, without zeros."""
    out = {reason: int(tally[reason]) for reason in Reason if Reason.DUPLICATE <= reason < VERDICTS and tally[reason]}
    return out | {reason: int(tally[place]) for reason, place in _OTHER_DROPS.items() if tally[place]}


def dropped_by_reason(tally: Counts) -> dict[str, int]:
    """Frames dropped, by the reason's label, for JSON."""
    return {reason.label: frames for reason, frames in dropped(tally).items()}


def received(tally: Counts) -> int:
    """Frames received: those with a verdict, those of repeated batches and poison records.

    One for each corrupt record.
    """
    frames = int(tally[:VERDICTS].sum())
    others = (Tally.REPEATED_FRAMES, Tally.CORRUPT_RECORDS, Tally.POISON_FRAMES)
    return frames + sum(int(tally[place]) for place in others)


def passed(tally: Counts) -> int:
    """Frames admitted to the clean topic, immediately or from the queue, minus those known to be lost."""
    return int(tally[Reason.PASSED]) + int(tally[Tally.RELEASED]) - int(tally[Tally.OUTPUT_LOST])


def conservation(tally: Counts, queue_depth: int, unsent: int = 0, lost: int = 0) -> Conservation:
    """The check over a tally, the frames in the queue, and the end offsets of the topics."""
    return Conservation(received(tally), passed(tally), queue_depth, sum(dropped(tally).values()), unsent, lost)


def tokens_now(state: LaneState, limits: Limits, now_ns: int) -> float:
    """Tokens of the lane's global bucket at ``now_ns`` (frames); does not change the state."""
    if state.tokens < 0:
        return limits.burst
    return float(refill(state.tokens, state.bucket_ns, now_ns, limits.rate, limits.burst))
