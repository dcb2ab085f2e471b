"""Resident memory of a worker with a million devices, and of an idle edge."""

import time

from bench.harness import Bench, BenchFailed
from bench.harness.million import DEVICES, million
from bench.harness.report import Result

IDLE_S = 3.0


def idle_edge_mb(bench: Bench) -> float:
    """RSS of an edge without traffic, some seconds after its start."""
    with bench.topics() as settings, bench.edge(settings) as child:
        time.sleep(IDLE_S)
        return child.rss_mb()


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("memory")
    found = million(bench)
    if found["devices"] != DEVICES:
        raise BenchFailed(f"the worker knows {found['devices']:,} devices instead of {DEVICES:,}")
    result.figures = {name: round(found[name], 1) for name in ("worker_rss_mb", "worker_peak_rss_mb")}
    result.figures |= {name: round(found[name], 1) for name in ("recovered_rss_mb", "recovered_peak_rss_mb")}
    result.repeat("edge_rss_mb", [idle_edge_mb(bench) for _ in range(3)])
    result.notes.append("MB of 10^6 bytes")
    return result
