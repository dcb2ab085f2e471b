"""A training process that is stopped or killed: nothing else notices, and it leaves no model."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil

from klais.control.forecast import FEATURES
from klais.models.store import ModelStore
from klais.system.waiting import poll_until
from klais.traffic.chain import ForecastChain
from tests.support.process import PATIENCE
from tests.support.traffic_model import write_some

WINDOW = np.abs(np.random.default_rng(1).normal(1000.0, 50.0, (60, len(FEATURES))))


def test_a_stopped_and_a_killed_training_touch_nothing(tmp_path: Path) -> None:
    own, package = tmp_path / "own", tmp_path / "package"
    write_some(package, "m1")
    store = ModelStore(own, package)
    chain = ForecastChain(store)
    chain.refresh()
    env = os.environ | {"KLAIS_MODELS_DIR": str(own), "KLAIS_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-m", "klais", "models", "train", "--episodes", "100000"]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as training:
        try:
            process = psutil.Process(training.pid)
            assert poll_until(lambda: process.nice() == 19, 30 * PATIENCE), "it runs at the lowest priority"
            assert poll_until(lambda: process.cpu_times().user > 1.0, 60 * PATIENCE), "it works"
            # It shares nothing with the data path: no connection, and no open file where others keep theirs.
            assert process.net_connections() == []
            assert [f.path for f in process.open_files() if f.path.startswith(str(tmp_path))] == []
            training.send_signal(signal.SIGSTOP)
            assert chain.predict(WINDOW).model == "m1 (onnx)"
            assert not chain.refresh()
        finally:
            training.kill()
    assert training.returncode == -signal.SIGKILL
    assert [model.version for model in store.models("traffic")] == ["m1"]
    assert not chain.refresh() and chain.predict(WINDOW).model == "m1 (onnx)" and chain.fallbacks() == []


def test_a_training_that_needs_too_much_memory_ends_with_what_to_do(tmp_path: Path) -> None:
    own = tmp_path / "own"
    env = os.environ | {"KLAIS_MODELS_DIR": str(own), "KLAIS_STATE_DIR": str(tmp_path / "state")}
    (tmp_path / "traces").mkdir()
    many = "".join(f"{i},7\n" for i in range(6_000_000))  # 96 MB of numbers, and some copies
    (tmp_path / "traces" / "long.csv").write_text(many)
    command = [
        sys.executable,
        "-m",
        "klais",
        "models",
        "train",
        str(tmp_path / "traces"),
        "--max-bytes",
        str(512 << 20),
    ]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60 * PATIENCE)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr, ran.stderr
    assert "needs more than 536,870,912 bytes of address space: raise --max-bytes" in ran.stderr
    assert ModelStore(own).models("traffic")[0].shipped
