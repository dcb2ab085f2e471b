"""Fixtures of the broker tests."""

from collections.abc import AsyncIterator

import pytest

from klais.kafka.closing import wait_closed
from tests.support.lanes import Edge


@pytest.fixture(autouse=True)
async def closed_clients() -> AsyncIterator[None]:
    """What is closed in the background is closed before the loop of the test ends."""
    yield
    await wait_closed()


@pytest.fixture
def system(settings_for, topics_of):
    """Makes settings with their topics, and an edge that writes to them; the lanes of a test are the owners in turn."""

    def make(**given):
        settings = settings_for(**given)
        return settings, topics_of(settings), Edge(settings)

    return make
