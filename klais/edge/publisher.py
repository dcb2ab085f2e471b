"""Batches to Kafka: idempotent, acks=all, lz4, with a bound on the bytes that wait for their acknowledgement."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from klais import log as logs
from klais.config import Settings
from klais.edge.batcher import Built
from klais.edge.counts import Counts
from klais.kafka.clients import confluent_config
from klais.kafka.topics import Topics
from klais.wire.constants import Reason

log = logs.get("klais.edge.publisher")

FAILING_AFTER_S = 5.0
Headers = list[tuple[str, bytes]]


class Sink(Protocol):
    """Where closed batches go. A breaker with a disk spool goes between the spine and Kafka behind this same face."""

    def offer(self, built: Built) -> bool:
        """Take a batch over, or return False at once: then its frames are the caller's to count."""

    def poll(self) -> None:
        """Serve delivery reports; cheap, called in every round of the spine."""

    def drain(self, budget_s: float) -> int:
        """Deliver what is left within the budget; returns the frames that could not be, all counted."""


def producer_config(settings: Settings) -> dict[str, Any]:
    """librdkafka's settings for the edge.

    A batch never times out (``message.timeout.ms`` 0): while the brokers are away the oldest frames are kept, the bound
    on bytes in flight makes the newest count as backpressure, and no time-out breaks the idempotent sequence. Only
    a fatal error, or the end of the process, ends a batch that was taken.
    """
    room_kb = 2 * (settings.publish_max_inflight_bytes >> 10) + 4096
    return confluent_config(settings) | {
        "client.id": f"klais-edge-{settings.edge_id}",
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "lz4",
        "linger.ms": 0,  # batches lingered already
        "message.timeout.ms": 0,
        "message.max.bytes": 2 << 20,
        "queue.buffering.max.kbytes": room_kb,
        "queue.buffering.max.messages": 0,
        "reconnect.backoff.max.ms": 1000,
        "socket.nagle.disable": True,
        "log_level": 2,  # what matters arrives through error_cb
    }


class KafkaPublisher:
    """The sink that is Kafka; belongs to one thread.

    Parameters
    ----------
    settings : Settings
        Connection, ``publish_max_inflight_bytes``.
    counts : Counts
        Counters to keep.
    make_producer : callable, optional
        For tests: builds the producer from its configuration.
    """

    def __init__(self, settings: Settings, counts: Counts, make_producer: Callable[[dict[str, Any]], Any] = Producer) -> None:
        topics = Topics.of(settings)
        self._raw, self._dead_letter = topics.raw, topics.dead_letter
        self._max_inflight_bytes = settings.publish_max_inflight_bytes
        self._counts = counts
        self._config = producer_config(settings) | {"error_cb": self._on_error}
        self._make_producer = make_producer
        self._fatal = False
        self._last_good_s = time.monotonic()
        self._producer = make_producer(self._config)

    def offer(self, built: Built) -> bool:
        """Hand a batch to librdkafka; False when too many bytes are in flight."""
        size = len(built.value)
        if not self._produce(self._raw, built.partition, partial(self._delivered, built.count, size), built.value):
            return False
        self._counts.inflight += built.count
        self._counts.inflight_bytes += size
        return True

    def letter(self, value: bytes, key: bytes | None, headers: Headers, partition: int) -> bool:
        """Send one malformed frame to the dead-letter topic; False when too many bytes are in flight."""
        report = partial(self._letter_delivered, len(value))
        if not self._produce(self._dead_letter, partition, report, value, key, headers):
            return False
        self._counts.inflight_bytes += len(value)
        return True

    def _produce(
        self,
        topic: str,
        partition: int,
        report: Callable[[KafkaError | None, Message], None],
        value: bytes,
        key: bytes | None = None,
        headers: Headers | None = None,
    ) -> bool:
        if self._counts.inflight_bytes + len(value) > self._max_inflight_bytes:
            return False
        if self._counts.inflight_bytes == 0:
            self._last_good_s = time.monotonic()  # silence before this batch says nothing about Kafka
        for _ in range(2):
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=report, headers=headers or [])
                return True
            except BufferError:
                self._producer.poll(0)
            except KafkaException as error:
                self._on_error(error.args[0])
                break
        return False

    def _delivered(self, frames: int, size: int, error: KafkaError | None, message: Message) -> None:
        counts = self._counts
        counts.inflight -= frames
        counts.inflight_bytes -= size
        if error is not None:
            counts.drop(Reason.DELIVERY_FAILED, frames)
            counts.batches_failed += 1
            self._failed(error, frames)
            return
        counts.published += frames
        counts.published_bytes += size
        counts.batches += 1
        counts.observe_kafka_s(message.latency() or 0.0)
        self._last_good_s = time.monotonic()

    def _letter_delivered(self, size: int, error: KafkaError | None, _message: Message) -> None:
        self._counts.inflight_bytes -= size
        if error is not None:
            self._counts.letters_failed += 1
            self._failed(error, 0)
        else:
            self._counts.letters += 1
            self._last_good_s = time.monotonic()

    def _failed(self, error: KafkaError, frames: int) -> None:
        if error.code() == KafkaError._FATAL or error.fatal():
            self._fatal = True
        if calls := logs.every(5, "edge.delivery_failed"):
            log.error("delivery_failed", error=error.str(), frames=frames, calls=calls)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = True
        if calls := logs.every(5, "edge.kafka_error"):
            log.warning("kafka_error", error=error.str(), fatal=error.fatal(), calls=calls)

    def poll(self) -> None:
        """Serve delivery reports; after a fatal error count what was in flight and go on with a new producer."""
        self._producer.poll(0)
        if self._fatal:
            log.error("producer_rebuilt", frames_in_flight=self._counts.inflight, why="fatal error of the Kafka client")
            self._purge()
            self._producer = self._make_producer(self._config)
            self._fatal = False

    def _purge(self) -> None:
        self._producer.purge()
        self._producer.flush(1.0)

    def failing(self) -> bool:
        """Whether batches wait and none was acknowledged for 5 seconds, or the bytes in flight are nearly used up."""
        counts = self._counts
        stuck = counts.inflight_bytes > 0 and time.monotonic() - self._last_good_s > FAILING_AFTER_S
        return stuck or counts.inflight_bytes > 0.9 * self._max_inflight_bytes

    def drain(self, budget_s: float) -> int:
        """Wait for acknowledgements within the budget, then give up on the rest.

        Returns
        -------
        int
            Frames that were given up; counted as ``delivery_failed``.
        """
        before = int(self._counts.by_reason[Reason.DELIVERY_FAILED])
        if self._producer.flush(budget_s) > 0:
            self._purge()
        return int(self._counts.by_reason[Reason.DELIVERY_FAILED]) - before
