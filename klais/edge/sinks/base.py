"""The two small interfaces between the spine and the delivery of batches and dead letters."""

import time
from collections.abc import Callable
from typing import Protocol

from klais.core.wire.constants import Reason
from klais.edge.batcher import ClosedBatch

Headers = list[tuple[str, bytes]]
Pause = Callable[[float], None]


class Sink(Protocol):
    """Accepts closed batches: :class:`klais.edge.sinks.store_and_forward.Forwarder`, or a list in memory in tests."""

    @property
    def linger_ns(self) -> int:
        """Minimum time that batches collect frames."""

    def offer(self, built: ClosedBatch) -> Reason:
        """Accept a batch (``Reason.PASSED``), or return the reason: the caller then counts its frames as dropped."""

    def poll(self) -> None:
        """Serve delivery reports; cheap, called in every round of the spine."""

    def drain(self, budget_s: float, pause: Pause = time.sleep) -> int:
        """Deliver or store the rest within the budget; returns the number of lost frames, which are counted.

        Between two looks at what Kafka has acknowledged it calls ``pause`` (s). The counters add up at each call.
        """


class DeadLetterSink(Protocol):
    """Accepts single records for the dead-letter topic."""

    def dead_letter(self, value: bytes, key: bytes | None, headers: Headers, partition: int) -> bool:
        """Send one; False if it was not accepted."""
