"""Lanes that rebalances start again and again leave nothing behind: no object, no task, no connection."""

import asyncio
import gc
import os
import threading
from collections import Counter

from klais.worker.lane import Lane
from klais.worker.lanes import Lanes
from tests.support.lanes import Edge, caught_up, lane_context, live, until

AGAIN, BATCHES = 2, 4
OWNERS = ("klais", "aiokafka")  # of the classes that are counted
# Of which a lane that has ended, and that something may still refer to, has none.
SESSION = ("klais.core.lane.state.LaneState", "klais.worker.session.LaneSession", "klais.worker.watch.Watch")
TWO, ONE = (0, 1), (0,)  # partitions with and without a second worker


def held() -> Counter[str]:
    """The live objects of our classes and of the Kafka client's, and the open files."""
    gc.unfreeze()
    gc.collect()
    kinds = Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in map(type, gc.get_objects()))
    found = Counter({name: count for name, count in kinds.items() if name.split(".")[0] in OWNERS})
    found["tasks"], found["files"] = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    # asyncio's own pool grows to its limit whenever a thread is not idle yet.
    found["threads"] = sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())
    return found


async def test_lanes_that_start_again_leave_nothing_behind(settings_for, topics_of) -> None:
    settings = settings_for(partitions=2, checkpoint_interval_s=0.2)
    topics_of(settings)
    for partition in TWO:
        await asyncio.to_thread(Edge(settings, 300, partition).send, BATCHES)
    lanes, ended = Lanes(), list[Lane]()

    async def rebalance() -> Counter[str]:
        """Another worker joins and leaves. What is held then: both lanes, each with a checkpoint, nothing in flight."""
        for partitions in (ONE, TWO):
            ended.extend(lanes.by_partition.values())
            await lanes.start(context, partitions)
            for lane in lanes.by_partition.values():
                await live(lane)
                lane.intake.fetch_up_to(BATCHES)
                await caught_up(settings, lane)
        return held()

    async with lane_context(settings) as context:
        try:
            await rebalance()
            first = await rebalance()  # from now on each lane has a marker
            for _ in range(AGAIN):
                last = await rebalance()
            assert {name: last[name] for name in SESSION} == dict.fromkeys(SESSION, len(TWO)), "one for each lane"
            ended.clear()
            # A request may be under way in one of them, and a client that has just closed still have its socket.
            await until(lambda: not held() - first, lambda: f"more than before: {held() - first}", 30)
        finally:
            await lanes.stop()
