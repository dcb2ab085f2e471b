"""Whether the topics are as this edge needs them; known from the last time where Kafka does not answer.

A frame's partition follows from the partition count, so an edge must not guess it. What it once saw is remembered beside the
spool: an edge that starts while Kafka is away then receives at once, and stores. Nothing of that goes out before the topics
were looked at: a changed count ends the edge, and the spool keeps what came in.
"""

import os
import threading
from collections.abc import Callable

import orjson
from confluent_kafka import KafkaException

from klais.config.load import Settings
from klais.edge.sinks.spool.backlog import spool_folder
from klais.errors import KafkaForbidden, KafkaUnavailable, TopicMismatch
from klais.kafka.admin import admin_client, check_topics
from klais.kafka.topics import Topics
from klais.telemetry import log as logs

log = logs.get("klais.edge")

AGAIN_S = 0.3
NAME = "topics.json"


class TopicsCheck:
    """Looks at the topics of one edge.

    Attributes
    ----------
    away : bool
        No broker answered at the newest look.
    mismatch : TopicMismatch or None
        What a look of :meth:`follow` found.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, self._admin = settings, admin_client(settings)
        self._file = spool_folder(settings) / NAME
        self.away = False
        self.mismatch: TopicMismatch | None = None

    def missing(self) -> str:
        """What is missing before frames can be sent, in words; empty when nothing is.

        Raises
        ------
        TopicMismatch
            A topic has a partition count that this edge must not write to.
        """
        try:
            self._admin.list_topics(topic="__klais_probe__", timeout=1.0)  # short: a signal is seen only after it
            wrong = check_topics(self._settings, self._admin)
        except (KafkaException, KafkaUnavailable):
            self.away = True
            return f"no Kafka broker answers at {self._settings.bootstrap}"
        except KafkaForbidden as error:
            self.away = False
            return str(error)
        self.away = False
        if unfit := [str(mismatch) for mismatch in wrong if mismatch.setting != "missing"]:
            raise TopicMismatch("\n".join(unfit))
        return str(wrong[0]) if wrong else ""

    def _seen(self) -> dict[str, object]:
        s = self._settings
        return {"bootstrap": s.bootstrap, "topic": Topics.of(s).raw, "partitions": s.partitions}

    @property
    def remembered(self) -> bool:
        """Whether this edge, with a spool, saw these topics with so many partitions before."""
        try:
            return self._settings.spool_max_bytes > 0 and bool(orjson.loads(self._file.read_bytes()) == self._seen())
        except (OSError, ValueError):
            return False

    def remember(self) -> None:
        """The topics are right; noted where there is a spool. A disk that does not take it is no matter now."""
        if not self._file.parent.is_dir() or self.remembered:
            return
        try:
            new = self._file.with_suffix(".new")
            new.write_bytes(orjson.dumps(self._seen()))
            os.replace(new, self._file)
        except OSError as error:
            log.warning("topics_not_remembered", file=str(self._file), error=str(error))

    def follow(self, stopping: threading.Event, done: Callable[[], None], failed: Callable[[], None]) -> None:
        """Look in a thread until the topics are right (``done``) or can never be (``failed``, :attr:`mismatch` says why)."""

        def look() -> None:
            while not stopping.wait(AGAIN_S):
                try:
                    if self.missing():
                        continue
                except TopicMismatch as error:
                    self.mismatch = error
                    failed()
                    return
                self.remember()
                log.info("topics_checked", partitions=self._settings.partitions)
                done()
                return

        threading.Thread(target=look, name="topics", daemon=True).start()
