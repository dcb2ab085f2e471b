"""``klais_stats`` and ``klais_control`` in Kafka: the shared producer of a process, and the newest record of each
process."""

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import orjson
from confluent_kafka import KafkaException, Producer

from klais.config.load import Settings
from klais.kafka.clients import confluent_config
from klais.kafka.follower import TopicFollower
from klais.kafka.topics import Topics
from klais.system import shallow_json
from klais.system.clock import is_time_ms
from klais.system.shared_clock import TOLERANCE_S, shared
from klais.telemetry import log as logs
from klais.telemetry.schema import VERSION
from klais.telemetry.stats import Numbers
from klais.telemetry.view import ProcessView, SystemView

log = logs.get("klais.kafka.stats")

FRESH_S = 3.0
AUDIT_S = 6.0
FORGET_S = 600.0  # a sender without a record for this time is no longer shown


class ControlProducer:
    """Writes to ``klais_stats`` and ``klais_control``; shared by the statistics thread and the REST API."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._topics = Topics.of(settings)
        self._producer = Producer(
            confluent_config(settings)
            | {
                "client.id": name,
                "acks": "all",
                "message.timeout.ms": 5000,
                "queue.buffering.max.kbytes": 4096,
                "reconnect.backoff.max.ms": 2000,
                "log_level": 2,
                "error_cb": _log_error,
            }
        )

    def stats(self, key: str, record: Numbers) -> None:
        """Send one statistics record. A lost one is acceptable: the next follows in a second."""
        value = orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)
        with contextlib.suppress(BufferError):
            self._producer.produce(self._topics.stats, value, key.encode(), partition=0)
        self._producer.poll(0)

    def control(self, scope: str, record: Numbers, timeout_s: float = 6.0) -> int | None:
        """Write the record of a scope and wait for Kafka's acknowledgement; returns its offset.

        Raises
        ------
        KafkaException
            If Kafka did not acknowledge it in time.
        """
        return self._write(self._topics.control, scope, {"scope": scope, **record}, timeout_s)

    def change(self, scope: str, record: Numbers, before: Numbers | None, address: str = "") -> int | None:
        """Write a change requested by an operator: first to ``klais_audit``, then to ``klais_control``; returns its
        offset there.

        Parameters
        ----------
        scope, record
            As in :meth:`control`; ``author``, ``reason`` and ``at`` of the record are also in the audit.
        before : mapping or None
            The present record of the scope.
        address : str
            The client's address, empty for the command line.

        Raises
        ------
        KafkaException
            If Kafka did not acknowledge it in time. Then the change is not in force.
        """
        kept = ("author", "reason", "at")
        audit = {name: record.get(name) for name in kept} | {"scope": scope, "address": address}
        audit |= {"before": _without(before, kept), "after": _without(record, kept)}
        self._write(self._topics.audit, scope, audit, AUDIT_S)
        return self.control(scope, record)

    def _write(self, topic: str, key: str, record: Numbers, timeout_s: float) -> int | None:
        failed: list[Any] = []
        offsets: list[int | None] = []
        done = threading.Event()

        def report(error: Any, message: Any) -> None:
            failed.append(error)
            offsets.append(message.offset())
            done.set()

        self._producer.produce(topic, orjson.dumps(record), key.encode(), partition=0, on_delivery=report)
        until_s = time.monotonic() + timeout_s
        while not done.is_set() and time.monotonic() < until_s:
            self._producer.poll(0.05)
        if not done.is_set() or failed[0] is not None:
            raise KafkaException(failed[0] if failed else "no acknowledgement in time")
        return offsets[0]

    def close(self) -> None:
        """Flush for at most a second and close."""
        if self._producer.flush(1.0):
            self._producer.purge()


def _without(record: Numbers | None, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in (record or {}).items() if name not in (*names, "scope")}


def _log_error(error: Any) -> None:
    log.debug("kafka_error", error=error.str())


class StatsFollower(TopicFollower):
    """The newest record of every process. Records older than 3 seconds are stale: they are shown but not used."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Topics.of(settings).stats, from_start=False)
        self._newest: dict[str, tuple[float, dict[str, Any]]] = {}
        self._views: dict[str, tuple[Mapping[str, Any], ProcessView]] = {}  # of the newest records that were requested
        self._systems: dict[float, tuple[Any, float, SystemView]] = {}  # by age: records, valid up to, their view
        self._clocks: dict[str, float] = {}

    def reset(self) -> None:
        """See :class:`TopicFollower`."""
        self._newest, self._views, self._clocks = {}, {}, {}
        shared.forget()

    def consume(self, key: str, value: bytes | None, appended_ms: int | None = None) -> None:
        """Store one record."""
        record = shallow_json.loads(value) if value is not None else None
        if not isinstance(record, dict) or record.get("v") != VERSION:
            raise ValueError(f"statistics of {key!r} are not a version {VERSION} record")
        for name in ("counters", "gauges", "rates"):
            if not isinstance(record.get(name), dict):
                raise ValueError(f"statistics of {key!r} have no object {name!r}")
        # By arrival, not by at_ms, because the clocks of two hosts may differ.
        now_s = time.monotonic()
        if appended_ms is not None:
            shared.heard(appended_ms)
        alive = {k: v for k, v in self._newest.items() if now_s - v[0] <= FORGET_S}
        self._newest = alive | {key: (now_s, record)}
        self._views = {k: v for k, v in self._views.copy().items() if k in alive}  # other threads put views in
        at_ms = record.get("at_ms")
        if appended_ms is not None and is_time_ms(at_ms):
            clocks = {name: offset_s for name, offset_s in self._clocks.items() if name in alive}
            self._clocks = clocks | {key: (at_ms - appended_ms) / 1000}

    def recent(self, kind: str, within_s: float = FORGET_S) -> dict[str, tuple[float, dict[str, Any]]]:
        """Age (s) and newest record of each process of that kind, by id; without records older than ``within_s``."""
        now_s = time.monotonic()
        rows = self._newest.items()
        return {
            name: (now_s - at_s, record)
            for name, (at_s, record) in rows
            if now_s - at_s <= within_s and record.get("kind") == kind
        }

    def newest(self, kind: str) -> dict[str, dict[str, Any]]:
        """Records of that kind by id, none older than 3 seconds."""
        return {name: record for name, (_, record) in self.recent(kind, FRESH_S).items()}

    def view(self, fresh_s: float = FRESH_S) -> SystemView:
        """All reports of the last ``fresh_s`` seconds, parsed into types: the same object until one comes or gets too
        old.
        """
        newest, now_s = self._newest, time.monotonic()
        known = self._systems.get(fresh_s)
        if known is not None and known[0] is newest and now_s <= known[1]:
            return known[2]
        fresh = {name: row for name, row in newest.items() if now_s - row[0] <= fresh_s}
        view = SystemView.of(
            lambda kind: {name: record for name, (_, record) in fresh.items() if record.get("kind") == kind}, self.read
        )
        until_s = min((at_s for at_s, _ in fresh.values()), default=float("inf")) + fresh_s
        self._systems[fresh_s] = newest, until_s, view
        return view

    def read(self, name: str, record: Mapping[str, Any]) -> ProcessView:
        """Parse a record into types: once (0.3 ms), however often the controller calls it (ten times a second)."""
        before = self._views.get(name)
        if before is not None and before[0] is record:
            return before[1]
        view = ProcessView.of(name, record)
        self._views[name] = (record, view)
        return view

    def clock_offset_s(self, name: str) -> float | None:
        """How far a process's wall clock is ahead of the broker's (behind: negative), from its newest record.

        It includes the transmission time of the record, some 10 ms. None without a record, or if the topic has no
        broker times.
        """
        return self._clocks.get(name)

    def senders(self) -> dict[str, dict[str, Any]]:
        """Every process that sent a record in the last ten minutes.

        Each with its kind, the seconds since its newest record, whether that is stale, and by how many seconds its
        clock is ahead of the broker's.
        """
        now_s = time.monotonic()
        return {
            name: {
                "kind": record.get("kind"),
                "age_s": round(now_s - at_s, 1),
                "stale": now_s - at_s > FRESH_S,
                "clock_offset_s": _rounded(self.clock_offset_s(name)),
            }
            for name, (at_s, record) in sorted(self._newest.items())
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def clock_warning(offset_s: float | None) -> str | None:
    """A warning about a clock that differs from the broker's by more than the tolerance, else None.

    Examples
    --------
    >>> clock_warning(-0.02), clock_warning(7200.4)
    (None, "the clock of this host is 7200 s ahead of Kafka's: ts of its frames is wrong by as much; check its time
    service")
    """
    if offset_s is None or abs(offset_s) <= TOLERANCE_S:
        return None
    way = "ahead of" if offset_s > 0 else "behind"
    return (
        f"the clock of this host is {abs(offset_s):.0f} s {way} Kafka's: "
        "ts of its frames is wrong by as much; check its time service"
    )
