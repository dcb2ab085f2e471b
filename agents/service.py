"""The worker in the life cycle of the Faust app: start of the lanes, readiness, reports, shutdown."""

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

START_EXTENSION_S = 30.0  # each status during the start extends the service manager's timeout by this


class Service:
    """One worker and its web views.

    Parameters
    ----------
    app : faust.App
        The web views are registered on this app.
    settings, lanes
        Of the worker.
    """

    def __init__(self, app: faust.App, settings: Settings, lanes: Lanes) -> None:
        self._app, self._lanes, self._notifier = app, lanes, Notifier()
        self._turn = lanes.take_turn()  # of the newest assignment
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
        server: Any = app.web  # typed as the interface, which has no `web_app`
        install(server.web_app, views, guard)
        install_page(server.web_app, worker, guard, views.peers)

    def assigned(self) -> None:
        """Partitions are assigned: the lanes that start from now on are theirs."""
        self._turn = self._lanes.take_turn()

    async def start_lanes(self) -> None:
        """Start the lanes of the partitions that the group assigned to this worker.

        Faust's recovery does not end when partitions are revoked: it calls this also when they are gone and the next
        ones not assigned yet. Such a lane would fence that of the new owner, so this start is void.

        An error ends the worker: Faust would swallow it here and continue without lanes.
        """
        try:
            await self.runtime.start_lanes(self._assigned(), self._turn)
        except Exception as error:
            log.error("lanes_not_started", error=repr(error))
            await self._app.crash(error)

    def readiness(self) -> Readiness:
        """Readiness of this worker, with the conditions that it waits for."""
        app = self._app
        return self.runtime.readiness(app.should_stop, self._recovered(), app.rebalancing, self._assigned())

    async def notify(self) -> None:
        """Report readiness to the service manager, then feed its watchdog from the lanes' loop."""
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
        """Shut down in bounded time."""
        self._notifier.stopping("writes a last checkpoint")
        if self._app.in_worker:
            self.runtime.exit_in_time(lambda: 1 if self._app.crash_reason else 0)
        await self.runtime.close()

    def _recovered(self) -> bool:
        tables: Any = self._app.tables  # typed as the interface, which has no `recovery`
        return bool(tables.recovery.completed.is_set())

    def _assigned(self) -> frozenset[int]:
        return frozenset(tp.partition for tp in self._app.assignor.assigned_actives() if tp.topic == self._raw)

    def _highwater(self, partition: int) -> int:
        """End offset of a partition of the staging topic as of the consumer's newest fetch; 0 = unknown."""
        consumer = self._app._consumer  # the property would create one
        if consumer is None or not self._app.started or self._app.should_stop:
            return 0
        return consumer.highwater(TP(self._raw, partition)) or 0


def declare(app: faust.App, devices: Any, service: Service) -> None:
    """Connect the service to the life cycle of the app: recovery, rebalance, tasks, shutdown."""
    devices.on_recover(service.start_lanes)

    @app.on_partitions_revoked.connect
    async def stop_lanes(*_: Any, **_kwargs: Any) -> None:
        """Stop the lanes: partitions move to other workers or return soon, and the journal has all necessary state."""
        await service.runtime.lanes.stop()

    @app.on_partitions_assigned.connect
    async def note_assignment(*_: Any, **_kwargs: Any) -> None:
        """Let lanes start. Faust sends this before its recovery, which it has just requested, can run."""
        service.assigned()

    @app.task
    async def publish() -> None:
        """Publish statistics once a second."""
        await service.runtime.publish()

    @app.task
    async def notify() -> None:
        """Report readiness and feed the watchdog of a service manager."""
        await service.notify()

    @app.on_before_shutdown.connect
    async def stop(*_: Any, **_kwargs: Any) -> None:
        """Write a last checkpoint, then close all clients; the ingest agent gets no more records at this point."""
        await service.stop()
