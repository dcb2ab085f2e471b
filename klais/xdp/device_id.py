"""Device ids as people write them, and their key in the filter's maps: FNV-1a 64 over the 16 NUL-padded bytes."""

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import ID_SIZE

FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3
_MASK = (1 << 64) - 1


def padded(device_id: bytes | str) -> bytes:
    """The 16 bytes of an id, as in a frame.

    Raises
    ------
    ValueError
        Empty, longer than 16 bytes in UTF-8, or with a NUL inside.

    Examples
    --------
    >>> padded("dev-1")
    b'dev-1\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'
    """
    raw = device_id.encode() if isinstance(device_id, str) else bytes(device_id)
    key = raw.rstrip(b"\0")
    if not 1 <= len(key) <= ID_SIZE or b"\0" in key:
        raise ValueError(f"a device id has 1 to {ID_SIZE} bytes in UTF-8 and no NUL, not {device_id!r} ({len(key)} bytes)")
    return key.ljust(ID_SIZE, b"\0")


def device_key(device_id: bytes | str) -> int:
    """FNV-1a 64 of the padded id.

    Examples
    --------
    >>> hex(device_key("dev-1"))
    '0xf4092fac3f6eac72'
    """
    key = FNV_OFFSET
    for byte in padded(device_id):
        key = (key ^ byte) * FNV_PRIME & _MASK
    return key


def device_keys(padded_ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """The same for many: uint8 [n, 16] to uint64 [n].

    Examples
    --------
    >>> ids = np.frombuffer(padded("dev-1") + padded("dev-2"), np.uint8).reshape(2, 16)
    >>> [int(key) == device_key(name) for key, name in zip(device_keys(ids), ("dev-1", "dev-2"))]
    [True, True]
    """
    keys = np.full(len(padded_ids), FNV_OFFSET, np.uint64)
    for column in padded_ids.T:
        keys = (keys ^ column) * np.uint64(FNV_PRIME)  # modulo 2^64
    return keys


def readable(raw: bytes) -> str:
    """An id as text, without its padding."""
    return raw.rstrip(b"\0").decode("utf-8", "backslashreplace")
