"""Store and forward: the sink between the spine and Kafka, a combination of publisher, breaker and backlog.

    offer ──closed, nothing of this partition waits──> publisher ──> klais_raw
        └──otherwise──> backlog (disk, then memory) ──closed: replay, oldest first──┘

Each partition stays in order, so that a lane can recognise a batch sent twice by its number: a batch goes directly to
Kafka only while no batch of its partition waits in the backlog. When the breaker opens, all unacknowledged batches are
taken back from the producer and go into the backlog before anything newer.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from klais import fault
from klais.config.load import Settings
from klais.core.wire.constants import Reason
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.base import Headers, Pause
from klais.edge.sinks.breaker import Breaker, State
from klais.edge.sinks.kafka import Deliver, KafkaPublisher
from klais.edge.sinks.spool.backlog import Backlog
from klais.edge.sinks.spool.records import Entry
from klais.telemetry import log as logs

log = logs.get("klais.edge.sinks.store_and_forward")

REPLAY_SHARE = 0.5  # share of the bytes in flight; the rest is for incoming batches
REPLAY_ROUND_S = 0.002  # per round of the spine, so that it polls the socket again soon
REPLAY_BURST_S = 0.1
SLICE_S = 0.01  # between two looks at the acknowledgements while it drains
# Spooled frames are late anyway, and workers, for which a record costs more than a frame, catch up faster with more
# frames per record (37 at 20,000 frames/s over 4 partitions without this). In return, a kill of the edge loses this
# much more.
STORE_LINGER_NS = 50_000_000


def _unlimited() -> float:
    return float("inf")


MakePublisher = Callable[[Deliver, Deliver], KafkaPublisher]


@dataclass(frozen=True, slots=True)
class ForwarderStatistics:
    """Batches that wait for Kafka, and the reason. ``spool_problem`` is empty while the disk accepts batches."""

    breaker: str
    spooled: int
    held: int
    spool_bytes: int
    spool_max_bytes: int
    spool_problem: str
    transitions: Mapping[str, int]


class Forwarder:
    """Accepts batches from the spine; belongs to its thread.

    Parameters
    ----------
    settings : Settings
        ``breaker_*``.
    counts : Counts
        Counters to update.
    make_publisher : callable
        Creates the :class:`KafkaPublisher` from the callbacks for delivered and for refused batches.
    backlog : Backlog
        The waiting batches.
    replay_per_s : callable
        Frames per second that may be replayed, called in each round.
    clock, rng : callable
        Monotonic seconds; uniform in [0, 1).
    """

    def __init__(
        self,
        settings: Settings,
        counts: Counts,
        make_publisher: MakePublisher,
        backlog: Backlog,
        replay_per_s: Callable[[], float] = _unlimited,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._counts, self.backlog, self._clock, self._replay_per_s = counts, backlog, clock, replay_per_s
        self.publisher = make_publisher(self._on_delivered, self._on_refused)
        s = settings
        self.breaker = Breaker(s.breaker_timeout_s, s.breaker_wait_min_s, s.breaker_wait_max_s, rng)
        self._aborted = self._draining = self._spooling_only = self._resume = False
        self._tokens, self._tokens_s = 0.0, clock()

    def abort(self) -> None:
        """Let :meth:`drain` end without waiting for Kafka; may be called from a signal handler."""
        self._aborted = True

    @property
    def linger_ns(self) -> int:
        """Minimum time that batches collect frames: longer while they are stored."""
        return 0 if self.breaker.closed and self.backlog.drained else STORE_LINGER_NS

    def offer(self, built: ClosedBatch) -> Reason:
        """Accept a batch for Kafka or the backlog; returns ``Reason.PASSED``, or the reason of the refusal."""
        now_s = self._clock()
        if self.breaker.closed and not self.backlog.holds(built.partition):
            if self.publisher.offer(built):
                return Reason.PASSED
            if self.publisher.failing:
                self._recall(now_s)
            elif self.backlog.durable:
                self._on_transition(self.breaker.open(now_s, "too many bytes wait for Kafka"), now_s)
            else:
                return self.backlog.hold(built)
        if self.breaker.closed or not self._counts.inflight:
            return self.backlog.append(built, now_s)
        # The probe is in flight, and not on disk. If it comes back, it must be ahead of this batch: so use memory.
        return self.backlog.hold(built)

    def dead_letter(self, value: bytes, key: bytes | None, headers: Headers, partition: int) -> bool:
        """Send one dead letter, unless the breaker is open (they are only a sample); it may serve as the probe."""
        probe = self.breaker.state is State.HALF_OPEN and not self._counts.inflight_bytes
        return (self.breaker.closed or probe) and self.publisher.dead_letter(value, key, headers, partition)

    def poll(self) -> None:
        """Process delivery reports, update the breaker, replay."""
        now_s = self._clock()
        self.publisher.poll()
        if self.publisher.failing:
            log.warning("producer_rebuilt", frames_in_flight=self._counts.inflight)
            self.breaker.failed()
            self._recall(now_s)
        if self._resume:
            # The topics check was the probe: without incoming frames there is no batch that could be one.
            self._resume = self._spooling_only = False
            self._on_transition(self.breaker.close(now_s), now_s)
        if not self._spooling_only and (moved := self.breaker.transition(now_s, self._counts.inflight_bytes > 0)):
            self._on_transition(moved, now_s)
        if self.breaker.closed:
            if not (self._draining and self.backlog.durable):  # batches on disk are safe there
                self._replay(now_s)
            if not self._draining:
                self.backlog.redistribute(now_s)
        elif self.breaker.state is State.HALF_OPEN and not self._counts.inflight_bytes:
            self._hand_out()
        self.backlog.maintain(now_s)

    def start_spooling(self, why: str) -> None:
        """Start with an open breaker that does not probe before :meth:`stop_spooling`: all batches go to the spool."""
        now_s = self._clock()
        self._spooling_only = True
        self._on_transition(self.breaker.open(now_s, why), now_s)

    def stop_spooling(self) -> None:
        """Kafka answers and the topics are correct: close the breaker in the next round. May be called from any
        thread.
        """
        self._resume = True

    def _on_transition(self, state: State, now_s: float) -> None:
        breaker, counts = self.breaker, self._counts
        if state is State.OPEN:
            self._recall(now_s)
            wait_s = round(breaker.probe_s - now_s, 2)
            log.warning("breaker_open", why=breaker.why, probe_in_s=wait_s, spooled=counts.spooled, held=counts.held)
        else:
            log.info(f"breaker_{state.value}", spooled=counts.spooled, held=counts.held)

    def _recall(self, now_s: float) -> None:
        """Put all unacknowledged batches (back) into the backlog."""
        self.backlog.put_back(self.publisher.take_back(), now_s)

    def _replay(self, now_s: float) -> None:
        rate = self._replay_per_s()
        self._tokens = min(rate * REPLAY_BURST_S, self._tokens + (now_s - self._tokens_s) * rate)
        self._tokens_s = now_s
        if self.backlog.drained:
            return
        until_s = now_s + REPLAY_ROUND_S
        while self._tokens > 0 and self.publisher.room(REPLAY_SHARE) > 0 and self._clock() < until_s:
            frames = self._hand_out()
            if not frames:
                return
            self._tokens -= frames

    def _hand_out(self) -> int:
        """Send the oldest batch of the backlog to Kafka; returns its frames, 0 if there is none or no room."""
        found = self.backlog.next()
        if found is None:
            return 0
        built, entry = found
        if not self.publisher.offer(built, entry):
            self.backlog.give_back(built, entry)
            return 0
        fault.at("replay_sent")
        return built.count

    def _on_delivered(self, entry: Entry | None) -> None:
        self.breaker.delivered()
        if entry is not None:
            fault.at("replay_acked")
            self._counts.replayed += entry.frames
            self.backlog.done(entry)

    def _on_refused(self, entry: Entry | None) -> None:
        if entry is not None:
            self.backlog.done(entry)

    def configure(self, settings: Settings) -> None:
        """Apply ``breaker_*`` and ``spool_*`` at run time."""
        s = settings
        self.breaker.configure(s.breaker_timeout_s, s.breaker_wait_min_s, s.breaker_wait_max_s)
        self.backlog.configure(s)

    def problems(self) -> list[str]:
        """Why frames do not get through, as texts; may be called from any thread."""
        breaker, counts, out = self.breaker, self._counts, []
        if not breaker.closed:
            where = f"{counts.spooled:,} frames wait on disk ({self.backlog.bytes:,} bytes)"
            where += f", {counts.held:,} in memory" if counts.held else ""
            what = f"the breaker is {breaker.state.value.replace('_', '-')}: {breaker.why}; {where}"
            out.append(f"{what}; the edge retries automatically: check Kafka and the network")
            if why := self.backlog.no_room:
                out.append(f"{why}: frames are dropped; check Kafka, or raise {self.backlog.bound}")
        return out + self.backlog.problems()

    @property
    def no_room(self) -> str:
        """Why a batch would be refused now; empty while Kafka, the spool or memory accepts it. From any thread."""
        if self.breaker.closed and self.publisher.room() > 0:
            return ""
        return self.backlog.no_room

    def statistics(self) -> ForwarderStatistics:
        """The waiting batches and the state of the breaker."""
        return ForwarderStatistics(
            breaker=self.breaker.state.value,
            spooled=self._counts.spooled,
            held=self._counts.held,
            spool_bytes=self.backlog.bytes,
            spool_max_bytes=self.backlog.max_bytes,
            spool_problem=self.backlog.problem,
            transitions={state.value: n for state, n in self.breaker.transitions.items()},
        )

    def drain(self, budget_s: float, pause: Pause = time.sleep) -> int:
        """Wait for Kafka while that may save frames, then store the rest. ``pause``: as in ``Sink``.

        Returns
        -------
        int
            Frames that were neither delivered nor stored; counted as ``delivery_failed``.
        """
        counts, self._draining = self._counts, True
        until_s = self._clock() + budget_s
        while self._worth_waiting() and not self._aborted and self._clock() < until_s:
            pause(min(SLICE_S, max(0.0, until_s - self._clock())))
            self.poll()
        now_s, dropped = self._clock(), counts.by_reason.sum()
        self._recall(now_s)
        self.backlog.maintain(now_s)
        counts.drop(Reason.DELIVERY_FAILED, counts.held)
        counts.held = 0
        self.backlog.close()
        return int(counts.by_reason.sum() - dropped)

    def _worth_waiting(self) -> bool:
        """Whether waiting may save frames from being stored, or from loss if they cannot be stored."""
        if self.backlog.durable:
            return self.breaker.closed and self._counts.inflight_bytes > 0
        return self._counts.inflight_bytes > 0 or self._counts.held > 0
