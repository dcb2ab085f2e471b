"""The Kafka shell of one lane: recover, decide, journal, put out, checkpoint.

    klais_raw[p] -> take() -> Journal -> Telemetry / anomalies / dead letters
                      |                          |
                    state  <- tick (release) -> checkpoint -> devices changelog -> acknowledge klais_raw
"""

import asyncio
import gc
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from klais import fault
from klais.config.load import Settings
from klais.core.lane.render import anomaly_records, dead_letter_records
from klais.core.lane.state import TALLIES
from klais.core.lane.step import Step, note_lost, release, take_raw
from klais.errors import EpochRenewal, LaneFenced, OffsetGone
from klais.kafka.producer import BatchProducer
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.telemetry.log import get
from klais.worker.checkpoint import Checkpointer
from klais.worker.limits import LaneLimits
from klais.worker.outputs import Journal, Output, Records, Telemetry
from klais.worker.recovery import Recovered, recover

log = get("klais.worker.lane")

TICK_S = 0.005  # how often a lane looks at its queue; a release waits at most this long for its tokens
RELEASE_MOST = 8192  # frames in one release, so that a step stays short
RESTART_S = 1.0  # before a failed lane recovers; doubled with each failure in a row
RESTART_MOST_S = 30.0
CANCEL_AGAIN_S = 0.5  # a Kafka client that is connecting may swallow a cancellation


@dataclass(slots=True)
class Shared:
    """What all lanes of a worker share. Producers apart, so that a journal record never waits behind a large output."""

    settings: Settings
    topics: Topics
    worker_id: str
    limits: LaneLimits
    journal_producer: BatchProducer
    output_producer: BatchProducer
    changelog_producer: BatchProducer
    loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    repair_commit: Any = None  # called with (partition, offset) that Faust should long have committed
    on_step: Any = None  # called with each step's seconds, for the latency histogram
    on_sent: Any = None  # called with the seconds from handing a batch to Kafka to its acknowledgement


def first_cause(error: BaseException) -> BaseException:
    """What ended a task group: a fence before anything that it brought about, else the first error."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [first_cause(inner) for inner in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, LaneFenced)), causes[0])


def spare_the_collector() -> None:
    """Keep Python's cycle collector away from all that lives long: a full pass over a large table holds the loop up.

    What is here now moves to the permanent generation; young objects are still looked at, in larger lots.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


class Lane:
    """One partition's lane. ``run`` lives until ``stop``; ``take`` is what the ingest agent calls."""

    def __init__(self, shared: Shared, partition: int) -> None:
        self.shared = shared
        self.partition = partition
        self.live = asyncio.Event()
        self.closed = False
        self.fenced = False
        self.failure: str | None = None
        self.restarts = 0
        self.it: Recovered | None = None  # this life's state; another object in each life
        self.checkpointer: Checkpointer | None = None
        self.unacked: deque[tuple[Any, Any, int]] = deque()  # (stream, event, offset) in offset order
        self._room = asyncio.Event()
        self._queued = asyncio.Event()  # frames may wait in the queue
        self._trouble: asyncio.Queue[Exception] = asyncio.Queue()
        self._pending: deque[tuple[int, int, int]] = deque()  # (step, bytes, frames) not yet put out
        self.pending_bytes = self.pending_frames = 0
        self.began_step, self.began_tally = 0, np.zeros(TALLIES, np.uint64)  # where the newest life went live
        self._reader = PartitionReader(shared.settings)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to live, in the background."""
        self._task = asyncio.create_task(self._run(), name=f"lane-{self.partition}")

    async def stop(self) -> None:
        """Drop everything at once, without flushing: a successor goes on from the journal."""
        self.closed = True
        self._wake_all()
        if self._task is not None:
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task], timeout=CANCEL_AGAIN_S)
            await asyncio.gather(self._task, return_exceptions=True)
        await self._reader.stop()

    async def drain(self, timeout_s: float) -> bool:
        """Put out what is decided and checkpoint, for a clean end; whether it was done in time."""
        if not self.live.is_set() or self.checkpointer is None:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await self.checkpointer.run_once(self)
        except (TimeoutError, LaneFenced):
            return False
        return True

    async def _watch(self) -> None:
        """End this life when the agent's side of it failed."""
        raise await self._trouble.get()

    def _forget_pending(self) -> None:
        self._pending.clear()
        self.pending_bytes = self.pending_frames = 0
        self._room.set()

    def _wake_all(self) -> None:
        self._room.set()
        self.live.set()

    async def _run(self) -> None:
        """Recover and live, again after each failure; a fenced lane waits for the group's next rebalance."""
        in_a_row = 0
        while not self.closed:
            began = time.monotonic()
            try:
                await self._life()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                cause = first_cause(error)
            self.live.clear()
            self._forget_pending()
            if isinstance(cause, EpochRenewal):
                log.info("lane_renews_epoch", partition=self.partition)
                continue
            self.failure = f"{type(cause).__name__}: {cause}"
            self.fenced = isinstance(cause, LaneFenced)
            log.error("lane_ended", partition=self.partition, why=self.failure, fenced=self.fenced)
            log.debug("lane_ended_at", partition=self.partition, trace="".join(traceback.format_exception(cause)))
            self.restarts += 1
            in_a_row = in_a_row + 1 if time.monotonic() - began < RESTART_MOST_S else 0
            # A fenced owner has a successor: it comes back only if no rebalance takes the partition away meanwhile.
            pause_s = min(RESTART_MOST_S, RESTART_S * 2**in_a_row)
            await asyncio.sleep(3 * self.shared.settings.session_timeout_s if self.fenced else pause_s)

    async def _life(self) -> None:
        shared = self.shared
        again = self.it is not None
        self._trouble = asyncio.Queue()
        await self._reader.start()
        it = self.it = await recover(shared, self.partition, self._reader)
        outputs: tuple[Output, ...] = (
            Telemetry(it.senders.telemetry, it.positions.get("telemetry"), self._progress),
            Records(it.senders.anomalies, it.positions.get("anomalies"), self._progress, anomaly_records),
            Records(it.senders.dead_letter, it.positions.get("dead_letter"), self._progress, dead_letter_records),
        )
        self.telemetry, self.anomalies, self.dead_letter = outputs
        self.journal = Journal(it.senders.journal, self._journalled)
        self.journalled = it.state.step
        self.checkpointer = Checkpointer(it)
        async with asyncio.TaskGroup() as group:
            parts: tuple[Journal | Output, ...] = (self.journal, *outputs)
            for part in parts:
                part.on_sent = shared.on_sent
                group.create_task(part.run())
            group.create_task(self._watch())
            async for step in it.replay():
                self._wait_until_out(step)
                self._journalled(step)
                await self._wait_for_room()
            fault.at("lane_replayed")
            if again:  # Faust does not deliver again what the last life was handed and had not decided
                await self._catch_up(it, (await self._reader.offsets(shared.topics.raw, self.partition))[1])
            log.info("lane_live", partition=self.partition, step=it.state.step, next_raw=it.state.next_raw, epoch=it.epoch)
            self.failure, self.fenced = None, False
            self.began_step, self.began_tally = it.state.step, it.state.tally.copy()
            spare_the_collector()
            self.live.set()
            group.create_task(self._tick())
            group.create_task(self._checkpoints())
            group.create_task(self._renew())

    # -- input

    async def take(self, stream: Any, event: Any) -> None:
        """Take one raw record from the agent; returns when there is room for the next."""
        await self.live.wait()
        if self.closed or self.it is None:
            return
        it, offset = self.it, event.message.offset
        value: bytes = event.value
        event.value = event.message.value = None  # the event is kept until its checkpoint, its bytes need not be
        self.unacked.append((stream, event, offset))
        try:
            if offset > it.state.next_raw:
                await self._catch_up(it, offset)
            if offset == it.state.next_raw and self._lives(it):
                self._decide(it, offset, value)
                await self._wait_for_room()
        except Exception as error:
            if self._lives(it):
                self.live.clear()
                self._trouble.put_nowait(error)

    def _lives(self, it: Recovered) -> bool:
        """Whether this is still the lane's life; what an ended one has not decided, the next one reads again."""
        return self.it is it and not self.closed

    def _decide(self, it: Recovered, offset: int, value: bytes) -> None:
        began = time.perf_counter()
        limits, bounds = self.shared.limits.of_lane(self.partition)
        step = take_raw(it.state, offset, value, limits, bounds, time.time_ns())
        if it.state.queue.depth:
            self._queued.set()
        self._decided(step)
        if self.shared.on_step is not None:
            self.shared.on_step(time.perf_counter() - began)

    def _decided(self, step: Step) -> None:
        fault.at("lane_decided")
        self.shared.limits.spent(step)
        self._wait_until_out(step)
        self.journal.put(step)

    def _wait_until_out(self, step: Step) -> None:
        frames = step.passed_count
        self._pending.append((step.record.step, step.bytes, frames))
        self.pending_bytes += step.bytes
        self.pending_frames += frames

    async def _catch_up(self, it: Recovered, offset: int) -> None:
        """Read what lies between the lane's next raw offset and ``offset`` with the lane's own reader."""
        state, topic = it.state, self.shared.topics.raw
        if state.next_raw >= offset:
            return
        log.info("lane_catches_up", partition=self.partition, start=state.next_raw, end=offset)
        try:
            async for record in self._reader.read(topic, self.partition, state.next_raw, offset):
                if not self._lives(it):
                    return
                state.next_raw = record.offset
                self._decide(it, record.offset, record.value or b"")
                await self._wait_for_room()
        except OffsetGone as gone:
            lost = min(gone.log_start, offset)
            if lost > state.next_raw:
                log.error("raw_records_lost", partition=self.partition, start=state.next_raw, end=lost, why="retention")
                limits, _ = self.shared.limits.of_lane(self.partition)
                self._decided(note_lost(state, lost, limits, time.time_ns()))
                await self._catch_up(it, offset)
            return
        state.next_raw = offset  # control records of other programs leave holes

    async def _wait_for_room(self) -> None:
        while self.pending_bytes > self.shared.settings.lane_max_pending_bytes and not self.closed:
            self._room.clear()
            await self._room.wait()

    # -- output

    def _journalled(self, step: Step) -> None:
        """A step is written down: now it may act."""
        self.journalled = step.record.step
        if step.passed:
            self.telemetry.put(step)
        if step.flags is not None and len(step.flags.found):
            self.anomalies.put(step)
        if step.corrupt is not None or (step.dead is not None and len(step.dead)):
            self.dead_letter.put(step)
        if not step.passed:
            self._progress()

    def _progress(self) -> None:
        done = self.acked_step
        while self._pending and self._pending[0][0] <= done:
            _, size, frames = self._pending.popleft()
            self.pending_bytes -= size
            self.pending_frames -= frames
        self._room.set()

    @property
    def acked_step(self) -> int:
        """All outputs of all steps up to this one are acknowledged."""
        return min(out.acked_step(self.journalled) for out in (self.telemetry, self.anomalies, self.dead_letter))

    # -- time

    async def _tick(self) -> None:
        """Let queued frames out as tokens come."""
        assert self.it is not None
        state = self.it.state
        while True:
            if not state.queue.depth:  # nothing to wake up for until a step fills it
                self._queued.clear()
                await self._queued.wait()
            await asyncio.sleep(TICK_S)
            await self._wait_for_room()
            limits, _ = self.shared.limits.of_lane(self.partition)
            step = release(state, limits, time.time_ns(), RELEASE_MOST)
            if step is not None:
                fault.at("release_decided")
                step.bytes = step.passed_count * 64
                self._decided(step)

    async def _renew(self) -> None:
        """Fence again before brokers forget an idle epoch; the checkpoint makes the new life quick."""
        assert self.checkpointer is not None
        await asyncio.sleep(self.shared.settings.lane_refence_s)
        await self.checkpointer.run_once(self)
        raise EpochRenewal(f"lane {self.partition}")

    async def _checkpoints(self) -> None:
        assert self.checkpointer is not None
        interval_s = self.shared.settings.checkpoint_interval_s
        await asyncio.sleep(interval_s * np.random.default_rng(self.partition).uniform(0.2, 1.0))  # lanes take turns
        while True:
            await self.checkpointer.run_once(self)
            await asyncio.sleep(interval_s)
