"""The edge's sketch of who sends, against a count of every device; and the fleet's activity from several edges."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klais.control.measure import activity_of
from klais.edge.activity import Activity
from klais.telemetry.view import SystemView

FRAME = st.tuples(st.integers(0, 40), st.integers(22, 65_507), st.sampled_from((0, 0, 0, 8)))


def columns(frames: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, reasons and ids of (device, length, reason)."""
    ids = np.array([[device * 0x9E3779B9, device] for device, _, _ in frames], np.uint64).reshape(-1, 2)
    return (
        np.array([length for _, length, _ in frames], np.int64),
        np.array([reason for _, _, reason in frames], np.uint8),
        ids,
    )


def edge(second: dict) -> dict:
    return {"counters": {}, "rates": {}, "gauges": {"traffic": second}}


@given(st.lists(FRAME, max_size=200), st.data())
def test_the_sketch_counts_as_a_list_of_devices_does(frames: list, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(frames)))
    activity = Activity(key=12345)  # without a collision among these 41 ids
    for part in (frames[:cut], frames[cut:]):
        activity.add(*columns(part))
    second = activity.second(activity.began_s + 2.0)
    assert second is not None
    good = [(device, length) for device, length, reason in frames if reason == 0]
    by_device = Counter(device for device, _ in good)
    assert second["frames"] == len(good)
    assert second["bytes"] == sum(length for _, length in good)
    assert second["bytes_squared"] == sum(length**2 for _, length in good)
    assert second["top"] == max(by_device.values(), default=0)
    assert round(second["devices"]) == len(by_device)
    assert second["log_sum"] == pytest.approx(sum(c * math.log(c) for c in by_device.values()), abs=0.01)


def test_a_second_is_read_once_and_an_extra_record_shows_it_again() -> None:
    activity = Activity(key=1)
    began_s = activity.began_s
    assert activity.second(began_s + 0.5) is None
    activity.add(*columns([(1, 30, 0)]))
    first = activity.second(began_s + 1.0)
    assert first is not None and first["frames"] == 1
    assert activity.second(began_s + 1.1) == first
    assert activity.second(began_s + 2.0) == {**first, "frames": 0, "devices": 0, "log_sum": 0, "top": 0} | {
        "bytes": 0, "bytes_squared": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("devices", [1000, 100_000])
def test_the_number_of_devices_is_known_within_three_percent(devices: int) -> None:
    activity = Activity(key=0x1234567)
    ids = np.stack([np.arange(devices, dtype=np.uint64), np.zeros(devices, np.uint64)], axis=1)
    activity.add(np.full(devices, 40), np.zeros(devices, np.uint8), ids)
    second = activity.second(activity.began_s + 1.0)
    assert second is not None and second["devices"] == pytest.approx(devices, rel=0.03)


def test_the_fleets_activity_is_that_of_all_edges_together() -> None:
    parts = [[(1, 40, 0)] * 30 + [(2, 60, 0)] * 10, [(3, 50, 0)] * 40 + [(4, 80, 0)] * 20]
    edges = {}
    for name, frames in enumerate(parts):
        activity = Activity(key=1)
        activity.add(*columns(frames))
        edges[f"edge-{name}"] = edge(activity.second(activity.began_s + 1.0) or {})
    found = activity_of(SystemView.of({"worker": {}, "edge": edges, "controller": {}}.__getitem__))
    share = np.array([30, 10, 40, 20]) / 100
    sizes = np.repeat([40, 60, 50, 80], [30, 10, 40, 20])
    assert found["entropy"] == pytest.approx(float(-(share * np.log(share)).sum()), abs=1e-4)
    assert found["top_share"] == 0.4
    assert found["active"] == pytest.approx(4.0, abs=0.01)
    assert found["size_cv"] == pytest.approx(float(sizes.std() / sizes.mean()))
    nobody = activity_of(SystemView.of({"worker": {}, "edge": {}, "controller": {}}.__getitem__))
    assert set(nobody.values()) == {0.0}
