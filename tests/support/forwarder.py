"""A model of librdkafka and Kafka for the tests of store and forward: ordered by partition; late, silent or fenced on
request.
"""

from collections import defaultdict
from typing import Any

from confluent_kafka import KafkaError

from klais.core.wire.batch import HEADER


def name_of(partition: int, value: bytes) -> tuple[int, int, int]:
    """Partition, boot and number of a batch."""
    _, _, _, _, _, boot, number = HEADER.unpack_from(value)
    return partition, boot, number


class NoClock:
    """A clock comparison without a broker's clock."""

    def record_ms(self) -> int:
        return 0

    def on_acknowledged(self) -> None:
        pass

    def on_refused(self) -> None:
        raise AssertionError("no time was refused")


class Message:
    """The message of a delivery report."""

    def __init__(self, value: bytes) -> None:
        self._value = value

    def latency(self) -> float:
        return 0.001

    def value(self) -> bytes:
        return self._value


class Producer:
    """The relevant behaviour of librdkafka: ordered by partition, no gaps; sent batches may arrive after a purge."""

    made: list["Producer"] = []

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.queued: dict[int, list[tuple[bytes, Any]]] = defaultdict(list)  # not reported yet, oldest first
        self.on_the_way: dict[int, list[bytes]] = defaultdict(list)  # not arrived yet, oldest first
        self.arrived: dict[int, int] = defaultdict(int)  # number of queued batches that arrived
        Producer.made.append(self)

    def produce(self, topic, value, key, partition, on_delivery, timestamp, headers):
        self.queued[partition].append((value, on_delivery))
        self.on_the_way[partition].append(value)

    def arrive(self, partition: int, log: list[bytes]) -> None:
        """Let the next request of a partition reach the broker."""
        if self.on_the_way[partition]:
            log.append(self.on_the_way[partition].pop(0))
            self.arrived[partition] += 1

    def acknowledge(self, partition: int) -> None:
        """Let the answer to the oldest arrived request reach the edge."""
        if self.arrived[partition] and self.queued[partition]:
            self.arrived[partition] -= 1
            value, report = self.queued[partition].pop(0)
            report(None, Message(value))

    def poll(self, _timeout: float) -> int:
        return 0

    def __len__(self) -> int:
        return sum(map(len, self.queued.values()))

    def purge(self) -> None:
        for queue in self.queued.values():
            while queue:
                value, report = queue.pop(0)
                report(KafkaError(KafkaError._PURGE_INFLIGHT), Message(value))
