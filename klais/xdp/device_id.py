"""Device ids as text, and their keys in the filter's table of devices."""

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import ID_RULE, ID_SIZE, is_device_id
from klais.xdp.layout import CLAIMED

_RESERVED_KEYS = np.array([0, CLAIMED], np.uint64)  # reserved values in a way of the table


def padded(device_id: bytes | str) -> bytes:
    """The 16 bytes of an id, as in a frame.

    Raises
    ------
    ValueError
        If it is empty, longer than 16 bytes in UTF-8, or contains a NUL.

    Examples
    --------
    >>> padded("dev-1")
    b'dev-1\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'
    """
    raw = device_id.encode() if isinstance(device_id, str) else bytes(device_id)
    key = raw.rstrip(b"\0")
    if not is_device_id(key):
        raise ValueError(f"{ID_RULE}, not {device_id!r} ({len(key)} bytes)")
    return key.ljust(ID_SIZE, b"\0")


def device_keys(padded_ids: npt.NDArray[np.uint8], multipliers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Keys of devices in one filter's table (``klais_key`` in ``bpf/table.h``): multilinear hashing, modulo 2^64.

    Parameters
    ----------
    padded_ids : uint8 [n, 16]
    multipliers : uint64 [4]
        Those of the second set: the last row of the map ``spread``.

    Returns
    -------
    uint64 [n]

    Examples
    --------
    >>> ids = np.frombuffer(padded("a") + padded("b"), np.uint8).reshape(2, 16)
    >>> device_keys(ids, np.array([3, 5, 7, 9], np.uint64)).tolist()
    [291, 294]
    """
    words = np.ascontiguousarray(padded_ids).view("<u4").astype(np.uint64)
    keys: npt.NDArray[np.uint64] = (words * multipliers).sum(axis=1, dtype=np.uint64)
    return np.where(np.isin(keys, _RESERVED_KEYS), keys + np.uint64(2), keys)


def readable(raw: bytes) -> str:
    """An id as text, without its padding."""
    return raw.rstrip(b"\0").decode("utf-8", "backslashreplace")
