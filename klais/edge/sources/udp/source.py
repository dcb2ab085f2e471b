"""UDP with ``recvmmsg``: many datagrams per system call, into preallocated memory. Any Linux, no privileges.

Each of the 1024 slots has two pieces (``struct iovec``): a small one that fits nearly every frame, and a large one for
the rest of a datagram up to the largest that UDP over IPv6 can carry, so that no frame is cut off. The large pieces are
64 MiB of address space; a page takes memory only once it was used, and all pages are released when no long frame
arrived for a second.
"""

import ctypes
import errno
import mmap
import os
import socket
import time

import numpy as np
import numpy.typing as npt

from klais.edge.sources.udp.socket import NAME_BYTES, OnSocket, UdpSocket
from klais.edge.sources.waiting import Waiting

SLOTS = 1024
# Telemetry frames fit, and all slots fit into the second-level cache of a core: 1.35 us of CPU per frame of 57 bytes,
# 1.48 with slots of 2112 bytes (medians of alternating runs); a frame of 1000 bytes, now in two pieces, costs a tenth
# to a fifth more. Not a power of two: the first bytes of all slots would otherwise map to the same few sets of that
# cache.
SMALL_BYTES = 512 + 64
LARGE_BYTES = 65_536 - 512
RELEASE_AFTER_NS = 1_000_000_000

# Ancillary data of one datagram (cmsg(3)), in the order in which Linux writes it: the receive time, if requested, and
# the count of drops, once there were any.
_CONTROL_BYTES = 64
_SOL_SOCKET, _SCM_TIMESTAMPNS = 1, 35
_TIME_BYTES = 32  # header 16, struct timespec 16
_OLDEST_NS = 60 * 1_000_000_000  # no frame waits longer in a receive buffer: the clock was set since

# struct mmsghdr of 64-bit Linux (bits/types/struct_mmsghdr.h): struct msghdr, then the datagram's size.
_MMSGHDR = np.dtype(
    {
        "names": ["name", "namelen", "iov", "iovlen", "control", "controllen", "flags", "len"],
        "formats": ["u8", "u4", "u8", "u8", "u8", "u8", "i4", "u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    }
)
_IOVEC = np.dtype([("base", "u8"), ("len", "u8")])

_libc = ctypes.CDLL(None, use_errno=True)


class UdpSource(OnSocket):
    """The ``udp`` source (see :class:`klais.edge.sources.base.Source` for the columns).

    Parameters
    ----------
    udp : UdpSocket
        The socket for frames; closed with the source.
    """

    name = "udp"

    def __init__(self, udp: UdpSocket) -> None:
        self._udp = udp
        self.socket, self.port = self._udp.socket, self._udp.port
        self.granted_bytes, self.buffer_bytes = self._udp.granted_bytes, self._udp.buffer_bytes
        self.capacity = SLOTS
        self.head_size = SMALL_BYTES
        self._allocate()
        self._fd = self.socket.fileno()
        self._waiting = Waiting([self._fd])
        self._last_large_ns = 0

    def _allocate(self) -> None:
        self._large = mmap.mmap(-1, SLOTS * LARGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.head = np.zeros(SLOTS * SMALL_BYTES, np.uint8)
        self.tail = np.frombuffer(self._large, np.uint8)
        self.starts = np.arange(SLOTS, dtype=np.int64) * SMALL_BYTES
        self.tail_starts = np.arange(SLOTS, dtype=np.int64) * LARGE_BYTES
        self.lengths = np.zeros(SLOTS, np.int64)
        self._names = np.zeros((SLOTS, NAME_BYTES), np.uint8)
        # Every datagram carries the kernel's count of drops; reading it from the first one per call is enough.
        self._control = np.zeros((SLOTS if self._udp.timestamps else 1, _CONTROL_BYTES), np.uint8)
        self._times = np.zeros(SLOTS, np.int64)
        self._iovecs = np.zeros((SLOTS, 2), _IOVEC)
        self._iovecs["base"][:, 0] = self.head.ctypes.data + self.starts
        self._iovecs["len"][:, 0] = SMALL_BYTES
        self._iovecs["base"][:, 1] = self.tail.ctypes.data + self.tail_starts
        self._iovecs["len"][:, 1] = LARGE_BYTES
        self._messages = np.zeros(SLOTS, _MMSGHDR)
        self._messages["name"] = self._names.ctypes.data + np.arange(SLOTS) * NAME_BYTES
        self._messages["namelen"] = NAME_BYTES
        self._messages["iov"] = self._iovecs.ctypes.data + np.arange(SLOTS) * 2 * _IOVEC.itemsize
        self._messages["iovlen"] = 2
        with_control = np.arange(len(self._control))
        self._messages["control"][with_control] = self._control.ctypes.data + with_control * _CONTROL_BYTES
        self._messages_at = ctypes.c_void_p(self._messages.ctypes.data)

    def fill(self, wait_ns: int) -> int:
        """Receive up to 1024 datagrams in one call; wait at most ``wait_ns`` for the first.

        Waits and copies without the GIL. Returns 0 immediately when a signal arrived.
        """
        if self._last_large_ns and time.monotonic_ns() - self._last_large_ns > RELEASE_AFTER_NS:
            self._large.madvise(mmap.MADV_DONTNEED)
            self._last_large_ns = 0
        n = self._receive()
        if n == 0 and wait_ns > 0 and self._waiting.until_readable(wait_ns):
            n = self._receive()
        if n:
            self.lengths[:n] = self._messages["len"][:n]
            if int(self.lengths[:n].max()) > SMALL_BYTES:
                self._last_large_ns = time.monotonic_ns()
        return n

    def _receive(self) -> int:
        self._messages["controllen"][: len(self._control)] = (
            _CONTROL_BYTES  # the kernel overwrites it with the used size
        )
        n: int = _libc.recvmmsg(self._fd, self._messages_at, SLOTS, socket.MSG_DONTWAIT, None)
        if n > 0:
            first, used = self._control[0], int(self._messages["controllen"][0])
            at = _TIME_BYTES if self._udp.timestamps else 0
            if used >= at + 20:
                self._udp.note_drops(int(first[at + 16 : at + 20].view(np.uint32)[0]))
            if self._udp.timestamps:
                self._note_times(n)
            return n
        code = ctypes.get_errno()
        if n < 0 and code not in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED, errno.ENOMEM, errno.ENOBUFS):
            raise OSError(code, f"recvmmsg on UDP port {self.port}: {os.strerror(code)}")
        return 0

    def _note_times(self, n: int) -> None:
        words = self._control[:n].view(np.int64)  # cmsg_len, level and type, seconds, nanoseconds, ...
        now_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        times = self._times[:n]
        times[:] = words[:, 2] * 1_000_000_000 + words[:, 3] + (now_ns - wall_ns)
        kind = _SOL_SOCKET | _SCM_TIMESTAMPNS << 32
        times[(words[:, 1] != kind) | (times > now_ns) | (times < now_ns - _OLDEST_NS)] = now_ns

    def times(self, n: int) -> npt.NDArray[np.int64] | None:
        """When the kernel received the first ``n`` frames: int64 [n], CLOCK_MONOTONIC ns; None unless requested.

        The kernel uses the wall clock. If that was set since, times can be wrong by the same amount; a time in the
        future or more than a minute ago is replaced by the time of the call.
        """
        return self._times[:n] if self._udp.timestamps else None

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        """Sender of each of the first ``n`` frames: uint8 [n, 18], a copy."""
        return self._udp.sources(self._names[:n])

    def close(self) -> None:
        """Close the socket; the columns stay readable."""
        self._udp.close()
