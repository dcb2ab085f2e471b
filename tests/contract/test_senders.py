"""The senders of examples/, in five languages: each sends exactly the frames of examples/vectors.json."""

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klais.core.wire.constants import HEADER_SIZE, Reason, encode_frame
from klais.core.wire.frame import check_headers
from klais.core.wire.json_scan import check_payloads
from tests.support.needs import need_command
from tests.support.process import HTTP_S, clean_environ

EXAMPLES = Path(__file__).parents[2] / "examples"
VECTORS: dict[str, list[dict[str, Any]]] = json.loads((EXAMPLES / "vectors.json").read_text())
Build = Callable[[Path], list[str]]


def built(compiler: str, source: str, *options: str) -> Build:
    def build(folder: Path) -> list[str]:
        program = str(folder / "send_frame")
        works = ["--version"] if compiler == "rustc" else []  # rustup's proxy is there without a compiler, too
        command = [need_command("toolchains", compiler, *works), *options, "-o", program, str(EXAMPLES / source)]
        own = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GO111MODULE": "off"}
        subprocess.run(command, check=True, capture_output=True, env=clean_environ() | own)
        return [program]

    return build


def interpreted(program: str, source: str) -> Build:
    return lambda folder: [need_command("toolchains", program), str(EXAMPLES / source)]


def java(folder: Path) -> list[str]:
    command = [need_command("toolchains", "javac"), "-d", str(folder), str(EXAMPLES / "SendFrame.java")]
    subprocess.run(command, check=True, capture_output=True)
    # As on any terminal of today: Java decodes its arguments by the locale.
    return ["env", "LC_ALL=C.UTF-8", need_command("toolchains", "java"), "-cp", str(folder), "SendFrame"]


SENDERS: dict[str, Build] = {
    "c": built("cc", "send_frame.c", "-Wall", "-Wextra", "-Werror"),
    "go": built("go", "send_frame.go", "build"),
    "rust": built("rustc", "send_frame.rs", "-Dwarnings", "--edition=2021"),
    "java": java,
    "node": interpreted("node", "send_frame.js"),
}


@pytest.mark.parametrize("language", SENDERS)
def test_each_language_sends_the_frames_of_the_vectors(language: str, tmp_path: Path) -> None:
    command = SENDERS[language](tmp_path)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(HTTP_S)
        port = str(receiver.getsockname()[1])
        for vector in VECTORS["frames"]:
            what = [vector["device_id"], str(vector["sequence"]), vector["payload"]]
            subprocess.run([*command, "127.0.0.1", port, *what], check=True)
            assert receiver.recv(65_536).hex() == vector["frame"], vector["name"]
        refused = subprocess.run([*command, "127.0.0.1", port, "seventeen-bytes-x", "1", "{}"], capture_output=True)
        assert refused.returncode and b"1 to 16 bytes" in refused.stderr, "an id that is cut would be another device"


def test_the_vectors_are_what_this_project_encodes() -> None:
    for vector in VECTORS["frames"]:
        frame = encode_frame(vector["device_id"], vector["sequence"], vector["payload"].encode())
        assert frame.hex() == vector["frame"], vector["name"]


def test_the_vectors_that_are_refused_are_refused_for_their_reason() -> None:
    assert {vector["reason"] for vector in VECTORS["refused"]} >= {
        "too_short",
        "bad_magic",
        "bad_device_id",
        "too_deep",
    }
    for vector in VECTORS["refused"]:
        frame = bytes.fromhex(vector["frame"])
        reason, ids, size = np.zeros(1, np.uint8), np.zeros((1, 2), np.uint64), np.zeros(1, np.uint8)
        place, length = np.zeros(1, np.int64), np.array([len(frame)], np.int64)
        check_headers(np.frombuffer(frame, np.uint8), place, length, reason, ids, np.zeros(1, np.uint32), size)
        found = Reason(int(reason[0])) if reason[0] else check_payloads([frame[HEADER_SIZE:]])[0][0]
        assert found.label == vector["reason"]
