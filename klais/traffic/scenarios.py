"""Labelled traffic of the five classes, drawn with a seed: recorded bases, herds after 3GPP, floods of each kind.

Labels follow one rule, second by second: *attack* if a fifth of the frames of the last 3 s are hostile;
*thundering_herd* if a quarter of them is from reconnecting devices; else *burst* if the last 5 s are twice the median
of the last 60 s; else *elevated* if the last 10 s are 1.3 times that median; else *normal*. Seconds in which the share
of hostile frames is between 8 and 30 %, or that of reconnecting devices between 10 and 40 %, have no class and are not
used for training or tests.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from klais.control.forecast import FACTOR, HORIZON_S, SMALL_RATE, WINDOW_S
from klais.traffic.bases import Base
from klais.traffic.fleet import Fleet, Group, Series
from klais.traffic.floods import FLOODS, HELD_OUT_FLOODS, flood
from klais.traffic.herds import HELD_OUT_HERD, draw_herd

LENGTH_S = 190
ATTACK_SHARE, HERD_SHARE, ELEVATED = 0.2, 0.25, 1.3
UNSURE_ATTACK, UNSURE_HERD = (0.08, 0.3), (0.1, 0.4)  # shares between which a second has no class
NO_CLASS = -1
KINDS = ("calm", "elevated", "burst", "herd", "outage", "attack")
WEIGHTS = (0.16, 0.14, 0.14, 0.28, 0.06, 0.22)

Labels = npt.NDArray[np.int64]
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Episode:
    """``rows`` float64 [t, columns], ``labels`` int64 [t] (index into ``CLASSES``, -1 = none), ``bursts`` bool [t]
    (whether the mean rate of the next 5 s is a burst), ``nexts`` float64 [t] (that mean), and the drawn parameters."""

    rows: Series
    labels: Labels
    bursts: npt.NDArray[np.bool_]
    nexts: Series
    kind: str
    onset_s: int


def truth(rate: Series) -> tuple[npt.NDArray[np.bool_], Series]:
    """Whether a burst follows each second, and the mean rate of the next 5 s; the last 5 s count as calm."""
    median = _medians(rate)
    ahead = np.concatenate((sliding_window_view(rate, HORIZON_S).mean(axis=1)[1:], np.full(HORIZON_S, rate[-1])))
    bursts = ahead > FACTOR * np.maximum(median, SMALL_RATE)
    bursts[-HORIZON_S:] = False
    return bursts, ahead


def labels_of(fleet: Fleet) -> Labels:
    """The class of each second, by the rule of the module."""
    attack, herd = fleet.by_cause("attack"), fleet.by_cause("herd")
    rate = attack + herd + fleet.by_cause("normal")
    total = _trailing(rate, 3) + 1e-9
    level = np.maximum(_medians(rate), SMALL_RATE)
    out = np.where(_trailing(rate, 10) > ELEVATED * level, 1, 0)
    out = np.where(_trailing(rate, 5) > FACTOR * level, 2, out)
    herd_share, attack_share = _trailing(herd, 3) / total, _trailing(attack, 3) / total
    out = np.where(herd_share > HERD_SHARE, 3, out)
    out = np.where((herd_share > UNSURE_HERD[0]) & (herd_share < UNSURE_HERD[1]), NO_CLASS, out)
    out = np.where(attack_share > ATTACK_SHARE, 4, out)
    unsure = (attack_share > UNSURE_ATTACK[0]) & (attack_share < UNSURE_ATTACK[1])
    return np.where(unsure, NO_CLASS, out).astype(np.int64)


def episode(base: Base, rng: Rng, held_out: bool = False, test: bool = False) -> Episode:
    """Draw 190 s of traffic.

    Parameters
    ----------
    base : Base
        The part of a trace from which to draw.
    rng : numpy.random.Generator
        Seeded generator.
    held_out : bool
        Only kinds of herds and floods that training does not use.
    test : bool
        Generator settings of the test: other sizes of fleets, herds and floods than in training.
    """
    kind = str(rng.choice(("herd", "attack") if held_out else KINDS, p=None if held_out else WEIGHTS))
    onset = int(rng.integers(WINDOW_S + 5, 110))
    fleet = _ground(base, rng, test)
    calm = fleet.groups[0]
    if kind in ("elevated", "burst"):
        fleet.groups += _surge(calm, kind, onset, rng, test)
    elif kind in ("herd", "outage"):
        fleet.groups += draw_herd(calm, onset, rng, kind == "outage", HELD_OUT_HERD if held_out else None, test)
    elif kind == "attack":
        if not held_out and rng.random() < 0.15:  # hostile frames during high load
            fleet.groups += _surge(calm, "elevated", onset - 20, rng, test)
        how = str(rng.choice(HELD_OUT_FLOODS if held_out else FLOODS))
        fleet.groups += flood(how, calm, onset, rng, test)
        kind = how
    rate = np.sum([group.frames for group in fleet.groups], axis=0)
    bursts, nexts = truth(rate)
    return Episode(fleet.rows(rng), labels_of(fleet), bursts, nexts, kind, onset)


def _ground(base: Base, rng: Rng, test: bool) -> Fleet:
    """A fleet on an interval of a recording, scaled to it."""
    size = np.exp(rng.uniform(np.log(150), np.log(200_000)))
    interval_s = np.exp(rng.uniform(np.log(0.5), np.log(60.0)))
    level = min(max(size / interval_s, 20.0), 200_000.0)
    if test:
        level *= 1.37  # between the levels used in training
    counts = base.seconds(int(rng.integers(len(base.counts))), LENGTH_S, rng)
    how = rng.random()
    if how < 0.35:  # the unchanged recording with its noise
        rate = counts * level / max(counts.mean(), 0.05)
    elif how < 0.7:  # its shape over a minute, with the noise of a large fleet
        smooth = np.convolve(np.pad(counts, 30, mode="edge"), np.ones(61) / 61, mode="valid") + 0.05
        rate = level * smooth / smooth.mean() * np.exp(rng.normal(0, rng.uniform(0.01, 0.12), LENGTH_S))
    else:  # steady
        drift = np.cumsum(rng.normal(0, 0.004, LENGTH_S))
        rate = level * np.exp(drift + rng.normal(0, rng.uniform(0.005, 0.08), LENGTH_S))
    rate = rng.poisson(np.maximum(rate, 0.0)).astype(np.float64)
    heavy = float(rng.choice((0.0, 0.0, 0.0, rng.uniform(0.02, 0.5))))
    new = rng.choice((0.0, 0.0, rng.uniform(0, 0.02)))
    faulty = rng.choice((0.0, 0.0, 0.0, rng.uniform(0, 0.08)), size=3)
    regular = rng.random() < 0.4  # all devices send at the same rate, as those of `klais simulate`
    calm = Group(
        rate, np.full(LENGTH_S, max(size, 3.0)), not regular,
        size=rng.uniform(40, 900), size_sd=rng.uniform(0, 150), heavy=heavy,
        new=rng.poisson(rate * new).astype(np.float64), malformed=rate * faulty[0] * rng.uniform(0.5, 1.5, LENGTH_S),
        duplicates=rate * faulty[1] * rng.uniform(0.5, 1.5, LENGTH_S), resets=rng.poisson(rate * faulty[2] * 0.1),
    )  # fmt: skip
    return Fleet(size, level * np.exp(rng.uniform(np.log(1.3), np.log(30))), float(rng.choice((0.0, 0.5, 1.0))), [calm])


def _surge(calm: Group, kind: str, onset: int, rng: Rng, test: bool) -> list[Group]:
    """More of the same traffic: a step, a ramp or a spike; more devices, or more frames of each.

    Changes ``calm`` in place, or returns a group."""
    seconds = np.arange(LENGTH_S)
    if kind == "burst":
        factor, length = rng.uniform(2.3, 9.0), rng.uniform(3, 25)
    else:
        factor, length = rng.uniform(1.35, 1.95), rng.uniform(20, 120)
    factor *= 1.05 if test else 1.0
    rise = max(1.0, rng.choice((1.0, rng.uniform(1, length / 2), rng.uniform(1, length))))
    shape = np.clip((seconds - onset) / rise, 0.0, 1.0)
    shape = np.where(seconds > onset + length, np.clip(1.0 - (seconds - onset - length) / rise, 0.0, 1.0), shape)
    grown = 1.0 + (factor - 1.0) * shape
    if rng.random() < 0.4:  # frames of another size, for example when devices send reports
        size, more = calm.size * rng.uniform(0.7, 1.4), calm.frames * (grown - 1.0)
        return [Group(more, calm.devices, calm.mixed, size=size, size_sd=calm.size_sd)]
    for name in ("frames", "new", "malformed", "duplicates", "resets"):
        setattr(calm, name, getattr(calm, name) * grown)
    if rng.random() < 0.3:
        calm.devices = calm.devices * np.sqrt(grown)
    return []


def _medians(rate: Series) -> Series:
    """Median of the up to 60 s that end with each second."""
    padded = np.concatenate((np.full(WINDOW_S - 1, np.nan), rate))
    median: Series = np.nanmedian(sliding_window_view(padded, WINDOW_S), axis=1)
    return median


def _trailing(values: Series, seconds: int) -> Series:
    """Mean of the ``seconds`` that end with each second."""
    total = np.cumsum(np.concatenate((np.zeros(seconds), values)))
    mean: Series = (total[seconds:] - total[:-seconds]) / seconds
    return mean


Draw = Callable[[Base, Rng], Episode]
