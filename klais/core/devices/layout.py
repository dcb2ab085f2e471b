"""The row of a device: a lane's state of the device as one fixed-size record (numpy only, no numba).

A row is also the value of the device's record in the ``devices`` table and its changelog, byte for byte, so that a
checkpoint copies rows and a recovery reads them back without parsing. :data:`ROW_VERSION` guards the layout.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

ROW_VERSION = 4
WINDOW = 32  # sequence numbers remembered in each stream
STREAMS = 2  # concurrent runs of sequence numbers: the live one, and an older one that is being sent late
FEATURE_INTERVAL, FEATURE_SIZE, FEATURE_FIELD, FEATURE_TYPE = 0, 1, 2, 3  # what a flag is about

# Fields that every frame touches come first. The anomaly profile is not part of the row: a replay does not restore it.
ROW = np.dtype(
    [
        ("id", "<u8", (2,)),  # the 16 bytes of device_id
        ("stamp", "<u8"),  # last step that changed this row
        ("top", "<u4", (STREAMS,)),  # highest sequence of each stream
        ("seen", "<u4", (STREAMS,)),  # bit i: sequence top - i was received
        ("fresh", "<u4", (STREAMS,)),  # bit i: it was received in this era (duplicates are recognised)
        ("stale", "<u4", (STREAMS,)),  # bit i: it was received in the era before (duplicates are recognised)
        ("era", "<u2", (STREAMS,)),  # receive time in halves of the sequence window, modulo 2^16
        ("main", "u1"),  # the stream with the highest numbers, 0 or 1
        ("restarted", "u1"),  # 1: the main stream began with a number that looked like a restart
        ("id_size", "u1"),  # 0: the row is free
        ("version", "u1"),
        ("tokens", "<f8"),  # frames left in the device's bucket
        ("refilled_ns", "<i8"),  # receive time of the newest well-formed frame, up to which the bucket was refilled
        ("last_ns", "<i8"),  # receive time of the newest admitted frame
        ("received", "<u8"),
        ("admitted", "<u8"),  # passed at once or queued
        ("last_seen_s", "<u4"),  # worker's clock at the step that took the newest frame, s since the epoch
        ("created_s", "<u4"),  # worker's clock at the step that made this row
        ("epoch", "<u4"),  # highest epoch of its signed frames; 0 = none yet
        ("hole_end", "<u4"),  # end of the hole in its numbers, see klais.core.devices.signed
        ("duplicate", "<u4"),
        ("source", "<u4"),  # hash of the newest frame's source address, 0 = unknown
        ("edge", "<u2"),  # edge that received the newest admitted frame
        ("intervals", "<u2"),  # intervals in the mean, up to 65,535
        ("interval_s", "<f4"),  # mean interval of admitted frames
        ("hashes", "<u4", (WINDOW,)),  # by sequence modulo 32: keyed hash of the frame
        ("gaps", "<u4"),  # sequence numbers missing so far
        ("blocked", "<u4"),
        ("device_rate", "<u4"),
        ("queue_full", "<u4"),
        ("malformed", "<u4"),
        ("late", "<u4"),
        ("resets", "<u4"),
        ("replayed", "<u4"),
        ("unsigned", "<u4"),  # frames refused because they had no tag
        ("jumps", "<u4"),  # skipped numbers that the device's rate cannot explain: its counter counts something else
        ("flags", "<u4"),
        ("other_source", "<u4"),  # hash of the source address before ``source``
        ("source_turns", "<u4"),  # how often frames returned to the previous source
        ("flag_path", "<u4"),  # of the newest flag's field: low half of the path's hash
        ("flag_score", "<f4"),
        ("flag_scale", "<f4"),
        ("flag_ns", "<i8"),  # receive time of the newest flag
        ("flag_value", "<f8"),
        ("flag_expected", "<f8"),
        ("flag_feature", "u1"),
        ("flag_cause", "u1"),
        ("flag_since", "u1"),
        ("flag_before", "u1"),
        ("spare", "u1", (4,)),
    ],
    align=True,  # kernels take its columns as aligned arrays
)
# No padding: rows are compared and stored as bytes, and a copy by index leaves padding undefined.
assert sum(ROW[name].itemsize for name in ROW.names or ()) == ROW.itemsize == 360
# What remains of a device that signs when it is forgotten: otherwise its recorded frames could land a second time.
KEPT_OF_SIGNED = ("id", "id_size", "version", "epoch", "hole_end", "top", "seen", "main")
OTHER_VERSION = "start with a new KLAIS_TOPIC_PREFIX, or run the version of KLAIS that wrote it"
OPAQUE_ROW = np.dtype(
    (np.void, ROW.itemsize)
)  # for copying rows as bytes: field by field, numpy takes four to eight times as long
Rows = npt.NDArray[np.void]


def id_words(device_id: bytes) -> tuple[int, int]:
    """The 16 padded bytes of a device_id as two little-endian words, as kernels see them.

    Examples
    --------
    >>> id_words(b"a")
    (97, 0)
    """
    padded = device_id.ljust(16, b"\0")
    return int.from_bytes(padded[:8], "little"), int.from_bytes(padded[8:16], "little")


def row_key(row: Any) -> bytes:
    """The table key (unpadded device_id) of one row."""
    return row["id"].tobytes()[: int(row["id_size"])]  # type: ignore[no-any-return]


def row_time_s(now_ns: int) -> int:
    """A clock's time in the form stored in rows: s since the epoch, limited to the range of a uint32.

    Examples
    --------
    >>> [row_time_s(ns) for ns in (-5, 1_500_000_000, 1 << 62)]
    [0, 1, 4294967295]
    """
    return min(max(0, now_ns // 1_000_000_000), 0xFFFF_FFFF)


def read_row(value: bytes) -> Any:
    """One row from a table value.

    Raises
    ------
    ValueError
        If the value is not a row of this version.
    """
    if len(value) != ROW.itemsize:
        raise ValueError(f"row of {len(value)} bytes, this version's rows have {ROW.itemsize}")
    row = np.frombuffer(value, ROW)[0]
    if row["version"] != ROW_VERSION:
        raise ValueError(f"row of version {row['version']}, this code reads version {ROW_VERSION}: {OTHER_VERSION}")
    return row
