"""A process that cannot serve its HTTP port says so before anything else: it waits for no Kafka and no library."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import PATIENCE


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def ended(command: str, tmp_path: Path, **given: str) -> tuple[int, str]:
    """Exit code and stderr of a process whose Kafka is nowhere; it may import nothing that speaks to Kafka."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("KLAIS_")}
    environ |= {"KLAIS_CONFIG": "none", "KLAIS_STATE_DIR": str(tmp_path), "KLAIS_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    code = f"""
import os, sys
from klais.cli.main import main
os.execve = lambda *_: sys.exit(99)
try:
    main(['{command}'])
finally:
    assert not {{'confluent_kafka', 'faust', 'numba', 'aiohttp'}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ | given, capture_output=True, text=True, timeout=60 * PATIENCE
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_edge_whose_api_port_is_taken_ends_with_one_line(taken: int, tmp_path: Path, workers: str) -> None:
    given = {"KLAIS_API_BIND": f"127.0.0.1:{taken}", "KLAIS_UDP_BIND": "127.0.0.1:0", "KLAIS_EDGE_WORKERS": workers}
    if workers == "2":
        given["KLAIS_UDP_BIND"] = "127.0.0.1:5997"
    code, said = ended("edge", tmp_path, **given)
    assert (code, said.count("\n")) == (1, 1), said
    assert f"tcp port {taken} on 127.0.0.1 is taken by" in said and "KLAIS_API_BIND" in said


def test_an_edge_whose_api_address_is_of_another_host_ends_with_one_line(tmp_path: Path) -> None:
    code, said = ended("edge", tmp_path, KLAIS_API_BIND="192.0.2.1:8080", KLAIS_UDP_BIND="127.0.0.1:0")
    assert (code, said.count("\n")) == (2, 1), said
    assert "'192.0.2.1'" in said and "no interface of this machine has this address" in said
    assert "(KLAIS_API_BIND)" in said


def test_a_worker_whose_web_port_is_taken_ends_with_one_line(taken: int, tmp_path: Path) -> None:
    code, said = ended("worker", tmp_path, KLAIS_WEB_PORT=str(taken))
    assert (code, said.count("\n")) == (1, 1), said
    assert f"tcp port {taken} on 127.0.0.1 is taken by" in said and "KLAIS_WEB_PORT" in said
