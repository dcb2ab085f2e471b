"""The leader's work on incidents: flags from ``klais_anomalies`` -> grouping -> ``klais_control`` and announcements.

::

    klais_anomalies --FlagReader--> Grouping.absorb, settle --> klais_control     incident/<id>, incidents
    klais_stats ------FleetWatch------^                    \\-> klais_anomalies   kind "incident" (Announcer)

All state is on ``klais_control``, written under the leader's fence: each incident together with the offsets after the
flags that it consists of. So a new leader continues exactly where the previous one stopped.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from klais import fault
from klais.config.load import Settings
from klais.control.incidents import Mutes
from klais.control.measure import activity_of
from klais.control.setpoints import ACK, INCIDENT, INCIDENTS, ControlFollower
from klais.core.incidents.fleet import FleetWatch, judge_fleet
from klais.core.incidents.grouping import Grouping, Rules, Totals
from klais.core.incidents.incident import feature_class, incident_of, shown
from klais.errors import KlaisError
from klais.kafka.flag_reader import Batch, FlagReader
from klais.kafka.offsets import end_offsets
from klais.kafka.topic_identity import TopicIdentity
from klais.kafka.topics import Topics
from klais.system.clock import now_ms
from klais.system.tasks import finish
from klais.telemetry.log import every, get
from klais.telemetry.snapshots import IncidentSnapshot
from klais.telemetry.view import SystemView
from klais.worker.announcer import Announcer

log = get("klais.worker.incidents")

RETRY_S = 2.0
SAVE_S = 30.0  # interval at which offsets are written if no incident changed
Writes = list[tuple[str, dict[str, Any] | None]]
"""Scopes of ``klais_control`` with their records; None removes a record."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """Decisions of a tick, announced after Kafka has acknowledged the writes."""

    writes: Writes
    announce: list[dict[str, Any]]


class Incidents:
    """The incidents of one term. :meth:`run` runs in parallel to the ticks of the term, :meth:`tick` once a second.

    Parameters
    ----------
    settings : Settings
        Settings of the worker.
    control : ControlFollower
        The records of ``klais_control``; the topic is read when :meth:`run` begins.
    """

    def __init__(self, settings: Settings, control: ControlFollower) -> None:
        self._settings, self._control = settings, control
        self._rules = Rules(
            window_ms=round(settings.incident_window_s * 1000),
            devices=settings.incident_devices,
            severe=settings.incident_score,
            quiet_ms=round(settings.incident_quiet_s * 1000),
        )
        self._grouping = Grouping(self._rules)
        self._fleet = FleetWatch()
        self._announcer = Announcer(settings)
        self._reader: FlagReader | None = None
        self._offsets: dict[int, int] = {}
        self._topic_id: str | None = None  # of the topic that the offsets belong to
        self._ready = False
        self._saved_s = 0.0
        self._restored = False
        self._snapshot = IncidentSnapshot()
        self._totals_before = Totals()

    def snapshot(self) -> IncidentSnapshot:
        """Statistics for the metrics."""
        return self._snapshot

    async def run(self) -> None:
        """Take the fence and follow the flags until cancelled. Failures are logged and retried."""
        while True:
            try:
                await self._begin()
                await self._announcer.run()
            except KlaisError as error:
                if calls := every(30, "klais.worker.incidents"):
                    log.warning("incidents_interrupted", error=str(error), retry_s=RETRY_S, calls=calls)
            except Exception:
                if every(30, "klais.worker.incidents"):
                    log.exception("incidents_failed")
            finally:
                self._ready = False
                await finish(self._announcer.close())
            await asyncio.sleep(RETRY_S)

    async def _begin(self) -> None:
        if not self._restored:
            self._restore()
        unsent, floor = self._unsent()
        self._announcer = Announcer(self._settings)
        await self._announcer.begin(floor, unsent)
        if self._reader is None:
            ends, topic_id = await asyncio.to_thread(self._look)
            if self._topic_id not in (None, topic_id):  # created again: the offsets are those of another topic
                self._offsets = dict.fromkeys(ends, 0)
            self._offsets = {p: self._offsets.get(p, end) for p, end in ends.items()}  # FlagReader corrects them
            self._topic_id = topic_id
            self._reader = FlagReader(self._settings, self._offsets)
            self._reader.start()
        self._ready = True
        log.info("incidents_followed", open=len(self._grouping.open()), partitions=len(self._offsets))

    def _look(self) -> tuple[dict[int, int], str | None]:
        """End offsets of the flags, and the id of their topic."""
        topic = Topics.of(self._settings).anomalies
        ends, identity = end_offsets(self._settings, topic), TopicIdentity(self._settings, topic)
        identity.replaced()
        return ends, identity.topic_id

    def _restore(self) -> None:
        records = self._control.records()
        state = dict(records.get(INCIDENTS, {}))
        kept = [
            record for scope, record in records.items() if scope.startswith(INCIDENT) and _is_incident(scope, record)
        ]
        try:
            self._grouping.restore(state, kept)
            self._offsets, self._topic_id = _offsets(state.get("next", {})), state.get("topic_id")
        except (ValueError, TypeError, AttributeError) as error:
            log.warning("incidents_not_restored", error=str(error), do="nothing: it starts with the present flags")
            self._grouping = Grouping(self._rules)
            self._grouping.restore({}, kept)  # otherwise nobody would ever close or remove them
        if (incident := self._grouping.fleet_incident()) is not None:
            self._fleet = FleetWatch(incident.what.first.expected)
        self._totals_before = deepcopy(self._grouping.totals)
        self._restored = True

    def _unsent(self) -> tuple[dict[str, dict[str, Any]], int]:
        """Records that may be missing on ``klais_anomalies``, and the first offset at which they can be."""
        state = self._control.record(INCIDENTS) or {}
        incidents = self._grouping.incidents
        unsent, floor = state.get("unsent"), state.get("floor")
        names = {*(unsent if isinstance(unsent, dict) else ()), *self._announcer.unsent} & incidents.keys()
        floor = floor if isinstance(floor, int) and -1 <= floor < 1 << 63 else -1
        return {name: shown(incidents[name]) for name in sorted(names)}, floor

    async def tick(
        self, now_s: float, ahead_s: float, system: SystemView, write: Callable[[Writes], Awaitable[None]]
    ) -> None:
        """Process the flags since the last tick; ``write`` returns when Kafka has acknowledged the records.

        ``ahead_s``: how far the clock of this host is ahead of the broker's clock, which timestamps the flags.

        Raises
        ------
        klais.errors.KlaisError
            If ``write`` fails: the term is over.
        """
        if not self._ready or self._reader is None:
            return
        batch = self._reader.take()
        at_ms = now_ms() - round(1000 * ahead_s)
        mutes = Mutes.of(self._control.records(), at_ms)
        self._watch_fleet(now_s, at_ms, system, mutes)
        unsent = self._announcer.unsent
        # In a thread: many flags must not delay the lanes.
        pending = await asyncio.to_thread(self._decide, batch, mutes, now_s, at_ms, unsent)
        self._snapshot = self._count()
        if pending is None:
            return
        await write(pending.writes)
        if pending.announce:
            fault.at("incident_written")
        self._announcer.queue(pending.announce)

    def _count(self) -> IncidentSnapshot:
        now, before = self._grouping.totals, self._totals_before
        features = Counter(feature_class(incident.feature) for incident in self._grouping.open())
        return IncidentSnapshot(
            open=features,
            opened={name: count - before.opened.get(name, 0) for name, count in now.opened.items()},
            muted=now.muted - before.muted,
            alone=now.alone - before.alone,
            skipped=now.skipped - before.skipped,
        )

    def _watch_fleet(self, now_s: float, at_ms: int, system: SystemView, mutes: Mutes) -> None:
        # Without the busiest device: a single flooding device is not a fleet event.
        share = 1.0 - activity_of(system)["top_share"]
        rates = {name: edge.rates.get("received") for name, edge in system.edges.items()}
        if any(rate is None for rate in rates.values()):
            return
        rate = share * sum(rate or 0.0 for rate in rates.values())
        judge_fleet(self._fleet, self._grouping, now_s, at_ms, rate, frozenset(rates), mutes.cover)

    def _decide(self, batch: Batch, mutes: Mutes, now_s: float, at_ms: int, unsent: dict[str, int]) -> _Pending | None:
        grouping = self._grouping
        for flag in batch.flags:
            grouping.absorb(flag, mutes.cover(flag))
        grouping.totals.skipped += batch.skipped
        announce = [shown(incident) for incident in grouping.settle(at_ms)]
        self._offsets |= batch.next_offsets
        self._topic_id = batch.topic_id or self._topic_id
        changed = [(INCIDENT + one.id, one.state()) for one in grouping.take_dirty()]
        if not changed and not batch.flags and now_s - self._saved_s < SAVE_S:
            return None
        self._saved_s = now_s
        writes: Writes = [*changed]
        writes += [(INCIDENT + name, None) for name in grouping.take_forgotten()]
        writes += [(scope, None) for scope in self._control.records() if self._is_left_over(scope)]
        where: dict[str, Any] = {"next": {str(p): offset for p, offset in sorted(self._offsets.items())}}
        where |= {"floor": self._announcer.floor, "topic_id": self._topic_id}
        where |= {"unsent": unsent | {record["id"]: record["revision"] for record in announce}}
        writes.append((INCIDENTS, grouping.state() | where))
        return _Pending(writes, announce)

    def _is_left_over(self, scope: str) -> bool:
        """Whether it acknowledges an incident that is forgotten, or never existed."""
        return scope.startswith(ACK) and scope.removeprefix(ACK) not in self._grouping.incidents

    async def close(self) -> None:
        """Stop reading; the announcer is closed by :meth:`run`."""
        if self._reader is not None:
            await asyncio.to_thread(self._reader.stop)


def _is_incident(scope: str, record: dict[str, Any]) -> bool:
    try:
        return scope == INCIDENT + incident_of(record).id
    except ValueError as error:
        log.warning("incident_skipped", error=str(error))
        return False


def _offsets(found: dict[str, Any]) -> dict[int, int]:
    """The next offset of each partition."""
    offsets = {int(p): offset for p, offset in found.items()}
    if not all(0 <= p < 1 << 31 and isinstance(at, int) and 0 <= at < 1 << 63 for p, at in offsets.items()):
        raise ValueError(f"next is {found!r:.80}, not the offsets of partitions")
    return offsets
