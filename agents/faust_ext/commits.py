"""Repair of Faust's commits: after a failed commit, Faust would never commit that partition again.

Faust 0.15.3 removes acknowledged offsets from its list before it commits them (``Consumer._new_offset``). If the commit
fails (an outage, a rebalance), they are lost, and the gap at the head of the list blocks every later commit. If a
rebalance made the commit fail, Faust records the offsets as committed anyway (``Consumer._commit_offsets``), so that it
commits nothing until the next record arrives. Neither loses data, because a lane ignores records that it has taken. But
the lag of the group would be wrong, and a restart would read all records again.

Filling the gap with ``Consumer._add_gap`` does not help: offsets that are both in the gap and on the list are then on
the list twice, and Faust commits such a list one offset at a time, that is one per second.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from faust.types import TP

STUCK_S = 10.0  # Faust commits once a second
COMMIT_S = 2.0  # for a commit: aiokafka waits without end while the group has no coordinator, and checkpoints would too


class CommitRepair:
    """Commits what Faust omitted: offsets whose commit was refused, and those above a stuck committed offset.

    Parameters
    ----------
    app : faust.App
        Its consumer is watched from the first call on.
    topic : str
        The topic whose partitions are repaired.
    """

    def __init__(self, app: Any, topic: str) -> None:
        self._app = app
        self._topic = topic
        self._seen: dict[int, tuple[int | None, float]] = {}  # partition -> (committed offset, since when)
        self._refused: dict[TP, int] = {}  # newest offset whose commit was refused
        self._watched: Any = None

    async def __call__(self, partition: int, acknowledged: int, newest: int) -> None:
        """Check one partition whose records below ``acknowledged`` were acknowledged by the previous checkpoint.

        ``newest`` will be acknowledged next. If the group's offset is beyond it (set by an operator), it is reset to
        it: Faust itself never commits a lower offset, and drops the acknowledgements of records below.

        Call it before each acknowledgement, so that no commit happens before the first check.
        """
        consumer, tp = self._app.consumer, TP(self._topic, partition)
        self._watch(consumer)
        if (consumer._committed_offset[tp] or 0) > newest:
            await self._fix(consumer, tp, newest)
        if acknowledged >= self._refused.get(tp, acknowledged + 1):
            await self._fix(consumer, tp, acknowledged)  # if the broker also refuses this, it is recorded again
        committed = consumer._committed_offset[tp]
        before, since_s = self._seen.get(partition, (None, 0.0))
        if committed is None or committed >= acknowledged or committed != before:
            self._seen[partition] = (committed, time.monotonic())
        elif time.monotonic() - since_s > STUCK_S:
            await self._fix(consumer, tp, acknowledged)
            self._seen[partition] = (consumer._committed_offset[tp], time.monotonic())

    @staticmethod
    async def _fix(consumer: Any, tp: TP, acknowledged: int) -> None:
        """Commit up to ``acknowledged``, then remove all offsets below it from Faust's records.

        All three records must agree afterwards. An offset left on the list below the committed one looks like a gap to
        ``_new_offset``; one left in the index but not on the list is never acknowledged again.
        """
        if tp not in consumer.assignment():
            return
        try:
            async with asyncio.timeout(COMMIT_S):
                if not await consumer._commit({tp: acknowledged}):
                    return
        except TimeoutError:  # the next checkpoint tries again
            return
        acked = consumer._acked[tp]
        acked[:] = sorted({offset for offset in acked if offset >= acknowledged})
        consumer._acked_index[tp] = set(acked)
        consumer._gap[tp].chop(0, acknowledged)
        consumer._committed_offset[tp] = acknowledged

    def _watch(self, consumer: Any) -> None:
        """Record which commits of this consumer the broker refuses."""
        if consumer is self._watched:
            return
        self._watched, commit = consumer, consumer._commit

        async def watched(offsets: Mapping[TP, int]) -> bool:
            done: bool = await commit(offsets)
            for tp, offset in offsets.items():
                if done:
                    self._refused.pop(tp, None)
                else:
                    self._refused[tp] = offset
            return done

        consumer._commit = watched
