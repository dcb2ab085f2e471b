"""Anomaly flags as data, 32 bytes each, as detectors produce and the journal stores them (numpy only, no numba).

Flags are journalled with their step, so a replay scores nothing: it only records the flags in the rows again.
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
        ("frame", "<u4"),  # index in the batch
        ("nth", "u1"),  # index among the frame's numeric fields, or one of the four codes below
        ("cause", "u1"),  # Cause, with COUNTER
        ("since", "u1"),  # how long this has lasted, or was learned: see `age_s`
        ("before", "u1"),  # earlier flags of this feature, up to 255
    ],
    align=True,
)
assert FLAG.itemsize == 32
Flags = npt.NDArray[np.void]
OF_INTERVAL, OF_SIZE, OF_ABSENT, OF_TYPE = 255, 254, 253, 252  # ``nth`` of flags that are not about a numeric field
NO_FLAGS: Flags = np.empty(0, FLAG)
COUNTER = 32


class Cause(IntEnum):
    """The reason for a flag; ``COUNTER`` is added if the rate of a counter was scored."""

    NONE = 0
    LEVEL = 1  # far from its usual level
    HOUR = 2  # far from its usual level at this time of the day
    JUMP = 3  # a larger step than usual
    RARE = 4  # a level that was hardly ever seen
    STUCK = 5  # the value no longer changes
    DRIFT = 6  # for hours it has moved away from its level at this time on the last days
    INTERVAL = 7  # the device sends more or less often than usual, relative to the rest of the fleet
    SILENCE = 8  # the device sent nothing for longer than usual
    ABSENT = 9  # a field that was always present is missing or no longer a number
    ZSCORE = 10  # the running z-score (KLAIS_ANOMALY_DETECTOR=zscore)
    TYPE = 11  # the device behaves like one of another type (value, expected: codes of the types' names)
    IMPERSONATION = 12  # frames of another type of device come between its own
    ODD = 13  # it sends what neither it nor any type sends
    NOISE = 14  # for an hour it changed more than in any hour of the last days (value, expected: size of the steps)


@dataclass(frozen=True, slots=True)
class Found:
    """Flags of one step.

    ``raised``: how many were raised; ``flags`` FLAG [k]: the flags to write, in the order of the frames; ``names``:
    names of fields that a flag refers to and its frame lacks, by the lower half of the path's hash.
    """

    raised: int = 0
    flags: Flags = field(default_factory=lambda: NO_FLAGS)
    names: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepFlags:
    """Flags of a step, stored in addition to its frames.

    ``found`` FLAG [k]; ``path`` uint64 [k] the hash of each flag's field (0 for interval and size; only its lower half
    if the frame lacks the field); ``names`` maps that half to the names of fields that frames lack.
    """

    found: Flags
    path: npt.NDArray[np.uint64]
    names: Mapping[int, str]


def age_s(code: int) -> float:
    """Decode a time span (s) from a byte, exact to 5 %: eighths of octaves; 0 = a second or less.

    Examples
    --------
    >>> round(age_s(94))
    3444
    """
    return float(2.0 ** (code / 8.0))


def age_code_of(seconds: float) -> int:
    """Encode a time span as a byte, in the same way as the kernels.

    Examples
    --------
    >>> age_code_of(3600.0), age_code_of(0.1), age_code_of(1e99)
    (94, 0, 255)
    """
    return int(min(255.0, np.floor(8.0 * np.log2(max(1.0, seconds)) + 0.5)))
