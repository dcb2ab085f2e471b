"""The kernels alone, on one core: payload check and record batch writer.

Separately: ``python -m bench.cases.kernels.payload_check``, ``python -m bench.cases.kernels.record_batch``.
"""

from bench.cases.kernels import payload_check, record_batch
from bench.harness import Bench
from bench.harness.report import Result, rounded


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("kernels")
    for kind in ("small", "nested"):
        found = payload_check.measure(kind)
        result.rows.append({"payload_check": kind} | {name: round(value, 1) for name, value in found.items()})
        result.figures[f"payload_check_{kind}_ns"] = rounded(found["ns_per_frame"])
    for size in (35, 500):
        found = record_batch.measure(size)
        result.rows.append({"record_batch": size} | found)
        result.figures[f"record_batch_{size}_append_ns"] = found["append_ns"]
        result.figures[f"record_batch_{size}_close_ns"] = found["close_ns"]
    result.notes.append("ns a frame, minimum of many runs in this process")
    return result
