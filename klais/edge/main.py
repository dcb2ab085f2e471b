"""``klais edge``: puts the parts together, waits for Kafka, runs the spine, drains on SIGTERM.

The kernels are loaded (compiled, the first time) by the imports below: before a port is bound. Frames are received only
once Kafka was reached and its topics are right: until then senders get "port unreachable" instead of silence. An edge that
knows its topics from the last time receives at once, into the spool.
"""

import secrets
import sys
import threading
import time

from klais import fault
from klais.config.host import host_of
from klais.config.load import Settings, load
from klais.control.setpoints import ControlFollower
from klais.control.xdp_applier import Applier
from klais.edge.api.server import api_of
from klais.edge.api.view import EdgeState
from klais.edge.batcher import Batcher
from klais.edge.counts import Counts
from klais.edge.linger import Pace
from klais.edge.memory import settle
from klais.edge.shedding import HostIntake
from klais.edge.signals import Signals, changed
from klais.edge.sinks.dead_letters import DeadLetters
from klais.edge.sinks.kafka import KafkaPublisher
from klais.edge.sinks.spool.backlog import Backlog
from klais.edge.sinks.store_and_forward import Forwarder
from klais.edge.sources.choose import Chosen, open_source
from klais.edge.spine import Spine
from klais.edge.topics_check import AGAIN_S, TopicsCheck
from klais.errors import ConfigError
from klais.http.access import Access
from klais.kafka.stats import ControlProducer, StatsFollower
from klais.system.address import Bind, open_udp_socket
from klais.system.numa import pin, plan, read_topology
from klais.system.sd_notify import Notifier
from klais.telemetry import log as logs
from klais.telemetry.stats import StatsPublisher

log = logs.get("klais.edge")

RECEIVE_BUDGET_S = 1.0
DELIVER_BUDGET_S = 4.0
REPLAY_OF_RATE = 0.9  # of the global rate in force
REPLAY_OF_LIVE = 1.25  # of the frames that come in: else the spool would never empty
SWITCH_INTERVAL_S = 0.0005  # how long the API may keep the interpreter from the spine


class Edge:
    """One edge process.

    Parameters
    ----------
    settings : Settings
        All of it; nothing else is read.
    now : bool
        Do not wait for Kafka at the end.
    """

    def __init__(self, settings: Settings, now: bool = False) -> None:
        self.settings = settings
        self.counts = Counts()
        self.notifier = Notifier()
        self.signals = Signals(self.stop, self.hurry, now)
        self._read = settings  # as the environment and its file say; options of the command line are in ``settings`` only
        self._stop = threading.Event()
        self._topics = TopicsCheck(settings)
        self.letters: DeadLetters | None = None
        self.intake: HostIntake | None = None
        self.control = ControlFollower(settings)
        self.system = StatsFollower(settings)
        self.producer = ControlProducer(settings, f"klais-edge-{settings.edge_id}-control")
        self.state = EdgeState(settings, self.counts, self.control, self.system, self.producer)
        self.stats = StatsPublisher(
            self.producer,
            "edge",
            f"edge-{settings.edge_id}",
            self.state.said,
            version=lambda: self.control.version,
            host=host_of(settings),
        )
        self.applier = self.state.applier = Applier(settings, self.control, lambda: bool(self.system.newest("controller")))
        access = Access.of(settings, Bind.parse(settings.api_bind).host)
        if access.generated:
            log.warning("api_token_made", file=str(access.generated), why="KLAIS_API_BIND is not loopback and no token is set")
        self.api = api_of(settings, self.state, access)

    def stop(self) -> None:
        """End :meth:`run`; may be called from a signal handler."""
        self._stop.set()
        if self.state.spine:
            self.state.spine.stop()

    def hurry(self) -> None:
        """Do not wait for Kafka any more: what is in hand goes to the spool. May be called from a signal handler."""
        if self.state.spine:
            self.state.spine.hurry()
        if self.state.forwarder:
            self.state.forwarder.hurry = True

    def beat(self) -> None:
        """In each round of whatever runs: the watchdog, the intake in force, and a reload that was asked for."""
        now_s = time.monotonic()
        self.notifier.beat(now_s)
        if self.intake:
            self.intake.look(now_s)
        if self.signals.reload:
            self.signals.reload = False
            self.reload()

    def reload(self) -> None:
        """Read the settings again; take over what can change while it runs, name what needs a restart."""
        self.notifier.reloading()
        try:
            read = load()
        except ConfigError as error:
            log.error("reload_refused", why=str(error))
        else:
            now, later = changed(self._read, read)
            self._read, self.settings = read, self.settings.model_copy(update=now)
            logs.setup(self.settings, "edge")
            if self.state.forwarder:
                self.state.forwarder.configure(self.settings)
            if self.letters:
                self.letters.set_rate(self.settings.dead_letter_rate)
            log.info("reloaded", changed=now, needs_restart=later)
        self.notifier.ready("receives" if self.state.spine else self.state.waiting_for)

    def run(self) -> int:
        """Serve until :meth:`stop`, then drain.

        Returns
        -------
        int
            Exit code: 0 also when frames could not be delivered in the end; they are counted and logged.

        Raises
        ------
        PortInUse
            UDP or API port taken.
        TopicMismatch
            A topic has a partition count that this edge must not write to.
        """
        try:
            open_udp_socket(Bind.parse(self.settings.udp_bind), self.settings.udp_share_port).close()
            self.api.start()
            log.info("api_listens", bind=self.settings.api_bind, port=self.api.port)
            if self._wait_for_kafka():
                self.control.start()
                self.system.start()
                self.applier.start()
                self._receive()
        finally:
            self.api.stop()
            for part in (self.applier, self.control, self.system):
                part.stop()
            self.producer.close()
        return 0

    def _wait_for_kafka(self) -> bool:
        """Wait until brokers answer and the topics are there, or were the last time; False when stopped meanwhile."""
        since_s = time.monotonic()
        while not self._stop.is_set():
            missing = self._topics.missing()
            if not missing or (self._topics.away and self._topics.remembered):
                return True
            self.state.waiting_for = missing
            self.notifier.status(missing, still_starting_s=30)
            self.beat()
            if logs.every(5, "edge.waiting"):
                log.warning("edge_waits", why=missing, waited_s=round(time.monotonic() - since_s, 1))
            self._stop.wait(AGAIN_S)
        return False

    def _begin(self, sink: Forwarder) -> None:
        """Note that the topics are right; or, while nobody answers, store until they were looked at."""
        if not self._topics.away:
            self._topics.remember()
            return
        sink.store_only("no Kafka broker answered when the edge started")
        self._topics.follow(self._stop, sink.store_no_more, self.stop)

    def _receive(self) -> None:
        s = self.settings
        boot = secrets.randbits(32)
        sink = self._forwarder()
        self.letters = letters = DeadLetters(
            sink, self.counts, s.dead_letter_rate, s.edge_id, s.partitions, s.frame_max_bytes
        )
        batcher = Batcher(s.partitions, s.batch_max_bytes, s.edge_id, boot, s.batch_sources)
        chosen = open_source(s)
        source = chosen.source
        pace = Pace(int(s.batch_linger_ms * 1e6), source.buffer_bytes, source.capacity, s.partitions)
        spine = Spine(source, batcher, sink, letters, self.counts, pace, s.frame_max_bytes)
        self.state.forwarder, self.state.spine, self.state.waiting_for = sink, spine, ""
        self.state.passed_over = chosen.passed_over
        self.intake = HostIntake(spine.intake, self.stats.name, host_of(s), self.control, self.system, self.applier)
        sink.replay_per_s = lambda: self._replay_per_s(pace)
        spine.beat = self.beat
        if self._stop.is_set():
            spine.stop()
        self._begin(sink)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        settle()
        self._report_source(chosen)
        self.stats.start()
        self.notifier.ready("receives")
        spine.run()
        self.state.waiting_for = "stopping"
        self.notifier.stopping("drains")
        left = spine.drain(RECEIVE_BUDGET_S, DELIVER_BUDGET_S)
        self.stats.stop()
        counters, _ = self.state.own()
        log.info("edge_stopped", undelivered=left, spooled=self.counts.spooled, **counters)
        if left:
            log.error("frames_lost", frames=left, why="neither Kafka nor the spool took them in time")
        if self._topics.mismatch:
            raise self._topics.mismatch

    def _forwarder(self) -> Forwarder:
        counts = self.counts
        return Forwarder(self.settings, counts, KafkaPublisher(self.settings, counts), Backlog(self.settings, counts))

    def _replay_per_s(self, pace: Pace) -> float:
        """Frames a second that the spool may give back: this edge's part of the global rate, and more than comes in.

        The dam's queue is bounded: a spool poured into it at full speed would only move the loss.
        """
        edges = max(1, len(self.system.newest("edge")))
        return max(REPLAY_OF_RATE * self.state.rate() / edges, REPLAY_OF_LIVE * pace.rate_per_s)

    def _report_source(self, chosen: Chosen) -> None:
        source = chosen.source
        for name, why in chosen.passed_over.items():
            log.info("source_passed_over", source=name, why=why)
        log.info("source_opened", source=source.name, **source.details())
        asked, granted = self.settings.udp_rcvbuf_bytes, source.granted_bytes
        log.info("edge_receives", bind=self.settings.udp_bind, port=source.port, receive_buffer_bytes=granted, asked=asked)
        if granted < asked:
            log.warning(
                "receive_buffer_small", granted=granted, asked=asked, do=f"sysctl -w net.core.rmem_max={asked}, or run as root"
            )


def main(settings: Settings, now: bool = False) -> int:
    """Run one edge in this process until SIGTERM or SIGINT; returns the exit code. ``now``: end without waiting for Kafka."""
    fault.arm(settings.fault_point)
    if settings.cpus:  # first of all: threads started from here on stay there too
        placement = plan(settings.cpus, 1, read_topology(settings.iface))
        log.info("edge_placed", did=pin(placement.cpus[0]), why=placement.why)
    edge = Edge(settings, now)
    edge.signals.install()
    return edge.run()
