"""Checkpoints: write changed rows, then the marker, then acknowledge the input, in this order."""

import asyncio
import itertools
import time

import numpy as np

from klais import fault
from klais.core.devices.layout import ROW
from klais.core.lane.checkpoint import Snapshot, begin_snapshot, copy_rows, encode_marker
from klais.kafka.fenced import FencedSender
from klais.kafka.record_batch import RecordBatchWriter
from klais.telemetry.log import get
from klais.worker.changelog import marker_key
from klais.worker.intake import Intake
from klais.worker.outputs import send_or_halve
from klais.worker.session import LaneSession
from klais.worker.watch import Watch

log = get("klais.worker.checkpoint")

COPY_ROWS = 4000  # rows copied at a time: 1 ms, more at the first touch of the memory
SLICE_ROWS = 1000  # rows written at a time, so as not to block the event loop
POLL_S = 0.005
# A checkpoint without a new step if edges have written so many dead letters since the last one: a recovery would search
# them for a mark of the lane.
DEAD_LETTERS = 50_000


class Checkpointer:
    """Writes the checkpoints of one session. ``done_at``, ``count`` and ``total_s`` are for the statistics.

    A crash at any point is safe. Rows may be newer than the marker (after a crash between the two). Their stamps make
    the replay skip the steps that they already contain. The input is acknowledged last: recovery starts at the offset
    in journal or marker, not at the group's offset, so a missing acknowledgement has no effect.
    """

    def __init__(self, session: LaneSession, intake: Intake, watch: Watch) -> None:
        self._session, self._intake, self._watch = session, intake, watch
        self._busy = asyncio.Lock()
        marker = session.marker
        self.step = marker.step if marker else 0
        self._next_raw = marker.next_raw if marker else 0
        self._journal_offset = session.journal_floor
        self._outputs: dict[str, int] = dict(session.floors)
        self._telemetry_epoch = session.telemetry_epoch
        self._acknowledged = 0  # the previous checkpoint acknowledged the input up to here
        self.done_at = time.monotonic()
        self.total_s = 0.0
        self.count = 0
        self._restarts = session.senders.changelog.restarts

    async def run(self) -> None:
        """Write checkpoints at the interval of the settings, until cancelled."""
        interval_s = self._session.context.settings.checkpoint_interval_s
        first = np.random.default_rng(self._session.partition).uniform(0.2, 1.0)  # lanes take turns
        await asyncio.sleep(interval_s * first)
        while True:
            await self.run_once()
            await asyncio.sleep(interval_s)

    async def run_once(self) -> None:
        """Write one checkpoint at the lane's current step, if anything has happened since the last one."""
        session, state = self._session, self._session.state
        async with self._busy:
            while state.step > self.step or self._watch.checkpoint_lost or self._dead_letters > DEAD_LETTERS:
                if self._watch.checkpoint_lost:
                    state.mark_all_dirty()
                began = time.monotonic()
                # Later steps write behind this offset, so recovery skips the dead letters of edges before it.
                dead_letters_end = self._watch.dead_letters_end
                shot = begin_snapshot(state)
                for part in (session.journal, *session.outputs.values()):
                    part.covered.begin(shot.step)
                while not copy_rows(state, shot, COPY_ROWS):  # noqa: ASYNC110  (lets the lane go on in between)
                    await asyncio.sleep(0)
                newest = state.step  # a row that was copied late may contain steps up to this one
                fault.at("checkpoint_taken")
                while session.acked_step < newest:  # noqa: ASYNC110  (three outputs move it; asking costs nothing)
                    await asyncio.sleep(POLL_S)
                # A marker must cover only records that klais_raw still holds; a later replay verifies this.
                await self._watch.raw_verifier.verified()
                self._outputs["dead_letter"] = max(self._outputs.get("dead_letter", 0), dead_letters_end)
                if not await self._write(shot):
                    state.mark_all_dirty()
                    continue
                self._watch.checkpoint_lost = False
                self.total_s += time.monotonic() - began
                self.count += 1
                break
            self.done_at = time.monotonic()
            await session.context.consumer.repair_commit(session.partition, self._acknowledged, self._next_raw)
            self._acknowledged = self._next_raw
            await self._intake.acknowledge(self._next_raw)

    @property
    def _dead_letters(self) -> int:
        """Records that edges have written to the dead letter topic since the last checkpoint, approximately."""
        return self._watch.dead_letters_end - self._outputs.get("dead_letter", 0)

    async def _write(self, shot: Snapshot) -> bool:
        """Write rows and marker; False if the changelog no longer holds the rows of earlier checkpoints."""
        session = self._session
        sender, writer = session.senders.changelog, RecordBatchWriter(limit_bytes=900_000)
        await self._remove(sender, writer, shot.forgotten)
        await self._remove(session.senders.profiles, writer, shot.forgotten)
        for begin in range(0, len(shot.rows), SLICE_ROWS):
            rows = shot.live_rows(begin, begin + SLICE_ROWS)
            keys, sizes = np.ascontiguousarray(rows["id"]).view(np.uint8), rows["id_size"].copy()
            values = rows.view(np.uint8).reshape(len(rows), ROW.itemsize)
            done = 0
            while done < len(rows):
                appended = writer.append_rows(keys, sizes, values, done)
                done += appended if await send_or_halve(sender, writer) is not None else 0
            fault.at("checkpoint_rows")
            await asyncio.sleep(0)
        if self._changelog_restarted():
            return False
        fault.at("checkpoint_marker")
        journal_offset = session.journal.covered.offset(self._journal_offset)
        before = self._outputs.get("telemetry", 0)
        for name, out in session.outputs.items():
            known = self._outputs.get(name, 0)
            self._outputs[name] = max(known, out.covered.offset(known))
        if self._outputs["telemetry"] > before:
            self._telemetry_epoch = session.epoch
        partitions = session.context.topics.partitions
        marker = encode_marker(shot, journal_offset, self._outputs, partitions, session.lineage, self._telemetry_epoch)
        writer.reset()
        writer.append_one(marker_key(session.partition), marker, (), time.time_ns() // 1_000_000)
        await sender.send(writer)
        fault.at("checkpoint_done")
        self._journal_offset = journal_offset
        if self._changelog_restarted():  # between the rows and the marker
            return False
        self.step, self._next_raw = shot.step, shot.facts["next_raw"]
        return True

    def _changelog_restarted(self) -> bool:
        sender = self._session.senders.changelog
        if sender.restarts == self._restarts:
            return False
        self._restarts = sender.restarts
        why = "it was truncated or recreated: the lane writes all its rows again"
        log.error("changelog_restarted", topic=sender.topic, partition=sender.partition, why=why)
        return True

    async def _remove(self, sender: FencedSender, writer: RecordBatchWriter, keys: list[bytes]) -> None:
        """Remove forgotten devices from the changelog, before the rows are written: a device may have returned."""
        done = 0
        while done < len(keys):
            some = keys[done : done + SLICE_ROWS]
            appended = sum(1 for _ in itertools.takewhile(lambda key: writer.append_one(key, None), some))
            done += appended if await send_or_halve(sender, writer) is not None else 0
            await asyncio.sleep(0)
