"""One session of a lane: from a fence to its end. It owns all state that the next session must not see."""

import asyncio
import time
from collections import deque
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from klais import fault
from klais.core.lane.checkpoint import Marker
from klais.core.lane.counters import passed
from klais.core.lane.journal import RefusedRecord, Resumed, StepRecord
from klais.core.lane.render import anomaly_records, dead_letter_records, has_dead_letters
from klais.core.lane.state import TALLIES, LaneState, Tally
from klais.core.lane.step import NO_LIMIT, Step, forget, note_lost, release, resume, take_poison, take_raw
from klais.core.wire.batch import received_at_of
from klais.kafka.fenced import FencedSender
from klais.kafka.reader import PartitionReader
from klais.kafka.record_batch import Mark
from klais.telemetry.log import get
from klais.worker.context import LaneContext
from klais.worker.doubled import Frame
from klais.worker.forget import Forgetter
from klais.worker.history import SessionEnd
from klais.worker.intake import Raw
from klais.worker.invariant import RecoveryPlan
from klais.worker.late_steps import LateSteps
from klais.worker.outputs import Journal, Output, Records, Telemetry
from klais.worker.quarantine import Quarantine
from klais.worker.refused_records import RefusedRecords
from klais.worker.replay import Replay

log = get("klais.worker.session")

STUCK_S = 15.0  # without an acknowledgement: longer than a leader change takes
MAX_RELEASE_FRAMES = 8192  # frames per release, so that a step stays short
MAX_FORGET_DEVICES = 20_000  # devices per step: 320 kB of a journal record
RELEASED_BYTES = 64  # pending bytes counted for a released frame: its batch is in memory anyway


@dataclass(frozen=True, slots=True)
class Senders:
    """One fenced sender for each topic of which the lane is the only writer."""

    journal: FencedSender
    telemetry: FencedSender
    anomalies: FencedSender
    dead_letter: FencedSender
    changelog: FencedSender
    profiles: FencedSender


@dataclass(frozen=True, slots=True)
class RecoveredState:
    """Result of recovery: the state at the marker, the journal after it, and the position of each output.

    ``positions``: topic -> the newest mark; ``floors``: topic -> first offset to search for marks. ``doubled``: records
    of the clean topic that the lane will send again. ``published``: other records of missing steps, which are sent
    again if their frames wait. ``journal_floor``: the journal offset after the marker.
    """

    state: LaneState
    marker: Marker | None
    senders: Senders
    positions: dict[str, Mark]
    floors: dict[str, int]
    journal: list[StepRecord]
    journal_floor: int
    lineage: int
    plan: RecoveryPlan
    doubled: int
    telemetry_epoch: int = -1  # epoch of the record before the clean topic's floor
    published: list[Frame] = field(default_factory=list)


class Pending:
    """Decided steps that are not completely sent. Their bytes bound the memory of a lane with slow outputs."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._steps: deque[tuple[int, int, int]] = deque()  # (step, bytes, frames)
        self._changed = asyncio.Event()
        self.bytes = self.frames = 0

    def add(self, step: Step) -> None:
        """Add a decided step."""
        frames = step.passed_count
        self._steps.append((step.record.step, step.bytes, frames))
        self.bytes += step.bytes
        self.frames += frames

    def settle(self, acked_step: int) -> None:
        """Remove steps up to ``acked_step``, whose outputs are acknowledged."""
        while self._steps and self._steps[0][0] <= acked_step:
            _, size, frames = self._steps.popleft()
            self.bytes -= size
            self.frames -= frames
        self._changed.set()

    def discount(self, step: int) -> None:
        """Count one frame less of this step, because it will not be sent."""
        for at, (number, size, frames) in enumerate(self._steps):
            if number == step:
                self._steps[at] = (number, size, frames - 1)
                self.frames -= 1

    def remove_bound(self) -> None:
        """Remove the bound: an output waits for a step that comes at the end of the replay."""
        self._limit = NO_LIMIT
        self._changed.set()

    async def wait_empty(self) -> None:
        """Wait until nothing is pending."""
        while self._steps:
            self._changed.clear()
            await self._changed.wait()

    async def wait_below_limit(self) -> None:
        """Wait until the pending bytes are within the limit."""
        while self.bytes > self._limit:
            self._changed.clear()
            await self._changed.wait()


def lost_while_live(tally: npt.NDArray[np.uint64], before: npt.NDArray[np.uint64]) -> list[str]:
    """What a session has lost, or set aside, since its tally was ``before``, and what to do about it."""
    grown = tally.astype(np.int64) - before.astype(np.int64)
    texts = (
        (
            Tally.LOST_RECORDS,
            "records of klais_raw were removed before the lane read them: see raw_records_lost in the log",
        ),
        (
            Tally.MISSING_BATCHES,
            "batch numbers of edges are missing: an edge dropped the batches, or klais_raw was truncated",
        ),
        (
            Tally.POISON_FRAMES,
            "frames of records on which the lane failed are set aside: see klais_dead_letter (poison)",
        ),
    )
    return [f"{int(grown[at]):,} {text}" for at, text in texts if grown[at] > 0]


class LaneSession:
    """State, journal and outputs of one session. The steps of a session pass four stages, always in this order:

    ``decide`` (or ``release``, or a replay) makes the step, ``journal`` writes it, ``send_outputs`` passes it to the
    outputs once it is acknowledged, and the checkpointer covers it once its outputs are acknowledged.
    """

    def __init__(self, context: LaneContext, partition: int, found: RecoveredState, quarantine: Quarantine) -> None:
        self.context, self.partition, self._quarantine = context, partition, quarantine
        self.state, self.marker, self.senders, self.floors = found.state, found.marker, found.senders, found.floors
        self.lineage, self.plan, self.journal_floor = found.lineage, found.plan, found.journal_floor
        self.replay = Replay(
            found.state,
            found.marker,
            found.journal,
            found.plan,
            found.positions.get("telemetry"),
            (found.doubled, found.published),
            (found.floors["telemetry"], found.telemetry_epoch),
            quarantine,
        )
        self.pending = Pending(context.settings.lane_max_pending_bytes)
        self.telemetry_epoch = found.telemetry_epoch
        self.journalled = found.state.step  # the last acknowledged step
        self.journal = Journal(found.senders.journal, self.send_outputs, context.on_sent, quarantine)
        at, rest = found.positions, (self._progressed, context.on_sent, found.lineage)  # ``rest``: same for each output
        self._refused = out = RefusedRecords(found.journal, quarantine, self._skip_refused)
        self._unjournalled: list[RefusedRecord] = []  # set aside during a replay, and journalled after it
        self._replayed, self.set_aside = False, 0
        self._late = LateSteps()
        self.telemetry = Telemetry(
            found.senders.telemetry, at.get("telemetry"), *rest, "telemetry", out,
            on_landed=context.on_landed, min_offset=found.floors["telemetry"],
        )  # fmt: skip
        self.anomalies = Records(found.senders.anomalies, at.get("anomalies"), *rest, "anomalies", out, anomaly_records)
        self.dead_letter = Records(
            found.senders.dead_letter, at.get("dead_letter"), *rest, "dead_letter", out, dead_letter_records
        )
        self._forgetter = Forgetter(context.settings, context.limits, partition)
        self.queued = asyncio.Event()  # frames may wait in the queue
        self.resumed: Resumed | None = None  # losses of the replay
        self.history_lost = ""  # what went with topics that were deleted, as text
        self.live_step, self.live_tally = found.state.step, np.zeros(TALLIES, np.uint64)
        self.taken_ns = found.state.bucket_ns  # when the edge received the newest batch taken, approximately
        self.live_records = 0  # records of the clean topic acknowledged before the session went live
        self.unverified: deque[tuple[int, int]] = deque()  # raw records taken and not yet compared: see `RawVerifier`

    @property
    def outputs(self) -> dict[str, Output]:
        """The outputs, by their names in the marker."""
        return {"telemetry": self.telemetry, "anomalies": self.anomalies, "dead_letter": self.dead_letter}

    @property
    def epoch(self) -> int:
        """The producer epoch that this session writes with."""
        return self.senders.journal.identity.epoch

    @property
    def acked_step(self) -> int:
        """The step up to which all outputs of all steps are acknowledged."""
        at = self.journalled
        return min(self.telemetry.acked_step(at), self.anomalies.acked_step(at), self.dead_letter.acked_step(at))

    @property
    def end(self) -> SessionEnd:
        """What is lost if Kafka forgets this lane now."""
        state = self.state
        taken = state.newest_taken or (state.landmarks[-1] if state.landmarks else None)
        return SessionEnd(state.step, state.queue.depth, self.pending.frames, taken)

    def begin_live(self) -> None:
        """Start the counters of live work: the journal is replayed."""
        self.live_step, self.live_tally = self.state.step, self.state.tally.copy()
        self.live_records = self.telemetry.records
        if (taken := self.end.taken) is not None:
            self.unverified.append(taken)

    @property
    def unsent(self) -> int:
        """Frames that passed since the session went live and are neither pending nor acknowledged: 0, or a defect."""
        grown = passed(self.state.tally) - passed(self.live_tally)
        return grown - self.pending.frames - (self.telemetry.records - self.live_records)

    # -- a step's way

    def decide(self, raw: Raw) -> Step:
        """Decide one raw record, or count records that retention removed."""
        began = time.perf_counter()
        limits, bounds = self.context.limits.of_lane(self.partition)
        if raw.value is None:
            return self._decided(note_lost(self.state, raw.offset + 1, limits, time.time_ns()))
        why = self._quarantine.reason(raw.offset)
        if why is not None:
            return self._decided(take_poison(self.state, raw.offset, raw.value, why, limits, time.time_ns()))
        try:
            step = self._decided(take_raw(self.state, raw.offset, raw.value, limits, bounds, time.time_ns()))
        except Exception as error:
            self._quarantine.failed(raw.offset, error)
            raise
        self.unverified.append((raw.offset, step.record.raw_crc))
        self.context.on_step(time.perf_counter() - began)
        self.taken_ns = received_at_of(raw.value) or self.taken_ns
        return step

    def resume(self, raw_start: int) -> list[Step]:
        """Count what the replay could not restore; empty if it restored everything.

        Rows stamped with a step that the journal lost are forgotten. Their frames are decided again, and it is unknown
        whether they are on the clean topic. With the rows unchanged, all of them would be dropped as duplicates.
        """
        found = self.replay.resumption(raw_start)
        if found is None:
            return []
        rows = self.state.rows[: self.state.used]
        unknown = rows["id"][(rows["stamp"] > np.uint64(self.state.step)) & (rows["id_size"] > 0)]
        ids = np.ascontiguousarray(unknown).view(np.uint8).reshape(-1, 16)
        self.resumed, last_step, next_raw = found
        limits, _ = self.context.limits.of_lane(self.partition)
        say = log.error if self.resumed.lost or self.resumed.doubled else log.warning
        say("lane_resumed", partition=self.partition, step=last_step, next_raw=next_raw, **asdict(self.resumed))
        steps = [resume(self.state, *found, limits, time.time_ns())]
        for begin in range(0, len(ids), MAX_FORGET_DEVICES):
            steps.append(forget(self.state, ids[begin : begin + MAX_FORGET_DEVICES], limits, time.time_ns()))
        return [self._decided(step) for step in steps]

    @property
    def alarms(self) -> tuple[str, ...]:
        """Violated invariants found by recovery, and the lost or doubled records."""
        texts = [finding.text for finding in self.plan.findings]
        texts += [text for text in (self.history_lost, self.replay.gap) if text]
        if self.resumed is not None and (self.resumed.lost or self.resumed.doubled):
            at = self.resumed
            texts.append(
                f"since then {at.output_lost} frames that passed and {at.queue_lost} that waited are lost, "
                f"{at.doubled} records are doubled ({at.why})"
            )
        texts += lost_while_live(self.state.tally, self.live_tally)
        texts += self._stuck()
        if self.set_aside:
            texts.append(f"Kafka refuses {self.set_aside} records for their content: see klais_dead_letter (poison)")
        return tuple(texts)

    def _stuck(self) -> list[str]:
        """The topic that has not accepted a batch for the longest time; one text says enough when no broker answers."""
        every = self.senders
        both = (every.journal, every.telemetry, every.anomalies, every.dead_letter, every.changelog, every.profiles)
        sender = min((one for one in both if one.since_s), key=lambda one: one.since_s, default=None)
        if sender is None or (waits_s := time.monotonic() - sender.since_s) < STUCK_S:
            return []
        return [
            f"Kafka has accepted nothing on {sender.topic}/{sender.partition} for {waits_s:.0f} s ({sender.why}): "
            "the lane waits and loses nothing; see `klais topics check` and the broker's log"
        ]

    def release(self) -> Step | None:
        """Release frames from the queue as tokens allow; None if no frame can be released."""
        limits, _ = self.context.limits.of_lane(self.partition)
        step = release(self.state, limits, time.time_ns(), MAX_RELEASE_FRAMES)
        if step is None:
            return None
        fault.at("release_decided")
        step.bytes = step.passed_count * RELEASED_BYTES
        return self._decided(step)

    def _skip_refused(self, aside: RefusedRecord) -> None:
        """Leave out a record that Kafka refuses. Steps that wait for a replay must not wait for room after it."""
        self._unjournalled.append(aside)
        if aside.output == "telemetry":
            self.pending.discount(aside.step)
        if self._replayed:
            self._journal_refused()
        else:
            self.pending.remove_bound()

    def replay_done(self) -> None:
        """Allow new steps: all steps of the journal are applied."""
        self._replayed = True
        if self._unjournalled:
            self._journal_refused()

    def _journal_refused(self) -> None:
        asides, self._unjournalled = tuple(self._unjournalled), []
        self.set_aside += len(asides)
        lost = sum(aside.output == "telemetry" for aside in asides)
        limits, _ = self.context.limits.of_lane(self.partition)
        after = max(self.state.step, self.plan.last_step)
        found = Resumed(output_lost=lost, why="Kafka refuses records for their content", aside=asides)
        self.journal.put(self._decided(resume(self.state, found, after, self.state.next_raw, limits, time.time_ns())))

    def forget(self) -> Step | None:
        """Forget devices; None if there is no device to forget."""
        step = self._forgetter.step(self.state, time.time_ns(), time.monotonic())
        return None if step is None else self._decided(step)

    def _decided(self, step: Step) -> Step:
        fault.at("lane_decided")
        if self.state.queue.depth:
            self.queued.set()
        self.context.limits.spend(step)
        if self.context.taps.open:
            self.context.taps.observe(self.partition, step)
        self.pending.add(step)
        return step

    def replayed(self, step: Step) -> None:
        """Send the outputs of a step of the journal. An output skips what the previous owner has sent.

        After a step whose frames are lost, they must wait (:meth:`send_late`) until the loss is journalled: marks of
        later steps say that all earlier ones are sent.
        """
        if self.replay.unread:
            self.journalled = step.record.step
            self._late.add(step, self.telemetry, self.dead_letter)
        else:
            self.pending.add(step)
            self.send_outputs(step)

    async def send_late(self, reader: PartitionReader) -> None:
        """Send the outputs that had to wait. All losses of the replay are journalled."""
        async for step in self._late.steps(reader, self.context.topics.raw, self.partition):
            self.pending.add(step)
            self.send_outputs(step)
            await self.pending.wait_below_limit()
        for step in self._late.newer():
            self.dead_letter.put(step)

    def send_outputs(self, step: Step) -> None:
        """Send the outputs of a step whose journal record is acknowledged."""
        self.journalled = max(self.journalled, step.record.step)
        if step.passed:
            self.telemetry.put(step)
        if step.flags is not None and len(step.flags.found):
            self.anomalies.put(step)
        asides = step.record.resumed.aside if step.record.resumed else ()
        self._refused.written(asides)
        if has_dead_letters(step) and not self._late.holds_back(step):
            self.dead_letter.put(step)
        if not step.passed:
            self._progressed()

    def _progressed(self) -> None:
        self.pending.settle(self.acked_step)

    def close(self) -> None:
        """Drop all references back to the session.

        Live objects are kept out of the cycle collector (see ``tune_garbage_collector``), so a cycle would keep the
        rows of every earlier session.
        """
        self._refused.close()
        for part in (self.journal, *self.outputs.values()):
            part.close()
