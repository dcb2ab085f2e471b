"""Whatever devices send: fingerprints stay finite and of one size, types stay in range, a replay gives the same."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.core.anomaly.zscore import ZScore
from klais.core.fingerprint.record import PRINT, UNKNOWN, DeviceTypes
from klais.core.fingerprint.typed import Typed, TypesInUse
from klais.core.lane.replay import replay
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.core.wire.constants import encode_frame
from klais.fingerprint.snapshot import snapshot_of
from klais.fingerprint.training import Devices, cluster, merge, types_from
from tests.support.examples import examples
from tests.support.lane import T0_NS, batch, bounds, limits

RNG = np.random.default_rng(1)
NORMAL = np.array([[0.0, 0.3], [4.0, 1.0], [-3.0, 0.25]])
RATES = np.clip(RNG.random((3, 64)), 0.002, 0.998)
TYPES = DeviceTypes("m", ("a", "b", "c"), RATES, NORMAL, np.abs(NORMAL) + 1.0, 12.0)
NAMES = st.integers(0, 9_999).map(lambda n: b'"f%d":%d' % (n, n % 7))
TEXTS = st.sampled_from(
    [b'"t":"NaN"', b'"t":null', b'"t":1e999', b'"t":[1,2]', b'"t":-0.0', b'"t":true', b'"\\ud83d":1', b'"":0']
)
PAYLOADS = st.lists(st.one_of(NAMES, TEXTS), max_size=40).map(lambda parts: b"{" + b",".join(parts) + b"}")
WAITS_S = st.sampled_from([0.0, 1e-6, 0.5, 60.0, 86_400.0, -3600.0, 1e7])
FRAMES = st.lists(st.tuples(st.sampled_from(["a", "b"]), PAYLOADS, WAITS_S), min_size=1, max_size=60)


def typed_lane() -> tuple[LaneState, Typed]:
    typed = Typed(ZScore(6.0, 30, 500), TypesInUse(TYPES), one_in=1)
    return LaneState(detector=typed), typed


@settings(max_examples=examples(40), deadline=None)
@given(FRAMES)
def test_any_frames_leave_finite_fingerprints_and_replayable_flags(sent) -> None:
    (state, typed), again = typed_lane(), LaneState()
    at_s = 0.0
    for n, (name, payload, wait_s) in enumerate(sent):
        at_s = max(0.0, at_s + wait_s)
        at_ns = T0_NS + int(at_s * 1e9)
        value = batch([encode_frame(name, n, payload)], n, at_ns)
        step = take_raw(state, n, value, limits(), bounds(), at_ns)
        replay(again, step.record, value)
    assert again.rows[: again.used].tobytes() == state.rows[: state.used].tobytes()
    prints = typed.prints[: state.used]
    assert prints.dtype.itemsize == PRINT.itemsize == 64
    for name in ("evidence", "interval", "interval_var", "size", "size_var"):
        assert np.isfinite(prints[name]).all(), name
    assert (prints["evidence"] >= -1.0).all() and (prints["size_var"] >= 0.0).all()
    for name in ("type", "candidate", "before"):
        assert np.isin(prints[name], [0, 1, 2, 3, UNKNOWN]).all(), name


def test_ten_thousand_names_of_one_device_take_no_memory_and_train_nothing_absurd() -> None:
    state, typed = typed_lane()
    for n in range(700):
        fields = b",".join(b'"n%d":%d' % (16 * n + k, k) for k in range(16))
        at_ns = T0_NS + n * 10_000_000_000
        value = batch([encode_frame("evil", n, b"{" + fields + b"}"), encode_frame("good", n, b'{"t":1}')], n, at_ns)
        take_raw(state, n, value, limits(), bounds(), at_ns)
    assert state.used == 2 and len(state.path_names) <= 1024
    snapshot = snapshot_of(typed.samples(state.used), state.path_names)
    assert snapshot.devices == 2 and len(snapshot.samples) == 64 and len(snapshot.names) <= 16
    devices = Devices(snapshot)
    types = types_from(devices, merge(devices, np.array([0, 1])))
    assert len(types.names) == 2 and np.isfinite(types.tables).all() and np.isfinite(types.normals).all()
    assert (cluster(devices) == -1).all(), "one device is no type"
