"""Devices that reconnect, for the scenarios: after 3GPP TR 37.868, with or without back-off, with or without outage."""

import numpy as np

from klais.sim.herd import BETA
from klais.traffic.fleet import Group, Series

HELD_OUT_HERD = "exponential"  # arrivals that training does not use
SAMPLE = 4000  # devices whose arrivals are drawn; a larger herd is scaled

Rng = np.random.Generator


def arrival_seconds(model: str, spread_s: float, devices: int, rng: Rng) -> Series:
    """Arrival time of each device (s after the earliest possible one), float64 [devices]."""
    if model == "beta":
        return rng.beta(*BETA, devices) * spread_s
    if model == "exponential":
        return np.minimum(rng.exponential(spread_s / 3.0, devices), 2.0 * spread_s)
    return rng.random(devices) * spread_s


def frame_times(
    devices: int, model: str, spread_s: float, buffered: int, back_off: bool, rng: Rng
) -> tuple[Series, Series]:
    """When each device is back, float64 [devices], and when it sends its frames, float64 [devices, buffered] (s)."""
    start = arrival_seconds(model, spread_s, devices, rng)
    if not back_off:
        return start, np.repeat(start[:, None], buffered, axis=1)
    waits = rng.random((devices, buffered)) * np.minimum(10.0, 0.1 * 2.0 ** np.arange(buffered))
    waits[:, 0] = rng.random(devices) * 10.0
    return start, start[:, None] + np.cumsum(waits, axis=1)


def herd_group(
    devices: float, model: str, spread_s: float, buffered: int, back_off: bool, onset: int, length: int, rng: Rng
) -> tuple[Group, Series]:
    """The frames of a herd, and the number of devices that are back in each second."""
    sample = int(min(devices, SAMPLE))
    factor = float(devices / sample)
    start, at = frame_times(sample, model, spread_s, buffered, back_off, rng)
    if back_off:
        second = (onset + at).astype(int).clip(0, 10 * length)
        of_second = np.bincount(second.ravel()[second.ravel() < length], minlength=length)
        frames: Series = of_second.astype(np.float64) * factor
        sending = frames / min(buffered, 1.5)
        first = np.bincount(second[:, 0].clip(0, length - 1), minlength=length)
        back: Series = first.astype(np.float64) * factor  # its first frame shows that it is back
    else:
        counts = np.bincount((onset + start).astype(int).clip(0, length - 1), minlength=length)
        back = counts.astype(np.float64) * factor
        frames, sending = back * buffered, back
    frames = np.where(frames > 0, frames * np.exp(rng.normal(0, 0.02, length)), 0.0)
    return Group(frames, np.maximum(sending, 1e-9), mixed=False, cause="herd"), back


def draw_herd(calm: Group, onset: int, rng: Rng, only_outage: bool, model: str | None, test: bool) -> list[Group]:
    """A herd of any kind on the base ``calm`` (changed in place: its devices are silent before), or only an outage.

    ``model``: the only model to use. Without one: Beta(3,4) over 10 s or longer, or uniform over 20 to 60 s.
    """
    length, fleet = len(calm.frames), float(calm.devices[0])
    share = rng.uniform(0.25, 1.0)
    outside = not only_outage and rng.random() < 0.4  # 300 to 300,000 devices that are not in the steady traffic
    devices = np.exp(rng.uniform(np.log(300), np.log(300_000))) if outside else max(300.0, fleet * share)
    devices *= 1.21 if test else 1.0
    away = not outside and _silence(calm, share, onset, rng, only_outage)
    if only_outage:
        return []
    model = model or str(rng.choice(("beta", "beta", "uniform")))
    spread_s = float(rng.choice((10.0, 10.0, rng.uniform(8, 40)))) if model == "beta" else rng.uniform(20, 60)
    buffered = int(rng.choice((1, 2, 5, 10, 20))) if not test else int(rng.choice((1, 3, 5, 8, 14)))
    minimum = 0.6 * calm.frames[max(0, onset - 30) : onset].mean() * spread_s  # a smaller herd is not visible
    devices = min(max(devices, minimum / buffered), 3e5) if rng.random() < 0.8 else devices
    # A roll-out of unknown devices. With one frame each they look like spoofed ids.
    fresh = float(rng.choice((0.0, 0.0, 0.0, rng.uniform(0, 0.3), 1.0 if buffered > 2 else 0.0)))
    lost_power = float(rng.choice((0.0, rng.uniform(0.3, 1.0))))  # their counters restart
    if buffered == 1 and (not away or lost_power > 0.0):  # spoofed ids also send one frame each
        buffered = 2
    group, back = herd_group(devices, model, spread_s, buffered, rng.random() < 0.35, onset, length, rng)
    group.size, group.size_sd = calm.size * float(rng.choice((1.0, 1.0, rng.uniform(0.8, 1.3)))), calm.size_sd
    group.new, group.resets = back * fresh, back * lost_power * (1.0 - fresh)
    group.duplicates = group.frames * float(
        rng.choice((0.0, 0.0, rng.uniform(0, 0.2)))
    )  # sent again without a response
    return [group]


def _silence(calm: Group, share: float, onset: int, rng: Rng, slow: bool) -> bool:
    """Part of the steady devices is absent before ``onset`` and returns slowly (``slow``) or with the herd.

    Returns whether any was absent.
    """
    seconds, away = np.arange(len(calm.frames)), int(rng.choice((0, int(rng.integers(5, 55)))))
    if slow:
        away = int(rng.integers(10, 55))
    here = np.where((seconds >= onset - away) & (seconds < onset), 1.0 - share, 1.0)
    if slow:
        ramp = np.clip((seconds - onset) / rng.uniform(20, 60), 0.0, 1.0)
        here = np.where(seconds >= onset, 1.0 - share * (1.0 - ramp), here)
    calm.frames, calm.devices = calm.frames * here, calm.devices * here
    return away > 0
