"""Compiled kernels are code: a cache that somebody else could have written is refused, and there is no other place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def load(cache: Path) -> subprocess.CompletedProcess[str]:
    """Import what opens the cache, in a process of its own; it compiles nothing."""
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    env |= {"KLAIS_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", "from klais.jit.compiler import CACHE_DIR; print(CACHE_DIR)"]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_the_cache_is_made_for_this_user_alone(tmp_path: Path) -> None:
    done = load(tmp_path / "cache")
    folder = Path(done.stdout.strip())
    assert done.returncode == 0 and folder.parent == tmp_path / "cache" / "numba", done.stderr
    for made in (folder, folder.parent, tmp_path / "cache"):
        assert made.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("up", [0, 1, 2])
def test_a_cache_that_others_may_write_to_is_refused(tmp_path: Path, up: int) -> None:
    folder = Path(load(tmp_path / "cache").stdout.strip())
    (folder, *folder.parents)[up].chmod(0o777)
    done = load(tmp_path / "cache")
    assert done.returncode != 0 and "others can write to it" in done.stderr.splitlines()[-1]


def test_a_cache_that_cannot_be_made_is_not_put_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = load(tmp_path / "file" / "cache")
    assert done.returncode != 0 and "KLAIS_CACHE_DIR" in done.stderr.splitlines()[-1]
