"""The worker process around the app: checks before it joins the group, and safe signal handlers.

SIGTERM and SIGINT stop the worker cleanly (see :mod:`agents.service`), SIGUSR1 prints the stacks of all tasks. Two
signals have other handlers than in Faust. In Faust SIGUSR2 opens a debugger, which stops the process until a user types
into it; here the worker logs the signal and continues. SIGHUP would end the process; here it reads the settings again
and applies the log level (limits come from ``klais_control``).
"""

import asyncio
import signal

from faust.worker import Worker

from klais.config.load import Settings, load
from klais.errors import KlaisError
from klais.system.ports import check_port
from klais.telemetry.log import get, set_level
from klais.worker.startup import check_cluster

log = get("agents.worker")

EXIT_REFUSED = 1


def worker_class(settings: Settings) -> type[Worker]:
    """The class for ``faust.App(Worker=...)``; Faust creates the object, so the class holds the settings."""

    class KlaisWorker(Worker):
        """A Faust worker that checks port, broker and topics before the app starts."""

        async def on_first_start(self) -> None:
            """Run Faust's own start, then the checks; the app starts after this returns."""
            await super().on_first_start()
            conf = self.app.conf
            try:
                if conf.web_enabled:
                    check_port(conf.web_bind, conf.web_port, "tcp", "KLAIS_WEB_PORT", "KLAIS_WEB_BIND")
                await asyncio.to_thread(check_cluster, settings, lambda: self.should_stop)
            except KlaisError as error:
                if not self.should_stop:
                    refuse(error)

        def _install_signal_handlers_unix(self) -> None:
            super()._install_signal_handlers_unix()
            self.loop.add_signal_handler(signal.SIGHUP, self._on_sighup)

        def _on_sighup(self) -> None:
            try:
                read = load()
            except KlaisError as error:
                log.error("reload_refused", why=str(error))
                return
            set_level(read)  # not a new handler: Faust has replaced stderr by its own stream
            log.info("reloaded", log_level=read.log_level)

        def _on_sigusr2(self) -> None:
            log.info("signal_ignored", signal="SIGUSR2", why="no debugger in a worker; SIGUSR1 prints all stacks")

    return KlaisWorker


def refuse(error: KlaisError) -> None:
    """Log the reasons why the worker does not start, one line each, and exit; nothing is open yet."""
    for line in str(error).splitlines():
        log.error("worker_refused", why=line)
    raise SystemExit(EXIT_REFUSED)
