"""``klais send``: one frame, exactly as the wire format says, and errors that help."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from klais.cli.main import main
from klais.core.wire.constants import encode_frame
from tests.support.process import PATIENCE


@pytest.fixture
def edge() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(2 * PATIENCE)
        yield sock


def run(*args: str, stdin: str | None = None):
    return CliRunner().invoke(main, ["send", *args], input=stdin)


def test_sends_the_frame(edge: socket.socket) -> None:
    target = f"127.0.0.1:{edge.getsockname()[1]}"
    result = run("--device", "dev-1", "--seq", "7", "--to", target, '{"t":21.5}')
    assert result.exit_code == 0, result.output
    assert edge.recv(100) == encode_frame("dev-1", 7, b'{"t":21.5}')
    assert "dev-1" in result.output and target in result.output


def test_goes_to_the_configured_port_and_reads_standard_input(
    edge: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLAIS_UDP_BIND", f"0.0.0.0:{edge.getsockname()[1]}")
    result = run("--device", "ä", "--json", "-", stdin='{"x":1}\n')
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert edge.recv(100) == encode_frame("ä", said["seq"], b'{"x":1}')
    assert said["bytes"] == 29


def test_a_payload_that_is_no_object_goes_only_on_request(edge: socket.socket) -> None:
    target = f"127.0.0.1:{edge.getsockname()[1]}"
    for payload in ("{", "[1]", "NaN", '{"a":Infinity}', "[" * 100_000):
        result = run("--device", "d", "--to", target, payload)
        assert result.exit_code == 2
        assert "--no-check" in result.output
    assert run("--device", "d", "--seq", "1", "--to", target, "--no-check", "{").exit_code == 0
    assert edge.recv(100) == encode_frame("d", 1, b"{")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--device", "x" * 17], "1 to 16 bytes"),
        (["--device", ""], "1 to 16 bytes"),
        (["--device", "d", "--seq", "4294967296"], "range"),
        (["--device", "d", "--to", "nowhere"], "host:port"),
        (["--device", "d", "--to", "127.0.0.1:0"], "host:port"),
        ([], "--device"),
    ],
)
def test_mistakes_are_named(args: list[str], says: str) -> None:
    result = run(*args, "{}")
    assert result.exit_code == 2
    assert says in result.output


def test_nobody_listening_is_told(edge: socket.socket) -> None:
    port = edge.getsockname()[1]
    edge.close()
    result = run("--device", "d", "--to", f"127.0.0.1:{port}", "{}")
    assert result.exit_code == 1
    assert f"no process receives on 127.0.0.1:{port}" in result.output


def test_send_does_not_load_the_compiler() -> None:
    code = "import sys; import klais.cli.send; sys.exit('numba' in sys.modules or 'confluent_kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_frame_that_the_edge_would_drop_is_not_sent_without_saying_so(edge: socket.socket) -> None:
    target = f"127.0.0.1:{edge.getsockname()[1]}"
    payload = '{"t":"' + "x" * 3000 + '"}'
    result = run("--device", "dev-1", "--to", target, payload)
    assert result.exit_code == 2 and "KLAIS_FRAME_MAX_BYTES is 2072" in result.output
    assert run("--device", "dev-1", "--to", target, "--no-check", payload).exit_code == 0
    assert len(edge.recv(65_507)) == 22 + len(payload)
