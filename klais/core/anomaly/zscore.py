"""The detector of KLAIS_ANOMALY_DETECTOR=zscore: running z-scores.

It scores the interval, payload size and up to 8 numeric fields of each device.

Mean and variance are exponentially weighted (Finch 2009, "Incremental calculation of weighted mean and variance",
eq. 140 to 143) with weight ``max(1 / (n + 1), 1 / window)``: the plain running mean and variance until the window is
full, then a memory of about ``window`` samples. A sample is scored before it is learned.

A scored sample is learned with at most 8 deviations from the mean (Huber's clipping), so that one impossible reading
does not blind the profile. A real change of level is still learned: after 16 flags in a row a feature restarts its
profile. Intervals are measured only between two frames that the same edge received, with increasing times: the clocks
of edges differ, and can be set.

A device has 8 slots for numeric fields. While a device sends fields without a slot, recently unused slots are
reassigned to them (second chance, once in 64 such fields).
"""

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.channel import MIN_VALUE
from klais.core.anomaly.detector import (
    COLUMNS,
    NOTHING_SAVED,
    SWEEP,
    Columns,
    Feature,
    Frames,
    Saved,
    field_slot,
    owner_of,
    reserve,
)
from klais.core.anomaly.flags import FLAGS, put_flag
from klais.core.anomaly.record import FLAG, MAX_FIELDS, OF_INTERVAL, OF_SIZE, Cause, Flags, Found
from klais.core.wire.constants import HEADER_SIZE
from klais.jit.kernel import F64, float32, float64, group, int64, kernel, record, uint16, void

FEATURES = 2 + MAX_FIELDS  # 0 interval, 1 payload size, 2.. numeric fields in the order first seen
ZPROFILE = np.dtype(
    [
        ("mean", "<f8", (FEATURES,)),
        ("var", "<f4", (FEATURES,)),
        ("path", "<u4", (MAX_FIELDS,)),  # low half of the path hash of each numeric field
        ("owner", "<u4"),
        ("samples", "<u2", (FEATURES,)),
        ("run", "u1", (FEATURES,)),  # flags in a row of each feature
        ("flag_count", "u1", (FEATURES,)),  # flags so far
        ("slots", "u1"),
        ("used", "u1"),  # bit k: field slot k was used since the last sweep of the slots
        ("misses", "u1"),  # fields without a slot since the last sweep
        ("spare", "u1"),
    ],
    align=True,
)
PROFILES = record(ZPROFILE)[::1]
Profiles = npt.NDArray[np.void]
LEARNED = group((float64[:, :], float32[:, :], uint16[:, :]))
Learned = tuple[npt.NDArray[np.float64], npt.NDArray[np.float32], npt.NDArray[np.uint16]]
"""Means, variances and samples of the profiles, strided [devices, features]."""
CLIP = 8.0  # deviations: a scored sample is learned with at most this
RELEARN_FLAGS = 16  # flags in a row after which a feature restarts its profile
# Indices in the ``limits`` column (float64 [3]).
THRESHOLD, MIN_SAMPLES, WINDOW = 0, 1, 2
LIMITS = 3

# The squares of learned values stay finite, and so does z as a float32; no sensor reads beyond these.
_MAX_VALUE = 1e150
_MAX_Z_SQUARE = 1e60
_MAX_VARIANCE = 3e38
_MAX_SAMPLES = 65_535.0
_ZSCORE, _MAX_FLAG_COUNT = np.uint8(Cause.ZSCORE), np.uint8(254)


@kernel(float64(int64, float64), borrows=True)
def smallest_deviation(feature: int, mean: float) -> float:
    """The smallest standard deviation that a feature is scored with: smaller differences are measurement noise.

    Interval: receive times are those of one ``recvmmsg`` call and devices wake by coarse timers (5 ms + 5 %). Size: a
    number that gains a digit is not an event (2 bytes + 5 %). Fields: a constant that moves by a thousandth is one.
    """
    size = abs(mean)
    if feature == 0:
        return 0.005 + 0.05 * size
    if feature == 1:
        return 2.0 + 0.05 * size
    return 1e-9 + 1e-3 * size


@kernel(void(PROFILES, int64, int64), borrows=True)
def forget_feature(profiles: Profiles, r: int, feature: int) -> None:
    """Restart the profile of a feature."""
    profiles["samples"][r, feature] = np.uint16(0)
    profiles["mean"][r, feature] = 0.0
    profiles["var"][r, feature] = np.float32(0.0)
    profiles["run"][r, feature] = np.uint8(0)


@kernel(float64(PROFILES, int64, int64, float64, float64, float64, float64), borrows=True)
def learnable(
    profiles: Profiles, r: int, feature: int, difference: float, z_square: float, scale: float, threshold: float
) -> float:
    """The clipped difference to learn from a sample that stands out, or comes after one that did.

    Counts the flags in a row. After RELEARN_FLAGS of them the profile is reset, and the whole difference counts.
    """
    if z_square > threshold * threshold:
        profiles["run"][r, feature] += np.uint8(1)
        if profiles["run"][r, feature] >= RELEARN_FLAGS:
            value = difference + profiles["mean"][r, feature]
            forget_feature(profiles, r, feature)
            return float(value)
    else:
        profiles["run"][r, feature] = np.uint8(0)
    furthest = CLIP * np.sqrt(scale)
    return float(min(max(difference, -furthest), furthest))


@kernel(float64(PROFILES, LEARNED, int64, int64, float64, F64), borrows=True, inlined=True)
def score_one(
    profiles: Profiles, learned: Learned, r: int, feature: int, value: float, limits: npt.NDArray[np.float64]
) -> float:
    """Signed z squared of ``value`` against the profile of device ``r`` (0 before it has enough samples); learns it.

    Squared, because comparing needs no root: only samples that stand out pay for one. The profile's columns are passed
    in addition to ``profiles``: looking them up for each value takes half as long again.
    """
    means, variances, samples = learned
    threshold = limits[THRESHOLD]
    difference = min(max(value, -_MAX_VALUE), _MAX_VALUE) - means[r, feature]
    z_square = 0.0
    if np.float64(samples[r, feature]) >= limits[MIN_SAMPLES]:
        minimum = smallest_deviation(feature, means[r, feature])
        scale = max(np.float64(variances[r, feature]), minimum * minimum)
        z_square = min(difference * difference / scale, _MAX_Z_SQUARE)
        sign = difference
        if z_square > min(threshold * threshold, CLIP * CLIP) or profiles["run"][r, feature] != np.uint8(0):
            difference = learnable(profiles, r, feature, difference, z_square, scale, threshold)
        if sign < 0.0:
            z_square = -z_square
    n = np.float64(samples[r, feature])
    weight = 1.0 / min(n + 1.0, limits[WINDOW])
    means[r, feature] += weight * difference
    variance = (1.0 - weight) * (np.float64(variances[r, feature]) + weight * (difference * difference))
    variances[r, feature] = np.float32(min(variance, _MAX_VARIANCE))
    if n < _MAX_SAMPLES:
        samples[r, feature] = np.uint16(n + 1.0)
    return z_square


@kernel(void(PROFILES, int64, int64), borrows=True)
def replace_unused_slot(profiles: Profiles, r: int, path: int) -> None:
    """Assign the first field slot that was not used since the last sweep to ``path``; then mark all as unused."""
    used = profiles["used"][r]
    for k in range(MAX_FIELDS):
        if used >> k & 1 == 0:
            profiles["path"][r, k] = np.uint32(path)
            forget_feature(profiles, r, 2 + k)
            break
    profiles["used"][r] = np.uint8(0)
    profiles["misses"][r] = np.uint8(0)


@kernel(void(PROFILES, int64, int64), borrows=True)
def forget_device(profiles: Profiles, r: int, owner: int) -> None:
    """Reset the profile for the device that now has the row."""
    for k in range(FEATURES):
        forget_feature(profiles, r, k)
        profiles["flag_count"][r, k] = np.uint8(0)
    profiles["slots"][r] = profiles["used"][r] = profiles["misses"][r] = np.uint8(0)
    profiles["owner"][r] = np.uint32(owner)


@kernel(int64(PROFILES, LEARNED, COLUMNS, int64, int64, int64, F64, FLAGS, int64), borrows=True, inlined=True)
def score_frame(
    profiles: Profiles,
    learned: Learned,
    columns: Columns,
    i: int,
    first: int,
    end: int,
    limits: npt.NDArray[np.float64],
    flags: Flags,
    at: int,
) -> int:
    """Score and learn frame ``i``, whose fields are ``first`` to ``end``. The feature with the largest |z| above the
    threshold is written as flag ``at`` and returned; -1 = none."""
    row, _, _, lengths, interval_s, _, field_path, field_value = columns
    means, r, z = learned[0], np.int64(row[i]), limits[THRESHOLD]
    best, feature = z * z, -1
    for j in range(first - 2, end):
        if j == first - 2:
            slot, x = -2, interval_s[i]
            if x < 0.0:
                continue
        elif j == first - 1:
            slot, x = -1, np.float64(lengths[i] - HEADER_SIZE)
        else:
            path, x = np.uint32(field_path[j]), field_value[j]
            if abs(x) < MIN_VALUE:
                x = 0.0
            slot = field_slot(
                profiles["path"], profiles["slots"], profiles["used"], profiles["misses"], r, path, j - first
            )
            if slot == SWEEP:
                replace_unused_slot(profiles, r, np.int64(path))
            if slot < 0:
                continue
        expected = means[r, 2 + slot]
        found = abs(score_one(profiles, learned, r, 2 + slot, x, limits))
        if found > best:
            best, feature = found, 2 + slot
            nth = j - first if j >= first else OF_INTERVAL if slot == -2 else OF_SIZE
            put_flag(flags, at, i, nth, x, expected, np.sqrt(found), (x - expected) / np.sqrt(found))
    return feature


@kernel(int64(PROFILES, COLUMNS, int64, F64, FLAGS), borrows=True)
def score(profiles: Profiles, columns: Columns, field_count: int, limits: npt.NDArray[np.float64], flags: Flags) -> int:
    """Score and learn the admitted frames of a batch, in order; returns the number of flags written.

    ``flags`` FLAG [n + 1], out: at most one per frame, the feature with the largest |z| above ``limits[THRESHOLD]``.
    """
    row, ids, _, _, interval_s, field_frame, _, _ = columns
    learned = profiles["mean"], profiles["var"], profiles["samples"]
    flag_count = f = 0
    for i in range(row.shape[0]):
        first = f
        while f < field_count and field_frame[f] == i:
            f += 1
        if interval_s[i] < -1.5:
            continue
        r, owner = np.int64(row[i]), owner_of(ids[i, 0], ids[i, 1])
        if profiles["owner"][r] != owner:
            forget_device(profiles, r, np.int64(owner))
        feature = score_frame(profiles, learned, columns, i, first, f, limits, flags, flag_count)
        if feature >= 0:
            flags["cause"][flag_count] = _ZSCORE
            flags["before"][flag_count] = profiles["flag_count"][r, feature]
            profiles["flag_count"][r, feature] = min(profiles["flag_count"][r, feature], _MAX_FLAG_COUNT) + np.uint8(1)
            flag_count += 1
    return flag_count


class ZScore:
    """The detector of a lane; ``z``, ``min_samples`` and ``window`` come from the settings."""

    def __init__(self, z: float, min_samples: int, window: int, capacity: int = 0) -> None:
        self._limits = np.array([z, min_samples, window], np.float64)
        self.profiles = reserve(capacity, ZPROFILE)

    @property
    def paths(self) -> npt.NDArray[np.uint32]:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        return self.profiles["path"]

    @property
    def slots(self) -> npt.NDArray[np.uint8]:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        return self.profiles["slots"]

    def make_room(self, capacity: int) -> None:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        if capacity > len(self.profiles):
            old, self.profiles = self.profiles, reserve(capacity, ZPROFILE)
            self.profiles[: len(old)] = old

    def score(self, frames: Frames, devices: int, max_count: int, name_of: Callable[[int], str | None]) -> Found:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        # One more than frames: the kernel writes the next candidate after the last flag.
        flags = np.empty(len(frames.row) + 1, FLAG)
        raised = score(self.profiles, frames.columns, frames.count, self._limits, flags)
        return Found(raised, flags[: min(raised, max_count)].copy()) if raised else Found()

    def features(self, row: int) -> Iterable[Feature]:
        """See :class:`klais.core.anomaly.detector.Detector`."""
        if row >= len(self.profiles):  # nothing has been scored yet
            return
        at = self.profiles[row]
        for k in range(2 + int(at["slots"])):
            if at["samples"][k]:
                path = int(at["path"][k - 2]) if k > 1 else 0
                yield Feature(k, path, float(at["mean"][k]), float(np.sqrt(at["var"][k])), int(at["samples"][k]))

    def dump_some(self, begin: int, end: int, max_bytes: int) -> tuple[Saved, int]:
        """Save nothing: this detector learns again after a restart."""
        return NOTHING_SAVED, end

    def mark_unsaved(self, row: npt.NDArray[np.int32]) -> None:
        """Do nothing: profiles are not saved."""

    def dump(self, row: int) -> bytes | None:
        """Always None: profiles are not saved."""
        return None

    def load(self, row: int, value: bytes) -> bool:
        """Load nothing."""
        return False
