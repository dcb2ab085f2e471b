"""The udp source on loopback: whole datagrams of every size, their senders, and what the kernel dropped."""

import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from klais.edge.sinks.dead_letters import frame_bytes
from klais.edge.sources.udp.socket import UdpSocket
from klais.edge.sources.udp.source import SLOTS, SMALL_BYTES, UdpSource
from klais.errors import ConfigError, PortInUse
from klais.system.address import Bind, source_text
from tests.support.needs import need_ipv6
from tests.support.process import wait_for
from tests.support.udp import frames_that_fit

SECOND_NS = 1_000_000_000


@pytest.fixture
def opened() -> Iterator[Callable[..., UdpSource]]:
    made: list[UdpSource] = []

    def open_one(
        bind: str = "127.0.0.1:0", rcvbuf: int = 8 << 20, share: bool = False, timestamps: bool = False
    ) -> UdpSource:
        if bind.startswith("["):
            need_ipv6()
        made.append(UdpSource(UdpSocket.bind(bind, rcvbuf, share, timestamps=timestamps)))
        return made[-1]

    yield open_one
    for source in made:
        source.close()


def send(target: tuple[str, int], frames: list[bytes]) -> str:
    """Send datagrams one after the other; returns the sender's address as text."""
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(target)
        for frame in frames:
            sock.send(frame)
        host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def receive(source: UdpSource, count: int) -> list[bytes]:
    out: list[bytes] = []
    while len(out) < count:
        n = source.fill(60 * SECOND_NS)
        assert n > 0, f"only {len(out)} of {count} datagrams came"
        out += [frame_bytes(source, i) for i in range(n)]
    return out


def test_datagrams_of_all_sizes_come_whole(opened: Callable[..., UdpSource]) -> None:
    source = opened()
    rng = np.random.default_rng(1)
    sizes = [0, 1, 21, 22, 57, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 9000, 65_507, 3]
    frames = [rng.bytes(size) for size in sizes]
    sender = send(("127.0.0.1", source.port), frames)
    assert receive(source, len(frames)) == frames
    assert {source_text(row.tobytes()) for row in source.sources(len(frames))} == {sender}
    assert source.kernel_drops() == 0


def test_many_datagrams_come_in_one_call(opened: Callable[..., UdpSource]) -> None:
    source = opened()
    frames = [i.to_bytes(4, "big") for i in range(min(SLOTS + 10, frames_that_fit(source.granted_bytes)))]
    send(("127.0.0.1", source.port), frames)
    first = min(SLOTS, len(frames))
    assert source.fill(60 * SECOND_NS) == first > 300
    assert [frame_bytes(source, i) for i in range(first)] == frames[:first]
    assert receive(source, len(frames) - first) == frames[first:]
    assert source.fill(0) == 0


def test_ipv6_and_ipv4_on_one_socket(opened: Callable[..., UdpSource]) -> None:
    source = opened("[::]:0")
    big = os.urandom(65_507)
    for host in ("::1", "127.0.0.1"):
        sender = send((host, source.port), [b"hello", big])
        assert receive(source, 2) == [b"hello", big]
        assert source_text(source.sources(1)[0].tobytes()) == sender


def test_ipv6_datagram_above_the_ipv4_limit_comes_whole(opened: Callable[..., UdpSource]) -> None:
    source = opened("[::1]:0")
    big = os.urandom(65_527)
    send(("::1", source.port), [big])
    assert receive(source, 1) == [big]


def test_kernel_drops_are_counted_once(opened: Callable[..., UdpSource]) -> None:
    source = opened(rcvbuf=65_536)
    for _ in range(2):
        send(("127.0.0.1", source.port), [b"x" * 200] * 1500)
        got = 0
        while n := source.fill(0):
            got += n
        before = source.kernel_drops()
    assert before > 0
    send(("127.0.0.1", source.port), [b"x"])  # carries the count as a control message too
    assert source.fill(60 * SECOND_NS) == 1
    assert source.kernel_drops() == before


def test_received_and_dropped_add_up(opened: Callable[..., UdpSource]) -> None:
    source = opened(rcvbuf=65_536)
    send(("127.0.0.1", source.port), [b"x" * 200] * 3000)
    got = 0
    while n := source.fill(0):
        got += n
    assert got + source.kernel_drops() == 3000
    assert got > 0


def test_long_frames_give_their_memory_back(opened: Callable[..., UdpSource], monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened()
    count = min(50, frames_that_fit(source.granted_bytes, 60_000))
    send(("127.0.0.1", source.port), [b"z" * 60_000] * count)
    receive(source, count)

    def resident_bytes() -> int:
        rollup = Path("/proc/self/smaps_rollup").read_text()  # exact; statm lags behind by some pages for each CPU
        return 1024 * int(rollup.partition("Rss:")[2].split()[0])

    used = resident_bytes()
    monkeypatch.setattr("klais.edge.sources.udp.source.RELEASE_AFTER_NS", 0)
    assert source.fill(0) == 0
    assert used - resident_bytes() > count * 50_000
    send(("127.0.0.1", source.port), [b"w" * 60_000])
    assert receive(source, 1) == [b"w" * 60_000]


def test_a_taken_port_names_port_and_process(opened: Callable[..., UdpSource]) -> None:
    source = opened()
    with pytest.raises(PortInUse, match=rf"udp port {source.port} .*\(pid {os.getpid()}\).*KLAIS_UDP_BIND"):
        opened(f"127.0.0.1:{source.port}")


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "[2001:db8::1]"])
def test_an_address_that_cannot_be_bound_is_a_wrong_setting(opened: Callable[..., UdpSource], host: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on udp port 7000 .*KLAIS_UDP_BIND"):
        opened(f"{host}:7000")


def test_a_port_can_be_shared_on_request(opened: Callable[..., UdpSource]) -> None:
    first = opened(share=True)
    second = opened(f"127.0.0.1:{first.port}", share=True)
    for _ in range(64):  # the kernel picks the socket by a hash of the sender's port
        send(("127.0.0.1", first.port), [b"x"])
    assert first.fill(0) + second.fill(0) == 64


def test_the_granted_buffer_is_what_the_kernel_says(opened: Callable[..., UdpSource]) -> None:
    source = opened(rcvbuf=1 << 20)
    assert source.granted_bytes == source.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    assert 0 < source.granted_bytes <= 1 << 20


@pytest.mark.parametrize("text", ["5000", "host", "host:", "host:70000", "host:5x", "host:-1", ""])
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        Bind.parse(text)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0"])
def test_the_kernel_says_when_a_datagram_came(opened: Callable[..., UdpSource], bind: str) -> None:
    source = opened(bind, timestamps=True)
    slack_ns = 1_000_000  # two clocks are read one after the other

    def arrival_before_the_call() -> bool:
        before_ns = time.monotonic_ns()
        send(source.socket.getsockname()[:2], [b"x"])
        select.select([source.socket], [], [])
        waits_ns = time.monotonic_ns()  # it waits from here on at the latest
        time.sleep(0.02)
        assert source.fill(0) == 1
        times = source.times(1)
        assert times is not None and times[0] <= time.monotonic_ns()
        # Between the two clocks this process may have waited for a CPU: then the time is that much too early.
        return bool(before_ns - slack_ns <= times[0] <= waits_ns + slack_ns)

    # The first socket that asks makes the kernel patch its code, in the background: until then it stamps at the call.
    wait_for(arrival_before_the_call, 60, "the kernel stamps datagrams as they arrive")


def test_drops_are_counted_beside_the_times(opened: Callable[..., UdpSource]) -> None:
    source = opened(rcvbuf=65_536, timestamps=True)
    send(("127.0.0.1", source.port), [b"x" * 400] * 2000)
    received = 0
    while count := source.fill(0):
        received += count
    send(("127.0.0.1", source.port), [b"y"])  # its ancillary data carry time and count
    assert source.fill(60 * SECOND_NS) == 1
    assert source.kernel_drops() == 2000 - received > 0


def test_a_source_that_was_not_asked_says_no_times(opened: Callable[..., UdpSource]) -> None:
    source = opened()
    send(("127.0.0.1", source.port), [b"x"])
    assert source.fill(60 * SECOND_NS) == 1 and source.times(1) is None


def test_a_time_in_the_future_or_long_ago_is_that_of_the_call(opened: Callable[..., UdpSource]) -> None:
    source = opened(timestamps=True)
    send(("127.0.0.1", source.port), [b"x", b"y"])
    assert len(receive(source, 2)) == 2
    seconds = source._control[:2].view(np.int64)[:, 2]
    seconds += [3600, -3600]
    before_ns = time.monotonic_ns()
    source._note_times(2)
    times = source.times(2)
    assert times is not None and (times >= before_ns).all() and (times <= time.monotonic_ns()).all()
