"""Observe an overload from outside: four samples a second, and series by second derived from them.

Totals (landed, received, shed, CPU times, checkpoints) become rates, other values are those at the end of each second.
So each dip can be matched with its cause: a checkpoint, a cut, a lower intake, a worker that waited for its share of
the CPU, or other programs on the machine.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from bench.harness import Bench, Child, Ends, edge_counters
from klais.config.load import Settings
from klais.kafka.stats import StatsFollower
from klais.kafka.topics import Topics
from klais.telemetry.stats import total

SAMPLE_S = 0.25

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """CPU times so far (s): ``worker``, ``edge``, ``broker``, of other programs (``others``), taken by the hypervisor
    (``steal``), time that the worker's group waited for its share (``throttled``, summed over CPUs), and ``sender``
    (all of them, one after the other).
    """

    worker: float = 0.0
    throttled: float = 0.0
    edge: float = 0.0
    broker: float = 0.0
    others: float = 0.0
    steal: float = 0.0
    sender: float = 0.0


class CpuClock:
    """Reads :class:`CpuTimes`.

    Parameters
    ----------
    bench : Bench
        Provides the CPU times of the broker, itself and ended children.
    group : Path
        Control group of the worker.
    worker, edge : Child
        Running.
    """

    def __init__(self, bench: Bench, group: Path, worker: Child, edge: Child) -> None:
        self._bench, self._group, self._worker, self._edge = bench, group, worker, edge
        self.sender: Child | None = None  # the newest
        self._looked_at: Child | None = None
        self._earlier_s = self._sender_s = 0.0  # of senders before the newest, of that

    def __call__(self) -> CpuTimes:
        """Read the present CPU times."""
        machine, ours = self._bench.busy_s()
        worker, edge = self._worker.cpu_s(), self._edge.cpu_s()
        if self.sender is not self._looked_at:
            self._earlier_s, self._sender_s, self._looked_at = self._earlier_s + self._sender_s, 0.0, self.sender
        running = self.sender is not None and self.sender.running
        if self.sender is not None and running:
            self._sender_s = _tree_cpu_s(self.sender)
        sender = self._sender_s if running else 0.0
        steal = float(getattr(psutil.cpu_times(), "steal", 0.0))
        others = machine - ours - worker - edge - sender - steal
        all_senders = self._earlier_s + self._sender_s
        return CpuTimes(worker, self._throttled_s(), edge, self._bench.kafka_cpu_s(), others, steal, all_senders)

    def _throttled_s(self) -> float:
        for line in (self._group / "cpu.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in ("throttled_usec", "throttled_time"):  # of version 2 in us, of version 1 in ns
                return int(value) / (1e6 if name == "throttled_usec" else 1e9)
        return 0.0


def _tree_cpu_s(child: Child) -> float:
    """CPU time of a process and its children."""
    used = child.cpu_s()
    for process in psutil.Process(child.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used += times.user + times.system
    return used


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: frames (``landed``; ``received`` and ``shed`` by the edge; ``dropped`` by workers; ``queue`` and
    ``lag`` as reported by workers), frames/s (``rate``, ``intake``), and ``answer_s``, the broker's response time for
    the landed frames.
    """

    at_s: float
    landed: float
    received: float
    shed: float
    dropped: float
    checkpoints: float
    queue: float
    lag: float
    rate: float
    intake: float
    cut: float
    burst_probability: float
    answer_s: float


NAMES = tuple(field.name for field in fields(Sample))
TOTALS = ("landed", "received", "shed")


class Watched:
    """Samples of end offsets and statistics, ``SAMPLE_S`` apart; with CPU times if a clock is given."""

    def __init__(self, settings: Settings, clock: Callable[[], CpuTimes] = CpuTimes) -> None:
        self._ends, self.stats = Ends(settings, Topics.of(settings).telemetry), StatsFollower(settings)
        self._settings, self._clock = settings, clock
        self.stats.start()
        self.samples: list[Sample] = []
        self.cpu: list[CpuTimes] = []

    def until(self, end_s: float) -> None:
        """Sample until that time (monotonic)."""
        while time.monotonic() < end_s:
            self.samples.append(self._sample())
            self.cpu.append(self._clock())
            time.sleep(SAMPLE_S)

    def _sample(self) -> Sample:
        asked_s = time.monotonic()
        landed = self._ends.total()
        answered_s = time.monotonic()
        edge = edge_counters(self._settings)  # not from klais_stats: once a second is too rare
        system = self.stats.view()
        control = [controller.gauges for controller in system.controllers.values()]
        intake = [edge_view.gauges.limit_per_s or np.inf for edge_view in system.edges.values()]
        return Sample(
            at_s=(asked_s + answered_s) / 2,
            landed=landed,
            received=edge["received"],
            shed=total(edge["dropped"]),
            dropped=system.counter("dropped"),
            checkpoints=system.counter("checkpoints"),
            queue=system.gauge("queue_depth"),
            lag=sum(sum((worker.gauges.lag_frames or {}).values()) for worker in system.workers.values()),
            rate=system.highest("rate_limit"),
            intake=min(intake, default=np.inf),
            cut=max((gauges.cut or 0.0 for gauges in control), default=0.0),
            burst_probability=max((gauges.burst_probability or 0.0 for gauges in control), default=0.0),
            answer_s=answered_s - asked_s,
        )

    def table(self) -> Floats:
        """One row for each sample, columns :data:`NAMES`: float64 [n, len(NAMES)]."""
        return np.array([astuple(sample) for sample in self.samples], np.float64).reshape(-1, len(NAMES))

    def series(self, step_s: float) -> list[dict[str, Any]]:
        """One row a second, ``at_s`` counted from the step: rates of totals, other values as at the second's end."""
        return series(self.table(), np.array([astuple(cpu) for cpu in self.cpu], np.float64), step_s)


def column(rows: Floats, name: str) -> Floats:
    """One column of a table of samples: float64 [n]."""
    return rows[:, NAMES.index(name)]


def landed_per_s(rows: Floats, begin_s: float, end_s: float) -> float:
    """Mean records/s that landed between two times (linear between two samples, because a busy broker answers late)."""
    begin, end = np.interp((begin_s, end_s), column(rows, "at_s"), column(rows, "landed"))
    return float((end - begin) / (end_s - begin_s))


def waiting(rows: Floats) -> Floats:
    """Frames that the edge admitted and that have not landed, less those before the first sample: float64 [n].

    Counted, not reported by workers: their lag in frames is an estimate from records.
    """
    waits = column(rows, "received") - column(rows, "shed") - column(rows, "dropped") - column(rows, "landed")
    return np.asarray(waits - waits[0], np.float64)


def series(rows: Floats, cpu: Floats, step_s: float) -> list[dict[str, Any]]:
    """See :meth:`Watched.series`; ``rows`` float64 [n, len(NAMES)], ``cpu`` float64 [n, 7] as in :class:`CpuTimes`."""
    at = column(rows, "at_s")
    grid = step_s + np.arange(np.ceil(at[0] - step_s), np.floor(at[-1] - step_s) + 1)
    if len(grid) < 2:
        return []
    grown = {f"{name}_per_s": np.diff(np.interp(grid, at, column(rows, name))).round() for name in TOTALS}
    grown["checkpoints"] = np.diff(np.interp(grid, at, column(rows, "checkpoints"))).round(1)
    for number, field in enumerate(fields(CpuTimes)):
        grown[f"cpu_{field.name}"] = np.diff(np.interp(grid, at, cpu[:, number])).round(3)
    last = np.searchsorted(at, grid[1:], "right") - 1
    grown["waiting"] = waiting(rows)[last]
    for name in ("queue", "lag", "rate", "intake"):
        grown[name] = column(rows, name)[last].round()
    for name in ("cut", "burst_probability"):
        grown[name] = column(rows, name)[last].round(3)
    answers, first = column(rows, "answer_s"), np.searchsorted(at, grid[:-1])
    slowest = [answers[a:b].max(initial=0.0) for a, b in zip(first, last + 1, strict=True)]
    grown["answer_s"] = np.round(slowest, 3)  # possible error of `landed`
    out = []
    for number, begin_s in enumerate(grid[:-1]):
        values = {name: float(values[number]) for name, values in grown.items()}
        out.append(
            {"at_s": round(float(begin_s - step_s)), **{k: v if np.isfinite(v) else None for k, v in values.items()}}
        )
    return out
