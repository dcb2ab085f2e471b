"""Cost of flushing ``klais_raw`` and ``klais_journal`` at the broker: the whole path, with and without, in turn.

``os`` leaves flushing to the kernel, ``each`` is ``KLAIS_KAFKA_FLUSH=each`` (``flush.messages=1``: before the broker
acknowledges), ``flush_ms`` sets ``flush.ms`` on both topics, for which acknowledgements do not wait. All modes run in
turn, several times, on one broker and one disk: compare the ratios to ``os``.
"""

from typing import Any

import numpy as np
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from bench.cases.latency import delays_ms, read_while_sent
from bench.cases.path import step
from bench.harness import Bench, BenchFailed, Ends
from bench.harness.report import Result
from klais.config.load import Settings
from klais.kafka.admin_client import admin_client
from klais.kafka.topics import Topics
from klais.sim.manifest import read_manifest

MODES = ("os", "each", "flush_ms")
FLUSH_MS = 100
TURNS = 2
RATES = (10_000, 25_000, 50_000, 100_000, 150_000, 200_000, 250_000)
STEP_S = 4
LATENCY_RATE = 5_000
LATENCY_S = 8
WARM_S = 2.0


def flush_by_time(settings: Settings) -> None:
    """Set ``flush.ms`` on the two topics."""
    entry = ConfigEntry("flush.ms", str(FLUSH_MS), incremental_operation=AlterConfigOpType.SET)
    topics = (Topics.of(settings).raw, Topics.of(settings).journal)
    asked = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry]) for topic in topics]
    client = admin_client(settings)  # must outlive its requests
    for done in client.incremental_alter_configs(asked).values():
        done.result(30)


def highest_rate(bench: Bench, settings: Settings) -> float:
    """Frames/s of the highest step at which every frame landed; 0 where none did."""
    ends, best = Ends(settings, Topics.of(settings).telemetry), 0.0
    step(bench, settings, ends, 20_000, 1)  # warm
    for rate in RATES:
        row = step(bench, settings, ends, rate, STEP_S)
        if row["lost"]:
            break
        best = float(row["sent_per_s"])
    return best


def latency_ms(bench: Bench, settings: Settings, turn: int) -> tuple[float, float]:
    """Median and p99 from the sender's system call to a consumer."""
    path = bench.folder / f"flush-{settings.topic_prefix}{turn}.klm"
    named = ("--id-prefix", f"t{turn}-", "--manifest", str(path))
    reads = list(read_while_sent(bench, settings, LATENCY_RATE, LATENCY_S, *named))
    manifest = read_manifest(path)
    left_ns, took_ms = delays_ms(reads, manifest)
    took_ms = took_ms[left_ns >= manifest.sent_at_ns[0] + int(WARM_S * 1e9)]
    if not len(took_ms):
        raise BenchFailed(f"no record of {manifest.count} frames was read")
    return float(np.percentile(took_ms, 50)), float(np.percentile(took_ms, 99))


def measure(bench: Bench, mode: str, turn: int) -> dict[str, Any]:
    """Measure one mode once, on separate topics."""
    bench.say(f"flush: {mode}, turn {turn + 1} of {TURNS}")
    flush = "each" if mode == "each" else "os"
    with bench.topics(kafka_flush=flush) as settings, bench.edge(settings), bench.worker(settings):
        if mode == "flush_ms":
            flush_by_time(settings)
        p50, p99 = latency_ms(bench, settings, turn)
        return {"mode": mode, "p50_ms": p50, "p99_ms": p99, "frames_per_s": highest_rate(bench, settings)}


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("flush")
    for turn in range(TURNS):
        result.rows += [measure(bench, mode, turn) for mode in MODES]
    for mode in MODES:
        for name in ("frames_per_s", "p50_ms", "p99_ms"):
            result.repeat(f"{name}_{mode}", [row[name] for row in result.rows if row["mode"] == mode])
    for mode in MODES[1:]:
        for name in ("frames_per_s", "p50_ms", "p99_ms"):
            base = result.figures[f"{name}_os"]
            result.figures[f"{name}_{mode}_of_os"] = round(result.figures[f"{name}_{mode}"] / base, 3) if base else None
    result.notes.append(
        f"latency at {LATENCY_RATE:,} frames/s; frames_per_s: the highest step at which nothing was lost"
    )
    return result
