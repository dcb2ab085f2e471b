"""Store and forward by example: the cases in which another order of things would lose a batch, or put it out of
order.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError

from klais.config.load import Settings
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import Reason
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.breaker import State
from klais.edge.sinks.kafka import KafkaPublisher
from klais.edge.sinks.spool.backlog import Backlog
from klais.edge.sinks.store_and_forward import Forwarder
from tests.support.forwarder import NoClock, Producer, name_of

MIB = 1 << 20
FATAL = KafkaError(KafkaError._FATAL, "fenced", fatal=True)


class Rig:
    """A forwarder on the model of Kafka, with a clock to turn and a disk that may fail."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        given = {"partitions": 2, "publish_max_inflight_bytes": MIB, "breaker_timeout_s": 5, "breaker_wait_min_s": 1}
        self.settings = Settings(state_dir=folder, **given | overrides)
        Producer.made = []
        self.now_s, self.number, self.log = 1000.0, [0, 0], defaultdict(list)
        self.counts = Counts()
        self.replay_per_s = float("inf")
        publisher = partial(KafkaPublisher, self.settings, self.counts, NoClock(), make_producer=Producer)
        backlog = Backlog(self.settings, self.counts)
        self.sink = Forwarder(
            self.settings, self.counts, publisher, backlog, lambda: self.replay_per_s, lambda: self.now_s, lambda: 1.0
        )
        self.disk_fails = False
        write = backlog._write

        def failing(built: ClosedBatch, now_s: float) -> None:
            if self.disk_fails:
                raise OSError(30, os.strerror(30))
            write(built, now_s)

        backlog._write = failing  # type: ignore[method-assign]

    def offer(self, partition: int = 0, frames: int = 1, size: int = 100) -> Reason:
        value = encode_batch([bytes(size)] * frames, 0, 1, 1, self.number[partition])
        self.counts.received += frames
        refused = self.sink.offer(ClosedBatch(value, partition, frames))
        if refused:
            self.counts.drop(refused, frames)
        else:
            self.number[partition] += 1
        return refused

    def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.now_s += 0.1
            self.sink.poll()

    def until(self, state: State) -> None:
        for _ in range(1000):
            if self.sink.breaker.state is state:
                return
            self.pass_s(0.1)
        raise AssertionError(f"never {state}")

    def answer(self, partition: int, many: int = 100) -> None:
        producer = Producer.made[-1]
        for _ in range(many):
            producer.arrive(partition, self.log[partition])
            producer.acknowledge(partition)

    def recover(self) -> list[tuple[int, int, int]]:
        """Kafka answers again; what lanes take, by partition and in order of arrival."""
        for _ in range(200):
            self.pass_s(0.3)
            for partition in (0, 1):
                self.answer(partition)
        assert self.sink.breaker.closed and not self.counts.depth()
        counts = self.counts
        assert counts.received + counts.recovered == counts.published + int(counts.by_reason.sum())
        taken, last = [], {}
        for partition in (0, 1):
            for value in self.log[partition]:
                name = name_of(partition, value)
                if name[2] > last.get(name[:2], -1):
                    last[name[:2]] = name[2]
                    taken.append(name)
        return taken


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made = []

    def make(**overrides: Any) -> Rig:
        made.append(Rig(tmp_path, **overrides))
        return made[-1]

    yield make
    for it in made:
        it.sink.backlog.close()


def test_in_good_times_batches_go_straight_to_kafka(rig: Callable[..., Rig]) -> None:
    r = rig()
    for _ in range(3):
        r.offer()
    assert r.counts.inflight == 3 and r.counts.spooled == 0
    r.answer(0)
    assert r.recover() == [(0, 1, 0), (0, 1, 1), (0, 1, 2)]
    assert r.sink.breaker.transitions[State.OPEN] == 0


def test_an_outage_is_spooled_and_replayed_in_order(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.offer(0), r.offer(1)
    r.until(State.OPEN)
    assert (r.counts.inflight, r.counts.spooled) == (0, 2)
    for _ in range(5):
        r.offer(0), r.offer(1)
    assert r.counts.spooled == 12 and "wait on disk" in r.sink.problems()[0]
    assert r.recover() == [(p, 1, n) for p in (0, 1) for n in range(6)]
    assert r.counts.replayed == 12 and r.sink.problems() == []


def test_one_probe_at_a_time_and_dead_letters_wait(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.offer(), r.offer()
    r.until(State.OPEN)
    assert not r.sink.dead_letter(b"x", None, [], 0)
    r.until(State.HALF_OPEN)
    r.pass_s(1)
    assert len(Producer.made[-1].queued[0]) == 1
    r.until(State.OPEN)
    assert r.sink.breaker.probe_s - r.now_s > 1.5  # the second wait is twice the first
    assert r.recover() == [(0, 1, 0), (0, 1, 1)]


def test_while_it_replays_a_newer_batch_waits_behind_its_partition_only(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.offer(0)
    r.until(State.OPEN)
    r.replay_per_s = 0.0
    r.until(State.HALF_OPEN)
    r.pass_s(0.1)
    r.offer(0)
    r.answer(0)
    r.until(State.CLOSED)
    assert r.counts.spooled == 1
    r.offer(0), r.offer(1)
    assert (r.counts.spooled, r.counts.inflight) == (2, 1)
    r.replay_per_s = 1e9
    assert r.recover() == [(0, 1, 0), (0, 1, 1), (0, 1, 2), (1, 1, 0)]


def test_a_probe_that_was_only_in_memory_comes_back_before_what_waits(rig: Callable[..., Rig]) -> None:
    r = rig(spool_max_bytes=0)
    r.offer(), r.offer()
    r.until(State.OPEN)
    assert (r.counts.held, r.counts.spooled) == (2, 0)
    r.until(State.HALF_OPEN)
    r.pass_s(0.1)
    assert (r.counts.inflight, r.counts.held) == (1, 1)
    r.until(State.OPEN)
    assert r.recover() == [(0, 1, 0), (0, 1, 1)]


def test_nothing_overtakes_a_probe_from_memory_on_its_way_to_disk(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.disk_fails = True
    r.offer()
    r.until(State.OPEN)
    assert r.counts.held == 1 and "cannot be written" in str(r.sink.problems())
    r.until(State.HALF_OPEN)
    r.pass_s(0.1)
    assert r.counts.inflight == 1
    r.disk_fails = False
    r.pass_s(2)
    r.offer(), r.offer()  # the disk would take them; the probe may come back
    assert (r.counts.held, r.counts.spooled) == (2, 0)
    r.pass_s(1)
    assert (r.counts.held, r.counts.spooled) == (2, 0)
    r.until(State.OPEN)
    assert (r.counts.held, r.counts.spooled) == (0, 3)
    assert r.recover() == [(0, 1, 0), (0, 1, 1), (0, 1, 2)]


def test_what_was_acknowledged_out_of_turn_is_not_sent_again(rig: Callable[..., Rig]) -> None:
    r = rig()
    for _ in range(2):
        r.offer(0), r.offer(1)
    r.until(State.OPEN)
    r.until(State.HALF_OPEN)
    r.pass_s(0.1)
    r.answer(0, 1)
    r.until(State.CLOSED)
    r.pass_s(0.1)
    r.answer(1)  # partition 0 is behind
    Producer.made[-1].config["error_cb"](FATAL)
    r.sink.poll()
    assert r.recover() == [(0, 1, 0), (0, 1, 1), (1, 1, 0), (1, 1, 1)]
    assert len(r.log[1]) == 2 and r.counts.published == 4


def test_a_fenced_producer_is_rebuilt_and_its_batches_are_sent_by_the_next(rig: Callable[..., Rig]) -> None:
    r = rig()
    for _ in range(3):
        r.offer(0), r.offer(1)
    Producer.made[-1].config["error_cb"](FATAL)
    assert r.offer(0) is Reason.PASSED
    assert r.recover() == [(0, 1, n) for n in range(4)] + [(1, 1, n) for n in range(3)]
    assert r.sink.breaker.transitions[State.OPEN] == 0


def test_no_room_opens_the_breaker_where_there_is_a_spool(rig: Callable[..., Rig]) -> None:
    r = rig()
    for _ in range(20):
        assert r.offer(size=60_000, frames=2) is Reason.PASSED
    assert r.sink.breaker.state is State.OPEN and r.counts.spooled == 40
    assert r.recover() == [(0, 1, n) for n in range(20)]


def test_without_a_spool_the_newest_is_refused_as_backpressure(rig: Callable[..., Rig]) -> None:
    r = rig(spool_max_bytes=0)
    reasons = [r.offer(size=60_000, frames=2) for _ in range(12)]
    assert reasons == [Reason.PASSED] * 8 + [Reason.BACKPRESSURE] * 4
    r.until(State.OPEN)
    assert r.counts.held == 16
    assert r.recover() == [(0, 1, n) for n in range(8)]


def test_a_full_spool_refuses_the_newest(rig: Callable[..., Rig]) -> None:
    r = rig(spool_max_bytes=2 * MIB)
    reasons = [r.offer(size=60_000, frames=2) for _ in range(20)]
    assert set(reasons[-3:]) == {Reason.SPOOL_FULL} and reasons[:16] == [Reason.PASSED] * 16
    kept = reasons.count(Reason.PASSED)
    assert r.recover() == [(0, 1, n) for n in range(kept)]


def test_a_disk_that_fails_is_replaced_by_memory_and_then_by_the_reason(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.offer()
    r.until(State.OPEN)
    r.disk_fails = True
    reasons = [r.offer(size=60_000, frames=2) for _ in range(12)]
    assert reasons == [Reason.PASSED] * 8 + [Reason.SPOOL_FAILED] * 4
    assert r.counts.spooled == 1 and r.counts.held == 16
    r.disk_fails = False
    r.pass_s(1.2)
    assert r.counts.held == 0 or r.counts.inflight == 0
    assert r.recover() == [(0, 1, n) for n in range(9)]


@pytest.mark.parametrize("aborted", [False, True])
def test_drain_spools_what_kafka_does_not_take(rig: Callable[..., Rig], aborted: bool) -> None:
    r = rig()
    r.offer(0, 3), r.offer(1, 4)
    if aborted:
        r.sink.abort()
    steps = iter(range(10**6))
    r.sink._clock = lambda: 1000.0 + next(steps) / 10  # waiting takes time
    assert r.sink.drain(2.0) == 0
    assert next(steps) > 20 or aborted
    assert (r.counts.spooled, r.counts.inflight) == (7, 0)


def test_drain_without_a_spool_counts_what_is_lost(rig: Callable[..., Rig]) -> None:
    r = rig(spool_max_bytes=0)
    r.offer(0, 3)
    r.until(State.OPEN)
    r.offer(1, 4)
    r.sink.abort()
    assert r.sink.drain(2.0) == 7
    assert int(r.counts.by_reason[Reason.DELIVERY_FAILED]) == 7 and r.counts.depth() == 0


def test_a_folder_that_cannot_be_made_costs_the_spool_only(rig: Callable[..., Rig], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    r = rig(spool_dir=tmp_path / "file")
    r.offer()
    r.until(State.OPEN)
    assert r.counts.held == 1
    assert r.recover() == [(0, 1, 0)]


def test_while_the_topics_are_not_known_everything_is_stored_and_nothing_probed(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.sink.start_spooling("nobody answered")
    assert [rig.offer(k % 2) for k in range(10)] == [Reason.PASSED] * 10
    rig.pass_s(60.0)
    assert rig.sink.breaker.state is State.OPEN and rig.counts.spooled == 10
    assert not any(producer.queued for producer in Producer.made)
    assert "nobody answered" in rig.sink.problems()[0]
    rig.sink.stop_spooling()
    assert rig.recover() == [(p, 1, n) for p in (0, 1) for n in range(5)]


def test_once_the_topics_are_known_an_edge_that_received_nothing_is_well(rig: Callable[..., Rig]) -> None:
    r = rig()
    r.sink.start_spooling("nobody answered")
    r.pass_s(1)
    r.sink.stop_spooling()
    r.pass_s(0.2)
    assert r.sink.breaker.closed and r.sink.problems() == []
