"""Send batches to Kafka: idempotent, acks=all, lz4, with a limit on unacknowledged bytes."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from klais.config.load import Settings
from klais.core.wire.constants import Reason
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.base import Headers
from klais.edge.sinks.spool.records import Entry
from klais.kafka.clients import confluent_config
from klais.kafka.topics import MAX_RECORD_BYTES, Topics
from klais.telemetry import log as logs

log = logs.get("klais.edge.sinks.kafka")


def _ignore(_value: float) -> None:
    """Does nothing."""


_SILENT = logging.getLogger("klais.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

PURGE_S = 5.0  # a purge takes some milliseconds
# Kafka refuses the batch itself. If a correct topic would accept it, the batch waits until an operator fixes the topic.
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.RECORD_LIST_TOO_LARGE})


class Clock(Protocol):
    """Source of record times: :class:`klais.edge.host_checks.ClockCheck`."""

    def record_ms(self) -> int:
        """The timestamp for a record; 0 = let the client set it."""

    def on_acknowledged(self) -> None:
        """Kafka accepted a record."""

    def on_refused(self) -> None:
        """Kafka refused a record because of its time."""


Deliver = Callable[[Entry | None], None]


def producer_config(settings: Settings) -> dict[str, Any]:
    """The configuration of librdkafka for the edge.

    A batch never times out by itself (``message.timeout.ms`` 0), so no time-out breaks the idempotent sequence. When
    the breaker opens or the process ends, :meth:`KafkaPublisher.take_back` takes all of them back.
    """
    room_kb = 2 * (settings.publish_max_inflight_bytes >> 10) + 4096
    return confluent_config(settings) | {
        "client.id": f"klais-edge-{settings.edge_id}",
        "enable.idempotence": True,
        # No later batch may overtake one that failed for good: lanes would take its second try for a repeat.
        "enable.gapless.guarantee": True,
        "acks": "all",
        "compression.type": "lz4",
        "linger.ms": 0,  # batches have already lingered
        "message.timeout.ms": 0,
        "message.max.bytes": 2 << 20,
        "queue.buffering.max.kbytes": room_kb,
        "queue.buffering.max.messages": 0,
        "reconnect.backoff.max.ms": 1000,
        "socket.nagle.disable": True,
        "logger": _SILENT,  # important events arrive as errors; a purge alone logs a FATAL line
    }


class KafkaPublisher:
    """Passes batches to librdkafka and handles their delivery reports; belongs to one thread.

    Batches of one partition are delivered in the order in which they were offered, or returned in that order.

    Parameters
    ----------
    settings : Settings
        Connection, ``publish_max_inflight_bytes``.
    counts : Counts
        Counters to update.
    clock : Clock
        Source of the records' timestamps.
    on_delivered, on_refused : callable
        Called with the spool entry (None if it did not come from the spool) of each batch or dead letter that Kafka
        acknowledged, or refused because of the batch itself (its frames are counted).
    observe_kafka_s : callable
        Called with the time from hand-over to acknowledgement (s), once for each batch.
    make_producer : callable, optional
        For tests: creates the producer from its configuration.

    Attributes
    ----------
    failing : bool
        A delivery failed, or the client cannot continue: call :meth:`take_back` before you offer anything else.
    """

    def __init__(
        self,
        settings: Settings,
        counts: Counts,
        clock: Clock,
        on_delivered: Deliver,
        on_refused: Deliver,
        observe_kafka_s: Callable[[float], None] = _ignore,
        make_producer: Callable[[dict[str, Any]], Any] = Producer,
    ) -> None:
        topics = Topics.of(settings)
        self._raw, self._dead_letter = topics.raw, topics.dead_letter
        self._max_inflight_bytes = settings.publish_max_inflight_bytes
        self._counts, self._clock = counts, clock
        self._on_delivered, self._on_refused, self._observe_kafka_s = on_delivered, on_refused, observe_kafka_s
        self._config = producer_config(settings) | {"error_cb": self._on_error}
        self._make_producer = make_producer
        self._order = 0
        self._acked: dict[int, int] = {}  # partition -> order of the last acknowledged batch
        self._returned: list[tuple[int, int, int, Entry | None, bytes]] = []
        self.failing = False
        self._producer = make_producer(self._config)

    def room(self, share: float = 1.0) -> int:
        """Bytes that may still be handed over until ``share`` of the limit is in flight."""
        return int(share * self._max_inflight_bytes) - self._counts.inflight_bytes

    def offer(self, built: ClosedBatch, entry: Entry | None = None) -> bool:
        """Pass a batch to librdkafka; False if too many bytes are in flight, or :attr:`failing`.

        ``entry``: its place in the spool. Such a batch counts as spooled until it is acknowledged, not as in flight.
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

    def dead_letter(self, value: bytes, key: bytes | None, headers: Headers, partition: int) -> bool:
        """Send one malformed frame to the dead-letter topic; False if too many bytes are in flight."""
        report = partial(self._dead_letter_delivered, len(value))
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
        if self.failing or len(value) > room:
            return False
        for _ in range(2):
            try:
                self._producer.produce(
                    topic,
                    value,
                    key,
                    partition,
                    on_delivery=report,
                    timestamp=self._clock.record_ms(),
                    headers=headers or [],
                )
                return True
            except BufferError:
                self.poll()
            except KafkaException as error:
                self._failed(error.args[0], 0)
                self.failing = True
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
            self._observe_kafka_s(message.latency() or 0.0)
            self._clock.on_acknowledged()
            self._acked[partition] = order
            self._on_delivered(entry)
        elif error.code() in TOO_LARGE and len(message.value() or b"") > MAX_RECORD_BYTES:
            self._give_up(frames, entry)
            self._failed(error, frames)
        else:
            # Not lost: take_back() returns it. Records returned by a purge are not failures.
            self._returned.append((order, partition, frames, entry, message.value() or b""))
            if error.code() not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
                self.failing = True
                self._failed(error, frames)

    def _give_up(self, frames: int, entry: Entry | None) -> None:
        self._counts.drop(Reason.DELIVERY_FAILED, frames)
        self._counts.batches_failed += 1
        self._on_refused(entry)

    def _dead_letter_delivered(self, size: int, error: KafkaError | None, _message: Message) -> None:
        self._counts.inflight_bytes -= size
        if error is not None:
            self._counts.dead_letters_failed += 1
            self._failed(error, 0)
        else:
            self._counts.dead_letters += 1
            self._on_delivered(None)

    def _failed(self, error: KafkaError, frames: int) -> None:
        if error.code() == KafkaError.INVALID_TIMESTAMP:
            self._clock.on_refused()
        if calls := logs.every(5, "edge.delivery_failed"):
            log.error("delivery_failed", error=error.str(), frames=frames, calls=calls)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self.failing = True
        if calls := logs.every(5, "edge.kafka_error"):
            log.warning("kafka_error", error=error.str(), fatal=error.fatal(), calls=calls)

    def poll(self, wait_s: float = 0.0) -> None:
        """Process delivery reports, waiting at most ``wait_s`` for the first."""
        try:
            self._producer.poll(wait_s)
        except KafkaException as error:  # fatal errors are raised here; later reports are processed in the next call
            self._on_error(error.args[0])
            self.failing = True

    def flush(self, budget_s: float) -> bool:
        """Wait for acknowledgements within the budget; returns whether all arrived.

        The client's own ``flush`` would continue its callbacks after a fatal error with that exception set, which loses
        reports.
        """
        until_s = time.monotonic() + budget_s
        while len(self._producer) and (left_s := until_s - time.monotonic()) > 0:
            self.poll(min(0.05, left_s))
        return len(self._producer) == 0

    def take_back(self) -> list[ClosedBatch]:
        """Take back all unacknowledged batches, and continue with a new producer.

        A first try may still arrive: lanes recognise a repeated batch by (edge, boot, number). If a later batch of its
        partition was already acknowledged, a lane would take a batch for such a repeat: it counts as
        ``delivery_failed``.

        Returns
        -------
        list of Built
            In the order in which they were offered, without those from the spool, which are still stored there.
        """
        self._producer.purge()
        if not self.flush(PURGE_S):
            log.error("frames_lost", frames=self._counts.inflight, why="the Kafka client does not return them")
            self._counts.drop(Reason.DELIVERY_FAILED, self._counts.inflight)
            self._counts.inflight = self._counts.inflight_bytes = 0
        returned, self._returned = sorted(self._returned, key=lambda row: row[0]), []
        self._producer = self._make_producer(self._config)
        self.failing = False
        out = []
        for order, partition, frames, entry, value in returned:
            if order < self._acked.get(partition, 0):
                self._give_up(frames, entry)
            elif entry is None:
                out.append(ClosedBatch(value, partition, frames))
        self._acked.clear()
        return out
