"""The live check of the invariants: once a second (idle: every 5 s) a lane checks that Kafka holds what it needs.

A consumer detects none of this. A topic that was truncated and grew again, or was recreated, looks like one that
continues, and committed offsets of the group may be far ahead of the log. So each check asks the broker.
"""

import asyncio
from dataclasses import dataclass

from klais.errors import LaneFailed
from klais.kafka.reader import PartitionReader
from klais.telemetry.log import get
from klais.worker.intake import Intake
from klais.worker.invariant import cut_while_live
from klais.worker.raw_verifier import RawVerifier
from klais.worker.session import LaneSession

log = get("klais.worker.watch")

WATCH_S = 1.0
QUIET_WATCH_S = 5.0  # interval of checks of an idle lane: each check sends a request to the broker
MOVED_CHECKS = 3  # consecutive checks without a delivery; a group consumer may need two seconds for its first fetch
OWN_CHECKS = 2  # every other check also asks for journal and changelog: in a cluster each topic is a request
START_CHECKS = 30  # and one in so many asks where the changelog begins: its records are compacted, never removed
NEW_LEADER_CHECKS = 3  # a new partition leader may report lower end offsets for a moment


@dataclass(slots=True)
class Landed:
    """Records of the clean topic since the session went live: acknowledged records, and the growth of the topic."""

    acknowledged: int = 0
    grown: int = 0

    @property
    def missing(self) -> int:
        """Acknowledged records that the topic does not hold."""
        return max(0, self.acknowledged - self.grown)


class Watch:
    """Checks one session. ``landed`` is for the conservation check, ``raw_verifier`` for checkpoints."""

    def __init__(self, session: LaneSession, intake: Intake, reader: PartitionReader) -> None:
        self._session, self._intake, self._reader = session, intake, reader
        self.raw_verifier = RawVerifier(session.unverified, reader, session.context.topics.raw, session.partition)
        self._next_raw, self._raw_end = -1, 0
        self._undelivered = 0  # consecutive checks in which records of the previous check were not delivered
        self._short = 0  # consecutive checks in which a topic ended too early
        self._base = (0, 0)  # end of the clean topic, records acknowledged
        self._seen = (-1, 0, 0)  # newest check: next raw offset, ends of klais_raw and of the clean topic
        self.landed = Landed()
        self.dead_letters_end = 0  # end of the dead letter topic, to which edges also write
        self._checks = 0
        self._own_short = 0  # consecutive checks in which the journal or the changelog ended too early
        self._changelog_start = 0
        self.checkpoint_lost = False  # until a checkpoint is complete

    async def begin(self) -> tuple[int, int]:
        """Record the start of the session, with nothing in flight; first and end offset of ``klais_raw``."""
        topics, partition = self._session.context.topics, self._session.partition
        self._base = (await self._reader.end(topics.telemetry, partition), self._session.telemetry.records)
        self._changelog_start, _ = await self._reader.offsets(topics.devices_changelog, partition)
        return await self._reader.offsets(topics.raw, partition)

    async def run(self) -> None:
        """Check until cancelled; errors that end the session are raised.

        Raises
        ------
        LaneFailed
            If a taken or acknowledged record is gone. Recovery finds the cause and counts the loss.
        klais.errors.TopicMismatch
            If a topic is gone.
        """
        while True:
            before = self._seen
            await self.check()
            quiet = self._seen == before and not (self._short or self._undelivered or self._own_short)
            await self._sleep(QUIET_WATCH_S if quiet else WATCH_S)

    @staticmethod
    async def _sleep(period_s: float) -> None:
        """Wait for a multiple of the period, at least half of one: so all lanes of a worker ask at the same time."""
        left_s = period_s - asyncio.get_running_loop().time() % period_s
        await asyncio.sleep(left_s if left_s >= period_s / 2 else left_s + period_s)

    async def _ends(self, topics: list[str]) -> list[int]:
        """End offsets of the session's partition."""
        shared = self._session.context.shared_ends
        if shared is None:
            return await self._reader.ends(topics, self._session.partition)
        return await shared.ends(self._reader, topics, self._session.partition)

    async def check(self) -> None:
        """Run all checks once."""
        session, partition, topics = self._session, self._session.partition, self._session.context.topics
        # Read before the end offset is requested, so that known records cannot be ahead of it.
        next_raw, telemetry, acknowledged = session.state.next_raw, session.telemetry.offset, session.telemetry.records
        waits = not self._intake.idle
        asked = [topics.raw, topics.telemetry, topics.dead_letter]
        written = [sender.end for sender in (session.senders.journal, session.senders.changelog)]
        self._checks += 1
        if own := self._checks % OWN_CHECKS == 0 or self._own_short > 0:
            asked += [topics.journal, topics.devices_changelog]
        raw_end, output_end, self.dead_letters_end, *own_ends = await self._ends(asked)
        if own:
            self._check_own(own_ends, written)
        if self._checks % START_CHECKS == 0:
            await self._check_start()
        self._seen = next_raw, raw_end, output_end
        why = cut_while_live(next_raw, raw_end, telemetry, output_end)
        self._short = self._short + 1 if why is not None else 0
        if 0 < self._short < NEW_LEADER_CHECKS:
            return
        if why is not None:
            raise LaneFailed(f"Kafka lost records that lane {partition} needs: {why}")
        await self.raw_verifier.verify()
        base_end, base_acknowledged = self._base
        self.landed = Landed(acknowledged - base_acknowledged, output_end - base_end)
        undelivered = next_raw == self._next_raw < self._raw_end and not waits and session.state.next_raw == next_raw
        self._undelivered = self._undelivered + 1 if undelivered else 0
        if self._undelivered >= MOVED_CHECKS:
            # The group's offset is elsewhere. Records that the lane reads itself may be fetched twice.
            self._undelivered = 0
            log.info("consumer_moved", partition=partition, next_raw=next_raw, end=raw_end)
            self._intake.fetch_up_to(raw_end)
            await session.context.consumer.seek(partition, raw_end)
        self._next_raw, self._raw_end = next_raw, raw_end

    def _check_own(self, ends: list[int], written: list[int]) -> None:
        """Demand a checkpoint at once if journal or changelog have lost what this session wrote to them."""
        short = any(end < minimum for end, minimum in zip(ends, written, strict=True))
        self._own_short = self._own_short + 1 if short else 0
        if self._own_short == NEW_LEADER_CHECKS and not self.checkpoint_lost:
            names = dict(zip(("journal", "changelog"), zip(ends, written, strict=True), strict=True))
            self._demand_checkpoint("it was truncated or recreated", ends_and_written=names)

    async def _check_start(self) -> None:
        """Demand a checkpoint at once if somebody has removed records from the beginning of the changelog."""
        topic, partition = self._session.context.topics.devices_changelog, self._session.partition
        before, (self._changelog_start, _) = self._changelog_start, await self._reader.offsets(topic, partition)
        if before < self._changelog_start and not self.checkpoint_lost:
            self._demand_checkpoint("its first records were removed", begins=self._changelog_start, began=before)

    def _demand_checkpoint(self, why: str, **facts: object) -> None:
        what = f"{why}: the lane writes all its rows and a marker again"
        log.error("checkpoint_lost", partition=self._session.partition, **facts, why=what)
        self.checkpoint_lost = True
