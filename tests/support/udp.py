"""Senders that never overrun a receiver: they ask the kernel how many bytes wait in a socket."""

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from klais.edge.sources.udp.socket import UdpSocket
from klais.system.activation import HeldSocket
from klais.system.address import Bind, open_udp_socket
from tests.support.process import wait_for

# Bytes between two checks. A receive buffer of Linux's default size (208 KiB) holds this many, even in tiny frames.
BURST_BYTES = 16_384
_SMALLEST = 64  # minimum charge of a frame


def frames_that_fit(granted_bytes: int, frame_bytes: int = 60) -> int:
    """Number of frames that fit into a receive buffer of that granted size (``UdpSocket.granted_bytes``).

    Linux doubles the granted size, and charges each frame with its bookkeeping: less than 1 KiB above the frame's own
    pages.
    """
    return 2 * granted_bytes // (1024 + (frame_bytes // 4096 + 1) * 4096 if frame_bytes > 512 else 1024)


def granted_bytes(asked: int = 8 << 20) -> int:
    """The receive buffer that a UDP source gets here: an unprivileged user gets at most ``net.core.rmem_max``."""
    udp = UdpSocket.bind("127.0.0.1:0", asked)
    udp.close()
    return udp.granted_bytes


def waiting_bytes(port: int) -> int:
    """Bytes that wait in the receive queues of all UDP sockets of this port; 0 when there is none."""
    found = 0
    for name in ("udp", "udp6"):
        table = Path("/proc/thread-self/net") / name
        if not table.exists():  # a kernel without IPv6
            continue
        for line in table.read_text().splitlines()[1:]:
            words = line.split()
            if int(words[1].rpartition(":")[2], 16) == port:
                found += int(words[4].partition(":")[2], 16)
    return found


def send_all(sock: socket.socket, frames: Iterable[bytes], port: int, timeout_s: float = 30) -> None:
    """Send datagrams on a connected socket; after each burst wait until the receiver has read all of it."""
    sent = 0
    for frame in frames:
        sock.send(frame)
        sent += max(_SMALLEST, len(frame))
        if sent >= BURST_BYTES:
            wait_taken(port, timeout_s)
            sent = 0


def wait_taken(port: int, timeout_s: float = 30) -> None:
    """Wait until the sockets of a port are empty (or closed)."""
    wait_for(lambda: waiting_bytes(port) == 0, timeout_s, f"the receiver of port {port} to take what waits", 0.001)


@contextmanager
def held_sockets(count: int) -> Iterator[list[HeldSocket]]:
    """Sockets on free ports of loopback, as a supervisor holds them for its edges."""
    held = [HeldSocket(open_udp_socket(Bind("127.0.0.1", 0), True), 65_536) for _ in range(count)]
    try:
        yield held
    finally:
        for one in held:
            one.close()
