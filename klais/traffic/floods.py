"""Hostile traffic of each kind, for the scenarios: its effect on the sketch, the dam and the sequence windows."""

import numpy as np

from klais.traffic.fleet import Group, Series

FLOODS = ("one_device", "several_devices", "spoofed_new", "spoofed_known", "malformed", "replayed", "replayed_old")
HELD_OUT_FLOODS = ("malformed_payload", "pulsed_spoofed")
DEVICE_RATE = 1000.0  # KLAIS_DAM_DEVICE_RATE
NEW_RATE = 40_000.0  # KLAIS_DEVICES_NEW_RATE times lanes

Rng = np.random.Generator


def flood(how: str, calm: Group, onset: int, rng: Rng, test: bool) -> list[Group]:
    """Groups of one flood from ``onset`` on, over the steady traffic ``calm``."""
    level = max(float(calm.frames.mean()), 100.0)
    rate = level * np.exp(rng.uniform(np.log(0.5), np.log(30.0))) * (1.15 if test else 1.0)
    frames = rng.poisson(rate * _shape(how, len(calm.frames), onset, rng)).astype(np.float64)
    size = float(rng.choice((calm.size, rng.uniform(22, 1400))))
    size_sd = float(rng.choice((0.0, rng.uniform(0, 60))))
    pool = calm.devices
    if how in ("one_device", "several_devices"):
        senders = 1.0 if how == "one_device" else float(rng.integers(2, 40))
        limited = np.maximum(0.0, frames - DEVICE_RATE * senders)
        odd = float(rng.choice((0.0, rng.uniform(0, 1.0))))  # its numbers are random, or the same
        group = Group(frames, np.minimum(senders, np.maximum(frames, 1e-9)), False, limited=limited)
        group.resets, group.duplicates = frames * odd * 0.5, frames * odd * rng.uniform(0, 0.5)
    elif how in ("spoofed_new", "pulsed_spoofed"):
        known = np.minimum(frames, NEW_RATE * float(rng.choice((1.0, rng.uniform(0.05, 1.0)))))
        group = Group(frames, np.maximum(frames, 1e-9), False, new=known, limited=frames - known)
    elif how == "spoofed_known":
        group = Group(frames, pool * rng.uniform(0.02, 1.0) + 2.0, resets=frames * rng.uniform(0.35, 0.95))
    elif how in ("malformed", "malformed_payload"):
        senders = float(rng.choice((1.0, 20.0, max(2.0, float(pool[0])))))
        unseen = how == "malformed"
        devices = np.full(len(frames), senders)
        group = Group(frames, devices, malformed=frames * rng.uniform(0.9, 1.0), unseen=unseen)
    else:  # a replay of recorded frames
        group, size, size_sd = Group(frames, pool * rng.uniform(0.01, 1.0) + 2.0), calm.size, calm.size_sd
        if how == "replayed":
            group.duplicates = frames * rng.uniform(0.6, 1.0)
        else:
            old, recent = (rng.uniform(0.4, 0.9), 0.0) if rng.random() < 0.5 else (0.02, rng.uniform(0.4, 0.9))
            group.resets, group.duplicates = frames * old, frames * recent
    group.size, group.size_sd, group.cause = size, size_sd, "attack"
    return [group]


def _shape(how: str, length: int, onset: int, rng: Rng) -> Series:
    """Strength of the flood in each second, 0 to 1."""
    seconds = np.arange(length, dtype=np.float64)
    rise = float(rng.choice((0.5, 0.5, rng.uniform(1, 30))))
    shape = np.clip((seconds - onset) / rise, 0.0, 1.0)
    shape[seconds > onset + rng.uniform(10, 120)] = 0.0
    if how == "pulsed_spoofed":
        shape *= (seconds - onset) % rng.integers(6, 16) < rng.integers(2, 6)
    return shape
