"""Helpers of the contract tests of the sources: a rig for each source (how to open it and send to it), senders,
receivers.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from klais.edge.sinks.dead_letters import frame_bytes
from klais.edge.sources.base import Source
from klais.system.address import source_text
from tests.support.needs import ipv6_error

SECOND_NS = 1_000_000_000
RCVBUF = 8 << 20
# Without IPv6 on the machine the sources have one address here.
LOOPBACK, ANY = (("127.0.0.1", "::1"), "[::]:0") if ipv6_error() is None else (("127.0.0.1",), "0.0.0.0:0")


@dataclass(frozen=True)
class Rig:
    """One source, ready to be opened.

    ``open(rcvbuf_bytes, bind)`` opens it on a free port (close it yourself); ``hosts`` are its addresses, IPv4 first;
    ``sender`` returns sockets to send from; ``in_place_bytes`` is the longest frame on the fast path, and ``dates``
    whether the source reports when the kernel received a frame.
    """

    name: str
    open: Callable[..., Source]
    hosts: tuple[str, ...] = LOOPBACK
    sender: Callable[[int], socket.socket] = lambda family: socket.socket(family, socket.SOCK_DGRAM)
    in_place_bytes: int = 65_507
    dates: bool = False

    @contextmanager
    def opened(self, rcvbuf_bytes: int = RCVBUF, bind: str = ANY) -> Iterator[Source]:
        """The source, closed at the end."""
        source = self.open(rcvbuf_bytes, bind)
        try:
            yield source
        finally:
            source.close()

    def send(self, source: Source, frames: list[bytes], host: str | None = None) -> str:
        """Send datagrams one after the other to the source; returns the sender's address as text."""
        host = host or self.hosts[0]
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with self.sender(family) as sock:
            sock.connect((host, source.port))
            for frame in frames:
                sock.send(frame)
            address, port = sock.getsockname()[:2]
        return f"[{address}]:{port}" if ":" in host else f"{address}:{port}"


def receive(source: Source, count: int) -> list[tuple[bytes, str, int | None]]:
    """The next ``count`` frames, each with its sender as text and the kernel's receive time (ns), if any."""
    out: list[tuple[bytes, str, int | None]] = []
    while len(out) < count:
        n = source.fill(60 * SECOND_NS)
        assert n > 0, f"only {len(out)} of {count} frames came"
        assert n <= source.capacity
        times, sources = source.times(n), source.sources(n)
        for i in range(n):
            when_ns = None if times is None else int(times[i])
            out.append((frame_bytes(source, i), source_text(sources[i].tobytes()), when_ns))
    return out


def drain(source: Source) -> int:
    """Receive all waiting frames; return their number."""
    total = 0
    while n := source.fill(0):
        total += n
    return total
