"""Signals of the edge: SIGTERM and SIGINT stop it, a second one aborts the wait for Kafka, SIGHUP reloads the settings,
SIGUSR2 asks a supervisor for a rolling upgrade."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from klais.config.load import Settings

# When the parent dies, each of its threads sends a signal. Signals within 0.5 s count as one.
RETRY_S = 0.5
EXIT_KILLED = 130
RELOADABLE = frozenset(
    {
        *("log_level", "log_format", "dead_letter_rate", "dead_letter_bytes"),
        *("breaker_timeout_s", "breaker_wait_min_s", "breaker_wait_max_s"),
        *("spool_max_bytes", "spool_sync", "spool_sync_interval_ms"),
        *("auth", "auth_key_file", "auth_keys_file", "auth_exempt", "auth_max_skew_s"),
    }
)


def _note_only() -> None:
    """Does nothing: the signal is counted until :meth:`Signals.take_over`."""


class Signals:
    """Handles the signals. Handlers may interrupt each other and any code: they set flags and take no lock twice.

    Parameters
    ----------
    stop, abort : callable
        The first SIGTERM or SIGINT; a later one.
    now : bool
        Abort at the first.
    clock, leave : callable
        For tests.

    """

    def __init__(
        self,
        stop: Callable[[], None] = _note_only,
        abort: Callable[[], None] = _note_only,
        now: bool = False,
        clock: Callable[[], float] = time.monotonic,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        self._stop, self._abort, self._now, self._clock, self._leave = stop, abort, now, clock, leave
        self._stops, self._last_s = 0, float("-inf")
        self._reload = self._upgrade = False

    def install(self) -> None:
        """Install the handlers in this process (main thread only)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.on_stop)
        signal.signal(signal.SIGHUP, self.on_reload)
        signal.signal(signal.SIGUSR2, self.on_upgrade)

    def take_over(self, before: "Signals") -> None:
        """Act on the signals that earlier handlers noted; these are installed already."""
        self._reload, self._upgrade = self._reload or before._reload, self._upgrade or before._upgrade
        if before._stops and not self._stops:
            self._stops, self._last_s = before._stops, before._last_s
            if before._stops > 1 or self._now:
                self._abort()
            self._stop()

    def on_stop(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Stop; then abort; then exit immediately."""
        now_s = self._clock()
        if now_s - self._last_s < RETRY_S:
            return
        self._last_s = now_s
        self._stops += 1
        if self._stops > 2:
            self._leave(EXIT_KILLED)
        if self._stops == 2 or self._now:
            self._abort()
        if self._stops == 1:
            self._stop()

    def on_reload(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Record the signal: a handler must not read files."""
        self._reload = True

    def on_upgrade(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Note it."""
        self._upgrade = True

    def consume_upgrade(self) -> bool:
        """Whether SIGUSR2 came since the last call."""
        upgrade, self._upgrade = self._upgrade, False
        return upgrade

    def consume_reload(self) -> bool:
        """Whether SIGHUP came since the last call."""
        reload, self._reload = self._reload, False
        return reload


def changed(before: Settings, after: Settings) -> tuple[dict[str, Any], list[str]]:
    """Differences: values that can change while the edge runs, and names of settings that need a restart.

    Examples
    --------
    >>> changed(Settings(), Settings(breaker_timeout_s=2, partitions=8))
    ({'breaker_timeout_s': 2.0}, ['KLAIS_PARTITIONS'])
    """
    # A claimed number is in the settings of the process and in no file.
    own = set() if after.edge_id_from == "number" else {"edge_id", "edge_id_from"}
    fields = [name for name in Settings.model_fields if name not in own]
    names = [name for name in fields if getattr(before, name) != getattr(after, name)]
    reloadable = RELOADABLE - ({"auth"} if "off" in (before.auth, after.auth) else set())  # batches get other columns
    now = {name: getattr(after, name) for name in names if name in reloadable}
    return now, [f"KLAIS_{name.upper()}" for name in names if name not in reloadable]
