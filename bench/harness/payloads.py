"""Payloads that make a lane work hard, and ordinary ones as long as they are."""

from collections.abc import Sequence

from klais.core.wire.constants import HEADER_SIZE, MAX_FRAME_SIZE
from klais.core.wire.json_path import MAX_DEPTH

LARGEST = MAX_FRAME_SIZE - HEADER_SIZE


def fields(count: int, key: bytes = b"f") -> list[bytes]:
    """Members of so many different names."""
    return [b'"%s%d":1' % (key, i) for i in range(count)]


def nested(total: int, depth: int, member: bytes, fields: Sequence[bytes]) -> bytes:
    """A payload of about ``total`` bytes: keys of half of it in all, one in the other, then ``member`` again and again,
    then ``fields``."""
    key = b"a" * max(0, total // 2 // max(depth, 1) - 5)
    head, tail = (b'{"' + key + b'":') * depth + b"{", b"}" * (depth + 1)
    room = total - len(head) - len(tail) - sum(map(len, fields)) - len(fields)
    return head + b",".join([member] * max(0, room // (len(member) + 1)) + list(fields)) + tail


def ordinary(total: int) -> bytes:
    """An object of about ``total`` bytes as devices send it: numbers, texts, flags, one level of nesting."""
    members = [b'"state":"ok"', b'"on":true', b'"pos":{"x":1.25,"y":-3.5}', b'"t":21.53', b'"h":48.2', b'"n":1024']
    out: list[bytes] = []
    size = 2
    while size + 30 < total:
        out.append(members[len(out) % len(members)].replace(b'":', b'%d":' % len(out), 1))
        size += len(out[-1]) + 1
    return b"{" + b",".join(out) + b"}" + b" " * max(0, total - size)


ADVERSARIAL = {
    "benign": b'{"t":1}',
    "one_packet_16_names": nested(1_400, 30, b'"":1e999', fields(16)),
    "20_kb_one_name": nested(20_000, 30, b'"":1e999', fields(1)),
    "largest_one_name": nested(LARGEST, 30, b'"":1e999', fields(1)),
    "largest_16_names": nested(LARGEST, 30, b'"":1e999', fields(16)),
    "deepest": nested(LARGEST, MAX_DEPTH - 1, b'"":1e999', fields(16, b"")),
    "too_deep": nested(LARGEST, MAX_DEPTH, b'"":1e999', fields(16)),
    "empty_keys": nested(LARGEST, MAX_DEPTH - 1, b'"":1', []),
    "no_keys_but_empty_ones": b'{"":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH,
    "many_fields": b"{" + b",".join(fields(5_000)) + b"}",
    "long_key": b'{"' + b"k" * 60_000 + b'":1}',
    "escapes_in_keys": b"{" + b",".join(fields(16, rb"\u00e9" * 600)) + b"}",
    "quotes_in_keys": b"{" + b",".join(fields(16, rb"\"" * 1_900)) + b"}",
    "not_utf8_at_the_end": nested(LARGEST - 9, 30, b'"":1e999', fields(16))[:-40] + b"\xff",
    "digits": b'{"a":' + b"9" * 60_000 + b"}",
}
