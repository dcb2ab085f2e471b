"""Two edge processes on one port: every frame once, one API over both, one that dies is started again, SIGTERM ends
all.
"""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from klais.config.load import Settings
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import encode_frame
from klais.kafka.topics import Topics
from tests.support.edge import EdgeProcess, balanced, read_all
from tests.support.process import exit_code, has_ended, kill_hard, wait_for
from tests.support.udp import wait_taken


def send_from_many(port: int, first: int, count: int, senders: int = 40) -> list[bytes]:
    """Frames from as many sockets: the kernel spreads them over the processes."""
    frames = [encode_frame(f"dev-{k % senders}", k, b'{"t":%d}' % k) for k in range(first, first + count)]
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(senders)]
    for k, frame in enumerate(frames):
        socks[k % senders].sendto(frame, ("127.0.0.1", port))
        if k % senders == senders - 1:
            wait_taken(port)
    for sock in socks:
        sock.close()
    return frames


def test_two_processes_behind_one_port(
    settings_for: Callable[..., Settings], topics_of: Callable[[Settings], Topics], tmp_path: Path
) -> None:
    settings = settings_for(partitions=2, edge_id=5, edge_workers=2, cpus="auto")
    topics = topics_of(settings)
    fleet = EdgeProcess(settings, tmp_path / "fleet.log")
    members: list[psutil.Process] = []

    def processes() -> list[psutil.Process]:
        each = fleet.get("/stats")[1]["edge"]["processes"].values()
        return [psutil.Process(one["pid"]) for one in each]

    try:
        assert fleet.wait_status(200)["edges"] == 2
        sent = send_from_many(fleet.udp_port, 0, 2000)

        def settled(received: int) -> Any:
            edge = fleet.get("/stats")[1]["edge"]
            now = edge["counters"] | edge["gauges"]
            return edge if now["received"] >= received and now["queue_depth"] == 0 else None

        edge = wait_for(lambda: settled(2000), 20, "2000 frames")
        assert balanced(edge["counters"]) and edge["counters"]["passed"] == 2000
        each = edge["processes"]
        assert set(each) == {"5", "6"} and all(one["counters"]["received"] > 0 for one in each.values())
        members = processes()
        cpus = [member.cpu_affinity() for member in members]
        assert all(len(one) == 1 for one in cpus)
        assert len({one[0] for one in cpus}) == min(2, len(os.sched_getaffinity(0)))
        assert 'klais_packets_received_total{stage="edge"} 2000.0' in fleet.get("/metrics")[1]
        assert fleet.post("/config", {"new_rate": 7000})[1]["new_rate"] == 7000

        members[0].kill()
        wait_for(lambda: fleet.get("/stats")[1]["edge"]["processes"]["5"]["restarts"] == 1, 60, "its restart")
        fleet.wait_status(200)
        assert processes()[0] != members[0] and processes()[1] == members[1]
        members = processes()
        sent += send_from_many(fleet.udp_port, 2000, 1000)
        edge = wait_for(lambda: settled(3000), 20, "3000 frames over both lives")
        assert edge["counters"]["passed"] == 3000
        fleet.process.send_signal(signal.SIGTERM)
        assert exit_code(fleet.process, 15, fleet.tail) == 0, fleet.tail()
        assert all(has_ended(member) for member in members)
    finally:
        kill_hard(fleet.process)  # its members end with it
    batches = [decode_batch(message.value()) for message in read_all(settings.bootstrap, topics.raw, 2)]
    landed = [batch.frame(i) for batch in batches for i in range(batch.count)]
    assert sorted(landed) == sorted(sent)
    assert {batch.edge for batch in batches} == {5, 6}
    assert len({(batch.edge, batch.boot) for batch in batches}) == 3
    assert "Traceback" not in fleet.log.read_text()
