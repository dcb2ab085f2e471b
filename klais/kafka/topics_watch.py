"""Check at run time whether the topics still are as KLAIS needs them, because other users may change them."""

import threading

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from klais.config.load import Settings
from klais.errors import KafkaForbidden, KafkaUnavailable
from klais.kafka.admin import check_topics
from klais.kafka.admin_client import admin_client
from klais.kafka.open_transactions import OpenTransactions
from klais.kafka.topic_rules import Mismatch
from klais.telemetry import log as logs

log = logs.get("klais.kafka.topics_watch")

# A broker needs some 70 ms to describe all topics, during which other requests wait: with a period of 5 s, p99 of the
# whole path was twice as long at 5,000 frames/s on two cores.
PERIOD_S = 30.0
REQUEST_DELAY_S = 1.0  # delay after a request, because several lanes fail at once
MISMATCH_CHECK_S = 5.0  # period while there is a difference


class TopicsWatch:
    """Compares the topics with the requirements every half minute, in a daemon thread.

    A process with a difference continues: it writes what it can, and the rest waits. This class only reports it.

    Attributes
    ----------
    problems : tuple of str
        The differences, and transactions of other programs that stay open, with how to fix them; empty if there are
        none. A broker that does not answer is reported elsewhere: until it does, this is the last result.
    """

    def __init__(self, settings: Settings, period_s: float = PERIOD_S) -> None:
        self._settings, self._period_s = settings, period_s
        self._admin: AdminClient | None = None  # created by the thread: a watch that never starts opens no connection
        self._known: frozenset[Mismatch] = frozenset()
        self._stop, self._ask = threading.Event(), threading.Event()
        self._transactions, self._open = OpenTransactions(settings), tuple[str, ...]()
        self.problems: tuple[str, ...] = ()

    def start(self) -> None:
        """Start to watch; returns immediately."""
        threading.Thread(target=self._run, name="topics-watch", daemon=True).start()

    def ask(self) -> None:
        """Check now: something has failed for which a changed topic may be the reason. From any thread."""
        self._ask.set()

    def stop(self) -> None:
        """Stop the thread; does not wait for a broker that does not answer."""
        self._stop.set()
        self._ask.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            asked = self._ask.wait(min(self._period_s, MISMATCH_CHECK_S) if self.problems else self._period_s)
            self._ask.clear()
            if self._stop.is_set():
                return
            if asked and self._stop.wait(min(self._period_s, REQUEST_DELAY_S)):  # several lanes fail at once
                return
            try:
                self._admin = self._admin or admin_client(self._settings)
                self._check_transactions(self._admin)
                self.note(check_topics(self._settings, self._admin))
            except (KafkaUnavailable, KafkaException):
                self._admin = None  # after an outage a client may keep old leaders
            except KafkaForbidden as error:
                if calls := logs.every(60, "klais.kafka.topics_watch"):
                    log.warning("topics_not_watched", why=str(error), calls=calls)

    def note(self, wrong: list[Mismatch]) -> None:
        """Log new differences, and those that were fixed."""
        found = frozenset(wrong)
        for mismatch in wrong:
            if mismatch not in self._known:
                log.error("topic_changed", topic=mismatch.topic, setting=mismatch.setting, why=str(mismatch))
        for mismatch in self._known - found:
            log.info("topic_restored", topic=mismatch.topic, setting=mismatch.setting)
        self._known, self.problems = found, (*map(str, wrong), *self._open)

    def _check_transactions(self, admin: AdminClient) -> None:
        try:
            found = tuple(self._transactions.check(admin))
        except KafkaException:
            return  # the check of the topics says so
        if bool(found) != bool(self._open):
            log.warning("transactions_open" if found else "transactions_ended", why=found[:3])
        self._open = found
