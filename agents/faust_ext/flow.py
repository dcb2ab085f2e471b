"""Flow control of single partitions: how a lane stops and steers its part of Faust's consumer.

Faust 0.15.3 (``faust.transport.consumer.Consumer``): ``pause_partitions``, ``resume_partitions`` and ``seek`` accept
partitions that are not assigned, too, and would fetch or seek them later; so each call here checks the assignment
first. Records that were fetched before a pause or a seek still arrive: lanes check offsets.
"""

import contextlib
from typing import Any

from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from agents.faust_ext.commits import CommitRepair


class PartitionFlow:
    """The consumer of one topic as lanes see it (``klais.worker.context.RawConsumer``)."""

    def __init__(self, app: Any, topic: str) -> None:
        self._app, self._topic = app, topic
        self._repair = CommitRepair(app, topic)

    def _assigned(self, partition: int) -> TP | None:
        tp = TP(self._topic, partition)
        with contextlib.suppress(ConsumerNotStarted):
            return tp if not self._app.should_stop and tp in self._app.consumer.assignment() else None
        return None

    def pause(self, partition: int) -> None:
        """Deliver nothing of this partition for now."""
        if (tp := self._assigned(partition)) is not None:
            self._app.consumer.pause_partitions({tp})

    def resume(self, partition: int) -> None:
        """Deliver again."""
        if (tp := self._assigned(partition)) is not None:
            self._app.consumer.resume_partitions({tp})

    async def seek(self, partition: int, offset: int) -> None:
        """Go on at ``offset``, whatever the group has committed."""
        if (tp := self._assigned(partition)) is not None:
            await self._app.consumer.seek(tp, offset)

    async def repair_commit(self, partition: int, acknowledged: int) -> None:
        """Commit what Faust forgot to."""
        await self._repair(partition, acknowledged)
