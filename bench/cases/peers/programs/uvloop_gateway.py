"""A gateway of uvloop and confluent-kafka, as their guides have it; it checks what the edge checks.

python uvloop_gateway.py HOST:PORT BOOTSTRAP TOPIC
"""

import asyncio
import signal
import struct
import sys
from typing import Any

import uvloop
from confluent_kafka import Producer

HEADER = struct.Struct(">H16sI")
MAGIC = 0xAA55
RECEIVE_BUFFER_BYTES = 64 << 20


class Receiver(asyncio.DatagramProtocol):
    """Produces each frame under its device's id; what the producer's queue has no room for is dropped."""

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer, self._topic = producer, topic
        self.dropped = self.malformed = 0

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """See asyncio."""
        if len(data) < HEADER.size:
            self.malformed += 1
            return
        magic, padded, _ = HEADER.unpack_from(data)
        key = padded.rstrip(b"\0")
        if magic != MAGIC or not key:
            self.malformed += 1
            return
        try:
            self._producer.produce(self._topic, data, key)
        except BufferError:
            self.dropped += 1


async def serve(host: str, port: int, bootstrap: str, topic: str) -> None:
    """Receive and publish until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    config = {"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 10, "compression.type": "lz4"}
    config |= {"partitioner": "murmur2_random", "queue.buffering.max.messages": 500_000}
    producer = Producer(config)
    transport, receiver = await loop.create_datagram_endpoint(
        lambda: Receiver(producer, topic), local_addr=(host, port)
    )
    sock = transport.get_extra_info("socket")
    sock.setsockopt(1, 33, RECEIVE_BUFFER_BYTES)  # SOL_SOCKET, SO_RCVBUFFORCE: as much as the edge asks for
    while not stop.is_set():
        producer.poll(0)  # delivery reports
        await asyncio.sleep(0.01)
    transport.close()
    producer.flush(10)
    print(f"dropped {receiver.dropped}, malformed {receiver.malformed}", flush=True)


if __name__ == "__main__":
    at, _, number = sys.argv[1].rpartition(":")
    uvloop.run(serve(at, int(number), sys.argv[2], sys.argv[3]))
