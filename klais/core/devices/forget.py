"""Choose devices to forget: the long silent ones, and more when a lane approaches its maximum number of devices.

Devices that sign are never chosen, and their rows stay even if they are named explicitly. A row has the highest epoch
and number of its device; without it a recorded frame would count as a new device's. Attackers cannot invent such
devices.
"""

import numpy as np
import numpy.typing as npt

from klais.core.devices.index import FREE, ROWS, find, remove
from klais.core.devices.layout import Rows
from klais.jit.kernel import I32, I64, IDS, U8, U64, int64, kernel, uint8, void

EVICT_ABOVE = 0.9  # share of a lane's maximum of devices above which the longest silent ones are forgotten
ALARM_ABOVE = 0.8  # share above which the lane logs a warning
ACTIVE_S = 10  # a device seen within this time is never evicted
MAX_FORGOTTEN = 10_000  # devices of one call: the rest is chosen in the next

_BYTES = uint8[:, ::1]


def choose(rows: Rows, used: int, devices: int, limit: int, now_s: int, forget_s: float) -> npt.NDArray[np.uint8]:
    """Ids of devices to forget now, padded, at most ``MAX_FORGOTTEN``: uint8 [k, 16].

    Parameters
    ----------
    rows : ROW [>= used]
        The first ``used`` were ever in use; ``devices`` of them are devices.
    limit : int
        Maximum number of devices of the lane.
    now_s : int
        Worker's clock (s since the epoch): silence is measured from when a lane took a frame, whatever the edge's
        clock shows.
    forget_s : float
        A device that is silent for longer is forgotten, even if there is room.
    """
    last_seen_s = rows["last_seen_s"][:used].astype(np.int64)
    last_seen_s[(rows["id_size"][:used] == 0) | (rows["epoch"][:used] > 0)] = now_s
    over = devices - int(EVICT_ABOVE * limit)
    silent = last_seen_s < now_s - forget_s
    count = int(np.count_nonzero(silent))
    if over > count:
        silent = last_seen_s < now_s - ACTIVE_S
        count = min(over, int(np.count_nonzero(silent)))
    count = min(count, MAX_FORGOTTEN)
    if count == 0:
        return np.empty((0, 16), np.uint8)
    index = np.argpartition(last_seen_s, count - 1)[:count]
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
    """Remove the devices ``ids`` uint64 [k, 2] as of ``step``; ``done`` uint8 [k]: 1 if there was a row to remove.

    A row that changed at ``step`` or later stays (replay over a half-written checkpoint: the device came back). A row
    on the dirty list stays on it, with a stamp that shows that, for the device that gets the row next. ``row_bytes``
    uint8 [m, 360] are ``rows``.
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
