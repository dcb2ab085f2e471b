"""Frames taken before the edge is ready: whole, in order, bounded, and through the spine like any others."""

import signal
import socket
from collections.abc import Iterator

import pytest

from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import encode_frame
from klais.edge.early import Block, EarlyFrames
from klais.edge.sinks.dead_letters import frame_bytes
from klais.edge.sources.udp.socket import UdpSocket
from klais.edge.sources.udp.source import SMALL_BYTES
from klais.system.address import source_text
from tests.support.process import wait_for
from tests.support.udp import send_all, waiting_bytes
from tests.unit.edge.test_spine import balance, build


@pytest.fixture
def udp() -> Iterator[UdpSocket]:
    opened = UdpSocket.bind("127.0.0.1:0", 8 << 20)
    yield opened
    opened.close()


def received(udp: UdpSocket, frames: list[bytes], max_bytes: int = 1 << 30) -> tuple[EarlyFrames, str]:
    """An early receiver that has taken what was sent, and the sender."""
    early = EarlyFrames(udp, max_bytes)
    early._thread.start()  # without its signals
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", udp.port))
        send_all(sock, frames, udp.port)
        host, port = sock.getsockname()
    wait_for(lambda: early.frames == len(frames), 30, f"{len(frames)} frames")
    early.stop()
    return early, f"{host}:{port}"


def test_frames_of_all_sizes_come_whole_in_order_and_with_their_sender(udp: UdpSocket) -> None:
    sizes = [0, 1, 22, 57, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 9000, 65_507, 3] * 3
    frames = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    early, sender = received(udp, frames)
    blocks = list(early)
    assert [frame_bytes(block, i) for block in blocks for i in range(block.count)] == frames
    assert {source_text(row.tobytes()) for block in blocks for row in block.sources(block.count)} == {sender}
    assert early.frames == 0 and list(early) == []


def test_what_is_beyond_the_bound_stays_in_the_kernel(udp: UdpSocket) -> None:
    early = EarlyFrames(udp, 1)  # one block
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", udp.port))
        sock.send(b"first")
        early._thread.start()
        wait_for(lambda: not early._thread.is_alive(), 30, "the bound")
        sock.send(b"second")
        assert early.frames == 1 and waiting_bytes(udp.port) > 0


def test_the_spine_takes_them_as_it_takes_all_frames(udp: UdpSocket) -> None:
    good = [encode_frame(f"d{n % 30}", n, b'{"t":1}' + b" " * (n % 700)) for n in range(500)]
    early, _ = received(udp, [*good[:250], b"no frame", *good[250:]])
    spine, sink = build([])
    blocks: list[Block] = list(early)
    spine.take(blocks)
    assert balance(spine.counts) == spine.counts.received == 501 and len(sink.letters) == 1
    spine.round(0, 0)
    batches = [decode_batch(built.value) for built in sink.taken]
    assert sorted(batch.frame(i) for batch in batches for i in range(batch.count)) == sorted(good)


def test_no_signal_during_the_start_costs_a_frame(udp: UdpSocket) -> None:
    """An owner that dies sends SIGTERM several times at once."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    early = EarlyFrames(udp)
    try:
        early.start()
        for number in (*numbers, signal.SIGTERM, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"frame", ("127.0.0.1", udp.port))
        wait_for(lambda: early.frames == 1, 30, "the frame")
        early.stop()
        assert early.signals.consume_reload() and early.signals.consume_upgrade()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
