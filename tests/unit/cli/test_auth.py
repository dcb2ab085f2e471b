"""``klais auth``, ``klais send --auth``, ``klais simulate --auth``: keys made, rotated and used."""

import json
import socket
import stat
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from klais.cli.main import main
from klais.config.auth_keys import read_masters
from klais.core.wire.constants import encode_frame
from klais.core.wire.signing import device_key, plain_frame, sign_frame, trailer
from klais.sim.kinds import FORGED
from klais.sim.stream import FrameStream, StreamOptions
from tests.support.auth import MASTERS, SECRET, VECTORS, Judged
from tests.support.process import PATIENCE


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of keys, named by the setting."""
    path = tmp_path / "auth.keys"
    monkeypatch.setenv("KLAIS_AUTH_KEY_FILE", str(path))
    return path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def test_a_rotation(keys: Path) -> None:
    made = run("auth", "new")
    assert made.exit_code == 0, made.output
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    first = read_masters(keys)
    assert list(first) == [0]
    assert first[0].hex() not in made.output
    again = run("auth", "new")
    assert again.exit_code != 0
    assert "klais auth add" in again.output
    for generation in (1, 2, 3):
        assert f"generation {generation}" in run("auth", "add").output
    full = run("auth", "add")
    assert full.exit_code != 0
    assert "retire one first" in full.output
    assert run("auth", "retire", "0").exit_code == 0
    assert run("auth", "retire", "0").exit_code != 0
    assert run("auth", "add").exit_code == 0  # generation 0 once more, with another secret
    last = read_masters(keys)
    assert sorted(last) == [0, 1, 2, 3]
    assert last[0] != first[0]
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600


def test_keys_of_devices_and_frames(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.write_text(f"1 {SECRET.hex()}\n2 {MASTERS[2].hex()}\n")
    keys.chmod(0o600)
    assert run("auth", "device-key", "dev-1").stdout.strip() == device_key(MASTERS[2], b"dev-1").hex()
    of_one = run("auth", "device-key", "dev-1", "--generation", "1", "--json").stdout
    assert json.loads(of_one) == {
        "device_id": "dev-1",
        "generation": 1,
        "key": device_key(MASTERS[1], b"dev-1").hex(),
    }
    frame = next(v["frame"] for v in VECTORS["frames"] if v["generation"] == 1)
    good = run("auth", "check", frame, "--json")
    assert (good.exit_code, json.loads(good.stdout)["ok"]) == (0, True)
    bad = run("auth", "check", frame[:-1] + ("0" if frame[-1] != "0" else "1"))
    assert bad.exit_code == 1
    assert "the tag is wrong" in bad.stdout
    for text, why in (("aa55", "not AA 56"), (frame[:-18] + "41" + frame[-16:], "suite 1")):
        refused = run("auth", "check", text)
        assert refused.exit_code == 1
        assert why in refused.stdout
    own = tmp_path / "own"
    own.write_text('{"dev-1": null}')
    own.chmod(0o600)
    monkeypatch.setenv("KLAIS_AUTH_KEYS_FILE", str(own))
    revoked = run("auth", "check", frame)
    assert (revoked.exit_code, "revoked" in revoked.stdout) == (1, True)


def test_send_signs(keys: Path) -> None:
    run("auth", "new")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20 * PATIENCE)
        to = f"127.0.0.1:{sock.getsockname()[1]}"
        sent = run("send", "--auth", "--device", "dev-1", "--seq", "7", "--epoch", "9", "--to", to, '{"t":1}')
        assert sent.exit_code == 0, sent.output
        plain = encode_frame("dev-1", 7, b'{"t":1}')
        key = device_key(read_masters(keys)[0], b"dev-1")
        assert sock.recv(100) == sign_frame(plain, key, 9, 0)
        before = int(time.time())
        run("send", "--auth", "--device", "dev-1", "--to", to, "{}")
        assert before <= trailer(sock.recv(100))[0] <= int(time.time())
    assert "need --auth" in run("send", "--device", "dev-1", "--epoch", "1", "{}").output


def test_the_simulator_signs_and_forges() -> None:
    from klais.core.wire.auth import key_columns
    from klais.sim.sign import Signing

    options = {"devices": 20, "seed": 5, "reboot": 0.05, "duplicates": 0.05}
    plain = FrameStream(StreamOptions(**options)).next_chunk()
    stream = FrameStream(StreamOptions(**options, signing=Signing(MASTERS[3], 3, 100, forged=0.25)))
    chunk = stream.next_chunk()
    frames = [chunk.frame(i) for i in range(chunk.count)]
    forged = [int(kind) == FORGED for kind in chunk.kind]
    assert 800 < sum(forged) < 1150
    judged = Judged(frames, key_columns(MASTERS))
    assert judged.labels() == ["bad_mac" if bad else "passed" for bad in forged]
    assert {plain_frame(frame) for frame in frames} == {plain.frame(i) for i in range(plain.count)}
    epochs: dict[int, int] = {}
    for i in range(chunk.count):
        if not forged[i] and chunk.sequence[i] == 0:
            epochs[int(chunk.device[i])] = int(judged.epoch[i])
    assert max(epochs.values()) > 105


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("--forged", "0.5"), "--forged needs --auth"),
        (("--auth",), "klais auth new"),
    ],
)
def test_what_the_simulator_refuses(args: tuple[str, ...], why: str) -> None:
    result = run("simulate", *args, "--count", "0", "--to", "127.0.0.1:9")
    assert result.exit_code != 0
    assert why in result.output
