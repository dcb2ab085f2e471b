"""Wait for one of several descriptors to become readable: without the GIL, in nanoseconds, interruptible by signals."""

import ctypes
from collections.abc import Sequence

import numpy as np

_POLLFD = np.dtype([("fd", "i4"), ("events", "i2"), ("found", "i2")])
_POLLIN = 1

_libc = ctypes.CDLL(None, use_errno=True)


class Waiting:
    """A prepared ``ppoll`` over ``fds``.

    Examples
    --------
    >>> Waiting([]).until_readable(1000)
    False
    """

    def __init__(self, fds: Sequence[int]) -> None:
        self._fds = np.zeros(len(fds), _POLLFD)
        self._fds["fd"], self._fds["events"] = fds, _POLLIN
        self._at = ctypes.c_void_p(self._fds.ctypes.data)
        self._count = ctypes.c_ulong(len(fds))
        self._timeout = (ctypes.c_long * 2)()

    def until_readable(self, wait_ns: int) -> bool:
        """Whether one became readable within ``wait_ns``; also False if a signal arrived."""
        self._timeout[0], self._timeout[1] = divmod(wait_ns, 1_000_000_000)
        found: int = _libc.ppoll(self._at, self._count, self._timeout, None)
        return found > 0
