"""Follow a small topic of one partition in a thread: what control set-points and statistics have in common."""

import threading
import uuid
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from klais.config.load import Settings
from klais.kafka.clients import confluent_config
from klais.telemetry import log as logs

log = logs.get("klais.control.setpoints")

POLL_S = 0.1
RETRY_S = 1.0


class TopicFollower:
    """Reads partition 0 of a topic and hands every record to :meth:`take`; in no group, commits nothing.

    Parameters
    ----------
    settings : Settings
        Where Kafka is.
    topic : str
        Topic to follow; it may come into being later.
    from_start : bool
        Read what is there already, or only what is written from now on.
    """

    def __init__(self, settings: Settings, topic: str, from_start: bool) -> None:
        self.topic = topic
        self._offset = OFFSET_BEGINNING if from_start else OFFSET_END
        self._config = confluent_config(settings) | {
            "group.id": f"klais-follower-{uuid.uuid4().hex[:8]}",  # librdkafka wants one; nothing is ever committed
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest" if from_start else "latest",
            "allow.auto.create.topics": False,
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 4096,
            "reconnect.backoff.max.ms": 2000,
            "topic.metadata.refresh.interval.ms": 30_000,
            "log_level": 2,
            "error_cb": self._on_error,
        }
        self._caught_up = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow; returns at once."""
        self._thread = threading.Thread(target=self._run, name=f"follow-{self.topic}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following and close the connection."""
        self._stop.set()
        if self._thread:
            self._thread.join(5.0)

    def wait_caught_up(self, timeout_s: float) -> bool:
        """Whether everything that was in the topic at the start has been read, within the time-out."""
        return self._caught_up.wait(timeout_s)

    def take(self, key: str, value: bytes | None) -> None:
        """Handle one record; ``value`` None deletes the key. May raise ValueError: logged, and the record is skipped."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._stop.is_set():
            consumer = Consumer(self._config)
            try:
                consumer.assign([TopicPartition(self.topic, 0, self._offset)])
                while not self._stop.is_set():
                    first = consumer.poll(POLL_S)
                    if first is None:
                        continue
                    # consume() would wait for all 500, or for its whole time: a set-point shall act at once
                    for message in (first, *consumer.consume(num_messages=500, timeout=0)):
                        self._handle(message)
                    self._look_for_the_end(consumer, message.offset())
            except KafkaException as error:
                self._on_error(error.args[0])
                self._stop.wait(RETRY_S)
            finally:
                consumer.close()

    def _look_for_the_end(self, consumer: Consumer, offset: int | None) -> None:
        """The end is told only by a fetch that finds nothing; where records come all the time there may be none."""
        if not self._caught_up.is_set() and offset is not None:
            low_high = consumer.get_watermark_offsets(TopicPartition(self.topic, 0), cached=True)  # as of the newest fetch
            if low_high is not None and 0 < low_high[1] <= offset + 1:
                self._caught_up.set()

    def _handle(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self._caught_up.set()
            else:
                self._on_error(error)
            return
        key = message.key()
        try:
            self.take(key.decode() if isinstance(key, bytes) else str(key), message.value())
        except ValueError as problem:  # JSON and UTF-8 errors are ValueErrors
            if calls := logs.every(5, f"follower.{self.topic}"):
                offset = message.offset()
                log.warning("record_skipped", topic=self.topic, offset=offset, error=problem, calls=calls)

    def _on_error(self, error: Any) -> None:
        if calls := logs.every(30, f"follower.error.{self.topic}"):
            log.warning("kafka_error", topic=self.topic, error=error.str(), calls=calls)
