"""The worker's CPU time a frame at a million devices against that at a thousand, one run after the other."""

from bench.cases.worker import measure
from bench.harness import Bench
from bench.harness.report import Result

FEW, MANY = 1_000, 1_000_000
FRAMES = 6_000_000
CHECKPOINT_S = 5.0  # the default
BEGIN = 0.25  # the first million frames are each a device's first; the rest takes about one interval


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("scale")
    cost = {}
    for devices in (FEW, MANY):
        bench.say(f"scale: {FRAMES:,} frames of {devices:,} devices")
        found = measure(bench, FRAMES, devices, BEGIN, CHECKPOINT_S)
        cost[devices] = found
        result.rows.append({"devices": devices} | {name: round(value, 3) for name, value in found.items()})
    for tail, figure in (("", "cpu_us_per_frame"), ("_whole", "whole_cpu_us_per_frame")):
        few, many = (cost[devices][figure] for devices in (FEW, MANY))
        result.figures |= {
            f"ratio{tail}": round(many / few, 3),
            f"cpu_us_per_frame_1k{tail}": round(few, 3),
            f"cpu_us_per_frame_1m{tail}": round(many, 3),
        }
    result.figures["rows_per_frame_1m"] = round(cost[MANY]["rows_per_frame"], 3)
    result.notes.append("ratio: once all devices are known, checkpoints of what changed (rows_per_frame) included")
    result.notes.append("whole: every device's first frame, and a last checkpoint for few frames, as well")
    return result
