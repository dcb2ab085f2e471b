"""A sync that fails: what is not known to be on disk is named, and written again, also at the very end."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from klais.config.load import Settings
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import Reason
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.spool.backlog import RETRY_S, Backlog, spool_folder
from klais.edge.sinks.spool.records import COPY

FRAMES = 3
VALUES = [encode_batch([b"f" * 50] * FRAMES, 0, 1, 9, number) for number in range(5)]


class Disk:
    """Notes the files that were synced; ``failures`` of the next syncs fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures, self.synced = 0, list[str]()
        monkeypatch.setattr(os, "fdatasync", self._sync(os.fdatasync))
        monkeypatch.setattr(os, "fsync", self._sync(os.fsync))

    def _sync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            if self.failures:
                self.failures -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(fd)
            self.synced.append(os.readlink(f"/proc/self/fd/{fd}"))

        return sync


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def filled(settings: Settings, count: int, counts: Counts | None = None) -> Backlog:
    backlog = Backlog(settings, Counts() if counts is None else counts)
    for value in VALUES[:count]:
        assert backlog.append(ClosedBatch(value, 0, FRAMES), 0.0) is Reason.PASSED
    return backlog


def found(settings: Settings) -> list[bytes]:
    """What a start finds, in order."""
    backlog, out = Backlog(settings, Counts()), []
    while (one := backlog.next()) is not None:
        out.append(one[0].value)
    assert backlog.warning == "" and backlog.problems() == []
    backlog.close()
    return out


@pytest.mark.parametrize("handed_out", [0, 2])
def test_a_file_whose_sync_failed_is_written_again(tmp_path: Path, disk: Disk, handed_out: int) -> None:
    """A later sync of the same file would succeed: the kernel has marked its pages as written."""
    settings, counts = Settings(state_dir=tmp_path), Counts()
    backlog = filled(settings, 3, counts)
    entries = [one[1] for _ in range(handed_out) if (one := backlog.next()) is not None]
    disk.failures = 1
    backlog.maintain(1.0)
    (text,) = backlog.problems()
    assert "Input/output error" in text and f"up to {3 * FRAMES} frames on it are not synced" in text
    assert not backlog.durable and "not synced" not in backlog.problem

    backlog.append(ClosedBatch(VALUES[3], 0, FRAMES), 1.0)  # meanwhile in memory
    assert counts.held == FRAMES
    disk.synced.clear()
    backlog.maintain(1.0 + RETRY_S)
    (segment, newer) = sorted(spool_folder(settings).glob("*.spool"))
    assert str(segment.with_suffix(COPY)) in disk.synced, "the copy was synced before it replaced the file"
    assert backlog.problems() == [] and backlog.durable and newer.stat().st_size and counts.held == 0
    for entry in entries:
        assert entry is not None
        backlog.done(entry)
    assert counts.spooled == FRAMES * (4 - handed_out)
    backlog.close()
    assert found(settings) == VALUES[handed_out:4]


def test_a_write_that_works_does_not_hide_that_older_frames_are_not_synced(tmp_path: Path, disk: Disk) -> None:
    backlog = filled(Settings(state_dir=tmp_path), 3)
    disk.failures = 1
    backlog.maintain(1.0)
    assert backlog.append(ClosedBatch(VALUES[3], 0, FRAMES), 1.0 + RETRY_S) is Reason.PASSED
    disk.failures = 10**6
    backlog.maintain(1.0 + RETRY_S)
    assert "not synced" in backlog.problems()[0]
    disk.failures = 0
    backlog.maintain(1.0 + 2 * RETRY_S)
    assert backlog.problems() == []
    backlog.close()


@pytest.mark.parametrize("failures", [1, 10**6])
def test_the_last_sync_is_tried_with_a_new_file_before_it_is_given_up(
    tmp_path: Path, disk: Disk, failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(state_dir=tmp_path)
    backlog = filled(settings, 3)
    disk.failures = failures
    backlog.close()
    said = [vars(record)["fields"] for record in caplog.records if record.message == "frames_not_synced"]
    assert [one["frames"] for one in said] == ([] if failures == 1 else [3 * FRAMES])
    assert bool(backlog.problem) == bool(said), "it is in the last record on klais_stats, too"
    disk.failures = 0
    assert found(settings) == VALUES[:3]
    assert not list(spool_folder(settings).glob(f"*{COPY}"))


def test_the_folder_is_synced_before_anything_in_a_new_file_counts_as_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, synced, fails = Settings(state_dir=tmp_path), list[Path](), [True, False]

    def sync(path: Path) -> None:
        if fails.pop(0) if fails else False:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        synced.append(path)

    monkeypatch.setattr("klais.edge.sinks.spool.disk.sync_folder", sync)
    backlog = filled(settings, 1)
    assert backlog.problem and not synced, "it waits in memory"
    backlog.maintain(RETRY_S)
    assert backlog.problem == "" and synced == [spool_folder(settings)]
    backlog.close()
    assert found(settings) == VALUES[:1]


def test_what_a_killed_copy_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    filled(settings, 2).close()
    (segment,) = spool_folder(settings).glob("*.spool")
    segment.with_suffix(COPY).write_bytes(segment.read_bytes()[:50])
    foreign = [spool_folder(settings) / name for name in ("notes.copy", "core", ".hidden", "x.spool")]
    for path in foreign:
        path.write_text("not ours")
    assert found(settings) == VALUES[:2]
    assert not list(spool_folder(settings).glob("0*.copy")) and all(path.exists() for path in foreign)


def test_closing_twice_closes_no_descriptor_of_another_file(tmp_path: Path) -> None:
    backlog = filled(Settings(state_dir=tmp_path), 1)
    backlog.close()
    files = [open(tmp_path / f"{k}", "wb") for k in range(8)]  # noqa: SIM115 - they get the numbers
    backlog.close()
    for file in files:
        file.write(b"still open")
        file.close()
