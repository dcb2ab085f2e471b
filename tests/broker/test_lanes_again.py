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


def of_sessions() -> list[object]:
    """The live objects of sessions."""
    gc.unfreeze()
    gc.collect()
    return [one for one in gc.get_objects() if name_of(type(one)) in SESSION]


def name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def holders(kept: list[object]) -> list[str]:
    """What refers to the objects of sessions that were not there before, three levels up, to find a leak."""
    before, found = set(map(id, kept)), []
    for one in of_sessions():
        if id(one) not in before:
            level, names = [one], [type(one).__name__]
            for _ in range(3):
                level = [up for it in level for up in gc.get_referrers(it) if up is not level][:20]
                names.append("|".join(sorted({getattr(up, "__qualname__", type(up).__qualname__) for up in level})))
            found.append(" < ".join(names))
    return found


def held() -> Counter[str]:
    """The live objects of our classes and of the Kafka client's, and the open files."""
    gc.unfreeze()
    gc.collect()
    kinds = Counter(map(name_of, map(type, gc.get_objects())))
    found = Counter({name: count for name, count in kinds.items() if name.split(".")[0] in OWNERS})
    found["tasks"], found["files"] = len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))
    # asyncio's own pool grows to its limit whenever a thread is not idle yet.
    found["threads"] = sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())
    return found


async def test_lanes_that_start_again_leave_nothing_behind(settings_for, topics_of) -> None:
    settings = settings_for(partitions=2, checkpoint_interval_s=0.2)
    topics_of(settings)
    kept = of_sessions()  # of earlier tests in this process; held, so that they count the same at the end
    others = Counter(map(name_of, map(type, kept)))
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
            mine = {name: last[name] - others[name] for name in SESSION}
            assert mine == dict.fromkeys(SESSION, len(TWO)), f"one for each lane, but: {holders(kept)}"
            ended.clear()
            # A request may be under way in one of them, and a client that has just closed still have its socket.
            await until(lambda: not held() - first, lambda: f"more than before: {held() - first}", 6)
        finally:
            await lanes.stop()
