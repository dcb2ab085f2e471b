"""``klais edge``: create the components, run the spine, drain on SIGTERM.

The socket is bound, or inherited, before this module is imported (:mod:`klais.edge.listener`): the imports below load
the compiled kernels, which takes a second or two, or far longer on a busy machine. During this time a thread receives
into memory (:mod:`klais.edge.early`). While Kafka does not answer, or its topics are not checked yet, every batch goes
to the spool.
"""

import os
import secrets
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import orjson

from klais import fault
from klais.config.host import host_of
from klais.config.load import Settings, load
from klais.control.setpoints import ControlFollower
from klais.control.xdp_applier import Applier
from klais.edge.api.rate import RateSetter
from klais.edge.api.server import api_of
from klais.edge.api.view import EdgeView
from klais.edge.auth import authenticator
from klais.edge.batcher import Batcher
from klais.edge.blocked_sources import BlockedSources
from klais.edge.counts import Counts
from klais.edge.early import BLOCK_FRAMES, EarlyFrames
from klais.edge.host_checks import ClockCheck
from klais.edge.linger import LingerController
from klais.edge.shedding import HostLimit, LoadShedder
from klais.edge.signals import Signals, changed
from klais.edge.sinks.dead_letters import DeadLetters
from klais.edge.sinks.kafka import KafkaPublisher
from klais.edge.sinks.spool.backlog import LOCK_WAIT_S, Backlog
from klais.edge.sinks.spool.folder import warn_of_spools_left_behind
from klais.edge.sinks.store_and_forward import Forwarder
from klais.edge.sources.choose import Chosen, open_source
from klais.edge.sources.udp.socket import UdpSocket
from klais.edge.spine import Spine
from klais.edge.topics_check import FIRST_S, TopicsCheck
from klais.edge.worker_load import WorkerLoad
from klais.errors import ConfigError, SourceUnavailable
from klais.http.access import Access
from klais.kafka.same_id import SameIdCheck
from klais.kafka.stats import ControlProducer, StatsFollower
from klais.kafka.topics_watch import TopicsWatch
from klais.system.address import Bind
from klais.system.memory import release_startup_memory
from klais.system.numa import pin, plan, read_topology
from klais.system.private_files import write_own
from klais.system.processes import raise_open_files
from klais.system.sd_notify import Notifier
from klais.telemetry import log as logs
from klais.telemetry.metrics import EdgeMetrics
from klais.telemetry.quantiles import Quantiles, both
from klais.telemetry.snapshots import EdgeSnapshot
from klais.telemetry.stats import StatsPublisher

log = logs.get("klais.edge")

RECEIVE_BUDGET_S = 1.0
DELIVER_BUDGET_S = 4.0
REPLAY_RATE_SHARE = 0.9  # of the global rate in force
REPLAY_TO_LIVE_RATIO = 1.25  # of the incoming frames: otherwise the spool would never empty
SWITCH_INTERVAL_S = 0.0005  # how long the API may keep the interpreter from the spine
DROPS_PERIOD_S = 0.1


class Edge:
    """One edge process.

    Parameters
    ----------
    settings : Settings
        All settings; the edge reads nothing else.
    udp : UdpSocket
        The socket for frames; closed when :meth:`run` returns. The thread that creates the edge also runs it.
    now : bool
        Do not wait for Kafka at the end.
    successor : bool
        The process that this one replaces still runs: do not wait for its spool.
    early : EarlyFrames, optional
        Frames that arrived since the socket was bound; still receiving.

    Attributes
    ----------
    report_folder : Path or None
        Where it leaves its last figures for a supervisor, in a file with the process id as name.
    """

    report_folder: Path | None = None

    def __init__(
        self,
        settings: Settings,
        udp: UdpSocket,
        now: bool = False,
        successor: bool = False,
        early: EarlyFrames | None = None,
    ) -> None:
        self.settings = self._read = settings  # _read: without the options of the command line
        self.signals = Signals(self.stop, self.abort, now)
        self._notifier = Notifier()
        self._stopping, self._early, self._drops_next_s = threading.Event(), early, 0.0
        self._unavailable: SourceUnavailable | None = None
        s, name, boot = settings, f"edge-{settings.edge_id}", secrets.randbits(32)

        # State of the whole system: set-points, and the records of all processes.
        self.control, self.system = ControlFollower(s), StatsFollower(s)
        self.producer = ControlProducer(s, f"klais-{name}-control")
        self._rate = RateSetter(s, self.control, self.producer)
        self.applier = Applier(s, self.control, lambda: bool(self.system.newest("controller")))
        self.topics, self.topics_watch, self.clock = TopicsCheck(s), TopicsWatch(s), ClockCheck(self.system, name)
        self.same_id = SameIdCheck(self.system, name, f"{boot:08x}")

        # The data path, from its end to its beginning.
        self.metrics, kafka_ms, batch_ms = EdgeMetrics(self._snapshot, s.edge_id), Quantiles(), Quantiles()
        self.counts, blocked = Counts(), BlockedSources(self.control.blocked_sources, self.applier.allowed_sources)
        observe_kafka_s = both(self.metrics.kafka.observe, kafka_ms.observe)
        backlog = Backlog(s, self.counts, 0.0 if successor else LOCK_WAIT_S)
        publisher = partial(KafkaPublisher, s, self.counts, self.clock, observe_kafka_s=observe_kafka_s)
        self.forwarder = Forwarder(s, self.counts, publisher, backlog, self._replay_per_s)
        self.dead_letters = DeadLetters(
            self.forwarder, self.counts, s.dead_letter_rate, s.dead_letter_bytes, s.edge_id, s.partitions,
            s.frame_max_bytes,
        )  # fmt: skip
        batcher = Batcher(s.partitions, s.batch_max_bytes, s.edge_id, boot, s.batch_sources, s.auth != "off")
        source = (chosen := self._open_source(udp)).source
        linger = LingerController(int(s.linger_ms * 1e6), source.buffer_bytes, source.capacity, s.partitions)
        shedder, auth = LoadShedder(s.partitions), authenticator(s, max(source.capacity, BLOCK_FRAMES))
        self.spine = Spine(
            source, batcher, self.forwarder, self.dead_letters, self.counts, linger, shedder, s.frame_max_bytes,
            self.on_tick, both(self.metrics.processing.observe, batch_ms.observe), auth, blocked,
        )  # fmt: skip
        self._host_limit = HostLimit(shedder, name, host_of(s), self.control, self.system, self.applier)
        self._worker_load = WorkerLoad(linger, self.system)
        self._report_source(chosen, udp)

        # Users of the data path.
        self.view = EdgeView(
            s, self.spine, self.forwarder, self.control, self.system, self.applier, self._rate,
            batch_ms, kafka_ms, self.metrics, self._problems, self._stopping.is_set, chosen.skipped,
        )  # fmt: skip
        self.stats = StatsPublisher(
            self.producer, "edge", name, self.view.record,
            version=lambda: self.control.version, host=host_of(s), instance=f"{boot:08x}",
        )  # fmt: skip
        access = Access.of(s, Bind.parse(s.api_bind).host)
        if access.generated:
            why = "KLAIS_API_BIND is not loopback and no token is set"
            log.warning("api_token_made", file=str(access.generated), why=why)
        self.api = api_of(s, self.view, access, self.spine.taps)

    def _open_source(self, udp: UdpSocket) -> Chosen:
        if self._early is not None and self.settings.source == "io_uring":
            self._early.stop()  # that source receives as soon as it is opened: its frames must be newer
        try:
            return open_source(self.settings, udp)
        except SourceUnavailable as error:
            if self._early is None:
                raise
            self._unavailable = error  # run() raises it, after the frames that arrived so far are stored
            return open_source(self.settings.model_copy(update={"source": "udp"}), udp)

    def stop(self) -> None:
        """End :meth:`run`; may be called from a signal handler."""
        self._stopping.set()
        self.spine.stop()

    def abort(self) -> None:
        """Stop waiting for Kafka: remaining frames go to the spool. May be called from a signal handler."""
        self.spine.abort()
        self.forwarder.abort()

    def on_tick(self, now_s: float) -> None:
        """Called in each round of the spine (``now_s`` monotonic): watchdog, limits, checks, and a reload."""
        self._notifier.ping_watchdog(now_s)
        self._host_limit.on_tick(now_s)
        self._worker_load.on_tick(now_s)
        self.spine.blocked_sources.on_tick(now_s)
        if now_s >= self._drops_next_s:
            self._drops_next_s = now_s + DROPS_PERIOD_S
            self.spine.sample_kernel_drops()
            self.same_id.on_tick(now_s)
        if self.signals.consume_reload():
            self.reload()
        if self.signals.consume_upgrade():
            log.warning(
                "upgrade_refused", why="a single edge process has no supervisor", do="restart it, or use --workers"
            )

    def reload(self) -> None:
        """Read the settings again; apply those that can change at run time, log those that need a restart."""
        self._notifier.reloading()
        try:
            read = load()
        except ConfigError as error:
            log.error("reload_refused", why=str(error))
        else:
            now, later = changed(self._read, read)
            self._read, self.settings = read, self.settings.model_copy(update=now)
            logs.setup(self.settings, "edge")
            self.forwarder.configure(self.settings)
            self.dead_letters.set_rates(self.settings.dead_letter_rate, self.settings.dead_letter_bytes)
            self._reload_keys()
            log.info("settings_reloaded", changed=now, needs_restart=later)
        self._notifier.ready("receives")

    def _reload_keys(self) -> None:
        if (auth := self.spine.auth) is None:
            return
        try:
            auth.configure(self.settings)
        except ConfigError as error:
            log.error("auth_keys_refused", why=str(error), do="the previous keys stay in force")
        else:
            log.info("auth_keys_read", mode=self.settings.auth, generations=auth.generations)

    def run(self) -> int:
        """Run until :meth:`stop`, then drain.

        Returns
        -------
        int
            Exit code: 0 even if frames could not be delivered in the end; they are counted and logged.

        Raises
        ------
        SourceUnavailable
            If the source of ``KLAIS_SOURCE`` cannot be opened.
        PortInUse
            If the port of the API is in use.
        TopicMismatch
            If the partition count of a topic is one that this edge must not write to.
        """
        followers = (self.control, self.system, self.applier, self.topics_watch)
        try:
            if self._unavailable:
                raise self._unavailable
            for part in followers:
                part.start()
            warn_of_spools_left_behind(self.settings, [self.settings.edge_id])
            self._check_topics()
            self._serve()
        except BaseException as error:
            self._spool_early(error)  # it cannot start
            raise
        finally:
            with ExitStack() as closing:  # in reverse order, each whatever the others raise
                closing.callback(self._leave_report)
                closing.callback(self.producer.close)
                for part in followers:
                    closing.callback(part.stop)
                closing.callback(self.api.stop)
                closing.callback(self.spine.source.close)
        return 0

    def _spool_early(self, error: BaseException) -> None:
        if self._early is not None:
            self.forwarder.start_spooling(f"the edge cannot start: {error}")
            self._take_early()
            self.spine.drain(0.0, 0.0)

    def _check_topics(self) -> None:
        """Spool until the topics are verified; if Kafka answers immediately, that is before the first frame."""
        if missing := self.topics.check(FIRST_S):
            log.warning("edge_spools", why=missing)
            self.forwarder.start_spooling(missing)
            self.topics.follow(self._stopping, self.forwarder.stop_spooling, self.stop)

    def _serve(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        release_startup_memory()
        self.stats.start()
        self._notifier.ready("receives")
        log.info("edge_started", bind=self.settings.udp_bind, port=self.spine.source.port)
        self.api.start()  # last: a client that gets an answer knows that the edge receives
        log.info("api_started", bind=self.settings.api_bind, port=self.api.port)
        try:
            self._take_early()
            with self.control.changes(self.stats.wake):
                self.spine.run()
        except BaseException as error:  # of the source, for example: its frames must not be lost with it
            log.error("edge_failed", error=repr(error), now="it stores what it has received, and ends")
            self._end(self.spine.store)
            raise
        self._notifier.stopping("drains")
        self._end(partial(self.spine.drain, RECEIVE_BUDGET_S))
        if self.topics.mismatch:
            raise self.topics.mismatch

    def _end(self, drain: Callable[[float], int]) -> None:
        lost = drain(DELIVER_BUDGET_S)
        self.stats.stop()
        log.info("edge_stopped", undelivered=lost, spooled=self.counts.spooled, **self.view.statistics().counters)
        if lost:
            log.error("frames_lost", frames=lost, why="neither Kafka nor the spool accepted them in time")

    def _leave_report(self) -> None:
        """Write the last figures for the supervisor, whose sums contain them."""
        if self.report_folder is None:
            return
        try:
            now = self.view.statistics()
            report = {"counters": now.counters, "gauges": now.gauges(), "metrics": self.view.metrics()[0].decode()}
            write_own(self.report_folder / str(os.getpid()), orjson.dumps(report, option=orjson.OPT_SERIALIZE_NUMPY))
        except Exception as error:  # it ends in any case
            log.warning("report_not_left", folder=str(self.report_folder), why=repr(error))

    def _take_early(self) -> None:
        """Take the frames that arrived during the start: they are older than all frames from the source."""
        early, self._early = self._early, None
        if early is None:
            return
        early.stop()
        if frames := early.frames:
            log.info("early_frames_taken", frames=frames, bytes=early.bytes)
        self.spine.take(early)

    def _problems(self) -> list[str]:
        topics = (self.topics.missing,) if self.topics.missing else self.topics_watch.problems
        found = ["stopping" if self._stopping.is_set() else "", *topics]
        return [text for text in (*found, self.clock.problem(), self.same_id.problem()) if text]

    def _replay_per_s(self) -> float:
        """Frames per second that the spool may replay: this edge's part of the global rate, and more than arrives.

        The dam's queue is bounded: replaying a spool at full speed would only move the loss there.
        """
        edges = max(1, len(self.system.newest("edge")))
        return max(REPLAY_RATE_SHARE * self._rate.rate() / edges, REPLAY_TO_LIVE_RATIO * self.spine.linger.rate_per_s)

    def _snapshot(self) -> EdgeSnapshot:
        return self.view.metrics_snapshot()

    def _report_source(self, chosen: Chosen, udp: UdpSocket) -> None:
        for name, why in chosen.skipped.items():
            log.info("source_skipped", source=name, why=why)
        asked, granted = self.settings.udp_rcvbuf_bytes, udp.granted_bytes
        source = chosen.source
        log.info("source_opened", source=source.name, receive_buffer_bytes=granted, asked=asked, **source.details())
        if granted < asked:
            log.warning(
                "receive_buffer_small",
                granted=granted,
                asked=asked,
                do=f"sysctl -w net.core.rmem_max={asked}, or run as root",
            )


def main(
    settings: Settings,
    udp: UdpSocket,
    now: bool = False,
    successor: bool = False,
    early: EarlyFrames | None = None,
    report_folder: Path | None = None,
) -> int:
    """Run one edge in this process until SIGTERM or SIGINT; returns the exit code. See :class:`Edge`."""
    fault.arm(settings.fault_point)
    raise_open_files()  # each file of the spool is open
    if settings.cpus:  # first of all: threads started from here on inherit it
        placement = plan(settings.cpus, 1, read_topology(settings.iface))
        log.info("edge_placed", did=pin(placement.cpus[0]), why=placement.why)
    edge = Edge(settings, udp, now, successor, early)
    edge.report_folder = report_folder
    edge.signals.install()
    if early is not None:
        edge.signals.take_over(early.signals)
    return edge.run()
