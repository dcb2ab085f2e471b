"""Write frame batches to the staging topic, as an edge under load does (with its kernels)."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from confluent_kafka import Producer

from klais.config.load import Settings
from klais.core.wire.frame import check_headers
from klais.core.wire.partition import partition_column
from klais.edge.batcher import Batcher
from klais.kafka.clients import confluent_config
from klais.kafka.topics import Topics
from klais.sim.stream import Chunk, FrameStream, StreamOptions
from klais.sim.traffic import SteadyRate

BOOT = 1


@dataclass(slots=True)
class _ChunkSource:
    """A chunk of the simulator in the form of a source for the edge's batcher."""

    head: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    tail: npt.NDArray[np.uint8]
    tail_starts: npt.NDArray[np.int64]
    head_size: int = 1 << 16

    @classmethod
    def of(cls, chunk: Chunk, n: int) -> "_ChunkSource":
        return cls(chunk.buf, chunk.starts[:n], chunk.lengths[:n], np.zeros(1, np.uint8), np.zeros(n, np.int64))


def preload(settings: Settings, frames: int, devices: int, rate_per_s: float = 400_000, seed: int = 1) -> int:
    """Put ``frames`` frames of ``devices`` devices on ``klais_raw``, as if received at ``rate_per_s`` up to now.

    Returns
    -------
    int
        Frame batches written.

    Notes
    -----
    Devices take turns in a scattered order, each frame 57 bytes (35 of payload). The dam limits the devices' rate by
    these receive times: with few devices it must not be above KLAIS_DAM_DEVICE_RATE for longer than the burst lasts.
    """
    stream = FrameStream(StreamOptions(devices=devices, seed=seed), SteadyRate(rate_per_s))
    batcher = Batcher(settings.partitions, settings.batch_max_bytes, settings.edge_id, BOOT)
    producer = Producer(
        confluent_config(settings)
        | {
            "compression.type": "lz4",
            "linger.ms": 5,
            "message.max.bytes": 4_000_000,
            "queue.buffering.max.kbytes": 1 << 18,
        }
    )
    topic, built = Topics.of(settings).raw, 0

    def send(partition: int) -> None:
        nonlocal built
        batch = batcher.close(partition, at_ns, at_ns)
        while True:
            try:
                producer.produce(topic, batch.value, partition=batch.partition)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
        built += 1

    begin_ns, done = time.time_ns() - int(frames / rate_per_s * 1e9), 0
    at_ns = begin_ns
    while done < frames:
        chunk = stream.next_chunk()
        n = min(chunk.count, frames - done)
        at_ns = begin_ns + int(done / rate_per_s * 1e9)
        source, partition = _ChunkSource.of(chunk, n), _partitions(chunk, n, settings.partitions)
        taken = batcher.add(source, partition, 0, at_ns, None)  # type: ignore[arg-type]
        while taken < n:
            send(int(partition[taken]))
            taken = batcher.add(source, partition, taken, at_ns, None)  # type: ignore[arg-type]
        done += n
    for number in range(settings.partitions):
        if batcher.count[number]:
            send(number)
    left = producer.flush(60)
    if left:
        raise RuntimeError(f"{left} frame batches could not be delivered")
    return built


def _partitions(chunk: Chunk, n: int, partitions: int) -> npt.NDArray[np.int32]:
    reason, id_size, out = np.zeros(n, np.uint8), np.zeros(n, np.uint8), np.zeros(n, np.int32)
    ids, sequence = np.zeros((n, 2), np.uint64), np.zeros(n, np.uint32)
    check_headers(chunk.buf, chunk.starts[:n], chunk.lengths[:n], reason, ids, sequence, id_size)
    partition_column(chunk.buf, chunk.starts[:n], id_size, partitions, out)
    return out
