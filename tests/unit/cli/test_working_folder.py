"""A program of ours that is started in /tmp must not import what somebody put there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from klais.cli.worker import leave_folder_of_others, worker_command
from klais.config.load import Settings
from klais.edge.supervisor import fleet
from klais.errors import ModelUnavailable
from klais.language import client
from klais.language.client import LanguageModel
from klais.system.processes import python_module

KLAIS = Path(fleet.__file__).parents[2]


def test_a_module_in_the_working_folder_is_not_imported(tmp_path: Path) -> None:
    for name in ("klais", "json", "orjson"):
        (tmp_path / f"{name}.py").write_text("import os\nos._exit(66)\n")
    command = python_module("klais.text")
    assert subprocess.run(command, cwd=tmp_path, timeout=120).returncode == 0
    planted = [sys.executable, *command[2:]]  # the same without -P
    assert subprocess.run(planted, cwd=tmp_path, timeout=120, capture_output=True).returncode != 0


def test_every_command_of_ours_is_made_so() -> None:
    """``[sys.executable, "-m", ...]`` anywhere else would look into the working folder."""
    found = [path for path in KLAIS.rglob("*.py") if '"-m", "' in path.read_text() or '"-m",\n' in path.read_text()]
    assert found == []
    assert worker_command(Settings())[:4] == [sys.executable, "-P", "-m", "faust"]
    assert '"-P", "-m"' in (KLAIS / "system" / "processes.py").read_text()


def test_a_worker_leaves_a_folder_that_others_can_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust puts the working folder into the path of imports by itself."""
    shared, own = tmp_path / "shared", tmp_path / "own"
    for folder, mode in ((shared, 0o777), (own, 0o700)):
        folder.mkdir()
        folder.chmod(mode)
    monkeypatch.chdir(own)
    settings = Settings(state_dir=Path("state"), spool_dir=Path("spool"))
    assert leave_folder_of_others(settings) is settings and Path.cwd() == own
    monkeypatch.chdir(shared)
    (shared / "state" / "faust").mkdir(parents=True)
    there = leave_folder_of_others(settings)
    assert Path.cwd() == shared / "state" / "faust"
    assert (there.state_dir, there.spool_dir) == (shared / "state", shared / "spool")
    assert there.cache_dir is None


def test_a_language_model_of_somebody_else_is_not_loaded(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    model.chmod(0o666)
    asked = LanguageModel(model)
    with pytest.raises(ModelUnavailable, match="others can write to it"):
        asked.ask("class", prompt="a")
    asked.close()


def test_the_process_of_the_language_model_gets_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tmp_path / "model.gguf", tmp_path / "environment"
    model.write_bytes(b"GGUF")
    monkeypatch.setenv("KLAIS_API_TOKEN", "hunter2-hunter2-hunter2")
    script = "import os, sys; open(sys.argv[1], 'w').write(repr(dict(os.environ))); print('{}')"
    command = [sys.executable, "-c", script, str(seen)]
    monkeypatch.setattr(client, "python_module", lambda *_: command)
    asked = LanguageModel(model)
    with pytest.raises(ModelUnavailable):
        asked.ask("class", prompt="a")
    asked.close()
    text = seen.read_text()
    assert "PATH" in text and "hunter2" not in text and os.environ["PATH"] in text
