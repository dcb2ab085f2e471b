"""The samples behind the page go on whatever the history holds."""

import asyncio
from types import SimpleNamespace

import pytest

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.ui import feed as feeds
from klais.ui.feed import Feed
from tests.support.lanes import until


async def test_a_history_that_cannot_be_decoded_does_not_end_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a record of another program, with a compression that is not installed here."""

    class Reader:
        def __init__(self, *args: object) -> None:
            raise RuntimeError("no codec")

    settings = Settings()
    monkeypatch.setattr(feeds, "offsets_at", lambda *args: {0: 0})
    monkeypatch.setattr(feeds, "PartitionReader", Reader)
    stats = SimpleNamespace(newest=lambda kind: {}, senders=dict)
    feed = Feed(settings, stats, ControlFollower(settings))
    task = asyncio.create_task(feed.run())
    await feed.ready()
    await until(lambda: feed._at_ms, "a sample")
    assert not task.done()
    task.cancel()
