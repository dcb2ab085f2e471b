"""Flow control of single partitions: how lanes stop and steer their part of the group's consumer."""

from collections.abc import Awaitable, Callable
from typing import Any


class PartitionFlow:
    """The consumer of one topic as lanes see it (:class:`~klais.worker.context.RawConsumer`).

    Faust's ``pause_partitions``, ``resume_partitions`` and ``seek`` accept partitions that are not assigned, too, and
    would fetch or seek them later; so each call here checks the assignment first. Records that were fetched before a
    pause or a seek still arrive: lanes check offsets.

    Parameters
    ----------
    consumer : callable
        Returns Faust's consumer, None while the worker stops.
    partition : callable
        Partition number -> Faust's topic partition.
    repair : callable
        Called with (partition, acknowledged, newest): repairs the group's commits.
    """

    def __init__(
        self,
        consumer: Callable[[], Any],
        partition: Callable[[int], Any],
        repair: Callable[[int, int, int], Awaitable[None]],
    ) -> None:
        self._consumer, self._partition, self._repair = consumer, partition, repair

    def _assigned(self, partition: int) -> tuple[Any, Any] | None:
        """Consumer and topic partition where this worker has it now."""
        consumer, where = self._consumer(), self._partition(partition)
        try:
            return (consumer, where) if consumer is not None and where in consumer.assignment() else None
        except Exception:  # Faust raises its own error before the consumer has started: nothing to steer
            return None

    def pause(self, partition: int) -> None:
        """Deliver nothing of this partition for now."""
        if (found := self._assigned(partition)) is not None:
            found[0].pause_partitions({found[1]})

    def resume(self, partition: int) -> None:
        """Deliver again."""
        if (found := self._assigned(partition)) is not None:
            found[0].resume_partitions({found[1]})

    async def seek(self, partition: int, offset: int) -> None:
        """Go on at ``offset``, whatever the group has committed."""
        if (found := self._assigned(partition)) is not None:
            await found[0].seek(found[1], offset)

    async def repair_commit(self, partition: int, acknowledged: int, newest: int) -> None:
        """Commit what the client forgot to, up to ``acknowledged``; never leave the group beyond ``newest``."""
        await self._repair(partition, acknowledged, newest)
