"""One term of the leader: fence, read the state of the previous leader, decide until another worker leads.

    klais_stats --measure()--> decide() --> klais_control (set-points) --> lanes, edges, and the XDP maps of their hosts
                                 |
                      Offenders.update() -> klais_control (blocks)
    klais_anomalies --Incidents.tick()--> klais_control (incidents)

The fence works like a lane's: the broker's epoch of ``klais-controller`` covers ``klais_control``. The leader writes
only with that epoch, and the broker refuses later writes of an older leader, for example after a pause. Its state is
the last ``global`` record.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import orjson

from klais.config.host import host_of
from klais.config.load import Settings
from klais.control.decide import Decision, Inputs, LoopState, decide, is_change
from klais.control.election import SILENCE, RecentGauges, heartbeat_s
from klais.control.ends import in_force_ms
from klais.control.forecast import Predictor, TrafficForecast
from klais.control.habits import Habits
from klais.control.measure import measure, offenders_of
from klais.control.offenders import MAX_BLOCKS, OFTEN, WINDOW, Offenders, own_blocks
from klais.control.operator_requests import gains_of, operator_request, recovered, targets_of
from klais.control.overrides import Unread, device_scope, merged
from klais.control.setpoints import GLOBAL, ControlFollower
from klais.control.window import TrafficWindow
from klais.control.xdp_applier import Applier
from klais.errors import KafkaUnavailable
from klais.kafka.fenced import FencedSender, abandon, fence, make_producer
from klais.kafka.producer import BatchProducer
from klais.kafka.record_batch import RecordBatchWriter
from klais.kafka.stats import FORGET_S, ControlProducer, StatsFollower
from klais.kafka.topics import Topics
from klais.system.clock import now_ms
from klais.system.shared_clock import shared
from klais.system.tasks import end_task, finish
from klais.telemetry.log import get
from klais.telemetry.stats import PERIOD_S, StatsPublisher
from klais.telemetry.view import SystemView
from klais.worker.incidents import Incidents, Writes
from klais.worker.lost_records import LostRecords, Record

log = get("klais.worker.term")

CATCH_UP_S = 10.0
REFENCE_S = 43_200.0  # brokers forget an epoch after a day without use
INCIDENT_BATCH_BYTES = 900_000
MAX_LATE_TICKS = 10.0  # a pause of the process counts as at most so many ticks


def recent_gauges(stats: StatsFollower, kind: str, within_s: float = FORGET_S) -> RecentGauges:
    """Senders of that kind with their gauges, if the gauges match the schema."""
    rows = stats.recent(kind, within_s).items()
    return {name: (age_s, stats.read(name, record).gauges) for name, (age_s, record) in rows}


class Term:
    """One uninterrupted period as the leader.

    Parameters
    ----------
    settings, name
        Of the controller; ``name`` is its id on ``klais_stats``.
    predictor : Predictor
        The burst forecast.
    producer : ControlProducer
        Writes the heartbeats to ``klais_stats``.
    stats : StatsFollower
        Follower of the reports of all processes, already started.
    counters : callable
        The counters of the heartbeats.
    known : ControlFollower, optional
        Has followed ``klais_control`` since the process started: what the topic has lost since is written again.

    Attributes
    ----------
    epoch : int or None
        Number of the term, from the broker; None until the fence is taken.
    newest : Decision or None
        The newest decision.
    decisions : int
        Number of records written.
    incidents : Incidents
        Incidents from the flags of all lanes.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        predictor: Predictor,
        producer: ControlProducer,
        stats: StatsFollower,
        counters: Callable[[], dict[str, int]],
        known: ControlFollower | None = None,
    ) -> None:
        self._settings, self._name, self._predictor = settings, name, predictor
        self._follower, self._stats = ControlFollower(settings), stats
        self._known, self._lost = known, LostRecords(known, self._follower)
        self._counters, self._stats_producer = counters, producer
        self._publisher = StatsPublisher(producer, "controller", name, self._reported, host=host_of(settings))
        self._applier = Applier(settings, self._follower)
        self._window, self._habits, self._offenders = TrafficWindow(), Habits(), Offenders()
        self.incidents = Incidents(settings, self._follower)
        self._forecast = predictor.predict(self._window.rows())
        self._measured: tuple[SystemView, TrafficForecast, Inputs] | None = None  # inputs of the newest decision
        self._state = LoopState()
        self._written: Decision | None = None
        self._ticked_s = self._heartbeat_s = float("-inf")  # monotonic
        self._unread: list[Unread] = []  # blocks of this controller that it has not read back yet
        self._found: dict[str, Any] | None = None  # last record of the previous leader
        self._resigned = False
        self.epoch: int | None = None
        self.newest: Decision | None = None
        self.decisions = 0

    async def run(self) -> bool:
        """Take the fence, then tick until another worker leads (False), or a new epoch is due (True).

        Raises
        ------
        LaneFenced
            If another worker took the fence.
        klais.errors.KlaisError
            If Kafka does not answer, or refuses a request.
        """
        settings, topics = self._settings, Topics.of(self._settings)
        began_s = time.monotonic()
        self._send_heartbeat(began_s, candidate=True)
        identity = await fence(settings, f"{topics.app_id}-controller", [(topics.control, 0)])
        producer = await make_producer(settings)
        try:
            sender = FencedSender(producer, identity, topics.control, 0)
            # Read after the fence: only this worker can write to the topic now, so this is the newest state.
            self._follower.start()
            if not await asyncio.to_thread(self._follower.wait_caught_up, CATCH_UP_S):
                raise KafkaUnavailable(f"{topics.control} could not be read within {CATCH_UP_S:g} s")
            await self._lost.begin(partial(self._write_again, sender))
            self._found = self._follower.record(GLOBAL)
            newest = self._found or (self._known.record(GLOBAL) if self._known else None)
            self._state = recovered(newest, settings.partitions)
            self.epoch = identity.epoch
            self._applier.start()
            took_s = time.monotonic() - began_s
            resumed = self._state.output is not None
            log.info("leader_elected", epoch=identity.epoch, resumed=resumed, seconds=round(took_s, 3))
            incidents = asyncio.create_task(self.incidents.run(), name="incidents")
            try:
                renews = await self._ticks(identity.epoch, sender)
            finally:
                self._ticked_s = float("-inf")
                await finish(end_task(incidents))
            log.info("term_ended", epoch=identity.epoch, decisions=self.decisions, renews=renews)
            return renews
        except asyncio.CancelledError:
            self._resigned = True  # the worker stops: others need not wait for the timeout
            raise
        finally:
            await finish(self._close(producer))

    async def _ticks(self, epoch: int, sender: FencedSender) -> bool:
        period_s, until_s = self._settings.pid_period_s, time.monotonic() + REFENCE_S
        last_s, due_s, offenders_s = time.monotonic() - period_s, time.monotonic(), 0.0
        self._heartbeat_s = float("-inf")  # the first tick sends one
        interval_s = heartbeat_s(self._settings.session_timeout_s)
        # At intervals of a second, let the worker's statistics record come first, which takes the heartbeat along.
        latest_s = interval_s + (period_s / 2 if interval_s >= PERIOD_S else -period_s / 2)
        while not self._superseded(epoch):
            now_s = time.monotonic()
            if now_s >= until_s or self._follower.replacements:  # a topic that was replaced knows no fence
                return True
            decision = self._decide(now_s, min(now_s - last_s, MAX_LATE_TICKS * period_s))
            # After a pause another worker may lead. Write a record before the next heartbeat: if the broker refuses it,
            # this term ends before other processes accept the heartbeat.
            doubtful, last_s = now_s - last_s > self._paused_s, now_s
            if (doubtful or is_change(self._written, decision)) and self._is_followed(decision):
                await self._write(epoch, sender, decision)
            if now_s - offenders_s >= PERIOD_S:
                offenders_s = now_s
                await self._lost.tick(partial(self._write_again, sender))
                await self._block_offenders(epoch, sender, now_s)
                ahead_s = self._ahead_s()
                write = partial(self._write_incidents, epoch, sender)
                await self.incidents.tick(now_s, ahead_s, self._stats.view(), write)
            self._ticked_s = now_s
            if now_s - self._heartbeat_s >= latest_s:
                self._send_heartbeat(now_s)
            due_s = max(due_s + period_s, time.monotonic())
            await asyncio.sleep(max(0.001, due_s - time.monotonic()))
        return False

    def _ahead_s(self) -> float:
        """How far the clock of this host is ahead of Kafka's, s; 0 = about right. Also just after a step of it."""
        return (now_ms() - shared.now_ms()) / 1000

    def _superseded(self, epoch: int) -> bool:
        """Whether another worker leads, according to its records: after our fence only a newer leader can write any."""
        newest = self._follower.record(GLOBAL)
        if newest is not None and newest.get("by", self._name) != self._name and newest != self._found:
            return True
        system = self._stats.view()
        leader = system.leader()
        if leader is None or leader == self._name:
            return False
        theirs = system.controllers[leader].gauges.epoch
        return theirs is not None and theirs > epoch

    @property
    def _paused_s(self) -> float:
        """Time without a tick (s) after which another worker may lead."""
        return SILENCE * self._settings.session_timeout_s

    def join_heartbeat(self, now_s: float) -> None:
        """Send the next heartbeat now, together with a record of this process: in one request, which wakes all
        followers once. Does nothing before the first tick, after a pause, or directly after a heartbeat.
        """
        if now_s - self._ticked_s <= self._paused_s and now_s - self._heartbeat_s >= PERIOD_S / 2:
            self._send_heartbeat(now_s)

    def _send_heartbeat(self, now_s: float, candidate: bool = False) -> None:
        self._heartbeat_s = now_s
        record = self._publisher.record(now_s)
        if candidate:
            record["gauges"] = {"candidate": True}
        self._stats_producer.stats(self._name, record)

    def _is_followed(self, decision: Decision) -> bool:
        """Whether processes follow the controller. With a fixed rate, only the change to ``fixed`` is written."""
        return decision.mode != "fixed" or (self._follower.record(GLOBAL) or {}).get("mode", "fixed") != "fixed"

    def _decide(self, now_s: float, dt_s: float) -> Decision:
        settings, follower = self._settings, self._follower
        system = self._stats.view()
        if self._window.add(now_s, system):
            rows = self._window.rows()
            self._forecast = self._habits.of(now_s, self._predictor.predict(rows), rows)
        if self._measured is None or self._measured[0] is not system or self._measured[1] is not self._forecast:
            self._measured = system, self._forecast, measure(system, self._forecast)
        inputs = self._measured[2]
        targets, gains = targets_of(settings, follower), gains_of(settings, follower)
        request = operator_request(settings, follower)
        self._state, decision = decide(self._state, inputs, targets, gains, request, settings.partitions, now_s, dt_s)
        if decision.cut.alert and not (self.newest and self.newest.cut.alert):
            log.warning("burst_predicted", probability=round(inputs.forecast.probability, 3), why=inputs.forecast.why)
        self.newest = decision
        return decision

    async def _write(self, epoch: int, sender: FencedSender, decision: Decision) -> None:
        await self._send(epoch, sender, GLOBAL, decision.record())
        self._written = decision
        self.decisions += 1

    async def _send(self, epoch: int, sender: FencedSender, scope: str, record: dict[str, Any]) -> int:
        stamp = {"scope": scope, "by": self._name, "term": epoch, "at": now_ms()}
        writer = RecordBatchWriter(1 << 16, "none")
        writer.append_one(scope.encode(), orjson.dumps(record | stamp))
        return await sender.send(writer)

    async def _write_incidents(self, epoch: int, sender: FencedSender, writes: Writes) -> None:
        stamp = {"by": self._name, "term": epoch, "at": now_ms()}
        writer = RecordBatchWriter(INCIDENT_BATCH_BYTES, "none")
        for scope, record in writes:
            value = None if record is None else orjson.dumps(record | stamp | {"scope": scope})
            if not writer.append_one(scope.encode(), value):
                await sender.send(writer)  # the last batch holds their parts, with the offsets
                writer = RecordBatchWriter(INCIDENT_BATCH_BYTES, "none")
                writer.append_one(scope.encode(), value)
        await sender.send(writer)

    async def _write_again(self, sender: FencedSender, records: list[Record]) -> tuple[int, int]:
        """Write records of other processes as they were; see :data:`klais.worker.lost_records.Write`."""
        writer, count = RecordBatchWriter(INCIDENT_BATCH_BYTES, "none"), 0
        for scope, record in records:
            if not writer.append_one(scope.encode(), orjson.dumps(record)):
                break
            count += 1
        return await sender.send(writer), count

    async def _remove(self, sender: FencedSender, scope: str) -> None:
        """Remove a record. What an operator writes at the same moment is written again."""
        writer = RecordBatchWriter(1 << 16, "none")
        writer.append_one(scope.encode(), None)
        unread = Unread(self._follower, scope, {})
        unread.wrote({}, await sender.send(writer))
        self._unread.append(unread)

    async def _block_offenders(self, epoch: int, sender: FencedSender, now_s: float) -> None:
        """Block repeat offenders, or with ``monitor`` and in an attack only suggest it. A device that an operator
        unblocked stays unblocked."""
        await self._repair_blocks(epoch, sender)
        how = self._settings.control_auto_block
        attack = self.newest is not None and self.newest.defence.limit is not None
        if how == "off" and not attack:
            return
        blocks = self._offenders.update(now_s, offenders_of(self._stats.view()))
        # By Kafka's clock if that of this host is wrong: a block might have ended before it is read.
        kafka_ms = shared.now_ms()
        in_force, over = own_blocks(self._follower.records(), kafka_ms)
        for scope in over:
            await self._remove(sender, scope)  # otherwise every id that ever flooded would stay on the topic
        for device_id, for_s in blocks.items():
            scope = device_scope(device_id)
            before = self._follower.record(scope) or {}
            if before.get("unblock") is True or (
                before.get("block") is True and in_force_ms(before.get("until_ms"), kafka_ms)
            ):
                continue
            blocked = how in ("on", "all") and in_force < MAX_BLOCKS
            log.warning("offender_found", device=device_id, blocked=blocked, for_s=for_s, mode=how, in_force=in_force)
            if attack and how in ("off", "monitor"):
                log.warning("block_suggested", device=device_id, do=f"klais control block {device_id} --for 1h")
            if blocked:
                in_force += 1
                changes = {"block": True, "until_ms": kafka_ms + int(for_s * 1000)}
                why = f"far above its own rate for {OFTEN} of {WINDOW} seconds"
                unread = Unread(self._follower, scope, changes)
                record = merged(unread.before, changes) | {"author": "controller", "reason": why}
                unread.wrote(record, await self._send(epoch, sender, scope, record))
                self._unread.append(unread)

    async def _repair_blocks(self, epoch: int, sender: FencedSender) -> None:
        """Write fields again that a block took from an operator who changed the device in the same moment."""
        waiting, self._unread = self._unread, []
        for unread in waiting:
            record = unread.repair()
            if record is None:
                self._unread.append(unread)
            elif record:
                log.info("change_merged", scope=unread.scope, by="controller")
                await self._send(epoch, sender, unread.scope, record)

    def _reported(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Counters and gauges of a heartbeat."""
        decision = self.newest
        epoch = -1 if self.epoch is None else self.epoch
        if decision is None or self._resigned:
            return self._counters(), {"epoch": epoch, "resigned": self._resigned}
        return self._counters(), {
            "mode": decision.mode,
            "rate_limit": round(decision.rate, 3),
            "pid_output": round(decision.terms.output, 5),
            "burst_probability": round(decision.inputs.forecast.probability, 4),
            "traffic_class": decision.inputs.forecast.kind,
            "traffic_confidence": round(decision.inputs.forecast.confidence, 4),
            "forecast_model": decision.inputs.forecast.model,
            "cut": decision.cut.cut,
            "alert": decision.cut.alert,
            "error": round(decision.errors.weighted, 4),
            "lag": round(decision.inputs.lag, 1),
            "cpu": round(decision.inputs.cpu, 4),
            "queue_depth": decision.inputs.queue_depth,
            "epoch": epoch,
        }

    async def _close(self, producer: BatchProducer) -> None:
        async with AsyncExitStack() as closing:  # in reverse order, each whatever the others raise
            closing.push_async_callback(abandon, producer)
            closing.push_async_callback(asyncio.to_thread, self._follower.stop)
            closing.push_async_callback(asyncio.to_thread, self._applier.stop)
            closing.push_async_callback(self.incidents.close)
            if self._resigned:
                self._send_heartbeat(time.monotonic())
