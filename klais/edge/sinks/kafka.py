"""Batches to Kafka: idempotent, acks=all, lz4, with a bound on the bytes that wait for their acknowledgement."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from klais.config.load import Settings
from klais.core.wire.constants import Reason
from klais.edge.batcher import Built
from klais.edge.counts import Counts
from klais.edge.sinks.spool.disk import Entry
from klais.kafka.clients import confluent_config
from klais.kafka.topics import Topics
from klais.telemetry import log as logs

log = logs.get("klais.edge.sinks.kafka")

_SILENT = logging.getLogger("klais.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

PURGE_S = 5.0  # a purge takes some milliseconds
Headers = list[tuple[str, bytes]]
# The batch itself is refused: no other producer, and no later time, changes that.
HOPELESS = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.RECORD_LIST_TOO_LARGE})


class Sink(Protocol):
    """Where closed batches go: :class:`klais.edge.sinks.store_and_forward.Forwarder`, or a list in memory in tests."""

    @property
    def linger_ns(self) -> int:
        """Batches should collect frames for at least so long."""

    def offer(self, built: Built) -> Reason:
        """Take a batch over (``Reason.PASSED``), or say at once why not: then its frames are the caller's to count."""

    def poll(self) -> None:
        """Serve delivery reports; cheap, called in every round of the spine."""

    def drain(self, budget_s: float) -> int:
        """Deliver or store what is left within the budget; returns the frames that could not be, all counted."""


def producer_config(settings: Settings) -> dict[str, Any]:
    """librdkafka's settings for the edge.

    A batch never times out by itself (``message.timeout.ms`` 0): no time-out breaks the idempotent sequence. Who wants it
    back, because the breaker opened or the process ends, takes back all of them (:meth:`KafkaPublisher.take_back`).
    """
    room_kb = 2 * (settings.publish_max_inflight_bytes >> 10) + 4096
    return confluent_config(settings) | {
        "client.id": f"klais-edge-{settings.edge_id}",
        "enable.idempotence": True,
        # A batch that failed for good must not be overtaken by the next: lanes would take its second try for a repeat.
        "enable.gapless.guarantee": True,
        "acks": "all",
        "compression.type": "lz4",
        "linger.ms": 0,  # batches lingered already
        "message.timeout.ms": 0,
        "message.max.bytes": 2 << 20,
        "queue.buffering.max.kbytes": room_kb,
        "queue.buffering.max.messages": 0,
        "reconnect.backoff.max.ms": 1000,
        "socket.nagle.disable": True,
        "logger": _SILENT,  # what matters arrives as an error; a purge alone makes a line of FATAL
    }


class KafkaPublisher:
    """Hands batches to librdkafka and hears what became of them; belongs to one thread.

    Batches of one partition are delivered in the order in which they were offered, or come back in that order.

    Parameters
    ----------
    settings : Settings
        Connection, ``publish_max_inflight_bytes``.
    counts : Counts
        Counters to keep.
    make_producer : callable, optional
        For tests: builds the producer from its configuration.

    Attributes
    ----------
    troubled : bool
        A delivery failed, or the client cannot go on: :meth:`take_back` what is under way before anything else is offered.
    on_delivered, on_refused : callable
        Called with the spool entry (None for what did not come from there) of each batch or dead letter that Kafka
        acknowledged, or refused because of the batch itself (its frames are counted).
    """

    def __init__(self, settings: Settings, counts: Counts, make_producer: Callable[[dict[str, Any]], Any] = Producer) -> None:
        topics = Topics.of(settings)
        self._raw, self._dead_letter = topics.raw, topics.dead_letter
        self._max_inflight_bytes = settings.publish_max_inflight_bytes
        self._counts = counts
        self._config = producer_config(settings) | {"error_cb": self._on_error}
        self._make_producer = make_producer
        self._order = 0
        self._acked: dict[int, int] = {}  # partition -> order of the last batch acknowledged
        self._returned: list[tuple[int, int, int, Entry | None, bytes]] = []
        self.troubled = False
        self.on_delivered: Callable[[Entry | None], None] = _ignore
        self.on_refused: Callable[[Entry | None], None] = _ignore
        self._producer = make_producer(self._config)

    def room(self, share: float = 1.0) -> int:
        """Bytes that may still be handed over until ``share`` of the bound is in flight."""
        return int(share * self._max_inflight_bytes) - self._counts.inflight_bytes

    def offer(self, built: Built, entry: Entry | None = None) -> bool:
        """Hand a batch to librdkafka; False when too many bytes are in flight, or :attr:`troubled`.

        ``entry``: where it lies in the spool. Such a batch counts as spooled until it is acknowledged, not as in flight.
        """
        size, self._order = len(built.value), self._order + 1
        report = partial(self._delivered, self._order, built.partition, built.count, size, entry)
        room = self.room() - (self._counts.held_bytes if entry is None else 0)
        if not self._produce(self._raw, built.partition, report, built.value, room):
            return False
        if entry is None:
            self._counts.inflight += built.count
        self._counts.inflight_bytes += size
        return True

    def letter(self, value: bytes, key: bytes | None, headers: Headers, partition: int) -> bool:
        """Send one malformed frame to the dead-letter topic; False when too many bytes are in flight."""
        report = partial(self._letter_delivered, len(value))
        if not self._produce(self._dead_letter, partition, report, value, self.room(), key, headers):
            return False
        self._counts.inflight_bytes += len(value)
        return True

    def _produce(
        self,
        topic: str,
        partition: int,
        report: Callable[[KafkaError | None, Message], None],
        value: bytes,
        room: int,
        key: bytes | None = None,
        headers: Headers | None = None,
    ) -> bool:
        if self.troubled or len(value) > room:
            return False
        for _ in range(2):
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=report, headers=headers or [])
                return True
            except BufferError:
                self.poll()
            except KafkaException as error:
                self._failed(error.args[0], 0)
                self.troubled = True
                break
        return False

    def _delivered(
        self,
        order: int,
        partition: int,
        frames: int,
        size: int,
        entry: Entry | None,
        error: KafkaError | None,
        message: Message,
    ) -> None:
        counts = self._counts
        counts.inflight_bytes -= size
        if entry is None:
            counts.inflight -= frames
        if error is None:
            counts.published += frames
            counts.published_bytes += size
            counts.batches += 1
            counts.observe_kafka_s(message.latency() or 0.0)
            self._acked[partition] = order
            self.on_delivered(entry)
        elif error.code() in HOPELESS:
            self._give_up(frames, entry)
            self._failed(error, frames)
        else:
            self._returned.append((order, partition, frames, entry, message.value() or b""))
            if error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
                self.troubled = True
                self._failed(error, frames)

    def _give_up(self, frames: int, entry: Entry | None) -> None:
        self._counts.drop(Reason.DELIVERY_FAILED, frames)
        self._counts.batches_failed += 1
        self.on_refused(entry)

    def _letter_delivered(self, size: int, error: KafkaError | None, _message: Message) -> None:
        self._counts.inflight_bytes -= size
        if error is not None:
            self._counts.letters_failed += 1
            self._failed(error, 0)
        else:
            self._counts.letters += 1
            self.on_delivered(None)

    def _failed(self, error: KafkaError, frames: int) -> None:
        if calls := logs.every(5, "edge.delivery_failed"):
            log.error("delivery_failed", error=error.str(), frames=frames, calls=calls)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.troubled = True
        if calls := logs.every(5, "edge.kafka_error"):
            log.warning("kafka_error", error=error.str(), fatal=error.fatal(), calls=calls)

    def poll(self, wait_s: float = 0.0) -> None:
        """Serve delivery reports, waiting at most so long for the first."""
        try:
            self._producer.poll(wait_s)
        except KafkaException as error:  # fatal errors come this way; reports behind them come with the next call
            self._on_error(error.args[0])
            self.troubled = True

    def flush(self, budget_s: float) -> bool:
        """Wait for acknowledgements within the budget; whether all came.

        The client's own ``flush`` would go on calling back after a fatal error, with that exception set: reports get lost.
        """
        until_s = time.monotonic() + budget_s
        while len(self._producer) and (left_s := until_s - time.monotonic()) > 0:
            self.poll(min(0.05, left_s))
        return len(self._producer) == 0

    def take_back(self) -> list[Built]:
        """Take back all that was not acknowledged, and go on with a new producer.

        A first try may still arrive: lanes know a batch that comes twice by (edge, boot, number). A batch behind which a
        later one of its partition was acknowledged would be taken for such a repeat; it is counted as ``delivery_failed``.

        Returns
        -------
        list of Built
            In the order in which they were offered, those from the spool left out: they lie there still.
        """
        self._producer.purge()
        if not self.flush(PURGE_S):
            log.error("frames_lost", frames=self._counts.inflight, why="the Kafka client does not give them back")
            self._counts.drop(Reason.DELIVERY_FAILED, self._counts.inflight)
            self._counts.inflight = self._counts.inflight_bytes = 0
        returned, self._returned = sorted(self._returned, key=lambda row: row[0]), []
        self._producer = self._make_producer(self._config)
        self.troubled = False
        out = []
        for order, partition, frames, entry, value in returned:
            if order < self._acked.get(partition, 0):
                self._give_up(frames, entry)
            elif entry is None:
                out.append(Built(value, partition, frames))
        self._acked.clear()
        return out


def _ignore(_entry: Entry | None) -> None:
    """Nobody listens."""
