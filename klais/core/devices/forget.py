"""Devices are forgotten: those silent for long, and the longest silent ones while a lane knows nearly its most.

Devices that sign are never chosen, and their rows stay when somebody names them: a row has the highest epoch and number
of its device, and without it a recorded frame would be a new device's. Nobody can invent such devices.
"""

import numpy as np
import numpy.typing as npt

from klais.core.devices.index import FREE, ROWS, find, remove
from klais.core.devices.layout import Rows
from klais.jit.kernel import I32, I64, IDS, U8, U64, int64, kernel, uint8, void

EVICT_ABOVE = 0.9  # of the devices that a lane may know: above, the longest silent ones are forgotten
ALARM_ABOVE = 0.8  # of them: above, the lane says so
TALKS_S = 10  # a device heard of within this time is never evicted
MOST = 10_000  # devices in one step: 160 KB in the journal

_BYTES = uint8[:, ::1]


def choose(rows: Rows, used: int, devices: int, limit: int, now_s: int, forget_s: float) -> npt.NDArray[np.uint8]:
    """Ids of devices to forget now, padded, at most ``MOST``: uint8 [k, 16].

    Parameters
    ----------
    rows : ROW [>= used]
        Of which ``used`` were ever in use and ``devices`` are devices.
    limit : int
        Devices the lane may know.
    now_s : int
        Worker's clock (s since the epoch): silence is counted from when a lane took a frame, whatever an edge's clock
        says.
    forget_s : float
        A device silent for longer is forgotten, however many there are.
    """
    heard_s = rows["heard_s"][:used].astype(np.int64)
    heard_s[(rows["id_size"][:used] == 0) | (rows["epoch"][:used] > 0)] = now_s
    over = devices - int(EVICT_ABOVE * limit)
    silent = heard_s < now_s - forget_s
    count = int(np.count_nonzero(silent))
    if over > count:
        silent = heard_s < now_s - TALKS_S
        count = min(over, int(np.count_nonzero(silent)))
    count = min(count, MOST)
    if count == 0:
        return np.empty((0, 16), np.uint8)
    index = np.argpartition(heard_s, count - 1)[:count]
    return rows["id"][index].view(np.uint8)  # type: ignore[no-any-return]


@kernel(void(U64, U64, ROWS, _BYTES, I32, I64, IDS, int64, int64, U8), borrows=True)
def forget_rows(
    slots: npt.NDArray[np.uint64],
    key: npt.NDArray[np.uint64],
    rows: Rows,
    row_bytes: npt.NDArray[np.uint8],
    free: npt.NDArray[np.int32],
    room: npt.NDArray[np.int64],
    ids: npt.NDArray[np.uint64],
    step: int,
    clean_step: int,
    done: npt.NDArray[np.uint8],
) -> None:
    """Take the devices ``ids`` uint64 [k, 2] out, as of ``step``; ``done`` uint8 [k]: 1 where there was a row to take
    out.

    A row that changed at ``step`` or later stays (replay over a half-written checkpoint: the device came back). A row
    on the dirty list stays on it, and keeps a stamp that says so, for the device that gets it next. ``row_bytes`` uint8
    [m, 360] are ``rows``.
    """
    for i in range(ids.shape[0]):
        done[i] = 0
        r = find(slots, key, rows, ids[i, 0], ids[i, 1])
        if r < 0 or rows["stamp"][r] >= np.uint64(step) or rows["epoch"][r] != np.uint32(0):
            continue
        remove(slots, key, rows, r)
        dirty = rows["stamp"][r] > np.uint64(clean_step)
        row_bytes[r, :] = np.uint8(0)
        if dirty:
            rows["stamp"][r] = np.uint64(step)
        free[room[FREE]] = r
        room[FREE] += 1
        done[i] = 1
