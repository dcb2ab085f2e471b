"""One AF_XDP socket (XSK) with plain system calls: UMEM, rings mapped as numpy arrays, statistics.

The UMEM is a part of memory that the source owns; its chunks circulate: we put them into the fill ring, the kernel
copies (or the card writes) a packet into each and lists it in the RX ring, we read it and return the chunk. No TX.
"""

import ctypes
import errno
import mmap
import os
import socket
import struct
import time

import numpy as np
import numpy.typing as npt

from klais.edge.sources.af_xdp.kernels import give_back, take_descriptors

AF_XDP = 44
SOL_XDP = 283
_MMAP_OFFSETS, _RX_RING, _UMEM_REG, _FILL_RING, _COMPLETION_RING, _STATISTICS, _OPTIONS = 1, 2, 4, 5, 6, 7, 8
_PGOFF_RX, _PGOFF_FILL = 0, 0x100000000
_COPY, _ZEROCOPY, _USE_NEED_WAKEUP = 1 << 1, 1 << 2, 1 << 3
_RING_NEED_WAKEUP = 1
_OPTIONS_ZEROCOPY = 1
_DESC_BYTES, _ADDRESS_BYTES = 16, 8

BUSY_S = 2.0  # the kernel releases a queue some time after its socket was closed, for example when an edge restarts

_libc = ctypes.CDLL(None, use_errno=True)


class _Ring:
    """A mapped ring: its indices and flags as uint32 [1], and its entries."""

    def __init__(
        self, sock: socket.socket, offsets: tuple[int, ...], entries: int, entry_bytes: int, page: int
    ) -> None:
        producer, consumer, descriptors, flags = offsets
        size = descriptors + entries * entry_bytes
        self.map = mmap.mmap(sock.fileno(), size, mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=page)
        self.producer = np.frombuffer(self.map, np.uint32, 1, producer)
        self.consumer = np.frombuffer(self.map, np.uint32, 1, consumer)
        self.flags = np.frombuffer(self.map, np.uint32, 1, flags)
        self.entries = np.frombuffer(self.map, np.uint64, entries * entry_bytes // 8, descriptors)


class Xsk:
    """A socket bound to one queue of one interface; it receives once it is in the XSKMAP of the interface's
    program.

    Parameters
    ----------
    ifindex, queue : int
        Interface and queue.
    memory : uint8 [b]
        The source's memory; page-aligned; must outlive the socket.
    base, chunks, chunk_bytes : int
        This socket's UMEM: ``chunks`` (a power of two) pieces of ``chunk_bytes``, starting at ``memory[base]``.

    Attributes
    ----------
    frames : int
        A counter for the owner.
    zero_copy : bool
        Whether the card writes into the UMEM itself.

    Raises
    ------
    OSError
        If the kernel or the driver refuses; the message has the reason. EBUSY: another socket is bound to the queue.
    """

    def __init__(
        self, ifindex: int, queue: int, memory: npt.NDArray[np.uint8], base: int, chunks: int, chunk_bytes: int
    ) -> None:
        self.queue, self._base, self._chunk_bytes = queue, base, chunk_bytes
        self.frames, self._drops = 0, 0
        try:
            self.socket = socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC)
        except OSError as error:
            raise OSError(error.errno, _why_not(error.errno)) from error
        try:
            self._set_up(memory, chunks)
            self._fill_first(chunks)
            self._bind(ifindex)
        except BaseException:
            self.socket.close()
            raise

    def _set_up(self, memory: npt.NDArray[np.uint8], chunks: int) -> None:
        sock = self.socket
        umem = struct.pack(
            "=QQIIII", memory.ctypes.data + self._base, chunks * self._chunk_bytes, self._chunk_bytes, 0, 0, 0
        )
        try:
            sock.setsockopt(SOL_XDP, _UMEM_REG, umem)
        except OSError as error:
            raise OSError(error.errno, _why_not(error.errno)) from error
        sock.setsockopt(SOL_XDP, _FILL_RING, chunks)
        sock.setsockopt(SOL_XDP, _COMPLETION_RING, 64)  # unused, but a UMEM must have one
        # As large as the fill ring, so that there is always room in the RX ring for a filled chunk.
        sock.setsockopt(SOL_XDP, _RX_RING, chunks)
        offsets = struct.unpack("=16Q", sock.getsockopt(SOL_XDP, _MMAP_OFFSETS, 128))
        self._rx = _Ring(sock, offsets[:4], chunks, _DESC_BYTES, _PGOFF_RX)
        self._fill = _Ring(sock, offsets[8:12], chunks, _ADDRESS_BYTES, _PGOFF_FILL)
        self._descriptors = self._rx.entries.reshape(-1, 2)

    def _fill_first(self, chunks: int) -> None:
        self.give_back(self._base + np.arange(chunks, dtype=np.int64) * self._chunk_bytes)

    def _bind(self, ifindex: int) -> None:
        # Requests neither copy nor zero-copy: the kernel uses zero-copy if the driver supports it.
        address = struct.pack("=HHIII", AF_XDP, _USE_NEED_WAKEUP, ifindex, self.queue, 0)
        until_s = time.monotonic() + BUSY_S
        while _libc.bind(self.socket.fileno(), address, len(address)) < 0:
            code = ctypes.get_errno()
            if code != errno.EBUSY or time.monotonic() > until_s:
                raise OSError(code, f"queue {self.queue}: {_why_not(code)}")
            time.sleep(0.005)
        options: int = struct.unpack("=I", self.socket.getsockopt(SOL_XDP, _OPTIONS, 4))[0]
        self.zero_copy = bool(options & _OPTIONS_ZEROCOPY)

    def take(self, packet_at: npt.NDArray[np.int64], packet_size: npt.NDArray[np.int64]) -> int:
        """Write offset (in ``memory``) and length of the next packets into the columns; returns their number."""
        n: int = take_descriptors(
            self._rx.producer, self._rx.consumer, self._descriptors, self._base, packet_at, packet_size
        )
        return n

    def give_back(self, packet_at: npt.NDArray[np.int64]) -> None:
        """Return the chunks of these packets."""
        give_back(self._fill.producer, self._fill.entries, self._base, self._chunk_bytes, packet_at)
        if self._fill.flags[0] & _RING_NEED_WAKEUP:  # a driver that waits for chunks; copy mode never does
            _libc.recvfrom(self.socket.fileno(), None, ctypes.c_size_t(0), socket.MSG_DONTWAIT, None, None)

    def drops(self) -> int:
        """Packets that the kernel could not deliver to this socket, for any reason.

        In copy mode a packet that finds the fill ring empty is counted both as "dropped" and as "fill ring empty"; with
        zero-copy only as the latter, once for each time the driver wanted a chunk (the card counts packets).
        """
        if self.socket.fileno() >= 0:
            dropped, _, _, ring_full, empty, _ = struct.unpack("=6Q", self.socket.getsockopt(SOL_XDP, _STATISTICS, 48))
            self._drops = dropped + ring_full + (empty if self.zero_copy else 0)
        return self._drops

    def close(self) -> None:
        """Close the socket (which removes it from the XSKMAP); the count of drops stays readable."""
        if self.socket.fileno() >= 0:
            self.drops()
            del self._rx, self._fill, self._descriptors  # a mapped ring would keep the socket open
            self.socket.close()


def _why_not(code: int | None) -> str:
    """The error of an AF_XDP call as text."""
    return {
        errno.EAFNOSUPPORT: "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
        errno.EPERM: "AF_XDP needs CAP_NET_RAW, and its memory CAP_IPC_LOCK or a higher RLIMIT_MEMLOCK (ulimit -l)",
        errno.ENOBUFS: "AF_XDP's memory is above RLIMIT_MEMLOCK: raise ulimit -l, or lower KLAIS_UDP_RCVBUF_BYTES",
        errno.EBUSY: "another AF_XDP socket is bound to it",
        errno.EINVAL: "the interface has no such queue, or does not support AF_XDP sockets",
        errno.ENODEV: "there is no such interface",
        errno.EOPNOTSUPP: "the driver does not support AF_XDP sockets",
    }.get(code or 0, os.strerror(code or 0))
