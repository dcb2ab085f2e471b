"""Store and forward: the sink between the spine and Kafka, made of publisher, breaker and backlog.

    offer ──closed, nothing of this partition waits──> publisher ──> klais_raw
        └──otherwise──> backlog (disk, then memory) ──closed: replay, oldest first──┘

What keeps each partition in order, so that a lane may tell a batch sent twice by its number: a batch goes to Kafka directly
only while none of its partition waits in the backlog; and when the breaker opens, all that was not acknowledged is taken
back from the producer and goes into the backlog before anything newer.
"""

import random
import time
from collections.abc import Callable
from typing import Any

from klais import fault
from klais.config.load import Settings
from klais.core.wire.constants import Reason
from klais.edge.batcher import Built
from klais.edge.counts import Counts
from klais.edge.sinks.breaker import Breaker, State
from klais.edge.sinks.kafka import Headers, KafkaPublisher
from klais.edge.sinks.spool.backlog import Backlog
from klais.edge.sinks.spool.disk import Entry
from klais.telemetry import log as logs

log = logs.get("klais.edge.sinks.store_and_forward")

REPLAY_SHARE = 0.5  # of the bytes in flight; the rest is for batches that come in now
REPLAY_ROUND_S = 0.002  # in one round of the spine, so that the socket is looked at again soon
REPLAY_BURST_S = 0.1
SLICE_S = 0.1
# What goes to the spool is late anyway, and workers, for whom a record costs more than a frame, catch up the faster the more
# frames it holds (37 at 20,000 frames/s over 4 partitions without this). A kill of the edge takes so much of the last moment.
STORE_LINGER_NS = 50_000_000


def _unlimited() -> float:
    return float("inf")


class Forwarder:
    """Takes batches over from the spine; belongs to its thread.

    Parameters
    ----------
    settings : Settings
        ``breaker_*``.
    counts : Counts
        Counters to keep.
    publisher : KafkaPublisher
        Towards Kafka.
    backlog : Backlog
        Where batches wait.
    clock, rng : callable
        Monotonic seconds; uniform in [0, 1).

    Attributes
    ----------
    replay_per_s : callable
        Frames a second that may be replayed, asked in each round.
    hurry : bool
        Set (by a signal handler) to end :meth:`drain` without waiting for Kafka.
    """

    def __init__(
        self,
        settings: Settings,
        counts: Counts,
        publisher: KafkaPublisher,
        backlog: Backlog,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._counts, self.publisher, self.backlog, self._clock = counts, publisher, backlog, clock
        s = settings
        self.breaker = Breaker(s.breaker_timeout_s, s.breaker_wait_min_s, s.breaker_wait_max_s, rng)
        self.replay_per_s: Callable[[], float] = _unlimited
        self.hurry = self._draining = self._blind = False
        self._tokens, self._tokens_s = 0.0, clock()
        publisher.on_delivered = self._on_delivered
        publisher.on_refused = self._on_refused

    @property
    def linger_ns(self) -> int:
        """How long batches should at least collect frames: longer while they are stored."""
        return 0 if self.breaker.closed and self.backlog.drained else STORE_LINGER_NS

    def offer(self, built: Built) -> Reason:
        """Take a batch over, towards Kafka or into the backlog; ``Reason.PASSED``, or why it was refused."""
        now_s = self._clock()
        if self.breaker.closed and not self.backlog.holds(built.partition):
            if self.publisher.offer(built):
                return Reason.PASSED
            if self.publisher.troubled:
                self._recall(now_s)
            elif self.backlog.durable:
                self._moved(self.breaker.open(now_s, "too many bytes wait for Kafka"), now_s)
            else:
                return self.backlog.hold(built)
        if self.breaker.closed or not self._counts.inflight:
            return self.backlog.append(built, now_s)
        return self.backlog.hold(built)  # the probe is in flight, and not on disk: it might come back

    def letter(self, value: bytes, key: bytes | None, headers: Headers, partition: int) -> bool:
        """Send one dead letter, unless the breaker is open (those are a sample anyway); it may serve as the probe."""
        probe = self.breaker.state is State.HALF_OPEN and not self._counts.inflight_bytes
        return (self.breaker.closed or probe) and self.publisher.letter(value, key, headers, partition)

    def poll(self) -> None:
        """Serve delivery reports, move the breaker, replay."""
        now_s = self._clock()
        self.publisher.poll()
        if self.publisher.troubled:
            log.warning("producer_rebuilt", frames_in_flight=self._counts.inflight)
            self.breaker.failed()
            self._recall(now_s)
        if not self._blind and (moved := self.breaker.look(now_s, self._counts.inflight_bytes > 0)):
            self._moved(moved, now_s)
        if self.breaker.closed:
            if not (self._draining and self.backlog.durable):  # what lies on disk is safe there
                self._replay(now_s)
        elif self.breaker.state is State.HALF_OPEN and not self._counts.inflight_bytes:
            self._hand_out()
        self.backlog.look(now_s)

    def store_only(self, why: str) -> None:
        """Begin with an open breaker that does not probe before :meth:`store_no_more`."""
        now_s = self._clock()
        self._blind = True
        self._moved(self.breaker.open(now_s, why), now_s)

    def store_no_more(self) -> None:
        """The breaker may probe; may be called from any thread."""
        self._blind = False

    def _moved(self, state: State, now_s: float) -> None:
        breaker, counts = self.breaker, self._counts
        if state is State.OPEN:
            self._recall(now_s)
            wait_s = round(breaker.probe_s - now_s, 2)
            log.warning("breaker_open", why=breaker.why, probe_in_s=wait_s, spooled=counts.spooled, held=counts.held)
        else:
            log.info(f"breaker_{state.value}", spooled=counts.spooled, held=counts.held)

    def _recall(self, now_s: float) -> None:
        """All that Kafka did not acknowledge goes (back) into the backlog."""
        self.backlog.put_back(self.publisher.take_back(), now_s)

    def _replay(self, now_s: float) -> None:
        rate = self.replay_per_s()
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
        """The oldest batch of the backlog to Kafka; the frames in it, 0 when there is none or it is not taken."""
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
        """Take over ``breaker_*`` and ``spool_*`` while it runs."""
        breaker, s = self.breaker, settings
        breaker.timeout_s = s.breaker_timeout_s
        breaker.wait_min_s, breaker.wait_max_s = s.breaker_wait_min_s, s.breaker_wait_max_s
        self.backlog.configure(s)

    def problems(self) -> list[str]:
        """Why frames do not get through, in words; may be called from any thread."""
        breaker, counts, out = self.breaker, self._counts, []
        if not breaker.closed:
            where = f"{counts.spooled:,} frames wait on disk ({self.backlog.bytes:,} bytes)"
            where += f", {counts.held:,} in memory" if counts.held else ""
            out.append(f"the breaker is {breaker.state.value.replace('_', '-')}: {breaker.why}; {where}")
        if self.backlog.trouble and (counts.held or not breaker.closed):
            out.append(self.backlog.trouble)
        return out

    def gauges(self) -> dict[str, Any]:
        """For ``/stats`` and ``klais_stats``."""
        return {
            "spooled": self._counts.spooled,
            "held": self._counts.held,
            "spool_bytes": self.backlog.bytes,
            "spool_trouble": self.backlog.trouble,
            "breaker": self.breaker.state.value,
        }

    def drain(self, budget_s: float) -> int:
        """Wait for Kafka as long as that makes sense, store the rest.

        Returns
        -------
        int
            Frames that were neither delivered nor stored; counted as ``delivery_failed``.
        """
        counts, self._draining = self._counts, True
        until_s = self._clock() + budget_s
        while self._worth_waiting() and not self.hurry and self._clock() < until_s:
            self.publisher.flush(min(SLICE_S, max(0.0, until_s - self._clock())))
            self.poll()
        now_s, dropped = self._clock(), counts.by_reason.sum()
        self._recall(now_s)
        self.backlog.look(now_s)
        counts.drop(Reason.DELIVERY_FAILED, counts.held)
        counts.held = 0
        self.backlog.close()
        return int(counts.by_reason.sum() - dropped)

    def _worth_waiting(self) -> bool:
        """Whether waiting may save frames from being stored, or lost where nothing stores them."""
        if self.backlog.durable:
            return self.breaker.closed and self._counts.inflight_bytes > 0
        return self._counts.inflight_bytes > 0 or self._counts.held > 0
