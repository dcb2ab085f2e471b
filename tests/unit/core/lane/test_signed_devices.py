"""What a lane makes of signed frames: replays, restarts, unsigned frames of devices that sign, and who is forgotten."""

import numpy as np
import pytest

from klais.core.lane.checkpoint import decode_marker, encode_marker, restore, snapshot
from klais.core.lane.journal import decode_step, encode_step
from klais.core.lane.replay import replay
from klais.core.lane.state import LaneState
from klais.core.lane.step import forget, take_raw
from klais.core.wire.constants import Reason
from tests.support.lane import T0_NS, batch, bounds, frames, limits

S = 1_000_000_000
YEAR_NS = 366 * 86_400 * S


class Feed:
    """A lane that takes batches of (device, sequence, epoch)."""

    def __init__(self) -> None:
        self.state, self.raw, self.journal = LaneState(), [], []
        self.now_ns = T0_NS

    def take(self, *parts, wait_s=1.0, at_ns=None, **how) -> list[str]:
        self.now_ns += int(wait_s * S)
        some = frames(*[(device, sequence) for device, sequence, _ in parts])
        epochs = [epoch for *_, epoch in parts]
        value = batch(some, len(self.raw), self.now_ns if at_ns is None else at_ns, epochs=epochs)
        step = take_raw(self.state, self.state.next_raw, value, limits(), bounds(**how), self.now_ns)
        self.raw.append(value)
        self.journal.append(encode_step(step.record))
        return [Reason(int(verdict)).label for verdict in step.record.verdict]

    def forget(self, *names: bytes) -> None:
        ids = np.frombuffer(b"".join(name.ljust(16, b"\0") for name in names), np.uint8).reshape(-1, 16)
        self.journal.append(encode_step(forget(self.state, ids, limits(), self.now_ns).record))

    def row(self, name: bytes):
        return self.state.rows[self.state.find(name)]

    def restart(self) -> None:
        """Another worker: from a checkpoint."""
        shot = snapshot(self.state)
        marker = decode_marker(encode_marker(shot, 0, {}, 4))
        rows = self.state.rows[: self.state.used]
        self.state = restore(marker, rows[rows["id_size"] > 0].copy())

    def replayed(self) -> LaneState:
        """Another worker: from the journal, from step 0."""
        state = LaneState()
        for record in map(decode_step, self.journal):
            replay(state, record, self.raw[record.raw_offset] if record.raw_offset >= 0 else None)
        return state


RECORDED = [("a", n, 7) for n in range(50)]


@pytest.mark.parametrize("wait_s", [0.0, 1.0, 61.0, YEAR_NS / S])
@pytest.mark.parametrize("after", ["nothing", "forget", "restart", "forget and restart", "reboot"])
def test_a_recorded_frame_never_lands_twice(after: str, wait_s: float) -> None:
    lane = Feed()
    assert lane.take(*RECORDED) == ["passed"] * 50
    if "forget" in after:
        lane.forget(b"a")
        assert lane.row(b"a")["received"] == 0
    if after == "reboot":
        assert lane.take(("a", 0, 8)) == ["passed"]
    if "restart" in after:
        lane.restart()
    verdicts = lane.take(*RECORDED, wait_s=wait_s)
    assert set(verdicts) <= {"duplicate", "replayed"}
    assert verdicts[0] == "replayed"
    back_in_time = lane.take(*RECORDED, at_ns=T0_NS)  # through an edge whose spool was behind
    assert set(back_in_time) <= {"duplicate", "replayed"}
    newer = ("a", 1, 8) if after == "reboot" else ("a", 50, 7)
    assert lane.take(newer) == ["passed"]
    if "restart" not in after:
        assert lane.replayed().rows[:1].tobytes() == lane.state.rows[:1].tobytes()


def test_unsigned_frames_are_replayed_as_before_and_counted() -> None:
    lane = Feed()
    lane.take(*[("a", n, 0) for n in range(50)])
    assert lane.take(("a", 3, 0)) == ["passed"]
    assert lane.row(b"a")["resets"] == 1


def test_numbers_that_may_never_go_back() -> None:
    lane, how = Feed(), {"no_restarts": True}
    assert lane.take(*[("a", n, 0) for n in range(50)], **how) == ["passed"] * 50
    assert lane.take(("a", 3, 0), ("a", 49, 0), wait_s=3600, **how) == ["replayed", "duplicate"]
    row = lane.row(b"a")
    assert (row["replayed"], row["duplicate"], row["top"][0], row["resets"]) == (1, 1, 49, 0)
    assert lane.take(("a", 50, 0), ("a", 60, 0), ("a", 55, 0), ("b", 0, 0), **how) == ["passed"] * 4
    assert lane.replayed().rows[:2].tobytes() == lane.state.rows[:2].tobytes()

    lane.forget(b"a")
    assert lane.take(("a", 3, 0), **how) == ["passed"]


def test_a_device_that_signed_must_go_on_to_do_so() -> None:
    for sticky, expected in ((False, "passed"), (True, "unsigned")):
        lane, how = Feed(), {"sticky": sticky}
        assert lane.take(("a", 1, 0), ("a", 2, 5), ("a", 3, 0), **how) == ["passed", "passed", expected]
        lane.restart()
        lane.forget(b"a")
        assert lane.take(("a", 900, 0), ("b", 1, 0), **how) == [expected, "passed"]
        assert lane.row(b"a")["unsigned"] == sticky
        # whatever came unsigned, the numbers of signed frames go on
        assert lane.take(("a", 2, 5), ("a", 3, 5), ("a", 1, 4), **how) == ["duplicate", "passed", "replayed"]


def test_refused_frames_cost_their_device_nothing() -> None:
    lane, how = Feed(), {"sticky": True}
    lane.take(("a", 100, 5), **how)
    row = lane.row(b"a")
    before = {name: row[name].copy() for name in row.dtype.names}
    lane.take(*[("a", n, 0) for n in range(3000)], *[("a", n, 4) for n in range(3000)], wait_s=50, **how)
    row = lane.row(b"a")
    changed = {name for name in row.dtype.names if row[name].tobytes() != before[name].tobytes()}
    assert changed == {"stamp", "received", "unsigned", "replayed"}
    assert (row["unsigned"], row["replayed"]) == (3000, 3000)
    assert lane.take(("a", 101, 5), **how) == ["passed"]


def test_devices_that_sign_are_never_in_the_way() -> None:
    lane, how = Feed(), {"device_limit": 100}
    lane.take(*[(f"s{n}", 1, 5) for n in range(60)], *[(f"u{n}", 1, 0) for n in range(40)], **how)
    assert lane.take(("new", 1, 0), **how) == ["device_limit"]
    from klais.core.devices.forget import choose

    later_s = (T0_NS // S) + 10**8
    ids = choose(lane.state.rows, lane.state.used, lane.state.devices, 100, later_s, 3600.0)
    assert {bytes(row).rstrip(b"\0")[:1] for row in ids} == {b"u"}
    assert len(ids) == 40


def test_ids_without_a_counter_are_not_looked_at() -> None:
    lane, how = Feed(), {"uncounted": [b"a"]}
    assert lane.take(("a", 1, 5), ("a", 1, 5), ("a", 1, 4), **how) == ["passed"] * 3
