"""The filter's table of devices (``bpf/table.h``) against its definition in plain Python, and with
many CPUs at once.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.xdp.device_id import device_keys, padded
from klais.xdp.layout import CLAIMED, DEVICE_COST, WAYS, Verdict
from klais.xdp.limits import to_units
from klais.xdp.table import occupied
from tests.support.examples import examples
from tests.support.xdp_native import Native, Table

START_NS = 10**12
Multipliers = Sequence[Sequence[int]]  # two sets, four words of 32 bits


@dataclass
class Way:
    """A place for one device: tokens are frames, exact."""

    name: bytes = b""
    tokens: Fraction = Fraction(0)
    last_ns: int = 0
    passed: int = 0
    dropped: int = 0


@dataclass
class Twin:
    """The definition: each device has two sets of two ways; the way of whoever was silent longest is given away."""

    multipliers: Multipliers
    sets: list[list[Way]] = field(default_factory=list)

    def take(self, name: bytes, rate: Fraction, burst: int, now_ns: int) -> bool:
        first, second = (self.sets[number] for number in self.numbers(name))
        for way in (*first, *second):
            if way.name == name:
                return self.take_from(way, rate, burst, now_ns)
        way = self.to_forget(first, second, Fraction(burst * 10**9, 1) / rate, now_ns)
        way.name, way.tokens, way.last_ns, way.passed, way.dropped = name, Fraction(burst - 1), now_ns, 1, 0
        return True

    def numbers(self, name: bytes) -> list[int]:
        bits = len(self.sets).bit_length() - 1
        words = struct.unpack("<4I", padded(name))
        sums = [sum(a * word for a, word in zip(row, words, strict=True)) for row in self.multipliers]
        return [total % 2**64 >> (64 - bits) for total in sums]

    @staticmethod
    def to_forget(first: list[Way], second: list[Way], fill_ns: Fraction, now_ns: int) -> Way:
        for ways in (first, second):  # an empty one
            for way in ways:
                if not way.name:
                    return way
        mine = min(first, key=lambda way: way.last_ns)
        other = min(second, key=lambda way: way.last_ns)
        is_full_again = now_ns - mine.last_ns >= fill_ns  # it would begin with a full bucket anyway
        return mine if is_full_again or mine.last_ns <= other.last_ns else other

    @staticmethod
    def take_from(way: Way, rate: Fraction, burst: int, now_ns: int) -> bool:
        if now_ns > way.last_ns:
            way.tokens = min(Fraction(burst), way.tokens + Fraction(now_ns - way.last_ns, 10**9) * rate)
            way.last_ns = now_ns
        if way.tokens < 1:
            way.dropped += 1
            return False
        way.tokens -= 1
        way.passed += 1
        return True


row = st.tuples(*[st.integers(0, 2**64 - 1)] * 4)
rows = st.tuples(row, row)
steps = st.tuples(st.integers(0, 11), st.one_of(st.integers(0, 3), st.integers(0, 10**9), st.integers(0, 10**11)))


@settings(max_examples=examples(300), deadline=None)
@given(
    multipliers=rows,
    bits=st.integers(1, 3),
    rate=st.sampled_from([1, 7, 1000, 99_999_989]),
    burst=st.integers(1, 4),
    asks=st.lists(steps, min_size=1, max_size=120),
)
def test_the_table_is_its_definition(
    native: Native, multipliers: Multipliers, bits: int, rate: int, burst: int, asks: list[tuple[int, int]]
) -> None:
    table, limit = Table(native, 1 << bits, multipliers), to_units(rate, burst, DEVICE_COST)
    twin = Twin(multipliers, [[Way() for _ in range(WAYS)] for _ in range(1 << bits)])
    now_ns = START_NS
    for device, gap_ns in asks:  # up to twelve devices in four to sixteen ways
        now_ns += gap_ns
        name = f"dev-{device}".encode()
        due = Verdict.PASS if twin.take(name, Fraction(rate), burst, now_ns) else Verdict.DEVICE_RATE
        assert table.take(padded(name), limit, now_ns) == due
    hold_to(table, twin)


def hold_to(table: Table, twin: Twin) -> None:
    for number, ways in enumerate(twin.sets):
        for at, way in enumerate(ways):
            found, owner = table.sets["ways"][number, at], table.owners["ways"][number, at]
            assert int(found["key"]) == (key_of(table, way.name) if way.name else 0)
            assert Fraction(int(found["bucket"]["credit_units"]), DEVICE_COST) == way.tokens
            assert int(found["bucket"]["last_ns"]) == way.last_ns
            assert int(table.sets["passed"][number, at]) == way.passed
            if way.name:
                assert bytes(owner["id"]) == padded(way.name) and int(owner["dropped"]) == way.dropped


def key_of(table: Table, name: bytes) -> int:
    ids = np.frombuffer(padded(name), np.uint8).reshape(1, 16)
    return int(device_keys(ids, table.spread["multipliers"][-1])[0])


@settings(max_examples=examples(100), deadline=None)
@given(asks=st.lists(steps, min_size=1, max_size=120), burst=st.integers(1, 4))
def test_devices_whose_keys_are_all_equal_keep_buckets_of_their_own(
    native: Native, asks: list[tuple[int, int]], burst: int
) -> None:
    same = ((0, 0, 0, 0), (0, 0, 0, 0))
    table, limit = Table(native, 2, same), to_units(7, burst, DEVICE_COST)
    twin = Twin(same, [[Way() for _ in range(WAYS)] for _ in range(2)])
    now_ns = START_NS
    for device, gap_ns in asks:
        now_ns += gap_ns
        name = f"dev-{device}".encode()
        due = Verdict.PASS if twin.take(name, Fraction(7), burst, now_ns) else Verdict.DEVICE_RATE
        assert table.take(padded(name), limit, now_ns) == due
    hold_to(table, twin)


@settings(max_examples=examples(100), deadline=None)
@given(names=st.lists(st.integers(0, 40), min_size=1, max_size=200), multipliers=rows)
def test_a_new_device_passes_however_full_the_table_is(
    native: Native, names: list[int], multipliers: Multipliers
) -> None:
    table, limit, seen = Table(native, 2, multipliers), to_units(0.001, 1, DEVICE_COST), set()
    for now_ns, name in enumerate(names, START_NS):
        raw = padded(f"dev-{name}")
        verdict = table.take(raw, limit, now_ns)
        assert verdict == Verdict.PASS or name in seen
        seen.add(name)
        assert table.take(raw, limit, now_ns) == Verdict.DEVICE_RATE, "and then it is known"


@pytest.mark.parametrize("threads", [2, 4, 16])
def test_cpus_that_meet_the_same_new_devices_give_nothing_away(native: Native, threads: int) -> None:
    rng, burst, rounds = np.random.default_rng(threads), 3, 6
    for _ in range(40):
        table = Table(native, 256, rng.integers(0, 1 << 63, (2, 4)).tolist())
        ids = ids_of(f"{rng.integers(1 << 30)}", 128)
        admitted = table.rush(ids, to_units(0.001, burst, DEVICE_COST), START_NS, rounds, threads)
        crowded = overfull(table, ids)  # more devices than ways: they push each other out
        assert (admitted[~crowded] <= burst).all()
        assert (admitted >= 1).all() and admitted.mean() > 0.9 * burst, "nor much less than is due"
        whole(table)


@pytest.mark.parametrize("threads", [2, 16])
def test_cpus_that_push_each_others_devices_out_leave_a_whole_table(native: Native, threads: int) -> None:
    table = Table(native, 4, np.random.default_rng(1).integers(0, 1 << 63, (2, 4)).tolist())
    ids = ids_of("crowd-", 64)
    for round_ in range(20):
        admitted = table.rush(ids, to_units(1, 2, DEVICE_COST), START_NS + round_ * 10**12, 40, threads)
        assert (admitted >= 1).all()
        whole(table)


def ids_of(prefix: str, count: int) -> np.ndarray:
    return np.frombuffer(b"".join(padded(f"{prefix}{i}"[-16:]) for i in range(count)), np.uint8).reshape(-1, 16).copy()


def overfull(table: Table, ids: np.ndarray) -> np.ndarray:
    """Of each device, whether its sets are, with all that may lie in them, more than full."""
    twin = Twin(table.spread["multipliers"].tolist(), [[] for _ in range(len(table.sets))])
    homes = [twin.numbers(raw.tobytes().rstrip(b"\0")) for raw in ids]
    load = np.bincount(np.array(homes).reshape(-1), minlength=len(table.sets))
    return np.array([max(load[first], load[second]) > WAYS for first, second in homes])


def whole(table: Table) -> None:
    """No way is left claimed, each key is that of its owner, no bucket holds more than it may."""
    keys = table.sets["ways"]["key"]
    assert not (keys == CLAIMED).any()
    assert len(occupied(table.sets, table.owners, table.spread["multipliers"][-1])) == np.count_nonzero(keys)


def test_two_ids_meet_as_often_as_chance_has_it() -> None:
    # Ids that differ in the highest bits only, which plain multiplication would keep there.
    ids = ids_of("", 16 * 16)
    ids[:] = ord("a")
    ids[:, 7], ids[:, 15] = ord("a") + np.arange(256) % 16, ord("a") + np.arange(256) // 16
    rng, met, tries = np.random.default_rng(3), 0, 100
    for _ in range(tries):
        table = Twin(rng.integers(0, 2**64, (2, 4), np.uint64).tolist(), [[] for _ in range(4096)])
        homes = [table.numbers(raw.tobytes())[0] for raw in ids]
        met += sum(n * (n - 1) // 2 for n in np.bincount(homes).tolist())
    due = tries * 256 * 255 / 2 / 4096
    assert met < 2 * due
