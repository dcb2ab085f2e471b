"""The controller agent: one in the whole deployment reads what all report, decides ten times a second, writes set-points.

Which worker it is: the one that the group gave partition 0 of the staging topic. So the group's own election elects it, and
its session timeout bounds the take-over. Being elected is not enough: a paused process may still believe that it is. So the
controller fences, as a lane does: it takes the broker's epoch of ``klais-controller`` over ``klais_control`` and writes with
it only; what an older one still sends, the broker refuses. Its state is the ``global`` record that it wrote last, read back
after the fence.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from klais import log as logs
from klais.config import Settings
from klais.control.apply import Applier
from klais.control.cpu import host_of
from klais.control.decide import Decision, LoopState, decide, worth_writing
from klais.control.follower import GLOBAL, ControlFollower, in_force_ms
from klais.control.forecast import Features, Predictor, TrendPredictor
from klais.control.measure import measure, offenders_of, traffic_totals
from klais.control.offenders import LOOKS, OFTEN, Offenders
from klais.control.override import device_scope, merged
from klais.control.stats import PERIOD_S, ControlProducer, StatsFollower, StatsPublisher
from klais.control.topic_follower import now_ms
from klais.control.wish import gains_of, recovered, targets_of, wish_of
from klais.errors import KafkaUnavailable, LaneFenced
from klais.kafka.fenced import FencedSender, abandon, fence, make_producer
from klais.kafka.record_batch import RecordBatchWriter
from klais.kafka.topics import Topics
from klais.log import get
from klais.metrics import ControlSnapshot

log = get("agents.controller")

LOOK_S = 0.1  # between two looks at whether it is elected
CATCH_UP_S = 10.0
RETRY_S = 1.0
REFENCE_S = 43_200.0  # brokers forget an epoch that is idle for a day
LATE_TICKS = 10.0  # a pause of the process counts as at most so many ticks


class Controller:
    """Reigns while ``elected()``; everything else waits.

    Attributes
    ----------
    newest : Decision or None
        Of the present reign.
    decisions, takeovers : int
        Records written, and reigns begun, by this process.
    """

    def __init__(
        self, settings: Settings, worker_id: str, elected: Callable[[], bool], predictor: Predictor | None = None
    ) -> None:
        self._settings, self._worker_id, self._elected = settings, worker_id, elected
        self._predictor = predictor or TrendPredictor()
        self.newest: Decision | None = None
        self.epoch = -1
        self.decisions = self.takeovers = 0

    @property
    def name(self) -> str:
        """Its id on ``klais_stats``."""
        return f"controller-{self._worker_id}"

    async def run(self, producer: ControlProducer) -> None:
        """For ever: wait until elected, reign until not; trouble is logged, never raised."""
        while True:
            await self._until(True)
            try:
                await _Reign(self, self._settings, self._predictor, producer).run()
            except LaneFenced as error:
                log.warning("controller_fenced", why=str(error), do="nothing: another worker controls")
                await self._until(False, 3 * self._settings.session_timeout_s)
            except Exception as error:
                if logs.every(10, "agents.controller"):
                    log.error("controller_ended", error=repr(error), retry_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
            finally:
                self.newest = None

    @property
    def burst_probability(self) -> float:
        """Of the newest decision; 0 where this worker does not reign."""
        return self.newest.inputs.forecast.probability if self.newest else 0.0

    def snapshot(self, overrides: int) -> ControlSnapshot:
        """For the metrics."""
        out = ControlSnapshot(decisions=self.decisions, takeovers=self.takeovers, overrides=overrides)
        if (d := self.newest) is not None:
            out.reigns, out.terms, out.error = True, d.terms._asdict(), d.errors.both
            out.lag, out.cpu, out.cut = d.inputs.lag, d.inputs.cpu, d.cut.cut
        return out

    def elected(self) -> bool:
        """Whether the group wants this worker to control."""
        return self._elected()

    async def _until(self, elected: bool, most_s: float = float("inf")) -> None:
        until_s = time.monotonic() + most_s
        while self._elected() != elected and time.monotonic() < until_s:  # noqa: ASYNC110 (lanes come and go without events)
            await asyncio.sleep(LOOK_S)


class _Reign:
    """One uninterrupted time as the controller."""

    def __init__(self, controller: Controller, settings: Settings, predictor: Predictor, producer: ControlProducer) -> None:
        self._controller, self._settings, self._predictor = controller, settings, predictor
        self._follower, self._stats = ControlFollower(settings), StatsFollower(settings)
        self._publisher = StatsPublisher(producer, "controller", controller.name, self._own, host=host_of(settings))
        self._stats_producer = producer
        self._applier = Applier(settings, self._follower)
        self._features, self._offenders = Features(), Offenders()
        self._state = LoopState()
        self._written: Decision | None = None

    async def run(self) -> None:
        """Take over, then tick until no longer elected."""
        settings, topics = self._settings, Topics.of(self._settings)
        began_s = time.monotonic()
        identity = await fence(settings, f"{topics.app_id}-controller", [(topics.control, 0)])
        producer = await make_producer(settings)
        try:
            sender = FencedSender(producer, identity, topics.control, 0)
            self._follower.start()
            self._stats.start()
            if not await asyncio.to_thread(self._follower.wait_caught_up, CATCH_UP_S):
                raise KafkaUnavailable(f"{topics.control} could not be read within {CATCH_UP_S:g} s")
            self._state = recovered(self._follower.record(GLOBAL), settings.partitions)
            self._controller.epoch = identity.epoch
            self._controller.takeovers += 1
            self._applier.start()
            took_s = time.monotonic() - began_s
            resumed = self._state.output is not None
            log.info("controller_takes_over", epoch=identity.epoch, resumed=resumed, seconds=round(took_s, 3))
            await self._ticks(sender)
            log.info("controller_steps_down", decisions=self._controller.decisions)
        finally:
            await self._close(producer)

    async def _ticks(self, sender: FencedSender) -> None:
        period_s, until_s = self._settings.pid_period_s, time.monotonic() + REFENCE_S
        last_s, due_s, told_s = time.monotonic() - period_s, time.monotonic(), 0.0
        while self._controller.elected() and time.monotonic() < until_s:
            now_s = time.monotonic()
            decision = self._decide(now_s, min(now_s - last_s, LATE_TICKS * period_s))
            last_s = now_s
            if worth_writing(self._written, decision) and self._tells(decision):
                await self._write(sender, decision)
            if now_s - told_s >= PERIOD_S:
                told_s = now_s
                await self._block_offenders(sender, now_s)
                self._stats_producer.stats(self._controller.name, self._publisher.record(now_s))
            due_s = max(due_s + period_s, time.monotonic())
            await asyncio.sleep(max(0.001, due_s - time.monotonic()))

    def _tells(self, decision: Decision) -> bool:
        """Where the rate is fixed nobody follows the controller: only that it stopped controlling is written."""
        return decision.mode != "fixed" or (self._follower.record(GLOBAL) or {}).get("mode", "fixed") != "fixed"

    def _decide(self, now_s: float, dt_s: float) -> Decision:
        settings, follower = self._settings, self._follower
        workers, edges = self._stats.newest("worker"), self._stats.newest("edge")
        if edges:
            self._features.see(now_s, traffic_totals(workers, edges))
        inputs = measure(workers, edges, self._predictor.predict(self._features.window()))
        targets, gains = targets_of(settings, follower), gains_of(settings, follower)
        wish = wish_of(settings, follower)
        self._state, decision = decide(self._state, inputs, targets, gains, wish, settings.partitions, now_s, dt_s)
        before = self._controller.newest
        if decision.cut.alert and not (before and before.cut.alert):
            log.warning("burst_alert", probability=round(inputs.forecast.probability, 3), why=inputs.forecast.why)
        self._controller.newest = decision
        return decision

    async def _write(self, sender: FencedSender, decision: Decision) -> None:
        await self._send(sender, GLOBAL, decision.record())
        self._written = decision
        self._controller.decisions += 1

    async def _send(self, sender: FencedSender, scope: str, record: dict[str, Any]) -> None:
        stamp = {"scope": scope, "by": self._controller.name, "term": self._controller.epoch, "at": now_ms()}
        writer = RecordBatchWriter(1 << 16, "none")
        writer.append_one(scope.encode(), orjson.dumps(record | stamp))
        await sender.send(writer)

    async def _block_offenders(self, sender: FencedSender, now_s: float) -> None:
        """Block repeat offenders, or with ``monitor`` only say whom it would; one that an operator unblocked stays so."""
        how = self._settings.control_auto_block
        if how == "off":
            return
        blocks = self._offenders.look(now_s, offenders_of(self._stats.newest("worker")))
        for device_id, for_s in blocks.items():
            scope = device_scope(device_id)
            before = self._follower.record(scope) or {}
            if before.get("unblock") is True or (before.get("block") is True and in_force_ms(before.get("until_ms"))):
                continue
            log.warning("offender", device=device_id, blocked=how == "on", for_s=for_s, mode=how)
            if how == "on":
                changes = {"block": True, "until_ms": now_ms() + int(for_s * 1000)}
                why = f"far above its own rate for {OFTEN} of {LOOKS} seconds"
                await self._send(sender, scope, merged(before, changes) | {"author": "controller", "reason": why})

    def _own(self) -> tuple[dict[str, Any], dict[str, Any]]:
        decision = self._controller.newest
        counters = {"decisions": self._controller.decisions, "takeovers": self._controller.takeovers}
        if decision is None:
            return counters, {}
        return counters, {
            "mode": decision.mode,
            "rate_limit": round(decision.rate, 3),
            "pid_output": round(decision.terms.output, 5),
            "burst_probability": round(decision.inputs.forecast.probability, 4),
            "cut": decision.cut.cut,
            "alert": decision.cut.alert,
            "error": round(decision.errors.both, 4),
            "lag": round(decision.inputs.lag, 1),
            "cpu": round(decision.inputs.cpu, 4),
            "queue_depth": decision.inputs.queue_depth,
            "epoch": self._controller.epoch,
        }

    async def _close(self, producer: AIOKafkaProducer) -> None:
        await asyncio.to_thread(self._applier.stop)
        for follower in (self._follower, self._stats):
            await asyncio.to_thread(follower.stop)
        await abandon(producer)
