"""A lane: the spine of one partition. Read :meth:`Lane.run` first.

    klais_raw[p] -> intake -> decide -> journal -> outputs: iot_telemetry, klais_anomalies, klais_dead_letter
                                |                     |
                              state  ------------> checkpoint -> devices changelog -> acknowledge klais_raw
                             detector ------------> profiles changelog, at a bounded rate

A lane lives from the assignment of its partition to the revocation. It runs in sessions: each begins with a fence and a
recovery and ends at the first error. The next session repairs the state from the journal.
"""

import asyncio
import gc
import itertools
import time
import traceback

import numpy as np

from klais import fault
from klais.core.lane.state import TALLIES
from klais.errors import EpochRenewal, LaneFenced
from klais.kafka.reader import PartitionReader
from klais.system.memory import trim_heap
from klais.system.tasks import TaskGroup, end_task, fail_if_stray
from klais.telemetry.log import get
from klais.telemetry.schema import Restoring
from klais.worker.checkpoint import Checkpointer
from klais.worker.context import LaneContext
from klais.worker.forget import FORGET_TICK_S
from klais.worker.intake import Intake
from klais.worker.lane_statistics import LaneStatistics
from klais.worker.profiles import ProfileKeeper
from klais.worker.progress import Progress
from klais.worker.quarantine import Quarantine
from klais.worker.recovery import recover
from klais.worker.session import LaneSession
from klais.worker.watch import Watch

log = get("klais.worker.lane")

TICK_S = 0.005  # interval of queue checks: a release waits at most this long after its tokens are there
RESTART_S = 1.0  # delay before a failed lane recovers, doubled with each consecutive failure
RESTART_MAX_S = 30.0
FAILURES_TO_ALARM = 3  # consecutive failures after which an operator must act
numbers = itertools.count()


def first_cause(error: BaseException) -> BaseException:
    """The error that ended a task group: a fence has priority over the errors that it caused, else the first error."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [first_cause(inner) for inner in error.exceptions]
    return next((cause for cause in causes if isinstance(cause, LaneFenced)), causes[0])


def tune_garbage_collector(lanes_ended: bool = True) -> None:
    """Keep long-lived objects out of Python's cycle collector: a full pass over many objects blocks the event loop.

    Present objects move to the permanent generation. Young objects are still collected, in larger portions. If lanes or
    sessions have ended, their garbage in that generation is collected first, because each may hold 100 MB. That pass
    covers every object of the process, so all lanes that a rebalance starts share one pass.
    """
    if lanes_ended:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
    trim_heap()
    gc.set_threshold(20_000, 20, 100)


class Lane:
    """One partition's lane: ``start``, then ``intake.put`` for each record of the ingest agent, then ``stop``."""

    def __init__(self, context: LaneContext, partition: int) -> None:
        self.partition = partition
        self.number = next(numbers)  # of all lanes of this process; Python gives an `id` again
        self.session: LaneSession | None = None  # while one runs, also its replay
        self.checkpointer: Checkpointer | None = None
        self.watch: Watch | None = None
        self.live = asyncio.Event()
        self.closed = self.fenced = False
        self.failure: str | None = None
        self.restarts = self._sessions = 0
        self._quarantine, self._progress = Quarantine(partition), Progress()
        self.intake = Intake(context.topics.raw, partition, context.consumer)
        self._context = context
        self._reader = PartitionReader(context.settings)
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run one session: take over, finish decided steps, then decide, journal, send and checkpoint."""
        context, partition, reader = self._context, self.partition, self._reader
        progress = self._progress
        progress.begin("takeover")
        await reader.start()
        found = await recover(context, partition, reader, progress, self._quarantine.unusable_step)
        history_lost = ""
        if found.marker is None:
            last_step = found.journal[-1].step if found.journal else found.state.step
            history_lost = await context.histories.lost(reader, context.topics.raw, partition, last_step)
        session = LaneSession(context, partition, found, self._quarantine)  # closed below: nothing may fail in between
        session.history_lost = history_lost
        progress.begin("replay", 0, len(found.journal))
        del found  # it would keep the journal's steps in memory for the whole session
        watch = Watch(session, self.intake, reader)
        checkpointer = Checkpointer(session, self.intake, watch)
        self.session, self.checkpointer, self.watch = session, checkpointer, watch
        self._sessions += 1
        try:
            async with TaskGroup() as tasks:
                # The journal hands each acknowledged step to `session.send_outputs`, which feeds the outputs.
                for part in (session.journal, *session.outputs.values()):
                    tasks.create_task(part.run())
                await self._replay(session, reader)
                raw_start, _ = await watch.begin()
                if resumed := session.resume(raw_start):
                    for resumption in resumed:  # no await in between: they are sent in one batch, all or none
                        session.journal.put(resumption)
                    await session.pending.wait_empty()
                    await session.send_late(reader)
                    await checkpointer.run_once()  # another recovery must not count the same losses again
                await self._go_live(session)
                tasks.create_task(checkpointer.run())
                tasks.create_task(self._release_queue(session))
                tasks.create_task(self._forget_devices(session))
                tasks.create_task(self._renew(checkpointer))
                tasks.create_task(ProfileKeeper(session, reader).run())
                tasks.create_task(watch.run())
                async for raw in self.intake.records(session.state, reader):
                    step = session.decide(raw)
                    session.journal.put(step)
                    await session.pending.wait_below_limit()
        finally:
            try:
                context.on_ending()
            finally:
                if self.live.is_set():
                    context.histories.note(partition, session.end)
                self.live.clear()
                self.intake.close()
                self.session = self.checkpointer = self.watch = None  # free the memory for the next session
                session.close()

    async def _replay(self, session: LaneSession, reader: PartitionReader) -> None:
        """Bring the state up to the journal, and finish the outputs of its steps."""
        async for step in session.replay.steps(reader, self._context.topics.raw, self.partition):
            session.replayed(step)
            self._progress.at += 1
            await session.pending.wait_below_limit()
        session.replay_done()
        await session.pending.wait_empty()  # losses are counted from what Kafka acknowledged
        fault.at("lane_replayed")

    async def _go_live(self, session: LaneSession) -> None:
        session.begin_live()
        self._quarantine.replayed()
        self.failure, self.fenced = None, False
        tune_garbage_collector(self._sessions > 1)
        await self.intake.open(session.state.next_raw)
        self.live.set()
        self._progress.end()
        at = session.state
        log.info("lane_started", partition=self.partition, step=at.step, next_raw=at.next_raw, epoch=session.epoch)

    async def _release_queue(self, session: LaneSession) -> None:
        """Release queued frames as tokens become available, in ordinary steps."""
        while True:
            if not session.state.queue.depth:  # sleep until a step fills it
                session.queued.clear()
                await session.queued.wait()
            await asyncio.sleep(TICK_S)
            await session.pending.wait_below_limit()
            step = session.release()
            if step is not None:
                session.journal.put(step)

    async def _forget_devices(self, session: LaneSession) -> None:
        """Forget devices that are long silent, evicted, or named by operators, in ordinary steps."""
        while True:
            await asyncio.sleep(FORGET_TICK_S)
            await session.pending.wait_below_limit()
            step = session.forget()
            if step is not None:
                session.journal.put(step)

    async def _renew(self, checkpointer: Checkpointer) -> None:
        """Fence again before brokers forget an idle epoch; the checkpoint keeps the next recovery short."""
        await asyncio.sleep(self._context.settings.lane_refence_s)
        await checkpointer.run_once()
        raise EpochRenewal(f"lane {self.partition}")

    # -- life

    def start(self) -> None:
        """Start in the background."""
        self._task = asyncio.create_task(self._run_sessions(), name=f"lane-{self.partition}")

    async def stop(self) -> None:
        """Drop everything immediately, without flushing: the next owner continues from the journal."""
        self.closed = True
        if (task := self._task) is not None:
            await end_task(task)
            # A task keeps its CancelledError, whose traceback keeps every object of the session alive.
            self._task = None
        await self._reader.stop()
        self.session = self.checkpointer = self.watch = None

    def report_statistics(self) -> None:
        """Have the figures of all lanes reported, because they are about to stop."""
        self._context.on_ending()

    @property
    def restoring(self) -> Restoring | None:
        """Progress of a recovery; None while the lane is live or closed."""
        return None if self.closed else self._progress.now()

    async def drain(self, timeout_s: float) -> bool:
        """Send all decided steps and checkpoint, for a clean shutdown; whether this finished in time."""
        if not self.live.is_set() or self.checkpointer is None:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await self.checkpointer.run_once()
        except Exception as error:  # of any kind: those of other lanes must not end early for it
            log.info("lane_not_drained", partition=self.partition, why=repr(error))
            return False
        return True

    def statistics(self) -> LaneStatistics:
        """Return the current statistics of the lane."""
        session, checkpointer = self.session, self.checkpointer
        return LaneStatistics(
            partition=self.partition,
            live=self.live.is_set() and not self.closed,
            fenced=self.fenced,
            failure=self.failure,
            restarts=self.restarts,
            pending_bytes=session.pending.bytes if session else 0,
            pending_frames=session.pending.frames if session else 0,
            steps=session.state.step - session.live_step if session else 0,
            records={name: out.records for name, out in session.outputs.items()} if session else {},
            checkpoints=checkpointer.count if checkpointer else 0,
            checkpoint_s=checkpointer.total_s if checkpointer else 0.0,
            checkpoint_age_s=time.monotonic() - checkpointer.done_at if checkpointer else None,
            live_tally=session.live_tally if session else np.zeros(TALLIES, np.uint64),
            unsent=session.unsent if session else 0,
            missing=self.watch.landed.missing if self.watch else 0,
            alarms=session.alarms if session else (),
            oldest_waiting_ns=self.intake.oldest_ns,
            taken_ns=session.taken_ns if session else 0,
            restoring=self.restoring,
        )

    async def _run_sessions(self) -> None:
        """Run sessions, one after the other, until the partition is revoked."""
        failures = 0
        while not self.closed:
            began = time.monotonic()
            try:
                await fail_if_stray(self.run())
            except Exception as error:
                cause = first_cause(error)
                failures = failures + 1 if time.monotonic() - began < RESTART_MAX_S else 1
                pause_s = self._session_ended(cause, failures)
                # Both hold the traceback, which keeps every object of the session alive.
                del cause, error
            await asyncio.sleep(pause_s)

    def _session_ended(self, cause: BaseException, failures: int) -> float:
        """Log why a session ended; the seconds until the next one may begin."""
        self._progress.end()
        if isinstance(cause, EpochRenewal):
            log.info("epoch_renewed", partition=self.partition)
            return 0.0
        self.restarts += 1
        self._context.on_failure()
        self.failure = f"{type(cause).__name__}: {cause}"
        self.fenced = isinstance(cause, LaneFenced)
        if self.fenced:
            # Usually a new owner has fenced it, and a rebalance takes the partition away from this worker. Without a
            # rebalance this lane fences again, after the new owner's session had time to start.
            log.warning("lane_fenced", partition=self.partition, why=self.failure)
            return 3 * self._context.settings.session_timeout_s
        pause_s = min(RESTART_MAX_S, RESTART_S * 2.0 ** (failures - 1))
        say = log.error if failures >= FAILURES_TO_ALARM or not getattr(cause, "retriable", True) else log.warning
        say("lane_failed", partition=self.partition, why=self.failure, failures=failures, retry_s=pause_s)
        log.debug("lane_failed_at", partition=self.partition, trace="".join(traceback.format_exception(cause)))
        return pause_s
