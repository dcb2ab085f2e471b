"""Files of a spool that are cut, emptied, gone or overwritten: what can be read goes out, and the rest is named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from klais.config.load import Settings
from klais.core.wire.batch import encode_batch
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.spool.backlog import Backlog, spool_folder
from klais.edge.sinks.spool.disk import Spool
from klais.edge.sinks.spool.segment import HEADER_SIZE

BATCHES, FRAMES, VALUE = 60, 3, 100
SIZE = VALUE + HEADER_SIZE


def written(folder: Path) -> list[Path]:
    """The files of a spool, eight batches each."""
    spool = Spool(folder, 7, 1 << 20, "none", segment_bytes=8 * SIZE)
    for i in range(BATCHES):
        spool.append(bytes([i]) * VALUE, 0, FRAMES)
    spool.close()
    return sorted(folder.glob("*.spool"))


def overwrite(path: Path, at: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    path.write_bytes(data)


CASES: dict[str, tuple[Callable[[Path], None], int, int]] = {  # batches lost, bytes of which nobody knows the frames
    "nothing": (lambda path: None, 0, 0),
    "cut in the middle": (lambda path: os.truncate(path, 4 * SIZE + 9), 4, 4 * SIZE),
    "empty": (lambda path: os.truncate(path, 0), 8, 8 * SIZE),
    "gone": (Path.unlink, 8, 8 * SIZE),
    "a header damaged": (lambda path: overwrite(path, SIZE, b"\xff" * 8), 1, SIZE),
    "all zeros": (lambda path: overwrite(path, 0, bytes(8 * SIZE)), 8, 8 * SIZE),
    "a value damaged": (lambda path: overwrite(path, SIZE + HEADER_SIZE, b"\xff" * 8), 1, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_damaged_file_held_is_counted_or_named_in_bytes(tmp_path: Path, name: str) -> None:
    hurt, batches, unknown = CASES[name]
    tmp_path.chmod(0o700)
    hurt(written(tmp_path)[3])
    spool = Spool(tmp_path, 7, 1 << 20, "none", segment_bytes=8 * SIZE)
    got = []
    while (entry := spool.next()) is not None:
        got.append(entry.value[0])
        spool.done(entry)
    lost = set(range(BATCHES)) - set(got)
    assert len(lost) == batches and lost <= set(range(24, 32)) and got == sorted(got)
    assert (spool.damage.lost_bytes, spool.damage.torn_bytes) == (unknown, 0)
    assert spool.damage.frames == (0 if unknown else batches * FRAMES)
    assert (spool.frames, spool.batches, spool.bytes) == (0, 0, 0)
    spool.close()
    again = Spool(tmp_path, 7, 1 << 20, "none")
    assert again.damage.lost_bytes == 0  # once is enough
    again.close()


@pytest.mark.parametrize("which", [0, 3, -1])
def test_a_file_of_another_version_stays_and_is_named(tmp_path: Path, which: int) -> None:
    """For example after a downgrade: the version that wrote it can still deliver it."""
    settings = Settings(state_dir=tmp_path, spool_max_bytes=1 << 19, batch_max_bytes=65_536)
    counts = Counts()
    backlog = Backlog(settings, counts)
    values = [encode_batch([bytes([i]) * 9000] * FRAMES, 0, 1, 9, i) for i in range(16)]
    for value in values:
        assert not backlog.append(ClosedBatch(value, 0, FRAMES), 0.0)
    backlog.close()
    files = sorted(spool_folder(settings).glob("*.spool"))
    other = files[which]
    overwrite(other, 0, b"KSR2")
    content = other.read_bytes()
    for turn in range(2):
        backlog = Backlog(settings, counts)
        assert "1 segments" in backlog.warning and "another version" in backlog.warning
        assert "bytes are gone" not in backlog.warning
        newer = encode_batch([bytes([99 + turn]) * 9000] * FRAMES, 0, 1, 10, turn)
        assert not backlog.append(ClosedBatch(newer, 0, FRAMES), 0.0)
        got = []
        while (found := backlog.next()) is not None:
            assert found[1] is not None
            got.append(found[0].value)
            backlog.done(found[1])
        assert got[-1] == newer and got[:-1] == ([v for v in values if v not in content] if turn == 0 else [])
        backlog.close()
        assert list(spool_folder(settings).glob("*.spool")) == [other] and other.read_bytes() == content
    assert not counts.by_reason.any()


def test_health_of_the_edge_says_that_bytes_of_the_spool_are_gone(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, spool_max_bytes=1 << 20, batch_max_bytes=65_536, partitions=1)
    backlog = Backlog(settings, Counts())
    for number in range(5):
        backlog.append(ClosedBatch(encode_batch([bytes(30_000)], 0, 1, 1, number), 0, 1), 1.0)
    assert backlog.warning == ""
    backlog.close()
    files = sorted(spool_folder(settings).glob("*.spool"))
    assert len(files) > 1
    os.truncate(files[0], 100)
    backlog = Backlog(settings, Counts())
    assert "bytes are gone from the middle of the spool" in backlog.warning and "missing_batches" in backlog.warning
    backlog.close()
