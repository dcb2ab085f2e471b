"""Device ids as people write them, and their key in the filter's maps: FNV-1a 64 over the 16 NUL-padded bytes."""

from klais.wire.constants import ID_SIZE

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


def readable(raw: bytes) -> str:
    """An id as text, without its padding."""
    return raw.rstrip(b"\0").decode("utf-8", "backslashreplace")
