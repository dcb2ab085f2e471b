"""Receive before the edge is ready: a thread reads frames from the socket while the process loads its compiled code.

    listen ──> EarlyFrames.start ──> imports, kernels, Kafka's answer (seconds on a busy machine) ──> stop ──> spine

The kernel's buffer holds some seconds of traffic. On a machine with little free CPU a start takes longer than that, and
frames beyond it are lost. So from :meth:`EarlyFrames.start` on, frames are kept in memory, up to ``MAX_BYTES``, in
order of arrival, and the spine takes them before anything else. Beyond that limit frames stay in the kernel's buffer.

This module imports no kernels.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from klais.edge.signals import Signals
from klais.edge.sources.udp.socket import UdpSocket
from klais.edge.sources.udp.source import SLOTS, UdpSource
from klais.telemetry import log as logs

log = logs.get("klais.edge.early")

MAX_BYTES = 128 << 20
BLOCK_FRAMES = SLOTS  # maximum in one block
WAIT_NS = 50_000_000  # a stop is noticed within this time
PAUSE_S = 0.002  # between two calls, so that each returns more and the imports get the interpreter


class Block:
    """Frames of one call, copied (see :class:`klais.edge.sources.base.Frames`); ``count`` of them."""

    def __init__(self, source: UdpSource, count: int) -> None:
        self.count = count
        self.lengths = source.lengths[:count].copy()
        self.head_size = source.head_size
        in_head = np.minimum(self.lengths, self.head_size)
        self.head, self.starts = _packed(source.head, source.starts[:count], in_head)
        self.tail, self.tail_starts = _packed(source.tail, source.tail_starts[:count], self.lengths - in_head)
        self._sources = source.sources(count)
        times, at_ns = source.times(count), time.monotonic_ns()
        self._times = np.full(count, at_ns, np.int64) if times is None else times.copy()

    @property
    def bytes(self) -> int:
        """Approximate memory used."""
        return len(self.head) + len(self.tail) + 64 * self.count

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        """Senders of the first ``n`` frames."""
        return self._sources[:n]

    def times(self, n: int) -> npt.NDArray[np.int64]:
        """When the first ``n`` frames arrived, or were read."""
        return self._times[:n]


def _packed(
    memory: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Pieces of memory copied without gaps (plus one byte, so that it is never empty), and where each begins."""
    ends = np.cumsum(sizes)
    begins = ends - sizes
    out = np.zeros(int(ends[-1]) + 1, np.uint8)
    np.take(memory, np.arange(int(ends[-1])) + np.repeat(starts - begins, sizes), out=out[:-1])
    return out, begins


class EarlyFrames:
    """Reads frames from ``udp`` in a thread from :meth:`start` to :meth:`stop`; then iterate over the blocks, once.

    ``bytes``: memory used by all of them. ``signals``: those that arrived before the edge handles them.
    """

    def __init__(self, udp: UdpSocket, max_bytes: int = MAX_BYTES) -> None:
        self._source, self._max_bytes = UdpSource(udp), max_bytes
        self._blocks: deque[Block] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="early", daemon=True)
        self.bytes = 0
        self.signals = Signals()

    def start(self) -> None:
        """Start. Frames in memory must survive an early signal: it is noted in ``signals`` until the edge takes over.

        Call it in the main thread.
        """
        self.signals.install()
        self._thread.start()

    def stop(self) -> None:
        """Stop; the next reader of the socket gets newer frames. A second call has no effect."""
        self._stopping.set()
        self._thread.join()

    @property
    def frames(self) -> int:
        """Frames that were not taken yet."""
        return sum(block.count for block in self._blocks)

    def __iter__(self) -> Iterator[Block]:
        """Blocks in order of arrival; each is released as it is taken."""
        while self._blocks:
            yield self._blocks.popleft()

    def _run(self) -> None:
        while not self._stopping.is_set() and self.bytes < self._max_bytes:
            if count := self._source.fill(WAIT_NS):
                block = Block(self._source, count)
                self.bytes += block.bytes
                self._blocks.append(block)
            self._stopping.wait(PAUSE_S)


@contextmanager
def receive_early(udp: UdpSocket) -> Iterator[EarlyFrames]:
    """Receive from now on; at the end log the frames that were not taken because the edge could not start."""
    early = EarlyFrames(udp)
    early.start()
    try:
        yield early
    finally:
        early.stop()
        if frames := early.frames:
            log.error("frames_lost", frames=frames, why="they arrived while the edge started, and it could not start")
