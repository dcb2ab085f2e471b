"""Convert rates and bursts to and from the filter's integer units (``struct klais_limit``)."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from klais.xdp.layout import DEVICE_COST, GLOBAL_COST, LIMIT, LIMITS, MAX_CAP

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Global and device limits in frames/s and frames; ``inf`` = no limit.

    Device rates are stored in thousandths of a frame per second, global rates in whole frames per second.
    """

    rate_per_s: float
    burst: float
    device_rate: float
    device_burst: float


def to_units(rate_per_s: float, burst: float, cost: int) -> npt.NDArray[np.void]:
    """Create a ``struct klais_limit``.

    Parameters
    ----------
    rate_per_s : float
        More than 0; ``inf`` = no limit. Rounded to a unit (at least one).
    burst : float
        At least 1 frame; limited to the range of 62 bits (4.6 million frames of a device, 4.6 billion of all).
    cost : int
        ``GLOBAL_COST`` or ``DEVICE_COST``.

    Raises
    ------
    ValueError
        If the rate is 0 or less, the burst below 1, or one is NaN.

    Examples
    --------
    >>> to_units(1000.0, 5.0, GLOBAL_COST)
    array((1000, 5000000000, 5000000), dtype=[('rate_units', '<u8'), ('cap_units', '<u8'), ('fill_ns', '<u8')])
    """
    if not rate_per_s > 0:
        raise ValueError(f"a rate must be more than 0 frames/s, not {rate_per_s} (to stop a device, block it)")
    if not burst >= 1:
        raise ValueError(f"a burst must be at least 1 frame, not {burst}: no frame would ever pass")
    out = np.zeros((), LIMIT)
    if math.isinf(rate_per_s):
        return out
    rate = min(max(1, round(rate_per_s * (cost // _NS))), MAX_CAP)
    cap = MAX_CAP if math.isinf(burst) else min(int(burst * cost), MAX_CAP)
    out["rate_units"], out["cap_units"], out["fill_ns"] = rate, cap, -(-cap // rate)
    return out


def from_units(limit: npt.NDArray[np.void], cost: int) -> tuple[float, float]:
    """(rate in frames/s, burst in frames) of a ``struct klais_limit``; both ``inf`` if there is no limit."""
    if not limit["cap_units"]:
        return math.inf, math.inf
    return int(limit["rate_units"]) / (cost // _NS), int(limit["cap_units"]) / cost


def pack(limits: Limits) -> npt.NDArray[np.void]:
    """Create a ``struct klais_limits``."""
    out = np.zeros((), LIMITS)
    out["global"] = to_units(limits.rate_per_s, limits.burst, GLOBAL_COST)
    out["device"] = to_units(limits.device_rate, limits.device_burst, DEVICE_COST)
    return out


def unpack(slot: npt.NDArray[np.void]) -> Limits:
    """The limits of a ``struct klais_limits``."""
    return Limits(*from_units(slot["global"], GLOBAL_COST), *from_units(slot["device"], DEVICE_COST))
