"""KLAIS against a plain implementation, in one run: one Faust event a frame; asyncio UDP with one aiokafka ``send`` a
frame.
"""

import sys
import time
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic

from bench.cases import edge, worker
from bench.harness import DEVICES, Bench, Child, Ends, wait_for, watch
from bench.harness.report import Result, Sample, rates, rounded, steady
from klais.config.load import Settings
from klais.kafka.admin_client import admin_client
from klais.kafka.clients import confluent_config
from klais.sim.stream import FrameStream, StreamOptions

PLAIN_FRAMES = 50_000
KLAIS_FRAMES = 2_000_000
PLAIN_EDGE_RATE = 90_000  # more than it can process
SUSTAINED = 0.8  # of its capacity
WARM_S, MEASURED_S = 1.5, 5.0


def create_topic(settings: Settings, name: str) -> str:
    """Create a topic of the plain implementation; return its name."""
    topic = f"{settings.topic_prefix}{name}"
    made = NewTopic(topic, settings.partitions, settings.replication)
    admin = admin_client(settings)
    admin.create_topics([made])[topic].result(30)
    return topic


def preload(settings: Settings, topic: str, frames: int) -> None:
    """Write one record a frame, keyed by its device, like the plain edge."""
    stream = FrameStream(StreamOptions(devices=DEVICES, seed=1))
    producer = Producer(
        confluent_config(settings)
        | {"partitioner": "murmur2_random", "compression.type": "lz4", "queue.buffering.max.messages": frames + 1}
    )
    done = 0
    while done < frames:
        chunk = stream.next_chunk()
        for i in range(min(chunk.count, frames - done)):
            producer.produce(topic, chunk.frame(i), chunk.frame(i)[2:18].rstrip(b"\0"))
        done += min(chunk.count, frames - done)
        producer.poll(0)
    producer.flush(60)


def start_worker(bench: Bench, settings: Settings) -> Child:
    """The plain agent, from ``frames`` to ``clean``."""
    folder = str(bench.folder / f"plain-agent-{settings.topic_prefix}")
    faust = [sys.executable, "-m", "faust", "--datadir", folder, "-A", "bench.cases.baseline.plain_agent"]
    env = {
        "PLAIN_BROKER": f"kafka://{settings.bootstrap.split(',')[0]}",
        "PLAIN_PREFIX": settings.topic_prefix,
        "PLAIN_PARTITIONS": str(settings.partitions),
    }
    return bench.child("plain-agent", [*faust, "worker", "-l", "warn", "--without-web"], settings, **env)


def start_edge(bench: Bench, settings: Settings, topic: str) -> Child:
    """The plain edge, to ``topic``."""
    command = [sys.executable, "-m", "bench.cases.baseline.plain_edge", settings.udp_bind, settings.bootstrap, topic]
    return bench.child("plain-edge", command, settings)


def plain_worker(bench: Bench, frames: int = PLAIN_FRAMES) -> dict[str, float]:
    """The plain agent on a backlog of ``frames``."""
    settings = bench.settings()
    raw, clean = create_topic(settings, "frames"), create_topic(settings, "clean")
    preload(settings, raw, frames)
    ends = Ends(settings, clean)
    child = start_worker(bench, settings)
    try:
        samples = watch(child, ends.total, frames, 80)
        found = rates(*steady(samples, frames))
        return found | {"rss_mb": child.rss_mb()}
    finally:
        child.stop(10)
        bench.delete([raw, clean])


def plain_edge(bench: Bench) -> dict[str, float]:
    """Measure the plain edge: frames a second in overload, and CPU a frame at most of that rate (without drops).

    Frames done are frames in Kafka.
    """
    settings = bench.settings()
    topic = create_topic(settings, "frames")
    ends = Ends(settings, topic)
    child = start_edge(bench, settings, topic)

    def run_at(rate: float) -> dict[str, float]:
        before = ends.total()
        options = ("--devices", str(DEVICES), "--rate", str(int(rate)), "--for", f"{WARM_S + MEASURED_S + 2:g}s")
        with bench.simulate(settings, *options):
            wait_for(lambda: ends.total() > before, 30, "frames come through the plain edge")
            time.sleep(WARM_S)
            first = Sample(time.monotonic(), child.cpu_s(), ends.total())
            time.sleep(MEASURED_S)
            return rates(first, Sample(time.monotonic(), child.cpu_s(), ends.total()))

    try:
        wait_for(lambda: "receives" in _log(child), 30, "the plain edge receives")
        capacity = run_at(PLAIN_EDGE_RATE)["frames_per_s"]
        _wait_until_still(ends)
        return {
            "frames_per_s": capacity,
            "cpu_us_per_frame": run_at(SUSTAINED * capacity)["cpu_us_per_frame"],
            "rss_mb": child.rss_mb(),
        }
    finally:
        child.stop(10)
        bench.delete([topic])


def _wait_until_still(ends: Ends) -> None:
    """Wait until all queued frames have been sent."""
    last = -1
    until_s = time.monotonic() + 15
    while (now := ends.total()) != last and time.monotonic() < until_s:
        last = now
        time.sleep(0.5)


def _log(child: Child) -> str:
    child.check()
    return child.log.read_text(errors="replace")


def klais_edge(bench: Bench) -> dict[str, Any]:
    """KLAIS's edge at full load, one window."""
    with bench.topics() as settings, bench.edge(settings) as child:
        found = edge.measure(bench, child, settings, "max", windows=2)
        values = {name: sum(found[name]) / len(found[name]) for name in ("cpu_us_per_frame", "frames_per_s")}
        return values | {"rss_mb": child.rss_mb()}


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("baseline")
    measured: dict[str, dict[str, Any]] = {}
    for name, call in (
        ("plain_worker", lambda: plain_worker(bench)),
        ("worker", lambda: worker.measure(bench, KLAIS_FRAMES, DEVICES)),
        ("plain_edge", lambda: plain_edge(bench)),
        ("edge", lambda: klais_edge(bench)),
    ):
        bench.say(f"baseline: {name.replace('_', ' ')}")
        measured[name] = call()
    for part in ("worker", "edge"):
        ours, plain = measured[part], measured[f"plain_{part}"]
        result.figures[f"{part}_ratio"] = rounded(plain["cpu_us_per_frame"] / ours["cpu_us_per_frame"])
        result.figures[f"{part}_rate_ratio"] = rounded(ours["frames_per_s"] / plain["frames_per_s"])
        for name, found in ((f"plain_{part}", plain), (part, ours)):
            for figure in ("cpu_us_per_frame", "frames_per_s", "rss_mb"):
                result.figures[f"{name}_{figure}"] = rounded(found[figure])
    result.notes.append(
        "ratio: CPU time a frame, the plain way's over ours; rate_ratio: frames a second, ours over its"
    )
    result.notes.append("bench/cases/baseline/plain_*.py do less: no journal, rates, scores, exactly once")
    result.notes.append("the edge is offered what one sender can send on this machine; it may take more")
    return result
