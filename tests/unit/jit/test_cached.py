"""Kernels of old versions leave the cache; those in use stay."""

import os
from pathlib import Path

import pytest

from klais.jit.cached import UNUSED_S, mark_used, remove_unused

NOW_S = 1_700_000_000.0  # long before the present: mark_used takes the real time


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    for name, age_s in ("old", UNUSED_S + 1.0), ("recent", UNUSED_S - 1.0), ("used", 2 * UNUSED_S):
        (tmp_path / name / "level").mkdir(parents=True)
        (tmp_path / name / "level" / "kernels.so").write_bytes(b"code")
        os.utime(tmp_path / name, (NOW_S - age_s, NOW_S - age_s))
    return tmp_path


def test_only_what_no_process_used_for_long_is_removed(cache: Path) -> None:
    assert remove_unused(cache, cache / "used", NOW_S) == [cache / "old"]
    assert sorted(path.name for path in cache.iterdir()) == ["recent", "used"]
    assert (cache / "recent" / "level" / "kernels.so").exists()


def test_a_folder_that_a_process_loads_from_counts_as_new(cache: Path) -> None:
    mark_used(cache / "old")
    assert remove_unused(cache, cache / "used", (cache / "old").stat().st_mtime + UNUSED_S / 2) == [cache / "recent"]


def test_links_files_and_a_missing_cache_are_left_alone(cache: Path) -> None:
    (cache / "link").symlink_to(cache / "used")
    (cache / "file").write_bytes(b"")
    for name in "link", "file":
        os.utime(cache / name, (0, 0), follow_symlinks=False)
    remove_unused(cache, cache / "used", NOW_S)
    assert {"link", "file", "used"} <= {path.name for path in cache.iterdir()}
    assert remove_unused(cache / "none", cache / "none" / "used", NOW_S) == []


def test_loading_from_a_cache_that_cannot_be_written_works(tmp_path: Path) -> None:
    mark_used(tmp_path / "missing")  # as on a read-only file system: no error
