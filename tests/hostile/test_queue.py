"""A flood in a lane's queue delays nobody else: counted in frames that leave before, not in time."""

from klais.core.lane.state import LaneState
from klais.core.lane.step import release, take_raw
from tests.support.lane import T0_NS, batch, bounds, frames, limits

S = 1_000_000_000


def leaves_before(flood: list[list[bytes]], quiet: list[bytes]) -> list[int]:
    """The flood waits, then the quiet frames come; how many frames leave before each of these."""
    state, lim = LaneState(), limits(rate=1000.0, burst=1.0)
    for number, some in enumerate([*flood, quiet]):
        take_raw(state, number, batch(some, number), lim, bounds(), T0_NS)
    out: list[bytes] = []
    at_ns = T0_NS
    while state.queue.depth:
        at_ns += S // 100
        step = release(state, lim, at_ns, 50)
        if step is not None:
            out += [columns.batch.frame(int(i)) for columns, index in step.passed for i in index]
    by_device = {}
    for frame in out:
        assert int.from_bytes(frame[18:22], "big") > by_device.get(frame[2:18], -1)  # first in first out
        by_device[frame[2:18]] = int.from_bytes(frame[18:22], "big")
    return [out.index(frame) for frame in quiet]


def test_a_flood_of_one_device_delays_no_other() -> None:
    flood = [frames(*(("loud", 1000 * n + k) for k in range(1000))) for n in range(4)]
    quiet = frames(*((f"quiet-{n}", 1) for n in range(20)))
    assert max(leaves_before(flood, quiet)) <= 20 + 2


def test_a_flood_of_one_prefix_delays_others_by_two_frames_of_each_device() -> None:
    flood = [frames(*((f"loud-{k}", n) for k in range(200))) for n in range(20)]
    assert max(leaves_before(flood, frames(("quiet", 1)))) <= 2 * 200
