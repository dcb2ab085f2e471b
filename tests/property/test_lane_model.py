"""The model of the lane's protocol in docs/formal, checked by Spin: every order of events within small bounds."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import need_command

MODEL = Path(__file__).parents[2] / "docs" / "formal" / "lane.pml"
SEARCH = os.environ.get("KLAIS_TEST_SEARCH") == "1"
EXACT = {"EXACT": 1}  # with one loss the figures are exact
SMALL = [
    {"FRAMES": 2, "SESSIONS": 1, "ENDS": 1, "CUTS": 1} | EXACT,
    {"FRAMES": 2, "SESSIONS": 2, "ENDS": 0, "CUTS": 0} | EXACT,
    {"FRAMES": 1, "SESSIONS": 2, "ENDS": 0, "CUTS": 1} | EXACT,
]
LARGE = [
    {"FRAMES": 2, "SESSIONS": 1, "ENDS": 1, "CUTS": 2},
    {"FRAMES": 3, "SESSIONS": 1, "ENDS": 2, "CUTS": 1} | EXACT,
    {"FRAMES": 2, "SESSIONS": 2, "ENDS": 1, "CUTS": 0} | EXACT,
    {"FRAMES": 2, "SESSIONS": 2, "ENDS": 0, "CUTS": 1} | EXACT,
]
# Defects that KLAIS had, with the bounds in which they show and the assertion that fails.
DEFECTS = [
    ("BLIND", {"FRAMES": 2, "ENDS": 2}, "missing<=lost"),
    ("TWICE", {"FRAMES": 2, "ENDS": 2} | EXACT, "missing==lost"),
    ("UNSEEN", {"FRAMES": 3, "ENDS": 1}, "missing<=lost"),
    ("ORDERED", {"FRAMES": 3, "ENDS": 1}, "missing<=lost"),
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


@pytest.mark.parametrize(("name", "bounds", "fails"), DEFECTS, ids=[name for name, *_ in DEFECTS])
def test_the_model_finds_what_was_wrong_once(tmp_path: Path, name: str, bounds: dict[str, int], fails: str) -> None:
    out = check(tmp_path, {"SESSIONS": 1, "CUTS": 1, name: 1} | bounds)
    assert re.search(rf"assertion violated .*{fails}", out), out
