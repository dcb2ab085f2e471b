"""Anomaly flags as data: what a detector finds and the journal holds, 32 bytes each (numpy only, no numba).

Flags are journalled with their step. So a replay scores nothing: it only notes the flags in the rows again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

MAX_FIELDS = 8  # numeric payload fields profiled for each device
FLAG = np.dtype(
    [
        ("value", "<f8"),
        ("expected", "<f8"),
        ("score", "<f4"),  # how unusual: in usual sizes of a deviation, or in standard deviations (ZSCORE)
        ("scale", "<f4"),  # the usual size
        ("frame", "<u4"),  # of the batch
        ("nth", "u1"),  # which of the frame's numeric fields; or one of the four below
        ("cause", "u1"),  # Cause, with COUNTER
        ("since", "u1"),  # for how long this has been so, or been learned: see `age_s`
        ("before", "u1"),  # flags of this feature before, up to 255
    ],
    align=True,
)
assert FLAG.itemsize == 32
Flags = npt.NDArray[np.void]
OF_INTERVAL, OF_SIZE, OF_ABSENT, OF_TYPE = 255, 254, 253, 252  # ``nth`` of what is no numeric field of the frame
NO_FLAGS: Flags = np.empty(0, FLAG)
COUNTER = 32


class Cause(IntEnum):
    """Why a flag was raised; with ``COUNTER`` added where the rate of a counter was scored."""

    NONE = 0
    LEVEL = 1  # far from where the value usually is
    HOUR = 2  # far from where it usually is at this time of the day
    JUMP = 3  # a larger step than usual
    RARE = 4  # a level that it hardly ever had
    STUCK = 5  # it does not change any more
    DRIFT = 6  # it leaves, for hours, where it was at this time of the last days
    INTERVAL = 7  # the device sends more or less often than usual, against the rest of the fleet
    SILENCE = 8  # it sent nothing for longer than usual
    ABSENT = 9  # a field that is always there is missing, or is no number any more
    ZSCORE = 10  # the running z-score (KLAIS_ANOMALY_DETECTOR=zscore)
    TYPE = 11  # the device behaves like one of another type (value, expected: codes of the types' names)
    IMPERSONATION = 12  # frames of another type of device come between its own
    ODD = 13  # it sends what neither it nor any type sends
    NOISE = 14  # for an hour it changed more than in any hour of the last days (value, expected: size of the steps)


@dataclass(frozen=True, slots=True)
class Found:
    """Flags of one step.

    ``raised``: all of them; ``flags`` FLAG [k]: those to be written, in the order of the frames; ``names``: the names
    of fields that a flag is about and its frame does not have, by the lower half of the path's hash.
    """

    raised: int = 0
    flags: Flags = field(default_factory=lambda: NO_FLAGS)
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepFlags:
    """Flags of a step beside its frames.

    ``found`` FLAG [k]; ``path`` uint64 [k] the hash of each one's field (0 for interval and size; its lower half where
    the frame lacks the field), ``names`` by that half of those that frames lack.
    """

    found: Flags
    path: npt.NDArray[np.uint64]
    names: Mapping[int, str]


def age_s(code: int) -> float:
    """The time span (s) that a byte stands for, exact to 5 %: eighths of octaves; 0 = a second or less.

    Examples
    --------
    >>> round(age_s(94))
    3444
    """
    return float(2.0 ** (code / 8.0))


def age_code_of(seconds: float) -> int:
    """The byte of a time span, as kernels code it.

    Examples
    --------
    >>> age_code_of(3600.0), age_code_of(0.1), age_code_of(1e99)
    (94, 0, 255)
    """
    return int(min(255.0, np.floor(8.0 * np.log2(max(1.0, seconds)) + 0.5)))
