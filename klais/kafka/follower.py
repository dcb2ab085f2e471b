"""Follow a small topic of one partition in a thread: the base of the followers of set-points and of statistics.

When the topic is deleted and created again (:class:`~klais.kafka.topic_identity.TopicIdentity`), or has lost records
that were read, the follower starts again at its beginning.
"""

import threading
import time
import uuid
from abc import ABC, abstractmethod
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from klais.config.load import Settings
from klais.kafka.clients import confluent_config
from klais.kafka.topic_identity import TopicIdentity
from klais.telemetry import log as logs

log = logs.get("klais.kafka.follower")

# A record is delivered when it arrives. Each empty answer costs broker and client 0.3 ms of CPU.
FETCH_WAIT_MS = 2000
END_S = 3.0  # for queries of the topic's ends: a broker answers them after the fetch that waits on the same connection
POLL_S = 0.2  # confluent-kafka looks for signals as often in any case; a stop waits at most this long
RETRY_S = 1.0
STALE_S = 15.0
LOW_S = 30.0  # between two queries of the topic's first offset: a compacted topic keeps it


class TopicFollower(ABC):
    """Reads partition 0 of a topic and passes every record to :meth:`consume`; has no group, commits nothing.

    If the topic was created again, the follower calls :meth:`reset` and reads the new one from its start. It does the
    same if the topic ends before a record that was read, or begins later than before (only with ``from_start``).

    Parameters
    ----------
    settings : Settings
        Settings with the addresses of the cluster.
    topic : str
        Topic to follow; it may be created later.
    from_start : bool
        Read the existing records too, or only those written from now on.

    Attributes
    ----------
    replacements : int
        How often the topic was created again, or lost records that were read.
    """

    def __init__(self, settings: Settings, topic: str, from_start: bool) -> None:
        self.topic = topic
        self._from_start, self._offset = from_start, OFFSET_BEGINNING if from_start else OFFSET_END
        self._config = confluent_config(settings) | {
            # librdkafka requires a group; the follower commits nothing
            "group.id": f"{settings.topic_prefix}klais-follower-{uuid.uuid4().hex[:8]}",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            # KLAIS aborts no transaction with records, and that of another program must not hold up a set-point.
            "isolation.level": "read_uncommitted",
            "auto.offset.reset": "earliest" if from_start else "latest",
            "allow.auto.create.topics": False,
            "fetch.wait.max.ms": FETCH_WAIT_MS,
            "queued.max.messages.kbytes": 4096,
            "reconnect.backoff.max.ms": 2000,
            "topic.metadata.refresh.interval.ms": 30_000,
            "log_level": 2,
            "error_cb": self._on_error,
        }
        self._identity, self.replacements = TopicIdentity(settings, topic), 0
        self._started_s = time.monotonic()
        self._caught_up = threading.Event()
        self._end = 0  # end of the topic at the start, 0 = unknown
        self._reading = self._read = -1  # offset of the newest record that consume() got, and that it is through with
        self._newest_offset = -1  # offset of the newest record of the present client
        self._low, self._low_asked_s = -1, float("-inf")  # first offset of the topic; -1 = unknown
        self._progress = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to follow; returns immediately."""
        self._thread = threading.Thread(target=self._run, name=f"follow-{self.topic}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following and close the connection."""
        self._stop.set()
        if self._thread:
            self._thread.join(5.0)

    def wait_caught_up(self, timeout_s: float) -> bool:
        """Wait until the records that existed at the start are read; returns whether that was within the time-out."""
        return self._caught_up.wait(timeout_s)

    @property
    def running(self) -> bool:
        """Whether it follows the topic: between :meth:`start` and :meth:`stop`."""
        return self._thread is not None and self._thread.is_alive() and not self._stop.is_set()

    def wait_read(self, offset: int, timeout_s: float) -> bool:
        """Wait until the record at ``offset`` is read; returns whether that was within the time-out."""
        with self._progress:
            return self._progress.wait_for(lambda: self._read >= offset, timeout_s)

    @abstractmethod
    def consume(self, key: str, value: bytes | None, appended_ms: int | None = None) -> None:
        """Process one record; ``value`` None deletes the key. On an exception, it is logged and the record skipped.

        ``appended_ms`` is the broker's append time, None if the topic has the producers' timestamps.
        """

    @abstractmethod
    def reset(self) -> None:
        """The topic lost its records, and is read again from its start."""

    @property
    def refused(self) -> str:
        """The newest error of a broker that answers; empty if there is none."""
        return self._identity.refused

    @property
    def topic_id(self) -> str | None:
        """The id of the topic that is followed; None until the broker has answered."""
        return self._identity.topic_id

    def outage(self) -> str | None:
        """Why new records may be missing now, for a command that shows them: also if no broker answers."""
        return self._identity.problem()

    def problem(self) -> str | None:
        """Why the state is out of date although a broker answers, as text; None while it is current.

        A broker that does not answer is reported elsewhere.
        """
        silent_s = time.monotonic() - max(self._identity.found_s, self._started_s)
        if not self.refused or silent_s < STALE_S:
            return None
        return f"topic {self.topic} has not been followed for {silent_s:.0f} s: {self.refused}"

    def _run(self) -> None:
        while not self._stop.is_set():
            consumer, self._newest_offset = None, -1
            try:
                consumer = Consumer(self._config)  # fails without threads or descriptors
                consumer.assign([TopicPartition(self.topic, 0, self._offset)])
                self._ask_the_end(consumer)
                while not self._stop.is_set() and not self._replaced(consumer):
                    first = consumer.poll(POLL_S)
                    if first is None:
                        continue
                    # consume() would wait for all 500 or for its whole time-out, but a set-point must act immediately
                    for message in (first, *consumer.consume(num_messages=500, timeout=0)):
                        self._handle(message)
                    self._note_the_end(consumer, message.offset())
            except KafkaException as error:
                self._on_error(error.args[0])
                self._stop.wait(RETRY_S)
            finally:
                if consumer is not None:
                    consumer.close()

    def _replaced(self, consumer: Consumer) -> bool:
        """Whether the topic was created again, or ends before a record that was read."""
        if self._identity.replaced():
            log.warning("topic_replaced", topic=self.topic)
        elif self._is_cut(consumer):
            log.error("topic_cut", topic=self.topic, read_up_to=self._newest_offset)
        else:
            return False
        self._offset = OFFSET_BEGINNING
        self._start_again()
        return True

    def _is_cut(self, consumer: Consumer) -> bool:
        """Whether the topic ends before a record that was read, or somebody removed records from its beginning."""
        if self._newest_offset < 0 or not self._from_start:
            return False
        place = TopicPartition(self.topic, 0)
        low_high = consumer.get_watermark_offsets(place, cached=True)  # its end, as of the newest fetch
        if low_high is not None and 0 <= low_high[1] <= self._newest_offset:
            return True
        now_s = time.monotonic()
        if now_s - self._low_asked_s < LOW_S:
            return False
        self._low_asked_s = now_s
        try:
            low = int(consumer.get_watermark_offsets(place, timeout=END_S)[0])
        except KafkaException:
            return False
        before, self._low = self._low, low
        return 0 <= before < low

    def _start_again(self) -> None:
        self._newest_offset = self._reading = self._read = self._low = -1
        self.replacements += 1
        self.reset()

    def _ask_the_end(self, consumer: Consumer) -> None:
        """Query the end of the topic: the EOF event only comes with an empty fetch, ``FETCH_WAIT_MS`` later."""
        if self._caught_up.is_set() or self._offset != OFFSET_BEGINNING:
            return
        try:
            low, self._end = consumer.get_watermark_offsets(TopicPartition(self.topic, 0), timeout=END_S)
        except KafkaException:
            return  # no topic yet, or no broker: the EOF event follows
        if low == self._end:
            self._caught_up.set()

    def _note_the_end(self, consumer: Consumer, offset: int | None) -> None:
        """Check if the end is reached. An EOF event needs an empty fetch, which a busy topic may never return."""
        if not self._caught_up.is_set() and offset is not None:
            if 0 < self._end <= offset + 1:
                self._caught_up.set()
            place = TopicPartition(self.topic, 0)
            low_high = consumer.get_watermark_offsets(place, cached=True)  # as of the newest fetch
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
        kind, at_ms = message.timestamp()
        appended_ms = at_ms if kind == TIMESTAMP_LOG_APPEND_TIME else None
        offset = message.offset()
        offset = -1 if offset is None else offset
        if offset < self._newest_offset and self._from_start:  # the client went back to the topic's start
            log.error("topic_cut", topic=self.topic, read_up_to=self._newest_offset)
            self._start_again()
        self._reading = self._newest_offset = offset
        try:
            self.consume(key.decode() if isinstance(key, bytes) else str(key), message.value(), appended_ms)
        except Exception as problem:  # otherwise this thread would end silently; no record from outside may cause that
            if calls := logs.every(5, f"follower.{self.topic}"):
                log.warning("record_skipped", topic=self.topic, offset=offset, error=repr(problem), calls=calls)
        with self._progress:
            self._read = self._reading
            self._progress.notify_all()

    def _on_error(self, error: Any) -> None:
        if calls := logs.every(30, f"follower.error.{self.topic}"):
            log.warning("kafka_error", topic=self.topic, error=error.str(), calls=calls)
