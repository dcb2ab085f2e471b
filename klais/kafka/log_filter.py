"""aiokafka writes several lines a second, for each client, while a broker is away: let each kind through seldom."""

import logging
import time

LOGGERS = (
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.producer.sender",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
)
EVERY_S = 5.0


class Seldom(logging.Filter):
    """Lets a message of one kind (logger, level and text before its values) pass once in ``every_s`` seconds."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        super().__init__()
        self._every_s = every_s
        self._passed_at: dict[tuple[str, int, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this record is written."""
        kind = (record.name, record.levelno, str(record.msg))
        now = time.monotonic()
        if now - self._passed_at.get(kind, float("-inf")) < self._every_s:
            return False
        self._passed_at[kind] = now
        return True


_SELDOM = Seldom()


def quiet_aiokafka() -> None:
    """Put the filter on aiokafka's loggers; again does no harm."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_SELDOM)
