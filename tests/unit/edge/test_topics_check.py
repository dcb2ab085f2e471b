"""What an edge finds out about its topics, and what it does about it."""

import threading
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException

from klais.config.load import Settings
from klais.edge import topics_check
from klais.edge.topics_check import TopicsCheck
from klais.kafka.admin import Mismatch
from tests.support.process import PATIENCE


class Kafka:
    """Answers or not; ``wrong`` is what a look at the topics finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers, self.wrong = True, list[Mismatch]()
        monkeypatch.setattr(topics_check, "admin_client", lambda _settings: self)
        monkeypatch.setattr(topics_check, "check_topics", lambda _settings, _admin: self.wrong)
        monkeypatch.setattr(topics_check, "RETRY_S", 0.001)

    def list_topics(self, **_: Any) -> None:
        if not self.answers:
            raise KafkaException("nobody")


def test_it_tells_an_absent_kafka_from_absent_topics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kafka = Kafka(monkeypatch)
    check = TopicsCheck(Settings(state_dir=tmp_path, kafka_bootstrap="k:1"))
    assert check.missing and check.check() == check.missing == ""
    assert check._admin is None  # a client keeps asking for the topic of its probe
    kafka.answers = False
    assert "no Kafka broker answers at k:1" in check.check() and check.missing
    kafka.answers, kafka.wrong = True, [Mismatch("klais_raw", "missing", "", "", "klais topics create")]
    assert "klais topics create" in check.check()


@pytest.mark.parametrize("fits", [True, False])
def test_it_looks_until_kafka_answers_and_says_what_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    kafka = Kafka(monkeypatch)
    kafka.answers = False
    check = TopicsCheck(Settings(state_dir=tmp_path, kafka_bootstrap="k:1"))
    done, failed = threading.Event(), threading.Event()
    check.follow(threading.Event(), done.set, failed.set)
    assert not done.wait(0.05) and not failed.is_set()
    if not fits:
        kafka.wrong = [Mismatch("klais_raw", "partitions", "3", "16", "see the docs")]
    kafka.answers = True
    assert (done if fits else failed).wait(5 * PATIENCE)
    assert (check.mismatch is None) == fits and done.is_set() == fits
