"""Logs: one line per event, ``key=value`` or JSON, on stderr; never one per frame.

>>> log = get("klais.edge")
>>> log.info("batch_sent", partition=3, frames=10)

prints ``2026-11-23T22:03:31.123Z INFO edge klais.edge batch_sent partition=3 frames=10``. Control
characters are escaped, so a value chosen by a device or a broker cannot start a new line.
"""

import json
import logging
import logging.config
import math
import os
import threading
import time
from datetime import UTC, datetime
from typing import Any

from klais.config.load import Settings
from klais.system.private_files import open_own
from klais.text import escape, plain, quote

# At INFO these log every fetch session, metadata refresh and started service; their warnings matter.
_VERBOSE = ("aiokafka", "kafka", "asyncio", "aiohttp.access", "numba", "faust", "mode")


class Log:
    """A logger whose messages are an event name and fields: ``log.info("batch_sent", partition=3)``.

    Attributes
    ----------
    logger : logging.Logger
        The standard logger behind it.
    """

    __slots__ = ("logger",)

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def debug(self, event: str, **fields: Any) -> None:
        """Log details for developers."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log an event that operators need to know once."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log an event that operators should check; no data is lost."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log that data was lost, or that an operator must act."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """Log an error with the traceback of the current exception in one field."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def enabled(self, level: int) -> bool:
        """Whether a line of that ``logging`` level would be written; check it before computing costly fields."""
        return self.logger.isEnabledFor(level)

    def _log(self, level: int, event: str, fields: dict[str, Any], exc_info: bool = False) -> None:
        if self.logger.isEnabledFor(level):
            self.logger.log(level, "%s", event, exc_info=exc_info, extra={"fields": fields})


def get(name: str) -> Log:
    """The log of a module, by name."""
    return Log(name)


class _Formatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self.process = process

    def parts(self, record: logging.LogRecord) -> tuple[str, str, dict[str, Any]]:
        """Timestamp, event and fields (including traceback) of a record of KLAIS or of a library."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[0] is not None:
            fields["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = record.stack_info
        return at, record.getMessage(), fields


class TextFormatter(_Formatter):
    """``time LEVEL process logger event key=value ...`` in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        at, event, fields = self.parts(record)
        head = f"{at} {record.levelname} {self.process} {record.name} {escape(event)}"
        return " ".join([head, *(f"{key}={quote(value)}" for key, value in fields.items())])


class JsonFormatter(_Formatter):
    """One JSON object per line: ``ts level process logger event`` and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        at, event, fields = self.parts(record)
        head = {
            "ts": at,
            "level": record.levelname.lower(),
            "process": self.process,
            "logger": record.name,
            "event": event,
        }
        row = head | {f"{key}_" if key in head else key: value for key, value in fields.items()}
        try:
            return json.dumps(row, default=plain, allow_nan=False)
        except ValueError:  # NaN and infinities are not JSON (RFC 8259)
            return json.dumps(_finite(row), default=lambda value: _finite(plain(value)))


def _finite(value: Any) -> Any:
    """The value with text in place of numbers that JSON lacks, as in ``"nan"``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


class OwnFileHandler(logging.FileHandler):
    """Appends to a file owned by this user, never through a link, for :func:`logging.config.dictConfig`."""

    def _open(self) -> Any:
        fd = open_own(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        return open(fd, self.mode, encoding=self.encoding, errors=self.errors)


def dict_config(settings: Settings, process: str) -> dict[str, Any]:
    """Configuration for ``logging.config.dictConfig`` and Faust's ``logging_config`` (Faust would install its own)."""
    formatter = JsonFormatter if settings.log_format == "json" else TextFormatter
    level = settings.log_level.upper()
    verbose = level if level == "DEBUG" else "WARNING"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"klais": {"()": formatter, "process": process}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "klais", "stream": "ext://sys.stderr"}},
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {name: {"level": verbose} for name in _VERBOSE} | {"numba": {"level": "WARNING"}},
    }


def setup(settings: Settings, process: str) -> None:
    """Send all logs of this process to stderr, with the format and level of ``settings``.

    Parameters
    ----------
    settings : Settings
        ``log_level`` and ``log_format``.
    process : str
        Name of this process in every line: ``edge``, ``worker``, ``up`` ...
    """
    logging.config.dictConfig(dict_config(settings, process))
    logging.captureWarnings(True)


def set_level(settings: Settings) -> None:
    """Apply a new ``log_level`` at run time; handlers are unchanged."""
    config = dict_config(settings, "")
    logging.getLogger().setLevel(config["root"]["level"])
    for name, given in config["loggers"].items():
        logging.getLogger(name).setLevel(given["level"])


class Throttle:
    """Limits a repeated line to one in ``seconds`` seconds.

    Examples
    --------
    >>> throttle = Throttle(10)
    >>> throttle.calls(now_s=0.0), throttle.calls(now_s=1.0), throttle.calls(now_s=12.0)
    (1, 0, 2)
    """

    __slots__ = ("_at_s", "_lock", "_seconds", "_suppressed")

    def __init__(self, seconds: float) -> None:
        self._seconds, self._at_s, self._suppressed = seconds, float("-inf"), 0
        self._lock = threading.Lock()

    def calls(self, now_s: float | None = None) -> int:
        """Number of calls that a line written now represents; 0 = do not write. ``now_s`` is monotonic time."""
        now_s = time.monotonic() if now_s is None else now_s
        with self._lock:
            if now_s - self._at_s < self._seconds:
                self._suppressed += 1
                return 0
            calls, self._suppressed, self._at_s = self._suppressed + 1, 0, now_s
            return calls


_lock = threading.Lock()
_by_key: dict[str, Throttle] = {}


def every(seconds: float, key: str, now_s: float | None = None) -> int:
    """A :class:`Throttle` shared by the whole process, identified by its key.

    Parameters
    ----------
    seconds : float
        Minimum time between two lines; the same in each call with this key.
    key : str
        Subject of the line, from a small closed set (never a device id).
    now_s : float, optional
        Monotonic time, for tests.

    Examples
    --------
    >>> every(10, "doc", now_s=0.0), every(10, "doc", now_s=1.0), every(10, "doc", now_s=12.0)
    (1, 0, 2)
    """
    with _lock:
        throttle = _by_key.setdefault(key, Throttle(seconds))
    return throttle.calls(now_s)
