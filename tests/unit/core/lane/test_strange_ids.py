"""Ids that no firmware should send: each frame has one verdict, each device one row, also after checkpoint and load."""

import random

import numpy as np
import pytest

from klais.core.devices.layout import row_key
from klais.core.lane.checkpoint import restore, snapshot
from klais.core.lane.counters import conservation, passed
from klais.core.lane.journal import MARKER_KEY, OWNER_KEY
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.core.wire.constants import MAGIC_BYTES, Reason
from klais.worker.changelog import load_partition
from tests.support.lane import T0_NS, batch, bounds, limits
from tests.unit.worker.test_changelog import Log

S = 1_000_000_000
REFUSED = {
    "all zero": bytes(16),
    "all 0xFF": b"\xff" * 16,
    "begins with NUL": b"\0a",
    "the key of a marker": MARKER_KEY + b"-0",
    "the key of an owner": OWNER_KEY + b"-0",
    "a NUL inside": b"a\0b",
    "cut UTF-8": b"abc\xc3",
    "a surrogate": b"\xed\xa0\x80",
    "overlong": b"\xc0\x80",
}
TAKEN = {
    "text": b"\xc3\xa9\xc3\xa8",
    "16 bytes": b"0123456789abcdef",
    "hex of another": b"c3a9c3a8",
    "hex of another in capitals": b"C3A9C3A8",
    "magic of a marker": b"KLM1",
    "magic of a step": b"KLJ1",
    "magic of an owner": b"KLO1{}",
    "a scope": b"device/a",
    "a mute": b"mute/device/a",
    "another scope": b"global",
    "quotes": b'"\\"',
    "a line": b"a\nb\rc",
    "one byte": b"a",
    "a blank": b" ",
    "a blank more": b"a ",
}


def frame(device: bytes, sequence: int) -> bytes:
    return MAGIC_BYTES + device.ljust(16, b"\0") + sequence.to_bytes(4, "big") + b'{"t":%d}' % sequence


def accounted(state: LaneState, sent: int) -> None:
    found = conservation(state.tally, state.queue.depth, 0, 0)
    assert found.holds and int(state.tally[: len(Reason)].sum()) >= sent, found


@pytest.mark.parametrize("name", REFUSED)
def test_an_id_that_is_none_is_counted_and_makes_no_row(name):
    state = LaneState()
    take_raw(state, 0, batch([frame(REFUSED[name], 1)]), limits(), bounds(), T0_NS)
    assert (int(state.tally[Reason.BAD_DEVICE_ID]), passed(state.tally), state.devices) == (1, 0, 0)
    accounted(state, 1)


async def test_each_id_is_one_device_before_and_after_a_checkpoint():
    state, ids = LaneState(), list(TAKEN.values())
    value = batch([frame(device, 1) for device in ids for _ in range(1)])
    take_raw(state, 0, value, limits(), bounds(), T0_NS)
    assert (passed(state.tally), state.devices) == (len(ids), len(ids))
    shot = snapshot(state)
    rows, marker = await load_partition(Log(*((row_key(row), row.tobytes()) for row in shot.rows)), "t", 0)
    again = restore(None, rows)
    assert marker is None and {row_key(row) for row in rows} == set(ids)
    assert all(again.find(device) >= 0 for device in ids)


def test_a_device_that_counts_and_starts_over_as_it_likes_is_accounted_for():
    """Wraps at 2^32, restarts at any number, repeats beyond the window, through two edges, with clocks of their own."""
    draw, state, sent = random.Random(5), LaneState(), 0
    sequence, past = [2**32 - 20, 7], [1, 2]
    for n in range(300):
        edge = draw.randrange(2)
        some = []
        for _ in range(draw.randrange(1, 40)):
            turn = draw.random()
            if turn < 0.05:
                sequence[edge] = draw.choice([0, 2**32 - 1, 2**31, draw.randrange(2**32)])
            number = draw.choice(past) if turn > 0.9 else sequence[edge]
            sequence[edge] = (sequence[edge] + 1) % 2**32
            past.append(number)
            some.append(frame(b"same", number))
        at_ns = draw.choice([0, 1, T0_NS + n * S, T0_NS - n * S, 2**62, 2**63 - 2**33])
        take_raw(state, n, batch(some, n, at_ns, boot=edge + 1, edge=edge), limits(), bounds(), T0_NS + n * S)
        sent += len(some)
    out = [Reason.PASSED, Reason.DUPLICATE, Reason.DEVICE_RATE]
    assert sum(int(state.tally[reason]) for reason in out) == sent
    assert state.devices == 1 and passed(state.tally) > 0
    assert np.isfinite(state.rows["tokens"][0])
    accounted(state, sent)


@pytest.mark.parametrize("now_ns", [0, 1, -S, 2**62, T0_NS])
@pytest.mark.parametrize("at_ns", [0, 1, 999, T0_NS, 2**62, 2**63 - 2**33])
def test_any_pair_of_clocks_lets_a_device_within_its_rate_pass(now_ns, at_ns):
    """Edge at the epoch, in another century, or right; the worker likewise, and then both right."""
    state, sent = LaneState(), 0
    right, wrong = (T0_NS, T0_NS), (at_ns, now_ns)
    for n, (edge_ns, worker_ns) in enumerate([right, wrong, (T0_NS + S, T0_NS + S), wrong]):
        value = batch([frame(b"a", 10 * n + k) for k in range(10)], n, edge_ns)
        take_raw(state, n, value, limits(), bounds(), worker_ns)
        sent += 10
    assert passed(state.tally) == sent
