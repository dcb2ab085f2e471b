"""The state of the system from the records on ``klais_stats``: typed records, and sums over processes (pure).

Every reader of ``klais_stats`` uses this module, so that a field has one name and one type, those of
:mod:`klais.telemetry.schema`. A record of another version of KLAIS may have a field of another type. Such a field is
ignored, and the rest of the record counts.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import ValidationError

from klais.telemetry.schema import Gauges
from klais.telemetry.stats import total

Record = Mapping[str, Any]
MAX_VALUE = 1e18  # largest counter, rate or gauge: an exabyte


@dataclass(frozen=True, slots=True)
class ProcessView:
    """The newest record of one process.

    Attributes
    ----------
    host : str
        Machine and folder of its pinned maps; the record's id if it has none.
    instance : str or None
        A random number of the process, if it sends one: another number is another process.
    at_ms : int
        Clock of the sender (ms since the epoch).
    uptime_s : float
        Since the process started.
    counters : mapping of str to float
        Since the start of the process (worker: since step 0 of its lanes). A counter by reason is here as its sum.
    dropped : mapping of str to float
        Frames dropped, by reason.
    rates : mapping of str to float
        Growth of the counters per second.
    gauges : Gauges
        Present values; fields that the process did not send are None.
    """

    host: str
    instance: str | None
    at_ms: int
    uptime_s: float
    counters: Mapping[str, float]
    dropped: Mapping[str, float]
    rates: Mapping[str, float]
    gauges: Gauges

    @classmethod
    def of(cls, name: str, record: Record) -> Self:
        """Read the record of the process with the id ``name``."""
        counters, dropped = record["counters"], record["counters"].get("dropped")
        at_ms = record.get("at_ms")
        return cls(
            host=str(record.get("host", name)),
            instance=None if record.get("instance") is None else str(record["instance"]),
            at_ms=at_ms if isinstance(at_ms, int) else 0,
            uptime_s=_numbers(record).get("uptime_s", 0.0),
            counters=_numbers(
                {key: total(_numbers(v)) if isinstance(v, Mapping) else v for key, v in counters.items()}
            ),
            dropped=_numbers(dropped) if isinstance(dropped, Mapping) else {},
            rates=_numbers(_usable(record["rates"])),
            gauges=gauges_of(record),
        )


@dataclass(frozen=True, slots=True)
class SystemView:
    """All processes with recent reports, by id."""

    edges: Mapping[str, ProcessView]
    workers: Mapping[str, ProcessView]
    controllers: Mapping[str, ProcessView]

    @classmethod
    def of(
        cls, newest: Callable[[str], Mapping[str, Record]], read: Callable[[str, Record], ProcessView] = ProcessView.of
    ) -> Self:
        """Read the records that ``newest(kind)`` returns by id, like ``StatsFollower.newest``, each with ``read``."""
        kinds = ("edge", "worker", "controller")
        return cls(*({name: read(name, record) for name, record in newest(kind).items()} for kind in kinds))

    def counter(self, name: str) -> int:
        """A counter, summed over the workers."""
        return _whole(sum(worker.counters.get(name, 0.0) for worker in self.workers.values()))

    def rate(self, name: str) -> float | None:
        """A rate, summed over the workers; None without a reporting worker."""
        return sum(worker.rates.get(name, 0.0) for worker in self.workers.values()) if self.workers else None

    def gauge(self, name: str) -> float:
        """A gauge, summed over the workers; a missing one counts as 0."""
        return sum(self._values(name))

    def highest(self, name: str) -> float:
        """The highest value of a gauge over the workers; 0 if no worker sends it."""
        return max(self._values(name), default=0.0)

    def dropped(self) -> dict[str, int]:
        """Frames that the workers dropped, by reason."""
        return dropped_by_reason(self.workers.values())

    def live_lanes(self) -> frozenset[int]:
        """Partitions whose lanes are live."""
        return frozenset(
            p for worker in self.workers.values() for p in map(partition_of, worker.gauges.lag_records or {}) if p >= 0
        )

    def restoring(self) -> dict[int, str]:
        """Progress of the lanes that recover, as texts by partition."""
        return {p: text for worker in self.workers.values() for p, text in restoring_of(worker.gauges).items()}

    def leader(self) -> str | None:
        """The id of the leading controller, the one with the highest epoch; None if no controller reports.

        During a change of the leader both may report.
        """
        epochs = {name: controller.gauges.epoch for name, controller in self.controllers.items()}
        return max(epochs, key=lambda name: -1.0 if (epoch := epochs[name]) is None else epoch, default=None)

    def _values(self, name: str) -> Iterable[float]:
        return (getattr(worker.gauges, name) or 0.0 for worker in self.workers.values())


def dropped_by_reason(processes: Iterable[ProcessView]) -> dict[str, int]:
    """Frames dropped, by reason, summed over processes."""
    out: dict[str, int] = {}
    for process in processes:
        for reason, frames in process.dropped.items():
            out[reason] = _whole(out.get(reason, 0) + frames)
    return out


def restoring_of(gauges: Gauges) -> dict[int, str]:
    """Progress of a worker's lanes that recover, as texts by partition."""
    found = {partition_of(name): at.text for name, at in (gauges.restoring or {}).items()}
    return {p: found[p] for p in sorted(found) if p >= 0}


def partition_of(name: str) -> int:
    """The partition in a key of a gauge, -1 if it is not a partition."""
    return int(name) if name.isascii() and name.isdigit() and len(name) <= 6 else -1


def _whole(count: float) -> int:
    """A sum as an integer that fits JSON with 64 bits."""
    return int(min(count, 2**63 - 1))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_VALUE


def number_of(record: Record, part: str, name: str) -> float:
    """A number in an unparsed record (``part``: ``rates`` or ``gauges``); 0 if it has none that a process sends.

    Examples
    --------
    >>> number_of({"rates": {"passed": 5}}, "rates", "passed"), number_of({"rates": {"passed": "x"}}, "rates", "passed")
    (5.0, 0.0)
    """
    value = record[part].get(name)
    return float(value) if _is_number(value) and value >= 0 else 0.0


def _usable(value: Any) -> Any:
    """Remove numbers that no process sends from a gauge, so that sums fit a double and 64 bits."""
    if isinstance(value, Mapping):
        kept = ((name, _usable(part)) for name, part in value.items())
        return {name: part for name, part in kept if part is not None}
    return None if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) > MAX_VALUE else value


def gauges_of(record: Record) -> Gauges:
    """The gauges of a record without invalid parts: single entries of an object, else whole fields."""
    raw = _usable(record["gauges"])
    try:
        return Gauges.model_validate(raw, strict=True)
    except ValidationError as error:
        wrong = [detail["loc"] for detail in error.errors(include_url=False, include_input=False)]
    kept = {name: dict(value) if isinstance(value, Mapping) else value for name, value in raw.items()}
    for name, *inside in wrong:
        entries = kept.get(str(name))
        if inside and isinstance(entries, dict):
            entries.pop(inside[0], None)
        else:
            kept.pop(str(name), None)
    try:
        return Gauges.model_validate(kept, strict=True)
    except ValidationError as error:  # an object that requires the invalid entry
        fields = {str(detail["loc"][0]) for detail in error.errors(include_url=False, include_input=False)}
        return Gauges.model_validate({name: value for name, value in kept.items() if name not in fields}, strict=True)
