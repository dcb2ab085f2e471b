"""A source behind a real filter on a separate veth pair, for the kernel tests."""

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.harness.packets.netns import Pair, inside, veth_pair
from klais.config.load import Settings
from klais.edge.listener import listen
from klais.edge.sources.choose import Chosen, open_source
from klais.edge.sources.xdp_filter.open import open_af_xdp, open_ringbuf
from klais.edge.sources.xdp_filter.source import FilteredSource
from klais.errors import SetupMissing, XdpUnavailable
from klais.xdp import loader
from klais.xdp.limits import Limits
from klais.xdp.maps import XdpMaps
from tests.support.needs import need_missing
from tests.support.source import RCVBUF, Rig

OPENERS = {"af_xdp": open_af_xdp, "ringbuf": open_ringbuf}
RING_BYTES = 16 << 20
NO_LIMITS = Limits(math.inf, math.inf, math.inf, math.inf)


@dataclass(frozen=True)
class Behind:
    """A namespace pair whose edge side carries the filter; ``rig`` is the source ``name`` behind it."""

    name: str
    pair: Pair
    pin_dir: Path
    queues: int = 1
    mtu: int = 1500
    mode: loader.Mode = "native"

    def load(self, ring_bytes: int = RING_BYTES) -> loader.Loaded:
        """Load the filter, without limits; frames without magic are only counted, so tests may send any bytes."""
        with inside(self.pair.edge):
            request = loader.Request(
                self.pair.iface, self.pin_dir, [5000], NO_LIMITS, 10.0, 65_536, ring_bytes, self.mode
            )
            done = loader.load(request)
        with XdpMaps.open(self.pin_dir) as maps:
            maps.set_monitor("magic", True)
        return done

    def unload(self) -> None:
        """Unload the filter."""
        with inside(self.pair.edge):
            loader.unload(self.pin_dir)

    def settings(self, rcvbuf_bytes: int = RCVBUF, bind: str = "[::]:0", **more: object) -> Settings:
        """Settings of an edge in this namespace."""
        # One flow goes into one queue, so each queue gets as much memory as a single one would.
        given = {"udp_bind": bind, "udp_rcvbuf_bytes": rcvbuf_bytes * self.queues, "iface": self.pair.iface}
        return Settings(xdp_pin_dir=self.pin_dir, **given | {"source": self.name} | more)  # type: ignore[arg-type]

    def open(self, rcvbuf_bytes: int = RCVBUF, bind: str = "[::]:0", **more: object) -> FilteredSource:
        """The source, open."""
        with inside(self.pair.edge):
            settings = self.settings(rcvbuf_bytes, bind, **more)
            udp = listen(settings)
            try:
                return OPENERS[self.name](settings, udp)
            except BaseException:
                udp.close()
                raise

    @property
    def rig(self) -> Rig:
        """Rig for the contract tests."""
        return Rig(self.name, self.open, self.pair.hosts, self.pair.sender, self.mtu - 28, self.name == "ringbuf")

    def accept(self) -> str:
        """The filter's destination of accepted frames."""
        with XdpMaps.open(self.pin_dir) as maps:
            return maps.status().accept


def choose_source(settings: Settings) -> Chosen:
    """The source of the settings, on a new socket."""
    udp = listen(settings)
    try:
        return open_source(settings, udp)
    except BaseException:
        udp.close()
        raise


@contextmanager
def filtered(
    name: str, queues: int = 1, load: bool = True, mtu: int = 1500, mode: loader.Mode = "native"
) -> Iterator[Behind]:
    """A veth pair with the filter; skips (or fails, see ``need_missing``) if that is impossible."""
    if os.geteuid() != 0:
        need_missing("kernel", "namespaces and XDP need root")
    with ExitStack() as stack:
        try:
            pair = stack.enter_context(veth_pair(queues, mtu))
        except OSError as error:
            need_missing("kernel", str(error))
        behind = Behind(
            name, pair, Path(f"/sys/fs/bpf/klais-test-{pair.edge.removeprefix('klais-edge-')}"), queues, mtu, mode
        )
        stack.callback(behind.unload)
        try:
            if load:
                behind.load()
        except (XdpUnavailable, SetupMissing) as error:
            need_missing("kernel", str(error))
        yield behind
