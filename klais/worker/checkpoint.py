"""Checkpoints: changed rows, then the marker, then the acknowledgement of the input, in this order."""

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np

from klais import fault
from klais.core.devices.layout import ROW
from klais.core.lane.checkpoint import Snapshot, begin_snapshot, copy_rows, encode_marker
from klais.kafka.record_batch import RecordBatchWriter
from klais.worker.changelog import marker_key

if TYPE_CHECKING:
    from klais.worker.lane import Lane
    from klais.worker.recovery import Recovered

COPY_ROWS = 4000  # rows copied in one go: 1 ms, and some more where the memory was never touched before
SLICE_ROWS = 1000  # rows written in one go, so that the event loop is never held for long
POLL_S = 0.005


class Checkpointer:
    """Writes the checkpoints of one lane's life; ``age_s`` and ``seconds`` of the newest are for the metrics."""

    def __init__(self, it: "Recovered") -> None:
        self._it = it
        self._busy = asyncio.Lock()
        self.step = it.marker.step if it.marker else 0
        self.next_raw = it.marker.next_raw if it.marker else 0
        self.journal_offset = it.marker.journal_offset if it.marker else 0
        self.outputs: dict[str, int] = dict(it.floors)
        self._acknowledged = 0  # input up to here was acknowledged one checkpoint ago
        self.done_at = time.monotonic()
        self.seconds = self.total_s = 0.0
        self.count = 0

    async def run_once(self, lane: "Lane") -> None:
        """One checkpoint at the step the lane is at now, when anything has happened since the last."""
        async with self._busy:
            if self._it.state.step > self.step:
                began = time.monotonic()
                shot = begin_snapshot(self._it.state)
                while not copy_rows(self._it.state, shot, COPY_ROWS):  # noqa: ASYNC110  (lets the lane go on in between)
                    await asyncio.sleep(0)
                newest = self._it.state.step  # that a copied row may contain
                fault.at("checkpoint_taken")
                while lane.acked_step < newest:  # noqa: ASYNC110  (three outputs move it; a look costs nothing)
                    await asyncio.sleep(POLL_S)
                await self._write(lane, shot)
                self.seconds = time.monotonic() - began
                self.total_s += self.seconds
                self.count += 1
            self.done_at = time.monotonic()
            await self._acknowledge(lane)

    async def _write(self, lane: "Lane", shot: Snapshot) -> None:
        it, partition = self._it, lane.partition
        sender, writer = it.senders.changelog, RecordBatchWriter(limit_bytes=900_000)
        for begin in range(0, len(shot.rows), SLICE_ROWS):
            rows = shot.rows[begin : begin + SLICE_ROWS]
            keys, sizes = np.ascontiguousarray(rows["id"]).view(np.uint8), rows["id_size"].copy()
            values = rows.view(np.uint8).reshape(len(rows), ROW.itemsize)
            done = 0
            while done < len(rows):
                done += writer.append_rows(keys, sizes, values, done)
                await sender.send(writer)
            fault.at("checkpoint_rows")
            await asyncio.sleep(0)
        fault.at("checkpoint_marker")
        journal_offset = lane.journal.offset_after(shot.step, self.journal_offset)
        for name, out in (("telemetry", lane.telemetry), ("anomalies", lane.anomalies), ("dead_letter", lane.dead_letter)):
            self.outputs[name] = max(self.outputs.get(name, 0), out.offset)
        marker = encode_marker(shot, journal_offset, self.outputs, lane.shared.topics.partitions)
        writer.reset()
        writer.append_one(marker_key(partition), marker, (), time.time_ns() // 1_000_000)
        await sender.send(writer)
        fault.at("checkpoint_done")
        self.step, self.next_raw, self.journal_offset = shot.step, shot.facts["next_raw"], journal_offset

    async def _acknowledge(self, lane: "Lane") -> None:
        """Acknowledge the input up to the marker, strictly in offset order (a hole would be committed over)."""
        unacked = lane.unacked
        if lane.shared.repair_commit is not None:
            await lane.shared.repair_commit(lane.partition, self._acknowledged)
        self._acknowledged = self.next_raw
        count = 0
        while unacked and unacked[0][2] < self.next_raw:
            stream, event, _ = unacked.popleft()
            await stream.ack(event)
            count += 1
            if count % 100 == 0:
                await asyncio.sleep(0)
