"""Reads the flags of all partitions of ``klais_anomalies`` in a thread, from given offsets on.

If the topic is deleted and created again, it reads the new one from its start. If the topic lost its tail, it continues
at the new end: librdkafka would start at the beginning, and every flag would count twice.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from klais.config.load import Settings
from klais.core.incidents.summary import FlagSeen, read_flag
from klais.kafka.clients import confluent_config
from klais.kafka.follower import END_S, FETCH_WAIT_MS
from klais.kafka.topic_identity import CHECK_S, TopicIdentity
from klais.kafka.topics import Topics
from klais.telemetry import log as logs

log = logs.get("klais.kafka.flag_reader")

MAX_WAITING = 20_000  # maximum number of flags; above, they are only counted
POLL_S, POLLED = 0.2, 500
RETRY_S = 1.0


@dataclass(slots=True)
class Batch:
    """Flags in the order of their partitions, the next offsets, and how many flags were left out.

    ``topic_id``: of the topic that the offsets belong to, None = the broker has not answered yet.
    """

    flags: list[FlagSeen] = field(default_factory=list)
    next_offsets: dict[int, int] = field(default_factory=dict)
    skipped: int = 0
    topic_id: str | None = None


class FlagReader:
    """Follows the topic without a group; commits nothing. Records that are not flags are skipped.

    Parameters
    ----------
    settings : Settings
        Settings with the addresses of the cluster.
    offsets : mapping of int to int
        The first offset to read, for each partition. If retention removed it, the oldest existing one; if the topic
        ends before it, the end.
    """

    def __init__(self, settings: Settings, offsets: Mapping[int, int]) -> None:
        self._topic = Topics.of(settings).anomalies
        self._offsets, self._identity = dict(offsets), TopicIdentity(settings, self._topic)
        self._config = confluent_config(settings) | {
            "group.id": f"{settings.topic_prefix}klais-incidents",  # librdkafka requires one
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",  # see _correct
            "isolation.level": "read_uncommitted",  # another program's open transaction must not hold up the flags
            "allow.auto.create.topics": False,
            "fetch.wait.max.ms": FETCH_WAIT_MS,
            "queued.max.messages.kbytes": 4096,
            "reconnect.backoff.max.ms": 2000,
            "log_level": 2,
            "error_cb": self._on_error,
        }
        self._lock = threading.Lock()
        self._batch = Batch()
        self._outside: set[int] = set()  # partitions that do not have the next offset
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to read; returns immediately."""
        self._thread = threading.Thread(target=self._run, name="flag-reader", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop and close the connection."""
        self._stop.set()
        if self._thread:
            self._thread.join(5.0)

    def take(self) -> Batch:
        """The flags received since the last call."""
        with self._lock:
            out, self._batch = self._batch, Batch(topic_id=self._batch.topic_id)
        return out

    def _run(self) -> None:
        while not self._stop.is_set():
            consumer = None
            try:
                consumer = Consumer(self._config)  # fails without threads or descriptors
                self._correct(consumer)
                consumer.assign([TopicPartition(self._topic, p, offset) for p, offset in self._offsets.items()])
                while not self._stop.is_set() and not self._replaced() and not self._outside:
                    for message in consumer.consume(POLLED, POLL_S):
                        self._handle(message)
            except KafkaException as error:
                self._on_error(error.args[0])
                self._stop.wait(RETRY_S)
            finally:
                if consumer is not None:
                    consumer.close()

    def _correct(self, consumer: Consumer) -> None:
        """Continue at the nearest existing offset where the next one was removed, or is behind the end."""
        if not self._outside:
            return
        self._stop.wait(CHECK_S)  # until a topic that was created again would be noticed
        if self._replaced():
            self._outside.clear()
        for partition in sorted(self._outside):
            first, end = consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=END_S)
            wanted = self._offsets[partition]
            now = self._offsets[partition] = min(max(wanted, first), end)
            say = log.error if wanted > end else log.warning
            say("flags_gone", topic=self._topic, partition=partition, wanted=wanted, first=first, end=end)
            with self._lock:
                self._batch.next_offsets[partition] = now
        self._outside.clear()

    def _replaced(self) -> bool:
        """Whether the topic was created again: then all offsets are those of its start."""
        replaced = self._identity.replaced()
        if replaced:
            log.warning("topic_replaced", topic=self._topic)
            self._offsets = dict.fromkeys(self._offsets, 0)
        with self._lock:
            self._batch.topic_id = self._identity.topic_id
            if replaced:
                self._batch.next_offsets |= self._offsets
        return replaced

    def _handle(self, message: Message) -> None:
        error = message.error()
        partition, offset = message.partition(), message.offset()
        if error is not None and error.code() == KafkaError._AUTO_OFFSET_RESET and partition is not None:
            self._outside.add(partition)
            return
        if error is not None or partition is None or offset is None:
            self._on_error(error)
            return
        self._offsets[partition] = offset + 1
        full = len(self._batch.flags) >= MAX_WAITING
        value = message.value()
        flag = None
        try:
            if not full:
                flag = read_flag(value if isinstance(value, bytes) else None, partition, _appended_ms(message))
        except Exception as problem:  # otherwise this thread would end silently; no record from outside may cause that
            if calls := logs.every(5, "flag_reader.skipped"):
                log.warning("record_skipped", topic=self._topic, offset=offset, error=repr(problem), calls=calls)
        with self._lock:
            batch = self._batch
            batch.next_offsets[partition] = offset + 1
            batch.skipped += full
            if flag is not None:
                batch.flags.append(flag)

    def _on_error(self, error: KafkaError | None) -> None:
        if error is not None and (calls := logs.every(30, "flag_reader")):
            log.warning("kafka_error", topic=self._topic, error=error.str(), calls=calls)


def _appended_ms(message: Message) -> int:
    """When the broker appended the message."""
    return int(message.timestamp()[1])
