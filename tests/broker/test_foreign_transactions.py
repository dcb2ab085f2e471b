"""Another program writes in transactions, open and aborted: no lane waits for ever, nothing counts twice."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer

from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.kafka import open_transactions
from klais.kafka.topics_watch import TopicsWatch
from tests.support.fault_harness import Feeder, judge, settle, worker
from tests.support.lanes import FAST, after, caught_up, ends, figures, landed, lanes, live, records
from tests.support.process import wait_for

TOPICS = ("journal", "devices_changelog", "profiles_changelog", "telemetry", "anomalies", "dead_letter")


class Stranger:
    """A producer with transactions, one after the other."""

    def __init__(self, settings, name: str) -> None:
        config = {"bootstrap.servers": settings.bootstrap, "transactional.id": f"{settings.topic_prefix}{name}"}
        self._producer = Producer(config)
        self._producer.init_transactions(60)

    def begin(self, topic: str, *values: bytes) -> None:
        self._producer.begin_transaction()
        for value in values:
            self._producer.produce(topic, value, b"stranger", partition=0)
        assert self._producer.flush(60) == 0

    def abort(self) -> None:
        self._producer.abort_transaction(60)

    def commit(self) -> None:
        self._producer.commit_transaction(60)


@contextmanager
def open_on(settings, topic: str, *values: bytes) -> Iterator[Stranger]:
    """A transaction that is open within the block, and aborted at its end."""
    stranger = Stranger(settings, f"stranger-{topic}")
    stranger.begin(topic, *values)
    try:
        yield stranger
    finally:
        stranger.abort()


async def test_an_open_transaction_on_raw_holds_up_no_lane_and_its_batches_count_once(system):
    """A lane reads uncommitted batches. Those that are aborted and sent again are repeats, by their numbers."""
    settings, topics, edge = system(**FAST)
    frame = encode_frame(b"stranger", 1, b'{"t":1}')
    batch = encode_batch([frame], time.time_ns(), 7, 9, 0)
    async with lanes(settings) as found:
        lane = found[0]
        await live(lane)
        with open_on(settings, topics.raw, batch, b"no batch") as stranger:
            edge.send(5)
            await caught_up(settings, lane)  # behind the open transaction
        stranger.begin(topics.raw, batch)
        stranger.commit()
        edge.send(5)
        await caught_up(settings, lane)
        report = figures(lane)
        assert lane.restarts == 0 and report.conservation.holds
    there = landed(settings)
    assert set(there.values()) == {1} and len(there) == edge.sent + 1 == report.passed
    # One frame landed, was aborted and came again: a repeat. The strange record is a dead letter.
    assert report.conservation.received == edge.sent + 3 and report.conservation.dropped == 2
    assert (report.lost_records, report.doubled, report.output_lost) == (0, 0, 0)
    again = await after(settings, edge)
    assert again.passed == edge.sent + 1 and again.alarms == ()


@pytest.mark.parametrize("name", TOPICS)
@pytest.mark.parametrize("ends_with", ["open", "aborted"])
async def test_a_transaction_on_another_topic_holds_up_no_recovery(system, name, ends_with):
    settings, topics, edge = system(**FAST)
    topic = getattr(topics, name)
    async with lanes(settings) as found:
        await live(found[0])
        edge.send(5)
        await caught_up(settings, found[0])
        with open_on(settings, topic, b"rubbish", b"more"):
            edge.send(5)
            await caught_up(settings, found[0])
            assert found[0].restarts == 0
            if ends_with == "open":
                await found[0].stop()  # a crash, and a new owner
                report = await after(settings, edge)
        if ends_with == "aborted":
            await found[0].stop()
            report = await after(settings, edge)
    there = landed(settings)
    assert set(there.values()) == {1} and len(there) == edge.sent == report.passed
    assert (report.lost_records, report.doubled, report.output_lost, report.alarms) == (0, 0, 0, ())


async def test_a_transaction_that_stays_open_is_named_until_it_ends(settings_for, topics_of, monkeypatch):
    monkeypatch.setattr(open_transactions, "STUCK_S", 0.5)
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    watch = TopicsWatch(settings, period_s=0.2)
    watch.start()
    try:
        with open_on(settings, topics.telemetry, b"one", b"two"):
            (text,) = await asyncio.to_thread(wait_for, lambda: watch.problems, 60, "it is named", 0.1)
            assert text.startswith(f"{topics.telemetry}/0: a transaction of producer id ")
            assert "at offset 0" in text and "before the 2 offsets" in text and "kafka-transactions abort" in text
        await asyncio.to_thread(wait_for, lambda: watch.problems == (), 60, "it has ended", 0.1)
        assert ends(settings, topics.telemetry)[0][1] == 3 and len(records(settings, topics.telemetry)) == 2
    finally:
        watch.stop()


def test_a_worker_takes_what_lies_behind_an_open_transaction(settings_for, topics_of, tmp_path):
    """The group's consumer of a real worker, and the lag that its views show."""
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    with worker(settings, tmp_path / "worker.log") as it:
        it.wait_ready()
        with open_on(settings, topics.raw, b"no batch"):
            with Feeder(settings, frames_per_s=1000, seed=1):
                time.sleep(1)
            settle(settings)
        with Feeder(settings, frames_per_s=1000, seed=2):
            time.sleep(1)
        settle(settings)
        assert it.stop() == 0
    judge(settings)
