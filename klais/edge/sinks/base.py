"""Where batches and dead letters go: the two small interfaces between the spine and whatever delivers."""

from typing import Protocol

from klais.core.wire.constants import Reason
from klais.edge.batcher import Built

Headers = list[tuple[str, bytes]]


class Sink(Protocol):
    """Takes closed batches: :class:`klais.edge.sinks.store_and_forward.Forwarder`, or a list in memory in tests."""

    @property
    def linger_ns(self) -> int:
        """How long batches should at least collect frames."""

    def offer(self, built: Built) -> Reason:
        """Accept a batch (``Reason.PASSED``), or say at once why not: then the caller counts its frames as dropped."""

    def poll(self) -> None:
        """Serve delivery reports; cheap, called in every round of the spine."""

    def drain(self, budget_s: float) -> int:
        """Deliver or store what is left within the budget; returns the frames that were neither, all counted."""


class DeadLetterSink(Protocol):
    """Takes single records for the dead-letter topic."""

    def dead_letter(self, value: bytes, key: bytes | None, headers: Headers, partition: int) -> bool:
        """Send one; False when it is not accepted."""
