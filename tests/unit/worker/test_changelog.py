"""A changelog partition read back: the newest row of each device, and the partition's own marker."""

import numpy as np
import pytest

from klais.core.devices.layout import ROW, ROW_VERSION, id_words, row_key
from klais.kafka.reader import RawRecord
from klais.worker import changelog
from klais.worker.changelog import load_partition, marker_key


class Log:
    """Records in a list, read as a PartitionReader reads them."""

    def __init__(self, *records: tuple[bytes | None, bytes | None]) -> None:
        self.records = [RawRecord(i, key, value, ()) for i, (key, value) in enumerate(records)]

    async def offsets(self, topic, partition):
        return 0, len(self.records)

    async def read(self, topic, partition, start, end):
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
