"""Audit of a lane: replays its journal from step 0 and compares the result with the output topics and the table.

The steps must cover every record of ``klais_raw`` once.
"""

import itertools
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from klais.config.load import Settings
from klais.core.devices.layout import ROW, Rows
from klais.core.lane.checkpoint import Marker, decode_marker
from klais.core.lane.journal import MAGIC, MARKER_KEY, NEEDS_RAW, Kind, StepRecord, decode_step
from klais.core.lane.render import anomaly_records, dead_letter_records
from klais.core.lane.replay import replay
from klais.core.lane.state import LaneState, Tally
from klais.core.lane.step import Step
from klais.core.wire.constants import VERDICTS, Reason
from klais.errors import JournalFormatError, OffsetGone
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics

CLEAN = re.compile(rb'^\{"device_id":"((?:[^"\\]|\\.)*)","seq":(\d+),"ts":(\d+),"data":(.*)\}$', re.DOTALL)
MOST_PROBLEMS = 20


@dataclass(slots=True)
class LaneAudit:
    """Result of an audit; ``problems`` is empty when everything agrees."""

    partition: int
    steps: int = 0
    raw_end: int = 0
    next_raw: int = 0
    devices: int = 0
    marker_step: int = 0
    telemetry: int = 0
    dead_letters: int = 0
    anomalies: int = 0
    queued: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        """Add one difference."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text)

    @property
    def settled(self) -> bool:
        """Whether the lane has read the whole staging topic and its queue is empty."""
        return self.next_raw == self.raw_end and not self.queued


class Comparison:
    """Compares the expected records of a topic with the actual ones, both in order, during the replay."""

    def __init__(self, audit: LaneAudit, name: str, actual: AsyncIterator[Any]) -> None:
        self._audit = audit
        self._name = name
        self._actual = actual
        self.count = 0
        self._broken = False

    async def expect(self, wanted: Any) -> None:
        """Check that the next record of the topic is ``wanted``."""
        if self._broken:
            return
        found = await anext(self._actual, None)
        self.count += 1
        if found != wanted:
            self._broken = True
            self._audit.problem(f"{self._name} record {self.count}: should be {wanted!r:.300}, is {found!r:.300}")

    async def end(self) -> None:
        """Check that no record follows."""
        extra = 0
        async for found in self._actual:
            if not extra and not self._broken:
                self._audit.problem(f"{self._name}: not in the journal: {found!r:.300}")
            extra += 1
        if extra and not self._broken:
            self._audit.problem(f"{self._name}: {extra} more records than in the journal")


async def audit_lane(settings: Settings, partition: int) -> LaneAudit:
    """Replay the journal of one lane from step 0 and compare topics, table and counters with it.

    Raises
    ------
    klais.errors.KafkaUnavailable, klais.errors.TopicMismatch
        Of the readers.
    """
    topics = Topics.of(settings)
    audit = LaneAudit(partition)
    readers = [PartitionReader(settings) for _ in range(4)]
    try:
        for reader in readers:
            await reader.start()
        rows, marker = await read_table(readers[0], topics.devices_changelog, partition)
        audit.raw_end = (await readers[0].offsets(topics.raw, partition))[1]
        clean = Comparison(audit, topics.telemetry, _clean_records(readers[1], topics.telemetry, partition))
        dead = Comparison(audit, topics.dead_letter, _dead_letters(readers[2], topics.dead_letter, partition))
        flags = Comparison(audit, topics.anomalies, _flags(readers[3], topics.anomalies, partition))
        state = LaneState(hash_key=settings.frame_hash_key)
        left_out = await _left_out(readers[0], topics.journal, partition)
        async for step in _replay_all(settings, topics, partition, state, audit):
            number, place = step.record.step, itertools.count()
            for columns, index in step.passed:
                for i in index.tolist():
                    if ("telemetry", number, next(place)) in left_out:
                        continue
                    sequence, ts_ms = int(columns.sequence[i]), int(columns.ts_ms[i])
                    await clean.expect((columns.device_id(i), sequence, ts_ms, columns.payload(i)))
            for nth, (_, value, headers, _) in enumerate(dead_letter_records(step)):
                if ("dead_letter", number, nth) not in left_out:
                    await dead.expect((dict(headers)["reason"], value))
            for nth, (key, value, _, _) in enumerate(anomaly_records(step)):
                if ("anomalies", number, nth) not in left_out:
                    await flags.expect((key, value))
            if marker is not None and step.record.step == marker.step:
                _compare_table(audit, state, rows, marker)
        for comparison in (clean, dead, flags):
            await comparison.end()
        audit.telemetry, audit.dead_letters, audit.anomalies = clean.count, dead.count, flags.count
        _conclude(audit, state, marker)
    except (JournalFormatError, OffsetGone) as error:
        audit.problem(str(error))
    finally:
        for reader in readers:
            await reader.stop()
    return audit


async def read_table(reader: PartitionReader, topic: str, partition: int) -> tuple[Rows, Marker | None]:
    """Rows (ROW [n]) and marker of a partition, from its changelog alone."""
    start, _ = await reader.offsets(topic, partition)
    newest: dict[bytes, bytes] = {}
    async for record in reader.read(topic, partition, start):
        if record.key is not None and record.value is not None:
            newest[record.key] = record.value
        elif record.key is not None:
            newest.pop(record.key, None)
    marker = next((value for key, value in newest.items() if key.startswith(MARKER_KEY)), None)
    rows = [value for key, value in newest.items() if key[:1] != b"\0"]
    return np.frombuffer(b"".join(rows), ROW), decode_marker(marker) if marker else None


async def _left_out(reader: PartitionReader, topic: str, partition: int) -> set[tuple[str, int, int]]:
    """Records that Kafka refused: the journal says later than their steps that no output has them."""
    out: set[tuple[str, int, int]] = set()
    async for record in reader.read(topic, partition, (await reader.offsets(topic, partition))[0]):
        if record.value is not None and record.value[:4] == MAGIC and record.value[5] == Kind.RESUMED:
            resumed = decode_step(record.value).resumed
            out.update((one.output, one.step, one.nth) for one in (resumed.aside if resumed else ()))
    return out


async def _replay_all(
    settings: Settings, topics: Topics, partition: int, state: LaneState, audit: LaneAudit
) -> AsyncIterator[Step]:
    async with PartitionReader(settings) as journal, PartitionReader(settings) as raw_reader:
        raw = RawCoverage(audit, raw_reader, topics.raw)
        await raw.begin((await raw_reader.offsets(topics.raw, partition))[0])
        start = (await journal.offsets(topics.journal, partition))[0]
        async for record in journal.read(topics.journal, partition, start):
            if record.value is None or record.value[:4] != MAGIC:  # an owner, or another program's
                continue
            step = decode_step(record.value)
            yield replay(state, step, await raw.value_of(step))
            audit.steps = state.step


class RawCoverage:
    """The records of ``klais_raw`` beside the steps that took them: each record must have a step.

    A step could also step over records: its next offset may jump. No replay of steps would show that.
    """

    def __init__(self, audit: LaneAudit, reader: PartitionReader, topic: str) -> None:
        self._audit, self._reader, self._topic = audit, reader, topic
        self._records: AsyncIterator[Any] | None = None

    async def begin(self, offset: int) -> None:
        """Go on with the record at ``offset``."""
        start, end = await self._reader.offsets(self._topic, self._audit.partition)
        self._records = self._reader.read(self._topic, self._audit.partition, min(max(start, offset), end))

    async def value_of(self, step: StepRecord) -> bytes | None:
        """The raw record that a step took, None where it took none or the record is gone."""
        if step.kind in (Kind.RESUMED, Kind.LOST):  # the lane has counted what lies between; RESUMED may also go back
            await self.begin(step.raw_offset + 1)
        elif step.kind not in (Kind.RELEASE, Kind.FORGET) and self._records is not None:
            async for record in self._records:
                if record.offset >= step.raw_offset:
                    return (
                        (record.value or b"") if record.offset == step.raw_offset and step.kind in NEEDS_RAW else None
                    )
                self._audit.problem(
                    f"{self._topic}: the record at offset {record.offset} was stepped over, no step took it"
                )
        return None


async def _clean_records(reader: PartitionReader, topic: str, partition: int) -> AsyncIterator[tuple[Any, ...]]:
    start, _ = await reader.offsets(topic, partition)
    async for record in reader.read(topic, partition, start):
        found = CLEAN.match(record.value or b"")
        if found is None:
            yield ("not a clean record", record.value)
        else:
            yield (record.key, int(found[2]), int(found[3]), found[4])


async def _dead_letters(reader: PartitionReader, topic: str, partition: int) -> AsyncIterator[tuple[Any, ...]]:
    """Dead letters of the lane; the edges write to the same topic."""
    start, _ = await reader.offsets(topic, partition)
    async for record in reader.read(topic, partition, start):
        headers = dict(record.headers)
        if headers.get("stage") == b"lane":
            yield (headers["reason"], record.value)


async def _flags(reader: PartitionReader, topic: str, partition: int) -> AsyncIterator[tuple[Any, ...]]:
    start, _ = await reader.offsets(topic, partition)
    async for record in reader.read(topic, partition, start):
        yield (record.key, record.value)


def _sorted(rows: Rows) -> Rows:
    order: npt.NDArray[np.intp] = np.lexsort((rows["id"][:, 0], rows["id"][:, 1]))
    return rows[order]


def _compare_table(audit: LaneAudit, state: LaneState, rows: Rows, marker: Marker) -> None:
    """Rows and marker of the table against the replayed state at the marker's step."""
    kept = _sorted(rows[rows["stamp"] <= np.uint64(marker.step)])
    newer = {row["id"].tobytes() for row in rows[rows["stamp"] > np.uint64(marker.step)]}
    live = state.rows[: state.used]
    live = live[live["id_size"] > 0]
    wanted = _sorted(live[[row["id"].tobytes() not in newer for row in live]] if newer else live.copy())
    if len(kept) != len(wanted):
        audit.problem(f"table has {len(kept)} devices at step {marker.step}, the journal {len(wanted)}")
    elif kept.tobytes() != wanted.tobytes():
        wrong = [name for name in ROW.names or () if kept[name].tobytes() != wanted[name].tobytes()]
        audit.problem(f"table differs from the journal at step {marker.step} in {', '.join(wrong)}")
    if marker.facts["tally"] != state.tally.tolist():
        audit.problem(
            f"counters {marker.facts['tally']} at step {marker.step}, the journal gives {state.tally.tolist()}"
        )
    for name, found in (("next_raw", state.next_raw), ("tokens", state.tokens), ("devices", state.devices)):
        if marker.facts[name] != found:
            audit.problem(f"marker has {name} {marker.facts[name]}, the journal gives {found}")
    if sum(len(index) for _, _, index in marker.ranges) != state.queue.depth:
        audit.problem(f"marker has another queue than the journal, which leaves {state.queue.depth} frames waiting")


def _conclude(audit: LaneAudit, state: LaneState, marker: Marker | None) -> None:
    audit.next_raw, audit.devices, audit.queued = state.next_raw, state.devices, state.queue.depth
    audit.marker_step = marker.step if marker else 0
    audit.verdicts = {Reason(k).label: int(n) for k, n in enumerate(state.tally[:VERDICTS]) if n and k <= max(Reason)}
    if marker is not None and marker.step > state.step:
        audit.problem(f"the checkpoint is at step {marker.step}, the journal ends at {state.step}")
    received = int(state.tally[:VERDICTS].sum())
    out = int(state.tally[Reason.PASSED] + state.tally[Tally.RELEASED])
    dropped = received - int(state.tally[Reason.PASSED] + state.tally[Reason.QUEUED])
    if received != out + state.queue.depth + dropped:
        audit.problem(f"received {received} != passed {out} + queued {state.queue.depth} + dropped {dropped}")
