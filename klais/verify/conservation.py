"""The conservation check: totals of every stage since a common time, and whether they add up. Pure, no I/O.

    sent -> received by the edge -> published to klais_raw -> received by the worker -> passed -> landed in
    iot_telemetry
              \\_ dropped (edge)                                 \\_ dropped (lanes)  \\_ waiting in the queue

The worker's counters cover the whole history of its lanes, the edge's only its process. So both count from their values
at the start, and the edge's values continue after a restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from klais.telemetry.counters import ResetSafeTotals
from klais.telemetry.view import ProcessView, SystemView

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Totals:
    """Frames at each stage, all since the same time.

    ``held`` by the edge: not published and not dropped. ``recovered``: in its disk spool at its first start.
    """

    sent: int = 0
    edge_received: int = 0
    edge_dropped: Mapping[str, int] = field(default_factory=dict)
    held: int = 0
    recovered: int = 0
    published: int = 0
    worker_received: int = 0
    worker_dropped: Mapping[str, int] = field(default_factory=dict)
    queued: int = 0
    passed: int = 0
    landed: int = 0
    dead_letters: int = 0
    flags: int = 0

    def minus(self, base: "Totals") -> "Totals":
        """The growth since ``base``, including frames held or queued."""
        out: dict[str, Any] = {}
        for name in self.__slots__:
            mine, before = getattr(self, name), getattr(base, name)
            if isinstance(mine, Mapping):
                grown = {reason: mine.get(reason, 0) - before.get(reason, 0) for reason in {**before, **mine}}
                out[name] = {reason: frames for reason, frames in grown.items() if frames}
            else:
                out[name] = mine - before
        return Totals(**out)

    def dropped(self) -> dict[str, int]:
        """Drops by reason of edge and lanes."""
        out = dict(self.edge_dropped)
        for reason, frames in self.worker_dropped.items():
            out[reason] = out.get(reason, 0) + frames
        return out


class FrameAccount:
    """Adds up the counters of all processes since a start time.

    Parameters
    ----------
    partitions : int
        The workers' records count only while all lanes are live. Otherwise a lane that moves between two workers would
        be missing.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._sent, self._edge = ResetSafeTotals("sent"), ResetSafeTotals("received")
        self._base = self._now = Totals()

    @property
    def restarted(self) -> bool:
        """Whether simulator or edge restarted, so that their last counts before that are unknown."""
        return bool(self._sent.restarts or self._edge.restarts)

    def start(self) -> None:
        """Start counting."""
        self._base = self._now

    def totals(self) -> Totals:
        """Since :meth:`start`."""
        return self._now.minus(self._base)

    def observe_sent(self, progress: Record) -> None:
        """Add a line of ``klais simulate --json-lines``, or its summary."""
        sent = self._sent.observe({"sent": int(progress.get("frames", progress.get("sent", 0)))})
        self._now = replace(self._now, sent=sent["sent"])

    def observe_edge(self, edge: ProcessView) -> None:
        """Add the edge's record on ``klais_stats``."""
        counters = edge.counters
        dropped = {f"dropped.{reason}": int(frames) for reason, frames in edge.dropped.items()}
        whole = {name: int(counters.get(name, 0)) for name in ("received", "passed", "dead_letters")}
        sums = self._edge.observe(whole | dropped, edge.instance)
        self._now = replace(
            self._now,
            edge_received=sums["received"],
            published=sums["passed"],
            edge_dropped={name.removeprefix("dropped."): n for name, n in sums.items() if name.startswith("dropped.")},
            held=int(edge.gauges.queue_depth or 0),
            # A later process finds frames that the previous one held, which are already counted.
            recovered=self._now.recovered if self._edge.restarts else int(counters.get("spool_recovered", 0)),
        )

    def observe_workers(self, system: SystemView) -> bool:
        """Add all workers' records on ``klais_stats``; whether they cover all lanes, and so count."""
        if system.gauge("lanes_live") != self._partitions:
            return False
        self._now = replace(
            self._now,
            worker_received=system.counter("received"),
            passed=system.counter("passed"),
            worker_dropped=system.dropped(),
            queued=int(system.gauge("queue_depth")),
            dead_letters=system.counter("dead_letters"),
            flags=system.counter("flags"),
        )
        return True

    def observe_landed(self, records: int) -> None:
        """Set the records of the clean topic: the sum of its end offsets, or a count."""
        self._now = replace(self._now, landed=records)


def reconcile(totals: Totals, simulated: bool, alone: bool) -> list[str]:
    """Compare the totals of all stages and return the differences as text. Empty if every frame is accounted for.

    Parameters
    ----------
    totals : Totals
        Totals of an idle system, to which no frames are sent.
    simulated : bool
        Whether a simulator counted its sent frames. The edge may have received more, from other senders.
    alone : bool
        Whether this system has no other edge.
    """
    t = totals
    out = []
    if simulated and t.edge_received < t.sent:
        out.append(f"{t.sent - t.edge_received:,} sent frames did not reach the edge")
    edge = t.published + t.held + sum(t.edge_dropped.values())
    if t.edge_received + t.recovered != edge:
        found = f" and found {t.recovered:,} in its spool" if t.recovered else ""
        out.append(f"the edge received {t.edge_received:,} frames{found} and accounts for {edge:,}")
    taken = t.worker_received - t.worker_dropped.get("repeated_batch", 0)
    if alone and not t.published <= taken <= t.published + t.held:
        out.append(f"{t.published:,} frames were published and the worker received {taken:,}")
    lanes = t.passed + t.queued + sum(t.worker_dropped.values())
    if t.worker_received != lanes:
        out.append(f"the worker received {t.worker_received:,} frames and accounts for {lanes:,}")
    if t.passed != t.landed:
        out.append(f"{t.passed:,} frames passed and {t.landed:,} records landed")
    return out
