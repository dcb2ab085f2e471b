"""When a worker may take over control: once no controller was heard for its patience (pure; time is handed in).

Whoever controls is heard on ``klais_stats`` several times within a session timeout. The others listen. One that hears nothing
for half a session timeout takes the fence, without waiting for the group to notice a death and to rebalance; the broker's
epoch lets only one win. They try one after another, first who owns partition 0, then by worker id; each says so before it
tries, and who hears that waits. Control stays with its
holder until it leaves, falls silent or is fenced: a rebalance moves nothing, so two workers cannot pass it to and fro.

A listener that does not hear its own records hears nobody, however many speak: then Kafka is away, and no silence counts.
"""

from collections.abc import Mapping
from typing import Any

PREFIX = "controller-"
PARTITION = "0"  # its owner tries first
SILENCE = 0.5  # of a session timeout: the patience of the first who tries
TURN = 0.125  # of a session timeout: what each next one waits longer, time to fence and to be heard
MOST = 1.0
NEVER_HEARD = 3.0  # presences: where nobody spoke since this worker listens

Heard = Mapping[str, tuple[float, Mapping[str, Any]]]


def presence_s(session_timeout_s: float) -> float:
    """How often the controller says that it is there, s."""
    return min(1.0, session_timeout_s / 8)


def newest_reign(controllers: Heard) -> str | None:
    """Name of the controller of the highest epoch; a paused predecessor may still be speaking."""
    return max(controllers, key=lambda name: _epoch(controllers[name][1]), default=None)


def _epoch(record: Mapping[str, Any]) -> float:
    epoch = record["gauges"].get("epoch", -1)
    return epoch if isinstance(epoch, int | float) else -1


def turn_of(worker_id: str, workers: Heard, silent: str | None) -> int:
    """How many go before this worker: who owns partition 0, then by id; the ``silent`` controller's worker not counted."""
    there = {name: PARTITION in (at[1]["gauges"].get("lag_records") or {}) for name, at in workers.items()}
    mine = (not there.get(worker_id, False), worker_id)
    return sum((not first, name) < mine for name, first in there.items() if f"{PREFIX}{name}" != silent)


class Succession:
    """Listens for one worker.

    Parameters
    ----------
    worker_id : str
        Its id on ``klais_stats``.
    session_timeout_s : float
        After which the group takes a silent worker for dead.
    """

    def __init__(self, worker_id: str, session_timeout_s: float) -> None:
        self._worker_id, self._session_s = worker_id, session_timeout_s
        self._since_s: float | None = None

    def begin(self, now_s: float) -> None:
        """Listen from now on: what was before does not count."""
        self._since_s = now_s

    def may_take_over(self, now_s: float, workers: Heard, controllers: Heard) -> bool:
        """Whether it is this worker's turn; asked some ten times a second.

        Parameters
        ----------
        now_s : float
            Monotonic.
        workers, controllers : mapping of str to (float, mapping)
            Seconds since each was heard last, and what it said; workers only while they are fresh.
        """
        if self._since_s is None or self._worker_id not in workers:
            self._since_s = now_s
        session_s, name = self._session_s, newest_reign(controllers)
        turn = turn_of(self._worker_id, workers, name)
        if name is None:
            return now_s - self._since_s >= NEVER_HEARD * presence_s(session_s) + turn * TURN * session_s
        age_s, record = controllers[name]
        claims = [age for age, said in controllers.values() if said["gauges"].get("claims")]
        self._since_s = max(self._since_s, now_s - min([age_s, *claims]))
        patience = turn * TURN if record["gauges"].get("left") else min(MOST, SILENCE + turn * TURN)
        return now_s - self._since_s >= patience * session_s
