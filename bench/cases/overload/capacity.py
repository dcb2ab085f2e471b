"""The present capacity of the limited worker, and whether the machine's speed was steady between two probes.

A virtual machine with neighbours changes its speed within minutes, by up to a factor of two. Goodput in an overload is
meaningful only relative to a capacity from the same minutes. So capacity is probed before and after each step, and a
step whose two probes differ by more than ``STILL`` is repeated.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cases.overload.watch import SAMPLE_S, Watched, landed_per_s
from bench.harness import Bench, BenchFailed, wait_for
from bench.harness.cgroup import enter
from klais.config.load import Settings

DEVICES = 10_000
STILL = 1.15  # ratio of two probes, or of two speeds within a step: up to here the machine was steady
MIN_RATE, FIRST_RATE, MAX_RATE = (
    10_000.0,
    100_000.0,
    400_000.0,
)  # frames/s: bounds, and the first rate without a known capacity
MAX_PROBES = 12
# The measured part of a short probe has one checkpoint of each lane. The flow comes in bursts of up to 40,000 frames, #
# and even a steady machine has slow moments: so the mean over the step is compared with a mean over half a minute.
PROBE_S, LONG_S, PROBE_SKIP_S = 8.0, 30.0, 3.0
SATURATED = 0.85  # share of the sent frames that landed: below it the probe is above the capacity
ABOVE, UP = 1.3, 1.5  # next probe: times a capacity that is known, times a rate that did not overload
PROBE_WARM_S = 6.0


@dataclass(frozen=True, slots=True)
class Around:
    """Capacities (frames/s) probed just before and after a step, and the factor by which the machine's speed changed in
    it.
    """

    before: float
    after: float
    swing: float = 1.0

    @property
    def mean(self) -> float:
        """The reference capacity of the step."""
        return (self.before + self.after) / 2

    @property
    def drift(self) -> float:
        """After over before."""
        return self.after / self.before

    @property
    def unrest(self) -> float:
        """The largest change of the machine's speed, a factor of at least 1."""
        return max(self.drift, 1 / self.drift, self.swing)

    @property
    def moved(self) -> bool:
        """Whether the machine changed its speed too much for a meaningful step."""
        return self.unrest > STILL


def chosen(tries: Sequence[Around]) -> int:
    """The valid one of several attempts: the first with a steady machine, else the steadiest.

    Examples
    --------
    >>> chosen([Around(100, 130), Around(130, 125), Around(125, 125)]), chosen([Around(100, 200), Around(200, 140)])
    (1, 1)
    """
    still = [number for number, around in enumerate(tries) if not around.moved]
    return still[0] if still else min(range(len(tries)), key=lambda number: tries[number].unrest)


def search(probe: Callable[[float, float], tuple[float, float]], first_rate: float) -> float:
    """The capacity (frames/s): the rate that lands in a long probe with overload, after short probes have found the
    range.

    After a probe without overload follows a higher one, after one with overload one slightly above its landed rate: far
    above it sender, edge and broker would take CPU from the worker.

    Parameters
    ----------
    probe : Callable
        Offers a rate (frames/s) for some seconds; returns landed and sent rate, frames/s.
    first_rate : float
        First rate to try.

    Raises
    ------
    BenchFailed
        No short and long one in a row of ``MAX_PROBES`` overload.
    """
    rate, lasts_s = _offerable(first_rate), PROBE_S
    for _ in range(MAX_PROBES):
        landed, sent = probe(rate, lasts_s)
        saturated = landed < SATURATED * sent
        if saturated and lasts_s == LONG_S:
            return landed
        lasts_s = LONG_S if saturated else PROBE_S  # the supposed limit was none
        rate = _offerable(ABOVE * landed if saturated else UP * rate)
    raise BenchFailed(
        f"{MAX_PROBES} probes, up to {MAX_RATE:,.0f} frames/s, do not overload the worker: give it less CPU"
    )


def _offerable(rate: float) -> float:
    return min(max(rate, MIN_RATE), MAX_RATE)


def capacity_of(bench: Bench, group: Path, anomaly_rate: float, known: float | None = None) -> float:
    """Frames/s that land while the worker is overloaded, with an open dam and without a controller.

    Edge, worker and topics are separate, the control group is that of the steps. A capacity ``known`` from minutes ago
    makes the search shorter.
    """
    with bench.topics(anomaly_rate=anomaly_rate) as settings, bench.edge(settings), bench.worker(settings) as worker:
        enter(group, worker.pid)
        warm_up(bench, settings, PROBE_WARM_S)
        offered: list[float] = []

        def probe(rate: float, lasts_s: float) -> tuple[float, float]:
            offered.append(rate)
            return _probe(bench, settings, rate, lasts_s, len(offered))

        return search(probe, FIRST_RATE if known is None else ABOVE * known)


def _probe(bench: Bench, settings: Settings, rate: float, lasts_s: float, number: int) -> tuple[float, float]:
    """Landed and sent rate, frames/s."""
    watched, began_s = Watched(settings), time.monotonic()
    options = (
        "--devices",
        str(DEVICES),
        "--rate",
        f"{rate:.0f}",
        "--for",
        f"{lasts_s:g}s",
        "--id-prefix",
        f"p{number}-",
    )
    with bench.simulate(settings, *options) as sender:
        watched.until(began_s + lasts_s)
        sent_per_s = float(sender.summary(30)["rate_per_s"])
    watched.stats.stop()
    landed = landed_per_s(watched.table(), began_s + PROBE_SKIP_S, began_s + lasts_s)
    bench.say(f"overload: {sent_per_s:,.0f} sent/s, {landed:,.0f} landed/s")
    return landed, sent_per_s


def warm_up(bench: Bench, settings: Settings, seconds: float) -> None:
    """Send load until the worker has run all its code once: with a share of a CPU that takes seconds."""
    watched = Watched(settings)
    with bench.simulate(settings, "--devices", str(DEVICES), "--rate", "20000", "--for", f"{seconds:g}s") as sender:
        sender.summary(60)
    wait_for(lambda: watched.stats.newest("worker"), 10, "a record of the worker")
    watched.until(time.monotonic() + 1.5)
    while watched.samples[-1].lag > 0 and len(watched.samples) * SAMPLE_S < 30:
        watched.until(time.monotonic() + SAMPLE_S)
    watched.stats.stop()
