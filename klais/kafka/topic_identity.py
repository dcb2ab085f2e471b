"""Whether a topic is still the one that a client reads: its id, which the broker is asked for every few seconds.

Kafka clients identify a topic by its name. When the topic is deleted and created again, librdkafka neither continues
to read nor reports an error.
"""

import time

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from klais.config.load import Settings
from klais.kafka.admin_client import admin_client

CHECK_S = 3.0
_UNAVAILABLE = frozenset(
    {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT}
)


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
    topic_id : str or None
        The newest id; None until the broker has answered.
    found_s : float
        When the topic was last found (monotonic); 0 = never.
    refused : str
        The newest error of a broker that answers; empty if there is none.
    """

    def __init__(self, settings: Settings, topic: str) -> None:
        self._settings, self._topic = settings, topic
        self._admin: AdminClient | None = None  # created at the first check: without one there is no connection
        self._asked_s = float("-inf")
        self.topic_id: str | None = None
        self.found_s, self.refused = 0.0, ""

    def replaced(self) -> bool:
        """Whether the topic was created again since the last call; asks the broker at most every ``CHECK_S``."""
        now_s = time.monotonic()
        if now_s - self._asked_s < CHECK_S:
            return False
        self._asked_s = now_s
        if self._admin is None:
            self._admin = admin_client(self._settings)
        try:
            asked = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=CHECK_S)
            topic_id = str(asked[self._topic].result().topic_id)
        except KafkaException as error:
            self.refused = "" if error.args[0].code() in _UNAVAILABLE else error.args[0].str()
            return False
        self.found_s, self.refused = time.monotonic(), ""
        before, self.topic_id = self.topic_id, topic_id
        return before not in (None, topic_id)
