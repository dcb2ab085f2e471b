"""Fixtures of the broker tests."""

import pytest

from tests.support.lanes import Edge


@pytest.fixture
def system(settings_for, topics_of):
    """Makes settings with their topics, and an edge that writes to them; the lanes of a test are the owners in turn."""

    def make(**given):
        settings = settings_for(**given)
        return settings, topics_of(settings), Edge(settings)

    return make
