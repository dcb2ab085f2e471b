"""Mutated records of every topic and file that KLAIS reads: a result, or the error that the reader documents.

Lengths, counts and checksums are put right after many of the mutations, so that decoders get past them.
"""

import contextlib
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from klais.cli.decode import Record, decode, lines
from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.core.devices.layout import ROW, ROW_VERSION, read_row
from klais.core.lane.checkpoint import decode_marker, encode_marker, refill_queue, restore, snapshot
from klais.core.lane.columns import read_headers
from klais.core.lane.journal import Resumed, StepRecord, decode_record, decode_step, encode_step
from klais.core.lane.render import anomaly_records, dead_letter_records
from klais.core.lane.state import LaneState, Tally
from klais.core.lane.step import forget, release, resume, take_raw
from klais.core.wire.batch import HEADER, decode_batch, encode_batch
from klais.core.wire.constants import VERDICTS, Reason
from klais.edge.sinks.spool.segment import HEADER_SIZE, encode_head, sound_end, value_is_right, walk
from klais.errors import BatchFormatError, JournalFormatError
from klais.telemetry.schema import StatsRecord
from klais.telemetry.view import ProcessView
from tests.hostile.cases import CASES, corpus, mutated, rng, shown
from tests.support.lane import T0_NS, batch, bounds, frames, limits

S = 1_000_000_000


def batches() -> list[bytes]:
    """Frame batches of all shapes."""
    some = corpus("frames")
    sources = np.zeros((len(some), 18), np.uint8)
    offsets = np.arange(len(some), dtype=np.uint32)
    return [
        encode_batch(some, T0_NS, 1, 1, 1),
        encode_batch(some, T0_NS, 1, 1, 2, offsets=offsets),
        encode_batch(some, T0_NS, 1, 1, 3, offsets=offsets, sources=sources),
        encode_batch([], T0_NS, 1, 1, 4),
        encode_batch(some[:1], 0, 65_535, 2**32 - 1, 2**64 - 1, sources=sources[:1]),
        *corpus("batches"),
    ]


def put_right(random: np.random.Generator, value: bytes) -> bytes:
    """A mutated frame batch whose lengths add up again: the last frame takes what is left, or gives what is missing."""
    if len(value) < HEADER.size:
        return value
    _, count, received_at, edge, flags, boot, number = HEADER.unpack_from(value)
    count = min(count, int(random.integers(0, 60)))
    flags &= 3
    value = HEADER.pack(b"KFB1", count, received_at & (1 << 62) - 1, edge, flags, boot, number) + value[HEADER.size :]
    columns = 2 * count + 4 * count * (flags & 1) + 18 * count * (flags >> 1)
    left = len(value) - HEADER.size - columns
    if left < 0 or not count:
        return value
    cuts = np.sort(random.integers(0, left + 1, count - 1)) if random.random() < 0.5 else np.zeros(count - 1, np.int64)
    lengths = np.diff([0, *cuts.tolist(), left])
    if lengths.max() > 65_535:
        return value
    return value[: HEADER.size] + lengths.astype("<u2").tobytes() + value[HEADER.size + 2 * count :]


def test_a_frame_batch_is_read_or_becomes_a_dead_letter() -> None:
    random, seeds = rng("batches"), batches()
    state, frames_in = LaneState(), 0
    read = corrupt = 0
    for turn in range(max(len(seeds), CASES // 100)):
        value = seeds[turn] if turn < len(seeds) else mutated(random, seeds[turn % len(seeds)], seeds)
        if turn % 3:
            value = put_right(random, value)
        bound = bounds(queue_limit=50, device_limit=5000)
        try:
            step = take_raw(state, turn, value, limits(rate=1000.0, burst=10.0), bound, T0_NS + turn * S)
            list(dead_letter_records(step)), list(anomaly_records(step))
            release(state, limits(rate=1000.0, burst=10.0), T0_NS + turn * S, 30)
        except Exception as error:
            raise AssertionError(shown(value)) from error
        if step.corrupt is None:
            frames_in += 0 if step.columns is None else step.record.count
            read += 1
        else:
            assert step.corrupt_why
            corrupt += 1
    assert int(state.tally[:VERDICTS].sum()) == frames_in
    assert state.queue.depth == int(state.tally[Reason.QUEUED]) - int(state.tally[Tally.RELEASED])
    assert read > corrupt / 10 and corrupt > 0


def journal_records() -> list[bytes]:
    """A record of each kind."""
    state = LaneState()
    out = []

    def note(step: Any) -> None:
        out.append(encode_step(step.record))

    def take(value: bytes, **options: Any) -> None:
        bound = bounds(queue_limit=5, blocked=(b"b",), uncounted=(b"c",))
        note(take_raw(state, state.next_raw, value, limits(rate=1.0, burst=1.0, **options), bound, T0_NS))

    take(batch(frames(("a", 1), ("b", 1), ("c", 1)), 1))
    take(batch(frames(("a", 1)), 1))
    take(b"no batch")
    note(forget(state, np.zeros((3, 16), np.uint8), limits(), T0_NS))
    note(resume(state, Resumed(1, 2, 3, "why"), state.step + 5, state.next_raw, limits(), T0_NS))
    note(release(state, limits(), T0_NS + 10 * S, 2) or take_raw(state, state.next_raw, b"", limits(), bounds(), T0_NS))
    return [*out, *corpus("journal")]


def each(name: str, seeds: list[bytes], share: int, look: Callable[[bytes], bool]) -> None:
    """``look`` at each seed and at many mutations of them; it says whether it could read one. It must both happen."""
    random, outcomes = rng(name), [0, 0]
    for turn in range(max(2 * len(seeds), CASES // share)):
        value = seeds[turn] if turn < len(seeds) else mutated(random, seeds[turn % len(seeds)], seeds)
        try:
            outcomes[look(value)] += 1
        except Exception as error:
            raise AssertionError(shown(value)) from error
    assert all(outcomes), outcomes


def test_a_journal_record_is_read_or_refused() -> None:
    def look(value: bytes) -> bool:
        try:
            step: StepRecord = decode_step(value)
        except JournalFormatError as error:
            assert str(error)
            return False
        assert len(step.verdict) in (0, step.count)
        decode_record(value)
        return True

    each("journal", journal_records(), 10, look)


def markers() -> tuple[list[bytes], dict[int, bytes]]:
    """Markers of a lane with waiting frames, and the raw records that they name."""
    state, raw, out = LaneState(), {}, []
    for n in range(6):
        raw[n] = batch(frames(*((f"d{k % 5}", 10 * n + k) for k in range(9))), n)
        take_raw(state, n, raw[n], limits(rate=1.0, burst=3.0), bounds(), T0_NS)
        release(state, limits(rate=1.0, burst=3.0), T0_NS + 3 * n * S, 2)
        out.append(encode_marker(snapshot(state), n, {"telemetry": n}, 4, lineage=n))
    return [*out, *corpus("markers")], raw


def test_a_marker_is_read_or_refused_and_what_it_names_waits() -> None:
    seeds, raw = markers()
    columns = {offset: read_headers(decode_batch(value)) for offset, value in raw.items()}

    def look(value: bytes) -> bool:
        try:
            marker = decode_marker(value)
            state = restore(marker, np.zeros(0, ROW))
        except JournalFormatError as error:
            assert str(error)
            return False
        if {offset for offset, _, _ in marker.ranges} <= columns.keys():
            with contextlib.suppress(BatchFormatError):
                refill_queue(state, marker, columns)
                assert state.queue.depth == sum(len(index) for _, _, index in marker.ranges)
                state.queue.pop(state.queue.depth)
        return True

    each("markers", seeds, 100, look)


def test_a_device_row_is_read_or_refused() -> None:
    row = np.zeros(1, ROW)
    row["id"], row["id_size"], row["version"] = (97, 0), 1, ROW_VERSION

    def look(value: bytes) -> bool:
        try:
            read_row(value)
        except ValueError as error:
            assert str(error)
            return False
        return True

    each("rows", [row.tobytes(), bytes(ROW.itemsize), *corpus("rows")], 20, look)


def segment(values: list[bytes], salt: int) -> bytes:
    return b"".join(encode_head(value, n % 4, n, salt) + value for n, value in enumerate(values))


def test_a_spool_segment_gives_only_what_was_put_in() -> None:
    random, values, salt = rng("segments"), batches(), 7
    whole = segment(values, salt)
    found_some = 0
    for turn in range(max(20, CASES // 400)):
        data = whole if turn == 0 else mutated(random, whole, [whole, segment(values[:2], salt + 1)])
        if turn % 2:  # behind a damaged part, a record that is right again
            data = data[: int(random.integers(0, len(data) + 1))] + segment(values, salt)
        heads = list(walk(data, salt))
        assert all(a.end <= b.at for a, b in pairwise(heads)) and sound_end(data, salt) <= len(data)
        read = [data[head.at + HEADER_SIZE : head.end] for head in heads if value_is_right(data, head)]
        assert set(read) <= set(values), shown(data)
        found_some += bool(read)
        if turn % 2:
            assert read[-2:] == values[-2:], shown(data)
    assert found_some > 10


CONTROL = [
    b'{"rate":1000,"burst":10,"mode":"manual","until_ms":1700000000000,"author":"a","reason":"b","at":1}',
    b'{"mode":"auto","rate":1e3,"burst":1e4,"shares":{"0":0.5,"1":0.5},"hosts":{"h":{"rate":1.0,"burst":2.0}},"at":1}',
    b'{"block":true,"until_ms":1700000000000,"rate":5,"burst":6,"limits_until_ms":1,"forget_ms":1700000000000}',
    b'{"unblock":true}',
    b'{"gains":{"kp":1.0}}',
]


def test_a_control_record_is_applied_or_refused_and_never_half(tmp_path: Path) -> None:
    follower = ControlFollower(Settings(state_dir=tmp_path))

    def look(value: bytes) -> bool:
        for key in ("global", "override", "device/a", "edge/1"):
            before = follower.records()
            try:
                follower.consume(key, value)
            except ValueError as error:
                assert str(error)
                assert follower.records() is before
                return False
        assert 0 < follower.rate(5.0) < float("inf") and 0 < follower.burst(5.0) < float("inf")
        for use in (follower.mode, follower.blocked, follower.device_limits, follower.overrides, follower.to_forget):
            use()
        follower.share(0, 2), follower.intake("h")
        return True

    each("control", [*CONTROL, *corpus("control")], 100, look)


STATS = b"""{"v":1,"kind":"edge","id":"edge-1","host":"h","instance":"i","at_ms":1,"uptime_s":1.0,"extra":false,
"counters":{"received":3,"dropped":{"backpressure":0}},"gauges":{"queue_depth":0,"cpu_share":0.5,
"lag_records":{"0":1.0},"kafka_ms":{"p50":1,"p99":2,"count":3},"breaker":"open"},"rates":{"received":3.0}}"""


def test_a_statistics_record_is_read_or_refused() -> None:
    def look(value: bytes) -> bool:
        try:
            record = orjson.loads(value)
            StatsRecord.model_validate(record)
        except ValueError:
            return False
        view = ProcessView.of("x", record)
        assert all(isinstance(number, int | float) for number in view.counters.values())
        return True

    each("stats", [STATS, *corpus("stats")], 20, look)


KINDS = ["raw", "telemetry", "journal", "devices_changelog", "control", "stats", "dead_letter"]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_topic_holds_is_shown_in_printable_lines(kind: str) -> None:
    row = np.zeros(1, ROW)
    row["version"] = ROW_VERSION
    seeds = [*batches(), *journal_records(), markers()[0][0], *CONTROL, STATS, row.tobytes(), *corpus("frames")]
    random = rng("tail " + kind)
    for turn in range(max(len(seeds), CASES // 1000)):
        value = seeds[turn] if turn < len(seeds) else mutated(random, seeds[turn % len(seeds)], seeds)
        shown_row = decode(kind, Record(0, turn, 1, value[:16], value, (("reason", value[:9]),)))
        assert all(line.isprintable() for line in lines(kind, shown_row, 10)), shown(value)


def test_the_length_of_a_struct_is_what_the_mutations_know() -> None:
    assert HEADER.size == 32 and struct.calcsize("<4sIIII") + 4 == HEADER_SIZE
