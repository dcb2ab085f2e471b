"""Records to ``klais_stats``, and what all processes last said there.

A record, its key being its id, is ``{"v":1, "kind":"edge"|"worker"|"controller", "id", "at_ms", "uptime_s",
"counters":{...}, "gauges":{...}, "rates":{...}}``; :mod:`klais.telemetry.schema` is the schema. ``counters`` count since the
start of the process; one may be an object by reason (``"dropped":{"blocked":3}``). ``rates`` are their growth per second since
the record before (an object counts as its sum). When the limits in force changed, a process says at once what it is like now:
an extra record, at most ten a second, with the rates of the last second.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import orjson
from confluent_kafka import KafkaException, Producer

from klais.config.load import Settings
from klais.kafka.clients import confluent_config
from klais.kafka.follower import TopicFollower, now_ms
from klais.kafka.topics import Topics
from klais.telemetry import log as logs
from klais.telemetry.schema import VERSION

log = logs.get("klais.telemetry.stats")

PERIOD_S = 1.0
EXTRA_S = 0.1  # between two records at least
FRESH_S = 3.0
FORGET_S = 600.0  # a sender that is silent for so long is no longer shown

Numbers = Mapping[str, Any]


def total(value: Any) -> float:
    """A counter as one number: itself, or the sum of an object's."""
    return sum(value.values()) if isinstance(value, Mapping) else value


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
                "error_cb": _quiet,
            }
        )

    def stats(self, key: str, record: Numbers) -> None:
        """Send one statistics record; a lost one is no matter, the next comes in a second."""
        value = orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY)
        with contextlib.suppress(BufferError):
            self._producer.produce(self._topics.stats, value, key.encode(), partition=0)
        self._producer.poll(0)

    def control(self, scope: str, record: Numbers, timeout_s: float = 6.0) -> None:
        """Write the record of a scope and wait until Kafka acknowledged it.

        Raises
        ------
        KafkaException
            It was not acknowledged in time.
        """
        failed: list[Any] = []
        done = threading.Event()

        def report(error: Any, _message: Any) -> None:
            failed.append(error)
            done.set()

        value = orjson.dumps({"scope": scope, **record})
        self._producer.produce(self._topics.control, value, scope.encode(), partition=0, on_delivery=report)
        until_s = time.monotonic() + timeout_s
        while not done.is_set() and time.monotonic() < until_s:
            self._producer.poll(0.05)
        if not done.is_set() or failed[0] is not None:
            raise KafkaException(failed[0] if failed else "no acknowledgement in time")

    def close(self) -> None:
        """Send what is left, for at most a second."""
        if self._producer.flush(1.0):
            self._producer.purge()


def _quiet(error: Any) -> None:
    log.debug("kafka_error", error=error.str())


class StatsPublisher:
    """A thread that publishes what ``snapshot`` says, once a second.

    Parameters
    ----------
    producer : ControlProducer
        Who writes.
    kind, name : str
        ``edge`` or ``worker``, and its id (the record's key).
    snapshot : callable
        Returns ``(counters, gauges)``, taken at one moment; called in this thread. A failure is logged, not raised.
    version : callable, optional
        A number that goes up when limits change: then there is an extra record.
    host : str, optional
        See the schema.
    """

    def __init__(
        self,
        producer: ControlProducer,
        kind: str,
        name: str,
        snapshot: Callable[[], tuple[Numbers, Numbers]],
        version: Callable[[], int] = lambda: 0,
        host: str | None = None,
    ) -> None:
        self._producer, self._kind, self.name, self._snapshot = producer, kind, name, snapshot
        self._version, self._host = version, host
        self._rates: dict[str, float] = {}
        self._started_s = time.monotonic()
        self._before: tuple[float, Numbers] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stats", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def stop(self) -> None:
        """Publish once more and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
        self._publish()

    def record(self, now_s: float, extra: bool = False) -> dict[str, Any]:
        """The record of this moment (``now_s`` monotonic); unless it is an extra one, the next one's rates count from here."""
        counters, gauges = self._snapshot()
        if not extra:
            self._rates = {}
            if self._before is not None and now_s > self._before[0]:
                elapsed_s, before = now_s - self._before[0], self._before[1]
                self._rates = {k: round((total(v) - total(before.get(k, 0))) / elapsed_s, 3) for k, v in counters.items()}
            self._before = (now_s, counters)
        return {
            "v": VERSION,
            "kind": self._kind,
            "id": self.name,
            **({"host": self._host} if self._host else {}),
            **({"extra": True} if extra else {}),
            "at_ms": now_ms(),
            "uptime_s": round(now_s - self._started_s, 3),
            "counters": counters,
            "gauges": gauges,
            "rates": self._rates,
        }

    def _run(self) -> None:
        due = Due(self._version)
        while not self._stop.wait(EXTRA_S):
            if what := due.now(time.monotonic()):
                self._publish(extra=what == "extra")

    def _publish(self, extra: bool = False) -> None:
        try:
            self._producer.stats(self.name, self.record(time.monotonic(), extra))
        except Exception:
            if logs.every(60, "stats.publish"):
                log.exception("stats_failed")


class Due:
    """When a record is due: every second, and when the limits changed; asked every 0.1 s."""

    def __init__(self, version: Callable[[], int]) -> None:
        self._version, self._seen = version, version()
        self._next_s = time.monotonic() + PERIOD_S

    def now(self, now_s: float) -> Literal["", "regular", "extra"]:
        """What is due now."""
        version = self._version()
        changed, self._seen = version != self._seen, version
        if now_s >= self._next_s - EXTRA_S / 2:
            self._next_s = max(self._next_s + PERIOD_S, now_s + PERIOD_S / 2)
            return "regular"
        return "extra" if changed else ""


class StatsFollower(TopicFollower):
    """The newest record of every process that spoke in the last 3 seconds; who is silent for longer is stale: shown, not
    used."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Topics.of(settings).stats, from_start=False)
        self._newest: dict[str, tuple[float, dict[str, Any]]] = {}

    def take(self, key: str, value: bytes | None) -> None:
        """Keep one record."""
        record = orjson.loads(value) if value is not None else None
        if not isinstance(record, dict) or record.get("v") != VERSION:
            raise ValueError(f"statistics of {key!r} are not a version {VERSION} record")
        for name in ("counters", "gauges", "rates"):
            if not isinstance(record.get(name), dict):
                raise ValueError(f"statistics of {key!r} have no object {name!r}")
        # By arrival, not by at_ms: the clocks of two hosts need not agree.
        now_s = time.monotonic()
        alive = {k: v for k, v in self._newest.items() if now_s - v[0] <= FORGET_S}
        self._newest = alive | {key: (now_s, record)}

    def heard(self, kind: str, within_s: float = FORGET_S) -> dict[str, tuple[float, dict[str, Any]]]:
        """Seconds since each of that kind was heard last, and its newest record, by id; who is silent for longer left out."""
        now_s = time.monotonic()
        rows = self._newest.items()
        return {
            name: (now_s - at_s, record)
            for name, (at_s, record) in rows
            if now_s - at_s <= within_s and record.get("kind") == kind
        }

    def newest(self, kind: str) -> dict[str, dict[str, Any]]:
        """Records of that kind by id, none older than 3 seconds."""
        return {name: record for name, (_, record) in self.heard(kind, FRESH_S).items()}

    def senders(self) -> dict[str, dict[str, Any]]:
        """Everybody who spoke in the last ten minutes: kind, seconds since its newest record, and whether that is stale."""
        now_s = time.monotonic()
        return {
            name: {"kind": record.get("kind"), "age_s": round(now_s - at_s, 1), "stale": now_s - at_s > FRESH_S}
            for name, (at_s, record) in sorted(self._newest.items())
        }
