"""Expensive payloads for a lane, and ordinary ones of the same length."""

from collections.abc import Callable, Sequence

from klais.core.wire.constants import HEADER_SIZE, MAX_FRAME_SIZE
from klais.core.wire.json_path import MAX_DEPTH

LARGEST = MAX_FRAME_SIZE - HEADER_SIZE


def fields(count: int, key: bytes = b"f") -> list[bytes]:
    """Members with that many different names."""
    return [b'"%s%d":1' % (key, i) for i in range(count)]


def nested(total: int, depth: int, member: bytes, fields: Sequence[bytes]) -> bytes:
    """A payload of about ``total`` bytes: nested keys of half of the length in all, then ``member`` repeatedly, then
    ``fields``.
    """
    key = b"a" * max(0, total // 2 // max(depth, 1) - 5)
    head, tail = (b'{"' + key + b'":') * depth + b"{", b"}" * (depth + 1)
    room = total - len(head) - len(tail) - sum(map(len, fields)) - len(fields)
    return head + b",".join([member] * max(0, room // (len(member) + 1)) + list(fields)) + tail


def ordinary(total: int) -> bytes:
    """An object of about ``total`` bytes like those of devices: numbers, texts, flags, one level of nesting."""
    members = [b'"state":"ok"', b'"on":true', b'"pos":{"x":1.25,"y":-3.5}', b'"t":21.53', b'"h":48.2', b'"n":1024']
    out: list[bytes] = []
    size = 2
    while size + 30 < total:
        out.append(members[len(out) % len(members)].replace(b'":', b'%d":' % len(out), 1))
        size += len(out[-1]) + 1
    return b"{" + b",".join(out) + b"}" + b" " * max(0, total - size)


def filled(member: bytes) -> bytes:
    """The largest object that repeats a member."""
    return b"{" + b",".join([member] * ((LARGEST - 1) // (len(member) + 1))) + b"}"


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
    "digits_behind_the_point": b'{"a":0.' + b"0" * 60_000 + b"1}",
    "digits_of_an_exponent": b'{"a":1e' + b"0" * 60_000 + b"1}",
    "largest_exponents": filled(b'"x":1e308'),
    "tiny_numbers": filled(b'"x":4.9e-324'),
    "tiny_numbers_of_a_short_frame": b"{" + b",".join([b'"f":5e-324'] * 27) + b"}",
    "tiny_squares_of_a_short_frame": b"{" + b",".join([b'"f":5e-160'] * 27) + b"}",
    "tiny_single_precision_of_a_short_frame": b"{" + b",".join([b'"f":3e-39'] * 27) + b"}",
    "huge_numbers_of_a_short_frame": b"{" + b",".join([b'"f":1e300'] * 27) + b"}",
    "numbers_between_two_doubles": filled(b'"x":9007199254740993.00000000000000001'),
    "array_of_numbers": b'{"a":[' + b"1," * 32_000 + b"1]}",
    "one_text_of_escapes": b'{"a":"' + rb"\u00e9" * 10_000 + b'"}',
    "one_text_of_quotes": b'{"a":"' + rb"\"" * 30_000 + b'"}',
    "surrogates": b'{"a":"' + rb"\ud83d\ude00" * 5_000 + b'"}',
    "half_surrogates": b'{"a":"' + rb"\ud800" * 10_000 + b'"}',
    "four_byte_letters": b'{"a":"' + "\U0001f600".encode() * 15_000 + b'"}',
    "one_key_again_and_again": filled(b'"a":1'),
    "keys_that_differ_at_the_end": b"{" + b",".join(fields(200, b"k" * 300)) + b"}",
    "escaped_keys_again_and_again": filled(rb'"\u0061":1'),
    "empty_objects": filled(b'"":{}'),
    "empty_arrays": b'{"a":[' + b"[]," * 20_000 + b"[]]}",
    "deep_again_and_again": filled(b'"":' + b"[" * (MAX_DEPTH - 2) + b"]" * (MAX_DEPTH - 2)),
    "white_space": b'{"a":1' + b" \t\n\r" * 16_000 + b"}",
    "white_space_between_all": filled(b' "a" :\t1 '),
    "literals": filled(b'"a":null'),
}
CHANGING: dict[str, Callable[[int], bytes]] = {
    "a_name_for_each_frame": lambda number: b'{"f%d":1}' % number,
    "sixteen_names_for_each_frame": lambda number: b"{" + b",".join(fields(16, b"n%d_" % number)) + b"}",
    "long_names_for_each_frame": lambda number: b'{"' + b"k" * 1_000 + b'%d":1}' % number,
    "values_that_jump": lambda number: b'{"a":%d}' % (10 ** (number % 300)),
    "a_type_for_each_frame": lambda number: (b'{"a":1}', b'{"a":true}', b'{"a":{"a":1}}', b'{"a":[1]}')[number % 4],
}
"""Payloads of which each frame has another, by the frame's number."""
