"""Send raw packets into a veth pair, and read the counters of its interfaces."""

import errno
import fcntl
import socket
import struct
import time
from pathlib import Path
from typing import Any

from bench.harness.packets.netns import Pair, inside
from bench.harness.packets.packet import udp_packet


def statistic(iface: str, name: str) -> int:
    """A counter of an interface of this thread's namespace (sysfs shows another's)."""
    for line in Path("/proc/thread-self/net/dev").read_text().splitlines():
        device, _, rest = line.partition(":")
        if device.strip() == iface:
            return int(rest.split()[{"rx_packets": 1, "tx_packets": 9}[name]])
    raise AssertionError(f"no interface {iface}")


class Raw:
    """An AF_PACKET socket at the devices' end."""

    def __init__(self, pair: Pair) -> None:
        with inside(pair.edge):
            self.to_mac = _mac(pair.iface)
        with inside(pair.devices):
            self.from_mac = _mac("out0")
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self.socket.bind(("out0", 0))
        self.pair = pair

    def addressed(self, packet: bytes) -> bytes:
        """The packet with the pair's MAC addresses and, in IPv4, the header's checksum (else the stack refuses it)."""
        packet = self.to_mac + self.from_mac + packet[12:]
        at = packet.find(b"\x08\x00", 12) + 2
        if at not in (14, 18, 22) or len(packet) < at + 20 or packet[at] >> 4 != 4:
            return packet
        header = packet[at : at + packet[at] % 16 * 4]
        if len(header) < packet[at] % 16 * 4:
            return packet
        return packet[: at + 10] + struct.pack(">H", checksum(header)) + packet[at + 12 :]

    def udp(self, payload: bytes, **more: Any) -> bytes:
        """Build a datagram for the edge."""
        return self.addressed(udp_packet(payload, self.pair.peers[0], to=self.pair.hosts[0], **more))

    def send(self, packet: bytes, times: int = 1) -> None:
        """Send a packet, and retry if the queue was full: ENOBUFS means that veth's ring is full."""
        for _ in range(times):
            while True:
                try:
                    self.socket.send(packet)
                    break
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                        raise
                    time.sleep(0)

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mac(iface: str) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, 0x8927, struct.pack("256s", iface.encode()))  # SIOCGIFHWADDR
    return answer[18:24]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes whose checksum field is 0."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
