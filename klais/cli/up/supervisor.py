"""The child processes of ``klais up`` and their order: Kafka, topics, kernels, workers, edge, simulator."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from klais.broker.embedded import EmbeddedKafka
from klais.cli.up.launch_options import LaunchOptions, broker_runs, check_ports, ports_of, udp_target
from klais.cli.worker import data_dir, worker_command
from klais.config.load import Settings, child_environ
from klais.errors import KafkaUnavailable, KlaisError
from klais.http import client
from klais.kafka import admin
from klais.system.activation import HeldSocket
from klais.system.address import Bind, open_udp_socket, split_address, url_of
from klais.system.child import OwnedChild, last_line
from klais.system.private_files import named_folder, own_folder
from klais.system.processes import python_module
from klais.system.supervised import Service, ending

READY_S = 180.0
REPORT_EVERY_S = 5.0
POLL_S = 0.1
EDGE_GRACE_S = 20.0
WORKER_GRACE_S = 20.0
SIMULATOR_GRACE_S = 5.0

Report = Callable[[str], None]


class Supervisor:
    """Starts and stops the processes of ``klais up``; call each step once, in the order of the methods.

    Parameters
    ----------
    options : LaunchOptions
        What to start.
    report : callable
        Called with a line of text for each event.
    """

    def __init__(self, options: LaunchOptions, report: Report) -> None:
        self.options, self._report = options, report
        settings = self.settings = options.settings
        self.logs = settings.state_dir / "logs"
        self.broker: EmbeddedKafka | None = None
        self.workers: list[Service] = []
        self.edge: Service | None = None
        self.udp: HeldSocket | None = None
        self.simulator: Service | None = None
        self.rest = url_of(*split_address(settings.api_bind))
        self.views = [url_of(settings.web_bind, port) for port in options.web_ports]

    @property
    def services(self) -> list[Service]:
        """Started services, in the order in which they are stopped."""
        return [service for service in (self.simulator, self.edge, *self.workers) if service is not None]

    def check(self) -> None:
        """Check ports and folders before anything is started.

        Raises
        ------
        klais.errors.KlaisError
            If a port or the state folder is in use, or the folder cannot be written.
        """
        own_broker = self.settings.embedded_kafka and not broker_runs(self.settings)
        check_ports(ports_of(self.options, own_broker))
        try:
            named_folder(self.settings.state_dir, "KLAIS_STATE_DIR")
            own_folder(self.logs)
            own_folder(data_dir(self.settings))
        except OSError as error:
            raise KlaisError(f"cannot create {self.logs.resolve()}: {error.strerror}. Set KLAIS_STATE_DIR") from None
        if own_broker:
            self.broker = EmbeddedKafka(self.settings, self._report)

    def start_kafka(self) -> None:
        """Start Kafka and create the topics while the kernels compile; return when all three are done."""
        warm = OwnedChild(python_module("klais", "warm"), self._fresh("warm"), self._environ(self.settings))
        try:
            self._kafka()
            self._wait_for_kernels(warm)
        finally:
            warm.stop(1.0)

    def _kafka(self) -> None:
        s = self.settings
        if self.broker is not None:
            self.broker.start()
        elif s.embedded_kafka:
            self._report(f"Apache Kafka: using the running one, on {s.bootstrap}")
        else:
            self._report(f"Kafka: using the cluster {s.bootstrap} (KLAIS_KAFKA_BOOTSTRAP)")
        client = admin.wait_for_broker(s, None, self._report)
        created = admin.ensure_topics(s, client)
        known = f"{len(created)} created" if created else "all there"
        self._report(
            f"topics: {known}, {s.partitions} partitions{f', prefix {s.topic_prefix}' if s.topic_prefix else ''}"
        )

    def _wait_for_kernels(self, warm: OwnedChild) -> None:
        log, began_s, reported_s = self.logs / "warm.log", time.monotonic(), -1e9
        while not warm.wait(POLL_S):
            now_s = time.monotonic()
            if now_s - reported_s >= REPORT_EVERY_S:
                self._report(f"kernels: compiling, once (a minute or less) {last_line(log)}".rstrip())
                reported_s = now_s
        if warm.returncode:
            text = log.read_text(errors="replace")[-2000:]
            raise KlaisError(
                f"the kernels could not be compiled, `klais warm` ended with {ending(warm.returncode)}:\n{text}"
            )
        waited_s = time.monotonic() - began_s
        self._report(f"kernels: ready{f' after {waited_s:.0f} s' if waited_s >= 1 else ''}")

    def start_workers(self) -> None:
        """Start the Faust workers and wait until their lanes are live."""
        for number, port in enumerate(self.options.web_ports):
            own = self.settings.model_copy(update={"web_port": port})
            name = "worker" if self.options.workers == 1 else f"worker-{number + 1}"
            service = Service(name, worker_command(own), self._environ(own), self.logs / f"{name}.log")
            self.workers.append(service)
            service.start()
        many = f"{len(self.workers)} Faust workers" if len(self.workers) > 1 else "Faust worker"
        self._report(f"{many}: starting")
        self._wait_ready(f"{many} at {', '.join(self.views)}", lambda: all(worker_ready(view) for view in self.views))

    def start_edge(self) -> None:
        """Start the edge with a socket of this process, which buffers frames while the edge restarts."""
        s = self.settings
        sock = open_udp_socket(Bind.parse(s.udp_bind), s.udp_share_port, s.iface, s.udp_rcvbuf_bytes)
        self.udp = HeldSocket(sock, s.udp_rcvbuf_bytes, counted=0)
        command, log = python_module("klais", "edge", "--workers", "1"), self.logs / "edge.log"
        self.edge = Service("edge", command, self._environ(s), log, self.udp.spawn, restart_at_once=True)
        self.edge.start()
        self._report("edge: starting")
        self._wait_ready(f"edge at {self.settings.udp_bind}", lambda: edge_ready(self.rest))

    def start_simulator(self) -> Path:
        """Start the simulated devices; return the log with their progress."""
        options = self.options
        traffic = ["--trace", "nasa"] if options.rate is None else ["--rate", f"{options.rate:g}"]
        devices = ["--devices", str(options.devices), "--to", udp_target(self.settings)]
        command = python_module("klais", "simulate", *devices, *traffic, "--quiet", "--json-lines")
        log = self.logs / "simulate.log"
        self.simulator = Service("simulate", command, self._environ(self.settings), log)
        self.simulator.start()
        return log

    def poll(self) -> None:
        """Check all child processes, restart those that ended, and report it.

        Raises
        ------
        klais.errors.KlaisError
            If Kafka has ended, or a child failed too often.
        """
        if self.broker is not None and not self.broker.running:
            raise KafkaUnavailable(f"Apache Kafka ended unexpectedly; its log ends with:\n{self.broker.last_lines()}")
        for service in self.services:
            event = service.poll()
            if event:
                self._report(event)

    def stop_simulator(self) -> None:
        """Stop the simulated devices."""
        if self.simulator is not None:
            self.simulator.stop(SIMULATOR_GRACE_S)

    def stop_edge(self) -> None:
        """Stop the edge: it drains the kernel's buffer and delivers the frames."""
        if self.edge is not None and not self.edge.stop(EDGE_GRACE_S):
            self._report(f"edge: did not stop within {EDGE_GRACE_S:.0f} s and was killed")
        if self.udp is not None:
            self.udp.close()

    def stop(self) -> None:
        """Stop everything that still runs, Kafka last. It may be called twice."""
        with ExitStack() as closing:  # in reverse order, each whatever the others raise
            if self.broker is not None:
                closing.callback(self.broker.stop)
            for service in reversed(self.workers):
                closing.callback(self._stop_worker, service)
            closing.callback(self.stop_edge)
            closing.callback(self.stop_simulator)

    def _stop_worker(self, service: Service) -> None:
        if not service.stop(WORKER_GRACE_S):
            self._report(f"{service.name}: did not stop within {WORKER_GRACE_S:.0f} s and was killed")

    def _wait_ready(self, what: str, ready: Callable[[], bool]) -> None:
        began_s = reported_s = time.monotonic()
        while not ready():
            self.poll()
            now_s = time.monotonic()
            if now_s - began_s > READY_S:
                raise KlaisError(f"{what} is not ready after {READY_S:.0f} s: see the logs in {self.logs}")
            if now_s - reported_s >= REPORT_EVERY_S:
                reported_s = now_s
                self._report(f"{what}: not ready yet, {now_s - began_s:.0f} s")
            time.sleep(POLL_S)

    def _fresh(self, name: str) -> Path:
        path = self.logs / f"{name}.log"
        path.unlink(missing_ok=True)
        return path

    def _environ(self, settings: Settings) -> dict[str, str]:
        """Exactly these settings: an option may have reset one to its default."""
        return child_environ(settings)


def ask(url: str, timeout_s: float = 1.0) -> tuple[int, Any] | None:
    """Status and JSON body of a GET, for any status; None without a response."""
    try:
        status, data = client.request(url, timeout_s)
    except (OSError, ValueError):
        return None
    try:
        return status, json.loads(data)
    except ValueError:
        return status, None


def edge_ready(rest: str) -> bool:
    """Whether an edge is receiving."""
    answer = ask(f"{rest}/readyz")
    return answer is not None and answer[0] == 200


def worker_ready(views: str) -> bool:
    """Whether all lanes of a worker are live."""
    answer = ask(f"{views}/readyz")
    return answer is not None and answer[0] == 200
