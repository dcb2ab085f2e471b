"""Several datagrams in one packet (UDP_SEGMENT): in generic mode the filter sees them as one, and must not judge them
so.
"""

import socket
import time

import pytest

from bench.harness.packets.netns import inside
from klais.core.wire.constants import encode_frame
from klais.edge.sources.xdp_filter.source import FilteredSource
from klais.errors import SourceUnavailable
from klais.xdp import kernel_types, loader
from klais.xdp.limits import Limits
from tests.support.process import PATIENCE, wait_for
from tests.support.xdp import PORT, Counter, Rig, rig
from tests.support.xdp_filter import filtered

_UDP_SEGMENT = 103
PAYLOAD = b'{"t":1}'
FRAMES = [encode_frame("good" if k % 5 == 0 else "evil", k, PAYLOAD) for k in range(20)]


def send_as_one(namespace: str, host: str, port: int, frames: list[bytes]) -> None:
    """All frames, of one size, by one system call."""
    with inside(namespace):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, len(frames[0]))
        sender.sendto(b"".join(frames), (host, port))


def received(found: Rig, frames: list[bytes], expected: list[int]) -> bool:
    """Whether the frames with these numbers, and no others, reach the edge's socket."""
    with found.receiver() as source:
        counter = Counter(source)
        send_as_one(found.pair.devices, found.pair.hosts[0], PORT, frames)
        wait_for(lambda: sum(found.counts()[v] for v in ("pass", "blocked", "aggregated", "bad_magic")), 10, "packets")
        wait_for(lambda: len(counter.numbers) >= len(expected), 10, f"{len(expected)} frames")
        counter.finish()
    assert counter.others == 0
    return counter.numbers == expected


def test_in_native_mode_each_frame_is_judged() -> None:
    with rig() as found, found.maps() as maps:
        maps.block("evil", 60)
        assert received(found, FRAMES, [0, 5, 10, 15])
        assert found.counts()["blocked"] == 16


@pytest.mark.parametrize("first", [0, 1], ids=["a good one first", "a blocked one first"])
def test_in_generic_mode_they_go_up_as_a_whole_whoever_is_first(first: int) -> None:
    with rig(mode="generic") as found, found.maps() as maps:
        maps.block("evil", 60)
        assert received(found, FRAMES[first:], list(range(first, 20)))
        counts = found.counts()
        assert counts["aggregated"] == 1 and counts["pass"] == counts["blocked"] == 0


def test_in_generic_mode_single_datagrams_are_judged_however_long() -> None:
    with rig(Limits(1e8, 1e9, 1e6, 1e6), mode="generic") as found, found.maps() as maps, found.raw() as raw:
        maps.block("evil", 60)
        for size in (2, 500, 1400):
            for device in ("good", "evil"):
                raw.send(raw.udp(encode_frame(device, 1, b"x" * size)), 10)
        wait_for(lambda: found.counts()["pass"] == found.counts()["blocked"] == 30, 10, "all of them judged")
        assert found.counts()["aggregated"] == 0


def test_another_interface_in_native_mode_is_unaffected() -> None:
    with rig(mode="generic") as found, found.maps() as maps:
        assert [int(i) for i in maps._config["generic"] if i] == [found.attached()[0].link.ifindex]
        found.unload()
        found.load(mode="native")
    with rig() as found, found.maps() as maps:
        assert not maps._config["generic"].any() and not maps.sees_aggregates


@pytest.mark.parametrize("name", ["ringbuf", "af_xdp"])
def test_the_sources_behind_a_filter_in_generic_mode_get_every_frame(name: str) -> None:
    with filtered(name, mode="generic") as behind, behind.rig.opened() as source:
        assert isinstance(source, FilteredSource)
        send_as_one(behind.pair.devices, behind.pair.hosts[0], source.port, FRAMES)
        frames: list[bytes] = []
        deadline = time.monotonic() + 10 * PATIENCE
        while len(frames) < 20:
            assert time.monotonic() < deadline, f"{len(frames)} of 20 frames"
            n = source.fill(100_000_000)
            for start, length in zip(source.starts[:n].tolist(), source.lengths[:n].tolist(), strict=True):
                frames.append(source.head[start : start + length].tobytes())
        assert frames == FRAMES


def test_without_the_kernels_types_the_loader_says_so_and_the_sources_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "skb_tail", lambda: None)
    with rig(load=False) as found:
        assert loader.NO_TYPES in found.load(mode="generic").notices
    with filtered("ringbuf", mode="generic") as behind, pytest.raises(SourceUnavailable, match="generic mode"):
        behind.open()


def test_this_kernels_types_are_as_expected() -> None:
    found = kernel_types.structs(kernel_types.BTF.read_bytes(), {"xdp_buff", "ethhdr"})
    assert found["ethhdr"] == kernel_types.Struct(14, {"h_dest": 0, "h_source": 6, "h_proto": 12})
    tail = kernel_types.skb_tail()
    assert tail is not None and tail % 64 == 0 and 192 <= tail <= 1024
