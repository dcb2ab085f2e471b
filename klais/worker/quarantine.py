"""Poison: a record on which a lane fails repeatedly is set aside, so that the lane can continue.

It is a raw record that cannot be decided (or whose journal record Kafka refuses), a single output record that Kafka
refuses for its content, or a journalled step that cannot be replayed.
"""

from klais.telemetry.log import get

log = get("klais.worker.quarantine")

FAILURES = 3  # failures of the same record
MAX_PLACES = 64  # refused records whose failures are counted

Place = tuple[str, int, int]  # output, step, index of the record


class Quarantine:
    """Counts failures at the newest raw record that failed. Lives as long as the lane, across its sessions."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._offset, self._failures, self._why = -1, 0, ""
        self._refused: dict[Place, int] = {}
        self._step, self._step_failures = -1, 0

    def failed(self, offset: int, error: Exception) -> None:
        """Record that deciding this record raised ``error``."""
        self._failures = self._failures + 1 if offset == self._offset else 1
        self._offset, self._why = offset, f"{type(error).__name__}: {error}"

    def reason(self, offset: int) -> str | None:
        """Why this record must be set aside; None if it must be decided."""
        if offset != self._offset or self._failures < FAILURES:
            return None
        log.error(
            "record_quarantined", partition=self._partition, offset=offset, failures=self._failures, why=self._why
        )
        return self._why

    def step_failed(self, step: int, error: Exception) -> None:
        """Record that the replay of this step raised ``error``."""
        self._step_failures = self._step_failures + 1 if step == self._step else 1
        self._step = step
        if self._step_failures == FAILURES:
            why = f"{type(error).__name__}: {error}"
            log.error("step_set_aside", partition=self._partition, step=step, failures=FAILURES, why=why)

    def replayed(self) -> None:
        """The journal is replayed, and a checkpoint covers what was left out: other steps may get these numbers."""
        self._step, self._step_failures = -1, 0

    @property
    def unusable_step(self) -> int | None:
        """The step that must be treated like one that cannot be read; None if there is none."""
        return self._step if self._step_failures >= FAILURES else None

    def refused(self, place: Place, error: Exception) -> bool:
        """Record that Kafka refused this single record; whether it has failed often enough to set it aside."""
        while place not in self._refused and len(self._refused) >= MAX_PLACES:
            del self._refused[next(iter(self._refused))]
        failures = self._refused[place] = self._refused.get(place, 0) + 1
        if failures < FAILURES:
            return False
        output, step, nth = place
        log.error(
            "output_set_aside",
            partition=self._partition, output=output, step=step, nth=nth, failures=failures, why=str(error),
        )  # fmt: skip
        return True
