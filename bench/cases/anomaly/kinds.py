"""Synthetic telemetry: kinds of normal series, in which every flag is false.

Each kind is a function of a random generator and the times of its rows; :func:`normal` generates all of them for one
device. The caller chooses seeds.
"""

from collections.abc import Iterator

import numpy as np

DAY_S = 86_400.0
EPOCH_S = 1.7e9
Series = tuple[np.ndarray, np.ndarray]
Rng = np.random.Generator


def autoregressive(rng: Rng, n: int, keep: float, deviation: float = 1.0) -> np.ndarray:
    """AR(1) noise whose neighbours correlate by ``keep``."""
    from scipy.signal import lfilter

    noise = rng.normal(size=n) * np.sqrt(1.0 - keep * keep)
    return np.asarray(deviation * lfilter([1.0], [1.0, -keep], noise))


def times(rng: Rng, days: float, step_s: float) -> np.ndarray:
    """Times of a device that sends every ``step_s`` with 1 % of jitter, from a random day on."""
    n = int(days * DAY_S / step_s)
    return EPOCH_S + rng.uniform(0, 7 * DAY_S) + np.arange(n) * step_s + rng.uniform(0, 0.01 * step_s, n)


def of_day(t: np.ndarray, phase: float) -> np.ndarray:
    """A sine of one day."""
    return np.sin(2 * np.pi * (t % DAY_S) / DAY_S + phase)


def rounded(x: np.ndarray, step: float) -> np.ndarray:
    """Values of a sensor with a limited resolution."""
    return np.round(np.round(x / step) * step, 6)


def activity(rng: Rng, t: np.ndarray) -> np.ndarray:
    """Human activity, 0 to about 1, by hour and weekday, each day slightly different."""
    hour, weekday = (t % DAY_S) / 3600, (t // DAY_S + 4) % 7
    shape = np.exp(-(((hour - 9) / 2.5) ** 2)) + np.exp(-(((hour - 19) / 3) ** 2)) * 1.2 + 0.08
    day = (t // DAY_S).astype(int)
    day -= day[0]
    out: np.ndarray = shape * np.where(weekday >= 5, 0.7, 1.0) * rng.lognormal(0, 0.2, day[-1] + 1)[day]
    return out


def climate(rng: Rng, t: np.ndarray, step_s: float) -> Iterator[tuple[str, Series]]:
    """Temperatures, humidity, light, air, rain."""
    n, phase = len(t), rng.uniform(0, 6.28)

    def slow(seconds: float, deviation: float) -> np.ndarray:
        return autoregressive(rng, n, float(np.exp(-step_s / seconds)), deviation)

    plain = rounded(rng.uniform(15, 25) + 4 * of_day(t, phase) + 0.3 * autoregressive(rng, n, 0.95), 0.01)
    yield "temperature", (t, plain)
    yield "humidity", (t, rounded(rng.uniform(40, 60) - 8 * of_day(t, phase) + autoregressive(rng, n, 0.95, 1.5), 0.1))
    weather = 10 + slow(2 * DAY_S, 3.0) + (4 + slow(DAY_S, 1.0)) * of_day(t, phase) + slow(1800, 0.3)
    yield "weather", (t, rounded(weather, 0.1))
    yield "room", (t, rounded(21 + slow(20_000, 0.5), 0.1))
    yield "cold_store", (t, rounded(-18 + slow(40_000, 0.25), 0.5))
    yield "humidity_percent", (t, rounded(45 + slow(15_000, 4.0), 1.0))
    clouds = np.exp(slow(3000, 0.5))
    sun = np.maximum(0, np.sin(2 * np.pi * ((t % DAY_S) / DAY_S - 0.25))) ** 1.2
    yield "light_lux", (t, np.round(sun * 20_000 * clouds))
    fade = np.exp(-np.arange(int(7200 / step_s)) * step_s / 2400)
    people = np.convolve(activity(rng, t), fade, "same") * step_s / 2400
    yield "co2", (t, np.round(420 + 500 * people + 8 * rng.normal(size=n)))
    wet = slow(7200, 1.0) > 1.3
    yield "rain", (t, rounded(np.where(wet, rng.gamma(0.7, 0.4 * step_s / 60, n), 0), 0.2))
    kept = np.ones(n, bool)
    for _ in range(int(t[-1] - t[0]) // int(DAY_S)):
        at = rng.integers(0, n)
        kept[at : at + int(rng.exponential(3 * 3600) / step_s)] = False
    yield "temperature_gaps", (t[kept], plain[kept])


def counters(rng: Rng, t: np.ndarray, step_s: float) -> Iterator[tuple[str, Series]]:
    """Monotonic counters and clocks."""
    n, busy = len(t), activity(rng, t)
    energy = np.cumsum(busy * rng.gamma(1.0, 0.5, n) * step_s / 3600)
    yield "energy_kwh", (t, rounded(rng.uniform(100, 9000) + energy, 0.01))
    yield "uptime", (t, np.floor((t - t[0]) % (7 * DAY_S)))
    yield "bytes_sent", (t, np.floor(np.cumsum(rng.lognormal(6, 1.2, n) * (1 + 4 * busy))))
    yield "clock_ms", (t, np.floor(t * 1000 - rng.gamma(2.0, 20, n)))


def states(rng: Rng, t: np.ndarray, step_s: float) -> Iterator[tuple[str, Series]]:
    """Booleans, states, duty cycles, battery, power."""
    n, busy = len(t), activity(rng, t)
    yield "door", (t, (np.cumsum(rng.random(n) < busy * step_s / 2400) % 2).astype(float))
    yield "motion", (t, (rng.random(n) < np.minimum(0.7, busy * 0.4)).astype(float))
    held = rng.geometric(min(0.5, step_s / 1500), n)
    yield "state", (t, np.repeat(rng.choice([0, 1, 2, 3], n, p=[0.5, 0.3, 0.195, 0.005]), held)[:n].astype(float))
    on = ((t + 300 * np.sin(t / 5000)) % 2700) < 900
    yield "relay_watts", (t, rounded(np.where(on, rng.normal(85, 1.5, n), rng.normal(1.5, 0.1, n)), 0.1))
    yield "battery_volts", (t, rounded(rng.uniform(3, 3.6) + 0.01 * rng.integers(0, 4, n), 0.01))
    used = ((t - t[0]) / DAY_S * 1.7 + rng.uniform(0, 30)) % 60
    yield "battery_percent", (t, np.floor(100 - used + 0.4 * of_day(t, 0.0)))
    wander = autoregressive(rng, n, float(np.exp(-step_s / 30_000)), 2.5)
    yield "rssi", (t, np.round(rng.uniform(-85, -55) + wander + rng.normal(size=n) * 2))
    cooking = (rng.random(n) < busy * step_s / 9000) * rng.uniform(1500, 2200, n)
    cooking = np.convolve(cooking, np.ones(max(1, int(180 / step_s))))[:n]
    base = 120 + 60 * ((t % 3300) < 1200) + 200 * busy
    yield "household_watts", (t, np.round(base + np.minimum(cooking, 4000) + 5 * rng.normal(size=n)))


def movement(rng: Rng, t: np.ndarray, step_s: float) -> Iterator[tuple[str, Series]]:
    """Positions, sizes, intervals."""
    n = len(t)
    yield (
        "gps_static",
        (
            t,
            rounded(48.2 + 1e-5 * autoregressive(rng, n, 0.8) + 6e-6 * rng.standard_t(3, n), 1e-6),
        ),
    )
    weekday, hour = (t // DAY_S + 4) % 7, (t % DAY_S) / 3600
    day = (t // DAY_S).astype(int)
    day -= day[0]
    where = 0.12 + 0.02 * rng.normal(size=day[-1] + 1)[day]
    away = np.clip((hour - 8.2) / 0.6, 0, 1) * np.clip((17.7 - hour) / 0.6, 0, 1) * (weekday < 5)
    yield "gps_vehicle", (t, rounded(48.2 + where * away + 1e-5 * rng.normal(size=n), 1e-6))
    yield "payload_bytes", (t, 40.0 + rng.integers(0, 3, n) + (rng.random(n) < 0.001) * 60)
    interval = intervals(rng, n, step_s)
    yield "interval", (t[0] + np.cumsum(interval), interval)


def intervals(rng: Rng, n: int, step_s: float) -> np.ndarray:
    """Intervals of a device on a network that loses 0.3 % of its frames and delays 1 %."""
    lost = (rng.random(n) < 0.003) * step_s * rng.integers(1, 3, n)
    late = (rng.random(n) < 0.01) * rng.exponential(0.1 * step_s, n)
    return step_s + rng.normal(size=n) * 0.01 * step_s + lost + late


def normal(rng: Rng, days: float, step_s: float) -> dict[str, Series]:
    """One device of each kind."""
    t = times(rng, days, step_s)
    return {name: series for family in (climate, counters, states, movement) for name, series in family(rng, t, step_s)}
