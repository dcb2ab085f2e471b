"""Device index: 16 bytes of device_id -> row number, by open addressing with linear probing.

A slot is ``tag << 32 | row + 1`` (0 = empty), tag = upper half of the hash, so that a probe rarely touches a foreign
row. The hash is a seeded multiply-mix (after Stafford's variant 13 of the murmur3 finaliser): the seed is random for
each process and never stored, so that nobody can choose device ids that collide.
"""

import numba
import numpy as np
import numpy.typing as npt

from klais.core.devices.layout import ROW, ROW_VERSION, Rows
from klais.core.wire.constants import FIRST_MALFORMED, Reason
from klais.jit.kernel import F64, I32, IDS, U8, U64, boolean, int64, kernel, uint64

ROWS = numba.from_dtype(ROW)[::1]
_FIRST_MALFORMED = np.uint8(FIRST_MALFORMED)
_DEVICE_LIMIT = np.uint8(Reason.DEVICE_LIMIT)
_VERSION = np.uint8(ROW_VERSION)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(0xFFFFFFFF00000000)


@kernel(uint64(uint64, uint64, uint64), borrows=True)
def mix(low: int, high: int, seed: int) -> int:
    """64-bit hash of two words."""
    h = (low ^ seed) * _GOLDEN
    h ^= h >> np.uint64(32)
    h = (h ^ high) * _M1
    h ^= h >> np.uint64(27)
    h *= _M2
    return int(h ^ (h >> np.uint64(31)))


@kernel(int64(U64, uint64, ROWS, uint64, uint64), borrows=True)
def find(slots: npt.NDArray[np.uint64], seed: int, rows: Rows, low: int, high: int) -> int:
    """Row of the device, or ``-1 - slot`` where it would go. ``slots`` uint64 [2^k], never full."""
    mask = np.uint64(slots.shape[0] - 1)
    ids = rows["id"]
    h = mix(low, high, seed)
    at = h & mask
    while True:
        slot = slots[at]
        if slot == np.uint64(0):
            return -1 - int(at)
        if (slot & _HIGH) == (h & _HIGH):
            r = np.int64(slot & _LOW) - 1
            if ids[r, 0] == low and ids[r, 1] == high:
                return int(r)
        at = (at + np.uint64(1)) & mask


@kernel(int64(U64, uint64, ROWS, int64, int64, IDS, U8, U8, I32, F64), borrows=True)
def find_rows(
    slots: npt.NDArray[np.uint64],
    seed: int,
    rows: Rows,
    used: int,
    limit: int,
    ids: npt.NDArray[np.uint64],
    id_size: npt.NDArray[np.uint8],
    verdict: npt.NDArray[np.uint8],
    row: npt.NDArray[np.int32],
    scratch: npt.NDArray[np.float64],
) -> int:
    """Row of each of n frames (``row`` int32 [n], -1 = none); well-formed frames of unknown devices get a new one.

    ``verdict`` uint8 [n] is read (malformed frames and DEVICE_LIMIT never make a row) and set to DEVICE_LIMIT where
    ``used`` has reached ``limit``. The caller has made room for n more rows and slots. ``scratch`` float64 [1] takes a sum
    that means nothing (without a use the compiler would leave the loads out). Returns the new ``used``.
    """
    row_ids = rows["id"]
    row_id_size = rows["id_size"]
    row_version = rows["version"]
    received, hashes, flag_value, mean, var = rows["received"], rows["hashes"], rows["flag_value"], rows["mean"], rows["var"]
    touched = 0.0
    for i in range(ids.shape[0]):
        row[i] = -1
        if id_size[i] == 0:
            continue
        r = find(slots, seed, rows, ids[i, 0], ids[i, 1])
        if r >= 0:
            row[i] = r
            # One word of every cache line: these loads run side by side, later kernels would wait for one after another
            # (at 250,000 devices a lane 285 ns a frame instead of 430).
            touched += np.float64(hashes[r, 16]) + np.float64(received[r]) + flag_value[r]
            touched += mean[r, 0] + mean[r, 8] + np.float64(var[r, 9])
        elif verdict[i] < _DEVICE_LIMIT:
            if used >= limit:
                verdict[i] = _DEVICE_LIMIT
                continue
            at = -1 - r
            row_ids[used, 0] = ids[i, 0]
            row_ids[used, 1] = ids[i, 1]
            row_id_size[used] = id_size[i]
            row_version[used] = _VERSION
            slots[at] = (mix(ids[i, 0], ids[i, 1], seed) & _HIGH) | np.uint64(used + 1)
            row[i] = used
            used += 1
    scratch[0] = touched
    return used


@kernel(boolean(U64, uint64, ROWS, int64), borrows=True)
def build_index(slots: npt.NDArray[np.uint64], seed: int, rows: Rows, used: int) -> bool:
    """Fill empty ``slots`` from the first ``used`` rows; False when a device stands there twice."""
    ids = rows["id"]
    for r in range(used):
        at = find(slots, seed, rows, ids[r, 0], ids[r, 1])
        if at >= 0:
            return False
        slots[-1 - at] = (mix(ids[r, 0], ids[r, 1], seed) & _HIGH) | np.uint64(r + 1)
    return True
