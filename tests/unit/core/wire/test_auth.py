"""Authenticated frames: the vectors, what is refused, and what the kernels say of a batch."""

import hashlib

import numpy as np
import pytest

from klais.core.wire.auth import Mode, Result, key_columns, sign
from klais.core.wire.constants import encode_frame
from klais.core.wire.signing import device_key, master_key, plain_frame, sign_frame, signed_id, siphash24, trailer
from klais.core.wire.siphash24 import derive_key, tag_of
from tests.support.auth import MASTERS, VECTORS, Judged, signed, vector_payload

KEYS = key_columns(MASTERS)
FRAME = signed("dev-1", 7, b'{"t":1}', epoch=1_700_000_000)


@pytest.mark.parametrize("vector", VECTORS["siphash"], ids=lambda v: len(v["message"]) // 2)
def test_siphash_of_the_paper(vector: dict[str, str]) -> None:
    key, message = bytes.fromhex(vector["key"]), bytes.fromhex(vector["message"])
    assert siphash24(key, message).hex() == vector["siphash_2_4_64"]
    assert siphash24(key, message, 16).hex() == vector["siphash_2_4_128"]
    k0, k1 = np.frombuffer(key, "<u8")
    buf = np.frombuffer(bytes(8) + message, np.uint8)  # its last load reaches eight bytes back
    tag = np.uint64(tag_of(buf, 8, len(message), k0, k1))
    assert tag.tobytes().hex() == vector["siphash_2_4_64"]


def test_the_anchors_are_those_of_other_implementations() -> None:
    # From the paper (appendix A) and from vectors.h of the reference implementation.
    by_size = {len(v["message"]) // 2: v for v in VECTORS["siphash"]}
    assert by_size[15]["siphash_2_4_64"] == (0xA129CA6149BE45E5).to_bytes(8, "little").hex()
    assert by_size[0]["siphash_2_4_128"] == "a3817f04ba25a8e66df67214c7550293"
    anchors = VECTORS["anchors"]
    assert device_key(bytes.fromhex(anchors["master"]), b"dev-1").hex() == "58890a2053de2dcda68180cb7217bbca"
    assert anchors["frame"] == "aa566465762d310000000000000000000000000000077b2274223a317d6553f10010472f4dcc85c5aedf"
    assert master_key(bytes(range(32)), 1).hex() == "310d6f492346b2cf6aeb5ead522071e9"


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda v: v["payload_bytes"])
def test_vectors(vector: dict[str, str | int]) -> None:
    secret, generation, epoch = bytes.fromhex(vector["secret"]), vector["generation"], vector["epoch"]
    master, device_id, payload = master_key(secret, generation), vector["device_id"], vector_payload(vector)
    key = device_key(master, device_id.encode())
    assert (master.hex(), key.hex()) == (vector["master"], vector["device_key"])
    k0, k1 = np.frombuffer(master, "<u8")
    words = np.frombuffer(device_id.encode().ljust(16, b"\0"), "<u8")
    assert np.array(derive_key(*words, k0, k1), "<u8").tobytes() == key
    plain = encode_frame(device_id, vector["sequence"], payload)
    frame = sign_frame(plain, key, epoch, generation)
    if vector["frame"] is not None:
        assert frame.hex() == vector["frame"]
    else:
        assert hashlib.sha256(frame).hexdigest() == vector["frame_sha256"]
    assert plain_frame(frame) == plain
    assert signed_id(frame) == device_id.encode()
    assert trailer(frame) == (epoch, 0, generation, 0)
    judged = Judged([frame, frame], KEYS)  # the second time the key comes from the cache
    assert judged.labels() == ["passed"] * 2
    assert judged.epoch.tolist() == [epoch] * 2
    assert judged.lengths.tolist() == [len(plain)] * 2
    assert judged.counts[generation, Result.OK] == 2 == judged.counts.sum()


def test_every_flipped_bit_is_refused() -> None:
    flips = []
    for bit in range(8 * len(FRAME)):
        spoiled = bytearray(FRAME)
        spoiled[bit // 8] ^= 1 << bit % 8
        flips.append(bytes(spoiled))
    judged = Judged([FRAME, *flips], KEYS)
    assert judged.labels()[0] == "passed"
    assert set(judged.labels()[1:]) == {"bad_magic", "bad_device_id", "bad_mac"}  # AA 55 is two bits away
    assert not judged.epoch[1:].any()
    assert judged.counts[:, Result.OK].sum() == 1


@pytest.mark.parametrize("cut", range(1, len(FRAME)))
def test_a_cut_or_longer_frame_is_refused(cut: int) -> None:
    assert Judged([FRAME[:-cut], FRAME + FRAME[:cut]], KEYS).labels().count("passed") == 0


def test_what_a_frame_is_refused_for() -> None:
    keys = key_columns({1: MASTERS[1]}, {b"own": bytes(16), b"gone": None})
    own = sign_frame(encode_frame("own", 1, b"{}"), bytes(16), 9, 3)

    def with_ctrl(ctrl: int) -> bytes:
        body = FRAME[:-9] + bytes([ctrl])
        return body + siphash24(device_key(MASTERS[1], b"dev-1"), body)

    frames = [FRAME, own, signed("own", 1, b"{}"), signed("gone", 1, b"{}"), signed("dev-1", 1, b"{}", generation=2)]
    frames += [with_ctrl(0x50), with_ctrl(0x11), FRAME[:36], b"\xaa\x56" + bytes(40), encode_frame("dev-1", 1, b"{}")]
    judged = Judged(frames, keys)
    assert judged.labels() == [
        *("passed", "passed", "bad_mac", "bad_mac", "bad_mac"),
        *("bad_mac", "bad_mac", "too_short", "bad_device_id", "unsigned"),
    ]
    found = {(g, Result(r).label): int(n) for (g, r), n in np.ndenumerate(judged.counts) if n}
    assert found == {
        (1, "ok"): 1, (3, "ok"): 1, (1, "bad_mac"): 1, (1, "revoked"): 1, (2, "no_key"): 1, (1, "suite"): 2,
        (4, "unsigned"): 1,
    }  # fmt: skip


def test_own_keys_are_found_among_many() -> None:
    names = [b"device-%d" % i for i in range(1000)]
    own = {name: siphash24(bytes(16), name, 16) for name in names}
    frames = [sign_frame(encode_frame(name, 1, b"{}"), own[name], 1, 0) for name in names]
    judged = Judged([*frames, signed("device-1000", 1, b"{}")], key_columns(MASTERS, own))
    assert set(judged.labels()) == {"passed"}


def test_modes() -> None:
    forged = FRAME[:-1] + bytes([FRAME[-1] ^ 1])
    frames = [FRAME, forged, encode_frame("dev-1", 8, b"{}"), encode_frame("old-1", 9, b"{}")]
    exempt = [False, False, False, True]
    for mode, wanted in (
        (Mode.MONITOR, ["passed"] * 4),
        (Mode.STICKY, ["passed", "bad_mac", "passed", "passed"]),
        (Mode.REQUIRE, ["passed", "bad_mac", "unsigned", "passed"]),
    ):
        judged = Judged(frames, KEYS, mode, exempt)
        assert judged.labels() == wanted
        assert judged.epoch.tolist() == [1_700_000_000, 0, 0, 0]  # what passes in spite of its tag is not signed
        assert judged.counts[1, :2].tolist() == [1, 1]
        assert judged.counts[4, Result.UNSIGNED :].tolist() == [1, 1]
    assert Judged(frames, KEYS, Mode.MONITOR).lengths.tolist() == [29, 29, 24, 24]


def test_an_epoch_too_far_ahead_is_refused() -> None:
    frames = [signed("dev-1", 1, b"{}", epoch=epoch) for epoch in (0, 1000, 1001, 2**32 - 1)]
    judged = Judged(frames, KEYS, latest=1000)
    assert judged.labels() == ["passed", "passed", "bad_epoch", "bad_epoch"]
    assert judged.counts[1, Result.EPOCH] == 2


@pytest.mark.parametrize("head_size", [64, 576])
def test_frames_in_two_pieces(head_size: int) -> None:
    sizes = [*range(2, 12), *range(head_size - 50, head_size + 20), 3000, 65_472]
    frames = [signed(f"d{n}", n, b"{" + b"x" * (n - 2) + b"}") for n in sizes]
    bad = [frame[:-9] + b"\x20" + frame[-8:] for frame in frames]
    judged = Judged([*frames, *bad], KEYS, head_size=head_size)
    assert judged.labels() == ["passed"] * len(frames) + ["bad_mac"] * len(frames)


def test_frames_that_are_too_long_are_not_looked_at() -> None:
    fits, long = signed("dev-1", 1, b"{" + b"x" * 98 + b"}"), signed("dev-1", 1, b"{" + b"x" * 99 + b"}")
    judged = Judged([fits, long], KEYS, max_length=122)
    assert judged.labels() == ["passed", "bad_magic"]  # mark_malformed makes it too_long
    assert judged.lengths.tolist() == [122, 136]


def test_forged_frames_push_no_key_out_of_the_cache() -> None:
    keys = key_columns(MASTERS)
    Judged([signed(f"dev-{i}", 1, b"{}") for i in range(50)], keys)
    before = keys.cache.copy()
    assert np.count_nonzero(before[:, 2]) > 40
    good = [signed(f"fake-{i}", 1, b"{}") for i in range(5000)]
    forged = [frame[:-1] + bytes([frame[-1] ^ 1]) for frame in good]
    assert set(Judged(forged, keys).labels()) == {"bad_mac"}
    assert np.array_equal(keys.cache, before)


def test_signing_as_columns() -> None:
    plain = [encode_frame(f"dev-{i}", i, b"{}" + b" " * i) for i in range(40)]
    lengths = np.array([len(frame) for frame in plain], np.int64)
    buf = np.frombuffer(b"".join(frame + bytes(13) for frame in plain), np.uint8).copy()
    starts = np.cumsum(lengths + 13) - lengths - 13
    ids = np.array([np.frombuffer(frame[2:18], "<u8") for frame in plain], np.uint64)
    k0, k1 = (np.frombuffer(MASTERS[2], "<u8")[i : i + 1].copy() for i in (0, 1))
    wanted = np.arange(40, dtype=np.uint8) % 3
    sign(buf, starts, lengths, k0, k1, wanted, ids, np.full(40, 5, np.uint32), 2)
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        frame, good = buf[start : start + length].tobytes(), signed(f"dev-{i}", i, plain[i][22:], 5, 2)
        assert frame == (plain[i] if i % 3 == 0 else good) or (i % 3 == 2 and frame[:-8] == good[:-8])
        assert (frame == good) == (i % 3 == 1)


@pytest.mark.parametrize(
    ("frame", "epoch", "generation"), [(b"x" * 23, 0, 0), (b"x" * 65_500, 0, 0), (FRAME, -1, 0), (FRAME, 0, 4)]
)
def test_what_cannot_be_signed(frame: bytes, epoch: int, generation: int) -> None:
    with pytest.raises(ValueError):
        sign_frame(frame, bytes(16), epoch, generation)
