"""What the edge counts. Every frame is in exactly one place: waiting, in flight, published, dropped or malformed."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.wire.constants import FIRST_MALFORMED, LAST_MALFORMED, Reason

LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def is_malformed(reason: Reason) -> bool:
    """Whether frames with this reason go to the dead letter instead of being dropped."""
    return FIRST_MALFORMED <= reason <= LAST_MALFORMED or reason is Reason.TOO_LONG


@dataclass(slots=True)
class Histogram:
    """Observations by upper bound (seconds), and their sum."""

    bounds: tuple[float, ...] = LATENCY_BOUNDS_S
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value_s: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value_s)] += 1
        self.sum += value_s


@dataclass(slots=True)
class Counts:
    """Counters since the start of the process; written by the thread of the spine only.

    ``received = waiting + inflight + published + dropped (backpressure, delivery_failed) + malformed``, at any moment
    between two rounds of the spine. ``kernel_drop`` stands beside it: those frames were never received.
    """

    received: int = 0
    received_bytes: int = 0
    by_reason: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(32, np.uint64))
    waiting: int = 0
    inflight: int = 0
    inflight_bytes: int = 0
    published: int = 0
    published_bytes: int = 0
    batches: int = 0
    kafka_errors: int = 0
    letters: int = 0
    letters_inflight: int = 0
    letters_failed: int = 0
    letters_suppressed: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def drop(self, reason: Reason, frames: int) -> None:
        """Count dropped frames."""
        self.by_reason[reason] += np.uint64(frames)

    def dropped(self) -> dict[str, int]:
        """Frames lost by reason: taken by us and not published, or never taken from the kernel."""
        return {r.label: int(self.by_reason[r]) for r in Reason if self.by_reason[r] and not is_malformed(r)}

    def malformed(self) -> dict[str, int]:
        """Malformed frames by reason (dead-lettered, or only counted above the rate)."""
        return {r.label: int(self.by_reason[r]) for r in Reason if self.by_reason[r] and is_malformed(r)}

    def snapshot(self) -> dict[str, Any]:
        """All of it as plain numbers, JSON-ready."""
        return {
            "received": self.received,
            "received_bytes": self.received_bytes,
            "waiting": self.waiting,
            "inflight": self.inflight,
            "inflight_bytes": self.inflight_bytes,
            "published": self.published,
            "published_bytes": self.published_bytes,
            "batches": self.batches,
            "kafka_errors": self.kafka_errors,
            "dropped": self.dropped(),
            "malformed": self.malformed(),
            "dead_letters": {
                "sent": self.letters,
                "inflight": self.letters_inflight,
                "failed": self.letters_failed,
                "suppressed": self.letters_suppressed,
            },
        }
