"""A changelog partition read back: the newest row of each device, and the partition's own marker."""

import numpy as np
import pytest

from klais.core.devices.layout import ROW, ROW_VERSION, id_words, row_key
from klais.core.lane.checkpoint import encode_marker, read_marker, snapshot
from klais.core.lane.journal import NO_VERDICTS, Kind, StepRecord, encode_owner, encode_step
from klais.core.lane.state import LaneState
from klais.errors import OtherVersion
from klais.kafka.reader import RawRecord
from klais.worker import changelog
from klais.worker.changelog import OwnRecords, load_marker, load_partition, marker_key
from klais.worker.recovery import read_journal
from tests.support.lane import limits


class Log:
    """Records in a list, read as a PartitionReader reads them."""

    def __init__(self, *records: tuple[bytes | None, bytes | None]) -> None:
        self.records = [RawRecord(i, key, value, ()) for i, (key, value) in enumerate(records)]

    @classmethod
    def written_by(cls, *records: tuple[int, bytes | None, bytes | None]) -> "Log":
        """Records with the producer id of each."""
        log = cls(*(record[1:] for record in records))
        log.records = [one._replace(producer_id=by) for one, (by, _, _) in zip(log.records, records, strict=True)]
        return log

    async def offsets(self, topic, partition):
        return 0, len(self.records)

    async def read(self, topic, partition, start, end=None):
        for record in self.records[start:end]:
            yield record


def row(device: bytes, stamp: int) -> tuple[bytes, bytes]:
    one = np.zeros(1, ROW)
    one["id"], one["id_size"], one["stamp"], one["version"] = id_words(device), len(device), stamp, ROW_VERSION
    return device, one.tobytes()


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 1000])
async def test_the_newest_row_of_each_device(monkeypatch, at_a_time):
    monkeypatch.setattr(changelog, "LOAD_ROWS", at_a_time)
    log = Log(row(b"a", 1), row(b"b", 2), row(b"a", 3), (b"c", None), row(b"c", 4), row(b"c", 5), row(b"a", 6))
    rows, marker = await load_partition(log, "t", 0)
    assert {row_key(one): int(one["stamp"]) for one in rows} == {b"a": 6, b"b": 2, b"c": 5}
    assert marker is None


@pytest.mark.parametrize("at_a_time", [1, 2, 3, 1000])
async def test_a_removed_device_is_gone_until_it_comes_back(monkeypatch, at_a_time):
    monkeypatch.setattr(changelog, "LOAD_ROWS", at_a_time)
    gone = [(b"a", None), (b"d", None), (b"b", None)]
    log = Log(row(b"a", 1), row(b"b", 2), gone[0], row(b"c", 3), *gone[1:], row(b"b", 4), row(b"e", 5))
    rows, _ = await load_partition(log, "t", 0)
    assert {row_key(one): int(one["stamp"]) for one in rows} == {b"b": 4, b"c": 3, b"e": 5}


async def test_the_newest_marker_of_this_partition_only():
    log = Log((marker_key(0), b"old"), row(b"a", 1), (marker_key(0), b"new"), (marker_key(1), b"other"), (None, b"x"))
    rows, marker = await load_partition(log, "t", 0)
    assert len(rows) == 1 and marker == b"new"


async def test_an_empty_changelog():
    rows, marker = await load_partition(Log(), "t", 0)
    assert len(rows) == 0 and rows.dtype == ROW and marker is None


async def test_what_is_no_row_is_skipped():
    """A foreign record stays in the topic until the next compaction: it must not stop the lane until then."""
    strange = (b"b", row(b"c", 9)[1])  # a row under another device's key
    rows, marker = await load_partition(Log(row(b"a", 1), (b"b", b"short"), strange, row(b"d", 2)), "t", 0)
    assert {row_key(one) for one in rows} == {b"a", b"d"} and marker is None


def written_marker(step: int) -> bytes:
    state = LaneState()
    state.step = step
    return encode_marker(snapshot(state), 0, {"telemetry": 5}, 4, lineage=1)


DAMAGED = {
    "short": b"KLM1",
    "zeros": b"KLM1" + bytes(100),
    "foreign": b"hello",
    "cut": written_marker(9)[:40],
    "step below 0": written_marker(9).replace(b'"step":9', b'"step":-'),
    "step without end": written_marker(9).replace(b'"next_raw":0', b'"next_raw":-'),
    "outputs of another kind": written_marker(9).replace(b'{"telemetry":5}', b'["telemetry", 5]'),
    "an output of another kind": written_marker(9).replace(b'{"telemetry":5}', b'{"telemetry":"5"}'[:15]),
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_marker_that_cannot_be_read_is_replaced_by_the_newest_that_can(name):
    key = marker_key(0)
    log = Log((key, written_marker(3)), (key, written_marker(7)), row(b"a", 1), (key, DAMAGED[name]), (key, b"x"))
    for newest in (b"x", DAMAGED[name]):
        marker, why = await load_marker(log, "t", 0, newest)
        assert marker is not None and marker.step == 7 and why
    assert await load_marker(Log((key, b"x")), "t", 0, b"x") == (None, "not a checkpoint marker: b'x'")
    assert await load_marker(log, "t", 0, None) == (None, "")


async def test_a_marker_that_somebody_removed_is_still_there_until_compaction():
    _, marker = await load_partition(Log((marker_key(0), b"new"), (marker_key(0), None), (marker_key(0), b"")), "t", 0)
    assert marker == b"new"


async def test_a_marker_of_another_version_is_refused():
    other = written_marker(3).replace(b'"version":3', b'"version":4')
    with pytest.raises(OtherVersion, match="version 4"):
        await load_marker(Log((marker_key(0), written_marker(3)), (marker_key(0), other)), "t", 0, other)


async def test_what_would_be_a_second_row_of_a_device_or_end_all_step_numbers_is_skipped():
    twice = (b"a\0", row(b"a", 2)[1])
    endless = row(b"b", 2**63)
    rows, _ = await load_partition(Log(row(b"a", 1), twice, endless, row(b"c", 3)), "t", 0)
    assert {row_key(one): int(one["stamp"]) for one in rows} == {b"a": 1, b"c": 3}


async def test_rows_and_marker_that_somebody_copied_from_another_system_are_skipped(caplog):
    key, ours, theirs = marker_key(0), written_marker(3), written_marker(900)
    log = Log.written_by(
        (3, key, written_marker(1)), (3, *row(b"a", 1)),  # an older producer id of this lane
        (5, *row(b"b", 2)), (5, key, ours),
        (-1, *row(b"a", 800)), (-1, *row(b"z", 900)), (7, key, theirs), (7, b"b", None), (5, *row(b"c", 3)),
    )  # fmt: skip
    rows, marker = await load_partition(log, "t", 0, OwnRecords(5))
    assert {row_key(one): int(one["stamp"]) for one in rows} == {b"a": 1, b"b": 2, b"c": 3} and marker == ours
    (said,) = [record for record in caplog.records if record.message == "copied_records_skipped"]
    assert vars(said)["fields"]["records"] == 4
    for own in (None, OwnRecords(9)):  # nothing shows which of them are its own
        rows, marker = await load_partition(log, "t", 0, own)
        assert {row_key(one) for one in rows} == {b"a", b"c", b"z"} and marker == theirs


async def test_a_copied_marker_does_not_replace_one_that_cannot_be_read():
    key = marker_key(0)
    log = Log.written_by((5, key, written_marker(3)), (5, key, b"x"), (7, key, written_marker(900)))
    _, newest = await load_partition(log, "t", 0, OwnRecords(5))
    marker, why = await load_marker(log, "t", 0, newest, OwnRecords(5))
    assert newest == b"x" and marker is not None and marker.step == 3 and why


@pytest.mark.parametrize("after", [0, 2])
async def test_journal_steps_that_somebody_copied_from_another_system_are_skipped(after, caplog):
    def steps(by: int, first: int, count: int) -> list[tuple[int, None, bytes]]:
        made = [StepRecord(n, Kind.REPEATED, n, 1, limits(), 0.0, 0, NO_VERDICTS) for n in range(first, first + count)]
        return [(by, None, encode_step(one)) for one in made]

    copied = [(7, None, encode_owner("x", 1, 0, 44)), *steps(7, 3, 3), *steps(7, 300, 2)]
    log = Log.written_by((5, None, encode_owner("x", 1, 0, 33)), *steps(5, 1, 2), *copied, *steps(5, 3, 2))
    marker = read_marker(written_marker(after))
    marker.journal_offset = 3 if after else 0
    found = await read_journal(log, "t", 0, marker, OwnRecords(5))
    assert [(step.step, step.raw_offset) for step in found.steps] == [(n, n) for n in range(after + 1, 5)]
    assert (found.lineage, found.last_after_hole) == (0 if after else 33, 0)
    assert [record.message for record in caplog.records] == ["copied_records_skipped"]
    restored = Log.written_by(*((-1, *record[1:]) for record in ((5, None, encode_owner("x", 1, 0)), *steps(5, 1, 4))))
    found = await read_journal(restored, "t", 0, marker, OwnRecords(5))
    assert [step.step for step in found.steps] == list(range(after + 1, 5)), "its own steps, written back"
