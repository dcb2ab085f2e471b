"""Compare sampled frames with the fingerprint of their device and the types of the model.

A frame is sampled when it comes at least ``SLOW_S`` after the device's last one; of the others one in ``ONE_IN`` is
sampled, unpredictably for senders. A sample that fits the device's habits costs two comparisons. Any other is compared
with all types, and the *evidence* for the best of them (a log-likelihood ratio, bounded for each sample) is added up:
Page's cumulative sum (1954, "Continuous inspection schemes"), which finds a change as early as the rate of false alarms
allows. Frames of two types in turn add up too, because a fitting sample subtracts less than a strange one adds.
"""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.detector import COLUMNS, Columns, owner_of
from klais.core.anomaly.flags import FLAGS, age_code, put_flag
from klais.core.anomaly.record import OF_TYPE, Cause, Flags
from klais.core.fingerprint.record import BIT_MIX, BIT_SHIFT, KEPT, PRINT, SAMPLE, SHAPES, UNKNOWN, Prints
from klais.core.wire.constants import HEADER_SIZE
from klais.jit.kernel import F64, I64, U32, U64, float32, float64, group, int64, kernel, record, uint64, void

PRINTS = record(PRINT)[::1]
SAMPLES = record(SAMPLE)[:, ::1]
TABLES, NORMALS = float32[:, :, ::1], float64[:, ::1]
TYPES = group((TABLES, NORMALS))
KEEP = group((SAMPLES, I64, U32))
Types = tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]
Keep = tuple[npt.NDArray[np.void], npt.NDArray[np.int64], npt.NDArray[np.uint32]]
"""Samples for training SAMPLE [SLOTS, KEPT], the number in each slot int64, and the slots' owners uint32."""
# Indices in ``limits`` (float64 [LIMITS]): evidence needed for a flag, the first row whose samples are stored, and n if
# one of n frames is sampled.
THRESHOLD, FIRST_ROW, ONE_IN = range(3)
LIMITS = 3
# Indices in ``counts`` (int64 [COUNTS]), which are added to: samples, samples compared with all types, flags.
SAMPLED, COMPARED, RAISED = range(3)
COUNTS = 3

SLOW_S = 5.0
MAX_EVIDENCE, MIN_EVIDENCE = 4.0, -1.0  # evidence of one sample
OWN_DOWN = -0.35  # evidence of a usual sample: one frame of another type in ten still adds up
FIT = -10.0  # log-likelihood of a sample below which it is not from a device of the type
STRANGE = -6.0  # log-likelihood of a mask below which it belongs to no type
USUAL = -0.7  # log-likelihood of a mask that the device is known to send
FAR = 16.0  # squared deviations at which a normal distribution's tail is cut: rare is not impossible
NEAR = 6.0  # within this many squared deviations a sample is usual
VOTES = 16  # samples that decide the type of a device
MIN_VOTES = 4  # minimum lead of the winner
LEARN = 16  # samples in which a device's habits are learned
KNOWN_HITS = 16  # samples with a mask after which it counts as one of the device's own
MEMORY = 1.0 / 64.0
MIN_INTERVAL_VAR, MIN_SIZE_VAR = 0.01, 0.0025
_TYPE, _MIXED, _ODD = np.uint8(Cause.TYPE), np.uint8(Cause.IMPERSONATION), np.uint8(Cause.ODD)
_MIX, _ONE, _LOW = np.uint64(0x9E3779B97F4A7C15), np.uint64(1), np.uint64(0xFFFFFFFF)
_BIT_MIX, _BIT_SHIFT = np.uint64(BIT_MIX), np.uint64(BIT_SHIFT)


@kernel(uint64(U64, int64, int64), borrows=True, inlined=True)
def mask_of(field_path: npt.NDArray[np.uint64], first: int, end: int) -> np.uint64:
    """The mask of the fields ``first`` to ``end``, see :func:`klais.core.fingerprint.record.bit_of`."""
    mask = np.uint64(0)
    for j in range(first, end):
        low = (field_path[j] & _LOW) * _BIT_MIX & _LOW
        mask |= _ONE << (low >> _BIT_SHIFT)
    return mask


@kernel(float64(float64, float64, float64), borrows=True, inlined=True)
def normal(x: float, mean: float, variance: float) -> float:
    """Log-density without its constant, with a cut tail."""
    difference = x - mean
    return float(-0.5 * min(FAR, difference * difference / variance) - 0.5 * np.log(variance))


@kernel(float64(TABLES, int64, uint64), borrows=True, inlined=True)
def mask_fit(tables: npt.NDArray[np.float32], k: int, mask: int) -> float:
    """Log-likelihood of a mask under type ``k``."""
    out = 0.0
    for b in range(8):
        out += np.float64(tables[k, b, np.int64(np.uint64(mask) >> np.uint64(8 * b) & np.uint64(255))])
    return out


@kernel(float64(TYPES, int64, uint64, float64, float64), borrows=True, inlined=True)
def type_fit(types: Types, k: int, mask: int, interval: float, size: float) -> float:
    """Log-likelihood of a sample under type ``k``; a NaN interval is ignored."""
    tables, normals = types
    out = mask_fit(tables, k, mask)
    if interval == interval:
        z = (interval - normals[k, 0]) * normals[k, 1]
        out += normals[k, 2] - 0.5 * min(FAR, z * z)
    z = (size - normals[k, 3]) * normals[k, 4]
    return float(out + normals[k, 5] - 0.5 * min(FAR, z * z))


@kernel(int64(TYPES, int64, uint64, float64, float64, F64), borrows=True)
def best_type(types: Types, other: int, mask: int, interval: float, size: float, fit: npt.NDArray[np.float64]) -> int:
    """The type other than ``other`` that a sample fits best, coded as in PRINT; 0 = none. ``fit[0]``: its fit, out."""
    best, fit[0] = 0, -1e30
    for k in range(types[1].shape[0]):
        if k + 1 != other:
            found = type_fit(types, k, mask, interval, size)
            if found > fit[0]:
                best, fit[0] = k + 1, found
    return int(best)


@kernel(void(PRINTS, int64), borrows=True)
def forget_habits(prints: Prints, r: int) -> None:
    """Relearn the device's habits; its type stays."""
    prints["samples"][r] = np.uint16(0)
    prints["candidate"][r] = prints["run"][r] = prints["own"][r] = np.uint8(0)
    prints["evidence"][r] = prints["interval"][r] = prints["size"][r] = np.float32(0.0)
    prints["interval_var"][r] = prints["size_var"][r] = np.float32(0.0)
    for k in range(SHAPES):
        prints["shape"][r, k] = np.uint32(0)
        prints["hits"][r, k] = np.uint8(0)


@kernel(void(PRINTS, int64, int64), borrows=True)
def empty_print(prints: Prints, r: int, owner: int) -> None:
    """Reset the fingerprint for the device that now has row ``r``."""
    prints["owner"][r] = np.uint32(owner)
    prints["type"][r] = prints["flag_count"][r] = prints["before"][r] = np.uint8(0)
    prints["since_s"][r] = prints["typed_s"][r] = np.uint32(0)
    forget_habits(prints, r)


@kernel(int64(PRINTS, int64, uint64, int64), borrows=True)
def note_shape(prints: Prints, r: int, mask: int, learn: int) -> int:
    """Count a mask; returns whether the device is known to send it. A new mask replaces one that is rare."""
    shape = np.uint32((np.uint64(mask) * _MIX) >> np.uint64(32)) | np.uint32(1)
    weakest = 0
    for k in range(SHAPES):
        if prints["shape"][r, k] == shape:
            known = prints["hits"][r, k] >= KNOWN_HITS
            if prints["hits"][r, k] < np.uint8(250):
                prints["hits"][r, k] += np.uint8(1)
            return int(known)
        if prints["hits"][r, k] < prints["hits"][r, weakest]:
            weakest = k
    if prints["hits"][r, weakest] > np.uint8(0) and learn == 0:
        prints["hits"][r, weakest] -= np.uint8(1)
    else:
        prints["shape"][r, weakest] = shape
        prints["hits"][r, weakest] = np.uint8(KNOWN_HITS) if learn != 0 else np.uint8(1)
    return int(learn)


@kernel(void(PRINTS, int64, float64, float64), borrows=True)
def learn_habits(prints: Prints, r: int, interval: float, size: float) -> None:
    """Learn means and variances of the device, exponentially weighted (Finch 2009, eq. 140 to 143)."""
    n = np.float64(prints["samples"][r])
    weight = max(MEMORY, 1.0 / (n + 1.0))
    if interval == interval:
        # The first frame has no interval: an empty mean is set to the first one.
        far = interval - np.float64(prints["interval"][r]) if prints["interval_var"][r] > 0.0 else 0.0
        mean = np.float64(prints["interval"][r]) if prints["interval_var"][r] > 0.0 else interval
        prints["interval"][r] = np.float32(mean + weight * far)
        variance = (1.0 - weight) * (np.float64(prints["interval_var"][r]) + weight * far * far)
        prints["interval_var"][r] = np.float32(max(1e-6, variance))
    far = size - np.float64(prints["size"][r])
    prints["size"][r] = np.float32(np.float64(prints["size"][r]) + weight * far)
    variance = (1.0 - weight) * (np.float64(prints["size_var"][r]) + weight * far * far)
    prints["size_var"][r] = np.float32(variance)
    if prints["samples"][r] < np.uint16(65_535):
        prints["samples"][r] += np.uint16(1)


@kernel(void(PRINTS, int64, int64, int64), borrows=True)
def vote(prints: Prints, r: int, best: int, second: int) -> None:
    """Vote on the type of a device without one: the majority of its samples decides (Boyer and Moore 1981)."""
    if prints["evidence"][r] <= 0.0:
        prints["candidate"][r], prints["evidence"][r] = np.uint8(best), np.float32(1.0)
    elif prints["candidate"][r] == best:
        prints["evidence"][r] += np.float32(1.0)
    else:
        prints["evidence"][r] -= np.float32(1.0)
    prints["run"][r] += np.uint8(1)
    if prints["run"][r] >= VOTES:
        clear = prints["evidence"][r] >= MIN_VOTES
        prints["type"][r] = prints["candidate"][r] if clear else np.uint8(UNKNOWN)
        prints["typed_s"][r] = np.uint32(second)
        prints["candidate"][r] = prints["run"][r] = prints["own"][r] = np.uint8(0)
        prints["evidence"][r] = np.float32(0.0)


@kernel(void(PRINTS, int64, int64, float64, int64), borrows=True)
def weigh(prints: Prints, r: int, best: int, evidence: float, second: int) -> None:
    """Add the evidence of one sample for type ``best`` (0: for none)."""
    if prints["evidence"][r] <= 0.0:
        if evidence <= 0.0:
            return
        prints["candidate"][r], prints["since_s"][r] = np.uint8(best), np.uint32(second)
        prints["run"][r] = prints["own"][r] = np.uint8(0)
    elif evidence > 0.0 and prints["candidate"][r] != best:
        evidence = MIN_EVIDENCE
    elif evidence <= 0.0 and prints["own"][r] < np.uint8(250):
        prints["own"][r] += np.uint8(1)
    prints["evidence"][r] += np.float32(min(MAX_EVIDENCE, max(MIN_EVIDENCE, evidence)))
    if prints["run"][r] < np.uint8(250):
        prints["run"][r] += np.uint8(1)


@kernel(float64(PRINTS, int64, TYPES, uint64, int64, float64, float64, F64), borrows=True)
def against_types(
    prints: Prints,
    r: int,
    types: Types,
    mask: int,
    known: int,
    interval: float,
    size: float,
    fit: npt.NDArray[np.float64],
) -> float:
    """Evidence of a sample for the type in ``fit[1]``, out, relative to the device's own (above 0: it fits better)."""
    kind = int(prints["type"][r])
    own = USUAL if known != 0 else 1.25 * STRANGE
    strange = known == 0
    if known == 0 and kind != UNKNOWN:
        found = mask_fit(types[0], kind - 1, mask)
        own, strange = max(4.0 * STRANGE, found), found < STRANGE
    variance = max(MIN_INTERVAL_VAR, 1.2 * np.float64(prints["interval_var"][r]))
    if interval == interval and prints["interval_var"][r] > 0.0:
        own += normal(interval, np.float64(prints["interval"][r]), variance)
    variance = max(MIN_SIZE_VAR, 1.2 * np.float64(prints["size_var"][r]))
    own += normal(size, np.float64(prints["size"][r]), variance)
    best = best_type(types, kind, mask, interval, size, fit)
    if best != 0 and fit[0] >= FIT:
        fit[1] = best
        return float(fit[0] - own)
    fit[1] = UNKNOWN
    return MAX_EVIDENCE if strange else MIN_EVIDENCE


@kernel(int64(PRINTS, int64, TYPES, uint64, float64, float64, int64, F64, F64, I64), borrows=True)
def judge(
    prints: Prints,
    r: int,
    types: Types,
    mask: int,
    interval: float,
    size: float,
    second: int,
    fit: npt.NDArray[np.float64],
    limits: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
) -> int:
    """Process one sample; 1 when the evidence suffices for a flag."""
    learn = 1 if prints["samples"][r] < np.uint16(LEARN) else 0
    suspect = 1 if prints["evidence"][r] > 0.0 else 0
    known = note_shape(prints, r, mask, learn)
    evidence = OWN_DOWN
    if types[1].shape[0] == 0:
        evidence = 0.0
    elif prints["type"][r] == np.uint8(0):
        counts[COMPARED] += 1
        best = best_type(types, 0, mask, interval, size, fit)
        vote(prints, r, best if fit[0] >= FIT else UNKNOWN, second)
    elif learn == 0:
        far = size - np.float64(prints["size"][r])
        near = far * far <= NEAR * max(MIN_SIZE_VAR, np.float64(prints["size_var"][r]))
        if interval == interval:
            far = interval - np.float64(prints["interval"][r])
            near &= far * far <= NEAR * max(MIN_INTERVAL_VAR, np.float64(prints["interval_var"][r]))
        if known == 0 or not near:
            counts[COMPARED] += 1
            evidence = against_types(prints, r, types, mask, known, interval, size, fit)
        if evidence > 0.0 or suspect != 0:
            weigh(prints, r, int(fit[1]), evidence, second)
    if evidence <= 0.0:
        learn_habits(prints, r, interval, size)
    flag_count = np.float64(prints["flag_count"][r])
    voted = prints["type"][r] == np.uint8(0)
    return int(not voted and np.float64(prints["evidence"][r]) >= limits[THRESHOLD] * (1.0 + 0.5 * flag_count))


@kernel(void(PRINTS, int64, FLAGS, int64, int64, int64), borrows=True)
def write_type_flag(prints: Prints, r: int, flags: Flags, at: int, frame: int, second: int) -> None:
    """Write the flag of a device whose evidence suffices, and start to learn its new type."""
    kind, candidate = np.float64(prints["type"][r]), np.float64(prints["candidate"][r])
    run, own = np.float64(prints["run"][r]), np.float64(prints["own"][r])
    put_flag(flags, at, frame, OF_TYPE, candidate, kind, np.float64(prints["evidence"][r]), run)
    mixed = own >= 0.2 * run
    flags["cause"][at] = _ODD if candidate == UNKNOWN else _MIXED if mixed else _TYPE
    flags["since"][at] = np.uint8(age_code(np.float64(second) - np.float64(prints["since_s"][r])))
    flags["before"][at] = prints["flag_count"][r]
    if prints["flag_count"][r] < np.uint8(254):
        prints["flag_count"][r] += np.uint8(1)
    prints["before"][r] = prints["type"][r]
    sure = candidate != UNKNOWN and not mixed
    prints["type"][r] = prints["candidate"][r] if sure else np.uint8(0)
    prints["typed_s"][r] = prints["since_s"][r]
    forget_habits(prints, r)


@kernel(void(KEEP, int64, int64, uint64, float64, float64), borrows=True, inlined=True)
def keep_sample(keep: Keep, slot: int, owner: int, mask: int, interval: float, size: float) -> None:
    """Store a sample for training."""
    samples, kept, owners = keep
    if owners[slot] != np.uint32(owner):
        owners[slot], kept[slot] = np.uint32(owner), 0
    k = kept[slot] % KEPT
    samples["mask"][slot, k] = np.uint64(mask)
    samples["interval"][slot, k], samples["size"][slot, k] = np.float32(interval), np.float32(size)
    kept[slot] += 1


@kernel(int64(PRINTS, COLUMNS, int64, TYPES, KEEP, F64, F64, I64, FLAGS), borrows=True)
def observe(
    prints: Prints,
    columns: Columns,
    field_count: int,
    types: Types,
    keep: Keep,
    limits: npt.NDArray[np.float64],
    fit: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    flags: Flags,
) -> int:
    """Sample the admitted frames of a batch, in order; returns the number of flags written.

    ``fit`` float64 [2]: work space that kernels pass to each other. ``flags`` FLAG [k + 1], out: the first k flags;
    further ones are only counted.
    """
    row, ids, time_ns, lengths, interval_s, field_frame, field_path, _ = columns
    first_row, rare = np.int64(limits[FIRST_ROW]), np.uint64(limits[ONE_IN])
    f = at = 0
    for i in range(row.shape[0]):
        if interval_s[i] < -1.5:
            continue
        if interval_s[i] < SLOW_S:
            # Not only by the device's own numbers, so that senders cannot choose which of their frames are sampled.
            chance = (np.uint64(time_ns[i]) + ids[i, 0] + np.uint64(i)) * _MIX >> np.uint64(33)
            if chance % rare != np.uint64(0):
                continue
        while f < field_count and field_frame[f] < i:
            f += 1
        first = f
        while f < field_count and field_frame[f] == i:
            f += 1
        r, second = np.int64(row[i]), time_ns[i] // 1_000_000_000
        owner = owner_of(ids[i, 0], ids[i, 1])
        if prints["owner"][r] != owner:
            empty_print(prints, r, np.int64(owner))
        mask = mask_of(field_path, first, f)
        interval = np.log(max(1e-4, interval_s[i])) if interval_s[i] >= 0.0 else np.nan
        size = np.log(np.float64(max(1, lengths[i] - HEADER_SIZE)))
        counts[SAMPLED] += 1
        if 0 <= r - first_row < keep[1].shape[0]:
            keep_sample(keep, r - first_row, np.int64(owner), mask, interval, size)
        if judge(prints, r, types, mask, interval, size, second, fit, limits, counts) != 0:
            write_type_flag(prints, r, flags, at, i, second)
            counts[RAISED] += 1
            at = min(at + 1, flags.shape[0] - 1)
    return at
