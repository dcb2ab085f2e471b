"""``/livez`` of the edge: the loop that reads the socket turns, whatever Kafka does."""

import threading
import time
from typing import Any

from klais.config.load import Settings
from klais.edge.api.models import LOOP_HUNG_S
from klais.edge.api.view import EdgeView
from klais.edge.batcher import Batcher
from klais.edge.counts import Counts
from klais.edge.linger import LingerController
from klais.edge.shedding import LoadShedder
from klais.edge.sinks.dead_letters import DeadLetters
from klais.edge.spine import Spine
from tests.support.process import wait_for
from tests.unit.edge.test_spine import MemorySink, MemorySource


class StuckSource(MemorySource):
    """A source whose second call does not come back before :attr:`go` is set."""

    def __init__(self) -> None:
        super().__init__([])
        self.calls_made, self.go = 0, threading.Event()

    def fill(self, wait_ns: int) -> int:
        self.calls_made += 1
        if self.calls_made == 2:
            self.go.wait()
        return super().fill(wait_ns)


def make(source: MemorySource) -> tuple[Spine, EdgeView, threading.Event]:
    counts, stopping = Counts(), threading.Event()
    sink: Any = MemorySink(counts)
    spine = Spine(
        source, Batcher(1, 1 << 16, 1, 7), sink, DeadLetters(sink, counts, 1.0, 1e9, 1, 1), counts,
        LingerController(1_000_000, source.buffer_bytes, source.capacity, 1), LoadShedder(1),
    )  # fmt: skip
    none: Any = None
    view = EdgeView(
        Settings(), spine, none, none, none, none, none, none, none, none, list, stopping.is_set, {}
    )  # what /livez may not ask is not there
    return spine, view, stopping


def test_a_loop_that_turns_is_live_and_one_that_hangs_is_not() -> None:
    source = StuckSource()
    spine, view, stopping = make(source)
    thread = threading.Thread(target=spine.run)
    thread.start()
    try:
        wait_for(lambda: source.calls_made == 2, 10, "the loop to hang in its source")
        assert view.live()["live"] is True
        spine.round_began_s = time.monotonic() - LOOP_HUNG_S - 1  # as if it hung for so long
        body = view.live()
        assert body["live"] is False and body["loop_age_s"] > LOOP_HUNG_S
        source.go.set()
        assert wait_for(lambda: view.live()["live"], 10, "the loop to turn again")
    finally:
        source.go.set()
        spine.stop()
        thread.join()
    spine.round_began_s -= LOOP_HUNG_S + 1
    assert view.live()["live"] is False
    stopping.set()  # the loop has ended, the edge drains within its own bounds
    assert view.live()["live"] is True
