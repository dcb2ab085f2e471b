"""The filter in front of a real interface: everything that was sent is counted, everything that is not ours is
untouched.
"""

import os
import random
import socket
import struct
import threading
import time

from bench.harness.packets.netns import inside
from bench.harness.packets.raw_socket import checksum
from klais.core.wire.constants import encode_frame
from klais.xdp.limits import Limits
from tests.support.process import PATIENCE, wait_for
from tests.support.xdp import PORT, Counter, Rig, rig

PACKETS = int(os.environ.get("KLAIS_TEST_XDP_PACKETS", "300000"))
SLOW = Limits(1e8, 1e9, 1e6, 1e6)


def test_mixed_traffic_adds_up_and_other_traffic_is_untouched() -> None:
    with rig(SLOW) as found, found.maps() as maps, found.receiver() as source:
        maps.block("blocked", 3600)
        maps.set_device("greedy", 0.001, 100)
        before, sent_before = wait_for(lambda: standing_still(found), 10, "nothing on the wire")
        echo, pinger, counter = Echo(found), Pinger(found), Counter(source)
        due = send_mixed(found, PACKETS)
        echo.finish()
        pinger.finish()
        counter.finish()
        after, sent_after = wait_for(lambda: standing_still(found), 10, "nothing on the wire")

    sent = sent_after - sent_before
    grown = {name: after[name] - before[name] for name in after}
    for verdict in ("bad_magic", "blocked", "device_rate", "fragment", "too_short", "pass"):
        assert grown[verdict] == due[verdict], (verdict, grown, due)
    assert sum(grown.values()) == sent >= PACKETS
    assert grown["not_ours"] == sent - sum(due[v] for v in due if v != "not_ours") >= due["not_ours"]
    assert len(counter.numbers) + source.kernel_drops() == due["pass"] and source.kernel_drops() == 0
    assert counter.others == 0, "a frame that must be dropped reached the socket"
    assert sorted(counter.numbers) == list(range(due["pass"]))


def standing_still(found: Rig) -> tuple[dict[str, int], int] | None:
    """Counts of the filter and of the far end, taken while neither changes."""
    first = found.counts(), found.sent_packets()
    time.sleep(0.02)
    return first if first == (found.counts(), found.sent_packets()) else None


def send_mixed(found: Rig, packets: int) -> dict[str, int]:
    """Send; how many of each verdict that must give."""
    rng = random.Random(4)
    due = dict.fromkeys(("pass", "bad_magic", "blocked", "device_rate", "fragment", "too_short", "not_ours"), 0)
    payload = b'{"t":21.53}'
    with found.raw() as raw:
        fixed = {
            "bad_magic": raw.udp(b"\x55\xaa" + bytes(40)),
            "blocked": raw.udp(encode_frame("blocked", 0, payload)),
            "fragment": raw.udp(b"x" * 64, fragment=30 | 0x2000),
            "too_short": raw.udp(b"\xaa\x55 short"),
        }
        others = [
            raw.addressed(
                bytes(12) + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + bytes(20)
            ),  # ARP answer
            raw.udp(b"to another port", to_port=PORT + 1),
            raw.udp(b"TCP that nobody knows")[:23] + b"\x06" + raw.udp(b"TCP that nobody knows")[24:],
        ]
        greedy = raw.udp(encode_frame("greedy", 0xFFFFFFFF, payload))
        kinds = rng.choices([*fixed, "pass", "others", "greedy"], weights=[30, 6, 4, 4, 45, 6, 5], k=packets)
        template = raw.udp(encode_frame("device-0000", 0, payload))
        tagged = raw.udp(encode_frame("device-0000", 0, payload), tags=(0x8100,))
        assert len(tagged) == len(template) + 4
        taken = 0
        for i, kind in enumerate(kinds):
            if kind == "pass":
                device = b"device-%04d" % (i % 10_000)
                number = struct.pack(">I", due["pass"])
                raw.send(template[:44] + device + template[55:60] + number + template[64:])
                due["pass"] += 1
                if due["pass"] % 256 == 0:
                    time.sleep(0.0005)  # the socket's reader is a Python loop
            elif kind == "others":
                raw.send(others[i % len(others)])
                due["not_ours"] += 1
            elif kind == "greedy":
                if taken >= 100:
                    raw.send(greedy)
                    due["device_rate"] += 1
                else:
                    number = struct.pack(">I", due["pass"])
                    raw.send(greedy[:60] + number + greedy[64:])
                    due["pass"] += 1
                taken += 1
            else:
                raw.send(fixed[kind])
                due[kind] += 1
    return due


class Echo(threading.Thread):
    """A TCP connection over the same interface that sends numbers and wants each back, for as long as it is let."""

    def __init__(self, found: Rig) -> None:
        super().__init__(daemon=True)
        with inside(found.pair.edge):
            self._server = socket.create_server((found.pair.hosts[0], 0))
        with inside(found.pair.devices):
            self._client = socket.create_connection(self._server.getsockname()[:2], timeout=10 * PATIENCE)
        self._peer, _ = self._server.accept()
        self._peer.settimeout(10 * PATIENCE)
        self._ended, self.rounds, self.slowest_s, self.error = threading.Event(), 0, 0.0, None
        self.error: BaseException | None
        self.start()

    def run(self) -> None:
        try:
            while not self._ended.is_set():
                began, number = time.monotonic(), struct.pack(">I", self.rounds) * 1000
                self._client.sendall(number)
                self._peer.sendall(receive(self._peer, len(number)))
                assert receive(self._client, len(number)) == number
                self.rounds += 1
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                time.sleep(0.002)
        except BaseException as error:
            self.error = error

    def finish(self) -> None:
        self._ended.set()
        self.join(30 * PATIENCE)
        for sock in (self._client, self._peer, self._server):
            sock.close()
        assert self.error is None, repr(self.error)
        assert self.rounds > 10


def receive(sock: socket.socket, size: int) -> bytes:
    out = b""
    while len(out) < size:
        part = sock.recv(size - len(out))
        assert part, "the connection ended"
        out += part
    return out


class Pinger(threading.Thread):
    """ICMP echo requests from the devices' end; each must be answered."""

    def __init__(self, found: Rig) -> None:
        super().__init__(daemon=True)
        with inside(found.pair.devices):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.settimeout(5 * PATIENCE)
        self._host, self._ended, self.sent, self.answered = found.pair.hosts[0], threading.Event(), 0, 0
        self.start()

    def run(self) -> None:
        while not self._ended.is_set():
            self._socket.sendto(echo_request(self.sent), (self._host, 0))
            self.sent += 1
            while True:
                try:
                    answer = self._socket.recv(2048)
                except TimeoutError:
                    return
                if answer[20] == 0 and answer[26:28] == struct.pack(">H", (self.sent - 1) % 65_536):
                    self.answered += 1
                    break
            time.sleep(0.01)

    def finish(self) -> None:
        self._ended.set()
        self.join(30 * PATIENCE)
        self._socket.close()
        assert self.answered == self.sent > 10


def echo_request(number: int) -> bytes:
    head = struct.pack(">BBHHH", 8, 0, 0, 77, number % 65_536)
    return head[:2] + struct.pack(">H", checksum(head)) + head[4:]
