"""The manifest file: what is written reads back; damage is told."""

import json

import numpy as np
import pytest

from klais.sim.kernels import fnv1a64_column
from klais.sim.manifest import ManifestError, ManifestWriter, read_manifest
from klais.sim.run import manifest_header
from klais.sim.stream import FrameStream, StreamOptions

OPTIONS = StreamOptions(devices=30, seed=5, malformed=0.1, duplicates=0.1, reorder=0.1)


def _written(path, chunks=2, totals=None):
    stream = FrameStream(OPTIONS)
    writer = ManifestWriter(path, manifest_header(stream))
    kept = []
    for number in range(chunks):
        chunk = stream.next_chunk()
        kept.append(chunk)
        at = 10**18 + number * 10**9 + np.arange(chunk.count) * 1000
        writer.append(chunk.device, chunk.sequence, chunk.hashes, chunk.kind, at)
    writer.close(totals or {"frames": sum(chunk.count for chunk in kept)})
    return kept


def test_a_manifest_reads_back(tmp_path):
    kept = _written(tmp_path / "m")
    manifest = read_manifest(tmp_path / "m")
    for name in ("device", "sequence", "hashes", "kind"):
        assert (getattr(manifest, name) == np.concatenate([getattr(chunk, name) for chunk in kept])).all()
    assert manifest.count == manifest.totals["frames"]
    assert manifest.sent_at_ns[0] == 10**18
    assert manifest.sent_at_ns[kept[0].count + 1] == 10**18 + 10**9 + 1000
    assert manifest.header["seed"] == 5 and manifest.header["kinds"]["13"] == "malformed:bad_json"
    assert sum(manifest.by_kind().values()) == manifest.count and manifest.by_kind()["late"] > 0


def test_ids_come_from_the_header(tmp_path):
    _written(tmp_path / "m", 1)
    assert [bytes(row).rstrip(b"\0") for row in read_manifest(tmp_path / "m").ids()[:2]] == [
        b"sim-000000",
        b"sim-000001",
    ]
    ManifestWriter(tmp_path / "n", {"ids": ["one", "zwölf"]}).close({})
    assert [bytes(row).rstrip(b"\0") for row in read_manifest(tmp_path / "n").ids()] == [b"one", "zwölf".encode()]


def test_a_cut_manifest_is_read_up_to_its_last_whole_block(tmp_path):
    kept = _written(tmp_path / "m")
    data = (tmp_path / "m").read_bytes()
    header = data.index(b"\n") + 1
    for cut in (len(data) - 3000, header + 12 + 21 * kept[0].count, header + 12 + 21 * kept[0].count + 7):
        (tmp_path / "cut").write_bytes(data[:cut])
        manifest = read_manifest(tmp_path / "cut")
        assert (manifest.count, manifest.totals) == (kept[0].count, None)


@pytest.mark.parametrize("data", [b"", b"x\n", b"[1]\n", json.dumps({"format": "klais-manifest-2"}).encode() + b"\n"])
def test_what_is_no_manifest_is_refused(tmp_path, data):
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(ManifestError, match="klais-manifest-1"):
        read_manifest(tmp_path / "m")


def test_a_manifest_of_nothing(tmp_path):
    _written(tmp_path / "m", 0, {"frames": 0})
    assert read_manifest(tmp_path / "m").count == 0


def test_hashes_are_fnv1a_of_the_frames():
    # Test vectors of the FNV draft.
    vectors = {b"": 0xCBF29CE484222325, b"a": 0xAF63DC4C8601EC8C, b"foobar": 0x85944171F73967E8}
    buf = np.frombuffer(b"".join(vectors), np.uint8)
    lengths = np.array([len(text) for text in vectors])
    out = np.zeros(3, np.uint64)
    fnv1a64_column(buf, np.cumsum(lengths) - lengths, lengths, out)
    assert out.tolist() == list(vectors.values())
    chunk = FrameStream(OPTIONS).next_chunk()
    fnv1a64_column(chunk.buf, chunk.starts, chunk.lengths, again := np.zeros(chunk.count, np.uint64))
    assert (again == chunk.hashes).all()


def test_the_frames_of_a_slow_sender_keep_their_times(tmp_path):
    at = 10**18 + np.arange(5) * 3600 * 10**9  # one an hour: 32 bits of us are 71 minutes
    device, kind = np.zeros(5, np.int32), np.zeros(5, np.uint8)
    writer = ManifestWriter(tmp_path / "m", {"id_prefix": "d", "devices": 1})
    writer.append(device, np.arange(5, dtype=np.uint32), np.arange(5, dtype=np.uint64), kind, at)
    writer.close({})
    manifest = read_manifest(tmp_path / "m")
    assert manifest.sent_at_ns.tolist() == at.tolist() and manifest.sequence.tolist() == [0, 1, 2, 3, 4]


def test_a_frame_of_an_unknown_device_is_damage(tmp_path):
    writer = ManifestWriter(tmp_path / "m", {"id_prefix": "d", "devices": 3})
    one = np.array([3], np.int32)
    writer.append(one, one.astype(np.uint32), one.astype(np.uint64), one.astype(np.uint8), one.astype(np.int64))
    writer.close({})
    with pytest.raises(ManifestError, match="a frame is of device 3, there are 3 from 0"):
        read_manifest(tmp_path / "m")


@pytest.mark.parametrize("started", ["now", None, -1, 1 << 63, True, 1.5])
def test_a_start_that_is_no_time_is_damage(tmp_path, started):
    ManifestWriter(tmp_path / "m", {"id_prefix": "d", "devices": 1, "started_at_ns": started}).close({})
    with pytest.raises(ManifestError, match="started_at_ns"):
        assert read_manifest(tmp_path / "m").started_ms
