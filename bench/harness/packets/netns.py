"""A pair of network namespaces joined by a veth pair, for tests and benchmarks: devices on one side, the edge on the
other.
"""

import ctypes
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Move this thread and its children into the namespace for the block; sockets stay where they were opened."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(there)
        yield
    finally:
        _enter(before)
        os.close(before)
        os.close(there)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


@dataclass(frozen=True)
class Pair:
    """Namespaces ``edge`` and ``devices``; ``iface`` is the edge's end, with ``hosts`` as its
    addresses (IPv4, IPv6).
    """

    edge: str
    devices: str
    iface: str
    hosts: tuple[str, str] = ("10.77.0.1", "fd77::1")
    peers: tuple[str, str] = ("10.77.0.2", "fd77::2")

    def sender(self, family: int) -> socket.socket:
        """A UDP socket on the devices' side."""
        with inside(self.devices):
            return socket.socket(family, socket.SOCK_DGRAM)


def run(*command: str) -> str:
    """Run a command; return its output. Raises OSError with its error output."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def veth_pair(queues: int = 1, mtu: int = 1500) -> Iterator[Pair]:
    """Create the namespaces and the pair; removed at the end.

    Raises
    ------
    OSError
        Without the rights, or without ``ip``.
    """
    number = f"{os.getpid()}-{next(_numbers)}"
    pair = Pair(f"klais-edge-{number}", f"klais-dev-{number}", "in0")
    made = []
    try:
        for name in (pair.edge, pair.devices):
            run("ip", "netns", "add", name)
            made.append(name)
        count = [str(queues)] * 4
        near = ["in0", "numrxqueues", count[0], "numtxqueues", count[1]]
        far = ["out0", "netns", pair.devices, "numrxqueues", count[2], "numtxqueues", count[3]]
        run("ip", "-n", pair.edge, "link", "add", *near, "type", "veth", "peer", "name", *far)
        for name, iface, addresses in ((pair.edge, "in0", pair.hosts), (pair.devices, "out0", pair.peers)):
            run("ip", "-n", name, "link", "set", iface, "mtu", str(mtu))
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "set", iface, "up")
            for address, size in zip(addresses, ("24", "64"), strict=True):
                nodad = ["nodad"] if ":" in address else []
                run("ip", "-n", name, "addr", "add", f"{address}/{size}", "dev", iface, *nodad)
        yield pair
    finally:
        for name in made:
            run("ip", "netns", "delete", name)
