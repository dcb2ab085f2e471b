"""Steady overload: 1.4 and 2 times what the whole path carries, for 60 s; what lands meanwhile, how soon it settles and ends.

Capacity is measured first, in the same run: the most that lands a second at any of some rates. Everything shares the
machine. ``KLAIS_TEST_OVERLOAD_S=10`` makes it shorter.
"""

import os
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.harness import Bench, Ends, edge_counters
from bench.report import Result
from klais.config import Settings
from klais.control.stats import StatsFollower
from klais.kafka.topics import Topics

FACTORS = (1.4, 2.0)
PROBES = (150_000, 200_000, 250_000, 300_000, 400_000)
PROBE_S, CALM_S = 5.0, 12.0
END_S = 2.5  # the sender's own end, and the last window
DEVICES = 10_000
LOOK_S = 0.25
CALM_SHARE = 0.3  # of the capacity: the load before and after


class Watched:
    """End offsets of the clean records and what the workers say, four times a second."""

    def __init__(self, settings: Settings) -> None:
        self._ends, self.stats = Ends(settings, Topics.of(settings).telemetry), StatsFollower(settings)
        self.stats.start()
        self.rows: list[tuple[float, int, float, float, float]] = []

    def until(self, end_s: float) -> None:
        """Look until then (monotonic)."""
        while time.monotonic() < end_s:
            gauges = [r["gauges"] for r in self.stats.newest("worker").values()]
            lag = sum(sum(g.get("lag_frames", {}).values()) for g in gauges)
            queue = sum(g.get("queue_depth", 0) for g in gauges)
            rate = max((g.get("rate_limit", 0.0) for g in gauges), default=0.0)
            self.rows.append((time.monotonic(), self._ends.total(), lag, queue, rate))
            time.sleep(LOOK_S)

    def table(self) -> npt.NDArray[np.float64]:
        """Time, landed, lag, queue, rate: float64 [n, 5]."""
        return np.array(self.rows)


def landed_per_s(rows: npt.NDArray[np.float64], begin_s: float, end_s: float) -> float:
    """Mean records/s that landed between two times (between two looks in a straight line: a busy broker answers late)."""
    begin, end = np.interp((begin_s, end_s), rows[:, 0], rows[:, 1])
    return float((end - begin) / (end_s - begin_s))


def settled_after(rows: npt.NDArray[np.float64], begin_s: float, end_s: float, least_per_s: float, window_s: float) -> float:
    """Seconds from the begin until every window (to the end) lands at least so much."""
    starts = np.arange(begin_s, end_s - window_s, 0.5)
    bad = [at for at in starts if landed_per_s(rows, at, at + window_s) < least_per_s]
    return float(bad[-1] + window_s - begin_s) if bad else 0.0


def normal_after(rows: npt.NDArray[np.float64], begin_s: float, most_lag: float) -> float | None:
    """Seconds from the begin until lag and queue are small and stay so; None = not while it was watched."""
    after = rows[rows[:, 0] >= begin_s]
    bad = after[(after[:, 2] > most_lag) | (after[:, 3] > 0)]
    if not len(bad):
        return 0.0
    later = after[after[:, 0] > bad[-1, 0]]
    return float(later[0, 0] - begin_s) if len(later) else None


def probe(bench: Bench, settings: Settings) -> float:
    """The most frames/s that land at any of the rates."""
    watched, best = Watched(settings), 0.0
    for rate in PROBES:
        options = ("--devices", str(DEVICES), "--rate", str(rate), "--for", f"{PROBE_S:g}s", "--id-prefix", f"p{rate}-")
        began_s = time.monotonic()
        with bench.simulate(settings, *options) as sender:
            watched.until(began_s + PROBE_S)
            sender.summary(30)
        best = max(best, landed_per_s(watched.table(), began_s + 2.0, began_s + PROBE_S))
        watched.until(time.monotonic() + 2.0)
    watched.stats.stop()
    return best


def overload(bench: Bench, settings: Settings, capacity: float, factor: float, seconds: float, number: int) -> dict[str, Any]:
    """One step up and down again."""
    watched, calm = Watched(settings), CALM_SHARE * capacity
    before = edge_counters(settings)
    rates = ((calm, CALM_S / 2), (factor * capacity, seconds), (calm, CALM_S))
    marks, sent = [time.monotonic()], 0
    options: tuple[str, ...]
    for part, (rate, part_s) in enumerate(rates):
        options = ("--devices", str(DEVICES), "--rate", f"{rate:.0f}", "--for", f"{part_s:g}s")
        options += ("--id-prefix", f"o{number}{part}-")
        with bench.simulate(settings, *options) as sender:
            watched.until(time.monotonic() + part_s + 0.3)
            sent += sender.summary(30)["frames"]
        marks.append(time.monotonic())
    watched.until(marks[-1] + 3)
    watched.stats.stop()
    rows, after = watched.table(), edge_counters(settings)
    goodput = landed_per_s(rows, marks[1] + 2, marks[2] - END_S)
    kernel = after["dropped"].get("kernel_drop", 0) - before["dropped"].get("kernel_drop", 0)
    during = rows[(rows[:, 0] >= marks[1]) & (rows[:, 0] <= marks[2])]
    return {
        "offered_per_s": round(factor * capacity),
        "factor": factor,
        "sent": sent,
        "goodput_per_s": round(goodput),
        "goodput_share": round(goodput / capacity, 3),
        # a second sees each checkpoint and each breath of the broker; three tell whether the flow holds
        "settled_s": round(settled_after(rows, marks[1], marks[2] - END_S, 0.8 * goodput, 1.0), 2),
        "settled_over_3_s": round(settled_after(rows, marks[1], marks[2] - END_S, 0.8 * goodput, 3.0), 2),
        "normal_s": normal_after(rows, marks[2], settings.pid_lag_setpoint / 2),
        "kernel_drops": kernel,
        "most_lag": round(float(during[:, 2].max())),
        "most_queue": round(float(during[:, 3].max())),
        "rate_least": round(float(during[:, 4].min())),
        "rate_most": round(float(during[:, 4].max())),
    }


def run(bench: Bench) -> Result:
    """See the module."""
    result = Result("overload")
    seconds = float(os.environ.get("KLAIS_TEST_OVERLOAD_S", "60"))
    given: dict[str, Any] = {"dam_max_rate": 10_000, "dam_burst_size": 50_000, "control_auto": True}
    with bench.topics(**given) as settings, bench.edge(settings), bench.worker(settings):
        bench.say("overload: capacity")
        capacity = probe(bench, settings)
        result.figures["capacity_per_s"] = round(capacity)
        time.sleep(5)
        for number, factor in enumerate(FACTORS):
            bench.say(f"overload: {factor:g} x {capacity:,.0f} frames/s for {seconds:g} s")
            row = overload(bench, settings, capacity, factor, seconds, number)
            result.rows.append(row)
            name = f"{factor:g}x"
            for figure in ("goodput_share", "settled_s", "settled_over_3_s", "normal_s"):
                value = row[figure]
                result.figures[f"{figure}_{name}"] = 999.0 if value is None else round(value, 2)
            time.sleep(3)
    result.notes.append("offered is what was asked of the sender, which shares the CPU: `sent` says what it managed")
    return result
