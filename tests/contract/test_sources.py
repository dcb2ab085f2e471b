"""One contract for every source: the same traffic gives the same frames, whole, with their senders; drops are
counted.
"""

import time
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_network

import numpy as np
import pytest

from klais.core.wire.constants import Reason, encode_frame
from klais.edge.blocked_sources import BlockedSources
from klais.edge.sources.base import Source
from klais.edge.sources.io_uring.source import IoUringSource
from klais.edge.sources.udp.socket import UdpSocket
from klais.edge.sources.udp.source import UdpSource
from tests.support.needs import need_missing
from tests.support.source import ANY, SECOND_NS, Rig, drain, receive
from tests.support.udp import frames_that_fit, granted_bytes
from tests.support.xdp_filter import filtered


def udp_rig() -> Iterator[Rig]:
    yield Rig("udp", lambda rcvbuf, bind: UdpSource(UdpSocket.bind(bind, rcvbuf)))


def io_uring_rig() -> Iterator[Rig]:
    def open_one(rcvbuf: int, bind: str) -> Source:
        return IoUringSource(UdpSocket.bind(bind, rcvbuf))

    try:
        open_one(65_536, "127.0.0.1:0").close()
    except OSError as error:
        need_missing("kernel", str(error))
    yield Rig("io_uring", open_one)


def af_xdp_rig() -> Iterator[Rig]:
    with filtered("af_xdp") as behind:
        yield behind.rig


def af_xdp_4_queues_rig() -> Iterator[Rig]:
    with filtered("af_xdp", queues=4) as behind:
        yield behind.rig


def ringbuf_rig() -> Iterator[Rig]:
    with filtered("ringbuf") as behind:
        yield behind.rig


BURST = frames_that_fit(granted_bytes())  # what the smallest of their buffers holds here

RIGS = {
    "udp": udp_rig,
    "io_uring": io_uring_rig,
    "af_xdp": af_xdp_rig,
    "af_xdp-4-queues": af_xdp_4_queues_rig,
    "ringbuf": ringbuf_rig,
}


@pytest.fixture(scope="module", params=RIGS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    yield from RIGS[request.param]()


def test_frames_of_all_sizes_come_whole_with_their_sender(rig: Rig) -> None:
    rng = np.random.default_rng(1)
    edge = rig.in_place_bytes
    sizes = sorted({0, 1, 21, 22, 57, 2047, 2048, 4096, 9000, 65_507, edge - 1, edge, min(edge + 1, 65_507)})
    with rig.opened() as source:
        for host in rig.hosts:
            frames = [rng.bytes(size) for size in sizes]
            sender = rig.send(source, frames, host)
            got = receive(source, len(frames))
            # A frame that takes the slow way may be overtaken by one that does not.
            assert sorted(frame for frame, _, _ in got) == sorted(frames)
            assert {who for _, who, _ in got} == {sender}
        assert source.kernel_drops() == 0


def test_frames_keep_their_order_over_many_calls(rig: Rig) -> None:
    with rig.opened() as source:
        frames = [i.to_bytes(4, "big") + bytes(40) for i in range(3 * source.capacity + 10)]
        for begin in range(0, len(frames), burst := min(2000, BURST)):
            part = frames[begin : begin + burst]
            rig.send(source, part)
            assert [frame for frame, _, _ in receive(source, len(part))] == part
        assert source.fill(0) == 0


def test_senders_do_not_get_mixed_up(rig: Rig) -> None:
    with rig.opened() as source:
        sent = {}
        for i in range(40):
            host = rig.hosts[i % len(rig.hosts)]
            sent[f"frame {i}".encode()] = rig.send(source, [f"frame {i}".encode()], host)
        assert {frame: who for frame, who, _ in receive(source, 40)} == sent


def test_frames_of_a_blocked_sender_are_marked_whatever_the_source(rig: Rig) -> None:
    with rig.opened() as source:
        for host in rig.hosts:
            sender = rig.send(source, [encode_frame("dev", 1, b"{}")], host).rpartition(":")[0].strip("[]")
            assert source.fill(60 * SECOND_NS) == 1
            others = [ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")]
            for blocked in ([*others, ip_network(sender)], others):
                lists, reason = BlockedSources(partial(dict.fromkeys, blocked)), np.zeros(1, np.uint8)
                lists.on_tick(1.0)
                assert lists.mark(source.sources(1), reason) == int(blocked is not others)
                assert reason[0] == (0 if blocked is others else Reason.BLOCKED_SOURCE)


def test_a_frame_has_its_receive_time_where_the_source_knows_it(rig: Rig) -> None:
    with rig.opened() as source:
        before_ns = time.monotonic_ns()
        rig.send(source, [b"x" * 40])
        time.sleep(0.5)  # the frame waits: its time must be that of its arrival
        read_ns = time.monotonic_ns()
        ((_, _, when_ns),) = receive(source, 1)
        if rig.dates:
            assert when_ns is not None
            assert before_ns <= when_ns < read_ns - SECOND_NS // 4
        else:
            assert when_ns is None


def test_what_the_kernel_drops_is_counted_once_and_adds_up(rig: Rig) -> None:
    with rig.opened(rcvbuf_bytes=65_536) as source:
        sent, got = 0, 0
        for _ in range(3):
            rig.send(source, [b"x" * 200] * 12_000)
            sent += 12_000
            got += drain(source)
            assert got + source.kernel_drops() == sent
        assert 0 < got < sent
        before = source.kernel_drops()
        rig.send(source, [b"y" * 200])
        assert receive(source, 1)[0][0] == b"y" * 200
        assert source.kernel_drops() == before
    assert source.kernel_drops() == before  # readable after the end, for the last report


def test_bursts_are_taken_without_loss(rig: Rig) -> None:
    with rig.opened() as source:
        for burst in range(4):
            frames = [burst.to_bytes(2, "big") + i.to_bytes(4, "big") + bytes(51) for i in range(min(3000, BURST))]
            rig.send(source, frames)
            assert [frame for frame, _, _ in receive(source, len(frames))] == frames
        assert source.kernel_drops() == 0


def test_fill_waits_as_long_as_asked_and_returns(rig: Rig) -> None:
    with rig.opened() as source:
        began_ns = time.monotonic_ns()
        assert source.fill(30_000_000) == 0
        assert time.monotonic_ns() - began_ns > 20_000_000
        assert source.fill(0) == 0


def test_long_and_short_frames_in_turn(rig: Rig) -> None:
    with rig.opened() as source:
        for turn in range(5):
            long, short = bytes([turn]) * 60_000, bytes([turn]) * 30
            rig.send(source, [long, short])
            assert sorted(frame for frame, _, _ in receive(source, 2)) == sorted([long, short])


def test_columns_stay_readable_and_nothing_comes_after_the_end(rig: Rig) -> None:
    source = rig.open(1 << 20, ANY)
    rig.send(source, [b"last" * 10])
    assert source.fill(60 * SECOND_NS) == 1
    source.close()
    source.close()
    assert isinstance(source.details(), dict)  # /stats may still ask
    start, length = int(source.starts[0]), int(source.lengths[0])
    assert source.head[start : start + length].tobytes() == b"last" * 10


def test_winding_down_leaves_nothing_behind(rig: Rig) -> None:
    with rig.opened() as source:
        rig.send(source, [b"before" * 5] * 10)
        source.begin_drain()
        rig.send(source, [b"after!" * 5] * 10)
        got = [frame for frame, _, _ in receive(source, 20)]
        assert sorted(got) == [b"after!" * 5] * 10 + [b"before" * 5] * 10
