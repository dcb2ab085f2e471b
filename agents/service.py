"""Around the lanes of a worker: its views and report, and the clean end."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Awaitable
from typing import Any

from faust.types import TP

from klais.config.load import Settings
from klais.control.setpoints import ControlFollower
from klais.http.access import Access, token_to_read
from klais.http.guard import Guard
from klais.kafka.end_offsets import EndOffsets
from klais.kafka.stats import ControlProducer
from klais.kafka.topics import Topics
from klais.system.sd_notify import Notifier
from klais.telemetry.log import get
from klais.worker.controller import Controller
from klais.worker.lanes import Lanes
from klais.worker.limits import LaneLimits
from klais.worker.report import Report
from klais.worker.web.pages import Views, install
from klais.worker.web.peers import Peers

log = get("agents.service")

DRAIN_S = 5.0  # a clean end waits at most this long for the last checkpoint
STOP_S = 2.0  # and at most this long for each thing that is closed
EXIT_S = 12.0  # then the process ends whatever still hangs: without a broker Faust waits a minute for its consumer
NO_BROKER_DRAIN_S, NO_BROKER_EXIT_S = 0.5, 5.0  # the same while no broker answers: what is decided can go nowhere


def web_host(bind: str) -> str:
    """How others reach a server that listens on ``bind``: itself, or this host's name where it listens everywhere.

    Examples
    --------
    >>> web_host("::1")
    '[::1]'
    """
    if bind in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{bind}]" if ":" in bind else bind


class Service:
    """Views and report of one worker; made once by :mod:`agents.app`.

    Parameters
    ----------
    app : faust.App
        The pages are registered on it.
    settings, worker_id, lanes, limits, control
        The parts of the worker.
    """

    def __init__(
        self, app: Any, settings: Settings, worker_id: str, lanes: Lanes, limits: LaneLimits, control: ControlFollower
    ) -> None:
        self._app, self._settings, self._worker_id = app, settings, worker_id
        self._lanes, self._control = lanes, control
        self._topics = topics = Topics.of(settings)
        self._offsets = EndOffsets(settings)
        self._producer: ControlProducer | None = None
        self._notifier = Notifier()
        self._controlling: asyncio.Task[None] | None = None
        self.report = Report(settings, worker_id, lanes, limits, self._offsets)
        self.report.highwater = self._highwater
        self.controller = Controller(settings, worker_id)
        self.report.controller = self.controller
        access = Access.of(settings, settings.web_bind, changes=False)
        if access.generated:
            log.warning("api_token_made", file=str(access.generated), why="KLAIS_WEB_BIND is not loopback, no token is set")
        peers = Peers(app, "devices", topics.devices_changelog, token_to_read(settings, settings.web_bind))
        install(
            app.web.web_app,
            Views(
                settings,
                topics,
                worker_id,
                lanes,
                limits,
                control,
                self.report,
                self._offsets,
                peers,
                self.awaited,
                time.monotonic(),
                self.controller,
            ),
            Guard.of(settings, settings.web_bind, access),
        )

    def awaited(self) -> list[str]:
        """What is still to come before this worker is ready (live lanes apart)."""
        app = self._app
        if app.should_stop:
            return ["nothing: the worker stops"]
        out = []
        if not app.tables.recovery.completed.is_set():
            out.append("the devices table to be read")
        if app.rebalancing:
            out.append("the rebalance to end")
        assigned = {tp.partition for tp in app.assignor.assigned_actives() if tp.topic == self._topics.raw}
        missing = sorted(assigned - set(self._lanes.by_partition))
        return out + [f"lane {partition} to be started" for partition in missing]

    def _highwater(self, partition: int) -> int:
        """End offset of a raw partition as the consumer's newest fetch told it; 0 = unknown."""
        consumer = self._app._consumer
        if consumer is None or not self._app.started or self._app.should_stop:
            return 0
        return consumer.highwater(TP(self._topics.raw, partition)) or 0

    async def tell_systemd(self) -> None:
        """Ready once the lanes are live, then the watchdog, from the loop that the lanes need; nothing without systemd."""
        told = False
        while not self._app.should_stop:
            if not told and not self.awaited() and self._lanes.live:
                told = True
                self._notifier.ready("lanes are live")
            elif not told:
                self._notifier.status("waits for " + ", ".join(self.awaited() or ["its lanes"]), still_starting_s=30)
            self._notifier.beat(time.monotonic())
            await asyncio.sleep(min(1.0, self._notifier.watchdog_s / 4 or 1.0))

    async def run(self) -> None:
        """Report once a second and control where this worker is the one that does, for ever."""
        self._offsets.start()
        self._producer = ControlProducer(self._settings, f"klais-worker-{self._worker_id}")
        self._controlling = asyncio.create_task(self.controller.run(self._producer), name="controller")
        await self.report.run(self._producer)

    async def stop(self) -> None:
        """The clean end, bounded in time: a last checkpoint, so that the next start is quick, then everything is closed."""
        began_s = time.monotonic()
        self._notifier.stopping("writes a last checkpoint")
        answers = not self._offsets.failing_s()
        drain_s = DRAIN_S if answers else NO_BROKER_DRAIN_S
        if self._app.in_worker:
            watchdog = threading.Timer(EXIT_S if answers else NO_BROKER_EXIT_S, self._exit)
            watchdog.daemon = True
            watchdog.start()
        drained = False
        try:
            drained = await asyncio.wait_for(self._lanes.drain(drain_s), drain_s + 1)
        except Exception as error:  # what is not checkpointed is in the journal
            log.warning("not_drained", error=repr(error))
        shared = self._lanes.shared
        if self._controlling is not None:
            self._controlling.cancel()
            await _within("controller", asyncio.gather(self._controlling, return_exceptions=True))
        await _within("lanes", self._lanes.stop())
        closing = [asyncio.to_thread(self._control.stop)]
        if self._producer is not None:
            closing.append(asyncio.to_thread(self._producer.close))
        if shared is not None:
            producers = (shared.journal_producer, shared.output_producer, shared.changelog_producer)
            closing += [producer.stop() for producer in producers]
        self._offsets.stop()
        await asyncio.gather(*(_within("clients", part) for part in closing))
        log.info("worker_stopped", drained=drained, seconds=round(time.monotonic() - began_s, 3))

    def _exit(self) -> None:
        """End the process: all that was decided is journalled, nothing that still hangs could lose it."""
        log.warning("worker_exits", why="something does not close in time, as when no broker answers")
        os._exit(1 if self._app.crash_reason else 0)


async def _within(what: str, closing: Awaitable[Any]) -> None:
    """Wait for something to close, not for ever: without a broker a client may never be done."""
    try:
        await asyncio.wait_for(closing, STOP_S)
    except Exception as error:
        log.warning("not_closed", what=what, error=repr(error))
