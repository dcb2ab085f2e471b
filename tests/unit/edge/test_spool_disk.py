"""A disk that turns read-only or breaks under the spool: no accepted batch is lost, the state is named, and it ends."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from klais.config.load import Settings
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import Reason
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.spool.backlog import RETRY_S, Backlog, spool_folder
from klais.edge.sinks.spool.disk import MAX_FILES, Spool
from klais.edge.sinks.spool.segment import HEADER_SIZE, read_position
from klais.telemetry import log as logs

FRAMES = 3


class Disk:
    """Every change on a disk that is ``broken`` fails; a write leaves ``torn`` bytes of its record behind."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken, self.torn = False, 0
        self._pwrite = os.pwrite
        pwritev: Any = os.pwritev

        def torn_pwritev(fd: int, parts: list[bytes], at: int) -> int:
            if self.broken and self.torn:
                self._pwrite(fd, b"".join(parts)[: self.torn], at)
            self._check()
            return int(pwritev(fd, parts, at))

        monkeypatch.setattr(os, "pwritev", torn_pwritev)
        for name in ("pwrite", "ftruncate", "unlink", "mkdir"):
            monkeypatch.setattr(os, name, self._guard(getattr(os, name)))

    def _check(self) -> None:
        if self.broken:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def _guard(self, real: Any) -> Any:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._check()
            return real(*args, **kwargs)

        return guarded


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def built(number: int) -> ClosedBatch:
    return ClosedBatch(encode_batch([b"f" * 50] * FRAMES, 0, 1, 9, number), 0, FRAMES)


def hand_out(backlog: Backlog) -> list[bytes]:
    """All batches, acknowledged in order."""
    out = []
    while (found := backlog.next()) is not None:
        value, entry = found[0].value, found[1]
        out.append(value)
        if entry is not None:
            backlog.done(entry)
    return out


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("torn", [0, HEADER_SIZE - 1, HEADER_SIZE + 9])
def test_the_rest_of_a_failed_write_costs_no_accepted_batch(tmp_path: Path, disk: Disk, before: int, torn: int) -> None:
    settings = Settings(state_dir=tmp_path)
    backlog = Backlog(settings, Counts())
    values = [built(number).value for number in range(before + 3)]
    for number in range(before):
        assert backlog.append(built(number), 0.0) is Reason.PASSED
    disk.broken, disk.torn = True, torn
    for number in range(before, before + 3):
        assert backlog.append(built(number), 0.0) is Reason.PASSED, "memory has room"
    assert "Read-only file system" in backlog.problem and not backlog.durable
    disk.broken = False
    backlog.maintain(backlog._retry_s)
    assert backlog.problem == "" and not len(backlog._memory), "memory goes to disk once that works again"
    backlog.close()
    counts = Counts()
    backlog = Backlog(settings, counts)
    assert hand_out(backlog) == values and backlog.warning == "" and not counts.by_reason.any()
    backlog.close()


def test_a_disk_that_keeps_what_is_acknowledged_is_named_and_costs_repeats_only(tmp_path: Path, disk: Disk) -> None:
    settings = Settings(state_dir=tmp_path)
    folder, values = spool_folder(settings), [built(number).value for number in range(4)]
    backlog = Backlog(settings, Counts())
    for number in range(4):
        backlog.append(built(number), 0.0)
    assert backlog._spool is not None
    identity = backlog._spool._identity
    disk.broken = True
    assert hand_out(backlog) == values and backlog.drained, "what can be read goes to Kafka"
    backlog.maintain(0.0)
    assert "Read-only file system" in backlog.problem and backlog.problems()
    backlog.maintain(backlog._retry_s)
    assert backlog.problem and len(list(folder.glob("*.spool"))) == 1 and read_position(folder, identity) == 0

    disk.broken = False  # a start at this moment: the same batches with the same numbers, so lanes recognise them
    backlog.close()
    backlog = Backlog(settings, Counts())
    disk.broken = True
    assert hand_out(backlog) == values and backlog.warning == ""

    disk.broken = False
    backlog.maintain(backlog._retry_s + RETRY_S)
    backlog.maintain(backlog._retry_s + RETRY_S)
    assert backlog.problem == "" and not list(folder.glob("*.spool"))
    assert read_position(folder, identity) == sum(HEADER_SIZE + len(value) for value in values)
    backlog.close()


def test_a_spool_that_cannot_be_opened_for_long_keeps_no_descriptors(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    backlog = Backlog(settings, Counts())
    backlog.append(built(0), 0.0)
    backlog.close()
    name = next(spool_folder(settings).glob("*.spool")).name
    (spool_folder(settings) / f"9{name[1:]}").mkdir()  # it lies behind the sound one, and no disk opens it for writing
    backlog = Backlog(settings, Counts())
    assert "Is a directory" in backlog.problem
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        backlog.maintain(backlog._retry_s)
    assert backlog.problem and len(os.listdir("/proc/self/fd")) == before


def test_a_position_that_the_disk_cannot_read_means_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path)
    backlog = Backlog(settings, Counts())
    for number in range(3):
        backlog.append(built(number), 0.0)
    found = backlog.next()
    assert found is not None and found[1] is not None
    backlog.done(found[1])
    backlog.close()
    real = os.pread

    def pread(fd: int, size: int, at: int) -> bytes:
        if Path(os.readlink(f"/proc/self/fd/{fd}")).name.startswith("position-"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, size, at)

    monkeypatch.setattr(os, "pread", pread)
    backlog = Backlog(settings, Counts())
    assert hand_out(backlog) == [built(number).value for number in range(3)] and not backlog.problem
    backlog.close()


@pytest.mark.parametrize("kind", ["a file", "a folder that nobody may make"])
def test_a_spool_folder_that_cannot_be_made_is_said_at_once_and_the_edge_takes_frames(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "every", lambda *_: 1)  # another test may have used up the line of these 5 s
    named = tmp_path / "spool" if kind == "a file" else Path("/proc/nope")
    if kind == "a file":
        named.write_text("no folder")
    backlog = Backlog(Settings(state_dir=tmp_path, spool_dir=named), Counts())
    (said,) = [record for record in caplog.records if record.message == "spool_failed"]
    (problem,) = backlog.problems()
    why = "Not a directory" if kind == "a file" else "No such file or directory"
    assert f"the spool {named}/spool-1 cannot be written: {why}" in problem and "KLAIS_SPOOL_DIR" in problem
    fields = vars(said)["fields"]
    assert why in fields["why"] and "KLAIS_SPOOL_DIR" in fields["do"] and "the edge receives" in fields["now"]
    assert backlog.append(built(0), 0.0) is Reason.PASSED and backlog.no_room == ""
    assert hand_out(backlog) == [built(0).value]


@pytest.mark.parametrize("before", [0, 1 << 20])
def test_a_limit_that_is_raised_at_run_time_makes_no_small_files(tmp_path: Path, before: int) -> None:
    """Each file is open: many of them would use up the descriptors of the process."""
    spool_folder(Settings(state_dir=tmp_path)).mkdir(mode=0o700)  # of an earlier run: it is opened without a limit too
    small = Settings(state_dir=tmp_path, spool_max_bytes=before, batch_max_bytes=65_536)
    backlog = Backlog(small, Counts())
    backlog.configure(small.model_copy(update={"spool_max_bytes": 1 << 30}))
    for number in range(40):
        value = encode_batch([b"f" * 50_000], 0, 1, 9, number)
        assert backlog.append(ClosedBatch(value, 0, 1), 0.0) is Reason.PASSED
    assert len(list(spool_folder(small).glob("*.spool"))) == 1
    backlog.close()


def test_the_number_of_files_of_a_large_spool_is_bounded(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    spool = Spool(tmp_path, 7, MAX_FILES * 5000, "none", segment_bytes=100)
    for _ in range(45):
        spool.append(bytes(1000), 0, 1)
    assert len(list(tmp_path.glob("*.spool"))) == 45 // 4 + 1
    spool.close()
