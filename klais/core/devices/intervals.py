"""Intervals between a device's admitted frames and their mean: the device's rhythm as a lane knows it.

Intervals are measured only between two frames that the same edge received, with increasing times: the clocks of edges
differ, and can be set.
"""

import numpy as np
import numpy.typing as npt

from klais.core.devices.index import ROWS
from klais.core.devices.layout import Rows
from klais.core.wire.constants import Reason
from klais.jit.kernel import F64, I32, I64, U8, float64, int64, kernel, void

MEMORY = 500.0  # number of intervals in the mean's memory
LONG_AFTER = 8  # after this many intervals, a long one counts as at most
LONG = 4.0  # this many means above the mean, so that one silence does not distort the mean
_MAX_INTERVALS = np.uint16(65_535)
_QUEUED = np.uint8(Reason.QUEUED)


@kernel(void(ROWS, int64, float64), borrows=True, inlined=True)
def learn_interval(rows: Rows, r: int, interval_s: float) -> None:
    """Learn one interval (s) in an exponentially weighted mean, which is a plain mean up to ``MEMORY`` intervals."""
    n, mean = np.float64(rows["intervals"][r]), np.float64(rows["interval_s"][r])
    difference = interval_s - mean
    if n >= LONG_AFTER:
        difference = min(difference, LONG * mean + 1.0)
    rows["interval_s"][r] = np.float32(mean + difference / min(n + 1.0, MEMORY))
    if rows["intervals"][r] < _MAX_INTERVALS:
        rows["intervals"][r] += np.uint16(1)


@kernel(void(ROWS, I32, I64, U8, U8, int64, F64), borrows=True)
def note_admitted(
    rows: Rows,
    row: npt.NDArray[np.int32],
    time_ns: npt.NDArray[np.int64],
    verdict: npt.NDArray[np.uint8],
    skip: npt.NDArray[np.uint8],
    edge: int,
    interval_s: npt.NDArray[np.float64],
) -> None:
    """Record the admitted frames (PASSED, QUEUED) of a batch in their rows, in order.

    Parameters
    ----------
    row, time_ns, verdict, skip : [n]
        Columns of the frames; ``skip`` 1 = the row already contains this step (replay).
    edge : int
        The edge that received the batch.
    interval_s : float64 [n], out
        Seconds since the device's last admitted frame; -1 where unknown, -2 where the frame was not admitted.
    """
    last, admitted, edges = rows["last_ns"], rows["admitted"], rows["edge"]
    for i in range(row.shape[0]):
        r = np.int64(row[i])
        interval_s[i] = -2.0
        if r < 0 or skip[i] != 0 or verdict[i] > _QUEUED:
            continue
        known = admitted[r] > np.uint64(1) and np.int64(edges[r]) == edge and time_ns[i] >= last[r]
        if last[r] == 0:
            known = False
        interval_s[i] = -1.0
        if known:
            interval_s[i] = np.float64(time_ns[i] - last[r]) * 1e-9
            learn_interval(rows, r, interval_s[i])
        last[r] = time_ns[i]
        edges[r] = np.uint16(edge)
