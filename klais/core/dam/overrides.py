"""Device overrides: devices with their own limits, and which override each frame uses (numpy only)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

OVERRIDE = np.dtype([("id", "S16"), ("rate", "<f8"), ("burst", "<f8")])
"""One device: id (NUL-padded), rate (frames/s), burst (frames). Part of the journal's format."""
PREFIX = np.dtype("S16")
"""First bytes of ids whose numbers are ignored (NUL-padded; empty = all). Part of the journal's format."""

Overrides = npt.NDArray[Any]
NO_OVERRIDES: Overrides = np.zeros(0, OVERRIDE)
Prefixes = npt.NDArray[np.bytes_]
NO_PREFIXES: Prefixes = np.zeros(0, PREFIX)


def override_table(limits: Mapping[bytes, tuple[float, float]]) -> Overrides:
    """OVERRIDE [k], sorted by id, from device_id -> (rate, burst).

    Examples
    --------
    >>> override_table({b"b": (1.0, 2.0), b"a": (3.0, 4.0)})["id"].tolist()
    [b'a', b'b']
    """
    out = np.zeros(len(limits), OVERRIDE)
    for at, device_id in enumerate(sorted(limits)):
        out[at] = (device_id, *limits[device_id])
    return out


def rows_of_frames(ids: npt.NDArray[np.uint64], names: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """For each frame (``ids`` uint64 [n, 2]) the row of its device in the sorted ``names`` S16 [k], -1 = not found:
    int32 [n].

    Examples
    --------
    >>> ids = np.frombuffer(b"b".ljust(16, b"\\0") + b"c".ljust(16, b"\\0"), np.uint64).reshape(2, 2)
    >>> rows_of_frames(ids, np.array([b"a", b"b"], "S16")).tolist()
    [1, -1]
    """
    if not len(names) or not len(ids):
        return np.full(len(ids), -1, np.int32)
    names = np.ascontiguousarray(names)
    column = np.ascontiguousarray(ids).view("S16").reshape(-1)
    at = np.minimum(np.searchsorted(names, column), len(names) - 1)
    return np.where(names[at] == column, at, -1).astype(np.int32)


def only_referenced(overrides: Overrides, at: npt.NDArray[np.int32]) -> tuple[Overrides, npt.NDArray[np.int32]]:
    """Only the overrides that a frame refers to, and each frame's row in that smaller table."""
    if not len(overrides):
        return overrides, at
    rows = np.unique(at[at >= 0])
    if len(rows) == len(overrides):
        return overrides, at
    places = np.where(at >= 0, np.searchsorted(rows, np.maximum(at, 0)), -1).astype(np.int32)
    return overrides[rows], places


def rates_and_bursts(overrides: Overrides) -> npt.NDArray[np.float64]:
    """Rate, burst, rate, burst, ... for the kernel: float64 [2 k]."""
    out = np.empty(2 * len(overrides), np.float64)
    out[::2], out[1::2] = overrides["rate"], overrides["burst"]
    return out


def begin_with(ids: npt.NDArray[np.uint64], prefixes: Prefixes) -> npt.NDArray[np.uint8]:
    """1 for each frame (``ids`` uint64 [n, 2]) whose id begins with one of the prefixes: uint8 [n].

    Examples
    --------
    >>> ids = np.frombuffer(b"old-7".ljust(16, b"\\0") + b"new-7".ljust(16, b"\\0"), np.uint64).reshape(2, 2)
    >>> begin_with(ids, np.array([b"old-"], PREFIX)).tolist()
    [1, 0]
    """
    out = np.zeros(len(ids), np.uint8)
    for prefix in prefixes.tolist():
        if not prefix:
            out[:] = 1
            break
        mask = np.frombuffer((b"\xff" * len(prefix)).ljust(16, b"\0"), np.uint64)
        wanted = np.frombuffer(prefix.ljust(16, b"\0"), np.uint64)
        out |= ((ids & mask) == wanted).all(axis=1)
    return out
