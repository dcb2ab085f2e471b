"""Resident memory: of a worker that knows a million devices, of an idle edge, and of an idle edge
if it had no numba.
"""

import time
from pathlib import Path

from bench.harness import Bench, BenchFailed
from bench.harness.million import DEVICES, million
from bench.harness.report import Result

STAND_IN = Path(__file__).parents[1] / "harness" / "without_numba"
IDLE_S = 3.0


def idle_edge_mb(bench: Bench, **env: str) -> float:
    """RSS of an edge that receives nothing, some seconds after its start."""
    with bench.topics() as settings, bench.edge(settings, **env) as child:
        time.sleep(IDLE_S)
        return child.rss_mb()


def run(bench: Bench) -> Result:
    """See the module."""
    result = Result("memory")
    found = million(bench)
    if found["devices"] != DEVICES:
        raise BenchFailed(f"the worker knows {found['devices']:,} devices instead of {DEVICES:,}")
    result.figures = {name: round(found[name], 1) for name in ("worker_rss_mb", "worker_peak_rss_mb")}
    result.figures |= {name: round(found[name], 1) for name in ("recovered_rss_mb", "recovered_peak_rss_mb")}
    result.repeat("edge_rss_mb", [idle_edge_mb(bench) for _ in range(3)])
    result.figures["edge_rss_without_numba_mb"] = round(idle_edge_mb(bench, PYTHONPATH=str(STAND_IN)), 1)
    result.notes.append(
        "MB of 10^6 bytes; without numba: an idle edge with a stand-in that leaves kernels as plain Python"
    )
    return result
