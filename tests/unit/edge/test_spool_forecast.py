"""When the spool will be full: from its growth, as long as it grows."""

from klais.edge.sinks.spool.forecast import WINDOW_S, FillForecast


def after(*sizes: int, limit: int = 1000, batch: int = 0, period_s: float = 1.0) -> float | None:
    forecast = FillForecast()
    for n, size in enumerate(sizes):
        forecast.sample(50.0 + n * period_s, size, limit, batch)
    return forecast.full_s


def test_the_time_left_is_the_rest_at_the_growth_of_the_last_seconds() -> None:
    assert after(100, 200) == 8.0
    assert after(*range(0, 510, 10), limit=1500) == 100.0
    slow_then_fast = [*range(100), *range(200, 200 + 100 * round(WINDOW_S) + 100, 100)]
    assert after(*slow_then_fast, limit=slow_then_fast[-1] + 1000) == 10.0


def test_the_time_before_an_outage_does_not_count() -> None:
    assert after(*[0] * 40, 100, 200) == 8.0


def test_a_spool_that_is_empty_replayed_or_still_has_no_end() -> None:
    assert after(0, 0, 0) is None
    assert after(500, 400, 300) is None
    assert after(500, 500) is None
    assert after(500) is None
    assert after(500, 600, period_s=0.01) is None, "too short to say anything"
    assert after(0, 0, 5, limit=0) is None, "there is no spool"


def test_a_spool_without_room_for_a_batch_is_full() -> None:
    assert after(800, 950, batch=100) == 0.0
    assert after(1000) == 0.0
    assert after(700, 800, batch=100) == 1.0
    assert after(5, limit=3, batch=100) == 0.0


def test_the_window_is_bounded() -> None:
    forecast = FillForecast()
    for n in range(5000):
        forecast.sample(n * 0.1, n + 1, 10_000)
    assert len(forecast._seen) <= 10 * WINDOW_S + 2
    assert forecast.gauges() == {"spool_full_s": 500.0}
