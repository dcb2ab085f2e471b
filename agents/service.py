"""The worker in the life of the Faust app: start of the lanes, readiness, reports, clean end."""

import asyncio
import time
from functools import partial
from typing import Any

import faust
from faust.types import TP

from agents.faust_ext.commits import CommitRepair
from klais.config.load import Settings
from klais.http.access import Access
from klais.http.guard import Guard
from klais.http.tokens import token_to_read
from klais.kafka.topics import Topics
from klais.system.sd_notify import Notifier
from klais.telemetry.log import get
from klais.worker.flow import PartitionFlow
from klais.worker.lanes import Lanes
from klais.worker.readiness import Readiness
from klais.worker.runtime import WorkerRuntime
from klais.worker.web.live import install as install_page
from klais.worker.web.pages import Views, install
from klais.worker.web.peers import Peers

log = get("agents.service")

START_EXTENSION_S = 30.0  # the service manager waits so much longer with each status during the start


class Service:
    """One worker and its web views.

    Parameters
    ----------
    app : faust.App
        The web views are registered on it.
    settings, lanes
        Of the worker.
    """

    def __init__(self, app: faust.App, settings: Settings, lanes: Lanes) -> None:
        self._app, self._lanes, self._notifier = app, lanes, Notifier()
        self._raw = Topics.of(settings).raw
        partition, repair = partial(TP, self._raw), CommitRepair(app, self._raw)
        flow = PartitionFlow(lambda: None if app.should_stop else app.consumer, partition, repair)
        self.runtime = worker = WorkerRuntime(settings, lanes, flow, self._highwater)
        access = Access.of(settings, settings.web_bind)
        if access.generated:
            why = "KLAIS_WEB_BIND is not loopback, no token is set"
            log.warning("api_token_made", file=str(access.generated), why=why)
        token = token_to_read(settings, settings.web_bind)
        views = Views(
            settings=settings,
            topics=worker.topics,
            worker_id=worker.worker_id,
            lanes=lanes,
            limits=worker.limits,
            control=worker.control,
            report=worker.report,
            offsets=worker.offsets,
            peers=Peers(app, "devices", worker.topics.devices_changelog, token),
            readiness=self.readiness,
            started_s=time.monotonic(),
            controller=worker.controller.statistics,
            topic_problems=lambda: worker.topics_watch.problems,
        )
        guard = Guard.of(settings, settings.web_bind, access)
        server: Any = app.web  # typed as the interface, which lacks `web_app`
        install(server.web_app, views, guard)
        install_page(server.web_app, worker, guard, views.peers)

    async def start_lanes(self) -> None:
        """Start the lanes of the partitions that the group gave to this worker.

        An error ends the worker: Faust would swallow it here and go on without lanes.
        """
        try:
            await self.runtime.start_lanes(self._assigned())
        except Exception as error:
            log.error("lanes_not_started", error=repr(error))
            await self._app.crash(error)

    def readiness(self) -> Readiness:
        """What this worker waits for before traffic may rely on it."""
        app = self._app
        return self.runtime.readiness(app.should_stop, self._recovered(), app.rebalancing, self._assigned())

    async def notify(self) -> None:
        """Tell the service manager when the worker is ready, then feed its watchdog from the lanes' loop."""
        ready = False
        while not self._app.should_stop:
            found = Readiness() if ready else self.readiness()
            if found.waiting_for:
                text = "waits for " + ", ".join(found.waiting_for)
                self._notifier.status(text, still_starting_s=START_EXTENSION_S)
            elif not ready:
                ready = True
                self._notifier.ready(found.standby or "lanes are live")
            self._notifier.ping_watchdog(time.monotonic())
            await asyncio.sleep(min(1.0, self._notifier.watchdog_s / 4 or 1.0))

    async def stop(self) -> None:
        """The clean end, bounded in time."""
        self._notifier.stopping("writes a last checkpoint")
        if self._app.in_worker:
            self.runtime.exit_in_time(lambda: 1 if self._app.crash_reason else 0)
        await self.runtime.close()

    def _recovered(self) -> bool:
        tables: Any = self._app.tables  # typed as the interface, which lacks `recovery`
        return bool(tables.recovery.completed.is_set())

    def _assigned(self) -> frozenset[int]:
        return frozenset(tp.partition for tp in self._app.assignor.assigned_actives() if tp.topic == self._raw)

    def _highwater(self, partition: int) -> int:
        """End offset of a partition of the staging topic as the consumer's newest fetch reported it; 0 = unknown."""
        consumer = self._app._consumer  # the property would make one
        if consumer is None or not self._app.started or self._app.should_stop:
            return 0
        return consumer.highwater(TP(self._raw, partition)) or 0


def declare(app: faust.App, devices: Any, service: Service) -> None:
    """Connect the service to the life of the app: recovery, rebalance, tasks, shutdown."""
    devices.on_recover(service.start_lanes)

    @app.on_partitions_revoked.connect
    async def stop_lanes(*_: Any, **_kwargs: Any) -> None:
        """Partitions go to other workers, or come back in a moment: the journal has all that a successor needs."""
        await service.runtime.lanes.stop()

    @app.task
    async def publish() -> None:
        """Statistics once a second."""
        await service.runtime.publish()

    @app.task
    async def notify() -> None:
        """Readiness and watchdog of a service manager."""
        await service.notify()

    @app.on_before_shutdown.connect
    async def stop(*_: Any, **_kwargs: Any) -> None:
        """A last checkpoint, then close all clients; the ingest agent gets no more records by now."""
        await service.stop()
