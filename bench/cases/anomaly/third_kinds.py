"""A third set of normal series, made after the scorer and never tuned to: ``--generate --kinds third``.

Sets one and two have a value at each row. Here devices send when something happens, leave values out, restart, stand
still for days, or measure in units far from 1.
"""

from collections.abc import Iterator

import numpy as np

from bench.cases.anomaly.kinds import DAY_S, Rng, Series, rounded, times
from bench.cases.anomaly.second_kinds import Made, Values


def spans(m: Made, on_s: float, off_s: float, spread: float = 0.6) -> Values:
    """1 and 0 by turns, for log-normal times with these medians."""
    count = int(2 * m.n * m.step_s / (on_s + off_s)) + 40
    middle = np.resize([off_s, on_s], 2 * count)
    rows = np.maximum(1, np.round(middle * m.rng.lognormal(0, spread, 2 * count) / m.step_s)).astype(int)
    out: Values = np.repeat(np.resize([0.0, 1.0], 2 * count), rows)[: m.n]
    return np.pad(out, (0, m.n - len(out)), mode="edge")


def follow(m: Made, target: Values, seconds: float) -> Values:
    """What a room, a tank or a motor does after its target."""
    from scipy.signal import lfilter

    keep = float(np.exp(-m.step_s / seconds))
    out: Values = lfilter([1 - keep], [1, -keep], target, zi=[keep * target[0]])[0]
    return out


def emptied(m: Made, rate: Values, low: float, high: float) -> Values:
    """A store that empties at ``rate`` (a day) and is filled within an hour below ``low``."""
    out, now, filling = np.empty(m.n), m.rng.uniform(low, high), False
    fill = (high - low) * m.step_s / 3600
    for i in range(m.n):
        filling = now < low if not filling else now < high
        now += fill if filling else -rate[i] * m.step_s / DAY_S
        out[i] = now
    return out


def stores(m: Made) -> Iterator[tuple[str, Values]]:
    """Batteries, tanks, memory."""
    rng = m.rng
    yield "battery_recharged", np.round(emptied(m, m.by_day(8, 25), rng.uniform(10, 30), 100.0))
    yield "tank_litres", rounded(emptied(m, 900 * m.busy(), 300, 1900) + m.noise(2), 1.0)
    yield "fuel_percent", rounded(emptied(m, 40 * spans(m, 5400, 30_000), 15, 95) + m.noise(0.3), 0.5)
    yield "heap_mb", rounded(200 + emptied(m, -900 * (m.busy() + 0.1), -1, 1) % 700 + rng.gamma(2, 15, m.n), 0.01)
    sun = np.maximum(0, np.sin(2 * np.pi * (m.hour / 24 - 0.25))) * m.by_day(0.2, 1)
    charge = np.empty(m.n)
    now = 60.0
    for i in range(m.n):
        now = min(100.0, max(5.0, now + (30 * sun[i] - 7) * m.step_s / 3600))
        charge[i] = now
    yield "charge_percent", rounded(charge, 0.1)
    yield "free_bytes", 2.5e12 - np.floor(np.cumsum(rng.gamma(0.5, 4e7, m.n) * m.step_s / 60) % 9e11)


def events(m: Made) -> Iterator[tuple[str, Values]]:
    """Rain, sessions, counters of a day, people."""
    rng = m.rng
    storm = spans(m, 5000, 1.2 * DAY_S, 1.0)
    yield "rain_gauge", rounded(0.2 * rng.poisson(storm * np.exp(m.slow(1200)) * m.step_s / 120), 0.1)
    yield "rain_total", rounded(0.2 * np.cumsum(rng.poisson(storm * np.exp(m.slow(1200)) * m.step_s / 120)), 0.1)
    since = np.flatnonzero(np.diff((m.t + 7200) // DAY_S, prepend=-1))
    people = np.cumsum(rng.poisson(2 * m.busy() * m.step_s / 60)).astype(float)
    yield "door_count_of_day", people - people[since][np.cumsum(np.isin(np.arange(m.n), since)) - 1]
    yield "lift_trips", 40_000 + np.cumsum(rng.poisson(0.4 * m.busy() * m.step_s / 60)).astype(float)
    kilowatts = rng.choice([7.4, 11.0]) * (1 + m.noise(0.004))
    yield "charger_kw", rounded(spans(m, 10_000, 1.5 * DAY_S, 0.5) * kilowatts, 0.1)
    yield "visitors", rng.poisson(12 * m.busy() * ~np.isin(m.day, rng.integers(3, 14, 2))).astype(float)
    yield "clients", np.round(12 + 25 * m.busy() + m.slow(5000, 3) + m.noise(0.5))
    yield "radiation_cpm", rng.poisson(18, m.n).astype(float)
    yield "job_rows", np.round(m.lasting((np.diff(m.hour > 2.5, prepend=0) > 0) * rng.lognormal(9, 0.5, m.n), 2400))
    speed = spans(m, 1500, 14_000) * np.abs(50 + m.slow(120, 25))
    yield "speed_kmh", np.round(speed)
    yield "odometer_km", rounded(23_000 + np.cumsum(speed) * m.step_s / 3600, 0.1)
    yield "sequence_256", (np.arange(m.n) + 17.0) % 256


def machines(m: Made) -> Iterator[tuple[str, Values]]:
    """Heating, cooling, batches, mains, links."""
    rng = m.rng
    burner = spans(m, 500, 1500, 0.4)
    yield "supply_temperature", rounded(28 + 34 * follow(m, burner, 400) + m.noise(0.1), 0.1)
    yield "burner", burner
    yield "two_levels", np.where(spans(m, 900, 2500, 0.8) > 0, 3.3, 3.2)
    batch = spans(m, 7000, 20_000, 0.4) * (m.weekday < 5)
    yield "oven", rounded(25 + 180 * follow(m, batch, 1500) + m.noise(0.4), 0.1)
    yield "spindle_rpm", np.round(spans(m, 400, 300, 0.7) * (m.weekday < 6) * (m.hour > 6) * (1500 + m.noise(4)))
    yield "mains_volts", rounded(231 + m.slow(9000, 1.5) + 1.2 * spans(m, 9000, 9000) + m.noise(0.4), 0.1)
    yield "mains_hertz", rounded(50 + m.slow(300, 0.018), 0.001)
    yield "snr", rounded(9 + m.slow(7200, 1.5) - 4 * spans(m, 1500, 40_000) + m.noise(1.2), 0.25)
    away = np.isin(m.day, np.arange(8, 11))
    yield "set_point_away", np.where(away, 15.0, np.where((m.hour > 6) & (m.hour < 22), 21.0, 18.0))
    started = np.maximum.accumulate(np.where(m.often(0.25), m.t, m.t[0]))
    yield "uptime_restarts", np.floor(m.t - started)
    warm = np.exp(-(m.t - started) / 900)
    yield "warming_up", rounded(45 - 20 * warm + m.slow(5000, 0.6) + m.noise(0.1), 0.1)
    wash = m.lasting(m.often(0.7).astype(float), 5000) > 0
    load = np.where(rng.random(m.n) < 0.3, 2000, 180) * rng.uniform(0.9, 1.1, m.n)
    yield "washer_watts", rounded(1 + wash * load, 0.1)


def air(m: Made) -> Iterator[tuple[str, Values]]:
    """Air, water, small and large units, values that are left out."""
    rng = m.rng
    outside = 4 + m.slow(2 * DAY_S, 3) + 3 * np.sin(2 * np.pi * (m.hour - 9) / 24) + m.slow(1800, 0.3)
    yield "below_zero", rounded(outside - 18, 0.1)
    yield "pressure_hpa", rounded(1013 + m.slow(2 * DAY_S, 7) + m.noise(0.05), 0.1)
    yield "pm25", rounded(np.exp(2 + m.slow(30_000, 0.6) + m.noise(0.12)) + 40 * spans(m, 1200, 40_000), 0.1)
    yield "multiplied", rounded(np.exp(4 + m.slow(20_000, 0.3)) * np.exp(m.noise(0.3)), 0.01)
    yield "farads", 4.7e-9 * (1 + 0.02 * np.sin(2 * np.pi * m.hour / 24) + m.slow(3000, 0.004) + m.noise(0.001))
    yield "amperes_small", np.round(3.2e-6 * np.exp(m.noise(0.05)) + 8e-6 * spans(m, 120, 3000), 9)
    yield "particles", 1e12 * np.exp(m.slow(40_000, 0.2) + m.noise(0.02))
    room = rounded(21 + m.slow(20_000, 0.6) + m.noise(0.05), 0.1)
    yield "some_missing", np.where(rng.random(m.n) < 0.02, np.nan, room)
    begun = m.day >= 5
    yield "in_use_later", rounded(np.where(begun, 20 + 3 * np.sin(2 * np.pi * m.hour / 24) + m.noise(0.2), 0.0), 0.1)
    yield "stream_m3s", rounded(np.exp(follow(m, 1.5 * storm_of(m), 30_000)) + m.noise(0.02), 0.01)
    yield "day_of_clock", np.floor((m.t + 3600 * (m.day > 8)) % DAY_S)


def storm_of(m: Made) -> Values:
    """1 while it rains."""
    return spans(m, 7000, 1.5 * DAY_S, 0.8)


def irregular(m: Made) -> Iterator[tuple[str, Series]]:
    """Devices that send when something happens."""
    rng, end = m.rng, m.t[-1]
    t = m.t[0] + np.cumsum(rng.exponential(m.step_s, m.n))
    room = Made(rng, t, m.step_s)
    yield "sent_at_random", (t, rounded(21 + room.slow(20_000, 0.5), 0.1))
    value = rounded(21 + m.slow(20_000, 0.8) + m.noise(0.02), 0.1)
    changed = np.diff(value, prepend=0) != 0
    changed |= np.arange(m.n) % max(1, int(3600 / m.step_s)) == 0
    yield "sent_on_change", (m.t[changed], value[changed])
    moving = spans(m, 1800, 12_000)
    where = 48.2 + 0.002 * np.cumsum(moving * m.slow(900, 0.02)) + m.noise(4e-6)
    kept = (moving > 0) | (np.arange(m.n) % 10 == 0)
    yield "tracker", (m.t[kept], rounded(where, 1e-6)[kept])
    visits = m.rng.random(m.n) < np.minimum(0.8, m.busy())
    yield "presses", (m.t[visits], rng.integers(1, 4, m.n)[visits].astype(float))
    asleep = (m.hour < 6) | (m.hour > 22)
    kept = ~asleep & (rng.random(m.n) > 0.02)
    yield "sleeps_at_night", (m.t[kept], rounded(follow(m, 20 + 5 * m.busy(), 3600) + m.noise(0.1), 0.1)[kept])
    kept = np.ones(m.n, bool)
    for at in rng.uniform(m.t[0], end, 6):
        kept &= ~((m.t > at) & (m.t < at + rng.exponential(4000)))
    yield "radio_away", (m.t[kept], rounded(55 + m.slow(15_000, 5) + m.noise(0.3), 0.1)[kept])


def third(rng: Rng, days: float, step_s: float) -> dict[str, Series]:
    """One device of each kind."""
    t = times(rng, days, step_s)
    made = Made(rng, t, step_s)
    regular = {k: (t, np.asarray(x, float)) for family in (stores, events, machines, air) for k, x in family(made)}
    return regular | dict(irregular(made))
