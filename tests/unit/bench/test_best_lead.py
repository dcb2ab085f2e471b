"""The best possible lead before a herd's peak is a bound, and it is not loose."""

import pytest

from bench.cases.best_lead import best_lead


def leads(devices: int, spread_s: float, step_s: float) -> list[float]:
    found = [best_lead(devices, spread_s, 5, False, seed, step_s) for seed in range(6)]
    return [lead for lead in found if lead is not None]


@pytest.mark.parametrize("spread_s", [10.0, 30.0])
def test_no_lead_is_longer_than_the_time_from_the_first_device_to_the_peak(spread_s: float) -> None:
    """Beta(3,4) has its mode at two fifths; the busiest second of a drawn herd may be somewhat later."""
    for devices in (1_000, 20_000):
        found = leads(devices, spread_s, 0.25)
        assert len(found) == 6, "the oracle finds each of these herds before its peak"
        assert 0.2 * spread_s < sum(found) / len(found) < 0.4 * spread_s + 0.5


def test_a_larger_herd_and_more_frequent_reports_give_the_oracle_more_time() -> None:
    def mean(devices: int, step_s: float) -> float:
        return sum(leads(devices, 20.0, step_s)) / 6

    assert mean(30_000, 1.0) > mean(1_000, 1.0) and mean(1_000, 0.25) > mean(1_000, 1.0)
