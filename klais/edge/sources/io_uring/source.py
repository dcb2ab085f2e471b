"""UDP through io_uring: one multishot request receives while there are buffers, with many completions per poll.

Each datagram is written to its own buffer, after a small header and the sender's address, and a completion names the
buffer. Buffers have room for the largest datagram; most of them only ever use their first page. Linux 6.1 or newer.
"""

import errno
import mmap
import os
import time

import numpy as np
import numpy.typing as npt

from klais.edge.sources.io_uring.kernels import ENDED, ERROR, provide, take_completions
from klais.edge.sources.io_uring.ring import Uring
from klais.edge.sources.udp.socket import NAME_BYTES, OnSocket, UdpSocket

CAPACITY = 1024
# More than one poll returns: further datagrams wait in the completion ring.
BUFFERS = 2048
_RECVMSG_OUT_BYTES = 16  # struct io_uring_recvmsg_out
PAYLOAD_OFFSET = _RECVMSG_OUT_BYTES + NAME_BYTES
# Room for any datagram; an odd number of cache lines, otherwise all buffers would begin in the same few sets of the
# CPU's cache.
STRIDE_BYTES = 64 * 1027
RELEASE_AFTER_NS = 1_000_000_000
LONG_BYTES = 4096

_MSGHDR = np.dtype([("name", "u8"), ("namelen", "u8"), ("iov", "u8"), ("iovlen", "u8"), ("control", "u8"),
                    ("controllen", "u8"), ("flags", "u8")])  # fmt: skip
_PASSING = (errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED, errno.ENOMEM)


class IoUringSource(OnSocket):
    """The ``io_uring`` source (see :class:`klais.edge.sources.base.Source` for the columns).

    Parameters
    ----------
    udp : UdpSocket
        The socket for frames; closed with the source. The thread that opens the source uses it.

    Raises
    ------
    OSError
        If io_uring, or a needed feature, is not available; the message has the reason.
    """

    name = "io_uring"
    head_size = STRIDE_BYTES

    def __init__(self, udp: UdpSocket) -> None:
        self._udp = udp
        self._uring = Uring(2 * BUFFERS)
        try:
            self.socket, self.port = self._udp.socket, self._udp.port
            self.granted_bytes, self.buffer_bytes = self._udp.granted_bytes, self._udp.buffer_bytes
            self.capacity = CAPACITY
            self._allocate()
            self._arm()
            self._enter(0)
            self._waiting = self._poll(0)  # also shows whether the request was refused
        except BaseException:
            self._uring.close()
            raise

    def _allocate(self) -> None:
        self._area = mmap.mmap(-1, BUFFERS * STRIDE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.head = np.frombuffer(self._area, np.uint8)
        self.tail = np.zeros(1, np.uint8)
        self._buffers = self.head.view(np.uint32).reshape(BUFFERS, -1)
        self.starts, self.lengths = np.zeros(CAPACITY, np.int64), np.zeros(CAPACITY, np.int64)
        self.tail_starts, self._taken = np.zeros(CAPACITY, np.int64), np.zeros(CAPACITY, np.int64)
        self._in_use, self._notes, self._last_long_ns = 0, np.zeros(2, np.int64), 0
        self._message = np.zeros(1, _MSGHDR)
        self._message["namelen"] = NAME_BYTES
        ring = self._uring.register_buffer_ring(BUFFERS)
        self._addresses = ring.view(np.uint64).reshape(BUFFERS, 2)
        self._words = ring.view(np.uint16).reshape(BUFFERS, 8)
        self._ring_tail = ring.view(np.uint16)[7:8]
        ring.view(np.uint32).reshape(BUFFERS, 4)[:, 2] = STRIDE_BYTES
        self._give(np.arange(BUFFERS, dtype=np.int64))

    def _give(self, buffers: npt.NDArray[np.int64]) -> None:
        provide(self._ring_tail, self._addresses, self._words, self.head.ctypes.data, STRIDE_BYTES, buffers)

    def _arm(self) -> None:
        self._uring.receive_messages(self.socket.fileno(), self._message.ctypes.data)

    def fill(self, wait_ns: int) -> int:
        """Return the buffers of the last call, read datagrams, and wait at most ``wait_ns`` for the first frame."""
        n, self._waiting = self._waiting, 0
        if n == 0:
            self._give(self._taken[: self._in_use])
            if self._last_long_ns and self._in_use < CAPACITY:
                self._release()
            n = self._poll(0)
        while n < CAPACITY:
            self._enter(0)
            found = self._poll(n)
            n += found
            if not found:
                break
        if n == 0 and wait_ns > 0:
            self._enter(wait_ns)
            n = self._poll(0)
        self._in_use = n
        if n and int(self.lengths[:n].max()) > LONG_BYTES:
            self._last_long_ns = time.monotonic_ns()
        return n

    def _enter(self, wait_ns: int) -> None:
        code = self._uring.enter(wait_ns)
        if code not in (0, errno.EINTR, errno.ETIME, errno.EAGAIN, errno.EBUSY):
            raise OSError(code, f"io_uring on UDP port {self.port}: {os.strerror(code)}")

    def _poll(self, first: int) -> int:
        ring, notes = self._uring, self._notes
        n: int = take_completions(
            ring.tail, ring.head, ring.ring, self._buffers, STRIDE_BYTES, PAYLOAD_OFFSET,
            self.starts[first:], self.lengths[first:], self._taken[first:], notes,
        )  # fmt: skip
        if notes[ENDED]:
            code = int(notes[ERROR])
            notes[:] = 0
            if code and code not in _PASSING:
                raise OSError(code, f"io_uring stopped receiving on UDP port {self.port}: {os.strerror(code)}")
            self._arm()
        return n

    def _release(self) -> None:
        """Release the memory of long frames; all buffers are empty now, and the kernel fills none before
        ``enter``.
        """
        if time.monotonic_ns() - self._last_long_ns > RELEASE_AFTER_NS:
            self._area.madvise(mmap.MADV_DONTNEED)
            self._last_long_ns = 0

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        """Sender of each of the first ``n`` frames: uint8 [n, 18], a copy."""
        rows = self.head.reshape(BUFFERS, STRIDE_BYTES)[:, _RECVMSG_OUT_BYTES:PAYLOAD_OFFSET]
        return self._udp.sources(rows[self._taken[:n]])

    def close(self) -> None:
        """Stop receiving; the columns stay readable."""
        self._uring.close()
        self._udp.close()
