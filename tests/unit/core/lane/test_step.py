"""A lane's steps: verdicts, outputs, counters, and the dead letters of bad input."""

import numpy as np
import pytest

from klais.core.lane.render import anomaly_records, dead_letter_records
from klais.core.lane.state import LaneState, Tally
from klais.core.lane.step import release, take_raw
from klais.core.wire.constants import Reason, encode_frame
from tests.support.lane import T0_NS, batch, bounds, frames, limits, scored

S = 1_000_000_000


def labels(step) -> list[str]:
    return [Reason(int(v)).label for v in step.record.verdict]


def passed(step) -> list[bytes]:
    return [columns.batch.frame(int(i)) for columns, index in step.passed for i in index]


def test_good_frames_pass_in_order():
    some = frames(("a", 1), ("b", 7), ("a", 2))
    step = take_raw(LaneState(), 0, batch(some), limits(), bounds(), T0_NS)
    assert labels(step) == ["passed"] * 3
    assert passed(step) == some


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "too_short"),
        (b"\xaa\x55" + b"a" * 19, "too_short"),
        (b"\x55\xaa" + b"a".ljust(16, b"\0") + bytes(4) + b"{}", "bad_magic"),
        (b"\xaa\x55" + bytes(16) + bytes(4) + b"{}", "bad_device_id"),
        (b"\xaa\x55" + b"a\0b".ljust(16, b"\0") + bytes(4) + b"{}", "bad_device_id"),
        (b"\xaa\x55" + b"\xff\xfe".ljust(16, b"\0") + bytes(4) + b"{}", "bad_device_id"),
        (b"\xaa\x55" + b"\xed\xa0\x80".ljust(16, b"\0") + bytes(4) + b"{}", "bad_device_id"),
        (encode_frame("a", 1, b""), "bad_json"),
        (encode_frame("a", 1, b'{"t":}'), "bad_json"),
        (encode_frame("a", 1, b'{"t":NaN}'), "bad_json"),
        (encode_frame("a", 1, b'{"t":1}{}'), "bad_json"),
        (encode_frame("a", 1, b'{"t":"\xff"}'), "bad_utf8"),
        (encode_frame("a", 1, b"[1]"), "not_object"),
        (encode_frame("a", 1, b'{"a":' * 33 + b"1" + b"}" * 33), "too_deep"),
    ],
)
def test_malformed_frame_is_a_dead_letter_with_its_reason_and_the_next_good_one_passes(frame, reason):
    good = frames(("ok", 1))[0]
    state = LaneState()
    step = take_raw(state, 0, batch([frame, good]), limits(), bounds(), T0_NS)
    assert labels(step) == [reason, "passed"]
    assert passed(step) == [good]
    ((_, value, headers, _),) = dead_letter_records(step)
    assert value == frame
    assert dict(headers)["reason"] == reason.encode()
    assert dict(headers)["stage"] == b"lane"
    assert int(state.tally[Reason[reason.upper()]]) == 1
    assert int(state.tally[Tally.DEAD_WRITTEN]) == 1


def test_numbers_beyond_double_range_and_longest_frame_pass():
    long = encode_frame("long", 1, b'{"x":"' + b"y" * (65_507 - 22 - 8) + b'"}')
    some = [*frames(("a", 1, b'{"t":1e999,"u":-1e-999}')), long]
    assert len(long) == 65_507
    assert labels(take_raw(LaneState(), 0, batch(some), limits(), bounds(), T0_NS)) == ["passed", "passed"]


def test_device_id_hostile_to_json_passes():
    some = frames(('a"\\\n\x01', 1))
    assert labels(take_raw(LaneState(), 0, batch(some), limits(), bounds(), T0_NS)) == ["passed"]


def test_duplicates_are_dropped_late_frames_and_reboots_pass():
    sent = frames(("a", 10), ("a", 12), ("a", 12), ("a", 11), ("a", 10, b'{"t":99}'), ("a", 11, b'{"t":98}'))
    state = LaneState()
    step = take_raw(state, 0, batch(sent), limits(), bounds(), T0_NS)
    assert labels(step) == ["passed", "passed", "duplicate", "passed", "passed", "passed"]
    row = state.rows[state.find(b"a")]
    assert (row["late"], row["resets"], row["gaps"], row["duplicate"]) == (1, 1, 0, 1)


def test_sequence_wraps():
    state = LaneState()
    sent = frames(("a", 2**32 - 1), ("a", 0), ("a", 1))
    assert labels(take_raw(state, 0, batch(sent), limits(), bounds(), T0_NS)) == ["passed"] * 3
    row = state.rows[state.find(b"a")]
    assert (row["gaps"], row["resets"], row["top"][0]) == (0, 0, 1)


def test_batches_whose_numbers_jump_far_stop_no_lane():
    """The count of missing batches went over 64 bits, and the lane failed on each later batch that left one out."""
    state = LaneState()
    for offset, number in enumerate((0, 2**63, 2**64 - 1)):
        take_raw(state, offset, batch([], number), limits(), bounds(), T0_NS)
    for offset, number in ((3, 1), (4, 5)):
        take_raw(state, offset, batch([], number, boot=9), limits(), bounds(), T0_NS)
    assert 0 < int(state.tally[Tally.MISSING_BATCHES]) <= 2**53


def test_batch_sent_twice_is_ignored_and_counted():
    state = LaneState()
    value = batch(frames(("a", 1), ("a", 2)), number=5)
    take_raw(state, 0, value, limits(), bounds(), T0_NS)
    again = take_raw(state, 1, value, limits(), bounds(), T0_NS)
    assert not again.passed
    assert int(state.tally[Tally.REPEATED_FRAMES]) == 2
    assert state.next_raw == 2
    assert take_raw(state, 2, batch(frames(("a", 3)), number=9), limits(), bounds(), T0_NS).passed_count == 1
    assert int(state.tally[Tally.MISSING_BATCHES]) == 3


@pytest.mark.parametrize(
    "value",
    [b"", b"hello", b"KFB1", batch(frames(("a", 1)))[:-1], batch(frames(("a", 1))) + b"x", b"KFB1" + b"\xff" * 60],
)
def test_record_that_is_no_frame_batch_is_a_dead_letter(value):
    state = LaneState()
    step = take_raw(state, 0, value, limits(), bounds(), T0_NS)
    ((key, dead, headers, _),) = dead_letter_records(step)
    assert (key, dead, dict(headers)["reason"]) == (None, value, b"corrupt_batch")
    assert take_raw(state, 1, batch(frames(("a", 1))), limits(), bounds(), T0_NS).passed_count == 1


def test_unknown_flag_is_refused():
    value = bytearray(batch(frames(("a", 1))))
    value[18] |= 8
    step = take_raw(LaneState(), 0, bytes(value), limits(), bounds(), T0_NS)
    assert "flags" in step.corrupt_why


def test_device_above_its_rate_is_policed_and_recovers():
    state = LaneState()
    lim = limits(device_rate=10, device_burst=3)
    step = take_raw(state, 0, batch(frames(*[("a", i) for i in range(5)])), lim, bounds(), T0_NS)
    assert labels(step) == ["passed"] * 3 + ["device_rate"] * 2
    later = batch(frames(("a", 5), ("a", 6)), 1, T0_NS + S // 10)
    assert labels(take_raw(state, 1, later, lim, bounds(), T0_NS + S // 10)) == ["passed", "device_rate"]


def test_crowd_above_the_global_rate_waits_in_order_and_nothing_overtakes():
    state = LaneState()
    lim = limits(rate=100, burst=2)
    some = frames(("a", 1), ("b", 1), ("a", 2), ("b", 2))
    first = take_raw(state, 0, batch(some), lim, bounds(), T0_NS)
    assert labels(first) == ["passed", "passed", "queued", "queued"]
    late = frames(("a", 3))
    assert labels(take_raw(state, 1, batch(late, 1), lim, bounds(), T0_NS + 10 * S)) == ["queued"]
    out = release(state, lim, T0_NS + 10 * S, 100)
    assert passed(out) == some[2:]
    assert release(state, lim, T0_NS + 10 * S, 100) is None
    assert passed(release(state, lim, T0_NS + 11 * S, 100)) == late
    assert state.queue.depth == 0


def test_full_queue_drops_with_its_reason():
    step = take_raw(
        LaneState(),
        0,
        batch(frames(*[("a", i) for i in range(4)])),
        limits(rate=1, burst=1),
        bounds(queue_limit=2),
        T0_NS,
    )
    assert labels(step) == ["passed", "queued", "queued", "queue_full"]


def test_blocked_device_and_device_limit():
    state = LaneState()
    step = take_raw(state, 0, batch(frames(("a", 1), ("b", 1))), limits(), bounds(blocked=[b"b", b"none"]), T0_NS)
    assert labels(step) == ["passed", "blocked"]
    full = take_raw(state, 1, batch(frames(("c", 1), ("a", 2)), 1), limits(), bounds(device_limit=1), T0_NS)
    assert labels(full) == ["device_limit", "passed"]
    assert state.devices == 1  # frames that were refused made no row


def test_dead_letters_above_the_allowance_are_only_counted():
    state = LaneState()
    step = take_raw(state, 0, batch([b"x"] * 10), limits(dead_letters=3), bounds(), T0_NS)
    assert len(list(dead_letter_records(step))) == 3
    assert (int(state.tally[Tally.DEAD_WRITTEN]), int(state.tally[Tally.DEAD_SUPPRESSED])) == (3, 7)


def test_flag_says_feature_value_expected_and_z():
    state = scored()
    rng = np.random.default_rng(1)
    for i in range(50):
        payload = b'{"pos":{"t":%.2f}}' % (20 + rng.normal())
        take_raw(state, i, batch(frames(("a", i, payload)), i, T0_NS + i * S), limits(), bounds(), T0_NS + i * S)
    hot = batch(frames(("a", 50, b'{"pos":{"t":90.5}}')), 50, T0_NS + 50 * S)
    ((key, value, _, _),) = anomaly_records(take_raw(state, 50, hot, limits(), bounds(), T0_NS + 50 * S))
    import orjson

    flag = orjson.loads(value)
    assert key == b"a"
    assert (flag["feature"], flag["value"]) == ("pos.t", 90.5)
    assert 18 < flag["expected"] < 22
    assert flag["score"] > 6 and "standard deviations" in flag["explanation"]
    assert state.rows[state.find(b"a")]["flags"] == 1


def test_silence_is_flagged_by_its_interval():
    state = scored()
    for i in range(40):
        take_raw(state, i, batch(frames(("a", i)), i, T0_NS + i * S), limits(), bounds(), T0_NS)
    step = take_raw(state, 40, batch(frames(("a", 40)), 40, T0_NS + 400 * S), limits(), bounds(), T0_NS)
    ((_, value, _, _),) = anomaly_records(step)
    assert b'"feature":"interval_s"' in value


def test_a_clock_that_was_set_back_holds_nothing_up_that_waits() -> None:
    """No frame need arrive for that: the lane may be quiet for as long as the clock was ahead."""
    state, lim = LaneState(), limits(rate=10, burst=10)
    take_raw(state, 0, batch(frames(*((f"d{i}", 1) for i in range(25))), 0, T0_NS), lim, bounds(), T0_NS)
    assert state.queue.depth == 15
    back_ns = T0_NS - 3_600 * 10**9
    steps = [release(state, lim, back_ns + tick * 10**8, 1000) for tick in range(20)]
    assert sum(step.passed_count for step in steps if step is not None) == 15
