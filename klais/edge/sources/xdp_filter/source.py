"""Common part of the sources behind the XDP filter: rings for handed-over frames, a UDP socket for passed-up ones.

The UDP socket stays open in addition to the rings, because the filter passes frames up to the stack whenever it cannot
hand them over: while no rings are registered, during a reload, fragments (a frame above the MTU comes in several),
frames longer than a slot of the ring, and all that arrive on another interface. Every ``fill`` serves one of the two,
alternating while both have frames.

    start   socket bound -> rings registered -> accept mode set       frames go up to the socket until the last step
    end     accept mode back to pass -> rings read empty -> socket read empty -> all closed
    kill    the kernel closes XSKs, and frames go up again; the ring keeps what was in it for the next reader
"""

import time
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from klais.edge.linger import BOOKED_BYTES
from klais.edge.sources.udp.source import UdpSource
from klais.edge.sources.waiting import Waiting
from klais.edge.sources.xdp_filter.attachment import Filter
from klais.errors import XdpUnavailable
from klais.telemetry import log as logs

log = logs.get("klais.edge.source")

SOCKET_EVERY_NS = 1_000_000  # how often the socket is polled while the rings have frames
KEEP_EVERY_NS = 1_000_000_000
IN_FLIGHT_S = 0.002  # after this time a packet judged with the old accept mode has reached its destination


class Rings(Protocol):
    """The rings that receive frames from the filter, with the columns of :class:`klais.edge.sources.base.Source`."""

    name: str
    accept: str
    capacity: int
    room: int
    fds: list[int]
    head: npt.NDArray[np.uint8]
    tail: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    tail_starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    head_size: int

    def take(self) -> int:
        """Release the frames of the last call, and put the next ones into the columns; returns their number."""

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        """Senders of the first ``n`` frames: uint8 [n, 18]."""

    def times(self, n: int) -> npt.NDArray[np.int64] | None:
        """Receive times of the first ``n`` frames: int64 [n], CLOCK_MONOTONIC ns, or None."""

    def register(self) -> None:
        """Register in the filter's maps (again, if they are new)."""

    def drops(self) -> int:
        """Frames lost on the way into the rings since they were opened."""

    def details(self) -> dict[str, Any]:
        """For people."""

    def close(self) -> None:
        """Release everything; the columns stay readable."""


class FilteredSource:
    """A source of the edge: ``rings`` first, and ``udp`` (see :class:`klais.edge.sources.base.Source` for the
    columns).
    """

    def __init__(self, rings: Rings, udp: UdpSource, xdp: Filter) -> None:
        self.name, self._rings, self._udp, self._filter = rings.name, rings, udp, xdp
        self.port, self.granted_bytes, self.socket = udp.port, udp.granted_bytes, udp.socket
        self.capacity = max(rings.capacity, udp.capacity)
        self.buffer_bytes = rings.room * BOOKED_BYTES  # in the unit of the linger controller
        self._waiting = Waiting([*rings.fds, udp.socket.fileno()])
        self._from_socket = self._closed = False
        self._socket_at_ns = self._keep_at_ns = 0
        self._socket_frames = 0
        self._show(rings)
        rings.register()
        xdp.accept(rings.accept)

    def _show(self, part: Rings | UdpSource) -> None:
        self.head, self.tail, self.head_size = part.head, part.tail, part.head_size
        self.starts, self.tail_starts, self.lengths = part.starts, part.tail_starts, part.lengths

    def fill(self, wait_ns: int) -> int:
        """Read frames from the rings or from the socket; wait at most ``wait_ns`` for the first."""
        now_ns = time.monotonic_ns()
        if now_ns - self._keep_at_ns > KEEP_EVERY_NS:
            self._keep_at_ns = now_ns
            self._refresh()
        n = self._poll(now_ns)
        if n == 0 and wait_ns > 0 and self._waiting.until_readable(wait_ns):
            n = self._poll(now_ns)
        return n

    def _poll(self, now_ns: int) -> int:
        socket_first = not self._from_socket and now_ns - self._socket_at_ns > SOCKET_EVERY_NS
        if socket_first and (n := self._take_socket(now_ns)):
            return n
        if n := self._rings.take():
            if self._from_socket:
                self._from_socket = False
                self._show(self._rings)
            return n
        return 0 if socket_first else self._take_socket(now_ns)

    def _take_socket(self, now_ns: int) -> int:
        self._socket_at_ns = now_ns
        n = self._udp.fill(0)
        if n:
            self._socket_frames += n
            if not self._from_socket:
                self._from_socket = True
                self._show(self._udp)
        return n

    def _refresh(self) -> None:
        """Once a second, handle a filter that was reloaded or unloaded; until then frames arrive at the socket."""
        try:
            if self._filter.refresh():
                self._rings.register()
                self._filter.accept(self._rings.accept)
                self._waiting = Waiting([*self._rings.fds, self.socket.fileno()])
                if not self._from_socket:
                    self._show(self._rings)
                log.warning("filter_changed", source=self.name, did="registered with the present filter")
        except (OSError, XdpUnavailable) as error:
            if logs.every(60, "edge.filter"):
                log.warning("filter_lost", source=self.name, why=str(error), meanwhile="frames use the UDP socket")

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        """Sender of each of the first ``n`` frames: uint8 [n, 18], a copy."""
        return self._udp.sources(n) if self._from_socket else self._rings.sources(n)

    def times(self, n: int) -> npt.NDArray[np.int64] | None:
        """When the kernel received the first ``n`` frames: int64 [n], CLOCK_MONOTONIC ns; None
        if unknown.
        """
        return self._udp.times(n) if self._from_socket else self._rings.times(n)

    def kernel_drops(self) -> int:
        """Frames lost between interface and edge: at the rings, and at the socket."""
        return self._rings.drops() + self._udp.kernel_drops()

    def details(self) -> dict[str, Any]:
        """The facts about the rings, and how many frames arrived at the socket."""
        return self._rings.details() | self._filter.details() | {"frames_by_socket": self._socket_frames}

    def begin_drain(self) -> None:
        """Make the filter pass frames up from now on: the rings are read empty, new frames arrive at the socket."""
        if not self._closed:
            self._filter.release(self._rings.accept)
            time.sleep(IN_FLIGHT_S)

    def close(self) -> None:
        """Set the mode back to ``pass``, then close; the columns stay readable."""
        if not self._closed:
            self._closed = True
            with ExitStack() as closing:  # in reverse order, each whatever the others raise
                closing.callback(self._filter.close)
                closing.callback(self._udp.close)
                closing.callback(self._rings.close)
                self._filter.release(self._rings.accept)
