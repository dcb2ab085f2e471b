"""The live page of a worker: :mod:`klais.ui` with the topics that this worker follows."""

from functools import partial

from aiohttp import web

from klais.config.load import describe
from klais.http.guard import Guard
from klais.ui.audit import newest_changes
from klais.ui.changes import Changes
from klais.ui.feed import Feed
from klais.ui.incidents import incidents_body
from klais.ui.routes import Page
from klais.ui.routes import install as install_routes
from klais.worker.runtime import WorkerRuntime
from klais.worker.web import frames, tap
from klais.worker.web.peers import Peers


def install(app: web.Application, worker: WorkerRuntime, guard: Guard, peers: Peers) -> None:
    """Add ``/ui/`` and ``/api/v1`` to the worker's web application, before it starts."""
    settings = worker.settings
    page = Page(
        guard=guard,
        feed=Feed(settings, worker.controller.stats, worker.control),
        changes=Changes(
            worker.control, worker.producer, settings.pid_rate_min, lambda: worker.control.wait_caught_up(0.0)
        ),
        audit=partial(newest_changes, settings),
        about=lambda: {"worker": worker.worker_id, "workers": peers.others(), "grafana": settings.web_grafana_url},
        settings=lambda: describe(settings),
        incidents=lambda query: incidents_body(worker.control.records(), query),
    )
    install_routes(app, page)
    tap.install(app, worker.taps, guard)
    shown = frames.Frames(worker.taps, guard, worker.worker_id, settings.partitions, worker.lanes, peers)
    frames.install(app, shown)
