"""Whether a topic is still the one that a client reads: its id, which the broker is asked for every few seconds.

Kafka clients identify a topic by its name. When the topic is deleted and created again, librdkafka neither continues
to read nor reports an error. All topics of a process are asked for in one request, over one connection.
"""

import threading
import time
from typing import Any, NamedTuple
from weakref import WeakSet, WeakValueDictionary

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from klais.config.load import Settings
from klais.errors import KafkaUnavailable
from klais.kafka.admin_client import admin_client

CHECK_S = 3.0
SHARED_S = CHECK_S / 2  # an answer is also used for the checks of other topics that follow within this time
_UNAVAILABLE = frozenset(
    {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT}
)

AWAY_S = 8.0  # a broker that is only busy answers within this time


class Described(NamedTuple):
    """The id of a topic, and its partitions without a leader."""

    topic_id: str
    leaderless: tuple[int, ...] = ()


Answer = tuple[float, Described | KafkaException]  # when the broker answered (monotonic), and the topic or the error


class _TopicIds:
    """The ids of all topics that the process reads from one cluster. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin: AdminClient | None = None  # created at the first check: without one there is no connection
        self._lock = threading.Lock()  # held during a request: the others need the same answer
        self._readers = WeakSet[TopicIdentity]()
        self._answers: dict[str, Answer] = {}

    def add(self, reader: "TopicIdentity") -> None:
        """Ask for the topic of ``reader`` too, as long as it exists."""
        with self._lock:
            self._readers.add(reader)

    def answer(self, topic: str) -> Answer:
        """The newest answer for a topic, at most ``SHARED_S`` old."""
        with self._lock:
            known = self._answers.get(topic)
            if known is not None and time.monotonic() - known[0] < SHARED_S:
                return known
            if self._admin is None:
                self._admin = admin_client(self._settings)
            topics = sorted({topic} | {reader.topic for reader in self._readers})
            asked = self._admin.describe_topics(TopicCollection(topics), request_timeout=CHECK_S)
            for name, future in asked.items():
                self._answers[name] = time.monotonic(), _described_or_error(future)  # waits
            return self._answers[topic]


def topic_id_of(settings: Settings, topic: str, timeout_s: float = 30.0) -> str:
    """The present id of a topic, asked now. It changes when the topic is deleted and created again.

    Raises
    ------
    klais.errors.KafkaUnavailable
        If no broker answers within ``timeout_s``, or the topic does not exist.
    """
    client = admin_client(settings)  # an answer is lost with its client
    found = _described_or_error(client.describe_topics(TopicCollection([topic]), request_timeout=timeout_s)[topic])
    if isinstance(found, KafkaException):
        raise KafkaUnavailable(f"the id of {topic} is unknown: {found.args[0].str()}")
    return found.topic_id


def _described_or_error(asked: Any) -> Described | KafkaException:
    """The answer of ``describe_topics`` for one topic, or its error."""
    try:
        topic = asked.result()
    except KafkaException as error:
        return error
    parts = getattr(topic, "partitions", ())
    return Described(str(topic.topic_id), tuple(p.id for p in parts if p.leader is None or p.leader.id < 0))


_clusters: "WeakValueDictionary[tuple[str, ...], _TopicIds]" = WeakValueDictionary()
_opening = threading.Lock()


def _ids_of(settings: Settings) -> _TopicIds:
    """The ids of the settings' cluster, which all readers with the same access share."""
    fields = sorted(name for name in type(settings).model_fields if name.startswith("kafka_"))
    access = (settings.bootstrap, *(str(getattr(settings, name)) for name in fields))
    with _opening:
        ids = _clusters.get(access)
        if ids is None:
            ids = _clusters[access] = _TopicIds(settings)
        return ids


class TopicIdentity:
    """The id of one topic. Used by one thread, which reads the topic.

    Parameters
    ----------
    settings : Settings
        Settings with the addresses of the cluster.
    topic : str
        Its name.

    Attributes
    ----------
    topic : str
        Its name.
    topic_id : str or None
        The newest id; None until the broker has answered.
    found_s : float
        When the topic was last found (monotonic); 0 = never.
    refused : str
        The newest error of a broker that answers; empty if there is none.
    leaderless : tuple of int
        Partitions without a leader at the newest answer: nobody can read them.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self.topic, self._ids = topic, _ids_of(settings)
        self._asked_s = float("-inf")
        self.topic_id: str | None = None
        self.found_s, self.refused = 0.0, ""
        self.leaderless: tuple[int, ...] = ()
        self._started_s = time.monotonic()
        self._ids.add(self)

    def replaced(self) -> bool:
        """Whether the topic was created again since the last call; asks the broker at most every ``CHECK_S``."""
        now_s = time.monotonic()
        if now_s - self._asked_s < CHECK_S:
            return False
        self._asked_s = now_s
        found_s, found = self._ids.answer(self.topic)
        if isinstance(found, KafkaException):
            self.refused = "" if found.args[0].code() in _UNAVAILABLE else found.args[0].str()
            return False
        self.found_s, self.refused, self.leaderless = found_s, "", found.leaderless
        before, self.topic_id = self.topic_id, found.topic_id
        return before not in (None, found.topic_id)

    def problem(self) -> str | None:
        """Why records of the topic may be missing now, as of the newest check; None if nothing is known."""
        if self.refused:
            return f"{self.topic}: {self.refused}"
        if time.monotonic() - max(self.found_s, self._started_s) > AWAY_S:
            return f"no broker has answered for {AWAY_S:g} s"
        if self.leaderless:
            return f"partitions {', '.join(map(str, self.leaderless))} of {self.topic} have no leader"
        return None
