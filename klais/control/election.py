"""Leader election of the controllers: when a worker may become the leader (pure; time is an argument).

The leader sends a heartbeat on ``klais_stats`` several times within a session timeout. The other workers listen. A
worker that receives no heartbeat for half a session timeout becomes a candidate and takes the fence. It does not wait
for the consumer group to detect a failure and to rebalance. The broker's epoch decides which candidate wins and numbers
the term.

Candidates try one after another: the owner of partition 0 first, then by worker id. Each announces itself before it
takes the fence, and a worker that receives an announcement waits. The order is an optimization; the epoch guarantees
a single leader.

A leader keeps its term until it resigns, stops sending or is fenced. A rebalance does not end a term, so control does
not move back and forth between two workers. A worker that does not receive its own records cannot judge others: Kafka
is unreachable, and the missing heartbeats do not count.
"""

from collections.abc import Mapping

from klais.telemetry.schema import Gauges

PREFIX = "controller-"
FIRST_PARTITION = "0"  # its owner tries first
SILENCE = 0.5  # of a session timeout: how long the first candidate waits for a heartbeat
CANDIDATE_DELAY = 0.125  # of a session timeout: additional wait of each next candidate, to fence and send a heartbeat
MAX_SILENCE = 1.0  # of a session timeout: longest wait
HEARTBEATS_AT_START = 3.0  # heartbeat intervals that a new worker waits if it has received no heartbeat yet

RecentGauges = Mapping[str, tuple[float, Gauges]]  # sender -> (seconds since its newest record, gauges of that record)


def heartbeat_s(session_timeout_s: float) -> float:
    """Interval of the leader's heartbeats, s."""
    return min(1.0, session_timeout_s / 8)


def leader_of(controllers: RecentGauges) -> str | None:
    """Name of the controller with the highest epoch; a paused predecessor may still send."""
    return max(controllers, key=lambda name: _epoch(controllers[name][1]), default=None)


def _epoch(gauges: Gauges) -> float:
    return -1.0 if gauges.epoch is None else gauges.epoch


def turn_of(worker_id: str, workers: RecentGauges, silent: str | None) -> int:
    """Number of candidates before this worker; the worker of the ``silent`` leader does not count."""
    owns_first = {name: FIRST_PARTITION in (gauges.lag_records or {}) for name, (_, gauges) in workers.items()}
    mine = (not owns_first.get(worker_id, False), worker_id)
    return sum((not first, name) < mine for name, first in owns_first.items() if f"{PREFIX}{name}" != silent)


class Election:
    """One worker's view of the election.

    Parameters
    ----------
    worker_id : str
        Its id on ``klais_stats``.
    session_timeout_s : float
        Time after which the consumer group considers a silent worker as failed.
    """

    def __init__(self, worker_id: str, session_timeout_s: float) -> None:
        self._worker_id, self._session_s = worker_id, session_timeout_s
        self._silent_since_s: float | None = None

    def begin(self, now_s: float) -> None:
        """Start listening: earlier silence does not count."""
        self._silent_since_s = now_s

    def may_lead(self, now_s: float, workers: RecentGauges, controllers: RecentGauges) -> bool:
        """Whether this worker may take the fence now; call it about ten times a second.

        Parameters
        ----------
        now_s : float
            Monotonic.
        workers, controllers : mapping of str to (float, Gauges)
            Seconds since the last record of each, and its newest gauges; ``workers`` holds only recent ones.
        """
        # Our own records do not come back, so missing records of others prove nothing.
        if self._silent_since_s is None or self._worker_id not in workers:
            self._silent_since_s = now_s
        session_s, leader = self._session_s, leader_of(controllers)
        turn = turn_of(self._worker_id, workers, leader)
        if leader is None:
            wait_s = HEARTBEATS_AT_START * heartbeat_s(session_s) + turn * CANDIDATE_DELAY * session_s
            return now_s - self._silent_since_s >= wait_s
        age_s, gauges = controllers[leader]
        # The silence begins after the newest heartbeat, and after the newest announcement of another candidate.
        announced = [age for age, record in controllers.values() if record.candidate]
        self._silent_since_s = max(self._silent_since_s, now_s - min([age_s, *announced]))
        silence = turn * CANDIDATE_DELAY if gauges.resigned else min(MAX_SILENCE, SILENCE + turn * CANDIDATE_DELAY)
        return now_s - self._silent_since_s >= silence * session_s
