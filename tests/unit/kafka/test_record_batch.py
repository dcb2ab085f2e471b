"""The record batch writer against aiokafka's own parser, and every refusal."""

import aiokafka
import numpy as np
import orjson
import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatch

from klais.kafka import record_batch
from klais.kafka.fenced import ReadyBatch
from klais.kafka.record_batch import MARK_KEY, RecordBatchWriter, mark, next_sequence, read_mark

TS = 1_700_000_000_123


class Frames:
    """Columns of frames with the given ids and payloads, laid back to back."""

    def __init__(self, ids: list[bytes], payloads: list[bytes], sequences: list[int] | None = None) -> None:
        n = len(ids)
        frames = [b"\xaaU" + i.ljust(16, b"\0") + b"\0\0\0\0" + p for i, p in zip(ids, payloads, strict=True)]
        self.buf = np.frombuffer(b"".join(frames), np.uint8)
        self.lengths = np.array([len(f) for f in frames], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.id_size = np.array([len(i) for i in ids], np.uint8)
        self.sequence = np.array(sequences or range(n), np.uint32)
        self.ts_ms = np.full(n, TS, np.int64)
        self.index = np.arange(n, dtype=np.int32)

    def into(self, writer: RecordBatchWriter, begin: int = 0, step: int = 1, done: int = 0) -> int:
        columns = (self.buf, self.starts, self.lengths, self.id_size, self.sequence, self.ts_ms, self.index)
        return writer.append_telemetry(*columns, begin, step, done)


def parse(writer: RecordBatchWriter, producer_id: int = 5, epoch: int = 3, base_sequence: int = 0):
    """The records as aiokafka reads them, after its check of the CRC."""
    built = writer.close(producer_id, epoch, base_sequence)
    batch = DefaultRecordBatch(built.data)
    assert batch.validate_crc()
    assert (batch.magic, batch.producer_id, batch.producer_epoch) == (2, producer_id, epoch)
    assert (batch.first_timestamp, batch.max_timestamp) == (built.first_timestamp, built.max_timestamp)
    records = list(batch)
    assert len(records) == built.count == batch.last_offset_delta + 1
    return records


def test_a_clean_record_says_what_the_frame_said():
    writer = RecordBatchWriter()
    frames = Frames([b"dev-1", b"dev-22"], [b'{"t":1}', b'{"t": 2.50}'], [7, 4_294_967_295])
    assert frames.into(writer) == 2
    first, second = parse(writer)
    assert first.value == b'{"device_id":"dev-1","seq":7,"ts":1700000000123,"data":{"t":1}}'
    assert second.value == b'{"device_id":"dev-22","seq":4294967295,"ts":1700000000123,"data":{"t": 2.50}}'
    assert [(r.key, r.timestamp, r.offset) for r in (first, second)] == [(b"dev-1", TS, 0), (b"dev-22", TS, 1)]


@pytest.mark.parametrize(
    "device_id",
    [
        b'"',
        b"\\",
        b'a"b\\c',
        b"\x01\x1f\n\t\r\b",
        b'""""""""""""""""',
        b"\x01" * 16,
        "ä€😀".encode(),
        b"\x7f</script>",
        b"x" * 16,
    ],
)
def test_a_hostile_device_id_leaves_valid_json(device_id):
    writer = RecordBatchWriter()
    assert Frames([device_id] * 3, [b'{"a":"\\u0000"}'] * 3).into(writer) == 3
    for record in parse(writer):
        assert record.key == device_id
        assert orjson.loads(record.value)["device_id"].encode() == device_id


def test_control_bytes_are_written_as_u00xx():
    writer = RecordBatchWriter()
    Frames([b"a\n\x1f"], [b"{}"]).into(writer)
    assert parse(writer)[0].value.startswith(b'{"device_id":"a\\u000a\\u001f","seq":0,')


def test_only_the_last_record_of_each_call_carries_the_mark():
    writer = RecordBatchWriter()
    frames = Frames([b"d"] * 5, [b"{}"] * 5)
    assert frames.into(writer, step=9, done=0) == 5
    assert frames.into(writer, begin=3, step=10, done=100) == 2
    marks = [read_mark(r.headers) for r in parse(writer)]
    assert marks == [None] * 4 + [(9, 5, 0, 0)] + [None] + [(10, 102, 0, 0)]


@pytest.mark.parametrize("around", [64, 8192])
def test_the_mark_fits_where_the_length_needs_a_byte_more(around):
    """The record's length varint grows at 64, and 8192: with every payload size on both sides of it."""
    for payload in range(max(0, around - 120), around + 5):
        writer = RecordBatchWriter(compression="none")
        Frames([b"d", b"d"], [b"{}", b"x" * payload]).into(writer, step=2**64 - 1, done=2**32 - 3)
        records = parse(writer)
        assert records[1].value.endswith(b'"data":' + b"x" * payload + b"}")
        assert records[1].headers == [(MARK_KEY, b"\xff" * 12 + bytes(12))]


def test_a_full_batch_stops_and_the_next_call_goes_on():
    frames = Frames([b"dev-%d" % i for i in range(100)], [b'{"i":%d}' % i for i in range(100)])
    writer, begin, values, batches = RecordBatchWriter(limit_bytes=1000), 0, [], 0
    while begin < 100:
        begin += frames.into(writer, begin, step=4, done=begin)
        assert 0 < writer.size <= 1000
        records = parse(writer)
        assert read_mark(records[-1].headers)[:2] == (4, begin)
        values += [orjson.loads(r.value)["data"]["i"] for r in records]
        writer.reset()
        batches += 1
    assert values == list(range(100)) and batches > 5


def test_the_largest_frame_goes_alone_into_an_empty_batch():
    writer = RecordBatchWriter(limit_bytes=2000)
    frames = Frames([b"\x01" * 16] * 2, [b"x" * 65_485] * 2)
    assert frames.into(writer) == 1
    assert frames.into(writer, begin=1) == 0
    assert len(parse(writer)[0].value) > 65_485 + 16 * 6
    writer.reset()
    assert frames.into(writer, begin=1) == 1


def test_a_record_beyond_the_buffer_grows_it():
    writer = RecordBatchWriter(limit_bytes=2000)
    frames = Frames([b"d"], [b"x" * 1_000_000])
    assert frames.into(writer) == 1
    assert len(parse(writer)[0].value) > 1_000_000
    with pytest.raises(ValueError, match="exceeds a batch"):
        Frames([b"d"], [b"x" * (4 << 20)]).into(RecordBatchWriter())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("index", 3),
        ("index", -1),
        ("starts", -1),
        ("starts", 10_000),
        ("starts", 2**62),
        ("lengths", 21),
        ("lengths", -5),
        ("lengths", 10_000),
        ("lengths", 2**62),
        ("id_size", 0),
        ("id_size", 17),
        ("ts_ms", -1),
        ("ts_ms", 2**60),
    ],
)
def test_a_frame_outside_its_buffer_is_refused(column, value):
    writer = RecordBatchWriter()
    frames = Frames([b"d"] * 3, [b"{}"] * 3)
    getattr(frames, column)[1] = value
    with pytest.raises(ValueError, match="frame"):
        frames.into(writer)
    assert writer.empty and writer.size == 0


def test_columns_of_different_length_are_refused():
    frames = Frames([b"d"] * 3, [b"{}"] * 3)
    frames.ts_ms = frames.ts_ms[:2]
    with pytest.raises(ValueError, match="different length"):
        frames.into(RecordBatchWriter())


def test_timestamps_go_back_and_far_ahead():
    writer = RecordBatchWriter()
    frames = Frames([b"d"] * 4, [b"{}"] * 4)
    frames.ts_ms[:] = [TS, 0, 2**53, TS - 1]
    frames.into(writer)
    records = parse(writer)
    assert [r.timestamp for r in records] == [TS, 0, 2**53, TS - 1]
    assert [orjson.loads(r.value)["ts"] for r in records] == [TS, 0, 2**53, TS - 1]


def test_rows_become_records_with_keys_and_values():
    keys = np.zeros((300, 16), np.uint8)
    keys[:, :4] = np.arange(300, dtype=">u4").view(np.uint8).reshape(300, 4)
    sizes = np.full(300, 4, np.uint8)
    sizes[7] = 16
    values = np.arange(300 * 50, dtype=np.uint32).astype(np.uint8).reshape(300, 50)
    writer = RecordBatchWriter(limit_bytes=10_000)
    taken = writer.append_rows(keys, sizes, values, 0, TS)
    records = parse(writer)
    writer.reset()
    rest = writer.append_rows(keys, sizes, values, taken, TS + 1)
    records += parse(writer)
    assert 0 < taken < 300 and taken + rest == 300
    assert [r.key for r in records] == [keys[i, : sizes[i]].tobytes() for i in range(300)]
    assert [r.value for r in records] == [v.tobytes() for v in values]
    assert {r.timestamp for r in records[:taken]} == {TS} and not any(r.headers for r in records)


def test_a_row_larger_than_the_batch_goes_alone():
    keys, sizes = np.ones((2, 16), np.uint8), np.full(2, 16, np.uint8)
    writer = RecordBatchWriter(limit_bytes=1000)
    assert writer.append_rows(keys, sizes, np.zeros((2, 200_000), np.uint8), 0) == 1
    assert len(parse(writer)[0].value) == 200_000


def test_rows_that_do_not_fit_each_other_are_refused():
    writer = RecordBatchWriter()
    keys, sizes, values = np.zeros((2, 16), np.uint8), np.ones(2, np.uint8), np.zeros((2, 8), np.uint8)
    for wrong in [
        (keys[:1], sizes, values),
        (keys, sizes[:1], values),
        (keys, sizes, values[:1]),
        (keys[:, :8].copy(), sizes, values),
    ]:
        with pytest.raises(ValueError, match="pairs"):
            writer.append_rows(*wrong, 0)
    with pytest.raises(ValueError, match="key size"):
        writer.append_rows(keys, np.array([1, 17], np.uint8), values, 0)
    with pytest.raises(ValueError, match="begin"):
        writer.append_rows(keys, sizes, values, -1)


def test_values_of_different_sizes_become_records_and_none_is_read_outside_its_buffer():
    keys, sizes = np.full((3, 16), 65, np.uint8), np.array([1, 16, 2], np.uint8)
    buf = np.arange(100, dtype=np.uint8)
    starts, lengths = np.array([90, 0, 5]), np.array([10, 0, 7])
    writer = RecordBatchWriter()
    assert writer.append_pairs(keys, sizes, buf, starts, lengths, 0, TS) == 3
    assert [(r.key, r.value) for r in parse(writer)] == [
        (b"A", bytes(range(90, 100))),
        (b"A" * 16, b""),
        (b"AA", bytes(range(5, 12))),
    ]
    for start, length in ((91, 10), (-1, 2), (0, -1), (2**63 - 1, 2)):
        with pytest.raises(ValueError, match="buffer"):
            writer.append_pairs(keys[:1], sizes[:1], buf, np.array([start]), np.array([length]), 0, TS)


def test_single_records_with_headers_nulls_and_mark():
    writer = RecordBatchWriter()
    assert writer.append_one(b"k", b"v", [("reason", b"bad_json"), ("leer", b"")], TS)
    assert writer.append_one(None, None, timestamp_ms=TS + 5)
    assert writer.append_one(None, b"", timestamp_ms=TS - 5, step=12, done=34)
    first, second, third = parse(writer)
    assert (first.key, first.value, first.headers) == (b"k", b"v", [("reason", b"bad_json"), ("leer", b"")])
    assert (second.key, second.value, second.headers, second.timestamp) == (None, None, [], TS + 5)
    assert (third.value, third.timestamp, read_mark(third.headers)) == (b"", TS - 5, (12, 34, 0, 0))


def test_single_records_fill_a_batch_and_large_ones_go_alone():
    writer = RecordBatchWriter(limit_bytes=1000)
    assert writer.append_one(b"k", b"x" * 500_000, timestamp_ms=TS)
    assert not writer.append_one(b"k", b"y", timestamp_ms=TS)
    assert len(parse(writer)) == 1
    writer.reset()
    count = 0
    while writer.append_one(b"k", b"x" * 100, timestamp_ms=TS):
        count += 1
    assert count == 9 and writer.size <= 1000
    with pytest.raises(ValueError, match="exceeds a batch"):
        RecordBatchWriter().append_one(None, bytes(4 << 20))
    with pytest.raises(ValueError, match="timestamp"):
        writer.append_one(None, b"", timestamp_ms=-1)


def test_all_kinds_share_one_batch():
    writer = RecordBatchWriter()
    writer.append_one(b"first", b"1", timestamp_ms=TS)
    Frames([b"d"], [b"{}"]).into(writer)
    writer.append_rows(np.full((1, 16), 65, np.uint8), np.full(1, 2, np.uint8), np.full((1, 3), 66, np.uint8), 0, TS)
    writer.append_one(b"last", b"2", timestamp_ms=TS)
    assert [r.key for r in parse(writer)] == [b"first", b"d", b"AA", b"last"]


@pytest.mark.parametrize(("compression", "payload", "codec"), [("lz4", 30, 0), ("lz4", 400, 3), ("none", 400, 0)])
def test_the_codec_is_named_and_small_batches_stay_plain(compression, payload, codec):
    writer = RecordBatchWriter(compression=compression)
    Frames([b"d"], [b"x" * payload]).into(writer)
    assert DefaultRecordBatch(writer.close(1, 0, 0).data).compression_type == codec


def test_what_does_not_shrink_stays_plain():
    writer = RecordBatchWriter()
    writer.append_one(None, np.random.default_rng(1).bytes(1000), timestamp_ms=TS)
    assert DefaultRecordBatch(writer.close(1, 0, 0).data).compression_type == 0


def test_closing_again_gives_the_same_records_under_another_stamp():
    writer = RecordBatchWriter()
    Frames([b"d"] * 3, [b"{}"] * 3).into(writer)
    built = writer.close(77, 4, 2**31 - 2)
    assert (built.count, built.next_sequence) == (3, 1)
    assert writer.close(77, 4, 2**31 - 2) == built
    other = writer.close(78, 0, 0)
    assert other.data[61:] == built.data[61:] and other.data[:61] != built.data[:61]
    assert DefaultRecordBatch(built.data).base_sequence == 2**31 - 2


def test_sequences_wrap_to_zero_as_kafka_wants():
    assert [next_sequence(2**31 - 2, n) for n in (1, 2, 3)] == [2**31 - 1, 0, 1]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="compression"):
        RecordBatchWriter(compression="zip")
    with pytest.raises(ValueError, match="limit_bytes"):
        RecordBatchWriter(limit_bytes=0)
    with pytest.raises(ValueError, match="without records"):
        RecordBatchWriter().close(1, 0, 0)


def test_marks_of_others_are_not_ours():
    assert read_mark([("klais", b"short"), ("Klais", mark(1, 2))]) is None
    assert read_mark([("klais", None), ("x", b""), ("klais", mark(1, 2, 3, 4))]) == (1, 2, 3, 4)


def test_a_ready_batch_has_all_that_aiokafka_calls_on_a_builder():
    """The duck must have every method of the installed BatchBuilder; a new one means: read aiokafka again."""
    assert aiokafka.__version__.startswith("0.14.")
    theirs = {
        name for name in vars(BatchBuilder) if callable(getattr(BatchBuilder, name)) and not name.startswith("__")
    }
    assert theirs - {"_serialize"} <= set(dir(ReadyBatch))
    writer = RecordBatchWriter()
    writer.append_one(b"k", b"v", timestamp_ms=TS)
    built = writer.close(9, 2, 5)
    ready = ReadyBatch(built)
    ready._set_producer_state(-1, -1, 0)
    ready.close()
    assert (ready.record_count(), ready.size(), ready.closed()) == (1, len(built.data), True)
    assert ready._build() is built.data and ready._build() is built.data
    ready.drop()
    assert ready.record_count() == 0


def test_header_layout_is_kafkas():
    assert record_batch.HEADER.size == 61
