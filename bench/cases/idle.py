"""Cost of a system at ordinary rates, compared with the baseline: cores of broker, edge and worker, landed latency.

At 0 to 20,000 frames/s, where batches dominate the cost. CPU is measured first, without a reader; then a consumer reads
``iot_telemetry`` at the same rate for the latency. The curve gives both for several ``KLAIS_LATENCY_MS`` at 2,000
frames/s.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.cases import baseline
from bench.cases.latency import Read, delays_ms, open_consumer, read_for
from bench.harness import Bench, BenchFailed, Child, Ends, wait_for
from bench.harness.report import Result, rounded
from klais.config.load import Settings
from klais.kafka.topics import Topics
from klais.sim.manifest import read_manifest

RATES = (0, 100, 1_000, 2_000, 20_000)
DEVICES = (50, 1_000)  # the second one at the middle rates only
TARGETS_MS = (5, 10, 25, 50, 100, 250)
CURVE_RATE = 2_000


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each part of one measurement."""

    settle: float = 3.0
    cpu: float = 6.0
    read: float = 4.0
    drain: float = 1.0


WHOLE = Times()


@dataclass(frozen=True, slots=True)
class System:
    """A running system: its input and output, and the processes whose CPU counts."""

    settings: Settings
    topic: str
    children: dict[str, Child]


def measure(bench: Bench, system: System, rate: int, devices: int, times: Times) -> dict[str, Any]:
    """Cores of each process at one rate, and quantiles of the latency (ms) of the records read."""
    if not rate:
        time.sleep(times.settle)
        return _cores(bench, system, times.cpu)
    path = bench.folder / f"sent-{time.monotonic_ns()}.klm"
    seconds = times.settle + times.cpu + times.read + 1
    options = ("--devices", str(devices), "--rate", str(rate), "--for", f"{seconds:g}s", "--id-prefix", "idle-")
    reads: list[Read] = []
    with bench.simulate(system.settings, *options, "--manifest", str(path)) as sender:
        time.sleep(times.settle)
        found = _cores(bench, system, times.cpu)
        consumer = open_consumer(system.settings, system.topic)
        try:
            read_for(consumer, time.monotonic() + 1.0)  # connect
            from_ns = time.time_ns()
            reads = read_for(consumer, time.monotonic() + times.read + times.drain)
        finally:
            consumer.close()
        sender.summary(10)
    manifest = read_manifest(path)
    left_ns, took_ms = delays_ms(reads, manifest)
    took_ms = took_ms[left_ns >= from_ns]
    sent = int(np.count_nonzero(manifest.sent_at_ns >= from_ns))
    path.unlink()
    found["landed_share"] = rounded(len(took_ms) / max(1, sent))
    for name, share in (("p50_ms", 50), ("p99_ms", 99)):
        found[name] = round(float(np.percentile(took_ms, share)), 1) if len(took_ms) else None
    return found


def _cores(bench: Bench, system: System, seconds: float) -> dict[str, Any]:
    parts: dict[str, Callable[[], float]] = {"broker": bench.kafka_cpu_s}
    parts |= {name: child.cpu_s for name, child in system.children.items()}
    before, began_s = {name: used() for name, used in parts.items()}, time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - began_s
    cores = {name: round((used() - before[name]) / took_s, 4) for name, used in parts.items()}
    return {"cores": round(sum(cores.values()), 4), **cores}


@contextmanager
def klais(bench: Bench, latency_ms: float = Settings().latency_ms) -> Iterator[System]:
    """Edge and worker with the settings of the benchmarks, except the target: the default, or another."""
    with bench.topics(latency_ms=latency_ms) as at, bench.edge(at) as edge, bench.worker(at) as worker:
        yield System(at, Topics.of(at).telemetry, {"edge": edge, "worker": worker})


@contextmanager
def plain(bench: Bench) -> Iterator[System]:
    """The plain edge and the plain agent of the benchmark ``baseline``."""
    settings = bench.settings()
    raw, clean = (baseline.create_topic(settings, name) for name in ("frames", "clean"))
    edge, worker = baseline.start_edge(bench, settings, raw), baseline.start_worker(bench, settings)
    try:
        wait_for(lambda: "receives" in edge.log.read_text(errors="replace"), 60, "the plain edge receives")
        ends = Ends(settings, clean)
        options = ("--devices", "50", "--rate", "50", "--for", "60s", "--id-prefix", "first-")
        with bench.simulate(settings, *options):
            wait_for(lambda: ends.total() > 0, 60, "frames come through the plain system")
        yield System(settings, clean, {"edge": edge, "worker": worker})
    finally:
        edge.stop(10)
        worker.stop(10)
        bench.delete([raw, clean])


def note(result: Result, way: str, found: dict[str, Any], **at: Any) -> None:
    """Add a row, and its figures under a name for the case."""
    tail = "_".join([way, *(f"{value}" for value in at.values())])
    result.rows.append({"way": way, **at, **found})
    result.figures |= {f"{name}_{tail}": found[name] for name in ("cores", "p50_ms", "p99_ms") if name in found}


def run(
    bench: Bench,
    rates: tuple[int, ...] = RATES,
    targets_ms: tuple[int, ...] = TARGETS_MS,
    devices: tuple[int, ...] = DEVICES,
    times: Times = WHOLE,
) -> Result:
    """Run the benchmark that the module describes; the arguments make it shorter."""
    result = Result("idle")
    with klais(bench) as system:
        warm_up(bench, system, times)
        result.figures["target_ms"] = system.settings.latency_ms
        for n in devices:
            for rate in rates if n == devices[0] else rates[1:]:
                bench.say(f"idle: {rate:,} frames a second of {n:,} devices")
                note(result, "klais", measure(bench, system, rate, n, times), rate=rate, devices=n)
    bench.say("idle: the plain way")
    with plain(bench) as system:
        for rate in rates:
            note(result, "plain", measure(bench, system, rate, devices[0], times), rate=rate, devices=devices[0])
    for target_ms in targets_ms:
        bench.say(f"idle: a target of {target_ms} ms")
        with klais(bench, latency_ms=float(target_ms)) as system:
            found = measure(bench, system, CURVE_RATE, devices[0], times)
            note(result, "klais", found, rate=CURVE_RATE, target=f"{target_ms}ms")
    ratios(result, devices[0])
    result.notes.append("cores: CPU time of broker, edge and worker a second, without a reader; _RATE_DEVICES")
    result.notes.append("landed_share: of the frames sent while a consumer read, those that it got in time")
    result.notes.append("of_plain_RATE: cores over the plain way's; p99_of_target: the worst p99 over the target")
    result.notes.append("the plain way does less: no journal, rates, scores, exactly once")
    return result


def ratios(result: Result, devices: int) -> None:
    """Add what the verdicts are about: cores over those of the plain way, and the worst p99 over the target."""
    figures = result.figures
    for rate in (row["rate"] for row in list(result.rows) if row["way"] == "plain" and row["rate"]):
        figures[f"of_plain_{rate}"] = rounded(
            figures[f"cores_klais_{rate}_{devices}"] / figures[f"cores_plain_{rate}_{devices}"]
        )
    at_default = [row for row in result.rows if row["way"] == "klais" and row.get("devices") == devices]
    if p99 := [row["p99_ms"] for row in at_default if row.get("p99_ms") is not None]:
        figures["p99_of_target"] = rounded(max(p99) / figures["target_ms"])


def warm_up(bench: Bench, system: System, times: Times) -> None:
    """Run load before measuring, until the broker has compiled its hot code."""
    bench.say("idle: warming up")
    options = ("--devices", "50", "--rate", "20000", "--for", f"{2 * times.settle:g}s", "--id-prefix", "warm-")
    with bench.simulate(system.settings, *options) as sender:
        sender.summary(2 * times.settle + 20)
    if not system.children["edge"].running:
        raise BenchFailed("the edge ended")
