"""The anomaly profiles of a lane: loaded when it goes live, then saved at a bounded rate.

They are soft state. A lane goes live before they are loaded, and after a crash a profile is as old as its last save.
Rows are checked round-robin, so that the profiles with the oldest save come first.
"""

import asyncio
import time

import numpy as np

from klais import fault
from klais.errors import OutputRefused
from klais.kafka.reader import PartitionReader
from klais.kafka.record_batch import RecordBatchWriter
from klais.telemetry.log import every, get
from klais.worker.session import LaneSession

log = get("klais.worker.profiles")

SAVE_TICK_S = 1.0
REFUSED_LOG_S = 60.0
SLICE_ROWS = 50_000  # rows checked at a time
LOAD_RECORDS, LOAD_PAUSE_S = 100, 0.005  # records loaded at a time, and the pause that lets lanes run
SAVE_BYTES = 64_000  # approximate bytes saved at a time


class ProfileKeeper:
    """Loads and saves the profiles of one session; ``saved`` and ``loaded`` count them."""

    def __init__(self, session: LaneSession, reader: PartitionReader) -> None:
        self._session, self._reader = session, reader
        self._topic = session.context.topics.profiles_changelog
        self._next = 0  # the next row to check
        self._writer = RecordBatchWriter(limit_bytes=4 * SAVE_BYTES)  # one portion always fits
        self._saved_step = -1  # all profiles are saved as of this step
        self.saved = self.loaded = self._refused = 0

    async def run(self) -> None:
        """Load, then save until cancelled."""
        if self._session.state.detector is None or not self._session.context.settings.anomaly_save_bytes:
            return
        await self._load()
        while True:
            await asyncio.sleep(SAVE_TICK_S)
            step = self._session.state.step
            if step != self._saved_step and await self.save_some():
                self._saved_step = step

    async def _load(self) -> None:
        """Load the newest profile of each device that the lane knows."""
        session, began_s = self._session, time.monotonic()
        state, detector = session.state, session.state.detector
        assert detector is not None
        start, end = await self._reader.offsets(self._topic, session.partition)
        count = 0
        async for record in self._reader.read(self._topic, session.partition, start, end):
            count += 1
            if count % LOAD_RECORDS == 0:
                await asyncio.sleep(LOAD_PAUSE_S)
            if record.key is None or record.key[:1] == b"\0" or record.value is None:
                continue
            row = state.find(record.key)
            if row >= 0:
                detector.make_room(len(state.rows))
                self.loaded += detector.load(row, record.value)
        seconds = round(time.monotonic() - began_s, 3)
        log.info("profiles_loaded", partition=session.partition, profiles=self.loaded, seconds=seconds)

    async def save_some(self) -> bool:
        """Save changed profiles within the worker's allowance, at most once around the rows; whether all are saved."""
        state, allowance = self._session.state, self._session.context.profile_bytes
        refused, looked = self._refused, 0
        while looked < state.used:
            room = allowance.available(time.monotonic_ns())
            if room <= 0:
                return False
            begin = self._next if self._next < state.used else 0
            end = min(begin + SLICE_ROWS, state.used)
            looked += await self._save(begin, end, min(room, SAVE_BYTES)) - begin
            await asyncio.sleep(0)
        return refused == self._refused

    async def _save(self, begin: int, end: int, max_bytes: int) -> int:
        """Save changed profiles of rows ``begin`` to ``end``; the next row to check."""
        session, detector = self._session, self._session.state.detector
        assert detector is not None
        async with session.context.saving:
            saved, self._next = detector.dump_some(begin, end, max_bytes)
            rows, writer = session.state.rows, self._writer
            live = np.flatnonzero(rows["id_size"][saved.row])
            of, starts, lengths = saved.row[live], saved.starts[live], saved.lengths[live]
            writer.reset()
            writer.append_pairs(rows["id"][of].view(np.uint8), rows["id_size"][of], saved.buf, starts, lengths, 0)
            await asyncio.sleep(0)  # let the next lane run in another iteration of the event loop
        if not writer.empty:
            session.context.profile_bytes.spend(int(lengths.sum()))
            fault.at("profiles_sent")
            try:
                await session.senders.profiles.send(writer)
                self.saved += len(live)
            except OutputRefused as error:  # the lane relies on none of them; `/health` names the topic's setting
                self._refused += 1
                detector.mark_unsaved(of)
                if calls := every(REFUSED_LOG_S, "klais.worker.profiles"):
                    log.error("profiles_refused", partition=session.partition, why=str(error), calls=calls)
        return max(self._next, begin + 1)
