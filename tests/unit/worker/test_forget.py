"""Requests to forget a device are handled once, whatever the device sends meanwhile."""

import pytest

from klais.config.load import Settings
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.worker.forget import WAIT_S, Forgetter
from klais.worker.limits import LaneLimits
from tests.support.lane import batch, bounds, frames, limits

S, NOW_S = 10**9, 1_700_000_000


class Requests:
    """What operators asked for, as the follower of ``klais_control`` knows it."""

    def __init__(self) -> None:
        self.asked: dict[bytes, int] = {}

    def to_forget(self) -> dict[bytes, int]:
        return self.asked


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, int]:
    requests = Requests()
    monkeypatch.setattr(LaneLimits, "to_forget", lambda self: requests.asked)
    return requests.asked


def session(ahead_s: float | None = 0.0) -> Forgetter:
    """Of a lane that starts: it knows nothing of earlier sessions."""
    lane_limits = LaneLimits(Settings(), None, lambda: ahead_s)
    return Forgetter(Settings(), lane_limits, 0)


def send(state: LaneState, at_ns: int) -> None:
    value = batch(frames(("a", state.next_raw)), state.next_raw, at_ns)
    take_raw(state, state.next_raw, value, limits(), bounds(), at_ns)


def forgets(forgetter: Forgetter, state: LaneState, at_ns: int) -> bool:
    return forgetter.step(state, at_ns, at_ns / S) is not None and state.find(b"a") < 0


def test_a_device_that_comes_back_in_the_second_of_the_request_is_forgotten_once(asked: dict[bytes, int]) -> None:
    """Rows and requests have times in seconds. A later session must not take the new row for the old one."""
    state, first = LaneState(), session()
    send(state, NOW_S * S)  # in the same second as the request, and before it
    asked[b"a"] = NOW_S
    assert not forgets(first, state, NOW_S * S + S // 2) and not forgets(first, state, NOW_S * S + S - 1)
    assert forgets(first, state, (NOW_S + 1) * S)
    send(state, (NOW_S + 1) * S)
    for forgetter in (first, session(), session()):
        assert not forgets(forgetter, state, (NOW_S + 1) * S) and not forgets(forgetter, state, (NOW_S + 100) * S)
    asked[b"a"] = NOW_S + 200  # a new request
    assert forgets(first, state, (NOW_S + 201) * S)


def test_a_worker_whose_clock_is_behind_forgets_a_moment_later(asked: dict[bytes, int]) -> None:
    state, forgetter, request_s = LaneState(), session(), NOW_S + 3600
    send(state, NOW_S * S)
    asked[b"a"] = request_s
    assert not forgets(forgetter, state, NOW_S * S)
    assert not forgets(forgetter, state, (NOW_S + 1) * S)
    assert forgets(forgetter, state, (NOW_S + 1 + int(WAIT_S)) * S)


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
def test_a_worker_whose_clock_is_wrong_forgets_once(asked: dict[bytes, int], ahead_s: int) -> None:
    """Rows have its time: an hour ahead, they look newer than the request; an hour behind, older, for an hour."""
    state, here_s = LaneState(), NOW_S + ahead_s
    send(state, here_s * S)
    asked[b"a"] = NOW_S + 10
    assert forgets(session(ahead_s), state, (here_s + 11) * S)
    send(state, (here_s + 20) * S)  # it comes back
    assert not forgets(session(ahead_s), state, (here_s + 30) * S)


def test_a_request_waits_until_the_clock_is_known_and_not_for_ever(asked: dict[bytes, int]) -> None:
    state, forgetter = LaneState(), session(None)
    send(state, NOW_S * S)
    asked[b"a"] = NOW_S
    assert not forgets(forgetter, state, (NOW_S + 1) * S)
    assert forgets(forgetter, state, (NOW_S + 2 + int(WAIT_S)) * S)
