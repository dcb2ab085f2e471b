"""A second set of normal series that was not used in development: ``--generate --kinds second``.

They are harsher than the first set: heavy tails, patterns that begin after days, values that stay at an end of their
range, hours that shift, counters that restart.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.cases.anomaly.kinds import DAY_S, Rng, Series, autoregressive, rounded, times

Values = npt.NDArray[Any]


class Made:
    """Shared by the kinds: a generator, times, and shorthands for them."""

    def __init__(self, rng: Rng, t: Values, step_s: float) -> None:
        self.rng, self.t, self.step_s, self.n = rng, t, step_s, len(t)
        self.hour, self.weekday = (t % DAY_S) / 3600, (t // DAY_S + 4) % 7
        self.day = (t // DAY_S).astype(int) - int(t[0] // DAY_S)

    def slow(self, seconds: float, deviation: float = 1.0) -> Values:
        """Noise with that correlation time."""
        return autoregressive(self.rng, self.n, float(np.exp(-self.step_s / seconds)), deviation)

    def noise(self, deviation: float = 1.0) -> Values:
        """Independent noise."""
        return deviation * self.rng.normal(size=self.n)

    def by_day(self, low: float, high: float) -> Values:
        """A number for each day."""
        out: Values = self.rng.uniform(low, high, self.day[-1] + 1)[self.day]
        return out

    def busy(self) -> Values:
        """Human activity, 0 to about 1."""
        shape = np.exp(-(((self.hour - 10) / 3) ** 2)) + 0.8 * np.exp(-(((self.hour - 17) / 2.5) ** 2)) + 0.03
        out: Values = shape * np.where(self.weekday >= 5, 0.3, 1.0) * self.by_day(0.85, 1.2)
        return out

    def held(self, mean_s: float, levels: Values) -> Values:
        """Levels held for exponential times."""
        count = int(4 * self.n * self.step_s / mean_s) + 20
        rows = np.maximum(1, np.round(self.rng.exponential(mean_s, count) / self.step_s)).astype(int)
        out: Values = np.repeat(np.resize(levels, count), rows)[: self.n]
        return np.pad(out, (0, self.n - len(out)), mode="edge")

    def often(self, a_day: float) -> npt.NDArray[np.bool_]:
        """Rows of an event with that rate."""
        return self.rng.random(self.n) < a_day * self.step_s / DAY_S

    def lasting(self, begun: Values, seconds: float) -> Values:
        """Each of ``begun`` lasts for a while."""
        return np.convolve(begun, np.ones(max(1, int(seconds / self.step_s))))[: self.n]


def states(m: Made) -> Iterator[tuple[str, Values]]:
    """Duty cycles, levels, set points, batteries."""
    rng = m.rng
    yield "square_wave", np.where(m.t % 2700 < 2700 * rng.uniform(0.2, 0.8), 1500.0, 0.0)
    on = np.ravel(np.column_stack((rng.gamma(4, 150, m.n // 4), rng.gamma(2, 600, m.n // 4))))
    pump = np.repeat(np.resize([1.0, 0.0], len(on)), np.maximum(1, np.round(on / m.step_s)).astype(int))[: m.n]
    yield "pump_watts", rounded(np.where(pump > 0, 750 + m.noise(8), 1.2 + m.noise(0.1)), 0.1)
    yield (
        "modes",
        rounded(m.held(2400, rng.choice([20, 45, 70, 95], 997, p=[0.5, 0.3, 0.19, 0.01])) + m.noise(1.5), 0.1),
    )
    phase = m.t / DAY_S * rng.uniform(0.7, 1.5) % 1
    yield "battery_cycle", np.floor(np.where(phase < 0.85, 100 - 94 * phase, 20 + 533 * (phase - 0.85)))
    yield "rare_levels", rng.choice([0.0, 1.0, 2.0, 3.0, 4.0], m.n, p=[0.9, 0.08, 0.017, 0.0025, 0.0005])
    yield "floor", m.held(240, rng.integers(0, 9, 997).astype(float))
    work = np.where(((m.hour > 6.5) & (m.hour < 8.5)) | ((m.hour > 16.5) & (m.hour < 22.5)), 21.0, 17.0)
    yield "set_point", work + m.lasting(m.often(0.8).astype(float), 5400)
    yield "setting_that_moves", 21.5 + 0.5 * (np.cumsum(m.often(1.5)) % 2)
    yield "constant", np.full(m.n, 42.0)
    yield "minute", np.floor(m.t / 60) % 60
    yield "two_by_turns", rounded(np.where(np.arange(m.n) % 2 == 0, 21.0, 54.0) + m.noise(0.1), 0.1)


def counts(m: Made) -> Iterator[tuple[str, Values]]:
    """Counters that restart, bursts, queues, events."""
    rng = m.rng
    yield "bursty_counter", np.cumsum(np.floor(20 * rng.pareto(1.8, m.n) * (1 + 3 * m.busy())))
    total = np.cumsum(rng.poisson(3 * m.step_s / 60 * (m.busy() + 0.1))).astype(float)
    begin = np.flatnonzero(np.diff(m.day, prepend=-1))
    yield "counter_of_the_day", total - total[begin][m.day]
    yield "counter_16_bit", np.floor(np.cumsum(rng.gamma(2, 30, m.n) * m.step_s / 60)) % 65_536
    yield "counter_rare", 1000.0 + np.cumsum(m.often(3))
    yield "poisson", rng.poisson(3, m.n).astype(float)
    yield "poisson_by_hour", rng.poisson(20 * m.busy() * m.step_s / 60 + 0.05).astype(float)
    yield "mostly_zero", rounded(np.where(rng.random(m.n) < 0.02, rng.gamma(2, 10, m.n), 0), 0.1)
    yield "zero_at_night", rounded(np.where(rng.random(m.n) < 0.05 * m.busy(), rng.lognormal(2, 0.8, m.n), 0), 0.1)
    yield "queue", np.floor(np.maximum(0, 4 * np.exp(1.5 * (m.slow(3600) - 1.2)) - 3))
    yield "errors", np.where(rng.random(m.n) < 0.004, rng.geometric(0.5, m.n), 0).astype(float)
    yield "latency", rounded(np.exp(3 + m.noise(0.9)), 0.01)
    yield "latency_tail", rounded(5 * (1 + rng.pareto(2.5, m.n)), 0.01)
    yield "student", rounded(100 + 2 * rng.standard_t(3, m.n), 0.01)
    flow = m.lasting((rng.random(m.n) < 2.2 * m.busy() * m.step_s / 3600) * rng.uniform(2, 12, m.n), 300)
    yield "water_flow", rounded(flow, 0.1)
    yield "water_meter", rounded(500 + np.cumsum(flow) * m.step_s / 60_000, 0.001)


def nature(m: Made) -> Iterator[tuple[str, Values]]:
    """Weather, soil, sea, air, positions."""
    from scipy.signal import lfilter

    rng, t = m.rng, m.t
    wander = np.cumsum(m.noise(0.02 * np.sqrt(m.step_s)))
    yield "reflected_walk", rounded(np.abs((wander + 40_000) % 80 - 40), 0.1)
    yield "slow_variance", rounded(50 + np.exp(m.slow(21_600, 0.7)) * m.noise(), 0.01)
    sun = np.maximum(0, np.sin(2 * np.pi * (m.hour / 24 - 0.25)))
    yield "flat_at_night", rounded(12 + 9 * sun * m.by_day(0.6, 1.1) + m.noise(0.05), 0.1)
    yield "wind", rounded(4 * np.exp(m.slow(18_000, 0.5) + m.noise(0.25)), 0.1)
    yield "wind_direction", np.round((220 + m.slow(14_400, 60) + m.noise(12)) % 360)
    yield "solar_watts", np.round(4500 * sun / (1 + np.exp(-3 * m.slow(2400) + m.by_day(-1, 3))))
    rain, keep = m.often(0.35) * rng.uniform(5, 14, m.n), float(np.exp(-m.step_s / (2.5 * DAY_S)))
    wet = lfilter([1.0], [1.0, -keep], rain)
    yield "soil", rounded(18 + wet + m.noise(0.1), 0.1)
    spring = 1 + 0.35 * np.cos(2 * np.pi * t / (14.77 * DAY_S))
    yield "tide", rounded(2 * np.cos(2 * np.pi * t / 44_714) * spring + m.slow(DAY_S, 0.15) + m.noise(0.02), 0.01)
    yield "ph", rounded(7.2 + m.slow(DAY_S / 3, 0.08) + m.noise(0.01), 0.01)
    trip = np.clip((m.hour - 7) / 0.5, 0, 1) * np.clip((19 - m.hour) / 0.5, 0, 1) * (m.weekday < 6)
    yield "delivery", rounded(52.5 + 0.05 * trip * np.sin(t / rng.uniform(1500, 3000)) + m.noise(4e-6), 1e-6)
    yield "random_number", rng.integers(0, 1000, m.n).astype(float)


def houses(m: Made) -> Iterator[tuple[str, Values]]:
    """Offices, machines, people."""
    rng, hour = m.rng, m.hour
    days = m.day[-1] + 1
    holiday = np.isin(m.day, rng.integers(min(5, days - 1), days, 1))
    work = np.clip(hour - 7.5, 0, 1) * np.clip((18 - hour) / 1.5, 0, 1) * (m.weekday < 5) * ~holiday
    yield "office_holiday", rounded(8 + 40 * work * m.by_day(0.9, 1.1) + m.slow(300, 1.2), 0.1)
    summer = np.where(m.t > m.t[0] + 0.6 * (m.t[-1] - m.t[0]), m.t - 3600, m.t) % DAY_S / 3600
    yield "clock_change", np.where((summer > 6) & (summer < 22), 21.0, 17.0)
    home = np.clip(np.minimum((summer - 6) / 2, (23 - summer) / 3), 0, 1)
    yield "clock_change_room", rounded(19 + 2.5 * home + m.slow(2000, 0.15), 0.1)
    cron = 55 * (m.t % 3600 < max(m.step_s, 90)) + 35 * ((hour > 2) & (hour < 2.4))
    yield "cpu_percent", rounded(np.clip(6 + m.slow(200, 1.5) + cron, 0, 100), 0.1)
    yield "disk_percent", rounded(60 + (m.t - m.t[0]) / DAY_S * 4 % 25 + m.slow(7200, 0.1), 0.1)
    shift = (m.weekday < 5) & (((hour > 6) & (hour < 14)) | ((hour > 14.5) & (hour < 22)))
    yield "vibration", rounded(np.where(shift, 2.8 * np.exp(m.noise(0.2)), 0.05 * np.exp(m.noise(0.2))), 0.01)
    yield "sound", rounded(38 + 14 * np.minimum(1, m.busy()) + rng.gamma(1.5, 2.5, m.n), 0.1)
    sport = 55.0 * (m.lasting(m.often(0.8).astype(float), 2400) > 0) * (hour > 7) * (hour < 23)
    pulse = np.where((hour > 23) | (hour < 7), 54, 72) + m.slow(900, 5) + sport
    yield "pulse", np.round(pulse + m.noise(2))
    yield "valve_percent", np.round(np.clip(35 + m.slow(1800, 30), 0, 100))
    yield "throughput", rounded(m.held(7200, np.exp(rng.normal(4, 0.8, 997))) * np.exp(m.noise(0.1)), 0.1)


def second(rng: Rng, days: float, step_s: float) -> dict[str, Series]:
    """One device of each kind."""
    t = times(rng, days, step_s)
    made = Made(rng, t, step_s)
    return {name: (t, np.asarray(x, float)) for family in (states, counts, nature, houses) for name, x in family(made)}
