"""The two tiers on series whose faults are known, and on those that have none."""

import numpy as np
import pytest

from klais.core.anomaly.channel import FULL, LIGHT
from klais.core.anomaly.record import COUNTER, Cause
from klais.core.anomaly.series import rhythm_flags, score_series

N, AT = 4000, 3000
TIERS = pytest.mark.parametrize("tier", ["light", "full"])


def times() -> np.ndarray:
    return 1.7e9 + np.arange(N) * 60.0


def sensor(seed: int = 1) -> np.ndarray:
    """A temperature with a daily wave, steps of 0.01."""
    rng = np.random.default_rng(seed)
    return np.round(20 + 4 * np.sin(2 * np.pi * times() / 86_400) + 0.3 * rng.normal(size=N), 2)


def causes(x: np.ndarray, tier: str) -> list[tuple[int, int]]:
    found = score_series(times(), x, tier)["cause"]  # type: ignore[arg-type]
    return [(int(i), int(found[i])) for i in np.flatnonzero(found)]


@TIERS
def test_an_ordinary_sensor_is_not_flagged(tier: str) -> None:
    assert causes(sensor(), tier) == []


@TIERS
@pytest.mark.parametrize("fault", ["spike", "zeros", "fahrenheit"])
def test_a_fault_is_flagged_at_its_first_row(tier: str, fault: str) -> None:
    x = sensor()
    x[AT : AT + 1 if fault == "spike" else N] = {
        "spike": x[AT] + 6, "zeros": 0.0, "fahrenheit": np.round(x[AT:] * 1.8 + 32, 2)
    }[fault]  # fmt: skip
    found = causes(x, tier)
    assert found[0][0] == AT and len(found) <= 3


@TIERS
def test_a_sensor_that_stops_changing_is_stuck(tier: str) -> None:
    x = sensor()
    x[AT:] = x[AT]
    at, cause = causes(x, tier)[0]
    assert AT < at < AT + 60 and cause == Cause.STUCK


@TIERS
def test_a_constant_may_move_by_one_step_and_not_by_a_thousand(tier: str) -> None:
    x = np.full(N, 21.5)
    x[AT:] = 21.6
    assert causes(x, tier) == []
    x[AT:] = 121.5
    assert [at for at, _ in causes(x, tier)] == [AT]


@TIERS
def test_a_counter_is_judged_by_its_rate(tier: str) -> None:
    rng = np.random.default_rng(3)
    x = np.cumsum(rng.integers(1, 5, N)).astype(float)
    assert causes(x, tier) == []
    x[AT:] += 1e6
    at, cause = causes(x, tier)[0]
    assert at == AT and cause & COUNTER
    x[AT:] = x[AT - 1]
    at, cause = causes(x, tier)[0]
    assert at > AT and cause == Cause.STUCK | COUNTER
    x[AT:] = np.cumsum(rng.integers(1, 5, N - AT))  # it begins again at 0
    assert causes(x, tier) == []


@TIERS
def test_what_is_no_number_is_passed_over(tier: str) -> None:
    x = sensor()
    clean = score_series(np.delete(times(), [7, 2000]), np.delete(x, [7, 2000]), tier)  # type: ignore[arg-type]
    x[7], x[2000] = np.nan, np.inf
    found = score_series(times(), x, tier)  # type: ignore[arg-type]
    assert found["score"][7] == found["score"][2000] == 0
    assert np.array_equal(np.delete(found["score"], [7, 2000]), clean["score"])


@TIERS
def test_a_habit_is_told_once(tier: str) -> None:
    x = sensor()
    x[AT::100] += 6
    assert len(causes(x, tier)) <= 2


def test_the_state_has_the_size_that_the_documents_name() -> None:
    assert (LIGHT.itemsize, FULL.itemsize) == (264, 1384)
    for dtype in (LIGHT, FULL):
        assert sum(dtype[name].itemsize for name in dtype.names or ()) == dtype.itemsize  # no padding to save


def test_rhythm() -> None:
    rng = np.random.default_rng(2)
    steady = 60 + rng.normal(size=2000) * 0.6
    steady[rng.random(2000) < 0.003] *= 2  # losses
    assert not rhythm_flags(np.cumsum(steady)).any()
    for factor in (3.0, 1 / 3):
        interval = steady.copy()
        interval[1500:] *= factor
        found = rhythm_flags(np.cumsum(interval))
        assert np.flatnonzero(found)[0] in range(1500, 1504) and set(found) == {0, Cause.INTERVAL}
    silent = steady.copy()
    silent[1500] = 7200
    assert rhythm_flags(np.cumsum(silent))[1500] == Cause.SILENCE
    assert np.count_nonzero(rhythm_flags(np.cumsum(silent))) == 1


def of_two_weeks() -> np.ndarray:
    """Times at which a device sends every minute, from noon on."""
    return 1.7e9 - 1.7e9 % 86_400 + 43_200 + np.arange(14 * 1440) * 60.0


@TIERS
def test_a_value_that_rests_at_an_end_of_its_range_is_not_stuck(tier: str) -> None:
    t, rng = of_two_weeks(), np.random.default_rng(7)
    sun = np.round(900 * np.maximum(0, np.sin(2 * np.pi * t / 86_400 - np.pi / 2)) * rng.uniform(0.8, 1, len(t)))
    wander = np.convolve(rng.normal(size=len(t) + 499), np.exp(-np.arange(500) / 30), "valid")
    for x in (sun, np.round(np.clip(35 + 8 * wander, 0, 100))):
        for begin in (0, 200, 400):
            found = score_series(t[begin:], x[begin:], tier)["cause"]  # type: ignore[arg-type]
            assert Cause.STUCK not in found
    x[9 * 1440 :] = 35.0  # in the middle it does not rest
    assert Cause.STUCK in score_series(t, x, tier)["cause"]  # type: ignore[arg-type]


@TIERS
def test_a_series_whose_tail_is_long_is_not_flagged_at_each_record(tier: str) -> None:
    t, flags = of_two_weeks(), 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        for x in (100 + 2 * rng.standard_t(3, len(t)), np.exp(3 + 0.9 * rng.normal(size=len(t)))):
            flags += np.count_nonzero(score_series(t, np.round(x, 2), tier)["cause"])  # type: ignore[arg-type]
    assert flags <= 1.6 * 12  # as many as series with one flag each, and some with two


@TIERS
def test_a_young_series_needs_more_to_be_flagged(tier: str) -> None:
    t, rng = of_two_weeks(), np.random.default_rng(8)
    for minutes, flagged in ((300, False), (10 * 1440, True)):
        x = np.round(20 + 0.3 * rng.normal(size=len(t)), 2)
        x[minutes:] += 5.0
        found = score_series(t, x, tier)["cause"][minutes : minutes + 5]  # type: ignore[arg-type]
        assert found.any() == flagged
        x[minutes:] += 100.0
        assert score_series(t, x, tier)["cause"][minutes]  # type: ignore[arg-type]


def day(kind: str, seed: int) -> np.ndarray:
    """Two weeks of a value of some kind."""
    t, rng = of_two_weeks(), np.random.default_rng(seed)
    wave = np.sin(2 * np.pi * t / 86_400)
    return {
        "white": np.round(4 + 0.02 * wave + 0.05 * rng.normal(size=len(t)), 3),
        "louder by day": np.round(50 + (1.5 + wave) * rng.normal(size=len(t)), 2),
        "mostly zero": np.where(rng.random(len(t)) < 0.02, rng.gamma(2, 10, len(t)).round(1), 0.0),
    }[kind]


@pytest.mark.parametrize("kind", ["white", "louder by day", "mostly zero"])
def test_noise_is_told_where_an_hour_is_wilder_than_all_of_the_last_week(kind: str) -> None:
    t, rng, begin = of_two_weeks(), np.random.default_rng(4), 9 * 1440
    for seed in range(4):
        x = day(kind, seed)
        assert Cause.NOISE not in score_series(t, x)["cause"]
        x[begin:] += np.round(5 * np.std(np.diff(x[:begin])) / np.sqrt(2) * rng.normal(size=len(x) - begin), 3)
        found = score_series(t, x)
        flagged_at = np.flatnonzero(found["cause"][begin:])
        assert len(flagged_at) and flagged_at[0] <= 120, "within two hours, by whatever cause"
        for i in np.flatnonzero(found["cause"] == Cause.NOISE):
            assert found["scale"][i] > 1.8 * found["expected"][i] > 0, "steps of the hour, and of the wildest before"


def test_noise_below_what_a_row_may_be_is_told_by_its_hour() -> None:
    t, x, begin = of_two_weeks(), day("white", 1), 9 * 1440
    x[begin:] = np.round(4 + 0.15 * np.random.default_rng(2).normal(size=len(x) - begin), 3)
    found = score_series(t, x)["cause"]
    assert Cause.NOISE in found[begin : begin + 121] and np.count_nonzero(found[begin : begin + 1440]) == 1


def test_what_was_flagged_is_not_told_again_as_a_drift() -> None:
    t, rng = of_two_weeks(), np.random.default_rng(3)
    begun = 20 + 3 * np.sin(2 * np.pi * t / 86_400) + 0.2 * rng.normal(size=len(t))
    x = np.where(np.arange(len(t)) < 5 * 1440, 0.0, begun)
    assert np.count_nonzero(score_series(t, np.round(x, 1))["cause"]) <= 1


def wandering(seed: int) -> np.ndarray:
    """Two weeks of a daily wave with noise that keeps its sign for 20 rows or so, deviation 0.3."""
    t, rng = of_two_weeks(), np.random.default_rng(seed)
    noise = np.convolve(rng.normal(size=len(t) + 199), 0.95 ** np.arange(200), "valid") * np.sqrt(1 - 0.95**2)
    return 20 + 4 * np.sin(2 * np.pi * t / 86_400) + 0.3 * noise


@TIERS
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("begin", [9 * 1440, 10 * 1440 + 700])
def test_a_drift_of_ten_deviations_in_half_a_day_is_told_once(tier: str, sign: int, begin: int) -> None:
    t = of_two_weeks()
    for seed in range(4):
        x = wandering(seed)
        assert Cause.DRIFT not in score_series(t, np.round(x, 2), tier)["cause"]  # type: ignore[arg-type]
        x[begin:] += sign * 3.0 * np.minimum(1.0, np.arange(len(x) - begin) / 720)
        found = score_series(t, np.round(x, 2), tier)  # type: ignore[arg-type]
        flagged_at = np.flatnonzero(found["cause"][begin : begin + 1440]) + begin
        assert len(flagged_at) == 1 and found["cause"][flagged_at[0]] == Cause.DRIFT
        flag = found[flagged_at[0]]
        assert abs(x[flagged_at[0]] - flag["expected"]) > flag["scale"] > 0, "the largest distance of the days before"


@TIERS
def test_a_drift_of_the_first_days_must_be_larger(tier: str) -> None:
    t, begin = of_two_weeks(), 5 * 1440 + 700
    for size, told in ((0.9, False), (6.0, True)):
        x = wandering(1)
        x[begin:] += size * np.minimum(1.0, np.arange(len(x) - begin) / 720)
        found = score_series(t, np.round(x, 2), tier)["cause"][begin : begin + 1440]  # type: ignore[arg-type]
        assert (Cause.DRIFT in found) == told


@TIERS
def test_the_first_weekend_of_an_office_is_no_drift(tier: str) -> None:
    monday = 1.7e9 - 1.7e9 % 86_400 + 6 * 86_400
    t = monday + np.arange(14 * 1440) * 60.0
    busy = ((t // 86_400 + 4) % 7 < 5) & (t % 86_400 > 8 * 3600) & (t % 86_400 < 18 * 3600)
    for seed in range(4):
        x = np.round(20 + 2 * busy + 0.5 * np.random.default_rng(seed).normal(size=len(t)), 2)
        assert Cause.DRIFT not in score_series(t, x, tier)["cause"]  # type: ignore[arg-type]


@TIERS
def test_a_counter_that_counts_four_times_as_fast_is_told(tier: str) -> None:
    t, begin = of_two_weeks(), 9 * 1440
    for seed in range(6):
        rng = np.random.default_rng(seed)
        by_day = np.repeat(rng.uniform(0.8, 1.2, 15), 1440)[: len(t)]
        rate = (0.08 + np.maximum(0.0, np.sin(2 * np.pi * t / 86_400))) * by_day * rng.gamma(1.0, 0.5, len(t)) / 60
        x = np.round(np.cumsum(rate), 2)
        assert Cause.DRIFT | COUNTER not in score_series(t, x, tier)["cause"]  # type: ignore[arg-type]
        rate[begin:] *= 4
        x = np.round(np.cumsum(rate), 2)
        found = score_series(t, x, tier)["cause"][begin : begin + 1440]  # type: ignore[arg-type]
        assert found.any() and set(found[found > 0] & ~(COUNTER - 1)) == {COUNTER}


@TIERS
def test_a_counter_that_restarts_at_midnight_keeps_its_days(tier: str) -> None:
    """The first row of each day is the restart, which has no rate."""
    t = of_two_weeks()
    for seed in range(4):
        rng = np.random.default_rng(seed)
        rate = (1.2 + np.sin(2 * np.pi * t / 86_400)) * rng.uniform(0.9, 1.1, 15)[((t - t[0]) // 86_400).astype(int)]
        total = np.cumsum(rng.poisson(rate * 20))
        midnight = np.maximum.accumulate(np.where(np.r_[True, np.diff(t // 86_400) > 0], np.arange(len(t)), 0))
        x = (total - total[midnight]).astype(float)
        assert Cause.DRIFT | COUNTER not in score_series(t, x, tier)["cause"]  # type: ignore[arg-type]


@TIERS
@pytest.mark.parametrize(
    ("offset", "size"), [(4.7e-9, 1e-11), (48.2, 1e-3), (1013.0, 0.05), (-3e12, 1e9), (0.0, 1e-15)]
)
def test_a_fault_is_as_clear_in_any_unit_and_far_from_zero(tier: str, offset: float, size: float) -> None:
    x = offset + size * np.random.default_rng(6).normal(size=N)
    assert causes(x, tier) == []
    x[AT] += 30 * size
    assert [at for at, _ in causes(x, tier)] == [AT]


def test_the_first_night_that_a_device_sleeps_is_no_silence() -> None:
    t = of_two_weeks()
    awake = t[(t % 86_400 > 6 * 3600) & (t % 86_400 < 22 * 3600)]
    assert not rhythm_flags(awake).any()
    away = awake[(awake < awake[0] + 9 * 86_400) | (awake > awake[0] + 11 * 86_400)]
    assert np.count_nonzero(rhythm_flags(away) == Cause.SILENCE) == 1


@TIERS
def test_zeros_of_a_value_that_was_never_near_zero_are_flagged_once(tier: str) -> None:
    t, rng = of_two_weeks(), np.random.default_rng(9)
    load = np.round(np.where(rng.random(len(t)) < 0.3, 2000.0, 180.0) * rng.uniform(0.9, 1.1, len(t)), 1)
    load[12_000:12_030] = load[15_000:15_030] = 0.0
    found = score_series(t, load, tier)["cause"]  # type: ignore[arg-type]
    assert np.flatnonzero(found).tolist() == [12_002] and found[12_002] == Cause.RARE


@TIERS
def test_the_first_calm_of_a_wind_is_no_broken_sensor(tier: str) -> None:
    t, rng = of_two_weeks(), np.random.default_rng(4)
    wind = np.maximum(0.1, np.round(8 + 6 * np.sin(t / 86_400) + rng.normal(0, 2, len(t)), 1))
    wind[12_000:12_030] = 0.1
    wind[15_000:15_010] = 0.0
    found = score_series(t, wind, tier)["cause"]  # type: ignore[arg-type]
    assert Cause.RARE not in found[15_000:15_010]


@TIERS
def test_a_value_far_outside_its_range_is_flagged_whatever_the_series(tier: str) -> None:
    t, rng = of_two_weeks(), np.random.default_rng(5)
    door = (rng.random(len(t)) < 0.1).astype(float)
    switched = np.where(rng.random(len(t)) < 0.3, 2000.0, 180.0)
    for series, far in (door, 3.0), (door, -3.0), (switched, 9000.0):
        x = series.copy()
        x[15_000] = far
        found = score_series(t, x, tier)["cause"]  # type: ignore[arg-type]
        assert found[15_000] and np.count_nonzero(found) == 1


@TIERS
def test_a_setting_that_is_changed_for_the_first_time_is_no_fault(tier: str) -> None:
    t = of_two_weeks()
    set_point = np.where(np.arange(len(t)) < 12_000, 21.0, 24.0)
    assert np.count_nonzero(score_series(t, set_point, tier)["cause"] == Cause.RARE) == 0  # type: ignore[arg-type]


@TIERS
@pytest.mark.parametrize(("low", "high", "value"), [(180.0, 2000.0, 0.0), (0.0, 1.0, 3.0)])
def test_the_deviation_of_a_flag_without_a_view_is_score_times_scale(
    tier: str, low: float, high: float, value: float
) -> None:
    t, rng = of_two_weeks(), np.random.default_rng(5)
    x = np.where(rng.random(len(t)) < 0.1, high, low)
    x[15_000:15_003] = value
    found = score_series(t, x, tier)  # type: ignore[arg-type]
    flag = found[15_000:15_003][found["cause"][15_000:15_003] == Cause.RARE][0]
    assert flag["score"] * flag["scale"] == pytest.approx(abs(value - flag["expected"]), rel=1e-3)


@TIERS
def test_a_time_of_the_day_is_named_only_if_it_is_known(tier: str) -> None:
    x = 20 + 0.3 * np.random.default_rng(0).normal(size=N)
    x[600] += 8.0  # after ten hours
    assert causes(x, tier) == [(600, Cause.LEVEL)]
