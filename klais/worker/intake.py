"""The bounded hand-over from the ingest agent to a lane, which never makes other lanes wait.

The agent serves all partitions of a worker in one loop, so it must not block on one lane. If there is no room for a
record, it is dropped here and the partition is paused at the consumer. The lane fetches the record again from
``klais_raw`` with its own reader. The event is kept until the checkpoint that covers it acknowledges it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from klais.core.lane.state import LaneState
from klais.core.wire.batch import received_at_of
from klais.errors import LaneFailed, OffsetGone
from klais.kafka.reader import PartitionReader
from klais.system.loop_turn import LoopTurn
from klais.telemetry.log import get
from klais.worker.context import RawConsumer

log = get("klais.worker.intake")

ROOM_BYTES = 8 << 20  # of values waiting for the lane
ROOM_RECORDS = 64
# Events that wait for a checkpoint. Kafka may refuse the changelog for hours while frames go on. Then the first events
# are not acknowledged: the group's offset follows when a checkpoint repairs its commit.
MAX_UNACKED = 50_000
NOTHING_THERE = "no readable records there: see record_batch_corrupt, or was the topic compacted?"
LANE_WAIT_S = 0.2  # how long the agent waits for a live lane before it pauses the partition


class Raw(NamedTuple):
    """A raw record to decide. ``value`` None: all records up to ``offset`` were removed before the lane read them."""

    offset: int
    value: bytes | None


class Intake:
    """Raw records of one partition on their way into the lane. Lives as long as the lane, across its sessions."""

    def __init__(self, topic: str, partition: int, consumer: RawConsumer) -> None:
        self._topic, self._partition, self._consumer = topic, partition, consumer
        self._ready: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._dropped = -1  # the highest offset dropped for lack of room: the reader fetches up to it
        self._open = self._paused = False
        self._wake, self._room = asyncio.Event(), asyncio.Event()
        self._unacked: deque[tuple[Any, Any, int]] = deque()  # (stream, event, offset) in delivery order

    # -- the agent's side

    async def put(self, stream: Any, event: Any) -> None:
        """Accept one event. Waits at most ``LANE_WAIT_S``, and only for a live lane that is busy."""
        offset, value = event.message.offset, event.value or b""  # a null value is a corrupt record like any other
        event.value = event.message.value = None  # the event is kept until its checkpoint, without its bytes
        self._unacked.append((stream, event, offset))
        if len(self._unacked) > MAX_UNACKED:
            self._unacked.popleft()
        if self._full and self._open and not self._paused:
            self._room.clear()
            try:
                async with asyncio.timeout(LANE_WAIT_S):  # `wait_for` may miss a cancellation
                    await self._room.wait()
            except TimeoutError:
                self._pause()
        if self._open and not self._full:
            self._ready.append((offset, value))
            self._bytes += len(value)
        else:
            self._dropped = max(self._dropped, offset)
            self._pause()
        self._wake.set()

    @property
    def _full(self) -> bool:
        return self._bytes >= ROOM_BYTES or len(self._ready) >= ROOM_RECORDS

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._consumer.pause(self._partition)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._consumer.resume(self._partition)

    # -- the lane's side

    async def open(self, next_raw: int) -> None:
        """Start a session: the lane is live, deliver from ``next_raw`` on."""
        self._dropped = -1
        self._open = True
        # These are delivered again, or the log no longer has them. At the head of the list they would block the others.
        self._unacked = deque(entry for entry in self._unacked if entry[2] < next_raw)
        await self._consumer.seek(self._partition, next_raw)
        self._paused = True  # as an earlier owner of the partition may have left it
        self._resume()

    def close(self) -> None:
        """End the session: drop the waiting records, which the next session reads again."""
        self._open = False
        self._ready.clear()
        self._bytes = 0
        self._pause()
        self._room.set()

    def fetch_up_to(self, offset: int) -> None:
        """Read the records before ``offset`` with the lane's own reader, because the consumer does not deliver them."""
        self._dropped = max(self._dropped, offset - 1)
        self._wake.set()

    @property
    def oldest_ns(self) -> int:
        """When the edge received the oldest waiting batch (ns since the epoch); 0 = none waits."""
        return received_at_of(self._ready[0][1]) if self._ready else 0

    @property
    def idle(self) -> bool:
        """Whether no record waits to be decided."""
        return not self._ready

    async def records(self, state: LaneState, reader: PartitionReader) -> AsyncIterator[Raw]:
        """Yield raw records in offset order from the lane's next offset on; the caller decides each immediately."""
        turn = LoopTurn()
        while True:
            while self._ready:
                offset, value = self._ready.popleft()
                self._bytes -= len(value)
                if not self._full:
                    self._room.set()
                async for raw in self._missing(state, reader, offset):
                    yield raw
                if offset == state.next_raw:  # else the lane already has it
                    yield Raw(offset, value)
                await turn.end()
            async for raw in self._missing(state, reader, self._dropped + 1):
                yield raw
            if not self._ready and self._dropped < state.next_raw:
                self._resume()
                self._wake.clear()
                await self._wake.wait()

    async def _missing(self, state: LaneState, reader: PartitionReader, end: int) -> AsyncIterator[Raw]:
        """Records between the lane's next offset and ``end`` that the consumer did not deliver."""
        while state.next_raw < end:
            log.info("gap_read", partition=self._partition, start=state.next_raw, end=end)
            try:
                async for record in reader.read(self._topic, self._partition, state.next_raw, end, controls=True):
                    if record.offset > state.next_raw:
                        yield self._hole(state, record.offset)
                    if record.control:
                        state.skip_to(record.offset + 1)
                    else:
                        yield Raw(record.offset, record.value or b"")
                if state.next_raw < end:
                    _, log_end = await reader.offsets(self._topic, self._partition)
                    if log_end < end:
                        raise LaneFailed(f"{self._topic} ends at {log_end}, it had records up to {end}")
                    yield self._hole(state, end)
            except OffsetGone as gone:
                if gone.log_start <= state.next_raw:
                    raise  # the log ends before records that the lane has taken
                yield self._hole(state, min(gone.log_start, end), "retention")

    def _hole(self, state: LaneState, end: int, why: str = NOTHING_THERE) -> Raw:
        """The records before ``end`` existed and are gone."""
        log.error("raw_records_lost", partition=self._partition, start=state.next_raw, end=end, why=why)
        return Raw(end - 1, None)

    # -- acknowledgement

    async def acknowledge(self, next_raw: int) -> None:
        """Acknowledge all events below ``next_raw``, strictly in offset order (Faust commits over a hole)."""
        count = 0
        while self._unacked and self._unacked[0][2] < next_raw:
            stream, event, _ = self._unacked.popleft()
            await stream.ack(event)
            count += 1
            if count % 100 == 0:
                await asyncio.sleep(0)
