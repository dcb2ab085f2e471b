"""What a lane keeps is bounded, whatever comes: edges and their starts, and the marker that holds them."""

from types import SimpleNamespace

import numpy as np

from klais.core.lane.boots import MAX_BOOTS, Boots
from klais.core.lane.checkpoint import decode_marker, encode_marker, snapshot
from klais.core.lane.columns import read_headers
from klais.core.lane.names import MAX_NAMES
from klais.core.lane.state import LaneState
from klais.core.wire.batch import decode_batch
from klais.kafka.record_batch import RecordBatchWriter
from klais.kafka.topics import MAX_RECORD_BYTES
from tests.support.lane import batch, frames


def test_of_more_starts_than_it_may_know_the_longest_silent_are_forgotten() -> None:
    boots = Boots()
    for k in range(MAX_BOOTS + 1000):
        boots.take(k % 65_536, k, 7, now_s=k)
    assert MAX_BOOTS - MAX_BOOTS // 16 <= len(boots) <= MAX_BOOTS
    newest = MAX_BOOTS + 999
    for k in range(newest, newest - MAX_BOOTS // 2, -37):
        assert boots.take(k % 65_536, k, 7, now_s=newest) is None, "a repeat of an edge heard of lately"
    assert boots.take(0, 0, 7, now_s=newest) == 0, "the longest silent one is new again"


def test_thousands_of_edges_in_turn_are_all_recognized() -> None:
    boots = Boots()
    for number in range(3):
        for edge in range(5000):
            assert boots.take(edge, edge + 1, number, now_s=number) == 0
            assert boots.take(edge, edge + 1, number, now_s=number) is None


def test_the_largest_marker_fits_one_record() -> None:
    state = LaneState()
    for k in range(MAX_BOOTS):
        state.boots.take(k, k, 1 << 60, now_s=1 << 31)
    columns = read_headers(decode_batch(batch(frames(*((f"d{n}", n) for n in range(64))))))
    waits = np.array([1], np.int32)  # one of the 64 frames: the marker has a bit for each
    offset = 1 << 40
    while state.queue.has_room(columns, 1 << 40):
        state.queue.push(offset, columns, waits)
        offset += 1
    shot = snapshot(state)
    names = {str((1 << 32) - 1 - n): "\\" * 120 for n in range(MAX_NAMES)}  # each character escaped
    shot = SimpleNamespace(**{name: getattr(shot, name) for name in shot.__slots__})
    shot.facts = shot.facts | {"names": names}
    marker = encode_marker(shot, 1 << 40, {"telemetry": 1 << 40}, 1024, (1 << 32) - 1)
    assert len(marker) < MAX_RECORD_BYTES - 65_536
    assert len(decode_marker(marker).ranges) == offset - (1 << 40)
    assert RecordBatchWriter(900_000).append_one(b"\0marker-0", marker, (), 0)
