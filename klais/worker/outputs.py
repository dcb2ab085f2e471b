"""The senders of a lane: the journal, then the outputs of steps with an acknowledged journal record, in step order.

There is one sender per topic with one batch in flight. Meanwhile the next batch grows (natural batching, no linger).
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator

from klais import fault
from klais.core.lane.journal import NEEDS_RAW, Kind, encode_step
from klais.core.lane.render import Rendered
from klais.core.lane.step import Step
from klais.errors import LaneFailed, OutputRefused
from klais.kafka.fenced import FencedSender
from klais.kafka.record_batch import Mark, RecordBatchWriter
from klais.telemetry.log import every, get
from klais.worker.covered_offset import CoveredOffset
from klais.worker.quarantine import Quarantine
from klais.worker.refused_records import RefusedRecords

log = get("klais.worker.outputs")
Render = Callable[[Step], Iterator[Rendered]]
OUTPUT_LIMIT_BYTES = 900_000
LOG_EVERY_S = 5.0


async def send_or_halve(sender: FencedSender, writer: RecordBatchWriter) -> int | None:
    """Send a batch; None if Kafka refuses it for its content: the writer then makes the next batch half as large.

    So a refused record is found among valid ones in a few attempts.

    Raises
    ------
    OutputRefused
        If the batch has only one record.
    """
    try:
        base = await sender.send(writer)
    except OutputRefused as error:
        if error.count == 1:
            raise
        writer.refused()
        if calls := every(LOG_EVERY_S, f"batch_halved-{sender.topic}"):
            log.warning("batch_halved", topic=sender.topic, partition=sender.partition, calls=calls, why=str(error))
        return None
    writer.accepted()
    return base


class Sending(ABC):
    """Queued steps, and the loop that sends them batch by batch, with one batch in flight."""

    def __init__(self, sender: FencedSender, on_sent: Callable[[float], None], lineage: int = 0) -> None:
        self._sender = sender
        self._on_sent = on_sent  # called with the seconds until each batch is acknowledged
        self._steps: deque[Step] = deque()
        self._wake = asyncio.Event()
        # Where a checkpoint ends. Outputs: exact, so that a loss can be counted. Journal: batches count as a whole, so
        # it is at or before the first step after the checkpoint.
        self.covered = CoveredOffset()
        self._writer = RecordBatchWriter(limit_bytes=OUTPUT_LIMIT_BYTES, lineage=lineage)

    async def run(self) -> None:
        """Send until cancelled; errors of the sender are raised."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._steps:
                await self._send_some()

    @abstractmethod
    async def _send_some(self) -> None:
        """Send one batch of the queued steps."""

    @abstractmethod
    def close(self) -> None:
        """Drop queued steps and the references to callbacks."""

    async def _send(self) -> int | None:
        """Send the writer's batch; its base offset, -1 if unknown, None if Kafka refuses the batch for its content.

        Raises
        ------
        OutputRefused
            If Kafka refuses a single record, so that a smaller batch does not help.
        """
        began = time.perf_counter()
        base = await send_or_halve(self._sender, self._writer)
        if base is not None:
            self._on_sent(time.perf_counter() - began)
        return base


class Journal(Sending):
    """Sends the journal records of decided steps and passes each acknowledged step to ``then``."""

    def __init__(
        self,
        sender: FencedSender,
        then: Callable[[Step], None],
        on_sent: Callable[[float], None],
        quarantine: Quarantine,
    ) -> None:
        super().__init__(sender, on_sent)
        self._quarantine = quarantine
        self._then: Callable[[Step], None] | None = then

    def put(self, step: Step) -> None:
        """Queue a decided step."""
        self._steps.append(step)
        self._wake.set()

    async def _send_some(self) -> None:
        writer = self._writer
        writer.reset()
        now_ms = time.time_ns() // 1_000_000
        count = 0
        for step in self._steps:
            if not writer.append_one(None, encode_step(step.record), (), now_ms):
                break
            count += 1
        fault.at("journal_sent")
        try:
            base = await self._send()
        except OutputRefused as error:
            record = self._steps[0].record
            if record.kind in NEEDS_RAW and record.kind != Kind.POISON:
                self._quarantine.failed(record.raw_offset, error)
            raise
        if base is None:
            return
        fault.at("journal_acked")
        if base >= 0:
            self.covered.acknowledged(self._steps[count - 1].record.step, base + count)
        for _ in range(count):
            step = self._steps.popleft()
            if self._then is not None:
                self._then(step)

    def close(self) -> None:
        """Stop passing steps on."""
        self._then = None
        self._steps.clear()


class Output(Sending):
    """Sends one topic's outputs of journalled steps; ``position`` is the newest mark of the previous owner.

    Only a replay has steps at or below that mark: recovery gives new steps higher numbers.
    """

    def __init__(
        self,
        sender: FencedSender,
        position: Mark | None,
        done: Callable[[], None],
        on_sent: Callable[[float], None],
        lineage: int,
        name: str,
        refused_records: RefusedRecords,
        on_landed: Callable[[float], None] | None = None,
        min_offset: int | None = None,
    ) -> None:
        super().__init__(sender, on_sent, lineage)
        self._name, self._refused = name, refused_records
        self._least_offset = min_offset  # where the topic ended before this session; None = its losses do not count
        self._on_landed = on_landed  # called with the seconds since the edge received each batch of a step
        self._from = (position.step, position.done) if position else (0, 0)
        self._done: Callable[[], None] | None = done
        self._begin = 0  # number of records of the first step already written
        self._first: tuple[Step, int]  # step and index of the first record in the batch
        self.offset = -1  # after the newest acknowledged batch, -1 = unknown
        self.records = 0

    def lacks(self, step: int) -> bool:
        """Whether the previous owner may not have sent all records of a step."""
        return step >= self._from[0]

    def put(self, step: Step) -> None:
        """Queue a journalled step that has records for this topic, unless the previous owner has sent it."""
        if self.lacks(step.record.step):
            self._steps.append(step)
            self._wake.set()
        elif self._done is not None:
            self._done()

    def acked_step(self, journalled: int) -> int:
        """The step up to which all of this topic's outputs are acknowledged."""
        return self._steps[0].record.step - 1 if self._steps else journalled

    async def _send_some(self) -> None:
        writer = self._writer
        writer.reset()
        self._first = (self._steps[0], 0)
        finished = 0
        ends: list[tuple[int, int]] = []  # (step, records in the batch up to its last one)
        begin = self._begin
        for step in self._steps:
            start = begin if begin else (self._from[1] if step.record.step == self._from[0] else 0)
            complete, begin = self._write_rest(writer, step, start)
            if not complete:
                break
            finished, begin = finished + 1, 0
            ends.append((step.record.step, writer.count))
        if not writer.empty:
            count = writer.count
            fault.at("output_sent")
            try:
                base = await self._send()
            except OutputRefused as error:
                refused, nth = self._first
                content = self.content(refused, nth)
                await self._refused.refused(self._name, refused.record, nth, content, error)
                return  # write the batch again, without the record
            if base is None:
                return
            fault.at("output_acked")
            if self._least_offset is not None and 0 <= base < (minimum := max(self._least_offset, self.offset)):
                where = f"{self._sender.topic}/{self._sender.partition}"
                why = f"had records up to {minimum}, now a batch is at {base}: it was truncated or recreated"
                raise LaneFailed(f"{where} {why}")  # recovery finds out what is gone
            self.records += count
            if base < 0:  # the response was lost, and the retry was a duplicate
                base = self.offset
            if base >= 0:
                self.offset = base + count
                for done, records in ends:
                    self.covered.acknowledged(done, base + records)
        self._begin = begin
        for _ in range(finished):
            self._landed(self._steps.popleft())
        if self._done is not None:
            self._done()

    def _landed(self, step: Step) -> None:
        """Report the latency of a step's batches: Kafka has acknowledged its records."""
        if self._on_landed is not None:
            now_ns = time.time_ns()
            for columns, _ in step.passed:
                self._on_landed(max(0, now_ns - columns.batch.received_at) / 1e9)

    def close(self) -> None:
        """Drop the references to callbacks."""
        self._done = None
        self._steps.clear()

    def _write_rest(self, writer: RecordBatchWriter, step: Step, begin: int) -> tuple[bool, int]:
        """Write the step's records from the ``begin``-th on, except those that are left out."""
        for nth in self._refused.of(self._name, step.record.step):
            if nth < begin:
                continue
            complete, begin = self._write(writer, step, begin, nth)
            if not complete:
                return False, begin
            begin = nth + 1
        return self._write(writer, step, begin)

    def _write(self, writer: RecordBatchWriter, step: Step, begin: int, end: int | None = None) -> tuple[bool, int]:
        if writer.empty:
            self._first = (step, begin)
        return self.write(writer, step, begin, end)

    @abstractmethod
    def content(self, step: Step, nth: int) -> tuple[bytes | None, bytes]:
        """Key and value for the dead letter of a step's ``nth`` record."""

    @abstractmethod
    def write(self, writer: RecordBatchWriter, step: Step, begin: int, end: int | None = None) -> tuple[bool, int]:
        """Write the step's records from the ``begin``-th to (not including) the ``end``-th, None = all.

        Returns
        -------
        tuple of bool and int
            Whether all of them fit, and the index after the last one written.
        """


class Telemetry(Output):
    """Clean records, one per frame, written as columns."""

    def write(self, writer: RecordBatchWriter, step: Step, begin: int, end: int | None = None) -> tuple[bool, int]:
        """See :meth:`Output.write`."""
        done = begin
        for columns, index in step.passed:
            if end is not None and done >= end:
                break
            if begin >= len(index):
                begin -= len(index)
                continue
            if end is not None:
                index = index[: begin + end - done]
            batch = columns.batch
            taken = writer.append_telemetry(
                batch.buf,
                batch.starts,
                batch.lengths,
                columns.id_size,
                columns.sequence,
                columns.ts_ms,
                index,
                begin,
                step.record.step,
                done,
                step.next_raw,
            )
            done += taken
            if begin + taken < len(index):
                return False, done
            begin = 0
        return True, done

    def content(self, step: Step, nth: int) -> tuple[bytes | None, bytes]:
        """See :meth:`Output.content`: the frame, as in every dead letter of a frame."""
        for columns, index in step.passed:
            if nth < len(index):
                return columns.device_id(int(index[nth])), columns.batch.frame(int(index[nth]))
            nth -= len(index)
        raise IndexError(nth)


class Records(Output):
    """Outputs with few records because of their allowance (anomalies, dead letters), rendered one by one."""

    def __init__(
        self,
        sender: FencedSender,
        position: Mark | None,
        done: Callable[[], None],
        on_sent: Callable[[float], None],
        lineage: int,
        name: str,
        refused_records: RefusedRecords,
        render: Render,
    ) -> None:
        super().__init__(sender, position, done, on_sent, lineage, name, refused_records)
        self._render = render

    def write(self, writer: RecordBatchWriter, step: Step, begin: int, end: int | None = None) -> tuple[bool, int]:
        """See :meth:`Output.write`."""
        done = begin
        for nth, (key, value, headers, ts_ms) in enumerate(self._rendered(step)):
            if nth < begin:
                continue
            if end is not None and nth >= end:
                break
            if not writer.append_one(key, value, headers, ts_ms, step.record.step, nth + 1, step.next_raw):
                return False, nth
            done = nth + 1
        return True, done

    def content(self, step: Step, nth: int) -> tuple[bytes | None, bytes]:
        """See :meth:`Output.content`: the record itself."""
        key, value, *_ = list(self._rendered(step))[nth]
        return key, value

    def _rendered(self, step: Step) -> Iterator[Rendered]:
        """The records of a step. A defect in rendering skips the remaining records but does not stop the lane.

        A replay would fail again at the same record.
        """
        try:
            yield from self._render(step)
        except Exception as error:
            log.error("output_not_rendered", topic=self._sender.topic, step=step.record.step, error=repr(error))
