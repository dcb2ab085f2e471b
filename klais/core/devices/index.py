"""Device index: 16 bytes of device_id -> row number, by open addressing with linear probing.

A slot is ``tag << 32 | row + 1`` (0 = empty), tag = upper half of the hash, so that a probe rarely reads another
device's row. The hash is SipHash-1-3 under a key that is random for each process and never stored, so that attackers
cannot choose device ids that collide. Removal leaves no marker: the following slots move up (Knuth, TAOCP vol. 3, 6.4,
algorithm R).
"""

import numpy as np
import numpy.typing as npt

from klais.core.devices.layout import ROW, ROW_VERSION, Rows
from klais.core.devices.siphash import hash_words
from klais.jit.kernel import F64, I32, I64, IDS, U8, U64, boolean, int64, kernel, record, uint8, uint64, void

ROWS = record(ROW)[::1]
_VERSION = np.uint8(ROW_VERSION)
_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(0xFFFFFFFF00000000)
# Indices in the ``room`` column (int64 [2]): number of rows ever in use, and number of entries in ``free``.
USED, FREE = 0, 1


@kernel(int64(U64, uint64, ROWS, uint64, uint64), borrows=True, inlined=True)
def probe(slots: npt.NDArray[np.uint64], h: int, rows: Rows, low: int, high: int) -> int:
    """Row of the device with hash ``h``, or ``-1 - slot`` where it would go. ``slots`` uint64 [2^k], never full."""
    mask = np.uint64(slots.shape[0] - 1)
    ids = rows["id"]
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


@kernel(int64(U64, U64, ROWS, uint64, uint64), borrows=True)
def find(slots: npt.NDArray[np.uint64], key: npt.NDArray[np.uint64], rows: Rows, low: int, high: int) -> int:
    """Like :func:`probe`, computing the hash under ``key`` uint64 [2]."""
    return int(probe(slots, hash_words(low, high, key), rows, low, high))


@kernel(void(U64, U64, ROWS, IDS, U8, I32, U64, F64), borrows=True)
def find_rows(
    slots: npt.NDArray[np.uint64],
    key: npt.NDArray[np.uint64],
    rows: Rows,
    ids: npt.NDArray[np.uint64],
    id_size: npt.NDArray[np.uint8],
    row: npt.NDArray[np.int32],
    hashes: npt.NDArray[np.uint64],
    scratch: npt.NDArray[np.float64],
) -> None:
    """Row of each of n frames (``row`` int32 [n], out), -1 = no readable id, or a device without a row.

    ``hashes`` uint64 [n] is scratch space for the hashes: computing them in a separate loop halves the time.
    ``scratch`` float64 [1] receives a meaningless sum, without which the compiler would remove the loads.
    """
    received, window, tokens, gaps = rows["received"], rows["hashes"], rows["tokens"], rows["gaps"]
    for i in range(ids.shape[0]):
        hashes[i] = hash_words(ids[i, 0], ids[i, 1], key)
    touched = 0.0
    for i in range(ids.shape[0]):
        row[i] = -1
        if id_size[i] == 0:
            continue
        r = probe(slots, hashes[i], rows, ids[i, 0], ids[i, 1])
        if r >= 0:
            row[i] = r
            # Read one word of every cache line: these loads run in parallel, while later kernels would wait for one
            # after another (at 250,000 devices per lane 285 ns per frame instead of 430).
            touched += np.float64(window[r, 0]) + np.float64(window[r, 16]) + np.float64(received[r])
            touched += tokens[r] + np.float64(gaps[r])
    scratch[0] = touched


@kernel(int64(U64, U64, ROWS, I32, I64, uint64, uint64, uint8), borrows=True)
def insert(
    slots: npt.NDArray[np.uint64],
    key: npt.NDArray[np.uint64],
    rows: Rows,
    free: npt.NDArray[np.int32],
    room: npt.NDArray[np.int64],
    low: int,
    high: int,
    id_size: int,
) -> int:
    """Insert a device that has no row: returns a zeroed row, freed or new. The caller has made room for it."""
    if room[FREE] > 0:
        room[FREE] -= 1
        r = np.int64(free[room[FREE]])
    else:
        r = room[USED]
        room[USED] += 1
    rows["id"][r, 0] = low
    rows["id"][r, 1] = high
    rows["id_size"][r] = id_size
    rows["version"][r] = _VERSION
    at = -1 - find(slots, key, rows, low, high)
    slots[at] = (np.uint64(hash_words(low, high, key)) & _HIGH) | np.uint64(r + 1)
    return int(r)


@kernel(void(U64, U64, ROWS, I32, I64, IDS, U8, I32), borrows=True)
def find_or_insert_rows(
    slots: npt.NDArray[np.uint64],
    key: npt.NDArray[np.uint64],
    rows: Rows,
    free: npt.NDArray[np.int32],
    room: npt.NDArray[np.int64],
    ids: npt.NDArray[np.uint64],
    id_size: npt.NDArray[np.uint8],
    row: npt.NDArray[np.int32],
) -> None:
    """Row of each of n devices (``row`` int32 [n], out), inserted if it has none. The caller has made room for n."""
    for i in range(ids.shape[0]):
        r = np.int64(find(slots, key, rows, ids[i, 0], ids[i, 1]))
        row[i] = r if r >= 0 else insert(slots, key, rows, free, room, ids[i, 0], ids[i, 1], id_size[i])


@kernel(void(U64, U64, ROWS, int64), borrows=True)
def remove(slots: npt.NDArray[np.uint64], key: npt.NDArray[np.uint64], rows: Rows, r: int) -> None:
    """Remove the device of row ``r`` from the index; the row itself stays unchanged."""
    mask = np.uint64(slots.shape[0] - 1)
    ids = rows["id"]
    hole = np.uint64(hash_words(ids[r, 0], ids[r, 1], key)) & mask
    while np.int64(slots[hole] & _LOW) != r + 1:
        hole = (hole + np.uint64(1)) & mask
    at = hole
    while True:
        at = (at + np.uint64(1)) & mask
        slot = slots[at]
        if slot == np.uint64(0):
            break
        other = np.int64(slot & _LOW) - 1
        home = np.uint64(hash_words(ids[other, 0], ids[other, 1], key)) & mask
        # It may fill the hole unless that would put it before its home slot.
        if ((at - home) & mask) >= ((at - hole) & mask):
            slots[hole] = slot
            hole = at
    slots[hole] = np.uint64(0)


@kernel(boolean(U64, U64, ROWS, int64), borrows=True)
def build_index(slots: npt.NDArray[np.uint64], key: npt.NDArray[np.uint64], rows: Rows, used: int) -> bool:
    """Fill empty ``slots`` from the first ``used`` rows (skipping free ones); False if a device occurs twice."""
    ids = rows["id"]
    for r in range(used):
        if rows["id_size"][r] == 0:
            continue
        at = find(slots, key, rows, ids[r, 0], ids[r, 1])
        if at >= 0:
            return False
        slots[-1 - at] = (np.uint64(hash_words(ids[r, 0], ids[r, 1], key)) & _HIGH) | np.uint64(r + 1)
    return True
