"""Faust's commits, mended: after a commit that failed it would never commit that partition again.

Faust 0.15.3 takes acknowledged offsets off its list before it commits them (``Consumer._new_offset``). When the commit fails
(an outage, a rebalance), they are gone, and the hole at the head of the list stops every later commit. And where the commit
failed because of a rebalance it notes the offsets as committed all the same (``Consumer._commit_offsets``), so that nothing is
committed until the next record comes. Nothing is lost by either (a lane ignores what it has), but the group's lag would lie
and a restart would read all of it again.

Filling the hole with ``Consumer._add_gap`` would not do: offsets that are in the gap and on the list are then there twice, and
of such a list Faust commits one offset a commit, which is one a second.
"""

import time
from collections.abc import Mapping
from typing import Any

from faust.types import TP

STUCK_S = 10.0  # commits are a second apart


class CommitMender:
    """Commits in Faust's place what it gave up: what a rebalance refused, and whatever is done while its committed offset
    stands still below that.
    """

    def __init__(self, app: Any, topic: str) -> None:
        self._app = app
        self._topic = topic
        self._seen: dict[int, tuple[int | None, float]] = {}  # partition -> (committed offset, since when)
        self._refused: dict[TP, int] = {}  # newest offset whose commit was refused
        self._watched: Any = None

    async def __call__(self, partition: int, acknowledged: int) -> None:
        """Look at one partition, all of whose records below ``acknowledged`` were acknowledged a checkpoint ago.

        Called before each acknowledgement, so no commit happens before the first look.
        """
        consumer, tp = self._app.consumer, TP(self._topic, partition)
        self._watch(consumer)
        if acknowledged >= self._refused.get(tp, acknowledged + 1):
            await self._commit_over(consumer, tp, acknowledged)  # noted again, should it be refused again
        committed = consumer._committed_offset[tp]
        before, since_s = self._seen.get(partition, (None, 0.0))
        if committed is None or committed >= acknowledged or committed != before:
            self._seen[partition] = (committed, time.monotonic())
        elif time.monotonic() - since_s > STUCK_S:
            await self._commit_over(consumer, tp, acknowledged)
            self._seen[partition] = (consumer._committed_offset[tp], time.monotonic())

    @staticmethod
    async def _commit_over(consumer: Any, tp: TP, acknowledged: int) -> None:
        """Commit up to ``acknowledged``, whatever Faust's list says of the offsets below, and take those off it."""
        if tp not in consumer.assignment() or not await consumer._commit({tp: acknowledged}):
            return
        acked = consumer._acked[tp]
        acked[:] = sorted({offset for offset in acked if offset >= acknowledged})
        consumer._acked_index[tp] = set(acked)
        consumer._gap[tp].chop(0, acknowledged)
        consumer._committed_offset[tp] = acknowledged

    def _watch(self, consumer: Any) -> None:
        """See which commits of this consumer are refused."""
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
