"""Groups of devices and an edge's view of them, second by second, without simulating single frames (pure).

A group sends ``frames`` per second from a pool of ``devices``. In a *mixed* group each frame comes from any of them
(frames per device are Poisson distributed); in an *even* one all devices send the same number of frames. The figures of
several groups are added up like in the sketch of :mod:`klais.edge.activity`.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from klais.control.forecast import FEATURES

BINS = 1 << 15  # bins of the edge's sketch
Series = npt.NDArray[np.float64]

_LAMBDA = np.exp(np.linspace(np.log(1e-5), np.log(1e5), 400))


def _c_log_c(mean: float) -> float:
    """E[c ln c] of a Poisson number c."""
    if mean > 200.0:
        return float(mean * np.log(mean) + 0.5)
    c = np.arange(2, int(mean + 12 * np.sqrt(mean) + 12))
    log_factorial = np.cumsum(np.log(np.arange(1, c[-1] + 1)))[c - 1]
    return float((np.exp(c * np.log(mean) - mean - log_factorial) * c * np.log(c)).sum())


_C_LOG_C = np.array([_c_log_c(mean) for mean in _LAMBDA])


@dataclass(slots=True)
class Group:
    """Devices of one kind over t seconds.

    Attributes
    ----------
    frames : float64 [t]
        Frames per second.
    devices : float64 [t]
        Pool of a mixed group; sending devices of an even one.
    mixed : bool
        See the module docstring.
    size, size_sd : float
        Bytes of a frame.
    new, malformed, duplicates, limited, resets : float64 [t] or float
        Per second. ``unseen`` frames are malformed before an id is read: the sketch does not contain them.
    heavy : float
        Share of the group's frames that one device sends.
    cause : str
        ``normal``, ``herd`` or ``attack``.
    """

    frames: Series
    devices: Series
    mixed: bool = True
    size: float = 120.0
    size_sd: float = 20.0
    new: Series | float = 0.0
    malformed: Series | float = 0.0
    unseen: bool = False
    duplicates: Series | float = 0.0
    limited: Series | float = 0.0
    resets: Series | float = 0.0
    heavy: float = 0.0
    cause: str = "normal"


@dataclass(slots=True)
class Fleet:
    """Groups together over the same seconds; ``known`` devices at the start, frames/s above ``capacity`` are dropped
    with probability ``shedding``."""

    known: float
    capacity: float
    shedding: float = 0.0
    groups: list[Group] = field(default_factory=list)

    def by_cause(self, cause: str) -> Series:
        """Frames a second of the groups of one cause."""
        nothing = np.zeros_like(self.groups[0].frames)
        total: Series = np.sum([nothing, *(g.frames for g in self.groups if g.cause == cause)], axis=0)
        return total

    def rows(self, rng: np.random.Generator) -> Series:
        """The rows that the controller's collector would hold, float64 [t, len(FEATURES)]."""
        seen = [group for group in self.groups if not group.unseen]
        frames = np.sum([g.frames for g in self.groups], axis=0)
        active, log_sum, top = (np.zeros_like(frames) for _ in range(3))
        for group in seen:
            a, s, t = _activity(group)
            active, log_sum, top = active + a, log_sum + s, np.maximum(top, t)
        in_sketch = np.sum([g.frames for g in seen], axis=0)
        per_bin = in_sketch / BINS  # devices that share a counter count as one
        top = np.minimum(np.maximum(top, per_bin + 4.0 * np.sqrt(per_bin)), in_sketch)
        entropy = np.maximum(0.0, np.log(np.maximum(in_sketch, 1.0)) - log_sum / np.maximum(in_sketch, 1.0))
        entropy = -np.log(np.exp(-entropy) + 1.0 / BINS)
        active = np.where(active > 0, active * np.exp(rng.normal(0.0, 0.01, len(frames))), 0.0)
        mean, mean_square = _sizes(seen, in_sketch)
        all_mean, _ = _sizes(self.groups, frames)
        new = _sum(self.groups, "new", len(frames))
        names = ("malformed", "duplicates", "limited", "resets")
        counted = {name: _sum(self.groups, name, len(frames)) for name in names}
        shed = self.shedding * np.maximum(0.0, frames - self.capacity)
        out = np.zeros((len(frames), len(FEATURES)))
        columns = {
            "rate": frames,
            "devices": self.known + np.cumsum(new),
            "new_devices": new,
            "payload_bytes": all_mean,
            "dropped": shed + counted["malformed"] + counted["duplicates"] + counted["limited"],
            "active": active,
            "entropy": entropy,
            "top_share": top / np.maximum(in_sketch, 1.0),
            "size_cv": np.sqrt(np.maximum(0.0, mean_square - mean**2)) / np.maximum(mean, 1.0),
            **counted,
        }
        for at, name in enumerate(FEATURES):
            out[:, at] = np.maximum(columns[name], 0.0)
        return out


def _activity(group: Group) -> tuple[Series, Series, Series]:
    """Devices that send, sum of c ln c, frames of the busiest, each float64 [t]."""
    frames, pool = np.maximum(group.frames, 0.0), np.maximum(group.devices, 1e-9)
    if not group.mixed:
        pool = np.minimum(pool, np.maximum(frames, 1e-9))
        each = frames / pool
        some = frames > 0
        return pool * some, frames * np.log(np.maximum(each, 1.0)), np.where(some, np.maximum(each, 1.0), 0.0)
    rest = frames * (1.0 - group.heavy)
    mean = rest / pool
    active = pool * -np.expm1(-mean)
    log_sum = pool * np.interp(np.log(np.maximum(mean, 1e-5)), np.log(_LAMBDA), _C_LOG_C) * (mean > 1e-5)
    top = np.minimum(rest, mean + 3.0 * np.sqrt(mean) + 1.0)
    heavy = frames * group.heavy
    busy = heavy >= 1.0
    log_sum = log_sum + np.where(busy, heavy * np.log(np.maximum(heavy, 1.0)), 0.0)
    return active + busy, log_sum, np.maximum(top, heavy)


def _sizes(groups: list[Group], frames: Series) -> tuple[Series, Series]:
    total = np.maximum(frames, 1e-9)
    mean = np.sum([g.frames * g.size for g in groups], axis=0) / total
    square = np.sum([g.frames * (g.size**2 + g.size_sd**2) for g in groups], axis=0) / total
    return mean, square


def _sum(groups: list[Group], name: str, seconds: int) -> Series:
    total: Series = np.sum([np.broadcast_to(getattr(group, name), seconds) for group in groups], axis=0)
    return total
