"""Leader election of the controllers: when a worker may become the leader (pure; time is an argument).

The leader sends a heartbeat on ``klais_stats`` several times within a session timeout. The other workers listen. One
that hears no heartbeat for half a session timeout stands as a candidate and takes the fence, without waiting for the
consumer group to notice a death and to rebalance. The broker's epoch lets one candidate win and gives the term its
number.

Candidates try one after another: the owner of partition 0 first, then by worker id. Each announces itself before it
takes the fence, and a worker that hears an announcement waits. The order is an optimization: the epoch guarantees
that one leads.

A leader keeps its term until it resigns, falls silent or is fenced. A rebalance ends no term, so two workers cannot
pass control to and fro. A worker that does not hear its own records hears nobody, however many speak: Kafka is away,
and no silence counts.
"""

from collections.abc import Mapping

from klais.telemetry.schema import Gauges

PREFIX = "controller-"
FIRST_PARTITION = "0"  # its owner tries first
SILENCE = 0.5  # of a session timeout: how long the first candidate waits for a heartbeat
TURN = 0.125  # of a session timeout: what each next candidate waits longer, time to fence and to be heard
LONGEST_SILENCE = 1.0  # of a session timeout: nobody waits longer
HEARTBEATS_AT_START = 3.0  # heartbeat intervals that a new listener waits where it has heard no leader at all

Heard = Mapping[str, tuple[float, Gauges]]  # sender -> (seconds since its newest record, gauges of that record)


def heartbeat_s(session_timeout_s: float) -> float:
    """Interval of the leader's heartbeats, s."""
    return min(1.0, session_timeout_s / 8)


def leader_of(controllers: Heard) -> str | None:
    """Name of the controller with the highest epoch: a paused predecessor may still be sending."""
    return max(controllers, key=lambda name: _epoch(controllers[name][1]), default=None)


def _epoch(gauges: Gauges) -> float:
    return -1.0 if gauges.epoch is None else gauges.epoch


def turn_of(worker_id: str, workers: Heard, silent: str | None) -> int:
    """How many candidates come before this worker; the worker of the ``silent`` leader does not count."""
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
        After which the consumer group takes a silent worker for dead.
    """

    def __init__(self, worker_id: str, session_timeout_s: float) -> None:
        self._worker_id, self._session_s = worker_id, session_timeout_s
        self._silent_since_s: float | None = None

    def begin(self, now_s: float) -> None:
        """Listen from now on: earlier silence does not count."""
        self._silent_since_s = now_s

    def may_lead(self, now_s: float, workers: Heard, controllers: Heard) -> bool:
        """Whether this worker may take the fence now; ask some ten times a second.

        Parameters
        ----------
        now_s : float
            Monotonic.
        workers, controllers : mapping of str to (float, Gauges)
            Seconds since each was heard, and its newest gauges; ``workers`` holds only those heard within seconds.
        """
        # Our own records do not come back: the silence of others says nothing about them.
        if self._silent_since_s is None or self._worker_id not in workers:
            self._silent_since_s = now_s
        session_s, leader = self._session_s, leader_of(controllers)
        turn = turn_of(self._worker_id, workers, leader)
        if leader is None:
            wait_s = HEARTBEATS_AT_START * heartbeat_s(session_s) + turn * TURN * session_s
            return now_s - self._silent_since_s >= wait_s
        age_s, gauges = controllers[leader]
        # The silence begins after the newest heartbeat, and after the newest announcement of another candidate.
        announced = [age for age, record in controllers.values() if record.candidate]
        self._silent_since_s = max(self._silent_since_s, now_s - min([age_s, *announced]))
        silence = turn * TURN if gauges.resigned else min(LONGEST_SILENCE, SILENCE + turn * TURN)
        return now_s - self._silent_since_s >= silence * session_s
