"""The data path of the edge, in order: source -> check -> partition -> batch -> publish.

    UDP socket ──fill──> columns ──check_headers──> good ──partition, scatter──> one open batch a partition ──> klais_raw
                                       ├─ malformed ──> klais_dead_letter (a sample) and counters
                                       └─ above the intake ──> counted

One thread runs it, without a Python statement for each frame: a round costs the same for one frame as for a thousand.
"""

import threading
import time
from collections.abc import Callable

import numpy as np

from klais.core.wire.constants import MAX_FRAME_SIZE, Reason
from klais.core.wire.frame import check_headers
from klais.core.wire.partition import partition_column
from klais.edge.batcher import Batcher
from klais.edge.counts import Counts
from klais.edge.kernels import sort_out
from klais.edge.linger import Pace
from klais.edge.shedding import Intake, shed
from klais.edge.sinks.dead_letters import DeadLetters
from klais.edge.sinks.kafka import Sink
from klais.edge.sources.base import Source

IDLE_NS = 100_000_000  # how soon a stop is noticed when nothing comes
ACK_NS = 2_000_000  # how soon acknowledgements are looked at when nothing else happens


def _nothing() -> None:
    """Does nothing."""


class Spine:
    """The loop; ``stop()`` may be called from a signal handler or another thread.

    ``beat`` is called in each round, at least ten times a second: for a watchdog, and for what another thread wants done here.
    Frames longer than ``frame_max_bytes`` are malformed (TOO_LONG).
    ``lock`` is held while a round changes the counters: whoever reads them holds it too, and sees every frame once.
    """

    def __init__(
        self,
        source: Source,
        batcher: Batcher,
        sink: Sink,
        letters: DeadLetters,
        counts: Counts,
        pace: Pace,
        frame_max_bytes: int = MAX_FRAME_SIZE,
    ) -> None:
        self._frame_max_bytes = frame_max_bytes
        self.source, self.batcher, self.sink, self.letters = source, batcher, sink, letters
        self.counts, self.pace, self.intake = counts, pace, Intake(batcher.partitions)
        self.lock = threading.Lock()
        self._stopping = self._hurried = False
        self.beat: Callable[[], None] = _nothing
        n = source.capacity
        self._reason, self._id_size = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
        self._ids, self._sequence = np.zeros((n, 2), np.uint64), np.zeros(n, np.uint32)
        self._partition, self._bad = np.zeros(n, np.int32), np.zeros(n, np.int64)

    def stop(self) -> None:
        """End :meth:`run` after the round under way."""
        self._stopping = True

    def hurry(self) -> None:
        """Let :meth:`drain` wait for nothing."""
        self._hurried = True

    def run(self) -> None:
        """Receive and publish until :meth:`stop`."""
        rested_ns = 0
        while not self._stopping:
            self.beat()
            received = self.source.fill(0) if rested_ns else 0
            if not received:
                rested_ns, received = 0, self.source.fill(self._wait_ns())
            self.round(received, self._linger_ns(time.monotonic_ns()), rested_ns)
            rested_ns = self._rest(received)

    def _rest(self, received: int) -> int:
        """Stay away from the source for as long as the pace says; for how long it was (ns)."""
        rest_s = self.pace.rest_s(received)
        if not rest_s:
            return 0
        began_ns = time.monotonic_ns()
        time.sleep(rest_s)
        return time.monotonic_ns() - began_ns

    def round(self, received: int, linger_ns: int, rested_ns: int = 0) -> None:
        """Everything that follows a ``fill``: the frames into batches, due batches to the sink, reports served.

        ``rested_ns``: how long nobody looked before it; the frames count as that old where the source has no times.
        """
        now_ns = time.monotonic_ns()
        self.pace.observe(received, now_ns)
        with self.lock:
            if received:
                self._take(received, now_ns, now_ns - rested_ns)
            for partition in self.batcher.due(now_ns, linger_ns):
                self._publish(partition, now_ns)
            self.sink.poll()
            self.counts.waiting = self.batcher.waiting()

    def _take(self, n: int, now_ns: int, since_ns: int) -> None:
        source, partition = self.source, self._partition[:n]
        starts, lengths = source.starts[:n], source.lengths[:n]
        reason, id_size, bad = self._reason[:n], self._id_size[:n], self._bad[:n]
        self.counts.taken += n
        self.counts.taken_bytes += int(lengths.sum())
        check_headers(source.head, starts, lengths, reason, self._ids[:n], self._sequence[:n], id_size)
        partition_column(source.head, starts, id_size, self.batcher.partitions, partition)
        n_bad = sort_out(lengths, self._frame_max_bytes, reason, partition, self.counts.by_reason, bad)
        if n_bad:
            self.letters.send(source, bad[:n_bad], reason, id_size, now_ns, time.time_ns())
        if (granted := self.intake.grant(n - n_bad, now_ns)) < n - n_bad:
            self.counts.drop(Reason.GLOBAL_RATE, shed(partition, granted))
        sources = source.sources(n) if self.batcher.with_sources else None
        times_ns = source.times(n)
        at = self.batcher.add(source, partition, 0, since_ns, sources, times_ns)
        while at < n:
            self._publish(int(partition[at]), now_ns)
            at = self.batcher.add(source, partition, at, since_ns, sources, times_ns)

    def _publish(self, partition: int, now_ns: int) -> None:
        built = self.batcher.close(partition, now_ns, time.time_ns())
        self.counts.observe_batch_s(built.age_ns * 1e-9)
        if refused := self.sink.offer(built):
            self.counts.drop(refused, built.count)
            self.batcher.take_back(built)

    def _linger_ns(self, now_ns: int) -> int:
        return max(self.pace.linger_ns, self.sink.linger_ns, self.intake.linger_ns(now_ns))

    def _wait_ns(self) -> int:
        """Until the next thing to do: a batch comes due, or acknowledgements are expected."""
        now_ns = time.monotonic_ns()
        due_ns = self.batcher.oldest_ns(now_ns + IDLE_NS) + self._linger_ns(now_ns) - now_ns
        return max(0, min(due_ns, ACK_NS if self.counts.inflight_bytes else IDLE_NS))

    def drain(self, receive_s: float, deliver_s: float) -> int:
        """Take what the kernel holds already, stop receiving, deliver or store; returns the frames that found no place."""
        until_s = time.monotonic() + receive_s
        self.source.wind_down()
        received = self.source.fill(0)
        while received and not self._hurried and time.monotonic() < until_s:
            self.round(received, self._linger_ns(time.monotonic_ns()))
            received = self.source.fill(0)
        self.round(received, 0)
        with self.lock:
            self.source.close()
            return self.sink.drain(deliver_s)
