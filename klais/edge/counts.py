"""Counters of the edge. Every frame is counted in one state: waiting, in flight, held, spooled, published, or dropped
with a reason.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import REASONS, Reason


@dataclass(slots=True)
class Counts:
    """Counters since the start of the process; only the spine's thread writes them, under its lock.

    ``received + recovered = waiting + inflight + held + spooled + published + by_reason.sum()`` between any two
    rounds of the spine; malformed frames are in ``by_reason`` whether a dead letter was written or not. ``recovered``
    frames were in the disk spool at the start; ``spooled`` are in it now, being sent to Kafka or not; ``held`` are in
    memory behind the breaker. ``kernel_drops`` is counted separately: frames that the kernel could not keep for this
    process.
    """

    received: int = 0
    received_bytes: int = 0
    by_reason: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(REASONS, np.uint64))
    kernel_drops: int = 0
    waiting: int = 0
    inflight: int = 0
    inflight_bytes: int = 0
    held: int = 0
    held_bytes: int = 0
    spooled: int = 0
    recovered: int = 0
    replayed: int = 0
    published: int = 0
    published_bytes: int = 0
    batches: int = 0
    batches_failed: int = 0
    dead_letters: int = 0
    dead_letters_failed: int = 0
    dead_letters_suppressed: int = 0

    def drop(self, reason: Reason, frames: int) -> None:
        """Count dropped frames."""
        self.by_reason[reason] += np.uint64(frames)

    def dropped(self) -> npt.NDArray[np.int64]:
        """Frames that did not get through, by ``Reason`` (int64 [REASONS]), including those dropped by the kernel."""
        out = self.by_reason.astype(np.int64)
        out[Reason.KERNEL_DROP] = self.kernel_drops
        return out

    def depth(self) -> int:
        """Frames in progress: neither published nor dropped."""
        return self.waiting + self.inflight + self.held + self.spooled

    def unaccounted(self) -> int:
        """Frames that the sum above does not account for (below 0: too many accounted for): 0, or a defect."""
        dropped = int(self.by_reason.sum())
        return self.received + self.recovered - self.depth() - self.published - dropped

    def totals(self) -> dict[str, Any]:
        """Counters for display and ``klais_stats``: ``received + spool_recovered = passed + sum(dropped) + depth``."""
        dropped = self.dropped()
        return {
            "received": self.received + self.kernel_drops,
            "spool_recovered": self.recovered,
            "spool_replayed": self.replayed,
            "received_bytes": self.received_bytes,
            "passed": self.published,
            "passed_bytes": self.published_bytes,
            "dropped": {reason.label: int(dropped[reason]) for reason in Reason if dropped[reason]},
            "batches": self.batches,
            "batches_failed": self.batches_failed,
            "dead_letters": self.dead_letters,
            "dead_letters_failed": self.dead_letters_failed,
            "dead_letters_suppressed": self.dead_letters_suppressed,
        }
