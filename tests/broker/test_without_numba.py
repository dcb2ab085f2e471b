"""Edge and worker take their kernels from the library: a path whose numba and llvmlite cannot be imported is enough."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from klais.config.load import Settings
from klais.core.wire.constants import encode_frame
from klais.kafka.topics import Topics
from tests.support.edge import edge_process, read_all
from tests.support.fault_harness import worker
from tests.support.needs import need_missing
from tests.support.process import PATIENCE, wait_for

FORBIDDEN = Path(__file__).parents[1] / "support" / "without_numba"


def test_frames_pass_edge_and_worker(
    settings_for: Callable[..., Settings],
    topics_of: Callable[[Settings], Topics],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if os.environ.get("KLAIS_TEST_LIBRARY") != "1":
        need_missing("library", "set KLAIS_TEST_LIBRARY=1: it compiles all kernels")
    monkeypatch.delenv("KLAIS_JIT", raising=False)
    monkeypatch.setenv("KLAIS_CACHE_DIR", str(tmp_path / "cache"))
    warm = [sys.executable, "-m", "klais", "warm", "--library", "--quiet"]
    made = subprocess.run(warm, capture_output=True, timeout=180 * PATIENCE)
    assert made.returncode == 0, made.stderr
    monkeypatch.setenv("PYTHONPATH", str(FORBIDDEN), prepend=os.pathsep)
    refused = subprocess.run([sys.executable, "-c", "import numba"], capture_output=True, text=True)
    assert "needs no compiler" in refused.stderr

    settings = settings_for(partitions=1)
    topics = topics_of(settings)
    frames = [encode_frame(f"dev{n % 3}", n // 3, b'{"t":%d}' % n) for n in range(30)]
    with edge_process(settings, tmp_path / "edge.log") as edge, worker(settings, tmp_path / "worker.log") as lanes:
        edge.wait_status(200)
        lanes.wait_ready()
        edge.send(frames)
        landed = wait_for(
            lambda: records if len(records := read_all(settings.bootstrap, topics.telemetry, 1)) >= 30 else [],
            30,
            lambda: f"30 records; the worker's log ends:\n{lanes.tail()}",
        )
        assert sorted({record.key() for record in landed}) == [b"dev0", b"dev1", b"dev2"]
        for process in (edge.process, lanes.process):
            mapped = Path(f"/proc/{process.pid}/maps").read_text()
            assert "/kernels/" in mapped and "llvmlite" not in mapped
