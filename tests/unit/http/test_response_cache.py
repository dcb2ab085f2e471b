"""Expensive answers: one at a time, once for all who ask the same, and never more than may wait."""

import asyncio
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klais.http.errors import HttpError
from klais.http.response_cache import CpuTimer, Gate, ResponseCache
from klais.worker.rows import select


async def test_computations_run_one_at_a_time_and_few_may_wait() -> None:
    gate, running, peak, release = Gate(max_waiting=3), 0, 0, threading.Event()

    def compute() -> int:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        release.wait(10)
        running -= 1
        return 7

    tasks = [asyncio.create_task(gate.run(compute)) for _ in range(10)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert all(isinstance(task.exception(), HttpError) for task in done)
    release.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results if not isinstance(result, Exception)] == [7] * 3
    assert {error.status for error in results if isinstance(error, HttpError)} == {503}
    assert peak == 1


async def test_a_gate_rests_as_long_as_it_worked() -> None:
    def work() -> None:
        until_s = time.thread_time() + 0.05
        while time.thread_time() < until_s:
            pass

    gate = Gate()
    began_s = time.monotonic()
    for _ in range(3):
        await gate.run(work)
    assert time.monotonic() - began_s >= 5 * 0.05  # three times work, twice rest between them


def test_time_in_which_a_computation_waits_is_no_work() -> None:
    spent = CpuTimer()
    spent.run(lambda: time.sleep(0.5))
    assert spent.cpu_s < 0.25


async def test_a_failed_computation_opens_the_gate_again() -> None:
    gate = Gate(max_waiting=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await gate.run(lambda: 1 // 0)
    assert await gate.run(lambda: 5) == 5


async def test_whoever_asks_the_same_gets_the_same() -> None:
    answers, made = ResponseCache(fresh_s=60), []

    async def make() -> bytes:
        made.append(1)
        await asyncio.sleep(0)
        return str(len(made)).encode()

    assert await asyncio.gather(*(answers.get("a", make) for _ in range(20))) == [b"1"] * 20
    assert await answers.get("b", make) == b"2"
    assert await answers.get("a", make) == b"1"


async def test_an_answer_goes_stale_and_an_error_is_not_kept() -> None:
    answers, made = ResponseCache(fresh_s=0), []

    async def make() -> bytes:
        made.append(1)
        if len(made) == 2:
            raise HttpError(503, "busy", "not now")
        return str(len(made)).encode()

    assert await answers.get("a", make) == b"1"
    with pytest.raises(HttpError):
        await answers.get("a", make)
    kept = ResponseCache(fresh_s=60)
    made[:] = [1]
    with pytest.raises(HttpError):
        await kept.get("a", make)
    assert await kept.get("a", make) == b"3"


async def test_few_answers_are_kept_and_who_leaves_takes_nothing_away() -> None:
    answers, release = ResponseCache(fresh_s=60, kept=4), asyncio.Event()

    async def make() -> bytes:
        await release.wait()
        return b"x"

    first, second = (asyncio.create_task(answers.get("a", make)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    release.set()
    assert await second == b"x"
    for i in range(50):
        await answers.get(str(i), make)
    assert len(answers) == 4


WORDS = st.integers(0, 3) | st.integers(0, 2**64 - 1)


@given(
    st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=80), st.integers(0, 20), st.integers(0, 20), st.booleans()
)
def test_a_page_of_ids_is_the_slice_of_them_all_sorted(
    ids: list[tuple[int, int]], begin: int, size: int, descending: bool
) -> None:
    keys = np.array(ids, np.uint64).reshape(-1, 2)
    whole = (
        sorted(range(len(ids)), key=lambda i: ids[i])
        if not descending
        else sorted(range(len(ids)), key=lambda i: (-ids[i][0], -ids[i][1]))
    )
    assert select(keys, keys, begin, begin + size, descending).tolist() == whole[begin : begin + size]
