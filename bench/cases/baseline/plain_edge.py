"""A plain implementation of the edge: an asyncio datagram endpoint and aiokafka's ``send`` for each frame, for
comparison only.

It follows the documentation of both: ``datagram_received`` puts frames on a bounded queue, a few tasks read it and
``await producer.send(...)`` (which batches by itself); lz4, acks=all, idempotent, like the edge. Frames are dropped and
counted when the queue is full. It makes the same checks as the edge.

    python -m bench.cases.baseline.plain_edge HOST:PORT BOOTSTRAP TOPIC
"""

import asyncio
import signal
import struct
import sys
from typing import Any

from aiokafka import AIOKafkaProducer

HEADER = struct.Struct(">H16sI")
MAGIC = 0xAA55
QUEUE_FRAMES = 100_000
TASKS = 4
BATCH_BYTES = 131_072  # aiokafka's default of 16 KiB would limit requests to some 200 frames a partition
RECEIVE_BUFFER_BYTES = 64 << 20


def key_of(frame: bytes) -> bytes | None:
    """The device id of a frame, None when it is malformed."""
    if len(frame) < HEADER.size:
        return None
    magic, padded, _ = HEADER.unpack_from(frame)
    key: bytes = padded.rstrip(b"\0")
    try:
        key.decode()
    except UnicodeDecodeError:
        return None
    return key if magic == MAGIC and key and b"\0" not in key else None


class Receiver(asyncio.DatagramProtocol):
    """Put received frames on a queue."""

    def __init__(self, queue: "asyncio.Queue[bytes]") -> None:
        self._queue = queue
        self.dropped = 0

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """See asyncio."""
        try:
            self._queue.put_nowait(data)
        except asyncio.QueueFull:
            self.dropped += 1


async def publish(queue: "asyncio.Queue[bytes]", producer: AIOKafkaProducer, topic: str) -> None:
    """Send frames one by one; ``send`` waits only while the producer's buffer is full."""
    while True:
        frame = await queue.get()
        key = key_of(frame)
        if key is not None:
            await producer.send(topic, frame, key=key)


async def serve(host: str, port: int, bootstrap: str, topic: str) -> None:
    """Receive and publish until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_FRAMES)
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        linger_ms=5,
        max_batch_size=BATCH_BYTES,
    )
    await producer.start()
    tasks = [asyncio.create_task(publish(queue, producer, topic)) for _ in range(TASKS)]
    transport, _ = await loop.create_datagram_endpoint(lambda: Receiver(queue), local_addr=(host, port))
    sock = transport.get_extra_info("socket")
    sock.setsockopt(1, 33, RECEIVE_BUFFER_BYTES)  # SOL_SOCKET, SO_RCVBUFFORCE: the same size as the edge's
    print("receives", flush=True)
    await stop.wait()
    transport.close()
    for task in tasks:
        task.cancel()
    await producer.stop()


def main() -> None:
    """Run the plain edge."""
    host, _, port = sys.argv[1].rpartition(":")
    asyncio.run(serve(host, int(port), sys.argv[2], sys.argv[3]))


if __name__ == "__main__":
    main()
