"""Bucket arithmetic, hash, ids and parsing of the filter against exact models, compiled by ``cc`` from the same
headers.
"""

import struct
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from ipaddress import IPv4Address, IPv6Address, ip_network

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.harness.packets.packet import payload_of, udp_packet
from bench.harness.packets.rows import all_rows
from klais.xdp import layout
from klais.xdp.device_id import device_keys, padded
from klais.xdp.layout import DEVICE_COST, GLOBAL_COST, Verdict
from klais.xdp.limits import to_units
from klais.xdp.rules import marks_of
from klais.xdp.sources import SourceLimit, Sources
from tests.support.examples import examples
from tests.support.xdp_native import Native, bucket

MANY = settings(max_examples=examples(200), deadline=None)
TEN_S_NS = 10_000_000_000


@dataclass
class Model:
    """A token bucket in exact fractions, from the definition: tokens are frames, time is in ns."""

    rate_per_s: Fraction
    burst: Fraction
    tokens: Fraction
    last_ns: int = 0

    def take(self, now_ns: int) -> bool:
        if now_ns > self.last_ns:
            self.tokens = min(self.burst, self.tokens + Fraction(now_ns - self.last_ns, 10**9) * self.rate_per_s)
            self.last_ns = now_ns
        elif self.last_ns - now_ns > TEN_S_NS:
            self.last_ns = now_ns
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


rates = st.one_of(st.sampled_from([1, 3, 7, 999, 10**8, 99_999_989]), st.integers(1, 10**8))
thousandths = st.one_of(st.integers(1, 10_000), rates.map(lambda rate: rate * 1000))
bursts = st.one_of(st.integers(1, 5), st.integers(1, 4_000_000))
# Gaps from the same ns to a month; going back now and then, by a little and by more than ten seconds.
gaps = st.one_of(
    st.integers(0, 20),
    st.integers(0, 10**7),
    st.integers(0, 3 * 10**15),
    st.integers(-(10**6), 0),
    st.integers(-(10**11), 0),
)


@MANY
@given(rate=rates, burst=bursts, steps=st.lists(gaps, min_size=1, max_size=60))
def test_the_global_bucket_is_its_definition_exactly(native: Native, rate: int, burst: int, steps: list[int]) -> None:
    hold_to_the_model(native, Fraction(rate), burst, GLOBAL_COST, steps)


@MANY
@given(rate=thousandths, burst=bursts, steps=st.lists(gaps, min_size=1, max_size=60))
def test_a_devices_bucket_is_its_definition_exactly(native: Native, rate: int, burst: int, steps: list[int]) -> None:
    hold_to_the_model(native, Fraction(rate, 1000), burst, DEVICE_COST, steps)


def hold_to_the_model(native: Native, rate: Fraction, burst: int, cost: int, steps: list[int]) -> None:
    limit, now_ns = to_units(float(rate), burst, cost), 10**12
    held = bucket(int(limit["cap_units"]), now_ns)
    model = Model(rate, Fraction(burst), Fraction(burst), now_ns)
    for step in steps:
        now_ns = max(0, now_ns + step)
        assert native.take(held, limit, cost, now_ns) == model.take(now_ns)
        assert Fraction(int(held["credit_units"]), cost) == model.tokens
        assert int(held["last_ns"]) == model.last_ns


@MANY
@given(rate=rates, burst=st.integers(1, 1000), steps=st.lists(st.integers(0, 10**6), min_size=1, max_size=200))
def test_no_interval_admits_more_than_burst_and_rate(native: Native, rate: int, burst: int, steps: list[int]) -> None:
    limit, held = to_units(rate, burst, GLOBAL_COST), bucket(0, 0)
    times = np.cumsum(steps).tolist()
    admitted = [at for at in times if native.take(held, limit, GLOBAL_COST, at)]
    for i, start in enumerate(admitted):
        for j in range(i, len(admitted)):
            assert j - i + 1 <= burst + Fraction(admitted[j] - start, 10**9) * rate


@pytest.mark.parametrize("threads", [2, 4, 16])
@pytest.mark.parametrize(
    ("rate", "burst", "step_ns"), [(10**8, 10, 5), (10**6, 1, 50), (1, 100_000, 1), (10**8, 10**6, 0)]
)
def test_threads_never_get_more_than_the_bucket_holds(
    native: Native, threads: int, rate: int, burst: int, step_ns: int
) -> None:
    limit, start_ns, asks = to_units(rate, burst, GLOBAL_COST), 10**12, 200_000 // threads
    held = bucket(int(limit["cap_units"]), start_ns)
    admitted, end_ns = native.crowd(held, limit, GLOBAL_COST, start_ns, step_ns, threads, asks)
    due = min(threads * asks, burst + (end_ns - start_ns) * rate // 10**9)
    assert admitted <= due + threads
    assert admitted >= 0.9 * due - threads, "and it must not starve them either"


@MANY
@given(raw=st.binary(min_size=0, max_size=16))
def test_check_of_device_ids(native: Native, raw: bytes) -> None:
    whole = raw.ljust(16, b"\0")
    name = raw.rstrip(b"\0")
    try:
        good = bool(name) and b"\0" not in name and bool(name.decode("utf-8"))
    except UnicodeDecodeError:
        good = False
    assert native.is_good_id(whole) == good
    if good:
        assert padded(raw) == whole


@MANY
@given(raw=st.binary(min_size=16, max_size=16), row=st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4))
def test_keys_are_their_definition_and_never_what_means_something_else(
    native: Native, raw: bytes, row: list[int]
) -> None:
    key = sum(a * word for a, word in zip(row, struct.unpack("<4I", raw), strict=True)) % 2**64
    due = key + 2 if key in (0, layout.CLAIMED) else key
    spread = np.zeros((), layout.SPREAD)
    spread["multipliers"] = [0, 0, 0, 0], row
    assert native.key(spread, raw) == due % 2**64
    assert device_keys(np.frombuffer(raw, np.uint8).reshape(1, 16), np.array(row, np.uint64)).tolist() == [due % 2**64]


@MANY
@given(
    address=st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    ipv4_prefix=st.integers(1, 32),
    ipv6_prefix=st.integers(1, 128),
    cut=st.integers(0, 60),
)
def test_source_and_prefix_are_their_definition(
    native: Native, address: IPv4Address | IPv6Address, ipv4_prefix: int, ipv6_prefix: int, cut: int
) -> None:
    config = np.zeros((), layout.CONFIG)
    Sources(-1, config, nullcontext).set_limit(SourceLimit(1, 1, ipv4_prefix, ipv6_prefix))
    packet = udp_packet(b"", str(address), to="10.0.0.1" if address.version == 4 else "fd77::1")[14:][:cut]
    found = native.source(packet, config)
    if len(packet) < (20 if address.version == 4 else 40):
        assert found is None
        return
    assert found is not None
    mapped = address.version == 4 or address.ipv4_mapped is not None
    whole = address if address.version == 6 else IPv6Address(f"::ffff:{address}")
    bits = 96 + ipv4_prefix if mapped else ipv6_prefix
    assert found[1] == ip_network((whole, bits), strict=False).network_address.packed
    assert int(found[0]["prefix_bits"]) == 160 and int(found[0]["family"]) == (4 if mapped else 6)
    assert found[0]["address"].tobytes() == whole.packed


@pytest.mark.parametrize("tail", [b"", b"\x80", b"\x80\x80", b"a"])
@pytest.mark.parametrize("head", [b"a", b"sevenby"])  # the second lets the pair cross from one word into the other
def test_every_pair_of_bytes_is_utf8_or_not(native: Native, head: bytes, tail: bytes) -> None:
    for pair in range(65_536):
        raw = head + pair.to_bytes(2, "big") + tail
        name = raw.rstrip(b"\0")
        good = b"\0" not in name and decodes(name)
        assert native.is_good_id(raw.ljust(16, b"\0")) == good, raw


def decodes(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@MANY
@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=16))
def test_every_text_that_fits_is_a_device_id(native: Native, text: str) -> None:
    raw = text.encode()[:16]
    while True:  # cut at a character
        try:
            raw.decode()
            break
        except UnicodeDecodeError:
            raw = raw[:-1]
    assert native.is_good_id(raw.ljust(16, b"\0")) == bool(raw)


@MANY
@given(keys=st.lists(st.integers(0, 2**64 - 1), max_size=20), other=st.integers(0, 2**64 - 1))
def test_marks_are_found_where_they_were_set(native: Native, keys: list[int], other: int) -> None:
    marks = np.zeros((), layout.MARKS)
    for word, bit in zip(*marks_of(np.array(keys, np.uint64)), strict=True):
        marks["bits"][word] |= bit
    assert all(native.is_marked(marks, key) for key in keys)
    same = [key for key in keys if (key ^ other) >> 46 == 0]  # the upper 18 bits
    assert native.is_marked(marks, other) == bool(same)


PACKETS = [row.packet for row in all_rows()]


@settings(max_examples=examples(1000), deadline=None)
@given(data=st.data())
def test_parsing_finds_what_its_definition_finds(native: Native, data: st.DataObject) -> None:
    packet = bytearray(data.draw(st.sampled_from(PACKETS)))
    for _ in range(data.draw(st.integers(0, 4))):
        packet[data.draw(st.integers(0, min(len(packet) - 1, 70)))] = data.draw(st.integers(0, 255))
    raw = bytes(packet[: data.draw(st.integers(0, len(packet)))]) if data.draw(st.booleans()) else bytes(packet)
    found, due = native.judge(raw, any_port=True), payload_of(raw)
    if found.verdict in (Verdict.NOT_OURS, Verdict.FRAGMENT, Verdict.UNPARSABLE):
        assert due is None
    elif not int(found.packet["ip"]) & 0x2000:
        at = int(found.packet["udp"]) + 8
        assert due is not None and due[0] == raw[at : at + int(found.packet["length"])]
        assert due[1][16:] == raw[at - 8 : at - 6]


NUMBERS = [
    "VERSION",
    "SLOTS",
    "WAYS",
    "PLACES",
    "CLAIMED",
    "RULES",
    "MARK_WORDS",
    "SOURCES",
    "ALLOWED_SOURCES",
    "BLOCKED_SOURCES",
    "GENERIC",
    "MAX_TAGS",
    "MAX_EXTENSIONS",
    "SOURCE_COST",
    "GENERATIONS",
    "MAX_CHECKED",
    "KNOWN_BITS",
    "QUEUES",
    "SOURCE_BYTES",
    "SLOT_FRAME_BYTES",
    "ABOUT_BYTES",
    "WOULD",
    "RINGBUF_HEADER_BYTES",
    "GLOBAL_COST",
    "DEVICE_COST",
    "MAX_CAP",
    "FOREVER",
    "VERDICTS",
]


def test_pythons_numbers_are_those_of_the_header(native: Native) -> None:
    numbers = native.numbers()
    for enum, prefix in (
        (layout.Verdict, ""),
        (layout.Monitor, "MONITOR_"),
        (layout.Accept, "ACCEPT_"),
        (layout.SourceRule, "SOURCE_RULE_"),
        (layout.AuthMode, "AUTH_"),
    ):
        for member in enum:
            assert numbers.pop(f"KLAIS_{prefix}{member.name}") == member
    for name in NUMBERS:
        assert numbers.pop(f"KLAIS_{name}") == getattr(layout, name)
    layouts = (
        "limit",
        "limits",
        "address",
        "prefix",
        "config",
        "generation",
        "known",
        "auth",
        "bucket",
        "way",
        "set",
        "owner",
        "owners",
        "spread",
        "rule",
        "source_block",
        "count",
    )
    for name in (*layouts, "ports", "marks", "about", "slot"):
        dtype = getattr(layout, name.upper())
        assert numbers.pop(f"sizeof {name}") == dtype.itemsize
        assert dtype.fields is not None
        for field, (_, offset, *_rest) in dtype.fields.items():
            assert numbers.pop(f"{name}.{field}") == offset
    from klais.core.wire import constants

    assert numbers.pop("KLAIS_MAGIC") == constants.MAGIC and numbers.pop("KLAIS_ID_OFFSET") == constants.ID_OFFSET
    assert (
        numbers.pop("KLAIS_ID_BYTES") == constants.ID_SIZE
        and numbers.pop("KLAIS_HEADER_BYTES") == constants.HEADER_SIZE
    )
    from klais.core.wire import signing

    assert numbers.pop("KLAIS_SIGNED_MAGIC") == signing.SIGNED_MAGIC
    assert numbers.pop("KLAIS_MAC_BYTES") == signing.TAG_SIZE
    assert numbers.pop("KLAIS_MIN_SIGNED_BYTES") == signing.MIN_SIGNED_BYTES
    assert numbers.pop("KLAIS_PORT_WORDS") == layout.PORTS["bits"].shape[0]
    assert numbers == {}, "the header has numbers that Python does not mirror"
