"""One request for the ids of all topics that a process follows."""

import gc
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from klais.config.load import Settings
from klais.kafka import topic_identity as module
from klais.kafka.topic_identity import AWAY_S, CHECK_S, SHARED_S, TopicIdentity


class Cluster:
    """The broker's answers: an id or an error code for each topic."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: dict[str, str | int] = {}
        self.requests: list[list[str]] = []
        self.leaderless: tuple[int, ...] = ()
        self.now_s = 100.0
        monkeypatch.setattr(module, "admin_client", lambda _settings: self)
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now_s)

    def describe_topics(self, topics: Any, request_timeout: float) -> dict[str, Future[Any]]:
        names = list(topics.topic_names)
        self.requests.append(names)
        out = {}
        for name in names:
            out[name] = Future[Any]()
            if isinstance(found := self.ids[name], str):
                parts = [SimpleNamespace(id=p, leader=None) for p in self.leaderless]
                parts.append(SimpleNamespace(id=9, leader=SimpleNamespace(id=1)))
                out[name].set_result(SimpleNamespace(topic_id=found, partitions=parts))
            else:
                out[name].set_exception(KafkaException(KafkaError(found)))
        return out


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def test_topics_that_are_checked_at_about_the_same_time_take_one_request(cluster: Cluster) -> None:
    cluster.ids = {"a": "1", "b": "2"}
    a, b = (TopicIdentity(Settings(kafka_bootstrap="one:1"), name) for name in "ab")
    for turn in range(3):
        assert not a.replaced() and not b.replaced()
        cluster.now_s += SHARED_S / 2
        assert not a.replaced() and not b.replaced() and len(cluster.requests) == turn + 1
        cluster.now_s += CHECK_S - SHARED_S / 2
    assert cluster.requests == [["a", "b"]] * 3 and (a.topic_id, b.topic_id) == ("1", "2")


def test_each_topic_that_was_created_again_is_found_at_its_next_check(cluster: Cluster) -> None:
    cluster.ids = {"a": "1", "b": "2"}
    a, b = (TopicIdentity(Settings(kafka_bootstrap="two:1"), name) for name in "ab")
    assert not a.replaced() and not b.replaced()
    cluster.ids["b"] = "3"
    cluster.now_s += CHECK_S
    assert not a.replaced() and b.replaced() and b.topic_id == "3"
    cluster.now_s += CHECK_S
    assert not a.replaced() and not b.replaced()


def test_an_error_of_one_topic_leaves_the_other_one_alone(cluster: Cluster) -> None:
    cluster.ids = {"a": KafkaError.TOPIC_AUTHORIZATION_FAILED, "b": "2"}
    a, b = (TopicIdentity(Settings(kafka_bootstrap="three:1"), name) for name in "ab")
    assert not a.replaced() and not b.replaced()
    assert "authorization" in a.refused and a.topic_id is None and a.found_s == 0.0
    assert not b.refused and b.topic_id == "2" and b.found_s == cluster.now_s
    cluster.ids["a"] = KafkaError._TIMED_OUT
    cluster.now_s += CHECK_S
    assert not a.replaced() and not a.refused


def test_why_records_may_be_missing_is_known(cluster: Cluster) -> None:
    cluster.ids = {"a": "1"}
    a = TopicIdentity(Settings(kafka_bootstrap="seven:1"), "a")
    assert a.problem() is None  # a client that has just started does not know
    a.replaced()
    assert a.problem() is None
    cluster.leaderless = (1,)
    cluster.now_s += CHECK_S
    assert not a.replaced() and a.problem() == "partitions 1 of a have no leader"
    cluster.ids["a"] = KafkaError._TIMED_OUT
    for _ in range(3):
        cluster.now_s += CHECK_S
        a.replaced()
    assert a.problem() == f"no broker has answered for {AWAY_S:g} s"
    cluster.ids["a"] = KafkaError.UNKNOWN_TOPIC_OR_PART
    cluster.now_s += CHECK_S
    assert not a.replaced() and "Unknown topic" in str(a.problem())
    cluster.ids["a"], cluster.leaderless = "1", ()
    cluster.now_s += CHECK_S
    assert not a.replaced() and a.problem() is None


def test_an_answer_that_is_too_old_and_another_cluster_take_requests_of_their_own(cluster: Cluster) -> None:
    cluster.ids = {"a": "1", "b": "2"}
    a, b = (TopicIdentity(Settings(kafka_bootstrap="four:1"), name) for name in "ab")
    other = TopicIdentity(Settings(kafka_bootstrap="five:1"), "a")
    a.replaced()
    cluster.now_s += SHARED_S
    b.replaced()
    other.replaced()
    assert cluster.requests == [["a", "b"], ["a", "b"], ["a"]]


def test_a_topic_that_nobody_follows_any_more_is_not_asked_for(cluster: Cluster) -> None:
    cluster.ids = {"a": "1", "b": "2"}
    a, b = (TopicIdentity(Settings(kafka_bootstrap="six:1"), name) for name in "ab")
    a.replaced()
    del b
    gc.collect()
    cluster.now_s += CHECK_S
    a.replaced()
    assert cluster.requests == [["a", "b"], ["a"]]
