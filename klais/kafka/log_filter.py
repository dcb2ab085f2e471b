"""Limit aiokafka's log: while a broker is unavailable each client writes several lines a second."""

import logging

from klais.telemetry.log import Throttle

LOGGERS = (
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.producer.sender",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
)
EVERY_S = 5.0


class RepeatFilter(logging.Filter):
    """Passes a message of one kind (logger, level and format string) once per ``every_s`` seconds."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        super().__init__()
        self._every_s = every_s
        self._throttles: dict[tuple[str, int, str], Throttle] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this record is written."""
        kind = (record.name, record.levelno, str(record.msg))
        return self._throttles.setdefault(kind, Throttle(self._every_s)).calls() > 0


_FILTER = RepeatFilter()


def filter_aiokafka() -> None:
    """Add the filter to aiokafka's loggers. It may be called more than once."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_FILTER)
