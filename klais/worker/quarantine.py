"""Poison: a raw record on which a lane fails again and again is set aside, so that the lane goes on."""

from klais.telemetry.log import get

log = get("klais.worker.quarantine")

FAILURES = 3  # of the same raw record


class Quarantine:
    """Failures at the newest raw record that failed; lives as long as the lane, over its sessions."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._offset, self._failures, self._why = -1, 0, ""

    def failed(self, offset: int, error: Exception) -> None:
        """Deciding this record raised ``error``."""
        self._failures = self._failures + 1 if offset == self._offset else 1
        self._offset, self._why = offset, f"{type(error).__name__}: {error}"

    def reason(self, offset: int) -> str | None:
        """Why this record is to be set aside; None while it is to be decided."""
        if offset != self._offset or self._failures < FAILURES:
            return None
        log.error(
            "record_quarantined", partition=self._partition, offset=offset, failures=self._failures, why=self._why
        )
        return self._why
