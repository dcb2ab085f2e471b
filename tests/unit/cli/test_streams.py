"""Commands whose standard streams are closed: no traceback, and no output in files opened later."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import PATIENCE

PLAN = "plan --devices 10 --rate 10"


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command of a shell, with its redirections."""
    line = f"exec {shlex.quote(sys.executable)} -m klais {command}"
    return subprocess.run(
        ["sh", "-c", line], cwd=folder, capture_output=True, text=True, timeout=60 * PATIENCE, check=False
    )


@pytest.mark.parametrize(("redirected", "code"), [(f"{PLAN} >&-", 0), (f"{PLAN} -o csv >&- 2>&-", 0), ("top <&-", 2)])
def test_closed_output_is_discarded(redirected: str, code: int, tmp_path: Path) -> None:
    ran = run(redirected, tmp_path)
    assert (ran.returncode, ran.stdout) == (code, ""), ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("command", ["send --device a -", "explain -", "devices block -"])
def test_closed_input_is_empty(command: str, tmp_path: Path) -> None:
    ran = run(f"{command} <&-", tmp_path)
    assert ran.returncode == 2 and "Traceback" not in ran.stderr, ran.stderr
    assert ran.stderr.strip()


def test_characters_that_the_encoding_lacks_are_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    (tmp_path / "\u20ac.csv").write_text("timestamp,value\n1,2\n2,3\n")
    ran = run("score \u20ac.csv", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "2 rows, 0 flags; plot: \\u20ac.svg\n"


def test_files_that_are_opened_later_keep_their_content(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("timestamp,value\n1,2\n2,3\n")
    ran = run("score a.csv --svg a.svg <&- >&- 2>&-", tmp_path)
    assert ran.returncode == 0
    assert (tmp_path / "a.svg").read_text().rstrip().endswith("</svg>")
