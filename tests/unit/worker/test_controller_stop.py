"""A controller that ends leaves nothing running, whatever one step of its cleanup does."""

import asyncio
from typing import Any

import pytest

from klais.config.load import Settings
from klais.control.forecast import NoPredictor
from klais.kafka.stats import StatsFollower
from klais.worker import term as terms
from klais.worker.controller import Controller
from klais.worker.term import Term
from tests.support.lanes import until


async def test_a_term_whose_last_heartbeat_cannot_be_sent_closes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        def stats(self, key: str, record: Any) -> None:
            raise RuntimeError("the client has ended")

    settings, closed = Settings(), list[str]()

    async def abandon(producer: str) -> None:
        closed.append(producer)

    async def close() -> None:
        closed.append("incidents")

    monkeypatch.setattr(terms, "abandon", abandon)
    term = Term(settings, "controller-w1", NoPredictor(), Refuses(), StatsFollower(settings), dict)
    term.incidents.close = close
    term._follower.stop = lambda: closed.append("follower")
    term._applier.stop = lambda: closed.append("applier")
    term._resigned = True
    with pytest.raises(RuntimeError, match="the client has ended"):
        await term._close("producer")
    assert closed == ["incidents", "applier", "follower", "producer"]


async def test_a_controller_whose_term_closes_slowly_stops_its_other_parts_all_the_same() -> None:
    """A worker that ends waits two seconds for it; a term needs longer if brokers are away."""
    controller, stopped, may_end = Controller(Settings(), "w1"), list[str](), asyncio.Event()

    async def closes_slowly() -> None:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    controller._task = asyncio.create_task(closes_slowly())
    controller._watching = watching = asyncio.create_task(asyncio.sleep(3600))
    controller.stats.stop = lambda: stopped.append("stats")
    controller._predictor.stop = lambda: stopped.append("predictor")
    await asyncio.sleep(0)
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await controller.resign()
        await until(lambda: watching.done() and len(stopped) == 2, "the end of the other parts", 6)
        assert watching.cancelled() and sorted(stopped) == ["predictor", "stats"]
    finally:
        may_end.set()
        await controller._task
