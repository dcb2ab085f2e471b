"""Authenticated frames: the cost of a signed frame at edge and filter, and a flood of forged frames.

The edge part receives from a UDP socket on loopback and batches in one process; the sink accepts every batch. CPU of
that thread, with signed and plain frames of the same payload in turn. The flood goes from memory through the edge's
spine and a lane: forged frames and good ones of the same 1,000 devices. Then both go over a veth pair through the XDP
filter, as in ``python -m bench flood``. The filter parts need root.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.cases.flood import CPUS, SECONDS, flooded, own_queues
from bench.cases.flood import loaded_filter as on_interface
from bench.harness import Bench
from bench.harness.packets.netns import inside, veth_pair
from bench.harness.packets.packet import udp_packet
from bench.harness.packets.raw_socket import Raw
from bench.harness.report import Result, rounded
from klais.config.load import Settings, load
from klais.core.lane.journal import Limits as LaneLimits
from klais.core.lane.state import LaneState
from klais.core.lane.step import Bounds, take_raw
from klais.core.wire.constants import Reason, encode_frame
from klais.core.wire.signing import device_key, master_key, sign_frame
from klais.edge.auth import Authenticator
from klais.edge.batcher import Batcher, ClosedBatch
from klais.edge.counts import Counts
from klais.edge.linger import LingerController
from klais.edge.shedding import LoadShedder
from klais.edge.sinks.base import Pause
from klais.edge.sinks.dead_letters import DeadLetters
from klais.edge.sources.udp.socket import UdpSocket
from klais.edge.sources.udp.source import UdpSource
from klais.edge.spine import Spine
from klais.sim.sender import Sender
from klais.sim.sign import Signing
from klais.sim.stream import FrameStream, StreamOptions
from klais.sim.traffic import SteadyRate
from klais.system.address import Bind, open_udp_socket
from klais.system.ports import free_port
from klais.xdp import bpf
from klais.xdp.auth import filter_auth, set_auth
from klais.xdp.layout import AuthMode
from klais.xdp.limits import Limits
from klais.xdp.test_run import loaded_filter

SECRET = bytes(range(32))
DEVICES = 1000
ROUNDS, ROUND_FRAMES = 15, 64_000
FORGED, GOOD = 1_000_000, 20_000
REPEAT = 200_000
PAYLOAD = b'{"t":21.53,"h":48.2,"b":3.71,"s":1}'  # a signed frame of 70 bytes


class Taken:
    """A sink that accepts every batch, and keeps it on request."""

    def __init__(self, counts: Counts, keep: bool) -> None:
        self.counts, self.keep, self.linger_ns, self.batches = counts, keep, 0, list[ClosedBatch]()

    def offer(self, built: ClosedBatch) -> Reason:
        self.counts.published += built.count
        if self.keep:
            self.batches.append(built)
        return Reason.PASSED

    def dead_letter(self, value: bytes, key: bytes | None, headers: Any, partition: int) -> bool:
        return True

    def poll(self) -> None:
        """Nothing is in flight."""

    def drain(self, budget_s: float, pause: Pause = time.sleep) -> int:
        return 0


def _keys(folder: Path) -> Path:
    """A file of keys in a folder."""
    keys = folder / "keys"
    if not keys.exists():
        keys.touch(0o600)
        keys.write_text(f"1 {SECRET.hex()}\n")
    return keys


def spine_of(source: Any, auth: bool, folder: Path, keep: bool = False) -> tuple[Spine, Taken]:
    """The edge's data path around a source; with authenticated frames it requires them."""
    counts = Counts()
    sink = Taken(counts, keep)
    authenticator = Authenticator(Settings(auth="require", auth_key_file=_keys(folder)), 1024) if auth else None
    letters = DeadLetters(sink, counts, 0.0, 0.0, 1, 1)
    batcher = Batcher(1, 131_072, 1, 1, with_epochs=auth)
    linger = LingerController(10_000_000, 1 << 26, 1024)
    return Spine(source, batcher, sink, letters, counts, linger, LoadShedder(1), auth=authenticator), sink


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("auth")
    with tempfile.TemporaryDirectory() as folder:
        bench.say("auth: a signed frame at the edge")
        _edge(result, Path(folder))
        bench.say("auth: a flood of forged frames")
        _flood(result, Path(folder))
    if os.geteuid() == 0:
        bench.say("auth: the XDP filter")
        _filter(result)
        if load().kafka_bootstrap is None:
            bench.say("auth: a flood of forged frames over a wire")
            _wire(result, bench)
    result.notes.append(
        "edge: CPU of the receiving thread, medians; filter: minimum of the rounds; flood: from memory; wire: veth"
    )
    return result


def _stream(signed: bool, forged: float = 0.0) -> FrameStream:
    signing = Signing(master_key(SECRET, 1), 1, 1, forged) if signed else None
    return FrameStream(StreamOptions(devices=DEVICES, seed=1, signing=signing), SteadyRate(float("inf")))


def _edge(result: Result, folder: Path) -> None:
    kinds: dict[str, tuple[Spine, Sender, FrameStream]] = {}
    for name, signed in (("plain", False), ("signed", True)):
        source = UdpSource(UdpSocket(open_udp_socket(Bind("127.0.0.1", 0), False), 64 << 20))
        kinds[name] = spine_of(source, signed, folder)[0], Sender("127.0.0.1", source.port), _stream(signed)
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS):
        for name, (spine, sender, stream) in kinds.items():
            found[name].append(_round(spine, sender, stream))
    for name, values in found.items():
        result.repeat(f"edge_{name}_ns", values)
    result.figures["edge_signed_ratio"] = round(
        float(np.median(np.array(found["signed"]) / np.array(found["plain"]))), 3
    )


def _round(spine: Spine, sender: Sender, stream: FrameStream) -> float:
    """ns of CPU a frame: a slice into the socket, then out of it."""
    cpu_ns = frames = 0
    while frames < ROUND_FRAMES:
        chunk = stream.next_chunk()
        for at in range(0, chunk.count, 1024):
            piece = slice(at, at + 1024)
            sender.send(chunk.buf, chunk.starts[piece], chunk.lengths[piece])
            began = time.thread_time_ns()
            n = spine.source.fill(0)
            spine.round(n, 10_000_000)
            cpu_ns += time.thread_time_ns() - began
            frames += n
    return cpu_ns / frames


class Memory:
    """A source of the chunks of a stream."""

    name, port, granted_bytes, capacity, buffer_bytes, head_size = "memory", 0, 0, 1024, 1 << 24, 1 << 20

    def __init__(self) -> None:
        self.head = self.tail = np.zeros(1, np.uint8)
        self.starts = self.lengths = self.tail_starts = np.zeros(0, np.int64)

    def set(self, buf: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> int:
        """Set the next frames."""
        self.head, self.starts, self.lengths = buf, np.ascontiguousarray(starts), lengths.copy()
        self.tail_starts = np.zeros(len(starts), np.int64)
        return len(starts)

    def sources(self, n: int) -> npt.NDArray[np.uint8]:
        return np.zeros((n, 18), np.uint8)

    def times(self, n: int) -> None:
        return None


def _flood(result: Result, folder: Path) -> None:
    """``FORGED`` forged frames and good ones between them, of the same devices; then the lane."""
    source = Memory()
    spine, sink = spine_of(source, True, folder, keep=True)
    stream = _stream(True, FORGED / (FORGED + GOOD))
    cpu_ns = sent = 0
    while sent < FORGED + GOOD:
        chunk = stream.next_chunk()
        for at in range(0, chunk.count, 1024):
            n = source.set(chunk.buf, chunk.starts[at : at + 1024], chunk.lengths[at : at + 1024])
            began = time.thread_time_ns()
            spine.round(n, 10_000_000)
            cpu_ns += time.thread_time_ns() - began
            sent += n
    spine.round(0, 0)
    forged = int(spine.counts.by_reason[Reason.BAD_MAC])
    result.figures["flood_forged"] = forged
    result.figures["flood_frames_per_cpu_s"] = round(sent / (cpu_ns * 1e-9))
    result.figures["flood_good"] = good = sent - forged
    result.figures["flood_good_lost"] = good - _landed(sink.batches)


def _landed(batches: list[ClosedBatch]) -> int:
    """Frames that a lane passes, each device within its default rate."""
    state, passed, now_ns = LaneState(), 0, time.time_ns()
    limits = LaneLimits(1e9, 1e9, 1000.0, 5000.0, 0, 0, 1e6, 60.0)
    for offset, built in enumerate(batches):
        step = take_raw(state, offset, built.value, limits, Bounds(10**6, 10**6, sticky=True), now_ns)
        passed += step.passed_count
    return passed


def _wire(result: Result, outer: Bench) -> None:
    """Forged frames of ``DEVICES`` devices, and 20,000 good ones a second of the same, through the filter."""
    frames = _stream(True, 1.0).next_chunk()
    with veth_pair(CPUS) as pair, inside(pair.edge), Bench(outer.say) as bench:
        bench.sender_prefix = ("ip", "netns", "exec", pair.devices)
        own_queues(pair)
        port, keys = free_port("0.0.0.0", "udp"), _keys(bench.folder)
        with Raw(pair) as raw:
            packets = [raw.udp(frames.frame(i), to_port=port) for i in range(DEVICES)]
        with (
            on_interface(pair.iface, port) as maps,
            bench.topics(udp_bind=f"0.0.0.0:{port}", auth="require", auth_key_file=keys) as settings,
            bench.edge(settings) as edge,
        ):
            set_auth(maps.fd("auth"), "on", settings, 1e6)
            time.sleep(1)
            found = flooded(bench, settings, edge, pair, port, packets, SECONDS, ("--auth",))
    result.figures |= {f"wire_{name}": value for name, value in found.items()}


def _filter(result: Result) -> None:
    master = master_key(SECRET, 1)
    plain = encode_frame("sim-000042", 7, PAYLOAD)
    signed = sign_frame(plain, device_key(master, b"sim-000042"), 1, 1)
    forged = signed[:-1] + bytes([signed[-1] ^ 1])
    found: dict[str, list[float]] = {}
    with loaded_filter(Limits(1e8, 1e9, 1e9, 4e6)) as filter_:
        mode = filter_auth(AuthMode.KNOW | AuthMode.CHECK, {1: master}, 512, 1e6)
        bpf.update(filter_.fds["auth"], np.zeros(1, np.uint32), mode)
        for _ in range(ROUNDS):
            for name, frame in (("pass", plain), ("signed", signed), ("forged", forged)):
                ns = filter_.ns_per_packet(udp_packet(frame), REPEAT)
                found.setdefault(name, []).append(ns)
    for name, values in found.items():
        result.repeat(f"xdp_{name}_ns", values)
        result.figures[f"xdp_{name}_ns"] = rounded(min(values))
    least = {name: min(values) for name, values in found.items()}
    result.figures["xdp_signed_ratio"] = round(least["signed"] / least["pass"], 2)
    result.figures["xdp_forged_to_signed"] = round(least["forged"] / least["signed"], 2)
