"""The samples behind the page go on whatever the history holds."""

import asyncio
from types import SimpleNamespace

import orjson
import pytest

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.kafka.stats import StatsFollower
from klais.telemetry.schema import VERSION
from klais.telemetry.view import ProcessView
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
    stats = SimpleNamespace(newest=lambda kind: {}, senders=dict, read=ProcessView.of)
    feed = Feed(settings, stats, ControlFollower(settings))
    task = asyncio.create_task(feed.run())
    await feed.ready()
    await until(lambda: feed._at_ms, "a sample")
    assert not task.done()
    task.cancel()


async def test_a_record_is_parsed_once_however_often_the_figures_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 0.3 ms, in the loop that the lanes share: with hundreds of processes they would wait."""
    settings, parsed = Settings(), list[str]()
    parse = ProcessView.of
    monkeypatch.setattr(ProcessView, "of", lambda name, record: parsed.append(name) or parse(name, record))
    stats = StatsFollower(settings)
    record = {"v": VERSION, "kind": "edge", "at_ms": 0, "counters": {}, "gauges": {}, "rates": {}}
    for name in ("edge-1", "edge-2"):
        stats.consume(name, orjson.dumps(record))
    feed = Feed(settings, stats, ControlFollower(settings))
    feed.sample()
    feed.event()
    feed.sample()
    feed.event()
    assert sorted(parsed) == ["edge-1", "edge-2"]
    assert len(orjson.loads(feed.event()[1])["edges"]) == 2
