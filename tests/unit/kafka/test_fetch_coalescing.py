"""Fetch coalescing: what a fetch asks for, and how long the records of bursts wait at a simulated broker."""

import numpy as np
import pytest

from klais.kafka.fetch_coalescing import LATE_WAIT_MS, WINDOW_S, FetchCoalescing


def bursts(fetches: FetchCoalescing, partitions: int, each_s: float, count: int = 60, from_s: float = 100.0) -> float:
    for _ in range(count):
        from_s += each_s
        sizes = {p: 1000 + p for p in range(partitions)}
        fetches.observe(sizes, dict.fromkeys(range(partitions), 1e3 * from_s), partitions, from_s)
    return from_s


def test_a_fetch_waits_for_one_record_of_each_active_partition() -> None:
    fetches = FetchCoalescing()
    assert fetches.min_bytes == 1, "nothing is known yet"
    now_s = bursts(fetches, 4, 0.01)
    assert 3000 < fetches.min_bytes < 4000 and 10 <= fetches.max_wait_ms <= 12
    bursts(fetches, 2, 0.01, 2 * int(WINDOW_S / 0.01) + 60, now_s)
    assert 1000 < fetches.min_bytes < 2000, "two have fallen silent"


def test_a_fetch_waits_a_short_time_for_late_partitions() -> None:
    """Two answers a burst must not look like two records each, nor let the second wait for the next burst."""
    fetches, now_s = FetchCoalescing(), 100.0
    for _ in range(60):
        fetches.observe({0: 1000}, {0: 1e3 * now_s}, 1, now_s + 0.001)
        first = fetches.min_bytes, fetches.max_wait_ms
        fetches.observe({1: 1000, 2: 1000, 3: 1000}, dict.fromkeys((1, 2, 3), 1e3 * now_s + 1), 3, now_s + 0.004)
        now_s += 0.01
    assert first == (pytest.approx(2500, rel=0.02), LATE_WAIT_MS)
    assert fetches.min_bytes == pytest.approx(3250, rel=0.02) and fetches.max_wait_ms >= 10
    fetches.observe({0: 1000}, {0: 1e3 * now_s}, 1, now_s + 0.001)
    fetches.observe({}, {}, 0, now_s + 0.004)
    assert fetches.min_bytes == pytest.approx(3250, rel=0.02), "the late ones did not come: it waits for the next burst"


def test_partitions_that_begin_within_a_window_change_nothing() -> None:
    fetches = FetchCoalescing()
    now_s = bursts(fetches, 2, 0.01)
    of_two = fetches.min_bytes
    bursts(fetches, 4, 0.001, 1, now_s)
    assert fetches.min_bytes == of_two > 1, "two more than the window before had are not two too few"


def waits_ms(fetches: FetchCoalescing, spread_ms: float, seconds: int = 6) -> list[float]:
    """How long records wait for a fetch: a broker with bursts of four records, 10 ms apart, of varying size.

    The broker answers the first fetch in the middle of a burst.
    """
    rng = np.random.default_rng(1)
    due = []  # (arrival, partition, timestamp, bytes), all in ms
    for burst in range(100 * seconds):
        at_ms = 10.0 * burst + rng.uniform(-1, 1)
        size = rng.uniform(700, 1300)
        due += [(at_ms + i * spread_ms / 3, int(p), at_ms, size) for i, p in enumerate(rng.permutation(4))]
    due.sort()
    now_ms, waited, pending, k = 0.0, [], [], 0
    while k < len(due):
        until_ms = now_ms + fetches.max_wait_ms
        while k < len(due) and (
            due[k][0] <= now_ms or (sum(r[3] for r in pending) < fetches.min_bytes and due[k][0] <= until_ms)
        ):
            pending.append(due[k])
            now_ms, k = max(now_ms, due[k][0]), k + 1
        if sum(r[3] for r in pending) < fetches.min_bytes:
            now_ms = until_ms if fetches.min_bytes > 1 else due[k][0]
        sizes: dict[int, int] = {}
        for _, p, _, size in pending:
            sizes[p] = sizes.get(p, 0) + int(size)
        newest = {p: at_ms for _, p, at_ms, _ in pending}
        fetches.observe(sizes, newest, len(pending), 100.0 + now_ms / 1e3)
        waited += [now_ms - arrived for arrived, *_ in pending if arrived > 1000]
        pending, now_ms = [], now_ms + 1.0
    return waited


@pytest.mark.parametrize("spread_ms", [0.0, 1.5, 3.0])
def test_no_record_waits_for_the_next_burst(spread_ms: float) -> None:
    """Asking for all of a burst alone, each second record came with the next one: 10 ms late, and so on."""
    waited = np.array(waits_ms(FetchCoalescing(), spread_ms))
    assert np.percentile(waited, 50) <= spread_ms + 0.5
    assert np.mean(waited > 6.0) < 0.02


def test_rare_records_and_silence_wait_for_nothing() -> None:
    fetches = FetchCoalescing()
    bursts(fetches, 4, 0.06)
    assert fetches.min_bytes == 1
    bursts(fetches, 4, 0.01, from_s=200.0)
    assert fetches.min_bytes > 1
    fetches.observe({}, {}, 0, 300.0)
    assert fetches.min_bytes == 1


def test_a_fetch_waits_for_the_first_record_where_partitions_do_not_report_together() -> None:
    """With one record a burst, a fetch that waited for four would hold each record up for the mean of their times."""
    fetches, now_s = FetchCoalescing(), 100.0
    for burst in range(200):
        now_s += 0.006
        fetches.observe({burst % 4: 1000}, {burst % 4: 1e3 * now_s}, 1, now_s)
    assert fetches.min_bytes == 1


def test_behind_a_rare_record_a_second_fetch_waits_for_the_rest_of_the_burst() -> None:
    fetches = FetchCoalescing()
    assert fetches.rest_of_burst(1) == 0, "nothing is known yet"
    now_s = bursts(fetches, 4, 0.07)
    assert fetches.min_bytes == 1
    assert fetches.rest_of_burst(1) == pytest.approx(2500, rel=0.02)
    assert fetches.rest_of_burst(4) == fetches.rest_of_burst(0) == 0
    bursts(fetches, 4, 0.01, from_s=now_s)
    assert fetches.min_bytes > 1 and fetches.rest_of_burst(1) == 0, "these fetches wait for whole bursts"
