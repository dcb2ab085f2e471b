"""The breaker against a model in plain words, under any sequence of events."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from klais.edge.sinks.breaker import FAILURES, Breaker, State

TIMEOUT_S, MIN_S, MAX_S = 5.0, 0.5, 10.0


class BreakerMachine(RuleBasedStateMachine):
    """Events in any order; what must hold is said from the outside, with a silence and a row of failures kept apart."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(TIMEOUT_S, MIN_S, MAX_S, lambda: 0.37)
        self.now_s = 1000.0
        self.silence_s = 0.0
        self.failures = 0
        self.acked = False
        self.reopened = 0
        self.breaker.transition(self.now_s, False)

    @rule()
    def delivered(self) -> None:
        self.breaker.delivered()
        self.silence_s, self.failures, self.acked = 0.0, 0, True

    @rule()
    def failed(self) -> None:
        self.breaker.failed()
        self.failures += 1
        self.acked = False

    @rule(step_s=st.integers(0, 7).map(lambda k: k / 8), under_way=st.booleans())
    def look(self, step_s: float, under_way: bool) -> None:
        before, probe_s = self.breaker.state, self.breaker.probe_s
        self.now_s += step_s
        self.silence_s = self.silence_s + step_s if under_way else 0.0
        moved = self.breaker.transition(self.now_s, under_way)
        if before is State.OPEN:
            assert moved is (State.HALF_OPEN if self.now_s >= probe_s else None)
        elif before is State.HALF_OPEN and self.acked:
            assert moved is State.CLOSED
            self.reopened = 0
        else:
            limit = FAILURES if before is State.CLOSED else 1
            assert (moved is State.OPEN) == (self.failures >= limit or self.silence_s >= TIMEOUT_S)
        if moved:
            self.entered(moved, before)
        elif before is not State.OPEN and before is not State.HALF_OPEN:
            self.acked = False

    @rule()
    def trip(self) -> None:
        before = self.breaker.state
        if before is not State.OPEN:
            self.breaker.open(self.now_s, "no room")
            self.entered(State.OPEN, before)

    def entered(self, state: State, before: State) -> None:
        assert self.breaker.state is state and self.breaker.since_s == self.now_s
        self.silence_s, self.failures, self.acked = 0.0, 0, False
        if state is State.OPEN:
            self.reopened = self.reopened + 1 if before is State.HALF_OPEN else 0
            wait_s = self.breaker.probe_s - self.now_s
            full = min(MAX_S, MIN_S * 2**self.reopened)
            assert full / 2 - 1e-6 <= wait_s <= full + 1e-6

    @invariant()
    def never_stuck(self) -> None:
        if self.breaker.state is State.OPEN:
            assert self.breaker.probe_s <= self.now_s + MAX_S


TestBreaker = BreakerMachine.TestCase
