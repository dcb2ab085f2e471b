"""The data path of the edge, in order: source -> check -> partition -> batch -> publish. Read this file first.

    UDP socket ──fill──> columns ──check_headers──> good ──partition, scatter──> one open batch a partition ──>
    klais_raw
                                       ├─ of blocked sources ──> counted
                                       ├─ signed ── Authenticator: tag good, or malformed (only with KLAIS_AUTH)
                                       ├─ malformed ──> klais_dead_letter (a sample) and counters
                                       └─ above the host's limit ──> counted

One thread runs it, without a Python statement per frame: a round costs the same for one frame as for a thousand.
"""

import threading
import time
from collections.abc import Callable, Iterable

import numpy as np

from klais.core.wire.constants import MAX_FRAME_SIZE, Reason
from klais.core.wire.frame import check_headers
from klais.core.wire.partition import partition_column
from klais.edge.activity import Activity
from klais.edge.auth import Authenticator
from klais.edge.batcher import Batcher
from klais.edge.blocked_sources import BlockedSources
from klais.edge.counts import Counts
from klais.edge.early import BLOCK_FRAMES, Block
from klais.edge.kernels import mark_malformed, shed
from klais.edge.linger import LingerController
from klais.edge.shedding import LoadShedder
from klais.edge.sinks.base import Sink
from klais.edge.sinks.dead_letters import DeadLetters
from klais.edge.sources.base import Frames, Source
from klais.edge.tap import EdgeTaps
from klais.telemetry import log as logs

log = logs.get("klais.edge.spine")

IDLE_NS = 500_000_000  # without frames the loop turns this often; a frame and a signal end the wait immediately
ACK_POLL_NS = 2_000_000  # acknowledgements are processed this often if nothing else happens

OnTick = Callable[[float], None]


def _ignore(_value: float) -> None:
    """Does nothing."""


class Spine:
    """The loop; :meth:`stop` and :meth:`abort` may be called from a signal handler or another thread.

    Parameters
    ----------
    source, batcher, sink, dead_letters, counts, linger, shedder
        The components, in the order of the data path.
    frame_max_bytes : int
        Longer frames are malformed (TOO_LONG).
    on_tick : callable
        Called in each round, at least twice a second, with the monotonic time (s): watchdog, limits, reload.
    observe_batch_s : callable
        Called with the age of each batch (s) when it is handed to the sink.
    auth : Authenticator, optional
        Checks the tags of frames; None = authenticated frames are not accepted (``KLAIS_AUTH=off``).
    blocked_sources : BlockedSources, optional
        Whose frames are dropped; None = nobody's.

    Attributes
    ----------
    lock : threading.Lock
        Held while a round changes the counters. A reader that holds it sees every frame exactly once.
    round_began_s : float
        Monotonic time when the loop last began a round; it grows old if the loop hangs.
    activity : Activity
        Device activity: a sketch of the last second; also protected by the lock.
    taps : EdgeTaps
        The open taps, which sample single frames.
    """

    def __init__(
        self,
        source: Source,
        batcher: Batcher,
        sink: Sink,
        dead_letters: DeadLetters,
        counts: Counts,
        linger: LingerController,
        shedder: LoadShedder,
        frame_max_bytes: int = MAX_FRAME_SIZE,
        on_tick: OnTick = _ignore,
        observe_batch_s: Callable[[float], None] = _ignore,
        auth: Authenticator | None = None,
        blocked_sources: BlockedSources | None = None,
    ) -> None:
        self.auth = auth
        self.blocked_sources = BlockedSources() if blocked_sources is None else blocked_sources
        self._frame_max_bytes = frame_max_bytes
        self.source, self.batcher, self.sink, self.dead_letters = source, batcher, sink, dead_letters
        self.counts, self.linger, self.shedder = counts, linger, shedder
        self.lock = threading.Lock()
        self.activity, self.taps = Activity(), EdgeTaps(batcher.edge_id)
        self._on_tick, self._observe_batch_s = on_tick, observe_batch_s
        self._stopping = self._aborted = False
        self.round_began_s = time.monotonic()
        n = max(source.capacity, BLOCK_FRAMES)
        self._reason, self._id_size = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
        self._ids, self._sequence = np.zeros((n, 2), np.uint64), np.zeros(n, np.uint32)
        self._partition, self._bad = np.zeros(n, np.int32), np.zeros(n, np.int64)

    def stop(self) -> None:
        """End :meth:`run` after the current round."""
        self._stopping = True

    def abort(self) -> None:
        """Make :meth:`drain` return without waiting."""
        self._aborted = True

    def take(self, blocks: Iterable[Block]) -> None:
        """Process frames received before the spine ran, ahead of all frames from its source.

        The linger controller does not see them, because they do not show the rate.
        """
        for block in blocks:
            self.round_began_s = time.monotonic()
            self._on_tick(self.round_began_s)
            now_ns = time.monotonic_ns()
            with self.lock:
                self._batch(block, block.count, now_ns, now_ns)
                self._publish_due(now_ns, self.linger.linger_ns)

    def run(self) -> None:
        """Receive and publish until :meth:`stop`."""
        slept_ns = 0
        while not self._stopping:
            self.round_began_s = time.monotonic()
            self._on_tick(self.round_began_s)
            # After a sleep there are probably frames: read them without a poll(2). Otherwise wait in the kernel for the
            # first.
            received = self.source.fill(0) if slept_ns else 0
            if not received:
                slept_ns, received = 0, self.source.fill(self._wait_ns())
            self.round(received, self._linger_ns(time.monotonic_ns()), slept_ns)
            slept_ns = self._sleep(received)

    def _sleep(self, received: int) -> int:
        """Do not poll the source for the poll interval, so that the next poll returns more; returns the time (ns)."""
        wait_s = self.linger.poll_wait_s(received)
        if not wait_s:
            return 0
        began_ns = time.monotonic_ns()
        time.sleep(wait_s)
        return time.monotonic_ns() - began_ns

    def round(self, received: int, linger_ns: int, slept_ns: int = 0) -> None:
        """Process the result of a ``fill``: frames into batches, due batches to the sink, delivery reports.

        ``slept_ns``: how long the source was not polled before. Frames count as that old if the source has no times, so
        that a batch never waits longer than its linger because of the sleep.
        """
        now_ns = time.monotonic_ns()
        self.linger.observe(received, now_ns)
        with self.lock:
            if received:
                self._batch(self.source, received, now_ns, now_ns - slept_ns)
            self._publish_due(now_ns, linger_ns)

    def _publish_due(self, now_ns: int, linger_ns: int) -> None:
        for partition in self.batcher.due(now_ns, linger_ns):
            self._publish(partition, now_ns)
        self.sink.poll()
        self.counts.waiting = self.batcher.waiting()

    def _batch(self, source: Frames, n: int, now_ns: int, since_ns: int) -> None:
        partition = self._partition[:n]
        starts, lengths = source.starts[:n], source.lengths[:n]
        reason, id_size, bad = self._reason[:n], self._id_size[:n], self._bad[:n]
        self.counts.received += n
        self.counts.received_bytes += int(lengths.sum())
        check_headers(source.head, starts, lengths, reason, self._ids[:n], self._sequence[:n], id_size)
        blocking, with_sources = self.blocked_sources.active, self.batcher.with_sources
        senders = source.sources(n) if blocking or with_sources else None
        n_blocked = self.blocked_sources.mark(senders, reason) if blocking and senders is not None else 0
        epochs = None
        if self.auth is not None:
            columns = self._ids[:n], self._sequence[:n], id_size
            epochs = self.auth.check(source, n, self._frame_max_bytes, reason, *columns)
        partition_column(source.head, starts, id_size, self.batcher.partitions, partition)
        n_bad = mark_malformed(lengths, self._frame_max_bytes, reason, partition, self.counts.by_reason, bad)
        self.activity.add(lengths, reason, self._ids[:n])
        if n_bad:
            self.dead_letters.send(source, bad[:n_bad], reason, id_size, now_ns, time.time_ns())
        n_good = n - n_bad - n_blocked
        if (acquired := self.shedder.acquire(n_good, now_ns)) < n_good:
            self.counts.drop(Reason.GLOBAL_RATE, shed(partition, acquired))
        if self.taps.open:
            self.taps.observe(source, reason, partition, self._ids[:n], self._sequence[:n], id_size)
        sources = senders if with_sources else None
        times_ns = source.times(n)
        at = self.batcher.add(source, partition, 0, since_ns, sources, times_ns, epochs)
        while at < n:  # the batch of frame ``at`` is full: close it and continue with that frame
            self._publish(int(partition[at]), now_ns)
            at = self.batcher.add(source, partition, at, since_ns, sources, times_ns, epochs)

    def _publish(self, partition: int, now_ns: int) -> None:
        built = self.batcher.close(partition, now_ns, time.time_ns())
        self._observe_batch_s(built.age_ns * 1e-9)
        if refused := self.sink.offer(built):
            self.counts.drop(refused, built.count)
            self.batcher.take_back(built)

    def _linger_ns(self, now_ns: int) -> int:
        return max(self.linger.linger_ns, self.sink.linger_ns, self.shedder.linger_ns(now_ns))

    def _wait_ns(self) -> int:
        """Time until the next event: a batch comes due, or acknowledgements are expected."""
        now_ns = time.monotonic_ns()
        due_ns = self.batcher.oldest_ns(now_ns + IDLE_NS) + self._linger_ns(now_ns) - now_ns
        return max(0, min(due_ns, ACK_POLL_NS if self.counts.inflight_bytes else IDLE_NS))

    def sample_kernel_drops(self) -> None:
        """Read the kernel's count of drops into the counters; in this thread, because the source updates it there."""
        drops = self.source.kernel_drops()
        with self.lock:
            self.counts.kernel_drops = drops

    def drain(self, receive_s: float, deliver_s: float) -> int:
        """Read the kernel's buffer, stop receiving, deliver or store; returns the frames that were neither.

        A source that fails meanwhile is logged: what it gave before is delivered or stored all the same.
        """
        try:
            self._read_rest(receive_s)
        except Exception as error:
            log.error("source_failed", error=repr(error), now="the edge stores what it has received, and ends")
        return self.store(deliver_s)

    def _read_rest(self, receive_s: float) -> None:
        until_s = time.monotonic() + receive_s
        self.source.begin_drain()
        received = self.source.fill(0)
        while received and not self._aborted and time.monotonic() < until_s:
            self.round_began_s = time.monotonic()
            self.round(received, self._linger_ns(time.monotonic_ns()))
            received = self.source.fill(0)
        self.round(received, 0)
        self.sample_kernel_drops()

    def store(self, deliver_s: float) -> int:
        """Like :meth:`drain` without reading the source."""
        with self.lock:
            self._publish_due(time.monotonic_ns(), 0)
            try:
                self.source.close()
            except Exception as error:
                log.error("source_not_closed", error=repr(error))
            return self.sink.drain(deliver_s, self._pause)

    def _pause(self, wait_s: float) -> None:
        """Wait without the lock: readers of the counters, such as ``/health``, must not wait for Kafka."""
        self.lock.release()
        try:
            time.sleep(wait_s)
        finally:
            self.lock.acquire()
