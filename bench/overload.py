"""Steady overload: 1.4 and 2 times what the worker carries, for 60 s; what lands meanwhile, how soon it settles and ends.

The worker gets a fixed share of a CPU (a control group; root is needed), so that it is the bottleneck, its capacity does not
move with what sender, edge and broker need, and the rest of the machine can offer twice of it. Capacity is measured first, in
the same run and the same group: what lands while more comes than the worker takes, nothing limits it, and klais_raw fills up.
``KLAIS_TEST_OVERLOAD_S=10`` makes it shorter, ``KLAIS_TEST_OVERLOAD_CPU`` is the share (0.2).

What may wait (KLAIS_DAM_QUEUE_LIMIT) is set to what the worker carries in 1.5 s, as an operator would who wants the backlog
gone within seconds: a queue of any size takes its size / spare capacity to drain. KLAIS_ANOMALY_RATE is scaled with the share:
frames that are shed make intervals uneven, and the flags for that would take a third of a fifth of a CPU.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.cgroup import cpu_limited, enter
from bench.harness import Bench, BenchFailed, count_records, edge_counters, wait_for
from bench.overload_watch import LOOK_S, CpuClock, Floats, Watched, column, waiting
from bench.report import Result
from klais.config import Settings
from klais.control.stats import StatsFollower, total
from klais.kafka.topics import Topics

FACTORS = (1.4, 2.0)
CPU_SHARE = 0.2
PROBES = (100_000, 150_000, 200_000, 300_000)
PROBE_S, PROBE_SKIP_S = 10.0, 4.0
SATURATED = 0.85  # of what was sent landed: the probe is above the capacity
CALM_S = 12.0
CALM_SHARE = 0.3  # of the capacity: the load before and after
END_S = 2.5  # the sender's own end, and the last window
WARM_S = 10.0
DEVICES = 10_000
ANOMALY_RATE = 1000.0  # the default, sized for a worker with a whole CPU: writing so many takes 6 % of one
WINDOW_S = 3.0  # checkpoints come every 5 s, log ends are seen a breath late: over 3 s the flow is what it is
STEADY = 0.8  # of the mean goodput: what every window lands once it has settled
BACKLOG_S = 1.5  # of capacity: what may wait
NORMAL_S = 0.25  # of capacity: less than this waits when all is as before


def landed_per_s(rows: Floats, begin_s: float, end_s: float) -> float:
    """Mean records/s that landed between two times (between two looks in a straight line: a busy broker answers late)."""
    begin, end = np.interp((begin_s, end_s), column(rows, "at_s"), column(rows, "landed"))
    return float((end - begin) / (end_s - begin_s))


def settled_after(rows: Floats, begin_s: float, end_s: float, least_per_s: float) -> float:
    """Seconds from the begin of the step to the begin of the first window from which on every one lands so much."""
    starts = np.arange(begin_s, end_s - WINDOW_S, LOOK_S)
    bad = [at for at in starts if landed_per_s(rows, at, at + WINDOW_S) < least_per_s]
    return float(bad[-1] + LOOK_S - begin_s) if bad else 0.0


def load_ends(rows: Floats, before_s: float) -> float:
    """When the edge had received the last frame that it got before a time at which nobody sends: the sender ends later."""
    at, received = column(rows, "at_s"), column(rows, "received")
    last = received[np.searchsorted(at, before_s, "right") - 1]
    return float(at[np.searchsorted(received, last, "left")])


def normal_after(rows: Floats, begin_s: float, most: float) -> float | None:
    """Seconds from the end of the load until no more than ``most`` frames wait and it stays so; None = not while watched."""
    after = column(rows, "at_s") >= begin_s
    at = column(rows, "at_s")[after]
    bad = np.flatnonzero(waiting(rows)[after] > most)
    if not len(bad):
        return 0.0
    later = at[bad[-1] + 1 :]
    return float(later[0] - begin_s) if len(later) else None


def warm_up(bench: Bench, settings: Settings) -> None:
    """Load until the worker has done everything for the first time: with a share of a CPU that takes seconds."""
    watched = Watched(settings)
    with bench.simulate(settings, "--devices", str(DEVICES), "--rate", "20000", "--for", f"{WARM_S:g}s") as sender:
        sender.summary(60)
    wait_for(lambda: watched.stats.newest("worker"), 10, "a record of the worker")
    watched.until(time.monotonic() + 1.5)
    while watched.looks[-1].lag > 0 and len(watched.looks) * LOOK_S < 30:
        watched.until(time.monotonic() + LOOK_S)
    watched.stats.stop()


def capacity_of(bench: Bench, group: Path, anomaly_rate: float) -> float:
    """Frames/s that land while the worker has more than it can take, with an open dam and without a controller.

    The better of two probes that overload it, the second with more: a slow moment of the machine is no smaller worker.
    """
    with bench.topics(anomaly_rate=anomaly_rate) as settings, bench.edge(settings), bench.worker(settings) as worker:
        enter(group, worker.pid)
        warm_up(bench, settings)
        saturated: list[float] = []
        for rate in PROBES:
            landed, sent_per_s = probe(bench, settings, rate)
            bench.say(f"overload: {sent_per_s:,.0f} sent/s, {landed:,.0f} landed/s")
            if landed < SATURATED * sent_per_s:
                saturated.append(landed)
            else:
                saturated.clear()  # what looked like its end was none
            if len(saturated) == 2:
                return max(saturated)
    raise BenchFailed(f"{PROBES[-1]:,} frames/s do not overload a worker with {CPU_SHARE:g} of a CPU: give it less")


def probe(bench: Bench, settings: Settings, rate: int) -> tuple[float, float]:
    """Frames/s that land, and that were sent."""
    watched, began_s = Watched(settings), time.monotonic()
    options = ("--devices", str(DEVICES), "--rate", str(rate), "--for", f"{PROBE_S:g}s", "--id-prefix", f"p{rate}-")
    with bench.simulate(settings, *options) as sender:
        watched.until(began_s + PROBE_S)
        sent_per_s = float(sender.summary(30)["rate_per_s"])
    watched.stats.stop()
    return landed_per_s(watched.table(), began_s + PROBE_SKIP_S, began_s + PROBE_S), sent_per_s


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
        dropped = {why: n - before.dropped.get(why, 0) for why, n in self.dropped.items() if n > before.dropped.get(why, 0)}
        landed, later = self.landed - before.landed, self.dropped_later - before.dropped_later
        return {
            "sent": sent,
            "landed": landed,
            "dropped_by_edge": dropped,
            "dropped_by_worker": later,
            "unaccounted": sent - landed - sum(dropped.values()) - later,
        }


def overload(
    bench: Bench, settings: Settings, clock: CpuClock, capacity: float, factor: float, seconds: float, number: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One step up and down again: its figures, and its series."""
    watched, calm = Watched(settings, clock), CALM_SHARE * capacity
    before = Ledger(settings, watched.stats)
    rates = ((calm, CALM_S / 2), (factor * capacity, seconds), (calm, CALM_S))
    marks, sent = [time.monotonic()], []
    for part, (rate, part_s) in enumerate(rates):
        options = ("--devices", str(DEVICES), "--rate", f"{rate:.0f}", "--for", f"{part_s:g}s")
        with bench.simulate(settings, *options, "--id-prefix", f"o{number}{part}-") as sender:
            watched.until(time.monotonic() + part_s)
            while sender.running:
                watched.until(time.monotonic() + LOOK_S)
            sent.append(sender.summary(30)["frames"])
        marks.append(time.monotonic())
    watched.until(marks[-1] + 4)  # what still waits lands, and everybody says so
    ledger = Ledger(settings, watched.stats).since(before, sum(sent))
    watched.stats.stop()
    rows = watched.table()
    goodput = landed_per_s(rows, marks[1] + 2, marks[2] - END_S)
    within = (column(rows, "at_s") >= marks[1]) & (column(rows, "at_s") <= marks[2])
    during = rows[within]
    least_intake = float(column(during, "intake").min())
    figures = {
        "factor": factor,
        "offered_per_s": round(sent[1] / seconds),
        "offered_share": round(sent[1] / seconds / capacity, 3),
        "goodput_per_s": round(goodput),
        "goodput_share": round(goodput / capacity, 3),
        "settled_s": round(settled_after(rows, marks[1], marks[2] - END_S, STEADY * goodput), 2),
        "normal_s": normal_after(rows, load_ends(rows, marks[2]), NORMAL_S * capacity),
        **ledger,
        "waited_most_s": round(float(waiting(rows)[within].max()) / capacity, 2),
        "most_lag": round(float(column(during, "lag").max())),
        "most_queue": round(float(column(during, "queue").max())),
        "rate_least": round(float(column(during, "rate").min())),
        "rate_most": round(float(column(during, "rate").max())),
        "intake_least": round(least_intake) if np.isfinite(least_intake) else None,
    }
    return figures, watched.series(marks[1])


def run(bench: Bench) -> Result:
    """See the module."""
    result = Result("overload")
    seconds = float(os.environ.get("KLAIS_TEST_OVERLOAD_S", "60"))
    share = float(os.environ.get("KLAIS_TEST_OVERLOAD_CPU", CPU_SHARE))
    with cpu_limited(share) as group:
        bench.say(f"overload: capacity of a worker with {share:g} of a CPU")
        capacity = capacity_of(bench, group, ANOMALY_RATE * share)
        result.figures["capacity_per_s"] = round(capacity)
        given: dict[str, Any] = {"dam_max_rate": 10_000, "dam_burst_size": 50_000, "control_auto": True}
        given |= {"dam_queue_limit": round(BACKLOG_S * capacity), "anomaly_rate": ANOMALY_RATE * share}
        with bench.topics(**given) as settings, bench.edge(settings) as edge, bench.worker(settings) as worker:
            enter(group, worker.pid)
            clock = CpuClock(bench, group, worker, edge)
            warm_up(bench, settings)
            for number, factor in enumerate(FACTORS):
                bench.say(f"overload: {factor:g} x {capacity:,.0f} frames/s for {seconds:g} s")
                row, series = overload(bench, settings, clock, capacity, factor, seconds, number)
                row["others_cpus"] = round(float(np.mean([at["cpu_others"] for at in series])), 2)
                result.rows.append(row)
                result.series[f"{factor:g}x"] = series
                for figure in ("goodput_share", "settled_s", "normal_s", "unaccounted"):
                    value = row[figure]
                    result.figures[f"{figure}_{factor:g}x"] = 999.0 if value is None else round(value, 2)
                time.sleep(3)
    result.notes.append(f"the worker has {share:g} of a CPU; `others_cpus` is what programs that are not ours took meanwhile")
    return result
