"""The stream of simulated frames: valid, repeatable, with the asked shares of faults."""

from contextlib import nullcontext

import numpy as np
import orjson
import pytest

from klais.core.wire.constants import FIRST_MALFORMED, Reason
from klais.core.wire.frame import check_headers
from klais.core.wire.json_scan import check_payloads
from klais.errors import ConfigError
from klais.sim import kinds, malformed
from klais.sim.malformed import PAYLOADS
from klais.sim.stream import CHUNK_FRAMES, FrameStream, StreamOptions
from klais.sim.traffic import Series, SteadyRate

ALL_FAULTS = dict(malformed=0.1, duplicates=0.05, reorder=0.1, reboot=0.02, spikes=0.03)


def _frames(stream, chunks=1):
    """(device, sequence, kind, bytes) of the next frames, in send order."""
    out = []
    for _ in range(chunks):
        chunk = stream.next_chunk()
        columns = zip(chunk.device.tolist(), chunk.sequence.tolist(), chunk.kind.tolist(), strict=True)
        out += [(*row, chunk.frame(i)) for i, row in enumerate(columns)]
    return out


def _header_reasons(chunk):
    n = chunk.count
    reason, size = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    ids, sequence = np.zeros((n, 2), np.uint64), np.zeros(n, np.uint32)
    check_headers(chunk.buf, chunk.starts, chunk.lengths, reason, ids, sequence, size)
    return reason, sequence


def test_good_frames_are_valid_and_carry_four_fields():
    stream = FrameStream(StreamOptions(devices=50, seed=3))
    chunk = stream.next_chunk()
    reason, sequence = _header_reasons(chunk)
    assert not reason.any()
    assert (sequence == chunk.sequence).all()
    for i in range(0, chunk.count, 7):
        frame = chunk.frame(i)
        assert frame[2:18].rstrip(b"\0") == stream.device_id(int(chunk.device[i])) == b"sim-%06d" % chunk.device[i]
        fields = orjson.loads(frame[22:])
        assert list(fields) == ["t", "h", "b", "s"]
        assert 5 < fields["t"] < 35 and 0 < fields["h"] < 100 and 3 < fields["b"] < 4.5 and fields["s"] == 1
    assert 34 <= float(chunk.lengths.mean()) - 22 <= 37


def test_each_device_sends_once_a_round_and_counts_up():
    frames = _frames(FrameStream(StreamOptions(devices=100, seed=1)))
    for round_number in range(CHUNK_FRAMES // 100):
        part = frames[100 * round_number : 100 * (round_number + 1)]
        assert {device for device, *_ in part} == set(range(100))
        assert {sequence for _, sequence, *_ in part} == {round_number}


def test_values_of_a_device_follow_its_own_level():
    frames = _frames(FrameStream(StreamOptions(devices=2, seed=5)))
    values = [[orjson.loads(f[22:])["t"] for device, _, _, f in frames if device == d] for d in range(2)]
    assert all(np.std(v) < 1 for v in values)  # 0.3 degrees of noise; the day is far longer than the chunk
    assert all(np.std(v) > 0.1 for v in values)
    assert abs(np.mean(values[0]) - np.mean(values[1])) > 1


def test_a_short_day_shows_its_sine():
    frames = _frames(FrameStream(StreamOptions(devices=1, seed=5, day_s=4.096), SteadyRate(1000.0)))
    values = np.array([orjson.loads(f[22:])["t"] for *_, f in frames])
    spectrum = np.abs(np.fft.rfft(values - values.mean()))
    assert int(spectrum.argmax()) == 1
    assert np.ptp(values) == pytest.approx(8, abs=3)


def test_same_seed_same_frames_in_the_same_order():
    options = StreamOptions(devices=300, seed=42, **ALL_FAULTS)
    assert _frames(FrameStream(options), 3) == _frames(FrameStream(options), 3)


def test_another_seed_gives_other_frames():
    a = _frames(FrameStream(StreamOptions(devices=300, seed=1)))
    b = _frames(FrameStream(StreamOptions(devices=300, seed=2)))
    assert sum(x != y for x, y in zip(a, b, strict=True)) > CHUNK_FRAMES * 0.95


def test_shares_are_honoured():
    frames = _frames(FrameStream(StreamOptions(devices=500, seed=9, **ALL_FAULTS)), 20)
    kind = np.array([kind for _, _, kind, _ in frames])
    new = kind != kinds.DUPLICATE
    n, bad = int(new.sum()), kind >= kinds.MALFORMED
    assert n == 20 * CHUNK_FRAMES
    assert bad.sum() / n == pytest.approx(0.1, rel=0.05)
    assert (kind == kinds.LATE).sum() / n == pytest.approx(0.1, rel=0.05)
    assert (kind == kinds.REBOOT).sum() / n == pytest.approx(0.02, rel=0.1)
    assert (kind == kinds.SPIKE).sum() / n == pytest.approx(0.03, rel=0.1)
    assert (~new).sum() / (n - bad.sum()) == pytest.approx(0.05, rel=0.1)
    each = np.bincount(kind, minlength=malformed.LAST + 1)[FIRST_MALFORMED:]
    assert each.min() > 0.8 * bad.sum() / len(each)


@pytest.mark.parametrize(
    "name, kind",
    [("malformed", None), ("duplicates", kinds.DUPLICATE), ("reboot", kinds.REBOOT), ("reorder", kinds.LATE)],
)
def test_shares_reach_their_end(name, kind):
    top = 0.5 if name == "reorder" else 1.0
    frames = _frames(FrameStream(StreamOptions(devices=10, seed=1, **{name: top})))
    hit = sum(k >= kinds.MALFORMED if kind is None else k == kind for _, _, k, _ in frames)
    assert hit == CHUNK_FRAMES * top


def test_malformed_frames_are_malformed_for_the_reason_they_name():
    chunk = FrameStream(StreamOptions(devices=20, seed=4, malformed=1.0)).next_chunk()
    reason, _ = _header_reasons(chunk)
    in_header = [Reason.TOO_SHORT, Reason.BAD_MAGIC, Reason.BAD_DEVICE_ID]
    assert (reason == np.where(np.isin(chunk.kind, in_header), chunk.kind, 0)).all()
    found = check_payloads([chunk.frame(i)[22:] for i in range(chunk.count)])
    for i in range(chunk.count):
        if not reason[i]:
            assert found[i][0] == chunk.kind[i], chunk.frame(i)


def test_every_malformed_payload_has_the_reason_of_its_table():
    for reason, payloads in PAYLOADS.items():
        for payload, (found, _) in zip(payloads, check_payloads(list(payloads)), strict=True):
            assert found == reason, payload
            with (
                pytest.raises(orjson.JSONDecodeError) if reason in (Reason.BAD_JSON, Reason.BAD_UTF8) else nullcontext()
            ):
                orjson.loads(payload)


def test_duplicates_follow_their_original_within_a_few_frames():
    frames = _frames(FrameStream(StreamOptions(devices=100, seed=8, duplicates=0.2)))
    for place, (*_, kind, frame) in enumerate(frames):
        if kind == kinds.DUPLICATE:
            assert frame in [f for *_, f in frames[max(0, place - 32) : place]]


def test_late_frames_come_right_after_their_successor():
    frames = _frames(FrameStream(StreamOptions(devices=100, seed=8, reorder=0.2)))
    for place, (device, sequence, kind, _) in enumerate(frames):
        if kind == kinds.LATE:
            assert frames[place - 1][:2] == (device, sequence + 1)


def test_reboots_start_again_at_0_and_count_on():
    frames = _frames(FrameStream(StreamOptions(devices=10, seed=8, reboot=0.05, first_sequence=1000)))
    expected = dict.fromkeys(range(10), 1000)
    for device, sequence, kind, _ in frames:
        assert sequence == (0 if kind == kinds.REBOOT else expected[device])
        expected[device] = sequence + 1


def test_sequences_wrap():
    frames = _frames(FrameStream(StreamOptions(devices=1, seed=8, first_sequence=2**32 - 2)))
    assert [sequence for _, sequence, *_ in frames[:4]] == [2**32 - 2, 2**32 - 1, 0, 1]


def test_spikes_are_far_off():
    frames = _frames(FrameStream(StreamOptions(devices=10, seed=8, spikes=0.05)))
    assert all((orjson.loads(frame[22:])["t"] > 45) == (kind == kinds.SPIKE) for _, _, kind, frame in frames)


def test_a_series_sends_its_payloads_in_turn_and_starts_again():
    texts = [b'{"value":1.5}', b'{"value":2.5}', b'{"value":-1e+16}']
    starts = np.concatenate(([0], np.cumsum([len(t) for t in texts])))
    series = Series(np.frombuffer(b"".join(texts), np.uint8), starts, np.array([0, 2, 3]), [b"one", b"two"])
    frames = _frames(FrameStream(StreamOptions(seed=1, series=series)))
    assert [f[22:] for device, _, _, f in frames if device == 0][:3] == [texts[0], texts[1], texts[0]]
    assert {f[22:] for device, _, _, f in frames if device == 1} == {texts[2]}
    assert {f[2:18].rstrip(b"\0") for *_, f in frames} == {b"one", b"two"}


@pytest.mark.parametrize(
    "prefix, last", [("sim-", b"sim-000999"), ("a-prefix-long", b"a-prefix-long999"), ("", b"000999")]
)
def test_device_ids_fit(prefix, last):
    stream = FrameStream(StreamOptions(devices=1000, seed=1, id_prefix=prefix))
    assert stream.device_id(999) == last
    assert len({stream.device_id(d) for d in range(1000)}) == 1000


def test_all_problems_are_told_together():
    with pytest.raises(ConfigError) as caught:
        FrameStream(StreamOptions(devices=0, malformed=2.0, day_s=0, first_sequence=-1))
    assert all(
        word in str(caught.value) for word in ("devices is 0", "malformed is 2.0", "day length", "first sequence")
    )
    with pytest.raises(ConfigError, match="is above 1"):
        FrameStream(StreamOptions(malformed=0.5, reorder=0.3))
    with pytest.raises(ConfigError, match="do not fit 16 bytes"):
        FrameStream(StreamOptions(devices=1000, id_prefix="fourteen-chars"))
