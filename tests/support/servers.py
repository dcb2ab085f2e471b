"""The applications of both HTTP servers for tests."""

import time
from types import SimpleNamespace

from aiohttp import web

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.edge.api.server import make_app
from klais.http.guard import Guard
from klais.ui.changes import Changes
from klais.ui.recording import load_demo
from klais.ui.routes import Page
from klais.ui.routes import install as install_page
from klais.worker.tap import Taps
from klais.worker.web.frames import Frames
from klais.worker.web.frames import install as install_frames
from klais.worker.web.pages import install
from klais.worker.web.tap import install as install_tap
from tests.support.http import FakeState
from tests.support.lane import frames
from tests.support.views import PARTITIONS, FakePeers, fake_lane, feed, make_views


def add_frames(app: web.Application, taps: Taps, guard: Guard) -> None:
    """``/api/v1/frames`` of a worker that owns the only partition."""
    lanes, peers = SimpleNamespace(by_partition={0: None}), FakePeers()
    install_frames(app, Frames(taps, guard, "w1", 1, lanes, peers))  # type: ignore[arg-type]


def make_worker(guard: Guard) -> web.Application:
    lanes = {p: fake_lane() for p in range(PARTITIONS)}
    feed(lanes, frames(*((f"dev-{i}", 1) for i in range(20))), time.time_ns(), 0)
    app, control = web.Application(), ControlFollower(Settings())
    install(app, make_views(lanes, control), guard)
    changes = Changes(control, lambda: SimpleNamespace(change=lambda *_: None), 1000.0)
    install_page(app, Page(guard=guard, feed=load_demo(), changes=changes, audit=load_demo().audit))
    taps = Taps()
    install_tap(app, taps, guard)
    add_frames(app, taps, guard)
    return app


def make_edge(guard: Guard) -> web.Application:
    return make_app(FakeState(), guard, min_rate=1000)
