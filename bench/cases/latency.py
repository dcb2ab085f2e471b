"""From the sender's ``sendmmsg`` until a consumer has read the record from ``iot_telemetry``, frame by frame, on one
clock.

The sender's manifest has the send time of each frame (taken before the system call); the consumer records the arrival
of each record. Sender, edge, broker, worker and consumer share the machine. After the default number of partitions a
second system with two is measured at the higher rate.
"""

import gc
import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from bench.harness import DEVICES, Bench, BenchFailed
from bench.harness.report import Result
from klais.config.load import Settings
from klais.kafka.clients import confluent_config
from klais.kafka.topics import Topics
from klais.sim.manifest import read_manifest

RATES = ((50_000, ""), (5_000, "_at_5k"))
FEW_PARTITIONS = 2  # each additional partition is one more record in each linger: this measures its cost
SECONDS = 13
WARM_S = 3.0  # excluded: connections
SETTLE_S = 30  # of load before measuring: the broker compiles its hot code, the linger settles
WINDOWS = 3
DRAIN_S = 2.0
MAX_RECORDS = 5000  # records of one poll: they get one time, so a poll must be short

Column = npt.NDArray[np.int64]
Read = tuple[int, list[bytes]]  # time (ns since the epoch), and the values that arrived then


def open_consumer(settings: Settings, topic: str | None = None) -> Consumer:
    """A plain consumer at the end of all partitions of ``iot_telemetry`` (or of ``topic``), with librdkafka's default
    settings for fetching.
    """
    consumer = Consumer(
        confluent_config(settings)
        | {"group.id": f"bench-{uuid.uuid4().hex}", "enable.auto.commit": False, "auto.offset.reset": "latest"}
    )
    name = topic or Topics.of(settings).telemetry
    consumer.assign([TopicPartition(name, p, OFFSET_END) for p in range(settings.partitions)])
    return consumer


def read_for(consumer: Consumer, until_s: float) -> list[Read]:
    """Read until a time (monotonic): times (ns since the epoch), and the values that arrived then."""
    reads: list[Read] = []
    while time.monotonic() < until_s:
        first = consumer.poll(0.05)
        if first is None:
            continue
        messages = [first, *consumer.consume(MAX_RECORDS, timeout=0)]
        now_ns = time.time_ns()
        reads.append((now_ns, [m.value() for m in messages if m.error() is None]))
    return reads


def delays_ms(reads: list[Read], manifest: Any) -> tuple[Column, npt.NDArray[np.float64]]:
    """Send time (ns since the epoch) and delay (ms) of each frame that was sent and read, in the order of sending."""
    prefix = len(manifest.header["id_prefix"])
    name, read_ns = [], []
    for now_ns, values in reads:
        for value in values:
            record = orjson.loads(value)
            name.append(int(record["device_id"][prefix:]) << 32 | record["seq"])
        read_ns += [now_ns] * len(values)
    names, at_ns = np.array(name, np.int64), np.array(read_ns, np.int64)
    sent = manifest.device.astype(np.int64) << 32 | manifest.sequence.astype(np.int64)
    order = np.argsort(sent)
    place = np.minimum(np.searchsorted(sent[order], names), len(sent) - 1)
    known = sent[order[place]] == names
    left_ns = manifest.sent_at_ns[order[place]][known]
    took_ms = (at_ns[known] - left_ns) / 1e6
    by_time = np.argsort(left_ns, kind="stable")
    return left_ns[by_time], took_ms[by_time]


def read_while_sent(bench: Bench, settings: Settings, rate: int, seconds: int, *options: str) -> Iterator[Read]:
    """Send at ``rate`` for some seconds, and read in that time and until all frames have landed."""
    consumer = open_consumer(settings)
    gc.disable()  # a pass over all records would block the reader for 0.2 s: records that land then would seem late
    try:
        read_for(consumer, time.monotonic() + 1.0)  # connect
        with bench.simulate(
            settings, "--devices", str(DEVICES), "--rate", str(rate), "--for", f"{seconds}s", *options
        ) as sender:
            while (
                sender.running
            ):  # do not wait for the sender here: records that are not read immediately would seem late
                yield from read_for(consumer, time.monotonic() + 0.2)
            yield from read_for(consumer, time.monotonic() + DRAIN_S)
            sender.summary(5)
    finally:
        gc.enable()
        consumer.close()


def measure(bench: Bench, settings: Settings, rate: int) -> tuple[Column, npt.NDArray[np.float64], int]:
    """Delays at ``rate`` without the first seconds, and the number of frames sent."""
    path = bench.folder / f"sent-{rate}.klm"
    named = ("--id-prefix", f"r{rate // 1000}-", "--manifest", str(path))
    reads = list(read_while_sent(bench, settings, rate, SECONDS, *named))
    manifest = read_manifest(path)
    left_ns, took_ms = delays_ms(reads, manifest)
    if not len(left_ns):
        raise BenchFailed(f"no record of {manifest.count} frames was read")
    warm = left_ns >= manifest.sent_at_ns[0] + int(WARM_S * 1e9)
    return left_ns[warm], took_ms[warm], manifest.count


def warm_up(bench: Bench, settings: Settings) -> None:
    """Run the measured load first: the figures are for a system that has run for a while."""
    bench.say(f"latency: warming up for {SETTLE_S} s")
    for _ in read_while_sent(bench, settings, RATES[0][0], SETTLE_S, "--id-prefix", "warm-"):
        pass


def note_delays(result: Result, tail: str, took_ms: npt.NDArray[np.float64]) -> None:
    """Record quantiles of all delays of a case as figures, with the spread of consecutive windows."""
    windows = [part for part in np.array_split(took_ms, WINDOWS) if len(part)]
    for name, share in (("p50_ms", 50), ("p99_ms", 99)):
        result.repeat(name + tail, [float(np.percentile(part, share)) for part in windows])
        # of all frames together, not the median of the windows
        result.figures[name + tail] = round(float(np.percentile(took_ms, share)), 2)
    result.figures |= {f"p999_ms{tail}": round(float(np.percentile(took_ms, 99.9)), 2)}
    result.figures |= {f"max_ms{tail}": round(float(took_ms.max()), 2)}


def run_cases(bench: Bench, result: Result, cases: tuple[tuple[int, str], ...], **overrides: Any) -> None:
    """Run one system: warm it up, then measure at each rate."""
    with bench.topics(**overrides) as settings, bench.edge(settings), bench.worker(settings):
        warm_up(bench, settings)
        for rate, tail in cases:
            bench.say(f"latency: {rate:,} frames a second for {SECONDS} s, {settings.partitions} partitions")
            left_ns, took_ms, sent = measure(bench, settings, rate)
            note_delays(result, tail, took_ms)
            result.rows.append(
                {
                    "partitions": settings.partitions,
                    "asked": rate,
                    "sent": sent,
                    "measured": len(left_ns),
                    "min_ms": round(float(took_ms.min()), 2),
                }
            )


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("latency")
    run_cases(bench, result, RATES)
    run_cases(bench, result, ((RATES[0][0], f"_at_{FEW_PARTITIONS}_partitions"),), partitions=FEW_PARTITIONS)
    note = f"the first {WARM_S:g} s are left out, {SETTLE_S} s of the same load before them"
    result.notes.append(f"min and max are of {WINDOWS} windows in a row; {note}")
    return result
