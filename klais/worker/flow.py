"""Flow control of single partitions: how lanes pause and seek their part of the group's consumer."""

from collections.abc import Awaitable, Callable
from typing import Any


class PartitionFlow:
    """The consumer of one topic as lanes see it (:class:`~klais.worker.context.RawConsumer`).

    Faust's ``pause_partitions``, ``resume_partitions`` and ``seek`` also accept partitions that are not assigned, and
    would fetch or seek them later. So each call here checks the assignment first. Records that were fetched before a
    pause or a seek still arrive; lanes check offsets.

    Parameters
    ----------
    consumer : callable
        Returns Faust's consumer, or None while the worker stops.
    partition : callable
        Maps a partition number to Faust's topic partition.
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
        """Consumer and topic partition if the partition is assigned to this worker, else None."""
        consumer, where = self._consumer(), self._partition(partition)
        try:
            return (consumer, where) if consumer is not None and where in consumer.assignment() else None
        except Exception:  # Faust raises its own error before the consumer has started: nothing to control
            return None

    def pause(self, partition: int) -> None:
        """Stop the delivery of this partition."""
        if (found := self._assigned(partition)) is not None:
            found[0].pause_partitions({found[1]})

    def resume(self, partition: int) -> None:
        """Deliver again."""
        if (found := self._assigned(partition)) is not None:
            found[0].resume_partitions({found[1]})

    async def seek(self, partition: int, offset: int) -> None:
        """Continue at ``offset``, whatever the group has committed."""
        if (found := self._assigned(partition)) is not None:
            await found[0].seek(found[1], offset)

    async def repair_commit(self, partition: int, acknowledged: int, newest: int) -> None:
        """Commit what the client omitted, up to ``acknowledged``, and never leave the group beyond ``newest``."""
        await self._repair(partition, acknowledged, newest)
