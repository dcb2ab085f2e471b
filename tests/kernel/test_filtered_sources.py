"""Sources behind the filter: what happens at start, at the end, when the filter changes, when the edge is killed."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from bench.harness.packets.netns import inside
from klais.core.wire.batch import decode_batch
from klais.core.wire.constants import encode_frame
from klais.edge.batcher import Batcher
from klais.edge.counts import Counts
from klais.edge.linger import LingerController
from klais.edge.listener import listen
from klais.edge.shedding import LoadShedder
from klais.edge.sinks.dead_letters import DeadLetters
from klais.edge.sources.xdp_filter import open as behind_filter
from klais.edge.sources.xdp_filter import source as filtered
from klais.edge.sources.xdp_filter.attachment import Filter
from klais.edge.sources.xdp_filter.source import FilteredSource, Rings
from klais.edge.spine import Spine
from klais.errors import LockHeld, PortInUse, SourceUnavailable
from klais.system.address import source_text
from klais.xdp import loader, pins
from klais.xdp.layout import SLOT_FRAME_BYTES
from klais.xdp.maps import XdpMaps
from tests.support import xdp_filter as filter_tools
from tests.support.others import NOBODY
from tests.support.ports import free_port
from tests.support.process import PATIENCE, wait_for
from tests.support.source import receive
from tests.support.xdp_filter import Behind, choose_source
from tests.unit.edge.test_spine import MemorySink

BOTH = pytest.mark.parametrize("behind", ["af_xdp", "ringbuf"], indirect=True)


@pytest.fixture
def behind(request: pytest.FixtureRequest) -> Iterator[Behind]:
    with filter_tools.filtered(request.param) as found:
        yield found


SECOND_NS = 1_000_000_000
ROUND_NS = 250_000_000  # the two clocks that a receive time goes through are not read at the same moment


class Sender(threading.Thread):
    """Sends numbered frames, about 20,000 a second, from another namespace until :meth:`stop`; returns how many."""

    def __init__(self, behind: Behind, port: int) -> None:
        super().__init__()
        self._sock, self._to = behind.pair.sender(socket.AF_INET), (behind.pair.hosts[0], port)
        self._stopping, self.sent = threading.Event(), 0
        self.start()

    def run(self) -> None:
        with self._sock:
            while not self._stopping.is_set():
                for _ in range(5):  # some thousand a second: rings of 4,096 slots hold what a starved reader leaves
                    self._sock.sendto(self.sent.to_bytes(4, "big") + bytes(40), self._to)
                    self.sent += 1
                time.sleep(0.001)

    def stop(self) -> int:
        self._stopping.set()
        self.join()
        return self.sent


def numbers(source: FilteredSource, until: Callable[[int], bool], dry: bool = True) -> list[int]:
    """Numbers of the frames that come until the condition on their count holds and, with ``dry``, nothing more is
    there.
    """
    out: list[int] = []
    while True:
        done = until(len(out))
        n = source.fill(5_000_000)
        out += [int.from_bytes(source.head[s : s + 4].tobytes(), "big") for s in source.starts[:n]]
        if done and (n == 0 or not dry):
            return out


@BOTH
def test_nothing_is_lost_or_doubled_when_it_starts_and_ends_under_traffic(behind: Behind) -> None:
    port, senders = free_port("0.0.0.0", "udp"), []
    make = {"af_xdp": behind_filter.XskRings, "ringbuf": behind_filter.SlotRing}[behind.name]

    def rings(xdp: Filter) -> Rings:
        # The socket is bound, nobody is registered yet: frames go up to it.
        senders.append(Sender(behind, port))
        wait_for(lambda: senders[0].sent > 1000, 5, "frames that wait in the socket")
        return make(xdp, [0], 1500, 8 << 20) if behind.name == "af_xdp" else make(xdp)  # type: ignore[call-arg]

    with inside(behind.pair.edge):
        settings = behind.settings(bind=f"0.0.0.0:{port}")
        source = behind_filter._open(settings, listen(settings), rings)
    assert behind.accept() == {"af_xdp": "xsk", "ringbuf": "ring"}[behind.name]
    got = numbers(source, lambda came: came > source.details()["frames_by_socket"] + 500, dry=False)
    by_rings = len(got) - source.details()["frames_by_socket"]
    source.begin_drain()
    got += numbers(source, lambda came: came > 1000 and senders[0].stop() >= 0)
    assert behind.accept() == "pass"
    assert sorted(got) == list(range(senders[0].sent))
    assert by_rings > 500 and source.details()["frames_by_socket"] > 500
    assert source.kernel_drops() == 0
    source.close()


@BOTH
def test_a_filter_loaded_anew_is_found_again(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtered, "KEEP_EVERY_NS", 20_000_000)
    with behind.rig.opened() as source:
        assert isinstance(source, FilteredSource)
        behind.rig.send(source, [b"one" * 20])
        assert receive(source, 1)[0][0] == b"one" * 20
        behind.unload()
        behind.rig.send(source, [b"two" * 20])  # no filter: by the socket
        assert receive(source, 1)[0][0] == b"two" * 20
        assert source.details()["frames_by_socket"] == 1
        behind.load(ring_bytes=32 << 20)
        wait_for(lambda: source.fill(10_000_000) or behind.accept() != "pass", 5, "the source to register again")
        behind.rig.send(source, [b"six" * 20] * 100)
        assert [frame for frame, _, _ in receive(source, 100)] == [b"six" * 20] * 100
        assert source.details()["frames_by_socket"] == 1
        assert source.kernel_drops() == 0


@BOTH
def test_an_edge_whose_filter_was_unloaded_ends_without_an_error(behind: Behind) -> None:
    with behind.rig.opened() as source:
        behind.rig.send(source, [b"one" * 20])
        assert receive(source, 1)[0][0] == b"one" * 20
        behind.unload()
        source.begin_drain()
        behind.rig.send(source, [b"two" * 20])
        assert receive(source, 1)[0][0] == b"two" * 20
        source.close()
        source.close()
        assert source.socket.fileno() == -1


@BOTH
def test_a_stopped_holder_of_the_maps_lock_holds_up_neither_frames_nor_the_end(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def held(_fd: int, what: str, wait_s: float) -> None:
        waits.append(wait_s)
        raise LockHeld(f"{what} is held by pid 1")

    monkeypatch.setattr(filtered, "KEEP_EVERY_NS", 20_000_000)
    with behind.rig.opened() as source:
        with XdpMaps.open(behind.pin_dir) as maps:
            maps.set_ports([1])  # a reload has set the ports: the source needs its own again
        monkeypatch.setattr(pins, "lock", held)
        wait_for(lambda: source.fill(10_000_000) or waits, 5, "the source to look at the filter")
        source.begin_drain()
        source.close()
    assert len(waits) >= 2 and max(waits) <= 2.0


@BOTH
def test_an_accept_mode_that_was_put_back_is_set_again(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtered, "KEEP_EVERY_NS", 20_000_000)
    with behind.rig.opened() as source:
        with XdpMaps.open(behind.pin_dir) as maps:
            maps.set_accept("pass")
        wait_for(lambda: source.fill(10_000_000) or behind.accept() != "pass", 5, "the accept mode to be set again")


KILLED = """
import sys, time
from tests.support.xdp_filter import choose_source
from klais.config.load import Settings
from pathlib import Path
name, iface, pin_dir, port = sys.argv[1:]
chosen = choose_source(Settings(udp_bind=f"0.0.0.0:{port}", iface=iface, xdp_pin_dir=Path(pin_dir), source=name,
                                udp_share_port=True, udp_rcvbuf_bytes=1 << 20))
print("open", flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("behind", ["af_xdp"], indirect=True)
def test_after_kill_9_frames_go_up_to_the_next_edge(behind: Behind) -> None:
    port = free_port("0.0.0.0", "udp")
    with inside(behind.pair.edge):
        command = [sys.executable, "-c", KILLED, behind.name, behind.pair.iface, str(behind.pin_dir), str(port)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"open\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with inside(behind.pair.edge):
        plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with plain, behind.pair.sender(socket.AF_INET) as sender:
        plain.bind(("0.0.0.0", port))
        plain.settimeout(2 * PATIENCE)
        assert behind.accept() == "xsk"  # nobody put it back
        sender.sendto(b"still here" * 4, (behind.pair.hosts[0], port))
        assert plain.recv(100) == b"still here" * 4


@pytest.mark.parametrize("behind", ["ringbuf"], indirect=True)
def test_the_ring_keeps_frames_for_the_next_reader_and_has_one_at_a_time(behind: Behind) -> None:
    with behind.rig.opened() as source:
        with pytest.raises(SourceUnavailable, match="another edge reads the filter's ring"), inside(behind.pair.edge):
            choose_source(behind.settings())
        behind.rig.send(source, [b"left" * 10] * 7)
        source._rings.close()  # type: ignore[attr-defined]  # as a kill: nothing read, accept mode not put back
        port = source.port
        source.socket.close()
        with inside(behind.pair.edge):
            following = choose_source(behind.settings(bind=f"[::]:{port}")).source
        assert [frame for frame, _, _ in receive(following, 7)] == [b"left" * 10] * 7
        following.close()


@pytest.mark.parametrize("behind", ["ringbuf"], indirect=True)
def test_another_user_cannot_keep_the_ring_from_its_reader(behind: Behind) -> None:
    """flock asks for no right to write: whoever can open the folder could hold it."""
    with inside(behind.pair.edge):
        folder = behind.settings().xdp_pin_dir / "reader"
    assert folder.is_dir()
    for path in (folder, folder.parent):
        assert path.stat().st_uid == 0 and path.stat().st_mode & 0o077 == 0
    done = subprocess.run(["cat", str(folder)], user=NOBODY, group=NOBODY, capture_output=True, check=False)
    assert b"Permission denied" in done.stderr


@BOTH
def test_a_second_edge_of_the_same_port_is_told_and_harms_nothing(behind: Behind) -> None:
    with behind.rig.opened() as source:
        with pytest.raises(PortInUse), inside(behind.pair.edge):
            choose_source(behind.settings(bind=f"[::]:{source.port}"))
        behind.rig.send(source, [b"go on" * 10])
        assert receive(source, 1)[0][0] == b"go on" * 10


@BOTH
def test_frames_reach_the_batches_with_sender_and_time(behind: Behind) -> None:
    """The whole way through the spine: short frames by the rings, long ones by the socket,
    malformed ones sorted out.
    """
    long = 5000 if behind.name == "af_xdp" else 8  # the socket's frames have no time of their own: they would blur it
    counts = Counts()
    sink = MemorySink(counts)
    with behind.rig.opened() as source:
        dead_letters = DeadLetters(sink, counts, 1000.0, 1e9, 1, 4)
        linger = LingerController(5_000_000, 1 << 24, source.capacity)
        batcher = Batcher(4, 131_072, 1, 1, True)
        spine = Spine(source, batcher, sink, dead_letters, counts, linger, LoadShedder(4))
        frames = [encode_frame(f"d{i % 50}", i, b"{}" * (long if i % 40 == 0 else 8)) for i in range(400)]
        before_ns = time.time_ns()
        sender = behind.rig.send(source, [*frames, b"no frame of ours, but long enough", b"short"])
        time.sleep(2 * ROUND_NS / SECOND_NS)  # they wait in the rings meanwhile
        read_ns = time.time_ns()
        while counts.received < 402:
            spine.round(source.fill(1_000_000_000), 10**12)
        spine.round(0, 0)
        assert spine.drain(1.0, 1.0) == 0
    assert counts.received == 402 == counts.published + int(counts.by_reason.sum())
    assert sorted(value for value, *_ in sink.letters) == [b"no frame of ours, but long enough", b"short"]
    batches = [decode_batch(built.value) for built in sink.taken]
    got = [(b.frame(i), b.sources[i], b.received_at + int(b.offsets[i])) for b in batches for i in range(b.count)]
    assert sorted(frame for frame, _, _ in got) == sorted(frames)
    assert {source_text(row.tobytes()) for _, row, _ in got} == {sender}
    short_ns = [when for frame, _, when in got if len(frame) < 1000]
    if behind.name == "ringbuf":
        assert before_ns - ROUND_NS < min(short_ns) and max(short_ns) < read_ns - ROUND_NS
    else:
        assert min(short_ns) >= read_ns


def test_frames_longer_than_a_slot_of_the_ring_come_whole_by_the_socket() -> None:
    with filter_tools.filtered("ringbuf", mtu=3000) as behind, behind.rig.opened() as source:
        assert isinstance(source, FilteredSource)
        sizes = [100, SLOT_FRAME_BYTES, SLOT_FRAME_BYTES + 1, 3000 - 28, 60]
        frames = [encode_frame(f"long-{size}", size, b"x" * (size - 22)) for size in sizes]
        sender = behind.rig.send(source, frames)
        got = receive(source, len(frames))
        assert sorted(frame for frame, _, _ in got) == sorted(frames)
        assert {who for _, who, _ in got} == {sender}
        with XdpMaps.open(behind.pin_dir) as maps:
            counts = maps.counts()
        assert (counts["too_long"][0], counts["pass"][0], counts["fragment"][0]) == (2, 3, 0)
        assert source.details()["frames_by_socket"] == 2 and source.kernel_drops() == 0


def test_every_queue_of_the_interface_is_read() -> None:
    with filter_tools.filtered("af_xdp", queues=4) as behind, behind.rig.opened() as source:
        for _ in range(64):  # the sender's port chooses the queue
            behind.rig.send(source, [b"x" * 40] * 5)
        got = 0
        while got < 320:
            got += (n := source.fill(1_000_000_000))
            assert n > 0
        by_queue = source.details()["frames_by_queue"]
        assert sorted(by_queue) == ["0", "1", "2", "3"]
        assert all(frames > 0 for frames in by_queue.values()) and sum(by_queue.values()) == 320


def test_two_edges_share_the_queues_of_an_interface() -> None:
    with filter_tools.filtered("af_xdp", queues=4) as behind:
        port = free_port("0.0.0.0", "udp")
        more = {"bind": f"0.0.0.0:{port}", "udp_share_port": True}
        both = [behind.open(xdp_queues=queues, **more) for queues in ("0,1", "2-3")]  # type: ignore[arg-type]
        with pytest.raises(OSError, match="queue 3: another AF_XDP socket is bound to it"), inside(behind.pair.edge):
            behind.open(xdp_queues="3", **more)  # type: ignore[arg-type]
        for _ in range(64):
            behind.rig.send(both[0], [b"x" * 40] * 5)
        got = [len(numbers(source, lambda _: True)) for source in both]
        assert sum(got) == 320 and min(got) > 0
        for source in both:
            assert source.details()["frames_by_socket"] == 0
            source.close()


@pytest.mark.parametrize(("source", "name"), [("auto", "af_xdp"), ("ringbuf", "ringbuf")])
def test_the_edge_loads_the_filter_where_it_is_missing(source: str, name: str) -> None:
    with filter_tools.filtered(name, load=False) as behind:
        with inside(behind.pair.edge):
            chosen = choose_source(behind.settings(source=source))
            (at,) = loader.attached(behind.pin_dir)
        assert (chosen.source.name, chosen.skipped) == (name, {})
        assert (at.link.name, at.link.mode) == (behind.pair.iface, "native")
        chosen.source.close()


def test_auto_says_why_it_did_not_take_the_faster_ones() -> None:
    with filter_tools.filtered("af_xdp", load=False) as behind, inside(behind.pair.edge):
        chosen = choose_source(behind.settings(source="auto", iface="lo"))  # no native mode there
        assert chosen.source.name == "udp"
        assert set(chosen.skipped) == {"af_xdp", "ringbuf"}
        assert all("native" in why for why in chosen.skipped.values()), chosen.skipped
        chosen.source.close()
        with pytest.raises(SourceUnavailable, match="there is no interface 'eth77'"):
            choose_source(behind.settings(iface="eth77"))
