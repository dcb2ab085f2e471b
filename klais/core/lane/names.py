"""Names of numeric fields: a path's text is read once, when the path is new."""

import numpy as np
import numpy.typing as npt

from klais.core.lane.columns import Columns, Fields
from klais.core.wire.json_scan import path_text
from klais.jit.kernel import I32, U32, U64, int64, kernel

MAX_NAMES = 2048
MAX_NEW = 64  # names learned in one step
MAX_NAME_CHARS = 120


@kernel(int64(U64, int64, U32, I32))
def new_paths(path: npt.NDArray[np.uint64], count: int, known: npt.NDArray[np.uint32], out: npt.NDArray[np.int32]) -> int:
    """Fields whose path is not in ``known`` (sorted uint32 [k]), each path once; how many were put in ``out``."""
    found = 0
    previous = np.uint32(0)
    for i in range(count):
        low = np.uint32(path[i])
        if low == previous:
            continue
        previous = low
        a = 0
        b = known.shape[0]
        while a < b:
            middle = (a + b) >> 1
            if known[middle] < low:
                a = middle + 1
            else:
                b = middle
        if a < known.shape[0] and known[a] == low:
            continue
        fresh = True
        for k in range(found):
            if np.uint32(path[out[k]]) == low:
                fresh = False
        if fresh and found < out.shape[0]:
            out[found] = i
            found += 1
    return found


def learn_names(names: dict[int, str], columns: Columns, fields: Fields) -> None:
    """Add the names of paths that are new in this batch, up to ``MAX_NAMES`` in all (others show as their hash)."""
    if len(names) >= MAX_NAMES or not fields.count:
        return
    known = np.fromiter(sorted(names), np.uint32, len(names))
    out = np.empty(MAX_NEW, np.int32)
    for k in range(new_paths(fields.path, fields.count, known, out)):
        field = int(out[k])
        path_hash = int(fields.path[field])
        text = path_text(columns.payload(int(fields.frame[field])), path_hash)
        names[path_hash & 0xFFFFFFFF] = text[:MAX_NAME_CHARS]
