"""A real interface with the filter, for kernel tests: packets enter at one end, a UDP socket receives the rest."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.harness.packets.netns import Pair, inside, veth_pair
from bench.harness.packets.raw_socket import Raw, statistic
from klais.core.wire.constants import encode_frame
from klais.edge.sources.udp.socket import UdpSocket
from klais.edge.sources.udp.source import UdpSource
from klais.errors import SetupMissing, XdpUnavailable
from klais.xdp import loader
from klais.xdp.limits import Limits
from klais.xdp.maps import XdpMaps
from tests.support.needs import need_missing
from tests.support.process import PATIENCE

PORT = 5000
WIDE = Limits(1e8, 1e9, 1e6, 1e6)
SECOND_NS = 1_000_000_000
BAD = b"\x55\xaa" + bytes(40)


@dataclass
class Rig:
    """A veth pair in separate namespaces; the filter is on the edge's end."""

    pair: Pair
    request: loader.Request

    @property
    def pin_dir(self) -> Path:
        """Folder of the pins."""
        return self.request.pin_dir

    def load(self, **changes: Any) -> loader.Loaded:
        """Load or reload, inside the edge's namespace."""
        self.request = replace(self.request, **changes)
        with inside(self.pair.edge):
            return loader.load(self.request)

    def unload(self, **options: Any) -> list[str]:
        """Unload the filter."""
        with inside(self.pair.edge):
            return loader.unload(self.pin_dir, **options)

    def attached(self) -> list[loader.Attached]:
        """Interfaces of the edge's namespace with this filter."""
        with inside(self.pair.edge):
            return loader.attached(self.pin_dir)

    @contextmanager
    def maps(self) -> Iterator[XdpMaps]:
        """The pinned maps."""
        with XdpMaps.open(self.pin_dir) as maps:
            yield maps

    def counts(self) -> dict[str, int]:
        """Packets by verdict."""
        with self.maps() as maps:
            return {name: packets for name, (packets, _) in maps.counts().items()}

    def raw(self) -> "Raw":
        """Send any packet from the far end of the pair."""
        return Raw(self.pair)

    @contextmanager
    def receiver(self, rcvbuf_bytes: int = 64 << 20) -> Iterator[UdpSource]:
        """The edge's own socket."""
        with inside(self.pair.edge):
            source = UdpSource(UdpSocket.bind(f"0.0.0.0:{PORT}", rcvbuf_bytes))
        try:
            yield source
        finally:
            source.close()

    def sent_packets(self) -> int:
        """Number of packets that the far end has sent since its creation, of any kind."""
        with inside(self.pair.devices):
            return statistic("out0", "tx_packets")


class Counter(threading.Thread):
    """Reader of the edge's socket; ``numbers`` are the frames' sequence numbers."""

    def __init__(self, source: UdpSource) -> None:
        super().__init__(daemon=True)
        self.source, self.numbers, self.others, self._stop_now = source, [], 0, False
        self.numbers: list[int]
        self.start()

    def run(self) -> None:
        """Read until :meth:`finish`, and then until the socket is empty."""
        while n := (self.source.fill(50_000_000) or not self._stop_now):
            if n is True:
                continue
            for start, length in zip(self.source.starts[:n].tolist(), self.source.lengths[:n].tolist(), strict=True):
                head = self.source.head[start : start + min(length, 22)].tobytes()
                if head[:2] == b"\xaa\x55" and length >= 22:
                    self.numbers.append(int.from_bytes(head[18:22], "big"))
                else:
                    self.others += 1

    def finish(self) -> None:
        """Stop when the socket is empty."""
        self._stop_now = True
        self.join(30 * PATIENCE)
        assert not self.is_alive()


class Flow(threading.Thread):
    """Sender of numbered good frames, each followed by one with the wrong magic."""

    def __init__(self, found: Rig, pause_s: float = 0.0002) -> None:
        super().__init__(daemon=True)
        self._raw, self._ended, self.sent, self._pause_s = found.raw(), threading.Event(), 0, pause_s
        self._bad = self._raw.udp(BAD)
        self.start()

    def run(self) -> None:
        """Send."""
        while not self._ended.is_set():
            self._raw.send(self._raw.udp(encode_frame("flow", self.sent, b"{}")))
            self._raw.send(self._bad)
            self.sent += 1
            time.sleep(self._pause_s)

    def finish(self) -> int:
        """Stop; return the number of good frames sent."""
        self._ended.set()
        self.join(30 * PATIENCE)
        self._raw.close()
        return self.sent


@contextmanager
def rig(limits: Limits = WIDE, load: bool = True, **options: Any) -> Iterator[Rig]:
    """A veth pair with the filter; skips (or fails, see ``need_missing``) if that is impossible."""
    if os.geteuid() != 0:
        need_missing("kernel", "namespaces and XDP need root")
    with ExitStack() as stack:
        try:
            pair = stack.enter_context(veth_pair())
        except OSError as error:
            need_missing("kernel", str(error))
        pin_dir = Path(f"/sys/fs/bpf/klais-test-{pair.edge.removeprefix('klais-edge-')}")
        given = {"heartbeat_s": 10.0, "devices": 65_536, "ring_bytes": 65_536} | options
        found = Rig(pair, loader.Request(pair.iface, pin_dir, [PORT], limits, **given))
        stack.callback(found.unload)
        try:
            if load:
                found.load()
        except (XdpUnavailable, SetupMissing) as error:
            need_missing("kernel", str(error))
        yield found
