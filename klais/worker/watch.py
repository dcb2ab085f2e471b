"""The live side of the invariant: a lane looks once a second (when quiet, every 5 s) whether Kafka holds what it needs.

A consumer notices none of this. A topic that was cut and has grown again, or was recreated, looks like one that goes
on; offsets that the group has committed may lie far ahead of the log. Each check asks the broker itself.
"""

import asyncio
from dataclasses import dataclass

from klais.errors import LaneFailed
from klais.kafka.reader import PartitionReader
from klais.telemetry.log import get
from klais.worker.intake import Intake
from klais.worker.invariant import cut_while_live
from klais.worker.session import LaneSession
from klais.worker.taken import Taken

log = get("klais.worker.watch")

WATCH_S = 1.0
QUIET_WATCH_S = 5.0  # of a lane in which nothing happened between two checks: each asks the broker three times
MOVED_CHECKS = 3  # in a row without a delivery; a group consumer may take two seconds to its first fetch
NEW_LEADER_CHECKS = 3  # a broker that has just become the leader may name lower end offsets for a moment


@dataclass(slots=True)
class Landed:
    """Records of the clean topic since the session went live: what was acknowledged, and by how much the topic grew."""

    acknowledged: int = 0
    grown: int = 0

    @property
    def missing(self) -> int:
        """Acknowledged records that the topic does not hold."""
        return max(0, self.acknowledged - self.grown)


class Watch:
    """Checks one session; ``landed`` is for the conservation check, ``taken`` for checkpoints."""

    def __init__(self, session: LaneSession, intake: Intake, reader: PartitionReader) -> None:
        self._session, self._intake, self._reader = session, intake, reader
        self.taken = Taken(session.unverified, reader, session.context.topics.raw, session.partition)
        self._next_raw, self._raw_end = -1, 0
        self._undelivered = 0  # checks in a row in which records of the check before were not delivered
        self._short = 0  # checks in a row in which a topic ended too early
        self._base = (0, 0)  # end of the clean topic, records acknowledged
        self._seen = (-1, 0, 0)  # of the newest check: next raw offset, ends of klais_raw and of the clean topic
        self.landed = Landed()
        self.letters_end = 0  # of the dead letters, to which edges write, too

    async def begin(self) -> tuple[int, int]:
        """Note where the session begins, while nothing is on its way; first and end offset of ``klais_raw``."""
        topics, partition = self._session.context.topics, self._session.partition
        self._base = (await self._reader.end(topics.telemetry, partition), self._session.telemetry.records)
        return await self._reader.offsets(topics.raw, partition)

    async def run(self) -> None:
        """Check without end; raises what ends the session.

        Raises
        ------
        LaneFailed
            Something that was taken or acknowledged is gone; recovery finds out what, and counts it.
        klais.errors.TopicMismatch
            A topic is gone.
        """
        while True:
            before = self._seen
            await self.check()
            quiet = self._seen == before and not self._short and not self._undelivered
            await asyncio.sleep(QUIET_WATCH_S if quiet else WATCH_S)

    async def check(self) -> None:
        """All checks once."""
        session, partition, topics = self._session, self._session.partition, self._session.context.topics
        # Read before the end offset is asked for: what is known to be there cannot be ahead of it.
        next_raw, telemetry, acknowledged = session.state.next_raw, session.telemetry.offset, session.telemetry.records
        waits = not self._intake.idle
        raw_end = await self._reader.end(topics.raw, partition)
        output_end = await self._reader.end(topics.telemetry, partition)
        self.letters_end = await self._reader.end(topics.dead_letter, partition)
        self._seen = next_raw, raw_end, output_end
        why = cut_while_live(next_raw, raw_end, telemetry, output_end)
        self._short = self._short + 1 if why is not None else 0
        if 0 < self._short < NEW_LEADER_CHECKS:
            return
        if why is not None:
            raise LaneFailed(f"Kafka lost what lane {partition} relies on: {why}")
        await self.taken.verify()
        base_end, base_acknowledged = self._base
        self.landed = Landed(acknowledged - base_acknowledged, output_end - base_end)
        undelivered = next_raw == self._next_raw < self._raw_end and not waits and session.state.next_raw == next_raw
        self._undelivered = self._undelivered + 1 if undelivered else 0
        if self._undelivered >= MOVED_CHECKS:
            # The group's offset is elsewhere. What the lane reads itself it may have to fetch twice.
            self._undelivered = 0
            log.info("consumer_moved", partition=partition, next_raw=next_raw, end=raw_end)
            self._intake.fetch_up_to(raw_end)
            await session.context.consumer.seek(partition, raw_end)
        self._next_raw, self._raw_end = next_raw, raw_end
