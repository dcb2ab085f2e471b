"""How long a checkpoint of 100,000 changed devices blocks the worker's event loop, measured by a timer inside it.

One lane, so that all of them are in one checkpoint. The worker's statistics report each second the largest delay of its
5 ms timer; seconds in which rows went to the changelog are compared with the others.
"""

import threading
import time
import uuid
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from bench.harness import Bench, BenchFailed, Ends
from bench.harness.report import Result
from klais.config.load import Settings
from klais.kafka.clients import confluent_config
from klais.kafka.topics import Topics

CHANGED = 100_000
RATE = 25_000
INTERVAL_S = 6.0  # 150,000 frames from one checkpoint to the next: each of 100,000 devices in turn
SECONDS = 30
SETTLE_S = 6.0  # excluded: the devices appear one after the other, and their rows are created
FRESH = 0.5  # a checkpoint counts if at least this share of the devices is in it


def statistics(settings: Settings) -> list[dict[str, Any]]:
    """All statistics records of the worker so far."""
    partition = TopicPartition(Topics.of(settings).stats, 0, OFFSET_BEGINNING)
    consumer = Consumer(
        confluent_config(settings) | {"group.id": f"bench-{uuid.uuid4().hex}", "enable.auto.commit": False}
    )
    records, at = [], 0
    try:
        # Up to the present end: records keep arriving, so waiting for a pause could take forever.
        _, end = consumer.get_watermark_offsets(partition, timeout=20)
        consumer.assign([partition])
        until_s = time.monotonic() + 20
        while at < end:
            if time.monotonic() > until_s:
                raise BenchFailed(f"{partition.topic} could not be read beyond record {at:,} of {end:,}")
            message = consumer.poll(1.0)
            if message is not None and message.error() is None:
                records.append(orjson.loads(message.value()))
                at = message.offset() + 1
    finally:
        consumer.close()
    return [record for record in records if record["kind"] == "worker"]


class RowsWritten(threading.Thread):
    """Growth of the changelog: ``(seconds since the epoch, end offset)`` every 0.1 s."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self._ends = Ends(settings, Topics.of(settings).devices_changelog)
        self._over = threading.Event()
        self.samples: list[tuple[float, int]] = []

    def run(self) -> None:
        """Sample until :meth:`stop`."""
        while not self._over.wait(0.1):
            self.samples.append((time.time(), self._ends.total()))

    def stop(self) -> None:
        """End."""
        self._over.set()
        self.join(15)

    def checkpoints(self) -> list[tuple[float, float, int]]:
        """(begin, end, rows) of each period of growth without a pause of more than half a second."""
        found: list[tuple[float, float, int]] = []
        for (at_s, end), (next_s, next_end) in zip(self.samples, self.samples[1:], strict=False):
            if next_end > end:
                rows = next_end - end
                if found and at_s - found[-1][1] < 0.5:
                    found[-1] = (found[-1][0], next_s, found[-1][2] + rows)
                else:
                    found.append((at_s, next_s, rows))
        return found


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("checkpoint")
    overrides = {"partitions": 1, "checkpoint_interval_s": INTERVAL_S}
    with bench.topics(**overrides) as settings, bench.edge(settings), bench.worker(settings) as child:
        rows = RowsWritten(settings)
        rows.start()
        bench.say(f"checkpoint: {CHANGED:,} devices, {RATE:,} frames a second for {SECONDS} s")
        options = ("--devices", str(CHANGED), "--rate", str(RATE), "--for", f"{SECONDS}s")
        with bench.simulate(settings, *options) as sender:
            time.sleep(SETTLE_S)
            begin_ms, cpu_s = time.time() * 1e3, child.cpu_s()
            sender.summary(SECONDS + 30)
            end_ms, cpu_s = time.time() * 1e3, child.cpu_s() - cpu_s
        rows.stop()
        records = [r for r in statistics(settings) if begin_ms + 1000 < r["at_ms"] < end_ms]
    large = [found for found in rows.checkpoints() if found[2] >= FRESH * CHANGED]
    if not large or not records:
        raise BenchFailed(f"no checkpoint of {FRESH * CHANGED:,.0f} rows was seen: {rows.checkpoints()}")
    # A record covers the second before it; the rows are copied just before the first of them is written.
    near = [any(a - 0.2 < r["at_ms"] / 1e3 < b + 1.1 for a, b, _ in large) for r in records]
    quiet = [not any(a - 0.7 < r["at_ms"] / 1e3 < b + 1.6 for a, b, _ in rows.checkpoints()) for r in records]
    for figure in ("longest_block_ms", "longest_own_block_ms"):
        for name, which in ((figure, near), (f"{figure[:-3]}_without_ms", quiet)):
            values = [r["gauges"][f"event_loop_{figure}"] for r, chosen in zip(records, which, strict=True) if chosen]
            if values:
                result.repeat(name, values)
                result.figures[name] = max(values)  # the maximum of all, not the median
    result.figures |= {
        "rows_per_checkpoint": max(n for _, _, n in large),
        "checkpoint_s": round(max(b - a for a, b, _ in large), 2),
        "checkpoints": len(large),
        "worker_cpu_cores": round(cpu_s / ((end_ms - begin_ms) / 1e3), 3),
    }
    result.rows = [
        {name: ms for name, ms in record["gauges"].items() if name.startswith("event_loop")}
        for record, chosen in zip(records, near, strict=True)
        if chosen
    ]
    result.notes.append("min and max are over seconds; the figure is the worst second, whatever the cause of the delay")
    result.notes.append("own = the part that was CPU time of the loop's thread: the rest is waiting for a core")
    result.notes.append("without = in seconds in which no checkpoint was written")
    return result
