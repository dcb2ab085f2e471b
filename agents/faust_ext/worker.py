"""The worker process around the app: what it checks before it joins the group, and signals that must not harm it.

Faust's own answer to SIGUSR2 is a debugger that stops the process: it is told and ignored. SIGHUP would end it: here it reads
the settings again, of which a worker takes over the level of its log (limits come from ``klais_control``).
SIGTERM and SIGINT stop the worker cleanly (see :mod:`agents.service`), SIGUSR1 prints the stacks of all tasks.
"""

import asyncio
import signal
from typing import Any

from faust.worker import Worker

from klais.config.load import Settings, load
from klais.errors import KlaisError, TopicMismatch
from klais.kafka.admin import check_topics, ensure_topics, wait_for_broker
from klais.system.ports import check_port
from klais.telemetry.log import get, set_level

log = get("agents.worker")

EXIT_REFUSED = 1


def worker_class(settings: Settings) -> type[Worker]:
    """The class of the worker for ``faust.App(Worker=...)``."""

    class KlaisWorker(Worker):  # type: ignore[misc, valid-type, unused-ignore]
        """A Faust worker that looks before it leaps."""

        async def on_first_start(self) -> None:
            """Faust's own start, then the checks; the app starts after this returns."""
            await super().on_first_start()
            conf = self.app.conf
            try:
                if conf.web_enabled:
                    check_port(conf.web_bind, conf.web_port, setting="KLAIS_WEB_PORT")
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
            set_level(read)  # not a new handler: Faust has put its own stream in the place of stderr
            log.info("reloaded", log_level=read.log_level)

        def _on_sigusr2(self) -> None:
            log.info("signal_ignored", signal="SIGUSR2", why="no debugger in a worker; SIGUSR1 prints all stacks")

    return KlaisWorker


def check_cluster(settings: Settings, stop: Any) -> None:
    """Wait for a broker, then hold the topics against what is needed; blocks.

    With the embedded broker missing topics are created; on a cluster of others they are its owner's business.

    Raises
    ------
    KafkaUnavailable
        ``stop()`` became true before a broker answered.
    TopicMismatch
        A topic is missing or has other settings; says how to mend each.
    """
    admin = wait_for_broker(settings, on_wait=lambda text: log.warning("kafka_awaited", says=text), stop=stop)
    if settings.embedded_kafka:
        ensure_topics(settings, admin)
    elif wrong := check_topics(settings, admin):
        raise TopicMismatch("\n".join(str(mismatch) for mismatch in wrong))


def refuse(error: KlaisError) -> None:
    """Say why the worker does not start, a line for each problem, and end the process: nothing was joined or opened yet."""
    for line in str(error).splitlines():
        log.error("worker_refused", why=line)
    raise SystemExit(EXIT_REFUSED)
