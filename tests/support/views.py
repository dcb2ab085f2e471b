"""Lanes without Kafka for tests of the views: real lane states behind the attributes that views read."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from klais.config.load import Settings
from klais.core.lane.state import LaneState
from klais.core.lane.step import take_raw
from klais.core.wire.partition import partition_of
from klais.http.guard import Guard
from klais.http.hosts import AllowedHosts
from klais.http.response_cache import ResponseCache
from klais.kafka.topics import Topics
from klais.telemetry.schema import Restoring
from klais.worker.controller import ControllerStatistics
from klais.worker.lane import numbers
from klais.worker.lane_statistics import LaneStatistics
from klais.worker.lanes import Lanes
from klais.worker.limits import LaneLimits
from klais.worker.readiness import Readiness
from klais.worker.report import Report
from klais.worker.web.pages import PAGES, Views
from tests.support.lane import batch, bounds, limits, scored

PARTITIONS = 2


class FakeLane:
    """The attributes of a lane that the views and the report read, around a real state."""

    def __init__(self, state: LaneState | None = None, live: bool = True) -> None:
        state = state if state is not None else scored()
        self.session: SimpleNamespace | None = SimpleNamespace(state=state, marker=None)
        self.live = asyncio.Event()
        self.closed = self.fenced = False
        self.failure: str | None = None
        self.restarts, self.number = 0, next(numbers)
        self.seen: dict = {}  # of the statistics, instead of what is below
        self.live_tally = np.zeros(len(state.tally), np.uint64)
        if live:
            self.live.set()

    def statistics(self) -> LaneStatistics:
        """Statistics of a lane without output and with a fresh checkpoint."""
        of_lane = LaneStatistics(
            partition=0,
            live=self.live.is_set() and not self.closed,
            fenced=self.fenced,
            failure=self.failure,
            restarts=self.restarts,
            pending_bytes=0,
            pending_frames=0,
            steps=self.session.state.step if self.session else 0,
            records={"telemetry": 0, "anomalies": 0, "dead_letter": 0},
            checkpoints=0,
            checkpoint_s=0.0,
            checkpoint_age_s=0.0,
            live_tally=self.live_tally,
        )
        return replace(of_lane, **self.seen)

    @property
    def restoring(self) -> Restoring | None:
        """Progress of a recovery."""
        return self.statistics().restoring


fake_lane = FakeLane


def feed(lanes: dict, some: list[bytes], at_ns: int, number: int, lim=None, bound=None) -> None:
    """Send frames to the lanes of their devices, as the edge would."""
    by: dict[int, list[bytes]] = {}
    for frame in some:
        by.setdefault(partition_of(frame[2:18].rstrip(b"\0"), PARTITIONS), []).append(frame)
    for partition, part in by.items():
        if partition in lanes:
            state = lanes[partition].session.state
            take_raw(state, state.next_raw, batch(part, number, at_ns), lim or limits(), bound or bounds(), at_ns)


class FakePeers:
    """No other workers by default; ``owners`` maps partition to address, ``bodies`` address to JSON."""

    own_url = "http://here"

    def __init__(self) -> None:
        self.bodies: dict[str, dict | None] = {}
        self.asked: list[str] = []
        self.forwarded: list[int] = []
        self.more: list[dict[str, str]] = []

    def others(self) -> list[str]:
        return sorted(self.bodies)

    async def gather(self, path_qs: str) -> dict:
        self.asked.append(path_qs)
        return self.bodies

    async def forward(self, request, partition: int, more=None):
        self.forwarded.append(partition)
        self.more.append(dict(more or {}))
        return web.json_response({})


class FakeOffsets:
    """Given end offsets."""

    def __init__(self) -> None:
        self.sample = None
        self.failing = 0.0

    topics = ("klais_raw",)

    def newest(self):
        return self.sample

    def groups(self) -> list:
        return []

    def rate(self, _topic: str) -> float:
        return 1.5

    def age_s(self) -> float | None:
        return None

    def failing_s(self) -> float:
        return self.failing


def make_views(lanes: dict, control=None, **overrides) -> Views:
    """The views of all pages, without Kafka."""
    settings = Settings(partitions=PARTITIONS, **overrides)
    holder = Lanes()
    holder.by_partition = lanes
    lane_limits = LaneLimits(settings, control)
    offsets = FakeOffsets()
    return Views(
        settings=settings,
        topics=Topics.of(settings),
        worker_id="w1",
        lanes=holder,
        limits=lane_limits,
        control=control,
        report=Report(settings, "w1", holder, lane_limits, offsets, ControllerStatistics, lambda partition: 0),
        offsets=offsets,
        peers=FakePeers(),
        readiness=Readiness,
        started_s=time.monotonic(),
        controller=ControllerStatistics,
        answers=ResponseCache(fresh_s=0.0),
    )


async def get(views: Views, page: str, path: str | None = None, headers: dict | None = None):
    """The answer of a page (a key of PAGES) to a GET of ``path``."""
    request = make_mocked_request("GET", path or page, headers={"Host": "localhost"} | (headers or {}))
    return await Guard(AllowedHosts("127.0.0.1")).answer(request, lambda given: PAGES[page](views, given))
