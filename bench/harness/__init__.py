"""The harness of the benchmarks: a broker, child processes that always end, and their progress."""

from bench.harness.bench import DEVICES, OPEN_DAM, Bench
from bench.harness.child import REPO, Child, children_cpu_s, environment
from bench.harness.observe import Ends, count_records, edge_counters, get_json, wait_ready, watch
from bench.harness.waiting import BenchFailed, BenchUnavailable, wait_for

__all__ = [
    "DEVICES",
    "OPEN_DAM",
    "REPO",
    "Bench",
    "BenchFailed",
    "BenchUnavailable",
    "Child",
    "Ends",
    "children_cpu_s",
    "count_records",
    "edge_counters",
    "environment",
    "get_json",
    "wait_for",
    "wait_ready",
    "watch",
]
