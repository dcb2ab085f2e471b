"""Whether the topics are still as KLAIS needs them, asked for while a process runs: somebody may change them."""

import threading

from confluent_kafka.admin import AdminClient

from klais.config.load import Settings
from klais.errors import KafkaForbidden, KafkaUnavailable
from klais.kafka.admin import check_topics
from klais.kafka.admin_client import admin_client
from klais.kafka.topic_rules import Mismatch
from klais.telemetry import log as logs

log = logs.get("klais.kafka.topics_watch")

# A broker needs some 70 ms to describe all topics, in which others wait: with a period of 5 s, p99 of the whole path
# was twice as long at 5,000 frames/s on two cores.
PERIOD_S = 30.0
ASKED_S = 1.0  # after somebody asked
MENDED_S = 5.0  # while something differs


class TopicsWatch:
    """Compares the topics with what is needed every half minute, in a daemon thread.

    A process that finds a difference goes on: what can be written is written, and what cannot waits. It only says so.

    Attributes
    ----------
    problems : tuple of str
        What differs, and how to mend it; empty when nothing does. A broker that does not answer is another problem,
        reported elsewhere: meanwhile this is what was found last.
    """

    def __init__(self, settings: Settings, period_s: float = PERIOD_S) -> None:
        self._settings, self._period_s = settings, period_s
        self._admin: AdminClient | None = None  # made by the thread: a watch that never starts opens no connection
        self._known: frozenset[Mismatch] = frozenset()
        self._stop, self._ask = threading.Event(), threading.Event()
        self.problems: tuple[str, ...] = ()

    def start(self) -> None:
        """Begin to watch; return at once."""
        threading.Thread(target=self._run, name="topics-watch", daemon=True).start()

    def ask(self) -> None:
        """Look now: something has failed for which a changed topic may be the reason. From any thread."""
        self._ask.set()

    def stop(self) -> None:
        """End the thread; does not wait for a broker that does not answer."""
        self._stop.set()
        self._ask.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            asked = self._ask.wait(min(self._period_s, MENDED_S) if self.problems else self._period_s)
            self._ask.clear()
            if self._stop.is_set():
                return
            if asked and self._stop.wait(min(self._period_s, ASKED_S)):  # several lanes fail at once
                return
            try:
                self._admin = self._admin or admin_client(self._settings)
                self.note(check_topics(self._settings, self._admin))
            except KafkaUnavailable:
                self._admin = None  # after an outage a client may keep old leaders
            except KafkaForbidden as error:
                if calls := logs.every(60, "klais.kafka.topics_watch"):
                    log.warning("topics_not_watched", why=str(error), calls=calls)

    def note(self, wrong: list[Mismatch]) -> None:
        """Log what differs since the last time, and what no longer does."""
        found = frozenset(wrong)
        for mismatch in wrong:
            if mismatch not in self._known:
                log.error("topic_changed", topic=mismatch.topic, setting=mismatch.setting, why=str(mismatch))
        for mismatch in self._known - found:
            log.info("topic_mended", topic=mismatch.topic, setting=mismatch.setting)
        self._known, self.problems = found, tuple(map(str, wrong))
