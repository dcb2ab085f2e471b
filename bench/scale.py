"""The worker's CPU time a frame at a million devices against that at a thousand, one run after the other."""

from bench.harness import Bench
from bench.report import Result
from bench.worker import measure

FEW, MANY = 1_000, 1_000_000
FRAMES = 3_500_000
BEGIN = 0.35  # the first million frames are each a device's first, which makes its row: measured apart


def run(bench: Bench) -> Result:
    """See the module."""
    result = Result("scale")
    cost = {}
    for devices in (FEW, MANY):
        bench.say(f"scale: {FRAMES:,} frames of {devices:,} devices")
        found = measure(bench, FRAMES, devices, BEGIN)
        cost[devices] = found["cpu_us_per_frame"]
        result.rows.append({"devices": devices} | {name: round(value, 3) for name, value in found.items()})
    result.figures = {
        "ratio": round(cost[MANY] / cost[FEW], 3),
        "cpu_us_per_frame_1k": round(cost[FEW], 3),
        "cpu_us_per_frame_1m": round(cost[MANY], 3),
    }
    result.notes.append("once all devices are known; checkpoints of what changed (up to all rows) are in the figures")
    return result
