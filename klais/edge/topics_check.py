"""Check the topics of this edge while it already receives.

A frame's partition follows from the partition count. The edge assumes ``KLAIS_PARTITIONS`` and receives immediately;
until Kafka has confirmed the count, every batch goes to the spool and none to Kafka. A topic with another count ends
the edge with an error, and the spool keeps the received frames.
"""

import threading
from collections.abc import Callable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from klais.config.load import Settings
from klais.errors import KafkaForbidden, KafkaUnavailable, TopicMismatch
from klais.kafka.admin import check_topics
from klais.kafka.admin_client import admin_client
from klais.telemetry import log as logs

log = logs.get("klais.edge")

RETRY_S = 0.3
FIRST_S = 0.5  # the first answer of a nearby Kafka takes some 10 ms; until then the kernel buffers frames
ANSWER_S = 1.0


class TopicsCheck:
    """Checks the topics of one edge, in a separate thread if the first try finds them missing.

    Attributes
    ----------
    missing : str
        What is missing before batches may go to Kafka, as text; empty if nothing is.
    mismatch : TopicMismatch or None
        Set if a topic has a partition count that this edge must not write to.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin: AdminClient | None = None  # only while it checks: a client asks for the probe's topic each second
        self.missing = "the topics are not checked yet"
        self.mismatch: TopicMismatch | None = None

    def check(self, timeout_s: float = ANSWER_S) -> str:
        """Ask Kafka, for at most about ``timeout_s``; stores and returns what is missing.

        Raises
        ------
        TopicMismatch
            If a topic has a partition count that this edge must not write to.
        """
        admin = self._admin = self._admin or admin_client(self._settings)
        try:
            admin.list_topics(topic="__klais_probe__", timeout=timeout_s)
            wrong = check_topics(self._settings, admin)
        except (KafkaException, KafkaUnavailable):
            self.missing = f"no Kafka broker answers at {self._settings.bootstrap}"
            return self.missing
        except KafkaForbidden as error:
            self.missing = str(error)
            return self.missing
        if unfit := [str(mismatch) for mismatch in wrong if mismatch.setting != "missing"]:
            raise TopicMismatch("\n".join(unfit))
        self.missing = str(wrong[0]) if wrong else ""
        if not wrong:
            self._admin = None
        return self.missing

    def follow(self, stopping: threading.Event, done: Callable[[], None], failed: Callable[[], None]) -> None:
        """Check in a thread until the topics are correct (``done``) or can never be (``failed``; the reason is in
        :attr:`mismatch`).
        """

        def run() -> None:
            while not stopping.wait(RETRY_S):
                try:
                    if self.check():
                        continue
                except TopicMismatch as error:
                    self.mismatch = error
                    failed()
                    return
                log.info("topics_checked", partitions=self._settings.partitions)
                done()
                return

        threading.Thread(target=run, name="topics", daemon=True).start()
