"""The breaker by example: each way to open, the probe, the waits."""

import pytest

from klais.edge.sinks.breaker import FAILURES, Breaker, State


def make(random: float = 0.0) -> Breaker:
    return Breaker(timeout_s=5.0, wait_min_s=1.0, wait_max_s=8.0, random=lambda: random)


def run(breaker: Breaker, begin_s: float, end_s: float, under_way: bool = True) -> list[tuple[float, State]]:
    """Look every quarter of a second; when which state was entered."""
    out = []
    for k in range(round((end_s - begin_s) * 4) + 1):
        now_s = begin_s + k / 4
        if moved := breaker.transition(now_s, under_way):
            out.append((now_s, moved))
    return out


def test_silence_while_something_is_under_way_opens_it() -> None:
    breaker = make()
    assert run(breaker, 100, 200, under_way=False) == []
    assert run(breaker, 200.25, 205) == [(205, State.OPEN)]
    assert "nothing acknowledged" in breaker.why


def test_acknowledgements_keep_it_closed() -> None:
    breaker = make()
    for second in range(100):
        assert run(breaker, second, second + 0.75) == []
        breaker.delivered()


def test_a_process_that_was_stopped_does_not_take_its_own_pause_for_kafkas() -> None:
    breaker = make()
    assert run(breaker, 0, 1) == []
    assert breaker.transition(3600, True) is None


def test_failures_in_a_row_open_it() -> None:
    breaker = make()
    for _ in range(FAILURES - 1):
        breaker.failed()
        assert breaker.transition(1, True) is None
    breaker.delivered()
    breaker.failed()
    assert breaker.transition(2, True) is None
    for _ in range(FAILURES - 1):
        breaker.failed()
    assert breaker.transition(3, True) is State.OPEN


def test_the_waits_double_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    breaker = make(random=1.0)
    breaker.open(0.0, "test")
    waits = []
    now_s = 0.0
    for _ in range(6):
        waits.append(breaker.probe_s - now_s)
        now_s = breaker.probe_s
        assert breaker.transition(now_s, False) is State.HALF_OPEN
        breaker.failed()
        assert breaker.transition(now_s, True) is State.OPEN
    assert waits == pytest.approx([1, 2, 4, 8, 8, 8])
    assert breaker.transition(breaker.probe_s, False) is State.HALF_OPEN
    breaker.delivered()
    assert breaker.transition(breaker.probe_s, False) is State.CLOSED
    breaker.open(1000.0, "again")
    assert breaker.probe_s == pytest.approx(1001)
    assert breaker.transitions == {State.CLOSED: 1, State.OPEN: 8, State.HALF_OPEN: 7}


def test_jitter_takes_off_up_to_half() -> None:
    for random, wait_s in ((0.0, 0.5), (0.5, 0.75), (1.0, 1.0)):
        breaker = make(random)
        breaker.open(0.0, "test")
        assert breaker.probe_s == pytest.approx(wait_s)


def test_a_probe_without_an_answer_opens_it_again_and_keeps_the_first_reason() -> None:
    breaker = make()
    breaker.open(0.0, "the reason")
    assert run(breaker, 0.5, 0.5, under_way=False) == [(0.5, State.HALF_OPEN)]
    assert run(breaker, 0.75, 4, under_way=False) == []  # nothing to probe with: it waits for a batch
    assert run(breaker, 4.25, 9) == [(9, State.OPEN)]
    assert breaker.why == "the reason"
