"""Locks that nobody else can hold, and waits that end and name the holder."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from klais.errors import LockHeld, NotPrivate
from klais.system import file_lock
from klais.system.file_lock import holder_pid, lock_file, try_lock
from klais.system.private_files import own_folder

HOLD = "import os, sys, time; from pathlib import Path; from klais.system.file_lock import lock_file\n"
HOLD += "lock_file(Path(sys.argv[1]), 'it', 0); print('held', flush=True); time.sleep(3600)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return own_folder(tmp_path / "folder") / "lock"


@pytest.fixture
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "held\n"
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def test_only_this_user_can_open_a_lock_file_and_so_hold_it(path: Path) -> None:
    before = os.umask(0)
    try:
        fd = lock_file(path, "it", 0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    os.close(fd)


def test_a_lock_file_that_was_open_to_all_is_closed(path: Path) -> None:
    path.touch(0o644)
    os.close(lock_file(path, "it", 0))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_who_has_the_lock_is_named(path: Path, held: subprocess.Popen[str]) -> None:
    with pytest.raises(LockHeld, match=rf"^the thing is held by pid {held.pid} \(.*python") as caught:
        lock_file(path, "the thing", 0)
    assert str(caught.value).isprintable(), "the command of another process is data"


def test_the_wait_ends_when_the_holder_does(path: Path, held: subprocess.Popen[str]) -> None:
    held.send_signal(signal.SIGKILL)
    os.close(lock_file(path, "it", 3600))


def test_a_long_wait_is_told_once(path: Path, held: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_lock, "REPORT_AFTER_S", 0.0)
    told: list[str] = []
    with pytest.raises(LockHeld):
        lock_file(path, "it", 0.2, told.append)
    assert len(told) == 1 and f"pid {held.pid}" in told[0]


def test_every_turn_of_another_holder_begins_the_wait_again(path: Path) -> None:
    fd = lock_file(path, "it", 0)
    first = os.fstat(fd).st_mtime_ns
    os.close(fd)
    os.utime(path, ns=(0, 0))
    fd = lock_file(path, "it", 0)
    assert os.fstat(fd).st_mtime_ns >= first, "a turn shows in the file's time"
    os.close(fd)


def test_two_who_only_look_do_not_disturb_each_other(path: Path) -> None:
    path.touch(0o600)
    first, second = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
    assert try_lock(first, shared=True) and try_lock(second, shared=True) and not try_lock(second)
    os.close(first)
    os.close(second)


def test_nobody_holds_a_lock_that_is_free(path: Path) -> None:
    fd = lock_file(path, "it", 0)
    assert holder_pid(fd) == os.getpid()
    os.close(fd)
    fd = os.open(path, os.O_RDONLY)
    assert holder_pid(fd) is None
    os.close(fd)


def test_a_link_in_its_place_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "target")
    with pytest.raises(NotPrivate, match="symbolic link"):
        lock_file(path, "it", 0)
    assert not (tmp_path / "target").exists()
