"""The two-tier detector in a lane: gate, period, fields, memory, budget, saved profiles."""

import numpy as np
import orjson
import pytest

from klais.core.anomaly import sift
from klais.core.anomaly.budget import BURST_NS, CpuBudget
from klais.core.anomaly.channel import FULL, LIGHT
from klais.core.anomaly.detector import Saved
from klais.core.anomaly.two_tier import FULL_SHARE, TwoTier
from klais.core.anomaly.zscore import ZScore
from klais.core.lane.render import MAX_ANOMALY_BYTES, anomaly_records
from klais.core.lane.replay import replay
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from tests.support.lane import T0_NS, batch, bounds, frames, limits

S = 1_000_000_000


def detector(memory_bytes: int = 1 << 20, period_s: float = 10.0) -> TwoTier:
    return TwoTier(memory_bytes, period_s, CpuBudget(1.0, lambda: 0))


class Feed:
    """A lane with the detector, fed one frame at a time; ``flags`` are the records of its flags."""

    def __init__(self, **how) -> None:
        self.detector = detector(**how)
        self.state, self.flags, self.at_s, self.again = LaneState(detector=self.detector), [], 0.0, LaneState()

    def send(self, payload: bytes, wait_s: float = 60.0, name: str = "a") -> list[dict]:
        self.at_s += wait_s
        n, at_ns = self.state.next_raw, T0_NS + int(self.at_s * S)
        value = batch(frames((name, n, payload)), n, at_ns)
        step = take_raw(self.state, n, value, limits(), bounds(), at_ns)
        records = [value for _, value, _, _ in anomaly_records(step)]
        assert records == [value for _, value, _, _ in anomaly_records(replay(self.again, step.record, value))]
        assert all(len(record) <= MAX_ANOMALY_BYTES for record in records)
        flags = [orjson.loads(record) for record in records]
        self.flags += flags
        return flags

    def learn(self, count: int = 400, wait_s: float = 60.0) -> np.random.Generator:
        rng = np.random.default_rng(4)
        for _ in range(count):
            self.send(b'{"t":%.2f,"h":%d}' % (20 + 0.3 * rng.normal(), rng.integers(50, 54)), wait_s)
        assert self.flags == []
        return rng


def test_a_flag_names_field_cause_and_numbers_and_a_replay_says_the_same() -> None:
    lane = Feed()
    lane.learn()
    (flag,) = lane.send(b'{"t":45.2,"h":51}')
    assert (flag["kind"], flag["feature"], flag["value"], flag["before"]) == ("flag", "t", 45.2, 0)
    assert 19 < flag["expected"] < 21 and flag["score"] > 5
    row = lane.state.rows[0]
    assert (int(row["flags"]), float(row["flag_value"])) == (1, 45.2)
    assert lane.again.rows[0].tobytes() == row.tobytes()


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b'{"h":51}', "missing"),
        (b'{"t":null,"h":51}', "null"),
        (b'{"t":"NaN","h":51}', "text"),
        (b'{"t":[20.1],"h":51}', "an array"),
        (b'{"t":true,"h":51}', "a boolean"),
        (b'{"t":1e999,"h":51}', "missing"),  # beyond double; orjson does not read it
    ],
)
def test_a_field_that_is_no_number_any_more_is_flagged_once(payload: bytes, found: str) -> None:
    lane = Feed()
    lane.learn(150)
    flags = [flag for _ in range(20) for flag in lane.send(payload)]
    assert [(flag["cause"], flag["feature"], flag["value"]) for flag in flags] == [("absent", "t", None)]
    assert f"t was {found} in 3 frames" in flags[0]["explanation"]


def test_a_field_that_comes_and_goes_is_not_flagged_for_ever() -> None:
    lane = Feed()
    for k in range(3000):
        lane.send(b'{"t":20.5}' if k % 100 > 3 else b'{"other":"thing"}')
    assert len([flag for flag in lane.flags if flag["cause"] == "absent"]) <= 3


def test_a_fast_device_is_scored_once_a_period_and_at_once_outside_its_band() -> None:
    lane = Feed()
    rng = lane.learn(1000, wait_s=1.0)
    scored = int(lane.detector.counts[sift.SCORED])
    assert scored <= 1.2 * 3 * 1000 / 10
    for _ in range(6000):
        lane.send(b'{"t":%.2f,"h":%d}' % (20 + 0.3 * rng.normal(), rng.integers(50, 54)), 1.0)
    lane.flags.clear()
    opened = int(lane.detector.counts[sift.OPENED])
    lane.send(b'{"t":-60.5,"h":51}', 0.5)
    assert int(lane.detector.counts[sift.OPENED]) == opened + 1
    assert [flag["feature"] for flag in lane.flags] == ["t"]


def test_the_budget_bounds_what_is_scored_and_stretches_the_period() -> None:
    at_ns = 0
    budget = CpuBudget(0.1, lambda: at_ns)
    assert budget.values() == BURST_NS / budget.ns_per_value
    budget.spend(int(BURST_NS + 60 * 100), 100, 1000, 500)
    assert budget.values() == 0
    stretched = []
    for _ in range(5):
        at_ns += S
        budget.values()
        budget.spend(int(0.2 * S), 0, 1000, 10)
        stretched.append(budget.stretch)
    assert stretched[-1] > 2.0
    for _ in range(40):
        at_ns += S
        budget.values()
    assert budget.stretch == 1.0 and budget.values() > 0


def test_values_above_the_budget_are_counted_and_not_scored() -> None:
    lane = Feed()
    lane.detector._budget.spend(10 * BURST_NS, 0, 0, 0)
    for _ in range(5):
        lane.send(b'{"t":1}')
    assert lane.detector.counts[sift.SCORED] == 0 and lane.detector.counts[sift.SKIPPED] == 10


def test_memory_is_a_budget_and_a_silent_device_makes_room_for_one_that_sends() -> None:
    memory_bytes = 16 * LIGHT.itemsize + 4 * FULL.itemsize
    lane = Feed(memory_bytes=memory_bytes)
    places = len(lane.detector.light)
    assert places * LIGHT.itemsize + len(lane.detector.full) * FULL.itemsize <= memory_bytes
    assert len(lane.detector.full) == int(memory_bytes * FULL_SHARE) // FULL.itemsize
    for turn in range(20):
        for d in range(places):
            lane.send(b'{"t":%d}' % (turn % 3), 1.0, f"d{d}")
    assert lane.detector.channels[0] == places
    assert lane.detector.counts[sift.HOMELESS] > 0  # devices that send keep their places
    lane.at_s += 7 * 86_400
    for _ in range(places):
        lane.send(b'{"t":1}', 60.0, "new")
    assert any(feature.place > 1 for feature in lane.detector.features(lane.state.find(b"new")))
    lane.flags.clear()


def test_a_row_that_another_device_gets_has_an_empty_profile() -> None:
    from klais.core.lane.step import forget

    lane = Feed()
    lane.learn(100)
    ids = lane.state.rows["id"][:1].view(np.uint8).reshape(1, 16).copy()
    replay(lane.again, forget(lane.state, ids, limits(), T0_NS).record, None)
    lane.send(b'{"x":7}', name="b")
    assert lane.state.find(b"b") == 0
    assert max(feature.samples for feature in lane.detector.features(0)) == 1
    lane.flags.clear()


def values(saved: Saved) -> list[bytes]:
    return [
        saved.buf[start : start + length].tobytes()
        for start, length in zip(saved.starts.tolist(), saved.lengths.tolist(), strict=True)
    ]


def written_out(of: TwoTier, row: int) -> bytes:
    """The value of a row, from the definition at the head of klais.core.anomaly.saved."""
    handle, channels = int(of.gates["first"][row]), ([], [])
    while handle:
        at = of.light[handle - 1] if handle > 0 else of.full[-handle - 1]
        channels[handle < 0].append(at.tobytes())
        handle = int(at["following"])
    head = b"KLP1\x03" + bytes([len(channels[0]), len(channels[1]), 0])
    return head + of.gates[row].tobytes() + b"".join(channels[0] + channels[1])


@pytest.mark.parametrize("max_bytes", [0, 1, 1000, 1 << 20])
def test_profiles_are_saved_in_turn_up_to_the_bytes_that_there_is_room_for(max_bytes: int) -> None:
    lane = Feed()
    for k in range(280):
        lane.send(b'{"t":%.2f,"h":%d}' % (20 + 0.1 * (k % 7), 50 + k % 3), name="abcd"[k % 4])
    lane.send(b'{"t":45.2,"h":51}', name="b")  # has a full channel now
    lane.send(b'{"t":20.1,"h":51,"x":3}', name="c")
    lane.flags.clear()
    expected = [written_out(lane.detector, row) for row in range(4)]
    assert any(value[6] for value in expected)
    assert [lane.detector.dump(row) for row in range(4)] == expected
    row, found = 0, []
    while row < 4:
        saved, following = lane.detector.dump_some(row, 4, max_bytes)
        assert saved.lengths[:-1].sum() < max(max_bytes, 1)
        if max_bytes == 0:
            assert not len(saved.row) and following == row
            return
        found += zip(saved.row.tolist(), values(saved), strict=True)
        row = following
    assert found == list(enumerate(expected))


def test_a_saved_profile_goes_on_where_it_was() -> None:
    lane = Feed()
    rng = lane.learn()
    lane.send(b'{"t":45.2,"h":51}')  # t has a full channel now
    saved, following = lane.detector.dump_some(0, 10, 1 << 20)
    assert following == 10 and saved.row.tolist() == [0]
    assert not len(lane.detector.dump_some(0, 10, 1 << 20)[0].row)  # nothing changed since
    other = Feed()
    other.at_s = lane.at_s
    other.state.next_raw = other.again.next_raw = 0
    other.send(b'{"t":20.1,"h":51}')
    lane.send(b'{"t":20.1,"h":51}')
    before = sorted((f.place, f.samples) for f in lane.detector.features(0))
    assert other.detector.load(0, lane.detector.dump(0) or b"")
    assert sorted((f.place, f.samples) for f in other.detector.features(0)) == before
    assert not other.detector.load(0, values(saved)[0])  # older than what is there
    for _ in range(200):
        payload = b'{"t":%.2f,"h":%d}' % (20 + 0.3 * rng.normal(), rng.integers(50, 54))
        assert [f["score"] for f in lane.send(payload)] == [f["score"] for f in other.send(payload)]
    mine, theirs = ([f["score"] for f in one.send(b'{"t":900,"h":51}')] for one in (lane, other))
    assert mine == theirs and len(mine) == 1


@pytest.mark.parametrize(
    "value", [b"", b"KLP1", b"KLP1\x02" + bytes(500), b"x" * 300, b"KLP1\x03\xff\xff\x00" + bytes(192)]
)
def test_a_value_that_is_no_profile_is_passed_over(value: bytes) -> None:
    lane = Feed()
    lane.learn(60)
    before = lane.detector.dump(0)
    assert not lane.detector.load(0, value)
    assert lane.detector.dump(0) == before


def test_a_detector_that_has_scored_nothing_knows_nothing_of_a_row() -> None:
    for one in (detector(), ZScore(6.0, 30, 500)):
        assert list(one.features(7)) == [] and one.dump(7) is None
        assert not len(one.dump_some(0, 9, 100)[0].row)


@pytest.mark.parametrize("tiny", ["5e-324", "3e-160", "1e-100", "-2e-39", "9e-019"])
def test_what_is_nearly_zero_is_zero(tiny: str) -> None:
    """CPUs are slow with numbers below the normal range: frames of them took a lane 8 times as long."""
    one, other = Feed(), Feed()
    for k in range(60):
        value = tiny if k % 3 else "1.25"
        one.send(b'{"t":%s}' % value.encode())
        other.send(b'{"t":%s}' % ("0." + "0" * (len(tiny) - 2) if k % 3 else value).encode())
    assert one.detector.dump(0) == other.detector.dump(0)


def test_a_profile_that_is_marked_is_saved_again():
    feed = Feed()
    for _ in range(3):
        feed.send(b'{"t":20.5}')
    first, _ = feed.detector.dump_some(0, 1, 1 << 16)
    assert len(first.row) == 1 and len(feed.detector.dump_some(0, 1, 1 << 16)[0].row) == 0
    feed.detector.mark_unsaved(first.row)
    again, _ = feed.detector.dump_some(0, 1, 1 << 16)
    assert again.row.tolist() == first.row.tolist() == [0] and again.lengths == first.lengths
