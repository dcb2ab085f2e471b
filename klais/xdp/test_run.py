"""The filter without an interface: BPF_PROG_TEST_RUN passes packets to it, for tests and benchmarks."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klais.xdp import bpf, bpffs, build, loader
from klais.xdp.layout import VERDICTS, Verdict
from klais.xdp.limits import Limits
from klais.xdp.maps import XdpMaps


@dataclass(frozen=True, slots=True)
class LoadedFilter:
    """A loaded program with its own maps."""

    prog_fd: int
    maps: XdpMaps
    fds: dict[str, int]

    def judge(self, packet: bytes) -> tuple[int, Verdict]:
        """(action, verdict) of one packet; checks that it was counted once, with its size."""
        before = self.maps.count_rows()
        action, _ = bpf.test_run(self.prog_fd, packet)
        after = self.maps.count_rows()
        packets = after["packets"] - before["packets"]
        found = np.flatnonzero(packets)
        if (
            len(found) != 1
            or packets[found[0]] != 1
            or int((after["bytes"] - before["bytes"])[found[0]]) != len(packet)
        ):
            raise AssertionError(f"counted {dict(zip(range(VERDICTS), packets.tolist(), strict=True))} for one packet")
        return action, Verdict(int(found[0]))

    def ns_per_packet(self, packet: bytes, repeat: int) -> float:
        """Mean ns of ``repeat`` runs on the same packet."""
        return bpf.test_run(self.prog_fd, packet, repeat)[1]

    def refill(self, limits: Limits) -> None:
        """Set the limits given at load, with the global bucket full."""
        self.maps.set_limits_at_load(limits)
        loader.fill_bucket(self.fds["bucket"], limits)


@contextmanager
def loaded_filter(
    limits: Limits,
    ports: Sequence[int] = (5000,),
    devices: int = 4096,
    ring_bytes: int = 65_536,
    defines: Sequence[str] = (),
) -> Iterator[LoadedFilter]:
    """Load the filter with maps pinned in a temporary folder; everything is removed at the end.

    Raises
    ------
    XdpUnavailable, SetupMissing
        If rights are missing, or it cannot be compiled here.
    """
    code = build.instructions(defines)
    pin_dir = Path(f"/sys/fs/bpf/klais-test-run-{os.getpid()}-{next(_numbers)}")
    request = loader.Request("", pin_dir, ports, limits, 10.0, devices, ring_bytes)
    bpffs.ensure(pin_dir)
    with ExitStack() as stack:
        stack.callback(bpffs.remove, pin_dir)
        fds, _ = loader.open_maps(request, stack)
        prog_fd = bpf.prog_load(build.relocate(code, fds), loader.PROGRAM_NAME)
        stack.callback(os.close, prog_fd)
        bpffs.pin_new(pin_dir, fds)
        bpffs.promote(pin_dir)
        maps = stack.enter_context(XdpMaps.open(pin_dir))
        maps.set_ports(ports)
        yield LoadedFilter(prog_fd, maps, fds)


_numbers = iter(range(1, 1 << 30))
