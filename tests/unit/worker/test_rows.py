"""Pages of many devices as columns: against plain Python over the same rows."""

from dataclasses import replace

import numpy as np
import pytest

from klais.core.devices.layout import ROW, ROW_VERSION, row_key
from klais.core.lane.state import LaneState
from klais.worker.rows import (
    SORTS,
    STATES,
    DeviceLimits,
    PageRequest,
    Part,
    find_page,
    last_seen_ns,
    select,
    states_of,
    sum_rows,
)
from klais.worker.web.queries import read_cursor, write_cursor

NOW = 1_700_000_000_000_000_000
S = 1_000_000_000
LIMITS = DeviceLimits(10.0, 100.0, frozenset({b"d-3"}), NOW)


def lane_state(count: int, seed: int) -> LaneState:
    """A lane with random rows."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(count, ROW)
    for i in range(count):
        name = b"d-%d" % i if seed == 1 else b"e-%d" % i
        rows["id"][i] = np.frombuffer(name.ljust(16, b"\0"), "<u8")
        rows["id_size"][i] = len(name)
    rows["version"] = ROW_VERSION
    rows["received"] = rng.integers(1, 5, count)
    rows["flags"] = rng.integers(0, 3, count)
    rows["tokens"] = rng.uniform(-1, 3, count)
    rows["refilled_ns"] = NOW - rng.integers(0, 30, count) * S
    rows["last_seen_s"] = (rows["refilled_ns"] - rng.integers(0, 2, count) * 5 * S) // S
    rows["last_ns"] = rows["refilled_ns"] - rng.integers(0, 2, count) * S
    rows["flag_ns"] = rows["last_ns"] - rng.integers(0, 2, count)
    rows["interval_s"] = rng.uniform(0, 4, count)
    rows["flag_score"] = rng.uniform(0, 9, count)
    for name in ("late", "gaps", "resets"):
        rows[name] = rng.integers(0, 100, count)
    state = LaneState()
    state.restore_rows(rows, 0)
    return state


def forget_some(state: LaneState) -> None:
    """Leave holes among the rows."""
    some = state.rows["id"][: state.used : 7].view(np.uint8)
    assert state.forget(some, 1) == len(some)


def naive_state(row, limits: DeviceLimits) -> str:
    seen = min(int(row["refilled_ns"]), (int(row["last_seen_s"]) + 1) * S)  # an edge's clock may be ahead
    tokens = min(limits.burst, float(row["tokens"]) + (limits.now_ns - int(row["refilled_ns"])) * 1e-9 * limits.rate)
    if row_key(row) in limits.blocked:
        return "blocked"
    if tokens < 1.0:
        return "limited"
    if row["flags"] > 0 and row["flag_ns"] >= row["last_ns"]:
        return "flagged"
    if (limits.now_ns - seen) * 1e-9 > max(10 * float(row["interval_s"]), 10.0):
        return "silent"
    return "normal"


def parts() -> list[Part]:
    return [Part.of(0, lane_state(500, 1)), Part.of(1, lane_state(300, 2))]


def test_states_are_those_of_the_definition_and_all_of_them_occur():
    seen = set()
    for part in parts():
        expected = [naive_state(row, LIMITS) for row in part.rows[: part.used]]
        assert [STATES[k] for k in states_of(part, LIMITS)] == expected
        seen |= set(expected)
    assert seen == set(STATES)


def test_an_unknown_blocked_device_blocks_nobody():
    part = parts()[1]
    assert "blocked" not in {STATES[k] for k in states_of(part, LIMITS)}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("kind", ["ties", "floats", "one"])
def test_select_is_a_sort_by_key_and_id_and_a_slice(descending, kind):
    rng = np.random.default_rng(5)
    keys = {"ties": rng.integers(0, 4, 1000), "floats": rng.normal(size=1000), "one": np.array([3])}[kind]
    words = rng.permutation(2 * len(keys)).astype(np.uint64).reshape(-1, 2)
    order = sorted(range(len(keys)), key=lambda i: (-keys[i] if descending else keys[i], *words[i].tolist()))
    for begin, end in ((0, 10), (5, 5), (90, 120), (400, 900), (990, 1100), (2000, 2100)):
        assert select(keys, words, begin, end, descending).tolist() == order[begin:end]


@pytest.mark.parametrize("sort", sorted(SORTS))
@pytest.mark.parametrize("descending", [False, True])
def test_pages_by_cursor_are_the_whole_in_the_same_order(sort, descending):
    some = parts()
    whole = find_page(some, PageRequest(sort, descending, 0, 1000), LIMITS)
    got, after = [], None
    while True:
        found = find_page(some, PageRequest(sort, descending, 0, 70, after=after), LIMITS)
        assert found.matching == 800
        if not found.page:
            break
        got += [(part.partition, row) for part, row, _ in found.page]
        after = read_cursor(write_cursor(found.places[-1]))
    assert got == [(part.partition, row) for part, row, _ in whole.page]


def test_filters_by_drops_and_by_silence():
    some = parts()
    for part in some:
        part.rows["device_rate"][: part.used : 3] = 1
    found = find_page(some, PageRequest("dropped", True, 0, 1000, dropped=True), LIMITS)
    assert found.matching == 167 + 100 and all(part.rows["device_rate"][row] for part, row, _ in found.page)
    found = find_page(some, PageRequest("last_seen", True, 0, 1000, silent_ns=20 * S), LIMITS)
    assert 0 < found.matching < 800
    assert all(LIMITS.now_ns - last_seen_ns(part)[row] > 20 * S for part, row, _ in found.page)


@pytest.mark.parametrize("text", ["", "x", "e30", "WzEsMl0", "WzEsMiwtMV0", "WzEsMiwiMyJd", "-" * 50])
def test_what_is_no_cursor_is_refused(text):
    with pytest.raises(ValueError, match="next"):
        read_cursor(text)


@pytest.mark.parametrize("sort", sorted(SORTS))
@pytest.mark.parametrize("descending", [False, True])
def test_pages_put_together_are_the_whole_in_order(sort, descending):
    got, begin = [], 0
    some = parts()
    while True:
        found = find_page(some, PageRequest(sort, descending, begin, begin + 60), LIMITS)
        if not found.page:
            break
        got += [(part.partition, row) for part, row, _ in found.page]
        begin += 60
    keys = {}
    for part in some:
        column = SORTS[sort](part, LIMITS)
        values = [row_key(r) for r in part.rows[: part.used]] if sort == "device_id" else column.tolist()
        keys |= {(part.partition, i): value for i, value in enumerate(values)}
    assert sorted(got) == sorted(keys)
    ordered = [keys[at] for at in got]
    assert ordered == sorted(ordered, reverse=descending)


def test_filters_by_part_of_id_and_state_and_counts_all_states():
    some = parts()
    everyone = [(part, row) for part in some for row in part.rows[: part.used]]
    for state in (None, *range(len(STATES))):
        expected = sorted(
            row_key(row)
            for _, row in everyone
            if b"-1" in row_key(row) and (state is None or naive_state(row, LIMITS) == STATES[state])
        )
        found = find_page(some, PageRequest("device_id", False, 0, 500, b"-1", state), LIMITS)
        assert [row_key(part.rows[row]) for part, row, _ in found.page] == expected
        assert found.matching == len(expected)
        assert sum(found.by_state.values()) == 800


def test_devices_that_were_forgotten_are_on_no_page_and_in_no_count():
    state = lane_state(500, 1)
    forget_some(state)
    part = Part.of(0, state)
    found = find_page([part], PageRequest("device_id", False, 0, 1000), LIMITS)
    names = [row_key(part.rows[row]) for _, row, _ in found.page]
    assert names == sorted(b"d-%d" % i for i in range(500) if i % 7)
    assert found.matching == state.devices == sum(found.by_state.values())


def test_no_lanes_give_an_empty_page():
    found = find_page([], PageRequest("received", True, 0, 10), LIMITS)
    assert found.page == [] and found.matching == 0


def test_sums_over_many_blocks_are_those_of_the_columns():
    state = lane_state(9000, 3)
    part = Part.of(0, state)
    rows = state.rows[: state.used]
    sums = sum_rows(part, LIMITS)
    assert (sums.late, sums.gaps, sums.resets) == tuple(int(rows[name].sum()) for name in ("late", "gaps", "resets"))
    assert sums.flagged_now == sum(1 for row in rows if row["flags"] > 0 and row["flag_ns"] >= row["last_ns"])
    assert sums.top_score == float(rows["flag_score"].max())
    blocked = frozenset({b"e-3", b"e-5000", b"nobody"})
    for limits in (LIMITS, replace(LIMITS, blocked=blocked)):
        by_state = find_page([part], PageRequest("received", True, 0, 1), limits).by_state
        assert dict(zip(STATES, sum_rows(part, limits).by_state, strict=True)) == by_state
    assert by_state["blocked"] == 2
    assert sum_rows(part, replace(LIMITS, now_ns=NOW + 3600 * S)).top_score == 0.0
