"""Traffic of the runs: herds, overload, a recording, and floods, over a steady fleet (pure; drawn with a seed)."""

import numpy as np

from bench.cases.loop.plant import WINDOW_S, Load
from klais.sim.traffic import nasa_trace
from klais.traffic.fleet import Fleet, Group, Series
from klais.traffic.floods import DEVICE_RATE
from klais.traffic.herds import herd_group

SEED = 5
CALM_S, AFTER_S = WINDOW_S + 20, 40  # before an event, and after it
INTERVAL_S = 30.0  # of the devices of the steady fleet
CAPACITY = 100_000.0  # frames/s of the worker
BUFFERED = 5
HERD_SPREAD_S = 10.0
SENDERS = 40  # devices of the flood
RECORDED_S = 900  # of the recording, around its busiest minute
RECORDED_SHARE = 0.45  # of the capacity: mean rate of the recording


def _load(name: str, groups: list[Group], devices: float, capacity: float = CAPACITY, senders: int = 0) -> Load:
    rng = np.random.default_rng(SEED)
    fleet = Fleet(devices, 1e12, 0.0, groups)
    hostile = fleet.by_cause("attack")
    return Load(name, fleet.by_cause("normal") + fleet.by_cause("herd"), hostile, fleet.rows(rng), capacity, senders)


def _steady(rate: float | Series, seconds: int, rng: np.random.Generator) -> Group:
    """A fleet that sends ``rate`` frames/s with 2 % of noise."""
    level = np.broadcast_to(rate, seconds) * np.exp(rng.normal(0.0, 0.02, seconds))
    frames = rng.poisson(level).astype(np.float64)
    return Group(frames, np.full(seconds, max(10.0, float(np.median(level)) * INTERVAL_S)))


def herd(devices: int, share: float) -> Load:
    """A Beta(3,4) herd over 10 s. The capacity is ``share`` of the peak of all frames: below 1 frames must wait."""
    rng = np.random.default_rng([SEED, devices])
    seconds = CALM_S + int(HERD_SPREAD_S) + AFTER_S
    group, _ = herd_group(float(devices), "beta", HERD_SPREAD_S, BUFFERED, False, CALM_S, seconds, rng)
    calm = _steady(devices / INTERVAL_S, seconds, rng)
    capacity = share * float((group.frames + calm.frames).max())
    return _load(f"herd_{devices}_{share:g}x", [calm, group], devices, capacity)


def busy(name: str, usual: float, more: float) -> Load:
    """A fleet that uses ``usual`` of the capacity; then ``more`` of it for 10 s, from a herd or from the same devices.

    All of it fits, so each frame that waits or is dropped is the controller's doing.
    """
    rng = np.random.default_rng([SEED, 11, int(100 * usual)])
    seconds = CALM_S + int(HERD_SPREAD_S) + AFTER_S
    if name == "herd":
        peak, _ = herd_group(10_000.0, "beta", HERD_SPREAD_S, BUFFERED, False, CALM_S, seconds, rng)
        devices = 10_000.0 * more * CAPACITY / float(peak.frames.max())
        group, _ = herd_group(devices, "beta", HERD_SPREAD_S, BUFFERED, False, CALM_S, seconds, rng)
        groups = [_steady(usual * CAPACITY, seconds, rng), group]
    else:
        at = np.arange(seconds)
        shape = usual + np.where((at >= CALM_S) & (at < CALM_S + HERD_SPREAD_S), more, 0.0)
        groups = [_steady(shape * CAPACITY, seconds, rng)]
    return _load(f"busy_{name}_{usual:g}", groups, float(groups[0].devices[0]))


def overload(factor: float) -> Load:
    """The fleet sends ``factor`` times the capacity for a minute, and 0.3 times before and after."""
    rng = np.random.default_rng([SEED, int(10 * factor)])
    shape = np.concatenate((np.full(CALM_S, 0.3), np.full(60, factor), np.full(AFTER_S, 0.3)))
    calm = _steady(shape * CAPACITY, len(shape), rng)
    return _load(f"overload_{factor:g}x", [calm], float(calm.devices[0]))


def recording() -> Load:
    """Quarter of an hour of NASA's launch day around the busiest minute, each second scaled by the same factor."""
    counts = nasa_trace().counts.astype(np.float64)
    busiest = int(np.convolve(counts, np.ones(60), mode="valid").argmax())
    part = counts[max(0, busiest - RECORDED_S // 2) :][:RECORDED_S]
    rng = np.random.default_rng(SEED)
    return _load("recording", [_steady(part * RECORDED_SHARE * CAPACITY / part.mean(), len(part), rng)], 1e6)


def flood(factor: float) -> Load:
    """Known devices send ``factor`` times the capacity for a minute, over a fleet that uses 0.4 of it."""
    rng = np.random.default_rng([SEED, 7, int(10 * factor)])
    seconds = CALM_S + 60 + AFTER_S
    at = np.arange(seconds)
    frames = np.where((at >= CALM_S) & (at < CALM_S + 60), factor * CAPACITY, 0.0)
    hostile = Group(frames, np.full(seconds, float(SENDERS)), False, cause="attack")
    hostile.limited = np.maximum(0.0, frames - DEVICE_RATE * SENDERS)
    calm = _steady(0.4 * CAPACITY, seconds, rng)
    return _load(f"flood_{factor:g}x", [calm, hostile], float(calm.devices[0]), senders=SENDERS)


def loads(few: bool = False) -> list[Load]:
    """All loads; ``few``: one of each kind."""
    sizes = (10_000,) if few else (1_000, 10_000, 100_000)
    shares = (0.5,) if few else (0.3, 0.6, 1.5)
    out = [herd(devices, share) for devices in sizes for share in shares]
    out += [overload(factor) for factor in ((1.4,) if few else (1.4, 2.0))]
    out += [busy("herd", 0.4, 0.55), busy("surge", 0.4, 0.55)]
    out += [] if few else [busy("herd", 0.7, 0.25), recording()]
    return out + [flood(factor) for factor in ((1.0,) if few else (0.5, 1.0))]
