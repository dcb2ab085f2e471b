"""Full scoring of one value: score it with its channel, set its band, write a flag."""

import numpy as np
import numpy.typing as npt

from klais.core.anomaly.arena import STORE, Store, find_channel, new_light
from klais.core.anomaly.channel import (
    CAUSE,
    EXPECTED,
    FLOOR_QUANTA,
    FLOOR_SHARE,
    INPUT,
    QUANTUM,
    REPORT,
    ROW,
    SCALE,
    USUAL_NOW,
    WARM_ROWS,
)
from klais.core.anomaly.flags import FLAGS, age_code, put_flag
from klais.core.anomaly.full import score_full
from klais.core.anomaly.gate import GATES, Gates
from klais.core.anomaly.light import score_light
from klais.core.anomaly.promote import promote
from klais.core.anomaly.record import OF_ABSENT, OF_INTERVAL, Cause, Flags
from klais.core.anomaly.rhythm import INTERVAL_S, SCORE, USUAL_S, USUAL_SIZE
from klais.jit.kernel import F64, float64, int64, kernel, void

BAND = 4.0  # half the width of a band, in usual sizes: values inside can wait
_ABSENT, _STUCK, _NOISE = int(Cause.ABSENT), int(Cause.STUCK), int(Cause.NOISE)


@kernel(void(GATES, int64, int64, float64, float64, float64, F64), borrows=True)
def set_band(
    gates: Gates, r: int, band: int, x: float, usual: float, counter: float, now: npt.NDArray[np.float64]
) -> None:
    """Set the band of a feature around its newest and its usual value (``usual``: size of a deviation)."""
    if counter > 0.0 or now[ROW] <= WARM_ROWS:  # a rate needs the whole period; a new series has no band yet
        gates["low"][r, band], gates["high"][r, band] = -np.inf, np.inf
        return
    width = BAND * max(usual, max(FLOOR_QUANTA * now[QUANTUM], FLOOR_SHARE * abs(x)))
    gates["low"][r, band] = np.float32(min(x, now[USUAL_NOW]) - width)
    gates["high"][r, band] = np.float32(max(x, now[USUAL_NOW]) + width)


@kernel(int64(STORE, int64, int64, float64, float64, float64, F64), borrows=True)
def score_value(
    store: Store, r: int, feature: int, t: float, x: float, threshold: float, now: npt.NDArray[np.float64]
) -> int:
    """Score one value with its channel and set its band; returns the channel's handle, 0 if it got none.

    CAUSE of ``now`` is above 0 for a flag; the channel is then promoted to the full tier.
    """
    gates, light, full, _, _ = store
    now[CAUSE] = 0.0
    handle = find_channel(store, r, feature)
    if handle == 0:
        handle = new_light(store, r, feature, t)
        if handle == 0:
            gates["low"][r, feature] = min(gates["low"][r, feature], np.float32(x))
            gates["high"][r, feature] = max(gates["high"][r, feature], np.float32(x))
            return 0
        if gates["watched"][r] == np.uint8(1):
            handle = promote(store, handle)
    now[ROW] = 0.0
    by_rows = 1 if feature == 0 else 0
    if handle > 0:
        k = handle - 1
        score_light(light, k, t, x, by_rows, threshold, now)
        usual, counter = np.sqrt(np.float64(light["stored"][k, 7])), np.float64(light["mode"][k])
    else:
        k = -handle - 1
        score_full(full, k, t, x, by_rows, threshold, now)
        usual, counter = np.sqrt(np.float64(full["usual"][k, 3])), np.float64(full["mode"][k])
    set_band(gates, r, feature, x, usual, counter, now)
    if now[CAUSE] > 0.0 and handle > 0:
        handle = promote(store, handle)
    return int(handle)


@kernel(int64(STORE, int64, float64, FLAGS, int64, int64, int64, float64, F64), borrows=True)
def write_flag(
    store: Store,
    handle: int,
    t: float,
    flags: Flags,
    at: int,
    frame: int,
    nth: int,
    x: float,
    now: npt.NDArray[np.float64],
) -> int:
    """Write the flag in ``now``; returns the index of the next one."""
    _, light, full, _, _ = store
    k = handle - 1 if handle > 0 else -handle - 1
    earlier_flags = max(light["flag_count"][k] if handle > 0 else full["flag_count"][k], np.uint8(1)) - np.uint8(
        1
    )  # excludes this one
    began_s = np.float64(light["began_s"][k] if handle > 0 else full["began_s"][k])
    run, spacing = np.float64(0.0), np.float64(0.0)
    if handle > 0:
        run, spacing = np.float64(light["run"][k]), np.float64(light["spacing"][k])
    else:
        run, spacing = np.float64(full["run"][k]), np.float64(full["spacing"][k])
    cause = np.int64(now[CAUSE])
    stuck = cause & 31 == _STUCK
    value = x if cause < 32 or stuck else now[INPUT]
    if cause & 31 == _NOISE:
        value = now[SCALE]
    score = now[REPORT] if not stuck else run * spacing / max(now[SCALE], 1e-9)
    put_flag(flags, at, frame, nth, value, now[EXPECTED], score, now[SCALE])
    flags["cause"][at], flags["before"][at] = np.uint8(cause), earlier_flags
    flags["since"][at] = np.uint8(age_code(run * spacing if stuck else t - began_s))
    return at + 1


@kernel(int64(GATES, int64, int64, F64, FLAGS, int64, int64), borrows=True)
def write_rhythm_flag(
    gates: Gates, r: int, cause: int, seen: npt.NDArray[np.float64], flags: Flags, at: int, frame: int
) -> int:
    """Write a flag of the device's rhythm; returns the index of the next one."""
    put_flag(flags, at, frame, OF_INTERVAL, seen[INTERVAL_S], seen[USUAL_S], seen[SCORE], seen[USUAL_SIZE])
    flags["cause"][at], flags["before"][at] = np.uint8(cause), gates["rhythm_flag_count"][r]
    gates["rhythm_flag_count"][r] = min(gates["rhythm_flag_count"][r], np.uint8(254)) + np.uint8(1)
    return at + 1


@kernel(int64(GATES, int64, int64, FLAGS, int64, int64), borrows=True)
def write_absent_flags(gates: Gates, r: int, missing: int, flags: Flags, at: int, frame: int) -> int:
    """Write a flag for each field in the bits ``missing``; returns the index of the next one."""
    for k in range(gates["path"].shape[1]):
        if missing >> k & 1 == 1:
            path, absent = np.float64(gates["path"][r, k]), np.float64(gates["absent"][r, k])
            put_flag(flags, at, frame, OF_ABSENT, path, 0.0, absent, 0.0)
            flags["cause"][at] = np.uint8(_ABSENT)
            flags["before"][at] = gates["flag_count"][r, k] - np.uint8(1)
            gates["absent"][r, k] = np.uint8(0)
            at += 1
    return at
