"""The edge alone: UDP frames of the simulator (plain ``sendmmsg``, no GSO) to ``klais_raw``; CPU time a frame
received.
"""

import time
from itertools import pairwise
from typing import Any

from bench.harness import DEVICES, Bench, BenchFailed, Child, edge_counters
from bench.harness.report import Result, Sample, rates
from klais.config.load import Settings
from klais.telemetry.stats import total

STEADY_RATE = 200_000
WARM_S = 1.5
MEASURED_S = 2.5
WINDOWS = 3


def poll(child: Child, settings: Settings) -> tuple[Sample, dict[str, Any]]:
    """Sample CPU time and counters of the edge; done = frames received from the kernel."""
    counters = edge_counters(settings)
    taken = counters["received"] - counters["dropped"].get("kernel_drop", 0)
    return Sample(time.monotonic(), child.cpu_s(), taken), counters


def measure(
    bench: Bench, child: Child, settings: Settings, rate: str, windows: int = WINDOWS, *more: str
) -> dict[str, Any]:
    """Send at ``rate`` (frames a second, or ``max``) and measure the edge in ``windows`` consecutive windows.

    ``more`` are further options of the sender.

    Returns
    -------
    dict
        ``cpu_us_per_frame`` and ``frames_per_s`` lists of one value a window; ``sent``, ``kernel_drops``,
        ``other_drops``, ``sender_us`` (its CPU a frame) of the whole run, and the sender's own rate.
    """
    _, before = poll(child, settings)
    seconds = WARM_S + windows * MEASURED_S
    options = ("--devices", str(DEVICES), "--rate", rate, "--for", f"{seconds + 1.5:g}s", *more)
    with bench.simulate(settings, *options) as sender:
        _wait_for_frames(child, settings, before["received"])
        time.sleep(WARM_S)
        samples = [poll(child, settings)[0]]
        for _ in range(windows):
            time.sleep(MEASURED_S)
            samples.append(poll(child, settings)[0])
        summary = sender.summary(30)
    time.sleep(0.5)
    _, after = poll(child, settings)
    found = [rates(first, last) for first, last in pairwise(samples)]
    drops = {name: after["dropped"].get(name, 0) - before["dropped"].get(name, 0) for name in after["dropped"]}
    kernel = drops.pop("kernel_drop", 0)
    return {
        **{figure: [one[figure] for one in found] for figure in ("cpu_us_per_frame", "frames_per_s")},
        "sent": summary["frames"],
        "sent_per_s": summary["rate_per_s"],
        "received": after["received"] - before["received"],
        "kernel_drops": kernel,
        "other_drops": int(total(drops)),
        "sender_us": summary["cpu_us_per_frame"],
        "frames_per_batch": (after["passed"] - before["passed"]) / max(1, after["batches"] - before["batches"]),
    }


def _wait_for_frames(child: Child, settings: Settings, before: int) -> None:
    until_s = time.monotonic() + 20
    while edge_counters(settings)["received"] == before:
        child.check()
        if time.monotonic() > until_s:
            raise BenchFailed("no frame reached the edge within 20 s")
        time.sleep(0.05)


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("edge")
    with bench.topics() as settings, bench.edge(settings) as child:
        time.sleep(1.0)
        idle = poll(child, settings)[0]
        time.sleep(2.0)
        idle_cores = (poll(child, settings)[0].cpu_s - idle.cpu_s) / 2.0
        rss_mb = child.rss_mb()
        for name, rate in (("steady", str(STEADY_RATE)), ("max", "max")):
            bench.say(f"edge: {rate} frames a second for {WARM_S + WINDOWS * MEASURED_S:g} s")
            found = measure(bench, child, settings, rate)
            result.rows.append({"asked": rate} | {k: v for k, v in found.items() if not isinstance(v, list)})
            tail = "" if name == "steady" else "_at_max"
            for figure in ("cpu_us_per_frame", "frames_per_s"):
                result.repeat(figure + tail, found[figure])
            result.figures[f"kernel_drops{tail}"] = found["kernel_drops"]
            result.figures[f"other_drops{tail}"] = found["other_drops"]
        result.figures |= {"rss_idle_mb": round(rss_mb, 1), "cpu_idle_percent": round(100 * idle_cores, 2)}
        result.figures["rss_after_load_mb"] = round(child.rss_mb(), 1)
    result.notes.append(
        f"repeats are windows of {MEASURED_S:g} s of one run; sender, broker and edge share the machine"
    )
    return result
