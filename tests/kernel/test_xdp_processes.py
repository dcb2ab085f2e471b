"""kill -9 of a real edge and of a real worker that is the controller, while the filter is in place and frames flow."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from bench.harness.packets.netns import Pair, inside
from klais.config.load import Settings
from klais.kafka.topics import Topics
from tests.support.edge import EdgeProcess
from tests.support.fault_harness import Worker
from tests.support.needs import need_missing
from tests.support.process import PATIENCE, wait_for
from tests.support.xdp import PORT, WIDE, Flow, Rig, rig

HEARTBEAT_S = 1.0
GIVEN = {"control_auto": True, "dam_device_rate": 1e6, "dam_device_burst": 1e6, "xdp_heartbeat_s": HEARTBEAT_S}


@contextmanager
def bridged(pair: Pair, bootstrap: str) -> Iterator[None]:
    """The broker, which listens on our loopback, on that of the edge's namespace too."""
    host, _, port = bootstrap.rpartition(":")
    if host not in ("127.0.0.1", "localhost"):
        need_missing(
            "kernel", f"the broker {bootstrap} is not on this machine's loopback, where a namespace can be led to it"
        )
    with inside(pair.edge):
        listener = socket.create_server(("127.0.0.1", int(port)))
    threads: list[threading.Thread] = []
    _start(threads, _accept, listener, int(port), threads)
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)
        listener.close()


def _accept(listener: socket.socket, port: int, threads: list[threading.Thread]) -> None:
    while True:
        try:
            ours = listener.accept()[0]
        except OSError:
            return
        theirs = socket.create_connection(("127.0.0.1", port))
        _start(threads, _copy, ours, theirs)
        _start(threads, _copy, theirs, ours)


def _start(threads: list[threading.Thread], what: Callable[..., None], *arguments: object) -> None:
    threads.append(threading.Thread(target=what, args=arguments, daemon=True))
    threads[-1].start()


def _copy(one: socket.socket, other: socket.socket) -> None:
    """Until either end closes; then both are at their end."""
    with suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
    for end in (one, other):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    one.close()


class Processes:
    """Starts edges and workers; all are gone in the end."""

    def __init__(self, found: Rig, settings: Settings, folder: Path, stack: ExitStack) -> None:
        self._found, self._settings, self._folder, self._stack = found, settings, folder, stack

    def edge(self, name: str) -> EdgeProcess:
        """``klais edge --source af_xdp`` behind the filter."""
        log = self._folder / f"{name}.log"
        with inside(self._found.pair.edge):
            it = EdgeProcess(
                self._settings, log, "0.0.0.0", PORT, "--source", "af_xdp", "--iface", self._found.pair.iface
            )
        self._stack.callback(it.process.wait)
        self._stack.callback(it.process.kill)
        return it

    def worker(self, name: str) -> Worker:
        """A worker, which is the controller when it is alone."""
        given = GIVEN | {"xdp_pin_dir": self._found.pin_dir, "dam_max_rate": 10_000}
        it = Worker(self._settings, self._folder / f"{name}.log", **given)
        self._stack.callback(it.kill)
        return it


def test_kill_9_of_the_edge_and_of_the_controller(
    settings_for: Callable[..., Settings], topics_of: Callable[[Settings], Topics], tmp_path: Path
) -> None:
    with rig(heartbeat_s=HEARTBEAT_S) as found, found.maps() as maps, ExitStack() as stack:
        settings = settings_for(partitions=2, xdp_pin_dir=found.pin_dir, **GIVEN)
        stack.enter_context(bridged(found.pair, settings.bootstrap))
        processes = Processes(found, settings, tmp_path, stack)
        raw_topic = topics_of(settings).raw
        worker, edge = processes.worker("first-worker"), processes.edge("first-edge")
        before, flow = found.counts(), Flow(found)
        stack.callback(flow.finish)

        def goes_on(what: str) -> None:
            at, passed = flow.sent, found.counts()["pass"]

            def more() -> bool:
                return flow.sent > at + 200 and found.counts()["pass"] > passed + 150

            wait_for(more, 10, lambda: f"frames that pass {what}")

        def set_points_in_force() -> bool:
            status = maps.status()
            return status.fresh and status.in_force != WIDE

        wait_for(set_points_in_force, 30, lambda: f"the controller's set-points: {worker.tail(3)} {edge.tail()[-500:]}")
        wait_for(lambda: maps.status().accept == "xsk", 20, "the edge behind the filter")
        goes_on("into the edge")

        edge.process.kill()
        edge.process.wait()
        goes_on("when the edge is dead")
        assert maps.status().heartbeat_age_s < HEARTBEAT_S, "the worker keeps the heartbeat"

        worker.kill()
        wait_for(lambda: not maps.status().fresh, 4 * HEARTBEAT_S, "the heartbeat lapses")
        assert maps.status().in_force == WIDE, "the limits given at load"
        goes_on("when nobody is there")

        stored = ends(settings, raw_topic)
        edge, worker = processes.edge("second-edge"), processes.worker("second-worker")
        goes_on("while the successors start")
        wait_for(set_points_in_force, 30, lambda: f"the successor's set-points: {worker.tail(3)}")
        goes_on("under the successor's set-points")
        wait_for(lambda: ends(settings, raw_topic) > stored, 10, lambda: f"frames in Kafka: {edge.tail()[-500:]}")

        sent = flow.finish()
        wait_for(lambda: found.counts()["bad_magic"] - before["bad_magic"] == sent, 10, "each bad frame dropped")
        assert found.counts()["pass"] - before["pass"] == sent, "a good frame was held back, or not judged"


def ends(settings: Settings, topic: str) -> int:
    """Records that a topic has had."""
    consumer = Consumer({"bootstrap.servers": settings.bootstrap, "group.id": "nobody", "log_level": 0})
    try:
        parts = [TopicPartition(topic, p) for p in range(settings.partitions)]
        return sum(consumer.get_watermark_offsets(part, timeout=10 * PATIENCE, cached=False)[1] for part in parts)
    finally:
        consumer.close()
