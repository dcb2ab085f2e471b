"""Kernels that find UDP payload and sender in raw packets from AF_XDP, which start with Ethernet, IP and UDP headers.

The rules are those of the filter in ``bpf/parse.h`` (VLAN tags, IPv4 with options, IPv6 with extension headers, with
the same limits), so every packet that the filter accepted is parsed here. A packet without a whole UDP datagram
(another program feeds the socket) is not lost: it becomes a frame that is too short, and so an ordinary dead letter.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from klais.core.wire.constants import HEADER_SIZE
from klais.jit.intrinsics import prefetch
from klais.jit.kernel import BYTES, I64, kernel, uint8, void
from klais.xdp.layout import MAX_EXTENSIONS, MAX_TAGS

_ETHERNET = np.int64(14)
_UDP = np.int64(17)
# Packets come from another CPU's cache: prefetch this many. Two cache lines hold headers and a small frame.
_AHEAD = 8
_STUB = np.int64(HEADER_SIZE - 1)  # a length that no frame has

_U8_2D = uint8[:, ::1]


@kernel()
def _be16(memory: npt.NDArray[np.uint8], at: int) -> Any:
    return (np.int64(memory[at]) << np.int64(8)) | np.int64(memory[at + 1])


@kernel()
def _after_ipv4(memory: npt.NDArray[np.uint8], ip: int, end: int) -> tuple[Any, Any]:
    """Start of UDP and end of the IPv4 packet at ``ip``; (-1, 0) for a fragment or another protocol."""
    if ip + 20 > end:
        return np.int64(-1), np.int64(0)
    size = np.int64(memory[ip] & 15) * 4
    total = _be16(memory, ip + 2)
    fragment = _be16(memory, ip + 6) & 0x3FFF  # more-fragments bit and offset
    good = memory[ip] >> 4 == 4 and size >= 20 and total >= size and ip + total <= end
    if not good or fragment != 0 or np.int64(memory[ip + 9]) != _UDP:
        return np.int64(-1), np.int64(0)
    return ip + size, ip + total


@kernel()
def _after_ipv6(memory: npt.NDArray[np.uint8], ip: Any, end: int) -> tuple[Any, Any]:
    """The same for IPv6; hop-by-hop (0), routing (43), destination options (60) and a fragment that is whole are
    skipped.
    """
    if ip + 40 > end or memory[ip] >> 4 != 6:
        return np.int64(-1), np.int64(0)
    stop = ip + 40 + _be16(memory, ip + 4)
    if stop > end:
        return np.int64(-1), np.int64(0)
    kind = np.int64(memory[ip + 6])
    at = ip + 40
    for _ in range(MAX_EXTENSIONS):
        if kind != 0 and kind != 43 and kind != 44 and kind != 60:
            break
        if at + 8 > stop or (kind == 44 and _be16(memory, at + 2) & 0xFFF9 != 0):
            return np.int64(-1), np.int64(0)
        size = np.int64(8) if kind == 44 else (np.int64(memory[at + 1]) + 1) * 8
        kind = np.int64(memory[at])
        at += size
    return (at, stop) if kind == _UDP else (np.int64(-1), np.int64(0))


@kernel()
def _network_header(memory: npt.NDArray[np.uint8], at: Any, end: int) -> tuple[Any, Any]:
    """EtherType (host order) and start of the header after Ethernet and VLAN tags; (0, 0) if cut off."""
    if at + _ETHERNET > end:
        return np.int64(0), np.int64(0)
    kind = _be16(memory, at + 12)
    at += _ETHERNET
    for _ in range(MAX_TAGS):
        if kind != 0x8100 and kind != 0x88A8:
            break
        if at + 4 > end:
            return np.int64(0), np.int64(0)
        kind = _be16(memory, at + 2)
        at += 4
    return kind, at


@kernel(void(BYTES, I64, I64, I64, I64, I64))
def find_payloads(
    memory: npt.NDArray[np.uint8],
    packet_at: npt.NDArray[np.int64],
    packet_size: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    ip_at: npt.NDArray[np.int64],
) -> None:
    """Find the UDP payload of n packets.

    Parameters
    ----------
    memory : uint8 [b]
        The memory of the packets.
    packet_at, packet_size : int64 [n]
        Packet i is ``memory[packet_at[i] : packet_at[i] + packet_size[i]]``, from the Ethernet header on; a packet that
        is not inside ``memory`` counts as empty.
    starts, lengths : int64 [n], out
        The payload, without Ethernet's padding. For a packet that is not a whole UDP datagram: its first 21
        bytes.
    ip_at : int64 [n], out
        Start of its IP header; -1 = no UDP datagram.
    """
    n = packet_at.shape[0]
    for i in range(n):
        ahead = packet_at[min(i + _AHEAD, n - 1)]
        prefetch(memory, ahead)
        prefetch(memory, ahead + 64)
        at = packet_at[i]
        end = at + packet_size[i]
        if at < 0 or end > memory.shape[0] or end < at:
            starts[i] = 0
            lengths[i] = 0
            ip_at[i] = -1
            continue
        kind, ip = _network_header(memory, at, end)
        udp, stop = np.int64(-1), np.int64(0)
        if kind == 0x0800:
            udp, stop = _after_ipv4(memory, ip, end)
        elif kind == 0x86DD:
            udp, stop = _after_ipv6(memory, ip, end)
        size = _be16(memory, udp + 4) if udp >= 0 and udp + 8 <= stop else np.int64(0)
        if size >= 8 and udp + size <= stop:
            starts[i] = udp + 8
            lengths[i] = size - 8
            ip_at[i] = ip
        else:
            starts[i] = at
            lengths[i] = min(end - at, _STUB)
            ip_at[i] = -1


@kernel(void(BYTES, I64, I64, _U8_2D))
def packet_sources(
    memory: npt.NDArray[np.uint8],
    ip_at: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
) -> None:
    """Senders of n packets parsed by :func:`find_payloads`.

    Parameters
    ----------
    memory, ip_at, starts
        As in that function.
    out : uint8 [n, 18], out
        IPv6 or v4-mapped address, port big-endian; zeros where ``ip_at`` is -1.
    """
    for i in range(ip_at.shape[0]):
        for k in range(18):
            out[i, k] = 0
        ip = ip_at[i]
        if ip < 0:
            continue
        if memory[ip] >> 4 == 4:
            out[i, 10] = 0xFF
            out[i, 11] = 0xFF
            for k in range(4):
                out[i, 12 + k] = memory[ip + 12 + k]
        else:
            for k in range(16):
                out[i, k] = memory[ip + 8 + k]
        out[i, 16] = memory[starts[i] - 8]
        out[i, 17] = memory[starts[i] - 7]
