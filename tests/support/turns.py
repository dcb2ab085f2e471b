"""Turns of the event loop, in place of a moment of time."""

import asyncio
from collections.abc import Callable


async def turns(count: int = 100) -> None:
    """Let everything that is ready run, so many times: more than any chain of awaits in these tests is long."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object], limit: int = 100_000) -> None:
    """Turn the loop until the condition holds; fails after ``limit`` turns."""
    for _ in range(limit):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"not within {limit:,} turns of the event loop")
