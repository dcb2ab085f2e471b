"""Lanes that rebalances start again and again leave nothing behind: no object, no task, no connection."""

import asyncio
import gc
import os
from collections import Counter

from klais.worker.lanes import Lanes
from tests.support.lanes import Edge, caught_up, lane_context, live, until

WARM_UP, AGAIN = 1, 3  # rebalances
OWNERS = ("klais", "aiokafka")  # of the classes that are counted
TWO, ONE = (0, 1), (0,)  # partitions with and without a second worker


def held() -> Counter[str]:
    """The live objects of our classes and of the Kafka client's, and the open files."""
    gc.unfreeze()
    gc.collect()
    kinds = Counter(f"{kind.__module__}.{kind.__qualname__}" for kind in map(type, gc.get_objects()))
    found = Counter({name: count for name, count in kinds.items() if name.split(".")[0] in OWNERS})
    found["tasks"], found["files"] = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    found["threads"] = len(os.listdir("/proc/self/task"))
    return found


async def test_lanes_that_start_again_leave_nothing_behind(settings_for, topics_of) -> None:
    settings = settings_for(partitions=2, checkpoint_interval_s=0.2)
    topics_of(settings)
    for partition in TWO:
        await asyncio.to_thread(Edge(settings, 300, partition).send, 4)
    lanes = Lanes()

    async def settled() -> Counter[str]:
        """What is held while the worker has both lanes, each with a checkpoint, and nothing is in flight."""
        await lanes.start(context, TWO)
        for lane in lanes.by_partition.values():
            await live(lane)
            lane.intake.fetch_up_to(4)
            await caught_up(settings, lane)
            await until(lambda lane=lane: lane.checkpointer.step == lane.session.state.step, "a checkpoint")
        return held()

    async with lane_context(settings) as context:
        try:
            first = Counter[str]()
            for _ in range(WARM_UP):
                first |= await settled()  # the larger figure of each
                await lanes.start(context, ONE)
                await live(lanes.by_partition[0])
            for _ in range(AGAIN):
                await lanes.start(context, ONE)
                await live(lanes.by_partition[0])
                await settled()
            # A client that has just closed may keep a task or a file for some turns of the loop.
            await until(lambda: not (held() - first), "as much as at first is held")
        finally:
            await lanes.stop()
