"""The row of a device: what a lane knows of it, as one fixed-size record (numpy only, no numba).

A row is also the value of the device's record in the ``devices`` table and its changelog, byte for byte, so that a
checkpoint copies rows and a recovery reads them back without parsing. :data:`ROW_VERSION` guards the layout.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

ROW_VERSION = 1
WINDOW = 32  # sequences remembered for each device
MAX_FIELDS = 8  # numeric payload fields profiled for each device
FEATURES = 2 + MAX_FIELDS  # 0 = interval_s, 1 = payload_bytes, 2.. = numeric fields in the order first seen
FEATURE_INTERVAL = 0
FEATURE_SIZE = 1

ROW = np.dtype(
    [
        ("id", "<u8", (2,)),  # the 16 bytes of device_id
        ("stamp", "<u8"),  # last step that changed this row
        ("top", "<u4"),  # highest sequence of the window
        ("seen", "<u4"),  # bit i: sequence top - i was received
        ("hashes", "<u2", (WINDOW,)),  # by sequence modulo 32: 16-bit hash of the frame
        ("tokens", "<f8"),  # frames left in the device's bucket
        ("refilled_ns", "<i8"),  # receive time the bucket was last refilled for
        ("first_ns", "<i8"),
        ("last_ns", "<i8"),
        ("received", "<u8"),
        ("admitted", "<u8"),  # passed at once or queued
        ("gaps", "<u8"),  # sequences missing so far
        ("duplicate", "<u4"),
        ("blocked", "<u4"),
        ("device_rate", "<u4"),
        ("queue_full", "<u4"),
        ("malformed", "<u4"),
        ("late", "<u4"),
        ("resets", "<u4"),
        ("flags", "<u4"),
        ("score", "<f4"),  # largest |z| of the newest frame
        ("flag_z", "<f4"),
        ("flag_ns", "<i8"),  # receive time of the newest flag
        ("flag_value", "<f8"),
        ("flag_expected", "<f8"),
        ("flag_feature", "u1"),
        ("field_count", "u1"),
        ("id_size", "u1"),
        ("version", "u1"),
        ("path", "<u4", (MAX_FIELDS,)),  # low half of the path hash of each numeric field
        ("samples", "<u2", (FEATURES,)),
        ("mean", "<f8", (FEATURES,)),
        ("var", "<f4", (FEATURES,)),
    ],
    align=True,  # kernels take its columns as aligned arrays
)
# No padding: rows are compared and stored as bytes, and a copy by index leaves padding undefined.
assert sum(ROW[name].itemsize for name in ROW.names or ()) == ROW.itemsize == 392
OPAQUE_ROW = np.dtype((np.void, ROW.itemsize))  # to copy rows as bytes: field by field numpy takes four to eight times as long
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


def read_row(value: bytes) -> Any:
    """One row from a table value.

    Raises
    ------
    ValueError
        The value is not a row of this version.
    """
    if len(value) != ROW.itemsize:
        raise ValueError(f"row of {len(value)} bytes, this version's rows have {ROW.itemsize}")
    row = np.frombuffer(value, ROW)[0]
    if row["version"] != ROW_VERSION:
        raise ValueError(f"row of version {row['version']}, this code reads version {ROW_VERSION}")
    return row
