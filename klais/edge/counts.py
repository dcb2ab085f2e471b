"""What the edge counts. Every frame is in one place: waiting, in flight, held, spooled, published, or dropped for a
reason.
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
    frames lay in the disk spool at the start; ``spooled`` lie there now, on their way to Kafka or not, ``held`` in
    memory behind the breaker. ``kernel_drops`` stands beside it: frames that the kernel could not keep for this
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
        """Frames that did not get through, by ``Reason`` (int64 [REASONS]), those that the kernel dropped included."""
        out = self.by_reason.astype(np.int64)
        out[Reason.KERNEL_DROP] = self.kernel_drops
        return out

    def depth(self) -> int:
        """Frames in hand: neither published nor dropped."""
        return self.waiting + self.inflight + self.held + self.spooled

    def unaccounted(self) -> int:
        """Frames of the sum above that are in no place (below 0: that came from nowhere): 0, or a defect."""
        dropped = int(self.by_reason.sum())
        return self.received + self.recovered - self.depth() - self.published - dropped

    def totals(self) -> dict[str, Any]:
        """Counters for people and ``klais_stats``: ``received + spool_recovered = passed + sum(dropped) + depth``."""
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
