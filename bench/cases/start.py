"""Start times, and memory of an idle edge: from the process's start until it receives, or its lanes are live.

An edge receives from the moment it has bound its port: a thread stores frames in memory (klais/edge/early.py) while the
rest loads. ``edge_receives_s`` ends there, ``edge_s`` when its API reports that it is ready.

With the library of kernels that `klais warm` built; KLAIS_JIT=1 shows the cost of numba. A worker starts on the
checkpoint of one with 1,000 devices that stopped cleanly, so only its own start counts.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.harness import REPO, Bench, BenchFailed, Ends, environment, wait_for, wait_ready, watch
from bench.harness.feed import preload
from bench.harness.observe import healthy
from bench.harness.report import Result, rounded
from klais.config.load import Settings
from klais.kafka.topics import Topics
from klais.system.address import Bind

REPEATS = 5
DEVICES, FRAMES = 1000, 20_000
IDLE_S = 3.0
POLL_S = 0.01
TIMEOUT_S = 60.0


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("start")
    with bench.topics() as settings:
        edges = [_edge(bench, settings) for _ in range(REPEATS)]
        _repeat(result, "edge", [figures for _, *figures in edges])
        result.repeat("edge_receives_s", [receives_s for receives_s, *_ in edges])
        with bench.edge(settings):
            stats = ["stats", "--url", f"http://{settings.api_bind}"]
            result.repeat("stats_s", [_command(settings, stats) for _ in range(REPEATS)])
        result.repeat("version_s", [_command(settings, ["--version"]) for _ in range(2 * REPEATS)])
    with bench.topics(checkpoint_interval_s=1.0) as settings:
        preload(settings, FRAMES, DEVICES)
        landed = Ends(settings, Topics.of(settings).telemetry)
        with bench.worker(settings) as first:
            watch(first, landed.total, FRAMES, TIMEOUT_S)
        workers = [_worker(bench, settings) for _ in range(REPEATS)]
        _repeat(result, "worker", workers)
    result.notes.append(
        "s from exec, and CPU seconds until then; MB of 10^6 bytes, the edge idle for 3 s, the worker with live lanes"
    )
    return result


def _repeat(result: Result, what: str, found: Sequence[Sequence[float]]) -> None:
    """Figures of several starts: seconds, CPU seconds, memory."""
    for k, figure in enumerate(("s", "cpu_s", "rss_mb")):
        result.repeat(f"{what}_{figure}", [one[k] for one in found])


def _edge(bench: Bench, settings: Settings) -> tuple[float, float, float, float]:
    """Seconds until an edge receives, and until it is ready with Kafka; CPU seconds and memory a little later."""
    child = bench.child("edge", [sys.executable, "-m", "klais", "edge"], settings)
    try:
        port = Bind.parse(settings.udp_bind).port
        wait_for(lambda: _is_bound(port), TIMEOUT_S, "the edge receives", POLL_S)
        receives_s = time.monotonic() - child.started_s
        wait_for(lambda: healthy(child, settings), TIMEOUT_S, "the edge is ready", POLL_S)
        seconds, cpu_s = time.monotonic() - child.started_s, child.cpu_s()
        time.sleep(IDLE_S)
        return rounded(receives_s), rounded(seconds), rounded(cpu_s), child.rss_mb()
    finally:
        child.stop()


def _is_bound(port: int) -> bool:
    """Whether a process has a UDP socket on ``port`` (proc(5): the second field is address and port in hex)."""
    sockets = Path("/proc/net/udp").read_text().splitlines()[1:]
    return any(int(one.split()[1].rpartition(":")[2], 16) == port for one in sockets)


def _worker(bench: Bench, settings: Settings) -> tuple[float, float, float]:
    """Seconds until the lanes of a worker are live, CPU seconds, and its resident memory then."""
    with bench.worker(settings, ready=False) as child:
        wait_ready(child, settings, TIMEOUT_S)
        return rounded(time.monotonic() - child.started_s), rounded(child.cpu_s()), child.rss_mb()


def _command(settings: Settings, words: Sequence[str]) -> float:
    """Run time of a command in seconds."""
    began_s = time.monotonic()
    command = [sys.executable, "-m", "klais", *words]
    done = subprocess.run(command, env=environment(settings), cwd=REPO, capture_output=True, text=True)
    seconds = time.monotonic() - began_s
    if done.returncode:
        raise BenchFailed(f"klais {' '.join(words)} ended with {done.returncode}: {done.stderr[-300:]}")
    return rounded(seconds)
