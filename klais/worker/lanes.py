"""The lanes of this worker: started when partitions are assigned, dropped when they are revoked."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from klais.telemetry.log import get
from klais.telemetry.schema import Restoring
from klais.worker.context import LaneContext
from klais.worker.lane import Lane, tune_garbage_collector

log = get("klais.worker.lanes")


class Lanes:
    """Partition -> lane; the ingest agent calls ``put``."""

    def __init__(self) -> None:
        self.by_partition: dict[int, Lane] = {}
        self._ending: list[Lane] = []  # also those of a call that was cancelled
        self._turn, self._busy = 0, asyncio.Lock()
        self._had_s = time.monotonic()

    @property
    def empty_s(self) -> float:
        """Seconds without a lane; 0 while there is one."""
        if self.by_partition:
            self._had_s = time.monotonic()
        return time.monotonic() - self._had_s

    async def put(self, partition: int, stream: Any, event: Any) -> None:
        """Hand an event of the staging topic to the lane of its partition. Never raises: an exception would acknowledge
        the record.

        Without a lane the event is dropped: a lane that starts reads from the end of its journal on. The caller must
        not hold the lane, which would keep its rows in memory until the next event.
        """
        if lane := self.by_partition.get(partition):
            await lane.intake.put(stream, event)

    def take_turn(self) -> int:
        """A number for :meth:`start`: earlier ones are void from now on. Take it when partitions are assigned."""
        self._turn += 1
        return self._turn

    async def start(self, context: LaneContext, partitions: Iterable[int], turn: int | None = None) -> bool:
        """Drop the present lanes and start one for each partition; False if that is out of date before it is done.

        Faust does not wait for the end of a start when the next rebalance begins: then the partitions may be another
        worker's, and another start is under way.

        Parameters
        ----------
        context, partitions
            Of the lanes.
        turn : int, optional
            From :meth:`take_turn` when the partitions were assigned; by default they are assigned now.
        """
        turn = self.take_turn() if turn is None else turn
        async with self._busy:
            if turn != self._turn:  # the present lanes may be those of a newer assignment
                return False
            await self._end_all()
            if turn != self._turn:
                return False
            tune_garbage_collector()
            for partition in sorted(partitions):
                lane = self.by_partition[partition] = Lane(context, partition)
                lane.start()
        log.info("lanes_started", partitions=",".join(map(str, sorted(self.by_partition))) or "none")
        return True

    async def stop(self) -> None:
        """Drop all lanes at once, without flushing; a start that is under way starts none."""
        self.take_turn()
        async with self._busy:
            await self._end_all()

    async def _end_all(self) -> None:
        """End all lanes. Needs the lock ``_busy``: a lane must have ended before the next one of its partition."""
        lanes = list(self.by_partition.values())
        if lanes:
            self._had_s = time.monotonic()
            lanes[0].report_statistics()  # of all lanes, as long as the report finds them here
        self.by_partition = {}
        self._ending += lanes
        await asyncio.gather(*(lane.stop() for lane in self._ending))
        self._ending = []

    async def drain(self, timeout_s: float) -> bool:
        """Checkpoint all lanes, for a clean shutdown."""
        return all(await asyncio.gather(*(lane.drain(timeout_s) for lane in self.by_partition.values())))

    def restoring(self) -> dict[int, Restoring]:
        """Progress of the lanes that recover, by partition."""
        each = ((partition, lane.restoring) for partition, lane in sorted(self.by_partition.items()))
        return {partition: at for partition, at in each if at is not None}

    @property
    def live(self) -> bool:
        """Whether every lane is live."""
        return all(lane.live.is_set() and not lane.closed for lane in self.by_partition.values())
