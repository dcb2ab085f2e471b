"""The controller agent: one in the whole deployment reads what all report, decides ten times a second, writes set-points.

Which worker it is: the one that took the fence last. All others listen, and take it when nobody has been heard as the
controller for half a session timeout (:mod:`klais.control.election`). The fence is a lane's: the broker's epoch of
``klais-controller`` over ``klais_control``; the controller writes with it only, and what an older one still sends, after a
pause say, the broker refuses. Its state is the ``global`` record that it wrote last, read back after the fence.
"""

import asyncio
import time
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from klais.config.host import host_of
from klais.config.load import Settings
from klais.control.decide import Decision, LoopState, decide, worth_writing
from klais.control.election import PREFIX, SILENCE, Succession, newest_reign, presence_s
from klais.control.forecast import Features, Predictor, TrendPredictor
from klais.control.measure import measure, offenders_of, traffic_totals
from klais.control.offenders import OFTEN, WINDOW, Offenders
from klais.control.operator_requests import gains_of, recovered, targets_of, wish_of
from klais.control.overrides import device_scope, merged
from klais.control.setpoints import GLOBAL, ControlFollower, in_force_ms
from klais.control.xdp_applier import Applier
from klais.errors import KafkaUnavailable, LaneFenced
from klais.kafka.fenced import FencedSender, abandon, fence, make_producer
from klais.kafka.record_batch import RecordBatchWriter
from klais.kafka.stats import FRESH_S, ControlProducer, StatsFollower
from klais.kafka.topics import Topics
from klais.system.clock import now_ms
from klais.telemetry import log as logs
from klais.telemetry.log import get
from klais.telemetry.metrics import ControlSnapshot
from klais.telemetry.stats import PERIOD_S, StatsPublisher

log = get("klais.worker.controller")

LOOK_S = 0.1  # between two looks at whether somebody controls
CATCH_UP_S = 10.0
RETRY_S = 1.0
REFENCE_S = 43_200.0  # brokers forget an epoch that is idle for a day
LATE_TICKS = 10.0  # a pause of the process counts as at most so many ticks


class Controller:
    """Listens while another controls, reigns when nobody does.

    Attributes
    ----------
    newest : Decision or None
        Of the present reign.
    decisions, takeovers : int
        Records written, and reigns begun, by this process.
    """

    def __init__(self, settings: Settings, worker_id: str, predictor: Predictor | None = None) -> None:
        self._settings, self._worker_id = settings, worker_id
        self._predictor = predictor or TrendPredictor()
        self._stats = StatsFollower(settings)
        self._succession = Succession(worker_id, settings.session_timeout_s)
        self.newest: Decision | None = None
        self.epoch = -1
        self.decisions = self.takeovers = 0

    @property
    def name(self) -> str:
        """Its id on ``klais_stats``."""
        return f"{PREFIX}{self._worker_id}"

    async def run(self, producer: ControlProducer) -> None:
        """For ever: listen until it is this worker's turn, reign until another does; trouble is logged, never raised."""
        self._stats.start()
        renews = False
        try:
            while True:
                if not renews:
                    await self._listen()
                renews = await self._reign(producer)
        finally:
            await asyncio.to_thread(self._stats.stop)

    async def _listen(self) -> None:
        """Until nobody controls, and it is this worker's turn."""
        self._succession.begin(time.monotonic())
        stats = self._stats
        while not self._succession.may_take_over(  # noqa: ASYNC110 (silence is no event)
            time.monotonic(), stats.heard("worker", FRESH_S), stats.heard("controller")
        ):
            await asyncio.sleep(LOOK_S)

    async def _reign(self, producer: ControlProducer) -> bool:
        """Control until that ends; whether it shall begin again at once, under a new epoch."""
        try:
            return await _Reign(self, self._settings, self._predictor, producer, self._stats).run()
        except LaneFenced as error:
            log.warning("controller_fenced", why=str(error), do="nothing: another worker controls")
        except Exception as error:
            if logs.every(10, "klais.worker.controller"):
                log.error("controller_ended", error=repr(error), retry_s=RETRY_S)
            await asyncio.sleep(RETRY_S)
        finally:
            self.newest = None
        return False

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


class _Reign:
    """One uninterrupted time as the controller."""

    def __init__(
        self,
        controller: Controller,
        settings: Settings,
        predictor: Predictor,
        producer: ControlProducer,
        stats: StatsFollower,
    ) -> None:
        self._controller, self._settings, self._predictor = controller, settings, predictor
        self._follower, self._stats = ControlFollower(settings), stats
        self._publisher = StatsPublisher(producer, "controller", controller.name, self._own, host=host_of(settings))
        self._stats_producer = producer
        self._applier = Applier(settings, self._follower)
        self._features, self._offenders = Features(), Offenders()
        self._forecast = predictor.predict(self._features.window())
        self._state = LoopState()
        self._written: Decision | None = None
        self._found: dict[str, Any] | None = None  # what the controller before wrote last
        self._left = False

    async def run(self) -> bool:
        """Take over, then tick until another controls (False), or a new epoch is due (True)."""
        settings, topics = self._settings, Topics.of(self._settings)
        began_s = time.monotonic()
        self._say(began_s, claims=True)
        identity = await fence(settings, f"{topics.app_id}-controller", [(topics.control, 0)])
        producer = await make_producer(settings)
        try:
            sender = FencedSender(producer, identity, topics.control, 0)
            self._follower.start()
            if not await asyncio.to_thread(self._follower.wait_caught_up, CATCH_UP_S):
                raise KafkaUnavailable(f"{topics.control} could not be read within {CATCH_UP_S:g} s")
            self._found = self._follower.record(GLOBAL)
            self._state = recovered(self._found, settings.partitions)
            self._controller.epoch = identity.epoch
            self._controller.takeovers += 1
            self._applier.start()
            took_s = time.monotonic() - began_s
            resumed = self._state.output is not None
            log.info("controller_takes_over", epoch=identity.epoch, resumed=resumed, seconds=round(took_s, 3))
            renews = await self._ticks(sender)
            log.info("controller_steps_down", decisions=self._controller.decisions, renews=renews)
            return renews
        except asyncio.CancelledError:
            self._left = True  # the worker ends: others need not wait for the silence
            raise
        finally:
            await self._close(producer)

    async def _ticks(self, sender: FencedSender) -> bool:
        period_s, until_s = self._settings.pid_period_s, time.monotonic() + REFENCE_S
        last_s, due_s, told_s, present_s = time.monotonic() - period_s, time.monotonic(), 0.0, 0.0
        presence, paused_s = presence_s(self._settings.session_timeout_s), SILENCE * self._settings.session_timeout_s
        while not self._superseded():
            now_s = time.monotonic()
            if now_s >= until_s:
                return True
            decision = self._decide(now_s, min(now_s - last_s, LATE_TICKS * period_s))
            # After a pause another may control: a record tells, before others believe what this one says of itself.
            doubts, last_s = now_s - last_s > paused_s, now_s
            if (doubts or worth_writing(self._written, decision)) and self._tells(decision):
                await self._write(sender, decision)
            if now_s - told_s >= PERIOD_S:
                told_s = now_s
                await self._block_offenders(sender, now_s)
            if now_s - present_s >= presence - period_s / 2:
                present_s = now_s
                self._say(now_s)
            due_s = max(due_s + period_s, time.monotonic())
            await asyncio.sleep(max(0.001, due_s - time.monotonic()))
        return False

    def _superseded(self) -> bool:
        """Whether another controls, as its records say: after our fence only a newer one can write any."""
        name, newest = self._controller.name, self._follower.record(GLOBAL)
        if newest is not None and newest.get("by", name) != name and newest != self._found:
            return True
        speaking = self._stats.heard("controller", FRESH_S)
        reigning = newest_reign(speaking)
        epoch = speaking[reigning][1]["gauges"].get("epoch", -1) if reigning is not None else -1
        return reigning != name and epoch > self._controller.epoch

    def _say(self, now_s: float, claims: bool = False) -> None:
        record = self._publisher.record(now_s)
        if claims:
            record["gauges"] = {"claims": True}
        self._stats_producer.stats(self._controller.name, record)

    def _tells(self, decision: Decision) -> bool:
        """Where the rate is fixed nobody follows the controller: only that it stopped controlling is written."""
        return decision.mode != "fixed" or (self._follower.record(GLOBAL) or {}).get("mode", "fixed") != "fixed"

    def _decide(self, now_s: float, dt_s: float) -> Decision:
        settings, follower = self._settings, self._follower
        workers, edges = self._stats.newest("worker"), self._stats.newest("edge")
        if edges and self._features.see(now_s, traffic_totals(workers, edges)):
            self._forecast = self._predictor.predict(self._features.window())
        inputs = measure(workers, edges, self._forecast)
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
        blocks = self._offenders.update(now_s, offenders_of(self._stats.newest("worker")))
        for device_id, for_s in blocks.items():
            scope = device_scope(device_id)
            before = self._follower.record(scope) or {}
            if before.get("unblock") is True or (before.get("block") is True and in_force_ms(before.get("until_ms"))):
                continue
            log.warning("offender", device=device_id, blocked=how == "on", for_s=for_s, mode=how)
            if how == "on":
                changes = {"block": True, "until_ms": now_ms() + int(for_s * 1000)}
                why = f"far above its own rate for {OFTEN} of {WINDOW} seconds"
                await self._send(sender, scope, merged(before, changes) | {"author": "controller", "reason": why})

    def _own(self) -> tuple[dict[str, Any], dict[str, Any]]:
        decision = self._controller.newest
        counters = {"decisions": self._controller.decisions, "takeovers": self._controller.takeovers}
        if decision is None or self._left:
            return counters, {"epoch": self._controller.epoch, "left": self._left}
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
        if self._left:
            self._say(time.monotonic())
        await asyncio.to_thread(self._applier.stop)
        await asyncio.to_thread(self._follower.stop)
        await abandon(producer)
