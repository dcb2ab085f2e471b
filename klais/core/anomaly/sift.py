"""The two stages of scoring: every frame passes its device's gate, few values are passed on to a channel.

A value is passed to its channel (:mod:`klais.core.anomaly.closer`) when the device's scoring period is over, so that
slow devices are scored at each frame, and immediately when it leaves the band of its gate. The caller states how many
values the step may score; values above that are counted and get their next chance in the next period.
"""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.arena import STORE, Store, drop_channel, find_channel, free_channels
from klais.core.anomaly.channel import CAUSE, MIN_VALUE, WARM_ROWS
from klais.core.anomaly.closer import score_value, write_absent_flags, write_flag, write_rhythm_flag
from klais.core.anomaly.detector import COLUMNS, SWEEP, Columns, field_slot, owner_of
from klais.core.anomaly.flags import FLAGS
from klais.core.anomaly.gate import empty_gate, empty_slot, observe_fields
from klais.core.anomaly.record import OF_SIZE, Flags
from klais.core.anomaly.rhythm import advance_clock, observe_rhythm
from klais.core.wire.constants import HEADER_SIZE
from klais.jit.kernel import F64, I64, group, int64, kernel, uint64, void

# Indices in ``limits`` (float64 [LIMITS]): the scoring period (tenths of a second), the threshold of a flag, values
# that the step may score, devices that the lane knows.
PERIOD_DS, FLAG_AT, MAX_VALUES, DEVICES = range(4)
LIMITS = 4
# Indices in ``counts`` (int64 [COUNTS]), which are added to: values scored, values above the step's limit, values
# scored immediately because they left their band, values without a channel, flags raised.
SCORED, SKIPPED, OPENED, HOMELESS, RAISED = range(5)
COUNTS = 5
FLAGS_A_FRAME = 12  # at most: rhythm, size, and one for each slot
SCRATCH = group((F64, F64))
Scratch = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""``now`` (float64 [NOW]) and ``seen`` (float64 [SEEN]): work space that kernels pass to each other."""


@kernel(void(STORE, int64, uint64), borrows=True)
def sweep(store: Store, r: int, path: int) -> None:
    """Assign ``path`` the slot of a field that was not sent since the last sweep, or else of one that never changed."""
    gates, light, _, _, _ = store
    used, chosen = np.int64(gates["used"][r]), -1
    for k in range(np.int64(gates["slots"][r])):
        if used >> k & 1 == 0:
            chosen = k
            break
    for k in range(np.int64(gates["slots"][r])):
        handle = find_channel(store, r, 1 + k) if chosen < 0 else 0
        if handle <= 0 or light["rows"][handle - 1] <= WARM_ROWS:
            continue
        if light["up"][handle - 1] == np.uint16(0) and light["down"][handle - 1] == np.uint16(0):
            chosen = k
    if chosen >= 0:
        drop_channel(store, r, 1 + chosen)
        empty_slot(gates, r, chosen)
        gates["path"][r, chosen] = np.uint32(path)
    gates["used"][r] = gates["misses"][r] = np.uint8(0)


@kernel(int64(STORE, COLUMNS, int64, int64, int64, F64, int64, SCRATCH, I64, FLAGS, int64), borrows=True, inlined=True)
def sift_values(
    store: Store,
    columns: Columns,
    i: int,
    first: int,
    end: int,
    limits: npt.NDArray[np.float64],
    regular: int,
    scratch: Scratch,
    counts: npt.NDArray[np.int64],
    flags: Flags,
    at: int,
) -> int:
    """Compare size and fields (``first`` to ``end``) of frame ``i`` with their bands; score the ones that leave them.

    Returns the index of the next flag.
    """
    gates, now = store[0], scratch[0]
    row, _, time_ns, lengths, _, _, field_path, field_value = columns
    r, t, here = np.int64(row[i]), time_ns[i] * 1e-9, np.int64(0)
    for j in range(first - 1, end):
        feature, x = 0, np.float64(lengths[i] - HEADER_SIZE)
        if j >= first:
            slot = field_slot(
                gates["path"], gates["slots"], gates["used"], gates["misses"], r, np.uint32(field_path[j]), j - first
            )
            if slot == SWEEP:
                sweep(store, r, field_path[j])
            if slot < 0:
                continue
            here |= np.int64(1) << slot
            feature, x = 1 + slot, field_value[j]
            if abs(x) < MIN_VALUE:
                x = 0.0  # type: ignore[assignment]
        inside = gates["low"][r, feature] <= x <= gates["high"][r, feature]
        if inside and regular == 0:
            continue
        if np.float64(counts[SCORED]) >= limits[MAX_VALUES]:
            counts[SKIPPED] += 1
            continue
        counts[SCORED] += 1
        counts[OPENED] += 1 - regular
        handle = score_value(store, r, feature, t, x, limits[FLAG_AT], now)
        if handle == 0:
            counts[HOMELESS] += 1
        elif now[CAUSE] > 0.0:
            at = write_flag(store, handle, t, flags, at, i, j - first if j >= first else OF_SIZE, x, now)
    if here != np.int64(gates["steady"][r]) or gates["waiting"][r] != np.uint8(0):
        missing = observe_fields(gates, r, here)
        if missing != 0:
            at = write_absent_flags(gates, r, missing, flags, at, i)
    return at


@kernel(int64(STORE, F64, COLUMNS, int64, F64, SCRATCH, I64, FLAGS), borrows=True)
def sift(
    store: Store,
    fleet: npt.NDArray[np.float64],
    columns: Columns,
    field_count: int,
    limits: npt.NDArray[np.float64],
    scratch: Scratch,
    counts: npt.NDArray[np.int64],
    flags: Flags,
) -> int:
    """Pass the admitted frames of a batch through their gates, in order; returns the number of flags written.

    ``counts`` begins at 0; ``flags`` FLAG [k + FLAGS_A_FRAME], out: the first k flags; further ones are only counted.
    """
    gates, seen = store[0], scratch[1]
    row, ids, time_ns, _, interval_s, field_frame, _, _ = columns
    period_ds, period_s, devices = np.uint32(limits[PERIOD_DS]), limits[PERIOD_DS] * 0.1, int(limits[DEVICES])
    last = flags.shape[0] - FLAGS_A_FRAME
    f = at = 0
    for i in range(row.shape[0]):
        first = f
        while f < field_count and field_frame[f] == i:
            f += 1
        if interval_s[i] < -1.5:
            continue
        r, written = np.int64(row[i]), at
        owner = owner_of(ids[i, 0], ids[i, 1])
        if gates["owner"][r] != owner:
            free_channels(store, r)
            empty_gate(gates, r, owner)
        clock_s = advance_clock(fleet, time_ns[i] * 1e-9, devices)
        known = 1 if interval_s[i] >= 0.0 else 0
        cause = observe_rhythm(gates, r, known, clock_s, period_s, fleet, devices, seen)
        if cause != 0:
            at = write_rhythm_flag(gates, r, cause, seen, flags, at, i)
        ds = np.uint32(time_ns[i] // 100_000_000 & 0xFFFFFFFF)
        regular = 1 if np.uint32(ds - gates["scored_ds"][r]) >= period_ds else 0
        if regular == 1:
            gates["scored_ds"][r] = ds
        at = sift_values(store, columns, i, first, f, limits, regular, scratch, counts, flags, at)
        counts[RAISED] += at - written
        at = min(at, last)
    return at
