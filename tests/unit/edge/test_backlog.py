"""The backlog on a disk that fails: unreadable sectors, a folder that cannot be made, a full disk at the start."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from klais.config.load import Settings
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import Reason
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.spool import disk, folder
from klais.edge.sinks.spool.backlog import RETRY_S, Backlog, spool_folder
from klais.edge.sinks.spool.disk import UNREADABLE
from klais.edge.sinks.spool.folder import SECTOR_BYTES, spools_left_behind
from klais.edge.sinks.spool.records import Entry
from klais.errors import SpoolInUse

FRAMES = 5


def built(number: int, size: int = 40) -> ClosedBatch:
    return ClosedBatch(encode_batch([b"f" * size] * FRAMES, 0, 1, 9, number), 0, FRAMES)


def hand_out(backlog: Backlog) -> list[tuple[ClosedBatch, Entry]]:
    out = []
    while (found := backlog.next()) is not None:
        assert found[1] is not None
        out.append((found[0], found[1]))
    return out


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes bytes from ``first`` up to ``last`` of every file unreadable: the disk answers EIO, or ``code``."""
    real = os.pread

    def fail(first: int, last: int, code: int = errno.EIO) -> None:
        def pread(fd: int, size: int, at: int) -> bytes:
            if at < last and at + size > first:
                raise OSError(code, os.strerror(code))
            return real(fd, size, at)

        monkeypatch.setattr(folder.os, "pread", pread)

    return fail


@pytest.mark.parametrize("code", ["EIO", "EUCLEAN", "EBADMSG", "ENODATA", "EREMOTEIO", "EILSEQ"])
def test_a_sector_that_cannot_be_read_costs_its_batches_only(
    tmp_path: Path, unreadable: Callable[..., None], code: str
) -> None:
    counts = Counts()
    backlog = Backlog(Settings(state_dir=tmp_path), counts)
    batches = [built(n, 600) for n in range(10)]
    size = len(batches[0].value) + disk.HEADER_SIZE
    assert 2 * size > SECTOR_BYTES
    for each in batches:
        assert backlog.append(each, 0.0) is Reason.PASSED
    unreadable(2 * SECTOR_BYTES, 3 * SECTOR_BYTES, getattr(errno, code))
    lost = set(range(2 * SECTOR_BYTES // size, (3 * SECTOR_BYTES - 1) // size + 1))
    found = hand_out(backlog)
    assert [batches.index(one) for one, _ in found] == [n for n in range(10) if n not in lost]
    assert not backlog.holds(0), "new batches of the partition go straight to Kafka again"
    for _, entry in found:
        backlog.done(entry)
    assert int(counts.by_reason[Reason.SPOOL_DAMAGED]) == len(lost) * FRAMES and counts.spooled == 0
    assert [path.suffix for path in spool_folder(Settings(state_dir=tmp_path)).glob("*-*-*.*")] == [UNREADABLE]
    backlog.close()


def test_a_disk_that_reads_nothing_is_counted_and_its_files_are_kept(
    tmp_path: Path, unreadable: Callable[..., None]
) -> None:
    counts = Counts()
    backlog = Backlog(Settings(state_dir=tmp_path), counts)
    for n in range(4):
        backlog.append(built(n), 0.0)
    unreadable(0, 1 << 60)
    assert hand_out(backlog) == [] and backlog.drained
    assert int(counts.by_reason[Reason.SPOOL_DAMAGED]) == 4 * FRAMES
    assert len(list(tmp_path.rglob(f"*{UNREADABLE}"))) == 1
    backlog.close()


def test_a_spool_that_could_not_be_opened_is_opened_later_without_any_batch(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    before = Backlog(settings, Counts())
    for n in range(3):
        before.append(built(n), 0.0)
    before.close()
    there, aside = spool_folder(settings), tmp_path / "aside"
    there.rename(aside)
    there.write_text("a file where the folder was")
    counts = Counts()
    backlog = Backlog(settings, counts)
    assert "cannot be written" in backlog.problem and counts.spooled == 0
    backlog.maintain(backlog._retry_s)
    assert backlog.problem
    there.unlink()
    aside.rename(there)
    backlog.maintain(backlog._retry_s)
    assert backlog.problem == "" and (counts.spooled, counts.recovered) == (3 * FRAMES, 3 * FRAMES)
    assert [one.value for one, _ in hand_out(backlog)] == [built(n).value for n in range(3)]
    backlog.close()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    full = [True]
    real: Any = os.pwritev

    def pwritev(fd: int, parts: list[bytes], at: int) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(real(fd, parts, at))

    def pwrite(fd: int, data: bytes, at: int) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(real_pwrite(fd, data, at))

    real_pwrite: Any = os.pwrite
    monkeypatch.setattr(disk.os, "pwritev", pwritev)
    monkeypatch.setattr(disk.os, "pwrite", pwrite)
    return full


def test_a_disk_that_is_full_at_the_start_is_named_before_it_is_needed_and_cleared_after(
    tmp_path: Path, full_disk: list[bool]
) -> None:
    full_disk[0] = False
    before = Backlog(Settings(state_dir=tmp_path), Counts())
    before.append(built(0), 0.0)
    before.close()
    full_disk[0] = True
    counts = Counts()
    backlog = Backlog(Settings(state_dir=tmp_path), counts)
    assert "No space left" in backlog.problem and not backlog.durable
    assert [one.value for one, _ in hand_out(backlog)] == [built(0).value], "what lies there goes to Kafka all the same"
    backlog.maintain(backlog._retry_s)
    assert backlog.problem
    full_disk[0] = False
    backlog.maintain(backlog._retry_s + RETRY_S)
    assert backlog.problem == "" and backlog.durable
    backlog.close()


def test_spools_that_nobody_delivers_are_found(tmp_path: Path) -> None:
    state, other = tmp_path / "state", tmp_path / "other"
    for folder_, edge_id in ((state, 1), (state, 2), (other, 1), (other, 3)):
        settings = Settings(state_dir=state, spool_dir=folder_, edge_id=edge_id)
        backlog = Backlog(settings, Counts())
        if (folder_, edge_id) != (other, 3):
            backlog.append(built(0), 0.0)
        backlog.close()
    running = Backlog(Settings(state_dir=state, edge_id=2), Counts())
    found = spools_left_behind(Settings(state_dir=state, spool_dir=other, edge_id=1), [1])
    assert found == [state / "spool-1"], "not our own, not an empty one, not one that a running edge owns"
    running.close()
    assert set(spools_left_behind(Settings(state_dir=state, spool_dir=other), [1])) == {
        state / "spool-1",
        state / "spool-2",
    }
    assert spools_left_behind(Settings(state_dir=state), [1, 2]) == []


@pytest.mark.parametrize(
    "how", ["the folder is removed", "files are removed", "the folder is moved", "files are moved"]
)
def test_files_that_another_program_removes_are_named_and_newer_batches_get_a_new_file(
    tmp_path: Path, how: str
) -> None:
    settings, counts = Settings(state_dir=tmp_path), Counts()
    backlog = Backlog(settings, counts)
    for n in range(3):
        backlog.append(built(n), 0.0)
    backlog.maintain(10.0)
    assert backlog.problems() == []
    there = spool_folder(settings)
    if how == "the folder is removed":
        shutil.rmtree(there)
    elif how == "the folder is moved":
        there.rename(tmp_path / "moved")
    for path in there.glob("*.spool"):
        path.unlink() if how == "files are removed" else path.rename(tmp_path / path.name)
    backlog.maintain(10.0 + RETRY_S)
    (text,) = backlog.problems()
    assert f"the {3 * FRAMES} frames" in text and "Let it run" in text
    for n in range(3, 5):
        assert backlog.append(built(n), 12.0) is Reason.PASSED
    assert len(list(there.glob("*.spool"))) == 1  # on disk again
    backlog.maintain(12.0 + RETRY_S)
    assert backlog.problems() == [text]
    with pytest.raises(SpoolInUse):
        Backlog(settings, Counts(), lock_wait_s=0.1)
    out = hand_out(backlog)
    assert [one.value for one, _ in out] == [built(n).value for n in range(5)]
    for _, entry in out[:4]:
        backlog.done(entry)
    backlog.maintain(14.0 + RETRY_S)
    assert backlog.problems() == [] and counts.spooled == FRAMES
    backlog.close()
    found = Counts()
    again = Backlog(settings, found)  # a restart finds what is in the new file, behind the position
    assert found.recovered == FRAMES
    again.close()
