"""Kernels of devices against plain twins: hash, index, sequence window, profiles, buckets, and who is forgotten."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.core.anomaly import zscore
from klais.core.dam.bucket import TokenBucket, refill, refill_column
from klais.core.devices.forget import ACTIVE_S, EVICT_ABOVE, choose
from klais.core.devices.index import USED, insert
from klais.core.devices.layout import ROW, id_words
from klais.core.devices.sequence import DUPLICATE, IN_ORDER, JUMP, LATE, REPLAYED, RESTART, UNKNOWN, observe
from klais.core.devices.signed import observe_signed
from klais.core.devices.siphash import hash_bytes, hash_words, key_words
from klais.core.lane.boots import MAX_SKIPPED, SKIPPED_RANGES, Boots
from klais.core.lane.state import LaneState
from tests.support.examples import examples
from tests.support.lane import Feature, NaiveBucket, Window

MASK = 2**64 - 1


def siphash13(data: bytes, key: bytes) -> int:
    """SipHash-1-3 from the paper's text."""

    def rotate(x: int, by: int) -> int:
        return (x << by | x >> (64 - by)) & MASK

    def sip_round() -> None:
        for a, b, c, by, swap in ((0, 1, 0, 13, True), (2, 3, 2, 16, False), (0, 3, 0, 21, False), (2, 1, 2, 17, True)):
            v[a] = (v[a] + v[b]) & MASK
            v[b] = rotate(v[b], by) ^ v[a]
            if swap:
                v[c] = rotate(v[c], 32)

    k = [int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")]
    v = [k[i % 2] ^ int.from_bytes(b"somepseudorandomlygeneratedbytes"[8 * i : 8 * i + 8], "big") for i in range(4)]
    padded = data + bytes(-(len(data) + 1) % 8) + bytes([len(data) & 255])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        sip_round()
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(3):
        sip_round()
    return v[0] ^ v[1] ^ v[2] ^ v[3]


@given(st.binary(max_size=70), st.binary(min_size=16, max_size=16), st.integers(0, 9))
def test_the_hash_is_siphash_1_3(data: bytes, key: bytes, before: int) -> None:
    buf = np.frombuffer(bytes(before) + data + b"behind", np.uint8)
    assert int(hash_bytes(buf, before, len(data), key_words(key))) == siphash13(data, key)
    padded = data[:16].ljust(16, b"\0")
    low, high = map(np.uint64, np.frombuffer(padded, "<u8"))
    assert int(hash_words(low, high, key_words(key))) == siphash13(padded, key)


@pytest.mark.parametrize(
    ("data", "expected"),  # what CPython 3.11 says with PYTHONHASHSEED=0, that is with a key of zeros
    [(b"a", 4644417185603328019), (b"abcdefg", 7904145750247929094), (bytes(range(37)), 4767789530095809126)],
)
def test_the_hash_is_that_of_cpython(data: bytes, expected: int) -> None:
    assert int(hash_bytes(np.frombuffer(data, np.uint8), 0, len(data), key_words(bytes(16)))) == expected


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 25)), max_size=120))
def test_the_index_is_a_dictionary(moves: list) -> None:
    """With few slots, so that the probes of devices run into each other; free rows are used again."""
    state, rows_of = LaneState(capacity=32), {}
    for number, (adds, n) in enumerate(moves, 1):
        name = b"d-%d" % n
        low, high = map(np.uint64, id_words(name))
        if not adds:
            ids = np.frombuffer(name.ljust(16, b"\0"), np.uint8).reshape(1, 16)
            assert state.forget(ids, number) == (name in rows_of)
            rows_of.pop(name, None)
        elif name not in rows_of:
            args = (state.slots, state.index_key, state.rows, state.free, state.room)
            rows_of[name] = int(insert(*args, low, high, len(name)))
        assert {name: state.find(name) for name in rows_of} == rows_of
        assert state.devices == len(rows_of) == len(set(rows_of.values()))
        assert int(np.count_nonzero(state.slots)) == len(rows_of)
    assert state.room[USED] <= 26


def collision_family() -> np.ndarray:
    """Ids whose words differ where a multiply-mix hash with one key word cancels: 16,384 ids, 256 hashes."""
    top = np.arange(128, dtype=np.uint64) << np.uint64(8)
    low = (np.frombuffer(b"abcdef\0\0", np.uint64)[0] | top << np.uint64(48)).repeat(128)
    high = np.tile(np.frombuffer(b"zy\0\0\0\0\0\0", np.uint64)[0] ^ top << np.uint64(48) ^ top << np.uint64(16), 128)
    return np.stack([low, high], axis=1)


def test_ids_made_to_collide_do_not() -> None:
    ids, state = collision_family(), LaneState(capacity=1 << 14)
    hashes = {int(hash_words(low, high, state.index_key)) for low, high in ids}
    assert len(hashes) == len(ids)
    for low, high in ids:
        insert(state.slots, state.index_key, state.rows, state.free, state.room, low, high, 16)
    home = np.array([int(hash_words(low, high, state.index_key)) for low, high in ids], np.uint64)
    place = {int(slot & np.uint64(0xFFFFFFFF)) - 1: at for at, slot in enumerate(state.slots) if slot}
    mask = len(state.slots) - 1
    probes = [(place[r] - int(home[r] & np.uint64(mask)) & mask) + 1 for r in range(len(ids))]
    assert np.mean(probes) < 2.0  # half full, linear probing: 1.5 (Knuth)


FRAMES = st.lists(
    st.tuples(
        st.one_of(
            st.integers(-40, 40), st.integers(-(2**20), 2**20), st.integers(-(2**31), 2**31)
        ),  # step of the number
        st.sampled_from([0, 1, 2, 5]),  # frames back that the step starts at
        st.sampled_from([0.0, 0.4, 29.0, 61.0, 7200.0, -0.5, -8.0, -7200.0]),  # seconds since the last frame
        st.sampled_from([b"x", b"y"]),
    ),
    max_size=40,
)
OUTCOMES = {IN_ORDER: "in_order", DUPLICATE: "duplicate", LATE: "late", RESTART: "restart", JUMP: "jump"}


@settings(max_examples=examples(400), deadline=None)
@given(FRAMES, st.sampled_from([None, 0.01, 1.0, 60.0]))
def test_the_sequence_window_is_that_of_the_definition(some: list, interval_s: float | None) -> None:
    rows, twin, now_s = np.zeros(1, ROW), Window(), 1e9
    interval_s = None if interval_s is None else float(np.float32(interval_s))
    if interval_s is not None:
        rows["interval_s"][0], rows["intervals"][0] = interval_s, 5
    numbers = [0]
    for step, back, elapsed_s, frame in some:
        sequence = (numbers[-min(back + 1, len(numbers))] + step) % 2**32
        numbers.append(sequence)
        now_s += elapsed_s
        era = int(now_s // 30)
        found = observe(rows, 0, np.uint32(sequence), np.uint32(frame[0]), era, elapsed_s, UNKNOWN)
        assert OUTCOMES[int(found)] == twin.observe(sequence, frame, era, elapsed_s, interval_s)
        rows["received"] += 1
        row = rows[0]
        assert int(row["top"][row["main"]]) == twin.top
        assert [int(row[name]) for name in ("gaps", "late", "resets", "jumps")] == [
            twin.gaps,
            twin.late,
            twin.resets,
            twin.jumps,
        ]


VALUES = st.lists(st.one_of(st.floats(-1e3, 1e3), st.sampled_from([20.0, 20.0, 20.1, 1e150, -1e9])), max_size=150)


@settings(deadline=None)
@given(VALUES)
def test_a_profile_is_that_of_the_definition(values: list) -> None:
    rows, twin = np.zeros(1, zscore.ZPROFILE), Feature(lambda mean: 1e-9 + 1e-3 * abs(mean))
    for value in values:
        learned = rows["mean"], rows["var"], rows["samples"]
        found = float(zscore.score_one(rows, learned, 0, 2, value, np.array([6.0, 30.0, 500.0])))
        expected = twin.learn(value)
        assert np.copysign(abs(found) ** 0.5, found) == pytest.approx(
            np.clip(expected, -1e30, 1e30), rel=1e-3, abs=1e-6
        )
        assert rows["mean"][0, 2] == pytest.approx(twin.mean, rel=1e-6, abs=1e-12)
        assert rows["samples"][0, 2] == twin.samples
        twin.mean, twin.var = (
            float(rows["mean"][0, 2]),
            float(rows["var"][0, 2]),
        )  # the profile keeps the variance as float32


WAVES = st.lists(st.tuples(st.integers(0, 40), st.integers(-(10**9), 10**10)), max_size=30)


@given(WAVES, st.floats(0.01, 1e4), st.floats(1, 1e3))
def test_every_bucket_is_that_of_the_definition(waves: list, rate: float, burst: float) -> None:
    twin, bucket, now_ns = NaiveBucket(burst, 0), TokenBucket(rate, burst), 0
    tokens, at_ns = burst, 0
    for wanted, wait in waves:
        now_ns = max(0, now_ns + wait)
        column = refill_column(np.array([tokens]), np.array([at_ns]), now_ns, rate, burst)
        tokens, at_ns = float(refill(tokens, at_ns, now_ns, rate, burst)), now_ns
        twin.refill(now_ns, rate, burst)
        granted = bucket.acquire(wanted, now_ns)
        assert granted == min(wanted, int(twin.tokens))
        twin.tokens -= granted
        assert column[0] == pytest.approx(tokens)
        tokens -= granted
        assert tokens == pytest.approx(twin.tokens) == pytest.approx(bucket.tokens)


@given(st.lists(st.integers(0, 2000), max_size=60), st.integers(1, 60), st.integers(60, 1000), st.data())
def test_the_longest_silent_devices_are_forgotten(heard: list, limit: int, forget_s: int, data: st.DataObject) -> None:
    now_s, rows = 2000, np.zeros(len(heard) + 3, ROW)
    rows["last_seen_s"][: len(heard)] = heard
    rows["id"][:, 0] = np.arange(len(rows)) + 1
    rows["id_size"][: len(heard)] = 8
    freed = data.draw(st.sets(st.integers(0, len(heard) - 1))) if heard else set()
    rows["id_size"][list(freed)] = 0
    live = sorted((at, n) for n, at in enumerate(heard) if n not in freed)
    found = choose(rows, len(heard), len(live), limit, now_s, forget_s).reshape(-1, 16)
    chosen = {int(row[0]) - 1 for row in found}
    silent = sum(at < now_s - forget_s for at, _ in live)
    movable = sum(at < now_s - ACTIVE_S for at, _ in live)
    assert len(chosen) == max(silent, min(len(live) - int(EVICT_ABOVE * limit), movable), 0)
    assert chosen <= {n for _, n in live}
    gone, kept = [heard[n] for n in chosen], [at for at, n in live if n not in chosen]
    assert not gone or not kept or max(gone) <= min(kept)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 14)), max_size=60))
def test_batches_are_recognised_by_their_numbers(taken: list) -> None:
    """Each number of an (edge, boot) is taken once, in whatever order they come, and those missing are counted."""
    boots, twin = Boots(), {}
    missing = 0
    for now_s, (edge, boot, number) in enumerate(taken):
        mine = twin.setdefault((edge, boot), [])
        more = boots.take(edge, boot, number, now_s)
        assert (more is None) == (number in mine)
        mine += [number] if more is not None else []
        missing += more or 0
        assert missing == sum(n not in some for some in twin.values() for n in range(some[0], max(some)))
        again = Boots()
        again.load(boots.dump(), boots.skipped())
        assert again.dump() == boots.dump() and len(again) == len(twin) and again.skipped() == boots.skipped()
        boots = again


def test_only_the_newest_numbers_left_out_are_remembered() -> None:
    boots = Boots()
    for number in range(0, 4 * SKIPPED_RANGES, 2):
        boots.take(1, 1, number, 0)
    assert boots.take(1, 1, 1, 0) is None and boots.take(1, 1, 4 * SKIPPED_RANGES - 3, 0) == -1
    for edge in range(2, MAX_SKIPPED + 3):
        boots.take(edge, 1, 5, 0)
    assert boots.take(1, 1, 4 * SKIPPED_RANGES - 5, 0) is None and len(boots.skipped()) == MAX_SKIPPED


NEARBY = st.one_of(st.integers(0, 100), st.integers(200, 300), st.integers(2**32 - 40, 2**32 - 1))


@settings(max_examples=examples(300), deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), NEARBY), max_size=200))
def test_a_signed_frame_is_taken_once_whatever_comes(sent: list[tuple[int, int]]) -> None:
    rows = np.zeros(1, ROW)
    taken: set[tuple[int, int]] = set()
    highest = (0, -1)
    for epoch, sequence in sent:
        outcome = int(observe_signed(rows, 0, np.uint32(epoch), np.uint32(sequence)))
        came = (epoch, sequence) in taken
        assert not (came and outcome in (IN_ORDER, LATE))
        if (epoch, sequence) > highest:
            assert outcome == IN_ORDER
            highest = epoch, sequence
        elif epoch < highest[0]:
            assert outcome == REPLAYED
        elif highest[1] - sequence < 32:
            new = min((s for e, s in taken if e == epoch), default=sequence) <= sequence  # a window begins with one
            assert outcome == (DUPLICATE if came else LATE) or not new
        if outcome in (IN_ORDER, LATE):
            taken.add((epoch, sequence))


@settings(max_examples=examples(50), deadline=None)
@given(st.integers(33, 500), st.integers(1, 200), st.integers(0, 3))
def test_a_backlog_that_fills_the_newest_hole_in_order_is_late(gap: int, more: int, swap: int) -> None:
    rows = np.zeros(1, ROW)

    def take(sequence: int) -> int:
        return int(observe_signed(rows, 0, np.uint32(1), np.uint32(sequence)))

    assert [take(s) for s in range(100)] == [IN_ORDER] * 100
    first = 100 + gap
    assert [take(first + k) for k in range(more)] == [IN_ORDER] * more
    hole = list(range(100, first - 31))
    for k in range(0, len(hole) - swap, swap + 1):
        hole[k : k + swap + 1] = hole[k : k + swap + 1][::-1]  # neighbours overtake each other
    assert [take(s) for s in hole] == [LATE] * len(hole)
    assert not {take(s) for s in range(first + more - 32)} & {LATE, IN_ORDER}
    assert int(rows["gaps"][0]) == gap - len(hole)
