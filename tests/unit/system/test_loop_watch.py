"""The gauge that tells how long the event loop was held up."""

import asyncio
import gc
import time
from collections.abc import Iterator

import pytest

from klais.system.loop_watch import LoopWatch


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """A garbage collection of a large test session would count as the loop's own work."""
    gc.disable()
    yield
    gc.enable()


def test_the_longest_turn_is_told_once_and_what_of_it_was_our_own() -> None:
    async def run() -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        with LoopWatch() as watch:
            await asyncio.sleep(0)
            time.sleep(0.05)  # noqa: ASYNC251  (holds the loop up without using the CPU)
            await asyncio.sleep(0)
            slept = watch.sample()
            until_s = time.thread_time() + 0.03
            while time.thread_time() < until_s:
                pass
            await asyncio.sleep(0)
            worked = watch.sample()
            await asyncio.sleep(0)
            return slept, worked, watch.sample()

    slept, worked, idle = asyncio.run(run())
    assert slept["event_loop_longest_block_ms"] >= 50
    assert slept["event_loop_longest_own_block_ms"] < slept["event_loop_longest_block_ms"]
    assert worked["event_loop_longest_block_ms"] >= 30
    assert worked["event_loop_longest_own_block_ms"] >= 30
    assert idle["event_loop_longest_own_block_ms"] < worked["event_loop_longest_own_block_ms"], "told once"


def test_many_short_callbacks_in_one_turn_count_together() -> None:
    async def run() -> float:
        with LoopWatch() as watch:
            for _ in range(10):
                asyncio.get_running_loop().call_soon(time.sleep, 0.005)
            await asyncio.sleep(0)  # those are called behind this
            await asyncio.sleep(0)
            return watch.sample()["event_loop_longest_block_ms"]

    assert asyncio.run(run()) >= 50


def test_the_loop_is_left_as_it_was() -> None:
    async def run() -> bool:
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        before = selector.select
        with LoopWatch():
            assert selector.select != before
        return bool(selector.select == before)

    assert asyncio.run(run())
