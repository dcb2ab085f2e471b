"""Iterations of the event loop, instead of sleeping."""

import asyncio
from collections.abc import Callable


async def turns(count: int = 100) -> None:
    """Run the event loop that many iterations, more than the longest chain of awaits in these tests."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], limit: int = 100_000) -> None:
    """Run the loop until the condition holds; fail after ``limit`` iterations."""
    for _ in range(limit):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"not within {limit:,} turns of the event loop")
