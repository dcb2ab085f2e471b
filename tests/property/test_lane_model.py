"""The model of the lane's protocol in docs/formal, checked by Spin: every order of events within small bounds."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import need_command

MODEL = Path(__file__).parents[2] / "docs" / "formal" / "lane.pml"
SEARCH = os.environ.get("KLAIS_TEST_SEARCH") == "1"
SMALL = [
    {"FRAMES": 2, "SESSIONS": 1, "ENDS": 2, "CUTS": 1},
    {"FRAMES": 2, "SESSIONS": 2, "ENDS": 0, "CUTS": 0},
    {"FRAMES": 1, "SESSIONS": 2, "ENDS": 0, "CUTS": 1},
]
LARGE = [
    {"FRAMES": 2, "SESSIONS": 1, "ENDS": 1, "CUTS": 2},
    {"FRAMES": 3, "SESSIONS": 1, "ENDS": 2, "CUTS": 1},
    {"FRAMES": 2, "SESSIONS": 2, "ENDS": 1, "CUTS": 0},
    {"FRAMES": 2, "SESSIONS": 2, "ENDS": 0, "CUTS": 1},
]


def check(folder: Path, bounds: dict[str, int]) -> str:
    """Build the checker for these bounds, let it visit all states, and return what it prints."""
    given = [f"-D{name}={value}" for name, value in {"SIZE": 14, **bounds}.items()]
    compile_ = [need_command("spin", "cc"), "-O1", "-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=2048", "-DMEMLIM=8000"]
    for command in (
        [need_command("spin", "spin"), "-a", *given, str(MODEL)],
        [*compile_, "-o", "pan", "pan.c"],
        ["./pan", "-m200000", "-E"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("bounds", SMALL + LARGE * SEARCH, ids=str)
def test_nothing_is_missing_or_doubled_and_not_counted(tmp_path: Path, bounds: dict[str, int]) -> None:
    out = check(tmp_path, bounds)
    assert "Search not completed" not in out and "max search depth too small" not in out, out
    assert re.search(r"errors: 0$", out, re.MULTILINE), out


def test_the_model_finds_a_loss_that_fences_hide(tmp_path: Path) -> None:
    out = check(tmp_path, {"FRAMES": 2, "SESSIONS": 1, "ENDS": 2, "CUTS": 1, "BLIND": 1})
    assert "assertion violated (missing<=lost)" in out
