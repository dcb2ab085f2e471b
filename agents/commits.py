"""Faust's commits, mended: after a commit that failed it would never commit that partition again.

Faust 0.15.3 takes acknowledged offsets off its list before it commits them (``Consumer._new_offset``). When the commit fails
(an outage, a rebalance), they are gone, and the hole at the head of the list stops every later commit. Nothing is lost by
that (a lane ignores what it has), but the group's lag would lie and a restart would read all of it again.
"""

import time
from typing import Any

from faust.types import TP

STUCK_S = 10.0  # commits are a second apart


class CommitMender:
    """Tells Faust's consumer that a hole is no hole, when a partition's committed offset stands still below what is done."""

    def __init__(self, app: Any, topic: str) -> None:
        self._app = app
        self._topic = topic
        self._seen: dict[int, tuple[int | None, float]] = {}  # partition -> (committed offset, since when)

    async def __call__(self, partition: int, acknowledged: int) -> None:
        """Look at one partition, all of whose records below ``acknowledged`` were acknowledged a checkpoint ago."""
        consumer, tp = self._app.consumer, TP(self._topic, partition)
        committed = consumer._committed_offset[tp]
        before, since_s = self._seen.get(partition, (None, 0.0))
        if committed is None or committed >= acknowledged or committed != before:
            self._seen[partition] = (committed, time.monotonic())
        elif time.monotonic() - since_s > STUCK_S:
            await consumer._add_gap(tp, committed, acknowledged - 1)
            self._seen[partition] = (committed, time.monotonic())
