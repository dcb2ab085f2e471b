"""The record kernels against a naive twin, written from Kafka's definition of a record batch, and
the split property.
"""

import json
import struct

import google_crc32c
import lz4.frame
import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.kafka.record_batch import RecordBatchWriter, encode_record
from tests.support.examples import examples

SEQUENCE = st.integers(0, 2**32 - 1)
TIME_MS = st.one_of(st.integers(1_700_000_000_000, 1_700_000_000_003), st.integers(0, 2**53))
DEVICE_ID = st.one_of(
    st.sampled_from([b"dev-1", b"dev-2", b'"\\', b"\x01\x02"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=16)
    .map(str.encode)
    .filter(lambda b: len(b) <= 16),
)
PAYLOAD = st.one_of(
    st.sampled_from([b"{}", b'{"temp":21.5,"ok":true}']),
    st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=60), max_size=6).map(
        lambda d: json.dumps(d).encode()
    ),
)
FRAME = st.tuples(DEVICE_ID, SEQUENCE, TIME_MS, PAYLOAD)


def naive_varint(value):
    """Zigzag: 0, -1, 1, -2, ... -> 0, 1, 2, 3, ...; then 7 bits a byte, the lowest first, high bit = more follow."""
    rest = value * 2 if value >= 0 else -value * 2 - 1
    out = b""
    while True:
        rest, low = divmod(rest, 128)
        out += bytes([low + 128 if rest else low])
        if not rest:
            return out


def naive_field(field):
    return naive_varint(-1) if field is None else naive_varint(len(field)) + field


def naive_record(delta_ms, offset, key, value, headers):
    body = b"\0" + naive_varint(delta_ms) + naive_varint(offset) + naive_field(key) + naive_field(value)
    body += naive_varint(len(headers)) + b"".join(naive_field(n.encode()) + naive_field(v) for n, v in headers)
    return naive_varint(len(body)) + body


def naive_value(device_id, sequence, ts, payload):
    text = device_id.decode().replace("\\", "\\\\").replace('"', '\\"')
    text = "".join(f"\\u{ord(c):04x}" if c < " " else c for c in text)
    return f'{{"device_id":"{text}","seq":{sequence},"ts":{ts},"data":'.encode() + payload + b"}"


def naive_records(frames, marks):
    """Records section of a batch: frame i carries a mark where ``marks`` names it."""
    out = b""
    for i, (device_id, sequence, ts, payload) in enumerate(frames):
        headers = [("klais", struct.pack("<QIQI", *marks[i], 0, 0))] if i in marks else []
        out += naive_record(ts - frames[0][2], i, device_id, naive_value(device_id, sequence, ts, payload), headers)
    return out


def columns(frames, gap=b""):
    raw = [b"\xaaU" + i.ljust(16, b"\0") + s.to_bytes(4, "big") + p for i, s, _, p in frames]
    lengths = np.array([len(f) for f in raw], np.int64)
    starts = np.cumsum(lengths + len(gap)) - lengths - len(gap)
    return (
        np.frombuffer(gap.join(raw) + gap, np.uint8),
        starts,
        lengths,
        np.array([len(f[0]) for f in frames], np.uint8),
        np.array([f[1] for f in frames], np.uint32),
        np.array([f[2] for f in frames], np.int64),
    )


def section(writer):
    """The records of a closed batch, uncompressed, after checking its header by hand."""
    data = writer.close(11, 2, 2**31 - 1).data
    base, length, leader, magic, crc, attributes, last, first, newest, pid, epoch, sequence, count = struct.unpack_from(
        ">qiibIhiqqqhii", data
    )
    assert (base, length, leader, magic) == (0, len(data) - 12, -1, 2)
    assert crc == google_crc32c.value(data[21:])
    assert (pid, epoch, sequence, last, count) == (11, 2, 2**31 - 1, writer.count - 1, writer.count)
    return first, newest, lz4.frame.decompress(data[61:]) if attributes & 7 == 3 else data[61:]


@given(st.lists(FRAME, min_size=1, max_size=12), st.binary(max_size=5))
def test_a_batch_is_byte_for_byte_the_naive_one(frames, gap):
    writer = RecordBatchWriter()
    cols = columns(frames, gap)
    n = writer.append_telemetry(*cols, np.arange(len(frames), dtype=np.int32), 0, 2**40, 3)
    assert n == len(frames)
    first, newest, records = section(writer)
    assert records == naive_records(frames, {n - 1: (2**40, n + 3)})
    assert (first, newest) == (frames[0][2], max(f[2] for f in frames))
    for f in frames:
        assert orjson.loads(naive_value(*f))["device_id"].encode() == f[0]


@given(st.lists(FRAME, min_size=1, max_size=30), st.data())
def test_any_split_into_calls_gives_the_same_records(frames, data):
    cols = columns(frames)
    index = np.array(data.draw(st.permutations(range(len(frames)))), np.int32)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(frames)), max_size=4)))
    writer, marks = RecordBatchWriter(), {}
    for begin, end in zip([0, *cuts], [*cuts, len(frames)], strict=True):
        assert writer.append_telemetry(*cols, index[:end], begin, 7, begin) == end - begin
        if end > begin:
            marks[end - 1] = (7, end)
    assert section(writer)[2] == naive_records([frames[i] for i in index], marks)


@given(st.lists(FRAME, min_size=1, max_size=30), st.integers(1, 1500))
def test_any_limit_gives_all_records_in_order(frames, limit):
    cols, index = columns(frames), np.arange(len(frames), dtype=np.int32)
    writer, begin = RecordBatchWriter(limit_bytes=limit), 0
    while begin < len(frames):
        taken = writer.append_telemetry(*cols, index, begin, 7, begin)
        assert taken > 0
        assert writer.size <= limit or taken == 1
        assert section(writer)[2] == naive_records(frames[begin : begin + taken], {taken - 1: (7, begin + taken)})
        writer.reset()
        begin += taken


@given(
    st.integers(-(2**53), 2**53),
    st.integers(0, 2**31 - 1),
    st.none() | st.binary(max_size=200),
    st.none() | st.binary(max_size=200),
    st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=80)), max_size=3),
)
def test_a_single_record_is_the_naive_one(delta_ms, offset, key, value, headers):
    assert encode_record(delta_ms, offset, key, value, headers) == naive_record(delta_ms, offset, key, value, headers)


@given(st.integers(1, 60), st.integers(0, 300), st.integers(40, 2000), st.randoms())
def test_rows_are_the_naive_records(n, stride, limit, random):
    keys = np.frombuffer(random.randbytes(16 * n), np.uint8).reshape(n, 16)
    sizes = np.array([random.randint(1, 16) for _ in range(n)], np.uint8)
    values = np.frombuffer(random.randbytes(stride * n), np.uint8).reshape(n, stride)
    writer, begin = RecordBatchWriter(limit_bytes=limit), 0
    while begin < n:
        taken = writer.append_rows(keys, sizes, values, begin, 5)
        assert taken > 0
        expected = b"".join(
            naive_record(0, i, keys[begin + i, : sizes[begin + i]].tobytes(), values[begin + i].tobytes(), [])
            for i in range(taken)
        )
        assert section(writer)[2] == expected
        writer.reset()
        begin += taken


@settings(max_examples=examples(300))
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-30, 300), min_size=4, max_size=4),
    st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 4),
    st.integers(0, 255),
    st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9),
)
def test_hostile_columns_are_refused_or_inside(places, at, id_size, ts):
    """Whatever the columns say: either refused, or the frame named lies in the buffer."""
    buf = np.frombuffer(b"\xaaU" + b"device".ljust(16, b"\0") + b"\0\0\0\1" + b"{}" + bytes(100), np.uint8)
    starts, lengths = np.array(places[:2], np.int64), np.array(places[2:], np.int64)
    writer = RecordBatchWriter(limit_bytes=4096)
    full = np.full(2, id_size, np.uint8), np.zeros(2, np.uint32), np.full(2, ts, np.int64)
    try:
        taken = writer.append_telemetry(buf, starts, lengths, *full, np.array([at], np.int32), 0, 1, 0)
    except ValueError:
        assert writer.empty
        return
    assert taken == 1 and 0 <= at < 2
    assert starts[at] >= 0 and lengths[at] >= 22 and int(starts[at]) + int(lengths[at]) <= len(buf)
    section(writer)
