"""Spooled batches of another partition count: every frame once, for its partition now, in its device's order."""

import errno
import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from klais.config.load import Settings
from klais.core.wire.batch import FrameBatch, decode_batch, encode_batch
from klais.core.wire.constants import Reason, encode_frame
from klais.core.wire.partition import partition_of
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.spool import folder
from klais.edge.sinks.spool.backlog import Backlog, spool_folder
from klais.edge.sinks.spool.segment import HEADER_SIZE, identity_of
from klais.kafka.topics import Topics

DEVICES = 40
T0_NS = 1_700_000_000_000_000_000
SECOND_NS = 10**9


def settings(folder: Path, partitions: int, **more: object) -> Settings:
    return Settings(state_dir=folder, partitions=partitions, spool_sync="batch", **more)


def fill(folder: Path, partitions: int, rounds: int = 30, **more: object) -> list[tuple[bytes, int, bytes]]:
    """Spool batches as an edge with that many partitions does; (frame, time, source) of all."""
    backlog, out = Backlog(settings(folder, partitions, **more), Counts()), []
    for number in range(rounds):
        for partition in range(partitions):
            ids = [f"d{d}" for d in range(DEVICES) if partition_of(f"d{d}".encode(), partitions) == partition]
            some = [encode_frame(name, number, b'{"t":%d}' % number) for name in ids]
            if not some:
                continue
            offsets = np.arange(len(some), dtype=np.uint32)
            sources = np.full((len(some), 18), number, np.uint8)
            at_ns = T0_NS + number * 3 * SECOND_NS
            value = encode_batch(some, at_ns, 7, 99, number, offsets, sources)
            assert backlog.append(ClosedBatch(value, partition, len(some)), 0.0) is Reason.PASSED
            out += [(frame, at_ns + k, sources[k].tobytes()) for k, frame in enumerate(some)]
    backlog.close()
    return out


def redistribute(backlog: Backlog) -> None:
    for _ in range(10_000):
        if not backlog.problems():
            return
        backlog.redistribute(0.0)
    raise AssertionError(backlog.problems())


def taken(backlog: Backlog) -> list[tuple[int, FrameBatch]]:
    """All batches in their order, as a lane takes them: a number that is not above the last one is a repeat."""
    out, last = [], {}
    while (found := backlog.next()) is not None:
        built, entry = found
        batch = decode_batch(built.value)
        key = (built.partition, batch.edge, batch.boot)
        if batch.number > last.get(key, -1):
            last[key] = batch.number
            out.append((built.partition, batch))
        assert entry is not None
        backlog.done(entry)
    return out


def contents(batches: list[tuple[int, FrameBatch]]) -> list[tuple[bytes, int, bytes]]:
    return [
        (batch.frame(i), batch.received_at + int(batch.offsets[i]), batch.sources[i].tobytes())
        for _, batch in batches
        for i in range(batch.count)
    ]


def check(batches: list[tuple[int, FrameBatch]], wanted: list[tuple[bytes, int, bytes]], partitions: int) -> None:
    found = contents(batches)
    assert sorted((frame, source) for frame, _, source in found) == sorted(
        (frame, source) for frame, _, source in wanted
    )
    times = {frame: at_ns for frame, at_ns, _ in wanted}
    # Within a batch no frame counts as received before the first one.
    assert all(0 <= at_ns - times[frame] < 1000 for frame, at_ns, _ in found)
    newest: dict[bytes, int] = {}
    for partition, batch in batches:
        for i in range(batch.count):
            frame = batch.frame(i)
            device, number = frame[2:18].rstrip(b"\0"), int.from_bytes(frame[18:22], "big")
            assert partition_of(device, partitions) == partition
            assert number > newest.get(device, -1), "a device's frames stay in their order"
            newest[device] = number


@pytest.mark.parametrize(("before", "now"), [(16, 3), (3, 16), (4, 1)])
def test_every_frame_goes_to_its_partition_of_now(tmp_path: Path, before: int, now: int) -> None:
    wanted = fill(tmp_path, before)
    counts = Counts()
    backlog = Backlog(settings(tmp_path, now), counts)
    assert f"batches for {before} partitions, KLAIS_PARTITIONS is {now}" in backlog.problems()[0]
    assert taken(backlog) == [] and counts.recovered == 0, "nothing goes out before Kafka has confirmed the count"
    redistribute(backlog)
    assert counts.recovered == counts.spooled == len(wanted)
    check(taken(backlog), wanted, now)
    assert backlog.problems() == [] and counts.spooled == 0
    backlog.close()
    assert sorted(path.name for path in spool_folder(settings(tmp_path, now)).iterdir()) == [
        "lock",
        f"position-{identity_of(Topics.of(settings(tmp_path, now)).raw, now):08x}",
    ]


def test_what_kafka_had_acknowledged_does_not_come_again(tmp_path: Path) -> None:
    wanted = fill(tmp_path, 1)
    backlog = Backlog(settings(tmp_path, 1), Counts())
    for _ in range(10):
        backlog.done(backlog.next()[1])
    backlog.close()
    backlog = Backlog(settings(tmp_path, 2), Counts())
    redistribute(backlog)
    check(taken(backlog), wanted[10 * DEVICES :], 2)


def test_a_crash_on_the_way_does_not_double_a_frame(tmp_path: Path) -> None:
    wanted = fill(tmp_path, 8, batch_max_bytes=1024)
    first = Backlog(settings(tmp_path, 3, batch_max_bytes=1024), Counts())
    others = first._others
    seconds = itertools.count()
    for _ in range(60):
        others.step(lambda: next(seconds))  # one old batch at a time
    assert first.problems() and first._spool.batches, "in the middle"
    first._spool.close()
    again = Backlog(settings(tmp_path, 3, batch_max_bytes=1024), Counts())
    redistribute(again)
    check(taken(again), wanted, 3)


def test_a_damaged_batch_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    wanted = fill(tmp_path, 1, rounds=5)
    (segment,) = spool_folder(settings(tmp_path, 1)).glob("*.spool")
    data = bytearray(segment.read_bytes())
    data[HEADER_SIZE + 100] ^= 1
    segment.write_bytes(data)
    counts = Counts()
    backlog = Backlog(settings(tmp_path, 2), counts)
    redistribute(backlog)
    check(taken(backlog), wanted[DEVICES:], 2)
    assert counts.by_reason[Reason.SPOOL_DAMAGED] == DEVICES and counts.recovered == len(wanted)


def test_bytes_without_a_readable_header_are_named(tmp_path: Path) -> None:
    wanted = fill(tmp_path, 1, rounds=5)
    (segment,) = spool_folder(settings(tmp_path, 1)).glob("*.spool")
    data = bytearray(segment.read_bytes())
    data[:4] = b"\0\0\0\0"
    segment.write_bytes(data)
    backlog = Backlog(settings(tmp_path, 2), Counts())
    redistribute(backlog)
    check(taken(backlog), wanted[DEVICES:], 2)
    assert f"{len(data) // 5:,} bytes of {segment} could not be read" in backlog.warning


@pytest.mark.parametrize("kind", ["another version", "a folder", "a link", "one that others may write"])
def test_what_cannot_be_distributed_stays_and_the_edge_goes_on(tmp_path: Path, kind: str) -> None:
    fill(tmp_path, 1, rounds=5)
    there = spool_folder(settings(tmp_path, 1))
    (segment,) = there.glob("*.spool")
    if kind == "another version":
        segment.write_bytes(b"KSR2" + segment.read_bytes()[4:])
    elif kind == "one that others may write":
        segment.chmod(0o666)
    else:
        segment.rename(tmp_path / "aside")
        segment.mkdir() if kind == "a folder" else segment.symlink_to(tmp_path / "aside")
    backlog = Backlog(settings(tmp_path, 2), Counts())
    assert "1 segments in the spool" in backlog.warning and backlog.problems() == [] and backlog.durable
    backlog.redistribute(0.0)
    own = encode_batch([encode_frame("d1", 1000, b"{}")], T0_NS, 7, 100, 0)
    assert backlog.append(ClosedBatch(own, 0, 1), 0.0) is Reason.PASSED
    assert len(taken(backlog)) == 1
    backlog.close()
    assert segment.is_symlink() or segment.exists()


def test_a_segment_with_sectors_that_cannot_be_read_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, real = fill(tmp_path, 1, rounds=5), os.pread
    (segment,) = spool_folder(settings(tmp_path, 1)).glob("*.spool")
    batch = segment.stat().st_size // 5

    def pread(fd: int, size: int, at: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}") == str(segment) and at <= batch // 2 < at + size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, size, at)

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(folder, "SECTOR_BYTES", 64)
    counts = Counts()
    backlog = Backlog(settings(tmp_path, 2), counts)
    redistribute(backlog)
    check(taken(backlog), wanted[DEVICES:], 2)
    assert counts.by_reason[Reason.SPOOL_DAMAGED] == DEVICES and counts.recovered == len(wanted)
    assert [path.suffix for path in segment.parent.glob(f"{segment.stem}.*")] == [".unreadable"]


def test_a_spool_without_room_says_so_and_goes_on_when_it_has_room(tmp_path: Path) -> None:
    wanted = fill(tmp_path, 4)
    size = sum(path.stat().st_size for path in spool_folder(settings(tmp_path, 4)).glob("*.spool"))
    small = settings(tmp_path, 2, spool_max_bytes=size + size // 2)
    backlog = Backlog(small, Counts())
    own = encode_batch([encode_frame("d1", 1000, b"{}")], T0_NS, 7, 100, 0)
    assert backlog.append(ClosedBatch(own, 0, 1), 0.0) is Reason.PASSED
    backlog.redistribute(0.0)
    assert "KLAIS_SPOOL_MAX_BYTES" in backlog.problems()[0]
    assert len(taken(backlog)) == 1
    redistribute(backlog)
    check(taken(backlog), wanted, 2)


def test_segments_of_another_topic_stay_and_are_named(tmp_path: Path) -> None:
    fill(tmp_path, 4, topic_prefix="other-")
    backlog = Backlog(settings(tmp_path, 4), Counts())
    assert "KLAIS_TOPIC_PREFIX" in backlog.warning and backlog.problems() == []
    backlog.redistribute(0.0)
    backlog.close()
    again = Backlog(settings(tmp_path, 4, topic_prefix="other-"), Counts())
    assert len(taken(again)) == 4 * 30 and again.warning == ""


def test_epochs_of_signed_frames_move_with_them(tmp_path: Path) -> None:
    backlog = Backlog(settings(tmp_path, 3), Counts())
    ids = [f"d{d}" for d in range(DEVICES) if partition_of(f"d{d}".encode(), 3) == 1]
    some = [encode_frame(name, 1, b"{}") for name in ids]
    epochs = np.arange(len(some), dtype=np.uint32)
    value = encode_batch(some, T0_NS, 7, 99, 0, np.zeros(len(some), np.uint32), epochs=epochs)
    assert backlog.append(ClosedBatch(value, 1, len(some)), 0.0) is Reason.PASSED
    backlog.close()
    backlog = Backlog(settings(tmp_path, 4), Counts())
    redistribute(backlog)
    found = {}
    for _, batch in taken(backlog):
        assert batch.epochs is not None
        found |= {batch.frame(i): int(batch.epochs[i]) for i in range(batch.count)}
    backlog.close()
    assert found == dict(zip(some, epochs.tolist(), strict=True))
