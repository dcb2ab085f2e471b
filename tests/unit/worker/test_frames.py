"""Frames for the live page: who may see them, whose they are, and that pages and streams keep their own samples."""

from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.core.wire.partition import partition_of
from klais.http.access import Access, digest
from klais.http.connections import ConnectionLimits, Listener
from klais.http.session import COOKIE, sign, verify
from klais.telemetry.sample import MAX_TAPS
from klais.worker.tap import Filter, Taps
from klais.worker.web.frames import FORWARD_S, PATH, Frames, PageFilter, install
from tests.support.http import make_guard
from tests.support.lane import T0_NS, batch, bounds, frames, limits
from tests.support.views import PARTITIONS, FakePeers

TOKEN = "a-token-for-changes-0123456789"
GUARDED = Access(change=(digest(TOKEN),), read=(digest(TOKEN), digest("r" * 20)), changes_need=True, reads_need=False)
HERE, ELSEWHERE = (next(f"dev-{n}" for n in range(99) if partition_of(b"dev-%d" % n, PARTITIONS) == p) for p in (0, 1))


class Worker:
    """A worker that owns partition 0."""

    def __init__(self, access: Access) -> None:
        self.taps, self.peers, self.state, self.at = Taps(), FakePeers(), LaneState(), 0
        app, guard = web.Application(), make_guard(access=access)
        guard.install(app)
        lanes: Any = SimpleNamespace(by_partition={0: None})
        peers: Any = self.peers
        install(app, Frames(self.taps, guard, "w1", PARTITIONS, lanes, peers))
        self.listener = Listener(app, "127.0.0.1", 0, ConnectionLimits(total=50, per_client=50))
        self.url = ""

    def decide(self, *ids: str) -> None:
        """A lane decides one frame of each device."""
        self.at += 1
        some = frames(*((device_id, self.at) for device_id in ids))
        self.taps.observe(0, take_raw(self.state, self.at - 1, batch(some), limits(), bounds(), T0_NS))


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Any]]:
    workers: list[Worker] = []

    async def make(access: Access) -> Worker:
        worker = Worker(access)
        workers.append(worker)
        worker.url = f"http://127.0.0.1:{await worker.listener.start()}{PATH}"
        return worker

    yield make
    for worker in workers:
        await worker.listener.stop()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def ask(client: aiohttp.ClientSession, url: str, **headers: str) -> tuple[int, Any]:
    async with client.get(url, headers=headers) as answer:
        return answer.status, orjson.loads(await answer.read())


async def test_payloads_need_the_token_for_changes(start, client) -> None:
    worker = await start(GUARDED)
    for headers in ({}, {"Authorization": "Bearer " + "r" * 20}, {"Cookie": f"{COOKIE}=x.y"}):
        status, body = await ask(client, worker.url, **headers)
        assert (status, body["code"]) == (401, "unauthorized") and "KLAIS_API_TOKEN" in body["error"]
    for name in ("", ELSEWHERE):
        assert (await ask(client, f"{worker.url}?device_id={name or HERE}"))[0] == 401
    assert not worker.taps.open and not worker.peers.forwarded
    cookie = f"{COOKIE}={sign(digest(TOKEN), 'Ada')}"
    for headers in ({"Authorization": f"Bearer {TOKEN}"}, {"Cookie": cookie}):
        assert (await ask(client, worker.url, **headers))[0] == 200


async def test_an_answer_has_a_few_of_the_frames_since_the_last_one(start, client) -> None:
    worker = await start(Access())
    status, first = await ask(client, worker.url)
    assert (status, first["frames"], first["matched"], first["worker"]) == (200, [], 0, "w1")
    worker.decide(*(f"dev-{n}" for n in range(10)))
    tap = worker.taps.open[PageFilter(sample=6)]
    assert (await ask(client, worker.url))[1] == first, "equal requests of one second share one answer"
    body = orjson.loads(tap.event()[1])
    assert (body["matched"], len(body["frames"])) == (10, 6)
    assert all(frame["payload"] and frame["verdict"] == "passed" for frame in body["frames"])


async def test_a_page_and_a_stream_with_one_filter_take_no_frames_from_each_other(start, client) -> None:
    worker = await start(Access())
    await ask(client, worker.url)
    stream = worker.taps.get(Filter(sample=6))
    worker.decide("dev-1")
    assert len(worker.taps.open) == 2
    for tap in (stream, worker.taps.open[PageFilter(sample=6)]):
        assert orjson.loads(tap.event()[1])["matched"] == 1


async def test_frames_of_a_device_come_from_its_owner_with_a_short_session(start, client) -> None:
    worker = await start(GUARDED)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    status, body = await ask(client, f"{worker.url}?device_id={HERE}", **bearer)
    assert status == 200 and body["frames"] == [] and worker.peers.forwarded == []
    assert (await ask(client, f"{worker.url}?device_id={ELSEWHERE}", **bearer))[0] == 200
    assert worker.peers.forwarded == [1]
    (more,) = worker.peers.more
    name, _, value = more["Cookie"].partition("=")
    session = verify(value, GUARDED.change)
    assert name == COOKIE and session is not None and session.name == "worker"
    assert TOKEN not in str(more) and FORWARD_S <= 60
    free = await start(Access())
    await ask(client, f"{free.url}?device_id={ELSEWHERE}")
    assert free.peers.more == [{}]


@pytest.mark.parametrize("query", ["device_id=", "device_id=" + "x" * 17, "limit=0", "limit=21", "verdict=passed"])
async def test_bad_parameters_open_no_tap(start, client, query: str) -> None:
    worker = await start(Access())
    status, body = await ask(client, f"{worker.url}?{query}")
    assert (status, body["code"]) == (400, "bad_parameter") and not worker.taps.open


async def test_one_tap_too_many_is_refused_and_nobody_who_looks_costs_nothing(start, client, monkeypatch) -> None:
    worker = await start(Access())
    for n in range(MAX_TAPS):
        worker.taps.get(Filter(sample=n + 1))
    status, body = await ask(client, worker.url)
    assert (status, body["code"]) == (429, "too_many_taps")
    monkeypatch.setattr("klais.telemetry.sample.KEPT_S", -1.0)
    worker.decide("dev-1")
    assert not worker.taps.open
    assert (await ask(client, worker.url))[0] == 200
