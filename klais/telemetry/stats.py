"""Records for ``klais_stats``: their schedule and contents.

The key of a record is its id, the value ``{"v":1, "kind":"edge"|"worker"|"controller", "id", "at_ms", "uptime_s",
"counters":{...}, "gauges":{...}, "rates":{...}}``; :mod:`klais.telemetry.schema` is the schema. ``counters`` count
since the start of the process; one may be an object by reason (``"dropped":{"blocked":3}``). ``rates`` are their growth
per second since the previous record (an object counts as its sum). When the limits in force change, a process
immediately writes an extra record, at most ten per second, with the rates of the last second.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from klais.system.clock import now_ms
from klais.telemetry import log as logs
from klais.telemetry.schema import VERSION

log = logs.get("klais.telemetry.stats")

PERIOD_S = 1.0
EXTRA_S = 0.1  # minimum interval between two records

Numbers = Mapping[str, Any]


def total(value: Any) -> float:
    """A counter as one number: its value, or the sum of an object."""
    return sum(value.values()) if isinstance(value, Mapping) else value


class StatsSink(Protocol):
    """Destination of records, such as the producer of ``klais_stats`` (:class:`klais.kafka.stats.ControlProducer`)."""

    def stats(self, key: str, record: Numbers) -> None: ...


class StatsPublisher:
    """A thread that publishes a snapshot once a second.

    Parameters
    ----------
    producer : StatsSink
        Destination of the records.
    kind, name : str
        ``edge`` or ``worker``, and its id (the record's key).
    snapshot : callable
        Returns ``(counters, gauges)``, of one moment; called in this thread. A failure is logged, not raised.
    version : callable, optional
        A number that increases when limits change, which makes an extra record due; call :meth:`wake` then.
    host, instance : str, optional
        See the schema.
    """

    def __init__(
        self,
        producer: StatsSink,
        kind: str,
        name: str,
        snapshot: Callable[[], tuple[Numbers, Numbers]],
        version: Callable[[], int] = lambda: 0,
        host: str | None = None,
        instance: str | None = None,
    ) -> None:
        self._producer, self._kind, self.name, self._snapshot = producer, kind, name, snapshot
        self._version, self._host, self._instance = version, host, instance
        self._rates: dict[str, float] = {}
        self._started_s = time.monotonic()
        self._before: tuple[float, Numbers] | None = None
        self._due = Due(version)
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="stats", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._due = Due(self._version)
        self._thread.start()

    def wake(self) -> None:
        """Check now whether an extra record is due; from any thread."""
        self._wake.set()

    def stop(self) -> None:
        """Publish once more and stop."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
        self._publish()

    def record(self, now_s: float, extra: bool = False) -> dict[str, Any]:
        """The record of this moment (``now_s`` monotonic). Unless it is extra, the next rates count from here."""
        counters, gauges = self._snapshot()
        if not extra:
            self._rates = {}
            if self._before is not None and now_s > self._before[0]:
                elapsed_s, before = now_s - self._before[0], self._before[1]
                self._rates = {
                    k: round((total(v) - total(before.get(k, 0))) / elapsed_s, 3) for k, v in counters.items()
                }
            self._before = (now_s, counters)
        return {
            "v": VERSION,
            "kind": self._kind,
            "id": self.name,
            **({"host": self._host} if self._host else {}),
            **({"instance": self._instance} if self._instance else {}),
            **({"extra": True} if extra else {}),
            "at_ms": now_ms(),
            "uptime_s": round(now_s - self._started_s, 3),
            "counters": counters,
            "gauges": gauges,
            "rates": self._rates,
        }

    def _run(self) -> None:
        due = self._due
        while not self._stop.wait(EXTRA_S):
            self._wake.wait(due.wait_s(time.monotonic()))
            self._wake.clear()
            if self._stop.is_set():
                return
            if what := due.now(time.monotonic()):
                self._publish(extra=what == "extra")

    def _publish(self, extra: bool = False) -> None:
        try:
            self._producer.stats(self.name, self.record(time.monotonic(), extra))
        except Exception:
            if logs.every(60, "stats.publish"):
                log.exception("stats_not_published")


class Due:
    """Schedule of the records: every second, and when the limits changed."""

    def __init__(self, version: Callable[[], int]) -> None:
        self._version, self._seen = version, version()
        self._next_s = time.monotonic() + PERIOD_S

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next regular record, 0 = it is due."""
        return max(0.0, self._next_s - now_s)

    def now(self, now_s: float) -> Literal["", "regular", "extra"]:
        """The kind of record that is due now."""
        version = self._version()
        changed, self._seen = version != self._seen, version
        if now_s >= self._next_s - EXTRA_S / 2:
            self._next_s = max(self._next_s + PERIOD_S, now_s + PERIOD_S / 2)
            return "regular"
        return "extra" if changed else ""
