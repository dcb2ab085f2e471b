"""The circuit breaker: decides from deliveries and silence if batches go to Kafka. Pure: time is an argument.

    closed ──silence, failures in a row, or no room left──> open ──a wait that doubles, with jitter──> half-open
      ^                                                      ^                                            │
      └───────────── the probe batch was acknowledged ───────┼────────────────────────────────────────────┤
                                                             └──── it failed, or nothing came in time ────┘

See Nygard, *Release It!*, "Circuit Breaker". The jitter prevents many edges from probing a recovering broker all at
once (M. Brooker, "Exponential Backoff And Jitter": half of the wait is fixed, half is random).
"""

from collections.abc import Callable
from enum import Enum

# One failed delivery may come from a fenced producer, which is then rebuilt. Three in a row are caused by Kafka.
FAILURES = 3
STEP_S = 1.0  # silence that one call can add at most


class State(Enum):
    """The state of the breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Counts silence and failures, and decides when to open, to probe and to close.

    Silence is added up over the calls, at most ``STEP_S`` for each, so that a stopped process or a suspended machine
    does not mistake its own pause for Kafka's.

    Parameters
    ----------
    timeout_s : float
        Open if deliveries are under way and none was acknowledged for this long. A probe has the same time.
    wait_min_s, wait_max_s : float
        First and longest wait before a probe.
    random : callable
        Uniform in [0, 1).

    Attributes
    ----------
    state : State
    why : str
        Why it opened last; empty before the first time.
    since_s : float
        When ``state`` began.
    probe_s : float
        When an open breaker probes next.
    transitions : dict of State to int
        How often each state was entered.
    """

    def __init__(self, timeout_s: float, wait_min_s: float, wait_max_s: float, random: Callable[[], float]) -> None:
        self.timeout_s, self.wait_min_s, self.wait_max_s = timeout_s, wait_min_s, wait_max_s
        self._random = random
        self.state = State.CLOSED
        self.why = ""
        self.since_s = self.probe_s = 0.0
        self.transitions = dict.fromkeys(State, 0)
        self._silence_s = self._called_s = 0.0
        self._failures = self._reopened = 0

    @property
    def closed(self) -> bool:
        """Whether batches go to Kafka directly."""
        return self.state is State.CLOSED

    def configure(self, timeout_s: float, wait_min_s: float, wait_max_s: float) -> None:
        """Change the times; a wait that has begun is unchanged."""
        self.timeout_s, self.wait_min_s, self.wait_max_s = timeout_s, wait_min_s, wait_max_s

    def delivered(self) -> None:
        """Record that Kafka acknowledged a record since the last :meth:`transition`."""
        self._silence_s = 0.0
        self._failures = 0
        if self.state is State.HALF_OPEN:
            self._failures = -1  # the next transition closes it

    def failed(self) -> None:
        """Record that Kafka refused a delivery for good, for a reason other than the batch itself."""
        self._failures = max(0, self._failures) + 1

    def transition(self, now_s: float, under_way: bool) -> State | None:
        """Process the time since the last call.

        Parameters
        ----------
        now_s : float
            Monotonic.
        under_way : bool
            Whether a record waits for its acknowledgement.

        Returns
        -------
        State or None
            The state that this call entered, if any.
        """
        passed_s = min(max(0.0, now_s - self._called_s), STEP_S)
        self._called_s = now_s
        if self.state is State.OPEN:
            return self._enter(State.HALF_OPEN, now_s) if now_s >= self.probe_s else None
        if self.state is State.HALF_OPEN and self._failures < 0:
            self._reopened = 0
            return self._enter(State.CLOSED, now_s)
        self._silence_s = self._silence_s + passed_s if under_way else 0.0
        if self._failures >= (FAILURES if self.closed else 1):
            return self.open(now_s, "Kafka refuses the batches")
        if self._silence_s >= self.timeout_s:
            return self.open(now_s, f"nothing acknowledged for {self._silence_s:.1f} s")
        return None

    def open(self, now_s: float, why: str) -> State:
        """Open now, independent of the counts, and begin the next wait."""
        again = self.state is State.HALF_OPEN
        self._reopened = self._reopened + 1 if again else 0
        if not again:
            self.why = why
        self.probe_s = now_s + self._wait_s()
        return self._enter(State.OPEN, now_s)

    def close(self, now_s: float) -> State:
        """Close now: Kafka has answered in another way than by an acknowledgement."""
        self._reopened = 0
        return self._enter(State.CLOSED, now_s)

    def _wait_s(self) -> float:
        longest = max(self.wait_min_s, self.wait_max_s)
        base = min(longest, self.wait_min_s * 2.0 ** min(self._reopened, 60))
        return base * (0.5 + 0.5 * self._random())

    def _enter(self, state: State, now_s: float) -> State:
        self.state, self.since_s = state, now_s
        self.transitions[state] += 1
        self._silence_s, self._failures = 0.0, 0
        return state
