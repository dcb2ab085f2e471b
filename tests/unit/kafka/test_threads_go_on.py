"""Threads that follow Kafka survive a client that cannot be created, and other threads that read what they follow."""

import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException

from klais.cli.up import sampler
from klais.cli.up.sampler import Sampler
from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.kafka import flag_reader, follower, topics_watch
from klais.kafka.flag_reader import FlagReader
from klais.kafka.stats import StatsFollower
from klais.kafka.topics_watch import TopicsWatch
from klais.telemetry.schema import VERSION
from tests.support.process import wait_for

NO_THREAD = KafkaException(KafkaError(KafkaError._CRIT_SYS_RESOURCE))


class Clients:
    """Creates a client at the second attempt; it reads nothing."""

    def __init__(self) -> None:
        self.asked, self.made, self.closed = 0, threading.Event(), threading.Event()

    def __call__(self, *config: Any) -> "Clients":
        self.asked += 1
        if self.asked == 1:
            raise NO_THREAD
        self.made.set()
        return self

    def poll(self, timeout_s: float) -> None:
        time.sleep(0.01)

    def consume(self, *args: Any, **options: Any) -> list[Any]:
        time.sleep(0.01)
        return []

    def close(self) -> None:
        self.closed.set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **options: (0, 0)


@pytest.mark.parametrize(
    ("module", "make"),
    [
        (follower, ControlFollower),
        (follower, StatsFollower),
        (flag_reader, lambda settings: FlagReader(settings, {0: 0})),
        (sampler, Sampler),
    ],
)
def test_a_client_that_cannot_be_created_is_created_later(module: Any, make: Any, monkeypatch: Any) -> None:
    clients = Clients()
    monkeypatch.setattr(module, "Consumer", clients)
    monkeypatch.setattr(module, "RETRY_S" if hasattr(module, "RETRY_S") else "PERIOD_S", 0.01)
    monkeypatch.setattr(follower.TopicIdentity, "replaced", lambda self: False)
    if module is sampler:
        monkeypatch.setattr(Sampler, "_sample_ends", lambda self: None)
    reader = make(Settings())
    reader.start()
    wait_for(clients.made.is_set, 5, "a client")
    reader.stop()
    wait_for(clients.closed.is_set, 5, "its end")


def test_the_watch_of_topics_goes_on_without_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = Clients()
    monkeypatch.setattr(topics_watch, "admin_client", clients)
    monkeypatch.setattr(topics_watch, "check_topics", lambda settings, admin: [])
    monkeypatch.setattr(topics_watch.OpenTransactions, "check", lambda self, admin: [])
    watch = TopicsWatch(Settings(), period_s=0.01)
    watch.start()
    wait_for(clients.made.is_set, 5, "a client")
    watch.stop()
    wait_for(lambda: not any(thread.name == "topics-watch" for thread in threading.enumerate()), 10, "its end")


class Meanwhile(str):
    """The name of a process. Whenever it is looked up, another thread has just read a further record."""

    follower: StatsFollower
    read = 0

    def __hash__(self) -> int:
        Meanwhile.read += 1
        record = {"v": VERSION, "kind": "worker", "counters": {}, "gauges": {}, "rates": {}}
        Meanwhile.follower.read(f"worker-{Meanwhile.read}", record)
        return str.__hash__(self)


def test_records_are_stored_while_other_threads_read_views() -> None:
    follows = Meanwhile.follower = StatsFollower(Settings())
    record = {"v": VERSION, "kind": "worker", "id": "w1", "counters": {}, "gauges": {}, "rates": {}, "at_ms": 5_000}
    name = Meanwhile("w1")
    follows.consume(name, orjson.dumps(record), 2_000)
    follows.read(name, record)
    follows.read("w2", record)
    follows.consume(name, orjson.dumps(record), 2_000)
    assert follows.clock_offset_s("w1") == 3.0
