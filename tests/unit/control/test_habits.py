"""False alarms of the forecast: a fleet's own peaks raise one alarm, a herd raises another one."""

import numpy as np
import pytest

from klais.control.cuts import CUT_AT
from klais.control.forecast import FEATURES, TrafficForecast
from klais.control.habits import FOLLOWS_S, HABITUAL, KEPT_S, Habits


def peaks(habits: Habits, height: float, count: int, start_s: float = 0.0, every_s: int = 60) -> int:
    """Alarms that remain of ``count`` peaks of 3 s."""
    seen = 0
    for second in range(count * every_s):
        at = second % every_s < 3
        ratio = height if at else 1.0
        said = habits.look(start_s + second, 0.9 if at else 0.1, ratio, 1.0 + 0.6 * (ratio - 1.0))
        seen += second % every_s == 0 and said >= CUT_AT
    return seen


@pytest.mark.parametrize("every_s", [30, 60, 300])
def test_a_regular_peak_raises_one_alarm_a_day(every_s: int) -> None:
    assert peaks(Habits(), 1.8, 20, every_s=every_s) == 1


def test_peaks_of_changing_height_raise_few() -> None:
    heights, habits = np.random.default_rng(1).uniform(1.5, 2.3, 200), Habits()
    assert 1 <= sum(peaks(habits, float(height), 1, 60.0 * at) for at, height in enumerate(heights)) <= 4


def test_what_rises_above_the_habit_is_an_alarm_at_once() -> None:
    habits = Habits()
    peaks(habits, 1.8, 5)
    said = [habits.look(300.0 + at, 0.9, ratio, ratio / 2) for at, ratio in enumerate((1.5, 1.9, 2.4, 3.0, 2.0))]
    assert said == [HABITUAL, HABITUAL, 0.9, 0.9, 0.9]


def test_a_burst_below_the_height_ends_the_habit() -> None:
    habits = Habits()
    peaks(habits, 2.3, 2)
    assert habits.look(200.0, 0.9, 2.2, 1.5) == HABITUAL
    assert [habits.look(201.0 + at, 0.9, 2.2, 2.1) for at in range(3)] == [0.9] * 3  # it has come: no doubt remains
    for second in range(30):
        habits.look(204.0 + second, 0.1, 1.0, 1.0)
    assert habits.look(300.0, 0.9, 1.8, 1.2) == 0.9


def test_a_burst_above_the_height_leaves_the_habit() -> None:
    habits = Habits()
    peaks(habits, 1.8, 2)
    for second, ratio in enumerate([4.0] * 10 + [1.0] * 30):
        habits.look(200.0 + second, 0.9 if ratio > 1 else 0.1, ratio, ratio)
    assert habits.look(300.0, 0.9, 1.8, 1.2) == HABITUAL


def test_a_habit_is_forgotten_a_day_after_its_last_peak() -> None:
    habits = Habits()
    peaks(habits, 1.8, 2)
    assert peaks(habits, 1.8, 1, KEPT_S - 100.0) == 0
    assert peaks(habits, 1.8, 1, 3 * KEPT_S) == 1


def test_an_alarm_that_lasts_is_one_alarm() -> None:
    habits = Habits()
    assert [habits.look(float(second), 0.9, 1.5, 1.4) for second in range(100)] == [0.9] * 100
    for second in range(int(FOLLOWS_S) + 1):
        habits.look(100.0 + second, 0.1, 1.0, 1.0)
    assert habits.look(200.0, 0.9, 1.5, 1.4) == HABITUAL


def test_the_forecast_says_why_it_is_not_alarmed() -> None:
    habits, rows = Habits(), np.zeros((60, len(FEATURES)))
    rows[:, 0] = 1000.0
    peak = rows.copy()
    peak[-1, 0] = 1800.0
    alarm, calm = TrafficForecast(0.9, 1.0, 1000.0, "x"), TrafficForecast(0.1, 1.0, 1000.0, "x")
    assert habits.of(0.0, alarm, peak) is alarm
    for second in range(1, 20):
        assert habits.of(float(second), calm, rows) is calm
    known = habits.of(60.0, alarm, peak)
    assert known.probability == HABITUAL and known.why == "x; this fleet often rises to 1.8 times its median by itself"
    assert habits.of(61.0, alarm, rows[:0]) is alarm
