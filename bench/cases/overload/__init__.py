"""Steady overload: 1.4 and 2 times the worker's capacity for 60 s.

Measures goodput, and the times to settle and to recover. A control group (needs root) gives the worker a fixed share of
a CPU. So the worker is the bottleneck, its capacity does not depend on the CPU use of sender, edge and broker, and the
rest of the machine can offer twice the capacity. Capacity is the rate that lands while more arrives than the worker can
process, without limits, and klais_raw fills up. It is probed in the same group before and after each step
(``capacity.py``): the step offers a multiple of the probe before it, and goodput is relative to the mean of both. If
the probes differ by more than 15 %, or the sender's CPU time a frame changes by as much within the step, the machine
has changed its speed, and the step is repeated, at most three times. All attempts are in the rows. The figures are
those of the first attempt with a steady machine, else of the steadiest, with a note. The share is 0.2 of a CPU, or half
of that if the machine cannot offer twice the capacity. ``KLAIS_TEST_OVERLOAD_S=10`` makes the steps shorter,
``KLAIS_TEST_OVERLOAD_CPU`` sets the share, ``KLAIS_TEST_OVERLOAD_FORECAST=trend`` (or ``none``) the forecast.

KLAIS_DAM_QUEUE_LIMIT is the capacity of 1.5 s, the choice of an operator who wants the backlog gone within seconds: a
queue takes its size / spare capacity to drain. KLAIS_ANOMALY_RATE is scaled with the share, because shedding makes
intervals uneven, and the flags for that would take a third of a fifth of a CPU.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases.overload.capacity import DEVICES, STILL, Around, capacity_of, chosen, warm_up
from bench.cases.overload.watch import SAMPLE_S, CpuClock, Floats, Watched, column, landed_per_s, waiting
from bench.harness import Bench, BenchFailed, count_records, edge_counters, wait_for
from bench.harness.cgroup import cpu_limited, enter
from bench.harness.report import Result
from klais.config.load import Settings
from klais.kafka.stats import StatsFollower
from klais.kafka.topics import Topics
from klais.telemetry.stats import total

FACTORS = (1.4, 2.0)
TRIES = 3
CPU_SHARES = (0.2, 0.1)  # the minimum: the least quota is 1 ms, of a period of 10
MAX_OFFERED = 320_000.0  # frames/s that one sender, an edge and a broker can handle next to the worker on two cores
CALM_S = 12.0
CALM_SHARE = 0.3  # of the capacity: the load before and after
END_S = 2.5  # the sender's own end, and the last window
WARM_S = 10.0
ANOMALY_RATE = 1000.0  # the default, sized for a worker with a whole CPU: this rate takes 6 % of one
WINDOW_S = 5.0  # one checkpoint of each lane: each window has the same number of them, and one burst of output is 5 %
STEADY = 0.8  # of the mean goodput, or of the capacity if that is less: the least goodput of a settled window
BACKLOG_S = 1.5  # seconds of capacity: the allowed backlog
WAITS_S = 2.0  # seconds of capacity: backlog and frames in flight if the edges shed correctly
WHOLE_SHARE = 0.9  # of its CPU share: a worker that uses this much in a second was not idle (the group counts in 0.1 s)
SPAN_S, SKIPPED_S = (
    5,
    2,
)  # window in which the sender's CPU time shows the machine's speed; its start is not steady
CLOCK_S = 0.01  # CPU times are counted in steps of this
NORMAL_S = 0.25  # seconds of capacity: the backlog is below this in normal operation
HELD = ("goodput_share", "settled_s", "normal_s", "unaccounted")


def settled_after(rows: Floats, begin_s: float, end_s: float, min_per_s: float) -> float:
    """Seconds from the start of the step to the first window from which on every one lands that much."""
    starts = np.arange(begin_s, end_s - WINDOW_S, SAMPLE_S)
    bad = [at for at in starts if landed_per_s(rows, at, at + WINDOW_S) < min_per_s]
    return float(bad[-1] + SAMPLE_S - begin_s) if bad else 0.0


def regulated_after(series: list[dict[str, Any]], seconds: float, cpus: float, max_s: float) -> float:
    """Seconds from the start of the step until the worker is never idle and at most ``max_s`` frames wait.

    The controller's part, independent of the machine's speed: a worker with its whole share (``cpus``) in use.
    """
    step = [second for second in series if 0 <= second["at_s"] < seconds - END_S]
    bad = [s["at_s"] for s in step if s["cpu_worker"] < WHOLE_SHARE * cpus - CLOCK_S or s["waiting"] > max_s]
    return float(bad[-1] + 1) if bad else 0.0


def swing_of(series: list[dict[str, Any]], seconds: float) -> float:
    """Factor by which the machine's speed changed within the step: the sender's CPU time a frame, maximum over minimum
    of ``SPAN_S``.

    The sender always does the same work, independent of the worker, so its CPU time shows the speed of the machine.
    """
    step = [s for s in series if SKIPPED_S <= s["at_s"] < seconds - END_S and s["received_per_s"] > 0]
    costs = np.array([s["cpu_sender"] / s["received_per_s"] for s in step])
    spans = np.convolve(costs, np.ones(SPAN_S), "valid") if len(costs) >= SPAN_S else costs
    return float(spans.max() / spans.min()) if len(spans) and spans.min() > 0 else 1.0


def load_ends(rows: Floats, before_s: float) -> float:
    """Time at which the edge had received its last frame before a pause of the sender, whose process ends later."""
    at, received = column(rows, "at_s"), column(rows, "received")
    last = received[np.searchsorted(at, before_s, "right") - 1]
    return float(at[np.searchsorted(received, last, "left")])


def normal_after(rows: Floats, begin_s: float, max_s: float) -> float | None:
    """Seconds from the end of the load until at most ``max_s`` frames wait, permanently; None = not in the observed
    time.
    """
    after = column(rows, "at_s") >= begin_s
    at = column(rows, "at_s")[after]
    bad = np.flatnonzero(waiting(rows)[after] > max_s)
    if not len(bad):
        return 0.0
    later = at[bad[-1] + 1 :]
    return float(later[0] - begin_s) if len(later) else None


class FrameTotals:
    """Location of all frames: counters of edge, kernel, worker and log, to be subtracted."""

    def __init__(self, settings: Settings, stats: StatsFollower) -> None:
        counters = edge_counters(settings)
        wait_for(lambda: stats.newest("worker"), 10, "a record of the worker")
        workers = [record["counters"] for record in stats.newest("worker").values()]
        self.received: int = counters["received"]
        self.dropped: dict[str, int] = {**counters["dropped"]}
        self.dropped_later = int(sum(total(c["dropped"]) for c in workers))
        self.landed = count_records(settings, Topics.of(settings).telemetry)

    def since(self, before: "FrameTotals", sent: int) -> dict[str, Any]:
        """Outcome of that many frames sent since then; ``unaccounted`` must be 0."""
        dropped = {
            why: n - before.dropped.get(why, 0) for why, n in self.dropped.items() if n > before.dropped.get(why, 0)
        }
        landed, later = self.landed - before.landed, self.dropped_later - before.dropped_later
        return {
            "sent": sent,
            "landed": landed,
            "dropped_by_edge": dropped,
            "dropped_by_worker": later,
            "unaccounted": sent - landed - sum(dropped.values()) - later,
        }


@dataclass(frozen=True, slots=True)
class Step:
    """Observation of one step up and down again.

    ``samples`` as in :meth:`Watched.table`; ``marks`` are the start times of calm load, step and second calm load, and
    the end (s); ``sent`` are the frames of the three.
    """

    samples: Floats
    marks: tuple[float, ...]
    sent: tuple[int, ...]
    totals: dict[str, Any]
    series: list[dict[str, Any]]


def stepped(bench: Bench, settings: Settings, clock: CpuClock, capacity: float, factor: float, seconds: float) -> Step:
    """Run a calm load, the overload, and calm again."""
    watched, calm = Watched(settings, clock), CALM_SHARE * capacity
    before = FrameTotals(settings, watched.stats)
    rates = ((calm, CALM_S / 2), (factor * capacity, seconds), (calm, CALM_S))
    marks, sent = [time.monotonic()], []
    for part, (rate, part_s) in enumerate(rates):
        options = ("--devices", str(DEVICES), "--rate", f"{rate:.0f}", "--for", f"{part_s:g}s")
        with bench.simulate(settings, *options, "--id-prefix", f"o{part}-") as sender:
            clock.sender = sender
            watched.until(time.monotonic() + part_s)
            while sender.running:
                watched.until(time.monotonic() + SAMPLE_S)
            sent.append(int(sender.summary(30)["frames"]))
        marks.append(time.monotonic())
    watched.until(marks[-1] + 4)  # the backlog lands, and all processes report it
    totals = FrameTotals(settings, watched.stats).since(before, sum(sent))
    watched.stats.stop()
    return Step(watched.table(), tuple(marks), tuple(sent), totals, watched.series(marks[1]))


def figures_of(step: Step, around: Around, factor: float, seconds: float, cpus: float) -> dict[str, Any]:
    """The row of a step: capacities, goodput, times to settle and to recover, outcome of all frames."""
    rows, marks, capacity = step.samples, step.marks, around.mean
    goodput = landed_per_s(rows, marks[1] + 2, marks[2] - END_S)
    at = column(rows, "at_s")
    before, within = at < marks[1], (at >= marks[1]) & (at <= marks[2])
    during = rows[within]
    intake_min = float(column(during, "intake").min())
    return {
        "factor": factor,
        "capacity_before_per_s": round(around.before),
        "capacity_after_per_s": round(around.after),
        "drift": round(around.drift, 3),
        "swing": round(around.swing, 3),
        "moved": around.moved,
        "offered_per_s": round(step.sent[1] / seconds),
        "offered_share": round(step.sent[1] / seconds / capacity, 3),
        "goodput_per_s": round(goodput),
        "goodput_share": round(goodput / capacity, 3),
        "settled_s": round(settled_after(rows, marks[1], marks[2] - END_S, STEADY * min(goodput, capacity)), 2),
        "regulated_s": regulated_after(step.series, seconds, cpus, WAITS_S * capacity),
        "normal_s": normal_after(rows, load_ends(rows, marks[2]), NORMAL_S * capacity),
        "waited_before_s": round(
            float(waiting(rows)[before].max()) / capacity, 2
        ),  # above NORMAL_S: normal_s says little
        **step.totals,
        "waited_max_s": round(float(waiting(rows)[within].max()) / capacity, 2),
        "lag_max": round(float(column(during, "lag").max())),
        "queue_max": round(float(column(during, "queue").max())),
        "rate_min": round(float(column(during, "rate").min())),
        "rate_max": round(float(column(during, "rate").max())),
        "intake_min": round(intake_min) if np.isfinite(intake_min) else None,
        # its whole share in each second = frames always waited, and goodput is its speed
        "worker_cpus_min": round(
            min(second["cpu_worker"] for second in step.series if 2 <= second["at_s"] < seconds), 2
        ),
        "others_cpus": round(float(np.mean([second["cpu_others"] for second in step.series])), 2),
    }


@dataclass(frozen=True, slots=True)
class Experiment:
    """Parameters: the control group, its share of a CPU, seconds of each step, the forecast (KLAIS_FORECAST)."""

    bench: Bench
    group: Path
    share: float
    seconds: float
    forecast: str = "learned"

    def capacity(self, known: float | None = None) -> float:
        """Measure the worker's present capacity (frames/s); takes about a minute if a recent one is ``known``."""
        self.bench.say(f"overload: capacity of a worker with {self.share:g} of a CPU")
        found = capacity_of(self.bench, self.group, ANOMALY_RATE * self.share, known)
        self.bench.say(f"overload: {found:,.0f} frames/s" + (f", {known:,.0f} before" if known is not None else ""))
        return found

    def step(self, factor: float, capacity: float) -> Step:
        """Run one step on a new system, whose backlog is bounded by the previously probed capacity."""
        given: dict[str, Any] = {"dam_max_rate": 10_000, "dam_burst_size": 50_000, "control_auto": True}
        given |= {"dam_queue_limit": round(BACKLOG_S * capacity), "anomaly_rate": ANOMALY_RATE * self.share}
        given |= {"forecast": self.forecast}
        bench = self.bench
        with bench.topics(**given) as settings, bench.edge(settings) as edge, bench.worker(settings) as worker:
            enter(self.group, worker.pid)
            clock = CpuClock(bench, self.group, worker, edge)
            warm_up(bench, settings, WARM_S)
            bench.say(f"overload: {factor:g} x {capacity:,.0f} frames/s for {self.seconds:g} s")
            return stepped(bench, settings, clock, capacity, factor, self.seconds)


def until_still(
    capacity: float, seconds: float, step: Callable[[float], Step], probe: Callable[[float], float]
) -> list[tuple[Around, Step]]:
    """Run a step, and repeat it while the machine's speed changes, at most ``TRIES`` times.

    Parameters
    ----------
    capacity : float
        Capacity just probed, frames/s.
    seconds : float
        Length of a step.
    step : Callable
        One step; takes the capacity probed before it.
    probe : Callable
        The capacity now, frames/s; takes the one before. The probe after a try is the one before the next.
    """
    out: list[tuple[Around, Step]] = []
    while len(out) < TRIES and not (out and not out[-1][0].moved):
        seen = step(capacity)
        around = Around(capacity, probe(capacity), swing_of(seen.series, seconds))
        out.append((around, seen))
        capacity = around.after
    return out


def tell(result: Result, factor: float, seconds: float, cpus: float, tries: list[tuple[Around, Step]]) -> None:
    """Report all attempts as rows and series, the figures of the valid one, and a note if the machine was steady in
    none.
    """
    best, name = chosen([around for around, _ in tries]), f"{factor:g}x"
    rows = [figures_of(step, around, factor, seconds, cpus) for around, step in tries]
    for number, (row, (_, step)) in enumerate(zip(rows, tries, strict=True)):
        result.rows.append({"try": number + 1, "counts": number == best, **row})
        result.series[name if number == best else f"{name}_try_{number + 1}"] = step.series
    around, row = tries[best][0], rows[best]
    for figure in HELD:
        value = row[figure]
        result.figures[f"{figure}_{name}"] = 999.0 if value is None else round(value, 2)
    result.figures[f"regulated_s_{name}"] = row["regulated_s"]
    result.figures[f"capacity_per_s_{name}"] = round(around.mean)
    result.figures[f"drift_{name}"] = round(around.drift, 3)
    result.figures[f"swing_{name}"] = round(around.swing, 3)
    result.figures[f"moved_{name}"] = int(around.moved)
    result.figures[f"tries_{name}"] = len(tries)
    if around.moved:
        result.notes.append(
            f"THE MACHINE MOVED in each of {len(tries)} tries at {name}: the capacity went from {around.before:,.0f} "
            f"to {around.after:,.0f} frames/s in the one that counts, and the sender's CPU time a frame by a factor of "
            f"{around.swing:.2f} within it ({STILL:g} is allowed); its figures say little"
        )


def offerable(experiment: Experiment, last: bool) -> float | None:
    """The capacity of the worker (frames/s); None if the machine cannot offer that much and there is a smaller share to
    try.
    """
    try:
        capacity = experiment.capacity()
    except BenchFailed:
        if last:
            raise
        return None
    return capacity if last or max(FACTORS) * capacity <= MAX_OFFERED else None


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("overload")
    seconds = float(os.environ.get("KLAIS_TEST_OVERLOAD_S", "60"))
    given = os.environ.get("KLAIS_TEST_OVERLOAD_CPU")
    forecast = os.environ.get("KLAIS_TEST_OVERLOAD_FORECAST", "learned")
    shares = CPU_SHARES if given is None else (float(given),)
    for share in shares:
        with cpu_limited(share) as group:
            experiment = Experiment(bench, group, share, seconds, forecast)
            capacity = offerable(experiment, last=share == shares[-1])
            if capacity is None:
                continue
            for factor in FACTORS:
                tries = until_still(capacity, seconds, partial(experiment.step, factor), experiment.capacity)
                tell(result, factor, seconds, share, tries)
                capacity = tries[-1][0].after  # probed just now
            break
    result.notes.append(
        f"the worker has {share:g} of a CPU, forecast {forecast}; `others_cpus` is what other programs took meanwhile"
    )
    return result
