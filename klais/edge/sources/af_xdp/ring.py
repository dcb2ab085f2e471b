"""The rings of the ``af_xdp`` source: one AF_XDP socket for each queue of the interface, all UMEMs in one block of
memory.
"""

import errno
import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.edge.sources.af_xdp.packet import find_payloads, packet_sources
from klais.edge.sources.af_xdp.socket import Xsk
from klais.edge.sources.xdp_filter.attachment import Filter
from klais.xdp import bpf

CAPACITY = 2048
MIN_CHUNKS = 512
# Room before a packet (XDP_PACKET_HEADROOM), and after it for Ethernet, two VLAN tags.
_AROUND_BYTES = 256 + 14 + 8


class XskRings:
    """See :class:`klais.edge.sources.xdp_filter.source.Rings`.

    Parameters
    ----------
    xdp : Filter
        The filter whose ``xsks`` map gets the sockets.
    queues : list of int
        Queues of the interface to use.
    mtu : int
        MTU of the interface: a chunk holds a whole packet.
    memory_bytes : int
        Approximate UMEM of all sockets together.

    Raises
    ------
    OSError
        If the kernel or the driver refuses; the message has the reason.
    """

    name, accept = "af_xdp", "xsk"

    def __init__(self, xdp: Filter, queues: list[int], mtu: int, memory_bytes: int) -> None:
        self._filter = xdp
        if not queues:
            raise OSError(errno.EINVAL, "no queue is named (KLAIS_XDP_QUEUES)")
        chunk_bytes = 2048 if mtu + _AROUND_BYTES <= 2048 else 4096
        if mtu + _AROUND_BYTES > chunk_bytes:
            raise OSError(errno.EMSGSIZE, f"packets of the MTU of {mtu} do not fit into AF_XDP's chunks of 4096 bytes")
        chunks = max(MIN_CHUNKS, 1 << (memory_bytes // chunk_bytes // len(queues)).bit_length() - 1)
        self.capacity, self.room = CAPACITY, chunks * len(queues)
        self._area = mmap.mmap(-1, self.room * chunk_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError, AttributeError):  # a kernel without huge pages: only more TLB misses
            self._area.madvise(mmap.MADV_HUGEPAGE)
        self.head = np.frombuffer(self._area, np.uint8)
        self.tail, self.head_size = np.zeros(1, np.uint8), chunk_bytes
        self.starts, self.lengths, self.tail_starts = (np.zeros(CAPACITY, np.int64) for _ in range(3))
        self._packet_at, self._packet_size, self._ip_at = (np.zeros(CAPACITY, np.int64) for _ in range(3))
        self._taken: list[tuple[Xsk, int, int]] = []
        self.sockets: list[Xsk] = []
        try:
            for i, queue in enumerate(queues):
                base = i * chunks * chunk_bytes
                self.sockets.append(Xsk(xdp.ifindex, queue, self.head, base, chunks, chunk_bytes))
        except BaseException:
            self.close()
            raise
        self.fds = [xsk.socket.fileno() for xsk in self.sockets]

    def register(self) -> None:
        """Put every socket into the filter's map, at its queue."""
        for xsk in self.sockets:
            key, value = np.array([xsk.queue], np.uint32), np.array([xsk.socket.fileno()], np.uint32)
            bpf.update(self._filter.maps.fd("xsks"), key, value)

    def take(self) -> int:
        """Return chunks, then read all RX rings, starting with another one each time, and find the payloads."""
        for xsk, first, last in self._taken:
            xsk.give_back(self._packet_at[first:last])
        self._taken.clear()
        n = 0
        for xsk in self.sockets:
            found = xsk.take(self._packet_at[n:], self._packet_size[n:])
            if found:
                xsk.frames += found
                self._taken.append((xsk, n, n + found))
                n += found
        if n:
            find_payloads(self.head, self._packet_at[:n], self._packet_size[:n], self.starts, self.lengths, self._ip_at)
            if n == CAPACITY and len(self.sockets) > 1:
                self.sockets.append(self.sockets.pop(0))  # a queue that is always full must not starve the others
        return n

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        """Senders of the first ``n`` frames: uint8 [n, 18]."""
        out = np.zeros((n, 18), np.uint8)
        packet_sources(self.head, self._ip_at[:n], self.starts, out)
        return out

    def times(self, n: int) -> None:
        """None: AF_XDP has no receive times."""

    def drops(self) -> int:
        """Packets dropped because there was no chunk or no room."""
        return sum(xsk.drops() for xsk in self.sockets)

    def details(self) -> dict[str, Any]:
        """Queues and mode."""
        return {
            "frames_by_queue": {str(xsk.queue): xsk.frames for xsk in sorted(self.sockets, key=lambda xsk: xsk.queue)},
            "zero_copy": all(xsk.zero_copy for xsk in self.sockets),
            "chunks": self.room,
        }

    def close(self) -> None:
        """Close all sockets, which removes them from the map."""
        for xsk in self.sockets:
            xsk.close()
