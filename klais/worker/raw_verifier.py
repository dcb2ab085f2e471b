"""Checks that ``klais_raw`` still holds the records that a session took: only this detects a truncated log.

After a truncation a consumer continues at its offset and reads the new log there. It would never read the new records
between the truncation and that offset.
"""

import asyncio
from collections import deque

from klais.core.lane.journal import fingerprint
from klais.errors import LaneFailed, OffsetGone
from klais.kafka.fetched_batches import CorruptRecords
from klais.kafka.reader import PartitionReader

Place = tuple[int, int]  # raw offset and fingerprint of a record
LEADER_CHANGE_S = 5.0  # a new partition leader may report a lower end offset for a moment
RETRY_S = 0.2
NEAR = 64  # records: the known record and the newest one may be in one answer
FAR_CHECKS = 10  # checks with two requests after an answer that did not hold both


class RawVerifier:
    """Compares the records that a session took with those at their offsets.

    A log is only cut when its leader changes, and each batch names the epoch of the leader that appended it. So if the
    last verified record and the newest one are unchanged and of the same epoch, so are all records between them. At
    low rates one request brings both.

    Parameters
    ----------
    unverified : deque of (int, int)
        Records taken (raw offset, fingerprint), in order; verified ones are removed.
    reader : PartitionReader
        Of the lane.
    topic, partition : str, int
        Of ``klais_raw``.
    """

    def __init__(self, unverified: deque[Place], reader: PartitionReader, topic: str, partition: int) -> None:
        self._unverified, self._reader = unverified, reader
        self._where = (topic, partition)
        self._known: Place | None = None
        self._leader = -1  # epoch of the leader that appended the known record
        self._unreadable: set[int] = set()  # offsets that cannot be compared: of damaged or compacted batches
        self._far_checks = 0  # number of next checks that need not try one request for two records
        self._busy = asyncio.Lock()

    async def verify(self) -> bool:
        """Compare the records taken so far; False if the topic ends before them, which a new leader may report.

        Raises
        ------
        LaneFailed
            If another record is at the offset of a taken one.
        """
        async with self._busy:
            count = len(self._unverified)
            some = [*([self._known] if self._known else []), *self._unverified]
            if not some:
                return True
            try:
                leader = await self._same_two(some[0], some[-1]) if self._known is not None else None
                if leader is None:
                    leader = await self._same(some[-1])
                    if self._known is not None and len(some) > 1:
                        await self._same(self._known)
                if leader != self._leader or leader < 0:
                    start, end = await self._reader.offsets(*self._where)
                    if end <= some[-1][0]:
                        return False
                    await self._compare(some, start)
            except OffsetGone:  # it ends too early, or retention removed the first one: the next check starts after it
                return False
            for _ in range(count):
                self._unverified.popleft()
            self._known, self._leader = some[-1], leader
            self._unreadable = {offset for offset in self._unreadable if offset >= some[-1][0]}
            return True

    async def verified(self) -> None:
        """Wait until all records taken so far are verified.

        Raises
        ------
        LaneFailed
            As for :meth:`verify`, or if the topic ends too early for some seconds.
        """
        until_s = asyncio.get_running_loop().time() + LEADER_CHANGE_S
        while not await self.verify():
            if asyncio.get_running_loop().time() > until_s:
                raise self._lost("ends before records that the lane has read")
            await asyncio.sleep(RETRY_S)

    async def _same_two(self, known: Place, newest: Place) -> int | None:
        """Compare two records with one request if they are close together; as :meth:`_same` for the newest one.

        None if that was not possible: then each takes its own request.
        """
        if not 0 < newest[0] - known[0] <= NEAR or not self._unreadable.isdisjoint((known[0], newest[0])):
            return None
        if self._far_checks:
            self._far_checks -= 1
            return None
        found = await self._reader.two_records(*self._where, known[0], newest[0])
        if found is None:
            self._far_checks = FAR_CHECKS
            return None
        for record, (offset, wanted) in zip(found[:2], (known, newest), strict=True):
            if fingerprint(record.value or b"") != wanted:
                raise self._lost(f"has another record at offset {offset} than the one that was taken")
        return found[2]

    async def _same(self, place: Place) -> int:
        """Compare one record; epoch of the leader that appended it, -1 if it was removed or is damaged.

        It asks for the offsets of the log only if there is no record: a check of a live lane is one request a record.

        Raises
        ------
        LaneFailed
            If another record is at its offset.
        OffsetGone
            If the log ends before it.
        """
        offset, wanted = place
        if offset in self._unreadable:
            return -1
        record, leader = None, -1
        for _ in range(2):  # again, because the log may have grown between the two requests
            try:
                record, leader = await self._reader.record_and_leader(*self._where, offset)
            except CorruptRecords:
                self._unreadable.add(offset)
                return -1
            if record is not None:
                break
            start, end = await self._reader.offsets(*self._where)
            if offset < start:
                return -1
            if end <= offset:
                raise OffsetGone(f"{self._where[0]} ends at {end}, before offset {offset}", start, end)
        if record is None:  # compaction removed it: a log that was cut and grew again has a record at each offset
            self._unreadable.add(offset)
            return -1
        if fingerprint(record.value or b"") != wanted:
            raise self._lost(f"has another record at offset {offset} than the one that was taken")
        return leader

    async def _compare(self, some: list[Place], start: int) -> None:
        self._unreadable = {offset for offset in self._unreadable if offset >= start}
        wanted = {offset: value for offset, value in some if offset >= start and offset not in self._unreadable}
        if not wanted:
            return
        async for record in self._reader.read(*self._where, min(wanted), max(wanted) + 1):
            if wanted.pop(record.offset, None) not in (None, fingerprint(record.value or b"")):
                raise self._lost(f"has another record at offset {record.offset} than the one that was taken")
        for place in wanted.items():  # the read skipped them, as it skips damaged batches
            await self._same(place)

    def _lost(self, why: str) -> LaneFailed:
        topic, partition = self._where
        return LaneFailed(f"Kafka lost records that lane {partition} needs: {topic} {why}")
