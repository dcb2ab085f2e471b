"""The lanes of this worker: started for the partitions it is assigned, dropped when they are revoked."""

import asyncio
from collections.abc import Iterable
from typing import Any

from klais.telemetry.log import get
from klais.worker.lane import Lane, Shared

log = get("klais.worker.lanes")


class Lanes:
    """Partition -> lane. ``feed`` is all that the ingest agent needs."""

    def __init__(self) -> None:
        self.shared: Shared | None = None
        self.by_partition: dict[int, Lane] = {}
        self._waiting = asyncio.Event()

    async def start(self, shared: Shared, partitions: Iterable[int]) -> None:
        """Start a lane for each partition anew (what the table holds is recovered by now)."""
        await self.stop()
        self.shared = shared
        for partition in sorted(partitions):
            lane = self.by_partition[partition] = Lane(shared, partition)
            lane.start()
        self._waiting.set()
        log.info("lanes_started", partitions=",".join(map(str, sorted(self.by_partition))) or "none")

    async def stop(self) -> None:
        """Drop all lanes at once, without flushing."""
        self._waiting.clear()
        lanes, self.by_partition = list(self.by_partition.values()), {}
        await asyncio.gather(*(lane.stop() for lane in lanes))

    async def drain(self, timeout_s: float) -> bool:
        """Checkpoint all lanes, for a clean end."""
        return all(await asyncio.gather(*(lane.drain(timeout_s) for lane in self.by_partition.values())))

    async def feed(self, stream: Any, event: Any) -> None:
        """Hand one raw record to the lane of its partition; nothing escapes from here (it would acknowledge the record)."""
        lane = self.by_partition.get(event.message.partition)
        if lane is None:
            await self._waiting.wait()
            lane = self.by_partition.get(event.message.partition)
        if lane is not None:
            await lane.take(stream, event)

    @property
    def live(self) -> bool:
        """Whether every lane is live."""
        return all(lane.live.is_set() and not lane.closed for lane in self.by_partition.values())
