"""The spine with a source and a sink in memory: order, dead letters, conservation, draining."""

import random
import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import MAX_FRAME_SIZE, Reason, encode_frame
from klais.core.wire.partition import partition_of
from klais.edge.batcher import Batcher, ClosedBatch
from klais.edge.counts import Counts
from klais.edge.linger import LingerController
from klais.edge.main import Edge
from klais.edge.shedding import LoadShedder
from klais.edge.sinks.base import Pause
from klais.edge.sinks.dead_letters import DeadLetters
from klais.edge.spine import Spine

ROOM = 65_536


class MemorySource:
    """Gives lists of frames, one a call."""

    name, capacity, buffer_bytes, head_size = "memory", 64, 1 << 24, ROOM

    def __init__(self, calls: list[list[bytes]]) -> None:
        self.calls, self.closed = list(calls), False
        self.head, self.tail = np.zeros(self.capacity * ROOM, np.uint8), np.zeros(1, np.uint8)
        self.starts = np.arange(self.capacity, dtype=np.int64) * ROOM
        self.tail_starts, self.lengths = np.zeros(self.capacity, np.int64), np.zeros(self.capacity, np.int64)

    def fill(self, wait_ns: int) -> int:
        assert not self.closed
        frames = self.calls.pop(0) if self.calls else []
        for i, frame in enumerate(frames):
            self.head[self.starts[i] : self.starts[i] + len(frame)] = np.frombuffer(frame, np.uint8)
            self.lengths[i] = len(frame)
        return len(frames)

    def sources(self, n: int) -> np.ndarray:
        row = np.frombuffer(bytes(10) + b"\xff\xff\x0a\x01\x02\x03\x13\x88", np.uint8)
        return np.repeat(row[None], n, 0)

    def times(self, n: int) -> None:
        return None

    def kernel_drops(self) -> int:
        return 0

    def details(self) -> dict[str, Any]:
        return {}

    def begin_drain(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


class MemorySink:
    """Takes batches while there is room; delivers when drained."""

    def __init__(self, counts: Counts, room: int = 10**9) -> None:
        self.counts, self.room, self.linger_ns = counts, room, 0
        self.taken: list[ClosedBatch] = []
        self.letters: list[tuple[bytes, bytes | None, dict[str, bytes], int]] = []

    def offer(self, built: ClosedBatch) -> Reason:
        if len(self.taken) >= self.room:
            return Reason.BACKPRESSURE
        self.taken.append(built)
        self.counts.inflight += built.count
        return Reason.PASSED

    def dead_letter(self, value: bytes, key: bytes | None, headers: Any, partition: int) -> bool:
        self.letters.append((value, key, dict(headers), partition))
        return True

    def poll(self) -> None:
        pass

    def drain(self, budget_s: float, pause: Pause = time.sleep) -> int:
        self.counts.published += self.counts.inflight
        self.counts.inflight = 0
        return 0


def build(
    calls: list[list[bytes]], room: int = 10**9, rate: float = 1000.0, frame_max: int = MAX_FRAME_SIZE
) -> tuple[Spine, MemorySink]:
    counts = Counts()
    sink = MemorySink(counts, room)
    to: Any = sink
    dead_letters = DeadLetters(to, counts, rate, 1e9, edge_id=3, partitions=4, frame_max_bytes=frame_max)
    batcher = Batcher(4, 2000, 3, 99)
    linger = LingerController(5_000_000, 1 << 24, MemorySource.capacity)
    source: Any = MemorySource(calls)
    return Spine(source, batcher, sink, dead_letters, counts, linger, LoadShedder(4), frame_max), sink


def balance(counts: Counts) -> int:
    return counts.waiting + counts.inflight + counts.published + int(counts.by_reason.sum())


@pytest.mark.parametrize("room", [10**9, 5])
@pytest.mark.parametrize("seed", range(4))
def test_every_frame_is_published_dead_lettered_or_counted(seed: int, room: int) -> None:
    rng = random.Random(seed)
    junk = [b"", b"\xaa", b"\xaa\x55" + bytes(20), b"xx" + bytes(40), b"\xaa\x55\xff\xfe" + bytes(30), b"z" * 65_520]
    calls = [
        [
            rng.choice(junk)
            if rng.random() < 0.2
            else encode_frame(f"d{rng.randrange(30)}", k, b"{}" * rng.randrange(99))
            for k in range(rng.randrange(1, 60))
        ]
        for _ in range(12)
    ]
    spine, sink = build(calls, room)
    for _ in calls:
        spine.round(spine.source.fill(0), 5_000_000)
        assert spine.counts.received == balance(spine.counts)
    assert spine.drain(1.0, 1.0) == 0

    sent = [frame for call in calls for frame in call]
    good = [f for f in sent if f[:3] == b"\xaa\x55d"]
    got: dict[int, list[bytes]] = {}
    for built in sink.taken:
        batch = decode_batch(built.value)
        assert batch.number == sum(b.partition == built.partition for b in sink.taken[: sink.taken.index(built)])
        got.setdefault(built.partition, []).extend(batch.frame(i) for i in range(batch.count))
    want = {p: [f for f in good if partition_of(f[2:18].rstrip(b"\0"), 4) == p] for p in range(4)}
    counts = spine.counts
    dropped = int(counts.by_reason[Reason.BACKPRESSURE])
    assert counts.received == len(sent) == balance(counts)
    assert len(sink.letters) == len(sent) - len(good)
    if room > 5:
        assert dropped == 0
        assert {p: frames for p, frames in want.items() if frames} == got
    else:
        assert dropped == len(good) - sum(map(len, got.values())) > 0


def test_dead_letters_say_why_where_and_from_whom() -> None:
    too_long = encode_frame("dev-1", 1, b"") + b"x" * 65_500
    assert len(too_long) > MAX_FRAME_SIZE
    spine, sink = build([[b"short", b"no" + bytes(40), b"\xaa\x55" + bytes(40), too_long]])
    spine.round(spine.source.fill(0), 0)
    assert [(value, headers["reason"], key) for value, key, headers, _ in sink.letters] == [
        (b"short", b"too_short", None),
        (b"no" + bytes(40), b"bad_magic", None),
        (b"\xaa\x55" + bytes(40), b"bad_device_id", None),
        (too_long[:MAX_FRAME_SIZE], b"too_long", b"dev-1"),
    ]
    headers = sink.letters[0][2]
    assert (headers["edge"], headers["stage"], headers["source"]) == (b"3", b"edge", b"10.1.2.3:5000")
    assert 1_600_000_000_000 < int(headers["ts"]) < 10**14
    assert sink.letters[3][3] == partition_of(b"dev-1", 4)
    assert len({partition for *_, partition in sink.letters[:3]}) == 3  # round robin


def test_longer_frames_than_the_setting_allows_are_dropped_as_too_long() -> None:
    def padded(size: int) -> bytes:
        return encode_frame("dev-1", size, b"{}").ljust(size)

    sizes = [24, 2071, 2072, 2073, 9000, 65_507]
    junk = b"z" * 3000  # too long comes before bad_magic: nobody looks into such a frame
    spine, sink = build([[*map(padded, sizes), junk]], frame_max=2072)
    spine.round(spine.source.fill(0), 0)
    assert spine.drain(1.0, 1.0) == 0
    batches = [decode_batch(built.value) for built in sink.taken]
    assert [batch.frame(i) for batch in batches for i in range(batch.count)] == [padded(size) for size in sizes[:3]]
    assert spine.counts.totals()["dropped"] == {"too_long": 4}
    assert spine.counts.received == 7 == balance(spine.counts)
    cut = [(value, headers["reason"], headers["bytes"], key) for value, key, headers, _ in sink.letters]
    assert cut == [(padded(size)[:2072], b"too_long", b"%d" % size, b"dev-1") for size in sizes[3:]] + [
        (junk[:2072], b"too_long", b"3000", None)
    ]


def test_a_flood_of_rubbish_becomes_a_sample() -> None:
    began_s = time.monotonic()
    spine, sink = build([[b"junk"] * 60] * 5, rate=100)
    for _ in range(5):
        spine.round(spine.source.fill(0), 0)
    earned = 100 * (time.monotonic() - began_s)  # tokens that came back while this test ran
    assert 30 <= len(sink.letters) <= 100 + earned  # one class gets a third of what there is at once
    assert spine.counts.dead_letters_suppressed == 300 - len(sink.letters)
    assert int(spine.counts.by_reason[Reason.TOO_SHORT]) == 300


def test_run_ends_after_stop_and_drain_takes_what_the_kernel_holds() -> None:
    frame = encode_frame("dev-1", 1, b"{}")
    spine, sink = build([[frame] * 10, [frame] * 10])
    spine.stop()
    spine.run()
    assert spine.counts.received == 0
    assert spine.drain(1.0, 1.0) == 0
    assert spine.counts.received == spine.counts.published == sum(b.count for b in sink.taken) == 20
    assert spine.source.closed  # type: ignore[attr-defined]


def test_what_is_found_after_a_rest_is_as_old_as_the_sleep() -> None:
    """So a batch that is due is closed in the round that ends the sleep, not a linger later."""
    frame = encode_frame("dev-1", 1, b"{}")
    spine, sink = build([[frame], [frame]])
    spine.round(spine.source.fill(0), 400_000_000)
    assert not sink.taken and spine.batcher.waiting() == 1
    spine.batcher.close(next(p for p in range(4) if spine.batcher.count[p]), time.monotonic_ns(), time.time_ns())
    spine.round(spine.source.fill(0), 400_000_000, slept_ns=500_000_000)
    assert [built.count for built in sink.taken] == [1] and sink.taken[0].age_ns >= 500_000_000


@pytest.mark.parametrize(("calls", "slept"), [([1, 1], True), ([1, 0, 1], False)])
def test_only_what_came_during_a_rest_is_as_old_as_the_sleep(
    calls: list[int], slept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes while the edge waits behind it has just come."""
    frame = encode_frame("dev-1", 1, b"{}")
    spine, _ = build([[frame] * count for count in calls])
    rounds: list[tuple[int, int]] = []

    def note(received: int, _linger_ns: int, slept_ns: int) -> None:
        rounds.append((received, slept_ns))
        if len(rounds) == 2:
            spine.stop()

    monkeypatch.setattr(spine, "round", note)
    spine.run()
    (first, none), (second, later) = rounds
    assert (first, none, second) == (1, 0, 1)
    assert (later > 0) == slept


def test_what_was_received_before_the_source_failed_goes_to_the_sink() -> None:
    spine, sink = build([[encode_frame(f"dev-{i}", 1, b"{}") for i in range(9)]])
    source, counts = spine.source, spine.counts
    fill = source.fill

    def fails_later(wait_ns: int) -> int:
        if not source.calls:
            raise OSError("the interface is down")
        return fill(wait_ns)

    source.fill, source.port = fails_later, 0
    edge = SimpleNamespace(
        spine=spine, stats=SimpleNamespace(start=int, stop=int, wake=int), control=ControlFollower(Settings()),
        _notifier=SimpleNamespace(ready=str), settings=Settings(), api=SimpleNamespace(start=int, port=0),
        _take_early=int, counts=counts, view=SimpleNamespace(statistics=lambda: SimpleNamespace(counters={})),
    )  # fmt: skip
    edge._end = partial(Edge._end, edge)
    with pytest.raises(OSError, match="the interface is down"):
        Edge._serve(edge)
    assert sum(built.count for built in sink.taken) == 9 == balance(counts) == counts.received


@pytest.mark.parametrize("broken", ["begin_drain", "fill", "kernel_drops", "close"])
def test_a_source_that_fails_while_the_edge_drains_costs_none_of_its_frames(broken: str) -> None:
    """Before, `klais xdp unload` and then a stop of the edge lost what Kafka had not acknowledged."""
    spine, sink = build([[encode_frame(f"dev-{i}", 1, b"{}") for i in range(9)]])
    spine.round(spine.source.fill(0), 10**12)
    assert spine.batcher.waiting() == 9

    def fails(*_: Any) -> int:
        raise FileNotFoundError(2, "the pins of the filter are gone")

    setattr(spine.source, broken, fails)
    assert spine.drain(1.0, 1.0) == 0
    assert sum(built.count for built in sink.taken) == 9 == spine.counts.published == balance(spine.counts)


def test_reports_need_not_wait_while_the_edge_waits_for_kafka() -> None:
    """`/health`, metrics and `klais_stats` read the counters under the lock of the spine, and they add up then."""
    spine, sink = build([[encode_frame(f"dev-{i}", 1, b"{}") for i in range(9)]])
    seen: list[int] = []

    def read() -> None:
        with spine.lock:
            seen.append(spine.counts.unaccounted())

    def waits(budget_s: float, pause: Pause = time.sleep) -> int:
        reader = threading.Thread(target=read)
        reader.start()
        while reader.is_alive() and time.monotonic() < until_s:
            pause(0.001)
        return 0

    spine.round(spine.source.fill(0), 10**12)
    sink.drain, until_s = waits, time.monotonic() + 60  # type: ignore[method-assign]
    spine.drain(0.0, 60.0)
    assert seen == [0]


def test_each_block_of_early_frames_is_a_round() -> None:
    """Otherwise `/livez` says that the loop hangs while a slow disk takes the frames of a long start."""
    spine, _ = build([])
    spine.round_began_s = 0.0
    spine.take([])
    assert spine.round_began_s == 0.0
    source = MemorySource([[encode_frame("dev-1", 1, b"{}")]])
    source.count = source.fill(0)  # type: ignore[attr-defined]
    block: Any = source
    spine.take([block])
    assert spine.round_began_s > 0.0 and spine.counts.received == 1
