"""A controller that is stopped closes all that its term opened, however long this takes."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.control.xdp_applier import Applier
from klais.kafka import fenced
from klais.kafka.admin import ensure_topics
from klais.kafka.producer import BatchProducer
from klais.system import tasks
from klais.worker import announcer, term
from klais.worker.controller import Controller
from tests.broker.test_control_lost import leader
from tests.support.lanes import until

Make = Callable[..., Settings]
SLOW = 20  # times the pause between two cancellations


@pytest.mark.parametrize("slow", ["applier", "follower", "producer"])
async def test_a_term_that_closes_slowly_leaves_nothing_open(settings_for: Make, monkeypatch, slow: str) -> None:
    """The task of the term is cancelled again and again until it has ended: no step of its cleanup may be left out."""
    settings = settings_for(partitions=1)
    await asyncio.to_thread(ensure_topics, settings)
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.05)
    made: list[BatchProducer] = []

    async def make(*given: Any, **options: Any) -> BatchProducer:
        made.append(await fenced.make_producer(*given, **options))
        return made[-1]

    for module in (term, announcer):
        monkeypatch.setattr(module, "make_producer", make)
    slowly(monkeypatch, slow)
    before = set(threading.enumerate())
    control = ControlFollower(settings)
    async with leader(settings, control) as controller:
        await until(lambda: leads(controller), "the incidents are followed")
        assert len(made) == 2
    assert [producer._closed for producer in made] == [True, True]
    left = [thread.name for thread in set(threading.enumerate()) - before if not thread.name.startswith("asyncio")]
    assert left == []


def leads(controller: Controller) -> bool:
    """Whether it has decided and opened everything: aiokafka does not close a connection that it is opening."""
    term = controller._term
    return term is not None and term.decisions > 0 and term.incidents._ready


def slowly(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Make one step of the cleanup take longer than several cancellations."""
    pause_s = SLOW * tasks.CANCEL_AGAIN_S
    if what == "producer":
        stop = BatchProducer.stop

        async def stop_later(self: BatchProducer) -> None:
            await asyncio.sleep(pause_s)
            await stop(self)

        monkeypatch.setattr(BatchProducer, "stop", stop_later)
        return
    kind = Applier if what == "applier" else ControlFollower
    end = kind.stop

    def end_later(self: Any) -> None:
        time.sleep(pause_s)
        end(self)

    monkeypatch.setattr(kind, "stop", end_later)
