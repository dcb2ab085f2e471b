"""What a lane makes of devices that reboot, move between edges, have wrong clocks, break, or come in floods."""

import numpy as np
import pytest

from klais.core.lane import boots as lane_boots
from klais.core.lane.checkpoint import decode_marker, encode_marker, snapshot
from klais.core.lane.columns import read_headers
from klais.core.lane.names import MAX_NAMES, NameTable
from klais.core.lane.queue import BLOCK_BYTES, FRAME_BYTES, MAX_RANGE_BYTES, RECORD_BYTES
from klais.core.lane.state import LaneState, Tally
from klais.core.lane.step import forget, release, take_raw
from klais.core.wire.batch import decode_batch, encode_batch
from klais.core.wire.constants import Reason
from klais.kafka.record_batch import MAX_RECORDS_BYTES
from tests.support.lane import T0_NS, batch, bounds, frames, limits, scored

S = 1_000_000_000


class Feed:
    """A lane that is fed one batch at a time; ``counts`` are verdicts so far."""

    def __init__(self, **how) -> None:
        self.state, self.how = scored(), how
        self.numbers: dict[int, int] = {}

    def take(self, at_ns: int, *parts, edge: int = 1, now_ns: int | None = None, lim=None, bound=None) -> list[str]:
        number = self.numbers[edge] = self.numbers.get(edge, -1) + 1
        value = batch(frames(*parts), number, at_ns, edge=edge)
        now_ns = at_ns if now_ns is None else now_ns
        step = take_raw(self.state, self.state.next_raw, value, lim or limits(**self.how), bound or bounds(), now_ns)
        return [Reason(int(v)).label for v in step.record.verdict]

    def row(self, name: bytes):
        return self.state.rows[self.state.find(name)]

    def profile(self, name: bytes):
        return self.state.detector.profiles[self.state.find(name)]

    def passed(self) -> int:
        return int(self.state.tally[Reason.PASSED])


def test_a_device_that_wakes_up_with_the_same_frame_is_heard_each_time() -> None:
    lane = Feed()
    for wake in range(20):
        assert lane.take(T0_NS + wake * 3600 * S, ("door", 1, b'{"door":"closed"}')) == ["passed"]
    assert lane.row(b"door")["resets"] == 19


def test_a_frame_that_came_before_is_a_duplicate_for_half_the_window_and_none_after_the_whole() -> None:
    for age_s, expected in ((0.5, "duplicate"), (29.0, "duplicate"), (60.0, "passed"), (3600.0, "passed")):
        for start_s in range(0, 60, 7):  # wherever in an era
            lane = Feed(window_s=60.0)
            at_ns = T0_NS + start_s * S
            lane.take(at_ns, ("a", 5))
            assert lane.take(at_ns + int(age_s * S), ("a", 5)) == [expected], (age_s, start_s)


def test_a_small_counter_with_a_steady_reading_is_heard_once_a_window_for_each_number_at_least() -> None:
    lane = Feed(window_s=30.0)
    for second in range(300):
        lane.take(T0_NS + second * S, ("b", second % 16, b'{"on":true}'))
    assert lane.passed() >= 16 * (300 // 32)


def test_devices_without_a_counter_lose_nothing() -> None:
    for prefixes in ([b"old-"], [b""]):
        lane, bound = Feed(), bounds(uncounted=prefixes)
        for second in range(50):
            assert lane.take(T0_NS + second * S, ("old-1", 0, b'{"t":1}'), bound=bound) == ["passed"]
    assert lane.take(T0_NS + 51 * S, ("old-1", 0, b'{"t":1}'), ("old-1", 0, b'{"t":1}')) == ["passed", "duplicate"]


def test_a_key_that_was_changed_changes_hashes_and_no_verdict() -> None:
    hashes = set()
    for key in (bytes(16), bytes(range(16))):
        state = LaneState(hash_key=key)
        step = take_raw(state, 0, batch(frames(("a", 1), ("a", 1), ("a", 2))), limits(), bounds(), T0_NS)
        assert step.record.verdict.tolist() == [Reason.PASSED, Reason.DUPLICATE, Reason.PASSED]
        hashes.add(state.rows[0]["hashes"].tobytes())
    assert len(hashes) == 2


def test_sixteen_bits_are_not_enough_for_the_hash() -> None:
    """1,000 readings with one number: with 16 bits some seven pairs would look like duplicates."""
    lane = Feed()
    for n in range(1000):
        assert lane.take(T0_NS, ("a", 0, b'{"t":%d.%02d}' % divmod(n, 100))) == ["passed"]


def test_a_device_that_moves_while_its_old_edge_replays_a_spool_has_no_gaps_and_no_resets() -> None:
    lane = Feed()
    for n in range(400):
        lane.take(T0_NS + n * S, ("a", n), edge=1)
    for n in range(600):  # Kafka was away for edge 1; edge 2 is live, and edge 1 replays meanwhile
        lane.take(T0_NS + (1000 + n) * S, ("a", 1000 + n), edge=2)
        lane.take(T0_NS + (400 + n) * S, ("a", 400 + n), edge=1, now_ns=T0_NS + (1000 + n) * S)
        if n == 300:  # duplicates are still recognised in both
            assert lane.take(T0_NS + 1300 * S, ("a", 1300), edge=2) == ["duplicate"]
            assert lane.take(T0_NS + 700 * S, ("a", 700), edge=1, now_ns=T0_NS + 1300 * S) == ["duplicate"]
    row = lane.row(b"a")
    assert (lane.passed(), int(row["gaps"]), int(row["resets"]), int(row["jumps"])) == (1600, 0, 0, 0)
    assert row["late"] == 600


def test_a_devices_own_backlog_between_live_frames_is_no_gap_and_no_restart() -> None:
    lane = Feed()
    for n in range(200):
        lane.take(T0_NS + n * S, ("a", 1500 + n), ("a", 500 + n))
    row = lane.row(b"a")
    assert (lane.passed(), int(row["gaps"]), int(row["resets"]), int(row["jumps"])) == (400, 0, 0, 0)


def test_a_counter_of_milliseconds_has_jumps_and_no_gaps() -> None:
    lane = Feed()
    for n in range(50):
        lane.take(T0_NS + n * S, ("a", 1_000_003 * n & 0xFFFFFFFF))
    row = lane.row(b"a")
    assert (lane.passed(), int(row["gaps"]), int(row["jumps"]) + int(row["resets"])) == (50, 0, 49)


def test_frames_lost_in_an_outage_are_gaps() -> None:
    lane = Feed()
    for n in [*range(50), *range(650, 700)]:
        lane.take(T0_NS + n * S, ("a", n))
    assert (int(lane.row(b"a")["gaps"]), int(lane.row(b"a")["jumps"])) == (600, 0)


def test_a_clock_that_steps_back_freezes_no_bucket() -> None:
    lane = Feed(device_rate=1000.0, device_burst=1000.0)
    dropped, number = 0, 0
    for tick in range(100):
        at_ns = T0_NS + tick * S // 10 - (9 * S if tick >= 50 else 0)
        some = [("a", number + k) for k in range(90)]
        number += 90
        dropped += lane.take(at_ns, *some, now_ns=T0_NS + tick * S // 10).count("device_rate")
    assert dropped == 0


def test_a_clock_that_was_ahead_leaves_nothing_behind() -> None:
    lane = Feed()
    lane.take(T0_NS + 365 * 86_400 * S, ("a", 0), now_ns=T0_NS)
    for n in range(1, 60):
        lane.take(T0_NS + n * S, ("a", n))
    row = lane.row(b"a")
    assert row["last_ns"] == row["refilled_ns"] == T0_NS + 59 * S
    assert row["interval_s"] == pytest.approx(1.0)
    assert row["flags"] == 0


def test_intervals_are_not_taken_between_edges_whose_clocks_differ() -> None:
    lane = Feed()
    for n in range(200):
        edge = 1 + n // 10 % 2
        lane.take(T0_NS + n * S - (8 * S if edge == 2 else 0), ("a", n), edge=edge, now_ns=T0_NS + n * S)
    row = lane.row(b"a")
    assert row["interval_s"] == pytest.approx(1.0)
    assert (int(row["flags"]), int(row["device_rate"])) == (0, 0)


def test_one_impossible_reading_does_not_blind_the_profile() -> None:
    lane, rng, n = Feed(), np.random.default_rng(6), 0

    def send(value: float) -> bool:
        nonlocal n
        before = int(lane.row(b"p")["flags"]) if n else 0
        lane.take(T0_NS + n * S, ("p", n, b'{"t":%.2f}' % value))
        n += 1
        return int(lane.row(b"p")["flags"]) > before

    for _ in range(300):
        send(rng.normal(21, 0.1))
    assert send(2e8)
    assert send(85.0)
    flagged = 0
    for k in range(1000):
        send(rng.normal(21, 0.1))
        flagged += k % 100 == 99 and send(85.0)
    assert flagged == 10


def test_a_level_that_really_changed_is_learned() -> None:
    lane = Feed()
    flags = []
    for n in range(300):
        lane.take(T0_NS + n * S, ("p", n, b'{"t":%.1f}' % (20.0 if n < 100 else 80.0)))
        flags.append(int(lane.row(b"p")["flags"]))
    assert flags[99] == 0 and flags[-1] == 16
    assert lane.profile(b"p")["mean"][2] == 80.0


def test_fields_sent_once_give_their_slots_to_fields_that_are_sent() -> None:
    lane = Feed()
    lane.take(T0_NS, ("a", 0, b"{" + b",".join(b'"junk%d":1' % k for k in range(8)) + b"}"))
    for n in range(1, 600):
        lane.take(T0_NS + n * S, ("a", n, b'{"t":20.5,"h":50,"p":1000}'))
    known = lane.profile(b"a")
    names = {lane.state.path_names[int(path)] for k, path in enumerate(known["path"]) if known["samples"][2 + k] > 100}
    assert {"t", "h", "p"} <= names


def test_ten_fields_keep_the_eight_slots_they_have() -> None:
    lane, payload = Feed(), b"{" + b",".join(b'"f%d":1' % k for k in range(10)) + b"}"
    for n in range(300):
        lane.take(T0_NS + n * S, ("a", n, payload))
    assert lane.profile(b"a")["samples"][2:].tolist() == [300] * 8


def test_refused_frames_make_no_row() -> None:
    lane = Feed()
    full = limits(rate=1e-3, burst=1.0)
    verdicts = lane.take(T0_NS, *[(f"d{k}", 1) for k in range(100)], lim=full, bound=bounds(queue_limit=2))
    assert verdicts == ["passed", "queued", "queued", *["queue_full"] * 97]
    assert lane.state.devices == 3
    assert lane.take(T0_NS, ("x", 1), bound=bounds(blocked=[b"x"])) == ["blocked"]
    assert lane.state.devices == 3


def test_new_devices_come_at_their_rate_and_known_ones_as_they_like() -> None:
    lane, slow = Feed(), limits(new_rate=1.0)
    verdicts = lane.take(T0_NS, *[(f"d{k}", 1) for k in range(15)], lim=slow)
    assert verdicts == ["passed"] * 10 + ["device_limit"] * 5  # the bucket holds ten seconds
    later = lane.take(T0_NS + 2 * S, *[(f"e{k}", 1) for k in range(3)], ("d0", 2), now_ns=T0_NS + 2 * S, lim=slow)
    assert later == ["passed", "passed", "device_limit", "passed"]


def test_a_full_lane_gets_room_when_silent_devices_are_forgotten() -> None:
    lane, bound = Feed(), bounds(device_limit=3)
    assert lane.take(T0_NS, ("a", 1), ("b", 1), ("c", 1), ("d", 1), bound=bound) == ["passed"] * 3 + ["device_limit"]
    ids = np.frombuffer(b"b".ljust(16, b"\0"), np.uint8).reshape(1, 16)
    forget(lane.state, ids, limits(), T0_NS + S)
    assert lane.take(T0_NS + 2 * S, ("d", 1), ("a", 2), bound=bound) == ["passed", "passed"]
    assert (lane.state.devices, lane.state.used, int(lane.state.tally[Tally.FORGOTTEN])) == (3, 3, 1)
    assert lane.row(b"d")["received"] == 1 and lane.state.find(b"b") == -1
    assert snapshot(lane.state).forgotten == [b"b"]


def test_the_queue_is_bounded_in_bytes() -> None:
    lane, tight = Feed(), limits(rate=1e-3, burst=1.0)
    size = len(frames(("a", 1, b'{"x":"' + b"y" * 60_000 + b'"}'))[0])
    held = RECORD_BYTES + FRAME_BYTES + BLOCK_BYTES * -(-size // BLOCK_BYTES)
    room = bounds(queue_bytes=3 * held + 10)
    lane.take(T0_NS, ("z", 0), lim=tight)  # takes the one token
    for n in range(5):
        verdict = lane.take(T0_NS, ("a", n, b'{"x":"' + b"y" * 60_000 + b'"}'), lim=tight, bound=room)
        assert verdict == ["queued" if n < 3 else "queue_full"]
    assert lane.state.queue.bytes == 3 * held
    while release(lane.state, limits(), T0_NS + 9 * S, 1):
        pass
    assert (lane.state.queue.bytes, lane.state.queue.range_bytes) == (0, 0)


def test_the_largest_checkpoint_fits_one_record() -> None:
    """As many one-frame batches as may wait, as many edges as are remembered, names of the longest kind."""
    lane, tight = Feed(), limits(rate=1e-3, burst=1.0)
    lane.state.path_names = NameTable({k: "\x01" * 120 for k in range(MAX_NAMES)})
    lane.take(T0_NS, ("z", 0), lim=tight)
    lane.take(T0_NS, ("a", 1), lim=tight)
    columns = read_headers(decode_batch(batch(frames(("a", 1)))))
    index, queue = np.zeros(1, np.int32), lane.state.queue
    offset = 1
    while queue.has_room(columns, 1 << 60):
        offset += 1
        queue.push(offset, columns, index)
    assert queue.range_bytes > MAX_RANGE_BYTES - 100
    for boot in range(lane_boots.MAX_BOOTS + 10):
        lane.state.boots.take(1, boot, boot, boot)
    marker = encode_marker(snapshot(lane.state), 0, {}, 4)
    assert len(marker) < MAX_RECORDS_BYTES - 1024
    assert sum(len(index) for _, _, index in decode_marker(marker).ranges) == queue.depth


def test_batches_of_thousands_of_edges_that_are_sent_twice_are_recognised() -> None:
    state = LaneState()
    values = [encode_batch([], T0_NS, edge, boot, 7) for edge in range(400) for boot in range(5)]
    for twice in range(2):
        for value in values:
            take_raw(state, state.next_raw, value, limits(), bounds(), T0_NS)
        assert int(state.tally[Tally.REPEATED_BATCHES]) == twice * len(values)
    assert len(state.boots) == len(values)


def test_beyond_all_bounds_the_longest_silent_edges_are_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(lane_boots, "MAX_BOOTS", 64)
    boots = lane_boots.Boots()
    for edge in range(70):
        assert boots.take(edge, 0, 5, now_s=edge) == 0
    assert len(boots) <= 64
    assert boots.take(69, 0, 5, now_s=70) is None
    assert boots.take(0, 0, 5, now_s=71) == 0  # forgotten


def test_two_sources_by_turns_are_counted() -> None:
    state = LaneState()
    for n in range(12):
        source = np.full((1, 18), n % 2 if n < 8 else 1, np.uint8)
        value = encode_batch(frames(("a", n)), T0_NS + n * S, 1, 1, n, sources=source)
        take_raw(state, n, value, limits(), bounds(), T0_NS + n * S)
    assert state.rows[0]["source_turns"] == 6
