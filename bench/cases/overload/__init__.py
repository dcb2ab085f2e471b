"""Steady overload: 1.4 and 2 times what the worker carries, for 60 s; what lands meanwhile, how soon it settles and
ends.

The worker gets a fixed share of a CPU (a control group; root is needed), so that it is the bottleneck, its capacity
does not move with what sender, edge and broker need, and the rest of the machine can offer twice of it. Capacity is
what lands while more comes than the worker takes, nothing limits it, and klais_raw fills up. It is probed in the same
group before and after each step (``capacity.py``): the step offers a multiple of the probe before it, and what lands
is compared with the mean of both. When the two differ by more than 15 %, or the sender's CPU time a frame does within
the step, the machine changed its speed meanwhile, and the step is made again, three times at most; all tries are in
the rows, the figures are those of the first in which the machine held still, else of the one that it moved least in,
and then a note says so. The share is 0.2 of a CPU, and half of that where the machine could not offer twice of what
the worker carries with it. ``KLAIS_TEST_OVERLOAD_S=10`` makes it shorter, ``KLAIS_TEST_OVERLOAD_CPU`` sets the share.

What may wait (KLAIS_DAM_QUEUE_LIMIT) is set to what the worker carries in 1.5 s, as an operator would who wants the
backlog gone within seconds: a queue of any size takes its size / spare capacity to drain. KLAIS_ANOMALY_RATE is
scaled with the share: frames that are shed make intervals uneven, and the flags for that would take a third of a
fifth of a CPU.
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
CPU_SHARES = (0.2, 0.1)  # less is no use: the least quota is 1 ms, of a period of 10
OFFERED_MOST = 320_000.0  # frames/s that one sender, an edge and a broker can handle besides the worker on two cores
CALM_S = 12.0
CALM_SHARE = 0.3  # of the capacity: the load before and after
END_S = 2.5  # the sender's own end, and the last window
WARM_S = 10.0
ANOMALY_RATE = 1000.0  # the default, sized for a worker with a whole CPU: writing so many takes 6 % of one
WINDOW_S = (
    5.0  # one checkpoint of each lane: each window has the same of them, and a lump of output more or less is 5 %
)
STEADY = 0.8  # of the mean goodput, or of the capacity if that is less: what every window lands once it has settled
BACKLOG_S = 1.5  # of capacity: what may wait
WAITS_S = 2.0  # of capacity: what waits and what is under way, when the edges shed as they should
WHOLE_SHARE = 0.9  # of its CPU share: a worker that uses so much in a second was not idle (the group counts in 0.1 s)
SPAN_S, SKIPPED_S = (
    5,
    2,
)  # over so many seconds the sender's CPU time tells the machine's speed; its begin is not steady
CLOCK_S = 0.01  # CPU times are counted in steps of this
NORMAL_S = 0.25  # of capacity: less than this waits when all is as before
HELD = ("goodput_share", "settled_s", "normal_s", "unaccounted")


def settled_after(rows: Floats, begin_s: float, end_s: float, least_per_s: float) -> float:
    """Seconds from the begin of the step to the begin of the first window from which on every one lands so much."""
    starts = np.arange(begin_s, end_s - WINDOW_S, SAMPLE_S)
    bad = [at for at in starts if landed_per_s(rows, at, at + WINDOW_S) < least_per_s]
    return float(bad[-1] + SAMPLE_S - begin_s) if bad else 0.0


def regulated_after(series: list[dict[str, Any]], seconds: float, cpus: float, most: float) -> float:
    """Seconds from the begin of the step from which on the worker is never idle and no more than ``most`` frames wait.

    What control can do, whatever the machine's speed: a worker that uses its whole share (``cpus``) lands what it can.
    """
    step = [second for second in series if 0 <= second["at_s"] < seconds - END_S]
    bad = [s["at_s"] for s in step if s["cpu_worker"] < WHOLE_SHARE * cpus - CLOCK_S or s["waiting"] > most]
    return float(bad[-1] + 1) if bad else 0.0


def swing_of(series: list[dict[str, Any]], seconds: float) -> float:
    """By what factor the machine's speed moved within the step: the sender's CPU time a frame, most over least of
    ``SPAN_S``.

    The sender does the same work all the time and knows nothing of the worker, so what it needs for that is the
    machine's.
    """
    step = [s for s in series if SKIPPED_S <= s["at_s"] < seconds - END_S and s["received_per_s"] > 0]
    costs = np.array([s["cpu_sender"] / s["received_per_s"] for s in step])
    spans = np.convolve(costs, np.ones(SPAN_S), "valid") if len(costs) >= SPAN_S else costs
    return float(spans.max() / spans.min()) if len(spans) and spans.min() > 0 else 1.0


def load_ends(rows: Floats, before_s: float) -> float:
    """When the edge had received the last frame that it got before a time at which nobody sends: the sender ends
    later.
    """
    at, received = column(rows, "at_s"), column(rows, "received")
    last = received[np.searchsorted(at, before_s, "right") - 1]
    return float(at[np.searchsorted(received, last, "left")])


def normal_after(rows: Floats, begin_s: float, most: float) -> float | None:
    """Seconds from the end of the load until no more than ``most`` frames wait and it stays so; None = not while
    watched.
    """
    after = column(rows, "at_s") >= begin_s
    at = column(rows, "at_s")[after]
    bad = np.flatnonzero(waiting(rows)[after] > most)
    if not len(bad):
        return 0.0
    later = at[bad[-1] + 1 :]
    return float(later[0] - begin_s) if len(later) else None


class Ledger:
    """Where all frames are: of edge, kernel, worker and log, to be subtracted."""

    def __init__(self, settings: Settings, stats: StatsFollower) -> None:
        counters = edge_counters(settings)
        wait_for(lambda: stats.newest("worker"), 10, "a record of the worker")
        workers = [record["counters"] for record in stats.newest("worker").values()]
        self.received: int = counters["received"]
        self.dropped: dict[str, int] = {**counters["dropped"]}
        self.dropped_later = int(sum(total(c["dropped"]) for c in workers))
        self.landed = count_records(settings, Topics.of(settings).telemetry)

    def since(self, before: "Ledger", sent: int) -> dict[str, Any]:
        """What became of so many frames sent since then; ``unaccounted`` must be 0."""
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
    """What was seen of one step up and down again.

    ``samples`` as in :meth:`Watched.table`; ``marks`` are when the calm load, the step, and the calm after it began,
    and when that ended (s); ``sent`` are the frames of the three.
    """

    samples: Floats
    marks: tuple[float, ...]
    sent: tuple[int, ...]
    ledger: dict[str, Any]
    series: list[dict[str, Any]]


def stepped(bench: Bench, settings: Settings, clock: CpuClock, capacity: float, factor: float, seconds: float) -> Step:
    """A calm load, the overload, and calm again."""
    watched, calm = Watched(settings, clock), CALM_SHARE * capacity
    before = Ledger(settings, watched.stats)
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
    watched.until(marks[-1] + 4)  # what still waits lands, and everybody says so
    ledger = Ledger(settings, watched.stats).since(before, sum(sent))
    watched.stats.stop()
    return Step(watched.table(), tuple(marks), tuple(sent), ledger, watched.series(marks[1]))


def figures_of(step: Step, around: Around, factor: float, seconds: float, cpus: float) -> dict[str, Any]:
    """The row of a step: what it is compared with, what landed, how soon it settled and ended, what became of all
    frames.
    """
    rows, marks, capacity = step.samples, step.marks, around.mean
    goodput = landed_per_s(rows, marks[1] + 2, marks[2] - END_S)
    at = column(rows, "at_s")
    before, within = at < marks[1], (at >= marks[1]) & (at <= marks[2])
    during = rows[within]
    least_intake = float(column(during, "intake").min())
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
        **step.ledger,
        "waited_most_s": round(float(waiting(rows)[within].max()) / capacity, 2),
        "most_lag": round(float(column(during, "lag").max())),
        "most_queue": round(float(column(during, "queue").max())),
        "rate_least": round(float(column(during, "rate").min())),
        "rate_most": round(float(column(during, "rate").max())),
        "intake_least": round(least_intake) if np.isfinite(least_intake) else None,
        # its whole share in each second = something always waited for it, and what lands is its speed
        "worker_cpus_least": round(
            min(second["cpu_worker"] for second in step.series if 2 <= second["at_s"] < seconds), 2
        ),
        "others_cpus": round(float(np.mean([second["cpu_others"] for second in step.series])), 2),
    }


@dataclass(frozen=True, slots=True)
class Experiment:
    """Where and for how long: the control group, its share of a CPU, seconds of each step."""

    bench: Bench
    group: Path
    share: float
    seconds: float

    def capacity(self, known: float | None = None) -> float:
        """What the worker carries now (frames/s); about a minute when it was ``known`` a while ago."""
        self.bench.say(f"overload: capacity of a worker with {self.share:g} of a CPU")
        found = capacity_of(self.bench, self.group, ANOMALY_RATE * self.share, known)
        self.bench.say(f"overload: {found:,.0f} frames/s" + (f", {known:,.0f} before" if known is not None else ""))
        return found

    def step(self, factor: float, capacity: float) -> Step:
        """One step on a system of its own, whose backlog is bounded by the capacity probed before."""
        given: dict[str, Any] = {"dam_max_rate": 10_000, "dam_burst_size": 50_000, "control_auto": True}
        given |= {"dam_queue_limit": round(BACKLOG_S * capacity), "anomaly_rate": ANOMALY_RATE * self.share}
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
    """A step, and again while the machine moves, ``TRIES`` times at most.

    Parameters
    ----------
    capacity : float
        Probed just now, frames/s.
    seconds : float
        That a step lasts.
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
    """All tries to the rows and series, the figures of the one that counts, and a note when the machine held still in
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
    """The capacity of the worker (frames/s); None where so much cannot be offered, unless there is no smaller share
    to try.
    """
    try:
        capacity = experiment.capacity()
    except BenchFailed:
        if last:
            raise
        return None
    return capacity if last or max(FACTORS) * capacity <= OFFERED_MOST else None


def run(bench: Bench) -> Result:
    """See the module."""
    result = Result("overload")
    seconds = float(os.environ.get("KLAIS_TEST_OVERLOAD_S", "60"))
    given = os.environ.get("KLAIS_TEST_OVERLOAD_CPU")
    shares = CPU_SHARES if given is None else (float(given),)
    for share in shares:
        with cpu_limited(share) as group:
            experiment = Experiment(bench, group, share, seconds)
            capacity = offerable(experiment, last=share == shares[-1])
            if capacity is None:
                continue
            for factor in FACTORS:
                tries = until_still(capacity, seconds, partial(experiment.step, factor), experiment.capacity)
                tell(result, factor, seconds, share, tries)
                capacity = tries[-1][0].after  # probed just now
            break
    result.notes.append(
        f"the worker has {share:g} of a CPU; `others_cpus` is what programs that are not ours took meanwhile"
    )
    return result
