"""A start that takes long: what arrives meanwhile is in memory, not lost, also when the edge cannot start, or must end.

Each edge here has a receive buffer that is far too small for what is sent before it is ready.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from klais.config.load import Settings
from klais.edge.sinks.spool.backlog import spool_folder
from klais.system.activation import HeldSocket
from klais.system.address import Bind, open_udp_socket
from tests.fault.test_restart import ASKED_BYTES, Sender, fleet, frame, member_pids, published
from tests.fault.test_spool import on_disk
from tests.support.edge import EdgeProcess, edge_command
from tests.support.ports import free_port
from tests.support.process import kill_hard, wait_for
from tests.support.udp import frames_that_fit, granted_bytes, send_all

BUSY = int(os.environ.get("KLAIS_TEST_BUSY", "1")) * (os.cpu_count() or 1)
MAX_S = 120  # a busy loop ends by itself then, whatever becomes of the test
SMALL = 262_144  # a burst of the sender fits


@contextmanager
def busy_machine() -> Iterator[None]:
    """Loops that want all of each CPU."""
    loop = f"import time\nend = time.monotonic() + {MAX_S}\nwhile time.monotonic() < end: pass"
    loops = [subprocess.Popen([sys.executable, "-S", "-c", loop]) for _ in range(BUSY)]
    try:
        yield
    finally:
        for one in loops:
            kill_hard(one)


@contextmanager
def starting(settings: Settings, log: Path, count: int, **env: str) -> Iterator[tuple[EdgeProcess, list[bytes]]]:
    """An edge that has taken ``count`` frames off its socket and is not ready."""
    edge = EdgeProcess(settings, log, **env)
    frames = [frame(number) for number in range(count)]
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", edge.udp_port))

            def bound() -> bool:
                with suppress(ConnectionRefusedError):
                    sock.send(b"")
                    sock.send(b"")  # a refusal of the first shows at the second
                    return True
                return False

            wait_for(bound, 60, "the port to be bound", 0.01)
            send_all(sock, frames, edge.udp_port)
        yield edge, frames
    finally:
        kill_hard(edge.process)


def test_what_arrives_while_an_edge_starts_may_exceed_the_receive_buffer(settings_for, topics_of, tmp_path) -> None:
    settings = settings_for(partitions=2, udp_rcvbuf_bytes=SMALL)
    topics_of(settings)
    with starting(settings, tmp_path / "edge.log", 4000) as (edge, frames):
        edge.wait_status(200)
        edge.wait_settled(len(frames))
        assert edge.stop()[0] == 0
    (early,) = [row["frames"] for row in edge.rows() if row["event"] == "early_frames_taken"]
    assert early > frames_that_fit(SMALL), "they were taken before the edge was ready"
    assert sorted(published(settings)) == list(range(len(frames)))


def test_an_edge_that_must_end_while_it_starts_stores_what_it_has_taken(tmp_path) -> None:
    settings = Settings(state_dir=tmp_path / "state", kafka_port=free_port(), partitions=3, udp_rcvbuf_bytes=SMALL)
    with starting(settings, tmp_path / "edge.log", 4000) as (edge, frames):
        assert "edge_started" not in edge.log.read_text(), "the kernels are not loaded yet"
        assert edge.stop(60)[0] == 0
    assert sorted(set(on_disk(settings))) == sorted(frames)


def test_an_edge_that_cannot_start_stores_what_it_has_taken(tmp_path) -> None:
    settings = Settings(state_dir=tmp_path / "state", kafka_port=free_port(), partitions=3, udp_rcvbuf_bytes=SMALL)
    missing = {"KLAIS_SOURCE": "ringbuf", "KLAIS_IFACE": "none-such"}  # found only after the socket is bound
    with starting(settings, tmp_path / "edge.log", 4000, **missing) as (edge, frames):
        assert edge.process.wait(60) != 0
    assert "none-such" in edge.tail() and spool_folder(settings).is_dir()
    assert sorted(set(on_disk(settings))) == sorted(frames)


def test_an_edge_that_starts_on_a_busy_machine_loses_nothing(settings_for, topics_of, tmp_path) -> None:
    """It needs many seconds, and somebody holds its socket; what arrives is far more than the buffer holds."""
    settings = settings_for(partitions=2, udp_rcvbuf_bytes=SMALL, api_bind=f"127.0.0.1:{free_port()}")
    topics_of(settings)
    held = HeldSocket(open_udp_socket(Bind("127.0.0.1", 0), share_port=False), SMALL)
    settings = settings.model_copy(update={"udp_bind": f"127.0.0.1:{held.socket.getsockname()[1]}"})
    log = tmp_path / "edge.log"
    child = held.spawn(*edge_command(settings, log))
    try:
        with Sender(held.socket.getsockname()[1], granted_bytes(SMALL)) as sender, busy_machine():
            wait_for(lambda: log.exists() and "edge_started" in log.read_text(), 120, "the edge to start")
            sender.wait_sent(200)
        wait_for(
            lambda: len(published(settings)) >= len(sender.sent_s),
            60,
            lambda: f"{len(sender.sent_s)} frames to be published, {len(published(settings))} were",
        )
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(30)
    finally:
        child.stop(0.0)
        held.close()
    assert sorted(published(settings)) == list(range(len(sender.sent_s)))


def test_a_rolling_upgrade_on_a_busy_machine_loses_nothing(settings_for, topics_of, tmp_path) -> None:
    settings = settings_for(partitions=2)
    topics_of(settings)
    with fleet(settings, tmp_path / "edge.log") as edge:
        edge.wait_status(200)
        before = member_pids(edge)
        with Sender(edge.udp_port, granted_bytes(ASKED_BYTES)) as sender:
            sender.wait_sent(200)
            with busy_machine():
                edge.process.send_signal(signal.SIGUSR2)
                wait_for(lambda: "upgrade_" in edge.log.read_text().split("upgrade_started")[-1], 240, "the upgrade")
            sender.wait_sent(200)
        wait_for(lambda: edge.get("/stats")[1]["edge"]["gauges"]["queue_depth"] == 0, 60, "nothing in hand")
        if "upgrade_completed" in edge.log.read_text():  # else it took longer than READY_S, and the old ones go on
            assert not set(before) & set(member_pids(edge))
        assert edge.stop()[0] == 0, edge.tail()
    assert sorted(published(settings)) == list(range(len(sender.sent_s)))
