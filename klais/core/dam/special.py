"""Devices with limits of their own: a small sorted table, and which frame belongs to which of its rows (numpy only)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

SPECIAL = np.dtype([("id", "S16"), ("rate", "<f8"), ("burst", "<f8")])
"""One device: id (NUL-padded), rate (frames/s), burst (frames). Part of the journal's format."""

Special = npt.NDArray[Any]
NONE: Special = np.zeros(0, SPECIAL)


def table(limits: Mapping[bytes, tuple[float, float]]) -> Special:
    """SPECIAL [k], sorted by id, from device_id -> (rate, burst).

    Examples
    --------
    >>> table({b"b": (1.0, 2.0), b"a": (3.0, 4.0)})["id"].tolist()
    [b'a', b'b']
    """
    out = np.zeros(len(limits), SPECIAL)
    for at, device_id in enumerate(sorted(limits)):
        out[at] = (device_id, *limits[device_id])
    return out


def positions(ids: npt.NDArray[np.uint64], names: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """For each frame (``ids`` uint64 [n, 2]) the place of its device in the sorted ``names`` S16 [k], -1 = not there: int32
    [n].

    Examples
    --------
    >>> ids = np.frombuffer(b"b".ljust(16, b"\\0") + b"c".ljust(16, b"\\0"), np.uint64).reshape(2, 2)
    >>> positions(ids, np.array([b"a", b"b"], "S16")).tolist()
    [1, -1]
    """
    if not len(names) or not len(ids):
        return np.full(len(ids), -1, np.int32)
    names = np.ascontiguousarray(names)
    column = np.ascontiguousarray(ids).view("S16").reshape(-1)
    at = np.minimum(np.searchsorted(names, column), len(names) - 1)
    return np.where(names[at] == column, at, -1).astype(np.int32)


def used(special: Special, at: npt.NDArray[np.int32]) -> tuple[Special, npt.NDArray[np.int32]]:
    """Only the rows of ``special`` that some frame refers to, and the places in that smaller table."""
    if not len(special):
        return special, at
    rows = np.unique(at[at >= 0])
    if len(rows) == len(special):
        return special, at
    places = np.where(at >= 0, np.searchsorted(rows, np.maximum(at, 0)), -1).astype(np.int32)
    return special[rows], places


def limits_of(special: Special) -> npt.NDArray[np.float64]:
    """Rate, burst, rate, burst, ... for the kernel: float64 [2 k]."""
    out = np.empty(2 * len(special), np.float64)
    out[::2], out[1::2] = special["rate"], special["burst"]
    return out
