"""Lanes that ask for ends at the same time share a request, and ask for themselves if that brings no answer."""

import asyncio

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.structs import TopicPartition

from klais.config.load import Settings
from klais.errors import KafkaUnavailable, TopicMismatch
from klais.kafka import shared_ends as module
from klais.kafka.shared_ends import SharedEnds


class Reader:
    """The shared reader, or that of one lane."""

    def __init__(self, answer=lambda place: 10 * place.partition) -> None:
        self.answer, self.connections, self.requests, self.error, self.stopped = answer, 0, [], None, False

    async def start(self) -> None:
        self.connections += 1

    async def stop(self) -> None:
        self.stopped = True

    async def ends_now(self, places):
        self.requests.append(list(places))
        if self.error is not None:
            raise self.error
        return {place: end for place in places if (end := self.answer(place)) is not None}

    async def ends(self, topics, partition):
        self.requests.append((list(topics), partition))
        return [7] * len(topics)


@pytest.fixture
async def shared():
    it = SharedEnds(Settings())
    it._reader = Reader()
    yield it
    await it.close()
    assert it._reader.stopped


async def test_lanes_that_ask_together_take_one_request(shared):
    own = Reader()
    asked = [shared.ends(own, topics, p) for p, topics in enumerate((["a", "b"], ["a", "b"], ["a"]))]
    assert await asyncio.gather(*asked) == [[0, 0], [10, 10], [20]] and not own.requests
    places = [TopicPartition(*place) for place in (("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1))]
    assert shared._reader.requests == [places] and shared._reader.connections == 1
    assert await shared.ends(own, ["b"], 3) == [30]  # the next one, over the same connection
    assert len(shared._reader.requests) == 2 and shared._reader.connections == 1


@pytest.mark.parametrize(
    "error", [KafkaUnavailable("nobody"), TopicMismatch("no b/1"), kafka_errors.KafkaConnectionError("away")]
)
async def test_without_an_answer_each_lane_asks_for_itself_and_the_next_request_connects_again(shared, error):
    own, other = Reader(), Reader()
    shared._reader.error = error
    assert await asyncio.gather(shared.ends(own, ["a"], 0), shared.ends(other, ["b"], 1)) == [[7], [7]]
    assert own.requests == [(["a"], 0)] and other.requests == [(["b"], 1)]
    shared._reader.error = None
    assert await shared.ends(own, ["a"], 1) == [10]
    assert shared._reader.connections == 2


async def test_a_lane_with_an_incomplete_answer_asks_for_itself_and_the_others_do_not(shared):
    own, other = Reader(), Reader()
    shared._reader.answer = lambda place: None if place == TopicPartition("b", 0) else 5
    assert await asyncio.gather(shared.ends(own, ["a", "b"], 0), shared.ends(other, ["a", "b"], 1)) == [[7, 7], [5, 5]]
    assert own.requests == [(["a", "b"], 0)] and not other.requests


async def test_a_broker_that_is_silent_does_not_hold_up_the_lanes(shared, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.01)
    own = Reader()
    shared._reader.start = asyncio.Event().wait
    assert await shared.ends(own, ["a"], 0) == [7]


async def test_a_lane_that_ends_and_the_end_of_the_worker(shared):
    own = Reader()
    gone, stays = (asyncio.create_task(shared.ends(own, ["a"], p)) for p in (0, 1))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == [10]
    late = asyncio.create_task(shared.ends(own, ["a"], 2))
    await asyncio.sleep(0)
    await shared.close()
    assert await late == [7]
