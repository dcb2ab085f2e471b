"""The parts of one worker, with their start and shutdown. Nothing is opened before the worker runs."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.core.fingerprint.typed import TypesInUse
from klais.kafka.end_offsets import EndOffsets
from klais.kafka.fenced import make_producer
from klais.kafka.producer import BatchProducer
from klais.kafka.shared_ends import SharedEnds
from klais.kafka.stats import FRESH_S, ControlProducer
from klais.kafka.topics import Topics
from klais.kafka.topics_watch import TopicsWatch
from klais.system.memory import release_startup_memory
from klais.telemetry.log import get
from klais.worker.context import LaneContext, RawConsumer
from klais.worker.controller import Controller
from klais.worker.detector import cpu_budget, detector_maker, profile_allowance
from klais.worker.lanes import Lanes
from klais.worker.limits import LaneLimits
from klais.worker.readiness import GroupState, Readiness, readiness
from klais.worker.report import Report
from klais.worker.tap import Taps
from klais.worker.types import TypeKeeper

log = get("klais.worker.runtime")

CONTROL_WAIT_S = 5.0  # for reading klais_control at the start
DRAIN_S = 5.0  # a clean shutdown waits at most this long for the last checkpoint
STOP_S = 2.0  # and at most this long for closing each client
EXIT_S = 12.0  # then the process exits anyway: without a broker Faust waits a minute for its consumer
NO_BROKER_DRAIN_S, NO_BROKER_EXIT_S = 0.5, 5.0  # the same while no broker answers: decided steps cannot be sent


class WorkerRuntime:
    """The runtime of one worker.

    Parameters
    ----------
    settings, lanes
        Of the worker.
    consumer : RawConsumer
        The group's consumer of the staging topic, as lanes control it (:class:`~klais.worker.flow.PartitionFlow`).
    highwater : callable
        Partition of the staging topic -> its end offset as the consumer knows it, 0 if unknown.
    """

    def __init__(
        self,
        settings: Settings,
        lanes: Lanes,
        consumer: RawConsumer,
        highwater: Callable[[int], int],
    ) -> None:
        self.settings, self.lanes, self.topics = settings, lanes, Topics.of(settings)
        self.worker_id = settings.worker_id or f"{socket.gethostname()}-{os.getpid()}"
        # Edges write only to these partitions. If the topic has more, `/health` reports it, and these lanes continue.
        self._ours = frozenset(range(settings.partitions))
        self.control = ControlFollower(settings)
        self.offsets, self.topics_watch = EndOffsets(settings), TopicsWatch(settings)
        self.controller = Controller(settings, self.worker_id, observe=self._observe_inference, control=self.control)
        ahead_s = partial(self.controller.stats.clock_offset_s, self.worker_id)
        self.limits = LaneLimits(settings, self.control, ahead_s)
        self.scoring, self.types_in_use = cpu_budget(settings), TypesInUse()
        self.types = TypeKeeper(settings, self.types_in_use, lanes)
        statistics = self.controller.statistics
        self.report = Report(
            settings, self.worker_id, lanes, self.limits, self.offsets, statistics, highwater, self.scoring, self.types,
            self.controller.instance,
        )  # fmt: skip
        self.taps, self._ends = Taps(), SharedEnds(settings)
        self._consumer = consumer
        self._context: LaneContext | None = None
        self._making, self._closed = asyncio.Lock(), False
        self._producers: list[BatchProducer] = []  # of the context, as far as they are started
        self._producer: ControlProducer | None = None

    def _observe_inference(self, model: str, seconds: float) -> None:
        self.report.metrics.inference.labels(model).observe(seconds)

    def producer(self) -> ControlProducer:
        """The producer for ``klais_stats``, created at the first call."""
        if self._producer is None:
            self._producer = ControlProducer(self.settings, f"klais-worker-{self.worker_id}")
        return self._producer

    async def publish(self) -> None:
        """Report once a second, until cancelled."""
        self.offsets.start()
        self.topics_watch.start()
        await self.report.run(self.producer(), self.controller.join_heartbeat)

    def readiness(self, stopping: bool, recovered: bool, rebalancing: bool, assigned: frozenset[int]) -> Readiness:
        """Readiness of this worker; the arguments are those of :class:`GroupState`, as Faust knows them."""
        raw, newest = self.topics.raw, self.offsets.newest()
        # As long as the group keeps a silent worker, so that a late report does not make a standby unready.
        others = self.controller.system(max(FRESH_S, self.settings.session_timeout_s))
        known = {p for topic, p in newest.ends if topic == raw} if newest is not None else set()
        group = GroupState(
            stopping=stopping,
            recovered=recovered,
            rebalancing=rebalancing,
            assigned=assigned & self._ours,
            gone=(assigned & self._ours) - known if newest is not None else frozenset(),
            partitions=len(known & self._ours),
            workers=len({*others.workers, self.worker_id}),
            live_elsewhere=others.live_lanes(),
            restoring={p: at.text for p, at in self.lanes.restoring().items()},
        )
        lanes = {p: lane.live.is_set() and not lane.closed for p, lane in self.lanes.by_partition.items()}
        return readiness(group, raw, lanes)

    async def start_lanes(self, partitions: Iterable[int], turn: int | None = None) -> None:
        """Start a lane for each partition, in place of the present lanes. Calls may overlap: the newest one counts.

        ``turn``: from ``lanes.take_turn()`` when the partitions were assigned; by default they are assigned now.
        """
        turn = self.lanes.take_turn() if turn is None else turn
        if self._closed:
            return
        async with self._making:
            context = await self._lane_context()
        if self._closed:  # meanwhile: it has not seen the newest producers
            await self._stop_producers()
            return
        if not await self.lanes.start(context, self._ours & frozenset(partitions), turn):
            return
        self.topics_watch.ask()  # with other partitions than before, other lanes come
        if not self.lanes.by_partition:
            do = "nothing on a standby (see /readyz); else create the topic with `klais topics create`"
            log.warning("no_partitions_assigned", topic=self.topics.raw, do=do)

    async def _lane_context(self) -> LaneContext:
        """The context that all lanes share, created at the first call (it needs the event loop and a broker)."""
        if self._context is None:
            # The block list must be read before the first verdict. The worker also starts if the topic is missing.
            if not self.control.running:  # else an earlier call was cancelled
                self.control.start()
            await asyncio.to_thread(self.control.wait_caught_up, CONTROL_WAIT_S)
            self.types.start()
            release_startup_memory()
            # For journal, outputs and changelog, so that a small journal record does not wait behind a large output.
            while len(self._producers) < 3:
                self._producers.append(await make_producer(self.settings))
            journal, outputs, changelog = self._producers
            self._context = LaneContext(
                self.settings,
                self.topics,
                self.worker_id,
                self.limits,
                self._consumer,
                journal,
                outputs,
                changelog,
                on_step=self.report.on_step,
                on_sent=self.report.on_sent,
                on_landed=self.report.on_landed,
                on_ending=lambda: self.report.sample(time.monotonic()),
                on_failure=self.topics_watch.ask,
                new_detector=detector_maker(self.settings, self.scoring, self.types_in_use),
                profile_bytes=profile_allowance(self.settings),
                taps=self.taps,
                shared_ends=self._ends,
            )
        return self._context

    async def close(self) -> None:
        """Shut down in bounded time: write a last checkpoint for a quick next start, then close all clients."""
        began_s, self._closed = time.monotonic(), True
        drain_s = DRAIN_S if self._broker_answers else NO_BROKER_DRAIN_S
        drained = False
        try:
            drained = await asyncio.wait_for(self.lanes.drain(drain_s), drain_s + 1)
        except Exception as error:  # the journal holds the steps after the checkpoint
            log.warning("lanes_not_drained", error=repr(error))
        await _within("controller", self.controller.resign())
        await _within("report", self.report.publish_last())
        await _within("lanes", self.lanes.stop())
        closing: list[Awaitable[Any]] = [asyncio.to_thread(self.control.stop), asyncio.to_thread(self.types.stop)]
        if self._producer is not None:
            closing.append(asyncio.to_thread(self._producer.close))
        closing.append(self._ends.close())
        self.offsets.stop()
        self.topics_watch.stop()
        await asyncio.gather(*(_within("clients", part) for part in closing), self._stop_producers())
        log.info("worker_stopped", drained=drained, seconds=round(time.monotonic() - began_s, 3))

    async def _stop_producers(self) -> None:
        await asyncio.gather(*(_within("clients", producer.stop()) for producer in self._producers))

    def exit_in_time(self, code: Callable[[], int]) -> None:
        """Exit the process with ``code()`` if it still runs after ``EXIT_S``.

        All decided steps are journalled by then, so a hanging task cannot lose one.
        """
        timeout_s = EXIT_S if self._broker_answers else NO_BROKER_EXIT_S

        def watch() -> None:
            time.sleep(timeout_s)
            log.warning("exit_forced", after_s=timeout_s, why="a client did not close in time")
            os._exit(code())

        threading.Thread(target=watch, name="exit-watchdog", daemon=True).start()

    @property
    def _broker_answers(self) -> bool:
        return not self.offsets.failing_s()


async def _within(what: str, closing: Awaitable[Any]) -> None:
    """Wait at most ``STOP_S`` for a client to close: without a broker it may never finish."""
    try:
        await asyncio.wait_for(closing, STOP_S)
    except Exception as error:
        log.warning("not_closed", what=what, error=repr(error))
