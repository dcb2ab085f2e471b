"""Signed frames in the real filter: vectors, every flipped bit, packets of every form, modes and keys."""

import ctypes
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.harness.packets.packet import udp_packet
from klais.cli.main import main
from klais.config.load import Settings
from klais.core.wire.constants import encode_frame
from klais.errors import ConfigError, SetupMissing, XdpUnavailable
from klais.xdp import bpf
from klais.xdp.auth import admit_signed, filter_auth, read_auth, set_auth
from klais.xdp.layout import KNOWN, KNOWN_BITS, AuthMode, Verdict, map_specs
from klais.xdp.limits import Limits
from klais.xdp.pins import possible_cpus
from klais.xdp.test_run import LoadedFilter, loaded_filter
from tests.support.auth import MASTERS, SECRET, VECTORS, signed
from tests.support.needs import need_missing
from tests.support.xdp_native import Native

ON = AuthMode.KNOW | AuthMode.CHECK
INF = Limits(math.inf, math.inf, math.inf, math.inf)
ALL = Limits(math.inf, math.inf, 1.0, 3.0)
FRAME = signed("dev-1", 7, b'{"t":1}')


@pytest.fixture(scope="module")
def filter_() -> Iterator[LoadedFilter]:
    try:
        with loaded_filter(INF) as found:
            yield found
    except (XdpUnavailable, SetupMissing) as error:
        need_missing("kernel", str(error))


def put(filter_: LoadedFilter, mode: AuthMode = ON, max_bytes: int = 512, rate: float = 1e6, masters=MASTERS) -> None:
    """Set what the filter does with signed frames."""
    bpf.update(filter_.fds["auth"], np.zeros(1, np.uint32), filter_auth(mode, masters, max_bytes, rate))


def verdict(filter_: LoadedFilter, frame: bytes, **how: object) -> str:
    """Verdict for a frame in a packet; the action fits it."""
    action, found = filter_.judge(udp_packet(frame, **how))
    assert action == (bpf.XDP_DROP if found.drops else bpf.XDP_PASS)
    return found.label


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda v: v["payload_bytes"])
def test_vectors(filter_: LoadedFilter, vector: dict) -> None:  # type: ignore[type-arg]
    put(filter_, rate=1.0)
    if vector["frame"] is None:
        return
    frame = bytes.fromhex(vector["frame"])
    if len(frame) > 512:
        assert [verdict(filter_, frame), verdict(filter_, frame)] == ["pass", "unverified"]
        return
    assert verdict(filter_, frame) == "pass"
    assert verdict(filter_, frame[:-1] + bytes([frame[-1] ^ 1])) == "bad_mac"


def test_every_flipped_bit_is_refused(filter_: LoadedFilter) -> None:
    put(filter_)
    found = set()
    for bit in range(8 * len(FRAME)):
        spoiled = bytearray(FRAME)
        spoiled[bit // 8] ^= 1 << bit % 8
        found.add(verdict(filter_, bytes(spoiled)))
    assert found == {"bad_magic", "bad_device_id", "bad_mac"}
    assert verdict(filter_, FRAME) == "pass"


@pytest.mark.parametrize("size", [*range(2, 30), 468, 469, 475, 476])
def test_every_length_of_the_last_word(filter_: LoadedFilter, size: int) -> None:
    put(filter_)
    frame = signed("dev-1", size, b"{" + b"x" * (size - 2) + b"}")
    for cut in (frame, frame[:-1], frame + b"\0"):
        assert verdict(filter_, cut) == ("pass" if cut == frame else "too_short" if len(cut) < 37 else "bad_mac")


V6 = {"source": "2001:db8::1", "to": "2001:db8::2"}
FORMS = {
    "IPv4": {},
    "IPv4 with options": {"options": bytes(40)},
    "one VLAN tag": {"tags": (0x8100,)},
    "two VLAN tags": {"tags": (0x88A8, 0x8100)},
    "bytes behind the datagram": {"padding": b"x" * 13},
    "IPv6": V6,
    "IPv6 with extension headers": {**V6, "extensions": ((0, bytes(6)), (60, bytes(14)), (44, bytes(6)))},
    "IPv6 in two VLANs": {**V6, "tags": (0x88A8, 0x8100)},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_packets_of_every_form(filter_: LoadedFilter, form: dict) -> None:  # type: ignore[type-arg]
    put(filter_, ON | AuthMode.REQUIRE)
    assert verdict(filter_, FRAME, **form) == "pass"
    assert verdict(filter_, FRAME[:-1] + bytes([FRAME[-1] ^ 1]), **form) == "bad_mac"
    assert verdict(filter_, encode_frame("dev-1", 1, b"{}"), **form) == "unsigned"


def test_first_fragments_go_up_at_the_rate_of_the_unverified(filter_: LoadedFilter) -> None:
    put(filter_, rate=10.0)
    first = {"fragment": 0x2000, "udp_length": 8 + 500}
    assert verdict(filter_, FRAME[:32], **first) == "pass"
    assert verdict(filter_, FRAME, **first) == "unverified"
    put(filter_, AuthMode.KNOW, rate=10.0)
    assert [verdict(filter_, FRAME, **first) for _ in range(3)] == ["pass"] * 3


def test_fragments_and_long_frames_share_one_bucket(filter_: LoadedFilter) -> None:
    put(filter_, max_bytes=len(FRAME), rate=10.0)
    longer = signed("dev-2", 1, b'{"t":12}')
    assert [verdict(filter_, longer) for _ in range(2)] == ["pass", "unverified"]
    assert verdict(filter_, signed("dev-3", 1, b'{"t":12}')) == "unverified"
    assert verdict(filter_, FRAME) == "pass"


def test_modes(filter_: LoadedFilter) -> None:
    plain, forged = encode_frame("dev-1", 1, b"{}"), FRAME[:-1] + bytes([FRAME[-1] ^ 1])
    for mode, expected in (
        (AuthMode(0), ["bad_magic", "bad_magic", "pass"]),
        (AuthMode.KNOW, ["pass", "pass", "pass"]),
        (ON, ["pass", "bad_mac", "pass"]),
        (ON | AuthMode.REQUIRE, ["pass", "bad_mac", "unsigned"]),
    ):
        put(filter_, mode)
        assert [verdict(filter_, frame) for frame in (FRAME, forged, plain)] == expected
    filter_.maps.set_monitor("auth", True)
    try:
        assert [verdict(filter_, frame) for frame in (FRAME, forged, plain)] == [
            *("pass", "would_bad_mac", "would_unsigned")
        ]
    finally:
        filter_.maps.set_monitor("auth", False)


def test_keys_that_are_not_here_and_bits_that_nobody_knows(filter_: LoadedFilter) -> None:
    put(filter_, masters={1: MASTERS[1]})
    assert verdict(filter_, FRAME) == "pass"
    assert verdict(filter_, signed("dev-1", 7, b"{}", generation=2)) == "bad_mac"
    for ctrl in (0x50, 0x90, 0x11):
        assert verdict(filter_, FRAME[:-9] + bytes([ctrl]) + FRAME[-8:]) == "bad_mac"


def test_a_forger_takes_no_tokens_of_the_device(filter_: LoadedFilter) -> None:
    put(filter_)
    filter_.refill(ALL)
    try:
        forged = [signed("victim", n, b"{}")[:-1] + b"\0" for n in range(50)]
        forged = [frame for frame in forged if frame != signed("victim", forged.index(frame), b"{}")]
        assert {verdict(filter_, frame) for frame in forged} == {"bad_mac"}
        assert [verdict(filter_, signed("victim", n, b"{}")) for n in range(4)] == ["pass"] * 3 + ["device_rate"]
    finally:
        filter_.refill(INF)


def test_the_map_of_keys_is_not_mappable_and_its_pin_is_roots(filter_: LoadedFilter) -> None:
    for name in ("auth", "known"):
        (spec,) = [spec for spec in map_specs(1, 4096) if spec.name == name]
        assert spec.flags == 0
        pin = filter_.maps.pin_dir / name
        assert stat.S_IMODE(pin.stat().st_mode) & 0o077 == 0
        assert pin.stat().st_uid == 0 == os.geteuid()


def kept(filter_: LoadedFilter) -> set[bytes]:
    """Devices whose key some CPU keeps."""
    rows, found = np.zeros(possible_cpus(), KNOWN), set()
    for index in range(1 << KNOWN_BITS):
        bpf.lookup(filter_.fds["known"], np.array([index], np.uint32), rows)
        found |= {row["id"].tobytes().rstrip(b"\0") for row in rows if row["serial"]}
    return found


def test_only_a_good_tag_keeps_a_key(filter_: LoadedFilter) -> None:
    put(filter_)
    for n in range(50):
        frame = signed(f"forged-{n}", 1, b"{}")
        assert verdict(filter_, frame[:-1] + bytes([frame[-1] ^ 1])) == "bad_mac"
    assert not any(name.startswith(b"forged-") for name in kept(filter_))
    assert verdict(filter_, signed("keeper", 1, b"{}")) == "pass"
    assert b"keeper" in kept(filter_)


def test_a_kept_key_ends_with_the_key_that_it_comes_from(filter_: LoadedFilter) -> None:
    frame = signed("stays", 1, b"{}")
    put(filter_)
    assert [verdict(filter_, frame) for _ in range(3)] == ["pass"] * 3
    put(filter_, masters={1: MASTERS[2]})
    assert verdict(filter_, frame) == "bad_mac"
    put(filter_, masters={})
    assert verdict(filter_, frame) == "bad_mac"
    put(filter_)
    assert verdict(filter_, frame) == "pass"


def test_settings_and_command(filter_: LoadedFilter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"1 {SECRET.hex()}\n")
    keys.chmod(0o600)
    fd = filter_.fds["auth"]
    put(filter_, AuthMode(0))
    admit_signed(fd)
    assert read_auth(fd).state == "pass"
    assert set_auth(fd, "on", Settings(auth="require", auth_key_file=keys), 5.0) == ON | AuthMode.REQUIRE
    admit_signed(fd)
    assert read_auth(fd).state == "on"
    exempt = Settings(auth="require", auth_key_file=keys, auth_exempt="old-")
    assert set_auth(fd, "on", exempt, 5.0) == ON
    own = tmp_path / "own"
    own.write_text('{"a": null}')
    own.chmod(0o600)
    with pytest.raises(ConfigError, match="klais xdp auth pass"):
        set_auth(fd, "on", Settings(auth="sticky", auth_key_file=keys, auth_keys_file=own), 5.0)
    for name, value in {"KEY_FILE": str(keys), "XDP_BYTES": "300"}.items():
        monkeypatch.setenv(f"KLAIS_AUTH_{name}", value)
    args = ["xdp", "auth", "on", "--pin-dir", str(filter_.maps.pin_dir), "--json"]
    said = CliRunner().invoke(main, args)
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout) == {
        "state": "on", "require": False, "generations": [1], "max_bytes": 300, "unverified_rate": 10_000.0,
    }  # fmt: skip
    assert SECRET.hex() not in said.output
    assert verdict(filter_, FRAME) == "pass"


def test_the_same_lines_say_so_in_user_space(native: Native) -> None:
    auth = filter_auth(ON, MASTERS, 512, 1.0)
    at = auth.ctypes.data_as(ctypes.c_void_p)
    for n in (*range(2, 40), 470, 477):
        frame = signed("dev-1", n, b"{" + b"x" * (n - 2) + b"}")
        check = native._library.klais_test_check_tag
        assert check(at, frame, ctypes.c_size_t(len(frame))) == Verdict.PASS
        for bit in range(0, 8 * len(frame), 7):
            spoiled = bytearray(frame)
            spoiled[bit // 8] ^= 1 << bit % 8
            if bit >= 16:  # the magic is not looked at here, but it is part of what the tag covers
                assert check(at, bytes(spoiled), ctypes.c_size_t(len(frame))) == Verdict.BAD_MAC
