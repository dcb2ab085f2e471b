"""Linger and poll interval follow the rate; the test passes the time."""

import math

import pytest

from klais.edge.linger import FLOOR_NS, WINDOW_NS, LingerController

MAX_NS = 10_000_000
BUFFER = 128 << 20
LOOK = 1024


def at_rate(rate_per_s: float, max_ns: int = MAX_NS, buffer_bytes: int = BUFFER) -> LingerController:
    linger = LingerController(max_ns, buffer_bytes, LOOK)
    linger.observe(0, 10**12)
    for step in range(1, 6):
        linger.observe(round(rate_per_s * WINDOW_NS / 1e9), 10**12 + step * WINDOW_NS)
    return linger


@pytest.mark.parametrize(
    ("rate", "max_ns", "linger_ns"),
    [
        (0, MAX_NS, FLOOR_NS),
        (150, MAX_NS, FLOOR_NS),
        (280, MAX_NS, 7_000_000),
        (400, MAX_NS, MAX_NS),
        (900_000, MAX_NS, MAX_NS),
        (20, 70_000_000, 24_500_000),
        (100, 70_000_000, 70_000_000),
    ],
)
def test_linger_grows_with_the_rate_until_it_brings_four_frames(rate: float, max_ns: int, linger_ns: int) -> None:
    linger = LingerController(max_ns, BUFFER, LOOK)
    linger.observe(0, 10**12)
    linger.observe(rate, 10**12 + 10**9)
    assert linger.rate_per_s == pytest.approx(rate)
    assert linger.linger_ns == pytest.approx(linger_ns, rel=0.001)


@pytest.mark.parametrize("rate", [0, 50_000, 500_000])
@pytest.mark.parametrize("max_ns", [0, 1_000_000, 40_000_000])
def test_never_above_the_setting(rate: float, max_ns: int) -> None:
    assert at_rate(rate, max_ns).linger_ns <= max_ns


@pytest.mark.parametrize(
    ("setting_ns", "partitions", "linger_ns"),
    [(MAX_NS, 1, MAX_NS), (MAX_NS, 16, 4 * MAX_NS), (MAX_NS, 64, 16 * MAX_NS), (70_000_000, 16, 70_000_000)],
)
def test_many_partitions_make_no_more_records(setting_ns: int, partitions: int, linger_ns: int) -> None:
    assert LingerController(setting_ns, BUFFER, LOOK, partitions).max_linger_ns == linger_ns


def test_a_sleep_is_never_longer_than_a_stop_may_take() -> None:
    linger = LingerController(970_000_000, BUFFER, LOOK)
    linger.observe(0, 10**12)
    linger.observe(50, 10**12 + 10**9)
    assert linger.linger_ns == 970_000_000 and linger.poll_interval_ns == 97_000_000


def loaded(linger: LingerController, busiest: float, seconds: int, from_s: int, rate_per_s: float = 100) -> int:
    for second in range(from_s, from_s + seconds):
        linger.load(busiest, second * 10**9)
        for at_ns in range(second * 10**9, (second + 1) * 10**9, WINDOW_NS):
            linger.observe(round(rate_per_s * WINDOW_NS / 1e9), at_ns)
    return linger.linger_ns


def test_busy_workers_get_fewer_records_and_idle_ones_get_them_soon_again() -> None:
    linger = LingerController(MAX_NS, BUFFER, LOOK)
    assert loaded(linger, 0.9, 1, 100) == pytest.approx(1.25 * FLOOR_NS)
    assert loaded(linger, 0.9, 60, 101) == 10 * FLOOR_NS, "a linger of 10 ms grows to 100"
    held = loaded(linger, 0.65, 10, 200)
    assert 0.7 * 10 * FLOOR_NS < held < 0.8 * 10 * FLOOR_NS, "between the two it shrinks slowly"
    assert loaded(linger, 0.1, 60, 300) == FLOOR_NS
    assert loaded(linger, 0.9, 3, 400) > FLOOR_NS
    assert loaded(linger, 0.65, 60, 500) == FLOOR_NS, "a busy start is forgotten"


@pytest.mark.parametrize(
    ("setting_ns", "stretched_ns"),
    [(0, 0), (2_500_000, 50_000_000), (70_000_000, 100_000_000), (220_000_000, 220_000_000)],
)
def test_a_stretched_linger_is_a_tenth_of_a_second_or_the_setting(setting_ns: int, stretched_ns: int) -> None:
    linger = LingerController(setting_ns, BUFFER, LOOK)
    assert loaded(linger, 0.9, 60, 100, 50_000) == pytest.approx(stretched_ns)
    assert loaded(linger, 0.5, 60, 200, 50_000) == setting_ns


def test_the_load_counts_once_a_second_however_often_it_is_told() -> None:
    linger = LingerController(MAX_NS, BUFFER, LOOK)
    for _ in range(50):
        linger.load(0.9, 10**12)
    linger.observe(1, 10**12)
    assert linger.linger_ns == pytest.approx(1.25 * FLOOR_NS)


def test_rest_only_after_a_call_that_ran_dry() -> None:
    linger = at_rate(10_000)
    assert linger.poll_wait_s(100) == pytest.approx(MAX_NS / 1e9), "as long as a batch may wait"
    assert linger.poll_wait_s(0) == 0
    assert linger.poll_wait_s(1024) == 0


def test_rest_ends_with_what_one_look_takes() -> None:
    assert at_rate(200_000).poll_wait_s(100) * 200_000 <= 768
    assert at_rate(200_000, 10**9).poll_wait_s(100) * 200_000 == pytest.approx(768, rel=0.01)


@pytest.mark.parametrize("rate", [50_000, 76_000, 77_000, 120_000, 200_000, 400_000])
@pytest.mark.parametrize("busy_s", [0, 1, 2, 3, 10])
def test_rests_end_when_a_batch_comes_due(rate: float, busy_s: int) -> None:
    """What is as old as the linger after n rests is closed then, not one rest later."""
    linger = at_rate(rate)
    loaded(linger, 0.9, busy_s, 2000, rate)
    rests = math.ceil(linger.linger_ns / linger.poll_interval_ns)
    assert linger.linger_ns <= rests * linger.poll_interval_ns <= 1.001 * linger.linger_ns


def test_rest_leaves_a_small_buffer_three_quarters_empty() -> None:
    buffer_bytes = 425_984  # what net.core.rmem_max grants by default
    linger = at_rate(400_000, buffer_bytes=buffer_bytes)
    frames = linger.poll_wait_s(1) * 400_000
    assert 0 < frames * 2304 <= buffer_bytes / 4 * 1.01


def test_a_burst_after_silence_is_seen_within_one_window() -> None:
    linger = at_rate(0)
    now_ns = 10**12 + 3600 * 10**9
    linger.observe(1, now_ns)
    for k in range(1, 21):
        linger.observe(200, now_ns + k * 1_000_000)
    assert linger.rate_per_s == pytest.approx(200_000)
