"""Samples the end of the clean topic in separate threads: end offsets, latency, and the newest records.

It reads up to ``MAX_PER_S`` records per second and skips the rest, so that sampling costs the same at any rate. It
joins no group and commits nothing.
"""

import contextlib
import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from klais.config.load import Settings
from klais.kafka.admin_client import admin_client
from klais.kafka.clients import confluent_config
from klais.kafka.offsets import list_offsets
from klais.kafka.topics import Topics
from klais.telemetry import log as logs

log = logs.get("klais.cli.up.sampler")

MAX_PER_S = 1000
PERIOD_S = 1.0
KEEP_S = 5.0  # percentiles cover the latencies of this time
NEWEST = 6
FRESH_S = 5.0
CALL_S = 5.0
# Finds the receive time without parsing the payload: a quote in the device id is escaped, so this cannot match in
# it.
_TS = re.compile(rb'"ts":(\d{1,19}),"data":')


@dataclass(frozen=True, slots=True)
class Latency:
    """Time from the receipt at the edge to reading the record here, of ``count`` records of the last seconds."""

    p50_ms: float
    p99_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class Newest:
    """One clean record, as stored in the topic."""

    at_s: float
    ts_ms: int
    key: bytes
    value: bytes


class Sampler:
    """Latency and newest records of the clean topic, and its end offsets, after :meth:`start`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = Topics.of(settings).telemetry
        self._partitions = range(settings.partitions)
        self._stop = threading.Event()
        self._latencies: deque[tuple[float, float]] = deque(maxlen=10 * MAX_PER_S)
        self._newest: deque[Newest] = deque(maxlen=NEWEST)
        self._ends: dict[int, int] | None = None
        self._ends_at_s = float("-inf")
        names = (("tail", self._tail), ("ends", self._sample_ends))
        self._threads = [threading.Thread(target=run, name=f"sample-{name}", daemon=True) for name, run in names]

    def start(self) -> None:
        """Start sampling."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop sampling."""
        self._stop.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(CALL_S)

    def newest(self) -> list[Newest]:
        """The newest records seen, oldest first."""
        return list(self._newest)

    def latency(self) -> Latency | None:
        """Latency over the last seconds; None if no record was read."""
        since_s = time.monotonic() - KEEP_S
        found = sorted(late_ms for at_s, late_ms in list(self._latencies) if at_s >= since_s)
        if not found:
            return None
        return Latency(found[len(found) // 2], found[min(len(found) - 1, int(len(found) * 0.99))], len(found))

    def ends(self) -> dict[int, int] | None:
        """The newest end offset of each partition; None before the first sample."""
        return self._ends

    def is_fresh(self) -> bool:
        """Whether the broker has answered with end offsets within ``FRESH_S``."""
        return time.monotonic() - self._ends_at_s <= FRESH_S

    # -- threads

    def _consumer(self) -> Consumer:
        own = {
            # the client requires one; without subscribe and commits the broker never sees it
            "group.id": "klais-up-sampler",
            "enable.auto.commit": False,
            "isolation.level": "read_uncommitted",
            "fetch.wait.max.ms": 500,
            "fetch.message.max.bytes": 65_536,
            "queued.max.messages.kbytes": 2048,
            "log_level": 0,
            "error_cb": lambda error: None,
        }
        return Consumer(confluent_config(self._settings) | own)

    def _tail(self) -> None:
        while not self._stop.is_set():
            consumer = None
            try:
                consumer = self._consumer()
                while not self._stop.is_set():
                    self._read_the_end(consumer)
            except KafkaException as error:
                log.debug("sampling_interrupted", error=str(error))
                self._stop.wait(PERIOD_S)
            finally:
                if consumer is not None:
                    consumer.close()

    def _read_the_end(self, consumer: Consumer) -> None:
        """Read from the end on until a second has too many records; then wait for the next second."""
        consumer.assign([TopicPartition(self._topic, p, OFFSET_END) for p in self._partitions])
        begun_s, count = time.monotonic(), 0
        while not self._stop.is_set():
            first = consumer.poll(0.1)
            if first is not None:
                messages = [first, *consumer.consume(MAX_PER_S // 4, timeout=0)]
                self._note(messages, time.monotonic(), time.time() * 1000)
                count += len(messages)
            now_s = time.monotonic()
            if count >= MAX_PER_S:
                consumer.unassign()
                self._stop.wait(max(0.0, begun_s + PERIOD_S - now_s))
                return
            if now_s - begun_s >= PERIOD_S:
                begun_s, count = now_s, 0

    def _note(self, messages: list[Message], now_s: float, now_ms: float) -> None:
        good = [message for message in messages if message.error() is None]
        records = [(_bytes(message.key()), _bytes(message.value())) for message in good]
        received = [(int(found[1]), key, value) for key, value in records if (found := _TS.search(value))]
        self._latencies.extend((now_s, max(0.0, now_ms - ts_ms)) for ts_ms, _, _ in received)
        self._newest.extend(Newest(now_s, *record) for record in received[-NEWEST:])

    def _sample_ends(self) -> None:
        places = [(self._topic, partition) for partition in self._partitions]
        while not self._stop.is_set():
            admin = admin_client(self._settings)
            with contextlib.suppress(KafkaException):
                while not self._stop.is_set():
                    found = list_offsets(admin, places, timeout_s=CALL_S)
                    self._ends = {partition: offset for (_, partition), offset in found.items()}
                    self._ends_at_s = time.monotonic()
                    self._stop.wait(PERIOD_S / 2)
            self._stop.wait(PERIOD_S)  # then a new client: after an outage the old one may keep old leaders

    def count(self, starts: dict[int, int], ends: dict[int, int], timeout_s: float) -> int | None:
        """Records between offsets, read one by one: offsets also count control records of a lane's new owners.

        None if they could not be read within ``timeout_s``. Records that are gone do not count.
        """
        until_s = time.monotonic() + timeout_s
        own = {"group.id": "klais-up-count", "enable.auto.commit": False, "enable.partition.eof": True, "log_level": 0}
        own |= {"isolation.level": "read_uncommitted"}  # else an open transaction of another program looks like the end
        consumer = Consumer(confluent_config(self._settings) | own)
        try:
            left = {p for p in ends if starts.get(p, 0) < ends[p]}
            consumer.assign([TopicPartition(self._topic, p, starts.get(p, 0)) for p in sorted(left)])
            found = 0
            while left and time.monotonic() < until_s:
                for message in consumer.consume(10_000, timeout=0.2):
                    if (error := message.error()) is not None:
                        if error.code() == KafkaError._PARTITION_EOF:
                            left.discard(message.partition())
                    elif message.offset() < ends[message.partition()]:
                        found += 1
            return None if left else found
        except KafkaException:
            return None
        finally:
            consumer.close()


def _bytes(data: Any) -> bytes:
    return data if isinstance(data, bytes) else b""
