"""The burst forecast: what it claims, held against recorded traffic."""

import numpy as np
import pytest

from klais.control.forecast import (
    FACTOR,
    FEATURES,
    HORIZON_S,
    NOTHING,
    SMALL_RATE,
    NoPredictor,
    TrendPredictor,
)
from klais.sim.traffic import NASA_DEFAULT_SCALE, nasa_trace

PREDICT = TrendPredictor().predict


def window(rates: list[float]) -> np.ndarray:
    out = np.zeros((len(rates), len(FEATURES)))
    out[:, 0] = rates
    return out


def test_steady_traffic_is_no_burst_and_too_little_history_claims_nothing() -> None:
    assert PREDICT(window([1000.0] * 9)) is NOTHING
    noise = np.random.default_rng(1).poisson(5000, 60).astype(float).tolist()
    forecast = PREDICT(window(noise))
    assert forecast.probability < 0.001
    assert forecast.rate == pytest.approx(5000, rel=0.1)


def test_growth_is_seen_before_it_is_there() -> None:
    growing = [1000.0] * 50 + [1000 * 1.15**n for n in range(1, 5)]  # 75 % above the median, not twice yet
    assert growing[-1] < FACTOR * 1000
    assert PREDICT(window(growing)).probability > 0.2
    assert PREDICT(window([*growing, 2300.0, 2800.0, 3300.0])).probability > 0.9


def test_a_level_that_stays_is_normal_after_half_a_window() -> None:
    rates = [1000.0] * 60 + [5000.0] * 40
    assert PREDICT(window(rates[:66])).probability > 0.9
    assert PREDICT(window(rates[-60:])).probability < 0.01


def test_twice_next_to_nothing_is_no_burst() -> None:
    assert PREDICT(window([2.0] * 50 + [SMALL_RATE / 2] * 10)).probability < 0.1


@pytest.mark.parametrize("rates", [[0.0] * 60, [1e12] * 60, [0.0] * 59 + [1e12], [1e12] * 59 + [0.0]])
def test_it_is_a_probability_whatever_comes(rates: list[float]) -> None:
    forecast = PREDICT(window(rates))
    assert 0.0 <= forecast.probability <= 1.0
    assert np.isfinite(forecast.rate)
    assert forecast.public()["why"]


def test_it_beats_the_climatology_on_recorded_traffic() -> None:
    """Brier score on two hours of NASA's launch day, against always saying the overall share of bursts."""
    trace = nasa_trace()
    counts = trace.counts[trace.row_of("09:00") : trace.row_of("11:00")] * NASA_DEFAULT_SCALE
    said, came = [], []
    for end in range(60, len(counts) - HORIZON_S, 7):
        rates = counts[end - 60 : end]
        said.append(PREDICT(window(rates.tolist())).probability)
        came.append(counts[end : end + HORIZON_S].mean() > FACTOR * max(float(np.median(rates)), SMALL_RATE))
    p, y = np.array(said), np.array(came, float)
    brier, climatology = float(((p - y) ** 2).mean()), float(((y.mean() - y) ** 2).mean())
    print(f"bursts {y.mean():.3f}, brier {brier:.4f}, climatology {climatology:.4f}")
    assert brier < 0.85 * climatology


def test_no_forecast_expects_nothing() -> None:
    forecast = NoPredictor().predict(window([1000.0] * 50 + [9000.0] * 10))
    assert (forecast.probability, forecast.kind, forecast.model) == (0.0, "normal", "none")


def test_quantiles_are_in_order_and_around_the_rate() -> None:
    forecast = PREDICT(window(np.random.default_rng(1).poisson(5000, 60).astype(float).tolist()))
    low, middle, high = forecast.quantiles
    assert low < middle == forecast.rate < high
