"""Edge and worker take their kernels from the library: a path whose numba, llvmlite and SciPy fail is enough."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from klais.config.load import Settings
from klais.core.wire.constants import encode_frame
from klais.jit.library import NoLibrary, open_library
from klais.kafka.topics import Topics
from tests.support.edge import edge_process, read_all
from tests.support.fault_harness import worker
from tests.support.needs import need_missing
from tests.support.process import wait_for

FORBIDDEN = Path(__file__).parents[1] / "support" / "without_numba"


def test_frames_pass_edge_and_worker(
    settings_for: Callable[..., Settings],
    topics_of: Callable[[Settings], Topics],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        open_library()
    except NoLibrary as error:
        need_missing("library", str(error))
    monkeypatch.delenv("KLAIS_JIT", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(FORBIDDEN), prepend=os.pathsep)
    for name in ("numba", "llvmlite", "scipy"):
        refused = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True)
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
            assert "/kernels.so" in mapped and "llvmlite" not in mapped
