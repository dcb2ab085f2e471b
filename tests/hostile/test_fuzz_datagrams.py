"""Mutated datagrams through the whole data path: edge, frame batches, lane, journal, replay.

Whatever they are, each is published or dropped with one reason, what is published arrives unchanged and in order, a
replay gives the same, and nothing is raised. ``make test-bounds`` runs the same kernels with checks of every index.
"""

import json
import time
from typing import Any, cast

import numpy as np

from klais.core.lane.journal import decode_step, encode_step
from klais.core.lane.render import anomaly_records, dead_letter_records
from klais.core.lane.replay import replay
from klais.core.lane.state import LaneState, Tally
from klais.core.lane.step import Step, release, take_raw
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import FIRST_MALFORMED, LAST_MALFORMED, VERDICTS, Reason
from klais.core.wire.partition import partition_of
from klais.edge.batcher import Batcher
from klais.edge.counts import Counts
from klais.edge.linger import LingerController
from klais.edge.shedding import LoadShedder
from klais.edge.sinks.dead_letters import DeadLetters
from klais.edge.spine import Spine
from tests.hostile.cases import CASES, corpus, rng, shown
from tests.hostile.datagrams import WIDTH, ArraySource, mutate
from tests.support.lane import T0_NS, bounds, limits
from tests.unit.edge.test_spine import MemorySink

ROUND = 4096
PARTITIONS = 4
FRAME_MAX = 350
SAMPLE = 16  # datagrams of a round that are also judged by the definition, in plain Python
S = 1_000_000_000
REACHED = [Reason.PASSED, Reason.QUEUED, Reason.DUPLICATE, Reason.BLOCKED, Reason.DEVICE_RATE, Reason.BAD_UTF8]
REACHED += [Reason.BAD_JSON, Reason.NOT_OBJECT, Reason.TOO_DEEP]  # else the mutations do not get where they are to get


class Lane:
    """A lane and one that replays its journal."""

    def __init__(self) -> None:
        self.live, self.again = LaneState(hash_key=bytes(range(16))), LaneState(hash_key=bytes(range(16)))
        self.now_ns, self.frames = T0_NS, 0

    def take(self, value: bytes, limit: Any, bound: Any) -> Step:
        """One raw record, decided and replayed; then a release."""
        self.now_ns += S // 50
        step = take_raw(self.live, self.live.next_raw, value, limit, bound, self.now_ns)
        self._same(step, value)
        self.frames += step.record.count
        while (out := release(self.live, limit, self.now_ns, 100)) is not None:
            self._same(out, None)
        return step

    def _same(self, step: Step, value: bytes | None) -> None:
        again = replay(self.again, decode_step(encode_step(step.record)), value)
        assert bytes_of(again) == bytes_of(step)

    def check(self) -> None:
        """All is accounted for, and the replay is in the same state."""
        live, again = self.live, self.again
        assert live.tally.tolist() == again.tally.tolist() and live.tokens == again.tokens
        assert live.rows[: live.used].tobytes() == again.rows[: again.used].tobytes()
        counted = int(live.tally[:VERDICTS].sum())
        assert counted == self.frames
        waiting = int(live.tally[Reason.QUEUED]) - int(live.tally[Tally.RELEASED])
        assert live.queue.depth == again.queue.depth == waiting


def bytes_of(step: Step) -> list[bytes]:
    return [columns.batch.frame(int(i)) for columns, index in step.passed for i in index]


def header_reason(frame: bytes) -> Reason:
    """What the edge has to say, by the protocol page."""
    if len(frame) > FRAME_MAX:
        return Reason.TOO_LONG
    if len(frame) < 22:
        return Reason.TOO_SHORT
    if frame[:2] != b"\xaa\x55":
        return Reason.BAD_MAGIC
    device_id = frame[2:18].rstrip(b"\0")
    try:
        device_id.decode()
    except UnicodeDecodeError:
        return Reason.BAD_DEVICE_ID
    return Reason.PASSED if device_id and b"\0" not in device_id else Reason.BAD_DEVICE_ID


def is_object(payload: bytes) -> bool:
    """Whether a payload is one JSON object, by Python's parser (which takes NaN and a byte order mark)."""

    def refuse(text: str) -> None:
        raise ValueError(text)

    try:
        found = json.loads(payload.decode(), parse_constant=refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict)


def spine_for(source: ArraySource, sink: MemorySink, counts: Counts, boot: int) -> Spine:
    to: Any = sink
    letters = DeadLetters(to, counts, 1000.0, 1e6, edge_id=3, partitions=PARTITIONS, frame_max_bytes=FRAME_MAX)
    batcher = Batcher(PARTITIONS, 40_000, 3, boot, with_sources=True)
    linger, given = LingerController(5_000_000, 1 << 24, ROUND), cast("Any", source)
    return Spine(given, batcher, sink, letters, counts, linger, LoadShedder(PARTITIONS), FRAME_MAX)


def test_mutated_datagrams_are_published_unchanged_or_dropped_with_the_right_reason() -> None:
    random, seeds = rng("datagrams"), corpus("frames")
    lanes = [Lane() for _ in range(PARTITIONS)]
    for turn in range(max(1, CASES // ROUND)):
        source = ArraySource(ROUND, (WIDTH, 64, 24)[turn % 3])
        counts = Counts()
        sink = MemorySink(counts)
        spine = spine_for(source, sink, counts, turn)
        data, lengths = mutate(random, seeds, ROUND)
        for i, value in enumerate(seeds[: ROUND if turn == 0 else 0]):  # as they are
            lengths[i] = min(len(value), WIDTH)
            data[i, : lengths[i]] = np.frombuffer(value[:WIDTH], np.uint8)
        spine.round(source.put(random, data, lengths, time.monotonic_ns()), 0)
        spine.sink.drain(0)
        judge_edge(data, lengths, counts, sink)
        judge_lanes(random, lanes, sink)
    for lane in lanes:
        lane.check()
    seen = np.sum([lane.live.tally[:VERDICTS] for lane in lanes], axis=0)
    assert all(seen[reason] for reason in REACHED), [reason.label for reason in REACHED if not seen[reason]]


def judge_edge(data: Any, lengths: Any, counts: Counts, sink: MemorySink) -> None:
    """Counters, reasons, and the bytes that were published."""
    assert counts.received == len(lengths) == counts.published + int(counts.by_reason.sum())
    letters = len(sink.letters) + counts.dead_letters_suppressed
    assert letters == int(counts.by_reason.sum())
    frames = [row[:size].tobytes() for row, size in zip(data, lengths.tolist(), strict=True)]
    good: dict[int, list[bytes]] = {}
    reasons = np.zeros(max(Reason) + 1, np.int64)
    for frame in frames:
        reason = header_reason(frame)
        reasons[reason] += reason != Reason.PASSED
        if reason == Reason.PASSED:
            good.setdefault(partition_of(frame[2:18].rstrip(b"\0"), PARTITIONS), []).append(frame)
    assert reasons.tolist() == counts.by_reason.tolist()
    for partition, expected in good.items():
        batches = [decode_batch(built.value) for built in sink.taken if built.partition == partition]
        assert [batch.frame(i) for batch in batches for i in range(batch.count)] == expected


def judge_lanes(random: np.random.Generator, lanes: list[Lane], sink: MemorySink) -> None:
    """Verdicts, and what a sample of the payloads has to get."""
    for built in sink.taken:
        limit = limits(float(random.choice([1e9, 300.0])), 10.0, 10.0, 20.0, dead_letters=5, flags=5)
        bound = bounds(queue_limit=3000, device_limit=20_000, blocked=(b"b",), uncounted=(b"c",))
        lane = lanes[built.partition]
        step = lane.take(built.value, limit, bound)
        assert step.columns is not None
        for record in (*dead_letter_records(step), *anomaly_records(step)):
            assert len(record[1]) <= WIDTH + 1024
        verdict = step.record.verdict
        for i in random.integers(0, len(verdict), SAMPLE).tolist():
            payload = step.columns.payload(i)
            malformed = FIRST_MALFORMED <= verdict[i] <= LAST_MALFORMED
            if verdict[i] != Reason.TOO_DEEP:
                assert malformed != is_object(payload), shown(step.columns.batch.frame(i))
