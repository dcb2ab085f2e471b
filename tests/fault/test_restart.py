"""An edge restarts while devices send: the socket outlives it; a kill loses what was in memory."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from klais.config.load import Settings
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import encode_frame
from klais.edge.sinks.spool.backlog import spool_folder
from klais.kafka.topics import Topics
from klais.system.activation import HeldSocket
from klais.system.address import Bind, open_udp_socket
from tests.support.edge import EdgeProcess, balanced, edge_command, read_all
from tests.support.ports import free_port
from tests.support.process import PATIENCE, has_ended, wait_for
from tests.support.udp import granted_bytes, waiting_bytes

PORTS = 16  # source ports of the sender: enough for every socket that shares the port to get some
PAUSE_S = 0.0005  # between two frames
ASKED_BYTES = 8 << 20  # receive buffer of the sockets that these tests hold
LOOK_FRAMES = 16  # frames between two looks at what waits


class Sender:
    """Sends frames with running numbers until it ends; ``sent_s`` says when each left (monotonic).

    It pauses while a receive buffer that the kernel granted with ``granted_bytes`` is half full. A receiver that gets
    no CPU for long loses nothing then, so that a missing frame is one that the edge lost.
    """

    def __init__(self, port: int, granted_bytes: int) -> None:
        self.sent_s: list[float] = []
        self._port, self._room_bytes = port, granted_bytes  # Linux doubles what it grants
        self._stop = threading.Event()
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(PORTS)]
        for sock in self._sockets:
            sock.connect(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            number = len(self.sent_s)
            if number % LOOK_FRAMES == 0 and waiting_bytes(self._port) > self._room_bytes:
                continue
            self.sent_s.append(time.monotonic())
            self._sockets[number % PORTS].send(frame(number))

    def wait_sent(self, more: int) -> None:
        until = len(self.sent_s) + more
        wait_for(lambda: len(self.sent_s) >= until, 60, f"{more} more frames to be sent")

    def __enter__(self) -> "Sender":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        for sock in self._sockets:
            sock.close()


def frame(number: int) -> bytes:
    return encode_frame(f"dev-{number % PORTS}", number, b'{"t":%d}' % number)


def published(settings: Settings) -> list[int]:
    """Numbers of the frames in klais_raw; a batch that is there twice is one, as for a lane."""
    batches = {}
    for message in read_all(settings.bootstrap, Topics.of(settings).raw, settings.partitions):
        batch = decode_batch(message.value())
        batches[message.partition(), batch.edge, batch.boot, batch.number] = batch
    return [int(batch.frame(i)[22:].decode()[5:-1]) for batch in batches.values() for i in range(batch.count)]


def wait_published(settings: Settings, more_than: int) -> None:
    wait_for(lambda: len(published(settings)) > more_than, 60, "frames to be published")


@contextmanager
def fleet(settings: Settings, log: Path) -> Iterator[EdgeProcess]:
    edge = EdgeProcess(settings, log, "127.0.0.1", None, "--workers", "2")
    try:
        yield edge
    finally:
        if edge.process.poll() is None:
            edge.process.send_signal(signal.SIGTERM)
            edge.process.wait(30 * PATIENCE)


def member_pids(edge: EdgeProcess) -> list[int]:
    """Pids of the two edge processes, once both answer."""

    def both() -> list[int]:
        status, body = edge.get("/stats")
        pids = [one["pid"] for one in body["edge"]["processes"].values()] if status == 200 else []
        return pids if len(pids) == 2 and all(pids) else []

    return list(wait_for(both, 60, "both edge processes"))


def wait_back(edge: EdgeProcess, pid: int) -> None:
    """Until another process holds the place of ``pid``, and all receive."""
    wait_for(lambda: pid not in member_pids(edge), 60, "the member to be back")
    edge.wait_status(200)


def wait_started(log: Path, times: int) -> None:
    wait_for(lambda: log.read_text().count("edge_started") >= times, 60, "the edge to start")


def ends(pid: int) -> float:
    """When the process was gone (monotonic, at the latest)."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return time.monotonic()
    wait_for(lambda: has_ended(process), 30, f"{pid} to end")
    return time.monotonic()


def all_counted(edge: EdgeProcess, frames: int) -> None:
    """The sums of the fleet are those of all its processes, also of those that ended, to the last frame."""

    def counted() -> bool:
        stats, text = edge.get("/stats")[1]["edge"], edge.get("/metrics")[1]
        counters, depth = stats["counters"], stats["gauges"]["queue_depth"]
        there = f'klais_packets_received_total{{stage="edge"}} {frames}.0' in text
        exact = there and counters["received"] == counters["passed"] == frames
        return exact and balanced(counters, depth + counters["left_at_end"])

    wait_for(counted, 30, f"{frames} frames in the sums")


def test_members_of_a_fleet_that_are_restarted_one_by_one_lose_nothing(settings_for, topics_of, tmp_path) -> None:
    settings = settings_for(partitions=2)
    topics_of(settings)
    with fleet(settings, tmp_path / "edge.log") as edge:
        edge.wait_status(200)
        pids = member_pids(edge)
        with Sender(edge.udp_port, granted_bytes(ASKED_BYTES)) as sender:
            for pid in pids:
                sender.wait_sent(500)
                os.kill(pid, signal.SIGTERM)
                ends(pid)
                wait_back(edge, pid)
            sender.wait_sent(500)
        all_counted(edge, len(sender.sent_s))
        code = edge.stop()[0]
    assert code == 0, edge.tail()
    assert sorted(published(settings)) == list(range(len(sender.sent_s)))


def test_a_rolling_upgrade_leaves_no_time_in_which_nobody_reads(settings_for, topics_of, tmp_path) -> None:
    settings = settings_for(partitions=2)
    topics_of(settings)
    with fleet(settings, tmp_path / "edge.log") as edge:
        edge.wait_status(200)
        before = member_pids(edge)
        with Sender(edge.udp_port, granted_bytes(ASKED_BYTES)) as sender:
            sender.wait_sent(200)
            edge.process.send_signal(signal.SIGUSR2)
            wait_for(lambda: "upgrade_completed" in edge.log.read_text(), 120, "the upgrade")
            for pid in before:
                ends(pid)
            sender.wait_sent(200)
        edge.wait_status(200)
        assert not set(before) & set(member_pids(edge))
        all_counted(edge, len(sender.sent_s))
        code = edge.stop()[0]
    assert code == 0, edge.tail()
    events = [row["event"] for row in edge.rows() if row["event"] in ("edge_started", "edge_stopped", "edge_replaced")]
    assert events[:4] == ["edge_started"] * 3 + ["edge_replaced"], "a new one receives before an old one stops"
    assert "edge_restarted" not in edge.log.read_text(), "no end was unexpected"
    assert sorted(published(settings)) == list(range(len(sender.sent_s)))


def test_a_killed_member_loses_only_what_it_had_in_memory(settings_for, topics_of, tmp_path) -> None:
    settings = settings_for(partitions=2)
    topics_of(settings)
    with fleet(settings, tmp_path / "edge.log") as edge:
        edge.wait_status(200)
        with Sender(edge.udp_port, granted_bytes(ASKED_BYTES)) as sender:
            sender.wait_sent(500)
            wait_published(settings, 200)
            safe = set(published(settings))
            pid = member_pids(edge)[0]
            os.kill(pid, signal.SIGKILL)
            gone_s = ends(pid)
            wait_back(edge, pid)
            sender.wait_sent(500)
        wait_for(lambda: edge.get("/stats")[1]["edge"]["gauges"]["queue_depth"] == 0, 30, "nothing in hand")
        code = edge.stop()[0]
    assert code == 0, edge.tail()
    found = published(settings)
    lost = set(range(len(sender.sent_s))) - set(found)
    assert len(found) == len(set(found)) and safe <= set(found)
    assert all(sender.sent_s[number] < gone_s for number in lost), "what arrived after its end waited in the socket"
    assert len(lost) < len(sender.sent_s) / 2


def test_an_edge_whose_socket_somebody_holds_is_replaced_without_a_loss(settings_for, topics_of, tmp_path) -> None:
    """As systemd and ``klais up`` do: the descriptor outlives the process, and the next one gets it."""
    settings = settings_for(
        partitions=2, udp_bind=f"127.0.0.1:{free_port(kind='udp')}", api_bind=f"127.0.0.1:{free_port()}"
    )
    topics_of(settings)
    held = HeldSocket(open_udp_socket(Bind.parse(settings.udp_bind), share_port=False), ASKED_BYTES)
    log = tmp_path / "edge.log"
    children = []
    try:
        with Sender(held.socket.getsockname()[1], granted_bytes(ASKED_BYTES)) as sender:
            for round_ in range(3):
                child = held.spawn(*edge_command(settings, log))
                children.append(child)
                sender.wait_sent(200)
                wait_started(log, round_ + 1)
                wait_published(settings, 100)
                if round_ == 2:
                    break
                os.kill(child.pid, signal.SIGTERM)
                assert child.wait(30 * PATIENCE) and child.returncode == 0, log.read_text()[-3000:]
                wait_for(lambda: waiting_bytes(held.socket.getsockname()[1]) > 0, 60, "frames that nobody reads")
        os.kill(children[-1].pid, signal.SIGTERM)
        assert children[-1].wait(30 * PATIENCE)
    finally:
        for child in children:
            child.stop(0.0)
        held.close()
    assert log.read_text().count("socket_inherited") == 3
    assert sorted(published(settings)) == list(range(len(sender.sent_s)))


def test_an_edge_that_has_never_seen_kafka_receives_from_the_moment_it_is_bound(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state", kafka_port=free_port(), partitions=3, spool_sync="batch")
    edge = EdgeProcess(settings, tmp_path / "edge.log")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", edge.udp_port))

            def taken() -> bool:
                try:
                    sock.send(frame(0))
                    sock.send(frame(1))  # a refusal of the first shows at the second
                except ConnectionRefusedError:
                    return False
                return True

            wait_for(taken, 60, "the port to be bound")
            assert "edge_started" not in edge.log.read_text(), "the kernels are not loaded yet"
            for number in range(2, 100):
                sock.send(frame(number))
        wait_for(
            lambda: edge.get("/stats")[0] == 200 and edge.counters()["spooled"] >= 100, 60, "all frames in the spool"
        )
        health = edge.wait_status(503)
        assert any("no Kafka broker answers" in problem for problem in health["problems"])
        assert list(spool_folder(settings).glob("*.spool"))
        assert edge.stop()[0] == 0
    finally:
        if edge.process.poll() is None:
            edge.process.kill()
            edge.process.wait()
