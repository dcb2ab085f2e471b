"""The window of the forecast: one row per second of the fleet, from the reports of all processes (pure; numpy only).

Each process counts for itself. Two of its reports give its figures per second between them, by its own clock. So a
report that comes late, or after an outage of Kafka, fills the seconds that it covers; it is not a burst in the second
of its arrival. Seconds of which nothing is known are *unknown*, not 0; those without any report are left out. A process
that restarts, and a worker whose lanes change, starts to count again: its totals are another sum, and their difference
is no traffic.

Arrivals are what edges receive from devices. Workers also read frames of the past: a spool that an edge replays, or a
backlog. So what workers count (duplicates, restarts of sequence numbers, limits, new devices) is scaled to arrivals.
"""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klais.control.forecast import FEATURES, WINDOW_S, Window
from klais.core.wire.constants import FIRST_MALFORMED, LAST_MALFORMED, Reason
from klais.telemetry.view import ProcessView, SystemView

MALFORMED = {reason.label for reason in Reason if FIRST_MALFORMED <= reason <= LAST_MALFORMED} | {Reason.TOO_LONG.label}
LIMITED = {reason.label for reason in (Reason.BLOCKED, Reason.DEVICE_RATE, Reason.DEVICE_LIMIT)}
REPEATED = Reason.REPEATED_BATCH.label  # sent again by an edge, not by a device

EDGE = ("received", "bytes", "dropped", "malformed", "limited")
ACTIVITY = ("frames", "devices", "log_sum", "top", "bytes_sum", "bytes_squared")
WORKER = ("processed", "dropped", "malformed", "limited", "duplicates", "resets", "new_devices")

WAIT_S = 5  # for the second report of a new edge, or the next one of a silent edge
MIN_S = 0.5  # two reports closer to each other (a limit changed) say too little
FORGET_S = 3600  # a process without a report for so long is forgotten

Values = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Process:
    """Figures per second of one process, float64 [60, figures], the newest second last; NaN = unknown.

    ``before``: its identity, uptime (s) and totals at the newest report that was used, ``age_s`` ago. ``silent_s``:
    time without a fresh report. ``new_s``: time since its first report. ``began_s``: time since it started, at most 60.
    """

    per_s: Values
    before: tuple[Hashable, float, Values] | None = None
    age_s: int = 0
    silent_s: int = 0
    new_s: int = 0
    began_s: int = WINDOW_S

    @property
    def is_known(self) -> bool:
        """Whether any second is known."""
        return not bool(np.isnan(self.per_s[:, 0]).all())

    def advance(self, seconds: int) -> None:
        """Move on by ``seconds``; nothing is known of them yet."""
        self.age_s, self.new_s, self.began_s = self.age_s + seconds, self.new_s + seconds, self.began_s + seconds
        kept = self.per_s[min(seconds, WINDOW_S) :]
        self.per_s = np.concatenate((kept, np.full((WINDOW_S - len(kept), self.per_s.shape[1]), np.nan)))

    def take(self, identity: Hashable, uptime_s: float, totals: Values, now: Values | None = None) -> None:
        """Fill the unknown seconds that the newest report covers.

        ``totals`` are running totals [k], ``now`` figures per second that a report has of its own last second [m]:
        ``per_s`` has k + m columns. The first one of both counts frames. Over several seconds, ``now`` is scaled to
        the mean number of frames: the same mix of devices.
        """
        before = self.before
        if before is not None and before[0] == identity and 0.0 <= uptime_s - before[1] < MIN_S:
            return
        age_s, self.age_s, self.before = self.age_s, 0, (identity, uptime_s, totals)
        if before is None or before[0] != identity or uptime_s < before[1]:
            if not self.is_known:  # else it restarts: what it received in between is unknown
                self.began_s = max(1, round(min(max(uptime_s, 0.0), WINDOW_S)))
            return
        elapsed_s = uptime_s - before[1]
        grown = (totals - before[2]) / elapsed_s
        if grown.min() < 0.0:
            return
        known = np.flatnonzero(~np.isnan(self.per_s[:, 0]))
        longest = WINDOW_S - int(known[0]) if len(known) else age_s
        covered = max(1, min(longest, max(age_s, round(min(elapsed_s, WINDOW_S)))))
        if now is not None:
            scale = grown[0] / now[0] if covered > 1 and now[0] > 0.0 else 1.0
            grown = np.concatenate((grown, now * scale))
        last = self.per_s[-covered:]
        last[np.isnan(last[:, 0])] = grown

    def filled(self) -> Values:
        """Without unknown seconds: each is like the next known one, or the last one while reports are fresh, else 0."""
        known = np.flatnonzero(~np.isnan(self.per_s[:, 0]))
        if not len(known):
            return np.zeros_like(self.per_s)
        at = np.searchsorted(known, np.arange(WINDOW_S))
        out = self.per_s[known[np.minimum(at, len(known) - 1)]]
        out[: max(0, WINDOW_S - self.began_s)] = 0.0
        if silent_s := min(self.silent_s, WINDOW_S - 1 - int(known[-1])):
            out[-silent_s:] = 0.0
        return out

    def known(self) -> Values:
        """Unknown seconds are 0: for counts of which 0 means *nothing unusual was seen*."""
        return np.nan_to_num(self.per_s, nan=0.0)


class TrafficWindow:
    """Collects the rows; see the module."""

    def __init__(self) -> None:
        self._began_s: float | None = None
        self._second = 0
        self._edges: dict[str, _Process] = {}
        self._workers: dict[str, _Process] = {}
        self._devices: Values = np.zeros(WINDOW_S)

    def is_due(self, now_s: float) -> bool:
        """Whether :meth:`add` would read its argument: at the first call, and once in each second after it."""
        return self._began_s is None or int(now_s - self._began_s) > self._second

    def add(self, now_s: float, system: SystemView) -> bool:
        """Take the newest reports (``now_s`` monotonic); whether :meth:`rows` has another second.

        Not while no edge reports, nor for some seconds after one was first heard or fell silent.
        """
        if not self.is_due(now_s):
            return False
        if self._began_s is None:
            self._began_s = now_s
        second = int(now_s - self._began_s)
        passed, self._second = second - self._second, second
        # Many equal seconds, the mean of an outage, would hide the noise of the traffic: they are left out.
        moved = min(passed, WAIT_S) if system.edges else 0
        self._edges = _advanced(self._edges, system.edges, moved, passed, len(EDGE) + len(ACTIVITY))
        self._workers = _advanced(self._workers, system.workers, moved, passed, len(WORKER))
        self._devices = np.concatenate((self._devices, np.full(moved, system.gauge("devices"))))
        self._devices = self._devices[-WINDOW_S:]
        for name, edge in system.edges.items():
            self._edges[name].take(edge.instance, edge.uptime_s, _of_edge(edge), _activity(edge))
        for name, worker in system.workers.items():
            self._workers[name].take(_lanes(worker), worker.uptime_s, _of_worker(worker))
        reporting = [self._edges[name] for name in system.edges]
        if any(edge.new_s < WAIT_S and not edge.is_known for edge in reporting):
            return False  # it may have taken over devices of other edges
        if any(0 < edge.silent_s <= WAIT_S for edge in self._edges.values()):
            return False  # it may have stopped or not, or restart
        return any(edge.is_known for edge in reporting)

    def rows(self) -> Window:
        """Rows so far, float64 [n <= 60, len(FEATURES)], the newest last; the first one is of the first second that is
        known."""
        edges = [edge for edge in self._edges.values() if edge.is_known]
        if not edges:
            return np.zeros((0, len(FEATURES)))
        first = min(int(np.flatnonzero(~np.isnan(edge.per_s[:, 0]))[0]) for edge in edges)
        each = np.stack([edge.filled() for edge in edges])
        received, size, *lost = each[:, :, : len(EDGE)].sum(axis=0).T
        workers = sum((worker.known() for worker in self._workers.values()), np.zeros((WINDOW_S, len(WORKER))))
        processed = np.maximum(workers[:, 0], 1e-9)
        counted = dict(zip(WORKER, (workers * np.minimum(1.0, received / processed)[:, None]).T, strict=True))
        for name, of_edges in zip(EDGE[2:], lost, strict=True):
            counted[name] = counted[name] + of_edges
        columns = {
            "rate": received,
            "devices": self._devices,
            "payload_bytes": size / np.where(received > 0.0, received, np.inf),
            **_mixed(each[:, :, len(EDGE) :]),
            **counted,
        }
        return np.stack([columns[name] for name in FEATURES], axis=1)[first:]


def _advanced(
    processes: dict[str, _Process], reporting: Collection[str], moved: int, passed: int, figures: int
) -> dict[str, _Process]:
    """The processes after ``passed`` seconds, of which ``moved`` are in the window: with new ones, without those that
    are silent for long."""
    out = {}
    for name, process in processes.items():
        process.advance(moved)
        process.silent_s = 0 if name in reporting else process.silent_s + passed
        if process.silent_s < FORGET_S:  # its next report tells what happened in between
            out[name] = process
    for name in reporting:
        out.setdefault(name, _Process(np.full((WINDOW_S, figures), np.nan)))
    return out


def _of_edge(edge: ProcessView) -> Values:
    malformed, limited = (float(sum(edge.dropped.get(label, 0.0) for label in of)) for of in (MALFORMED, LIMITED))
    counters = edge.counters
    of_all = (counters.get("received", 0.0), counters.get("received_bytes", 0.0), counters.get("dropped", 0.0))
    return np.array([*of_all, malformed, limited], np.float64)


def _activity(edge: ProcessView) -> Values:
    """Sums of the edge's sketch of its last second, per second; zeros if it has none."""
    at = edge.gauges.traffic
    if at is None:
        return np.zeros(len(ACTIVITY))
    sums = np.array([at.frames, at.devices, at.log_sum, at.top, at.bytes, at.bytes_squared], np.float64)
    return sums / max(at.seconds, MIN_S)


def _lanes(worker: ProcessView) -> Hashable:
    """What its totals are a sum of."""
    return worker.instance, worker.gauges.lane_restarts, frozenset(worker.gauges.lag_records or {})


def _of_worker(worker: ProcessView) -> Values:
    counters, dropped = worker.counters, worker.dropped
    malformed, limited = (float(sum(dropped.get(label, 0.0) for label in of)) for of in (MALFORMED, LIMITED))
    repeated = dropped.get(REPEATED, 0.0)
    devices = (worker.gauges.devices or 0) + counters.get("devices_forgotten", 0.0)
    of_all = (counters.get("received", 0.0) - repeated, counters.get("dropped", 0.0) - repeated)
    counted = (dropped.get(Reason.DUPLICATE.label, 0.0), counters.get("resets", 0.0), devices)
    return np.array([*of_all, malformed, limited, *counted], np.float64)


def _mixed(parts: Values) -> Mapping[str, Values]:
    """Activity of the fleet per second from that of edges, float64 [edges, 60, len(ACTIVITY)]."""
    frames, devices, log_sum, _, size, squared = parts.sum(axis=0).T
    some = frames > 0.0
    n = np.where(some, frames, 1.0)
    mean = size / n
    deviation = np.sqrt(np.maximum(0.0, squared / n - mean * mean))
    return {
        "active": devices,
        "entropy": np.where(some, np.maximum(0.0, np.log(n) - log_sum / n), 0.0),
        "top_share": parts[:, :, ACTIVITY.index("top")].max(axis=0) / n,
        "size_cv": np.where(mean > 0.0, deviation / np.where(mean > 0.0, mean, 1.0), 0.0),
    }
