"""Good frames at 20,000 a second under a flood of frames with the wrong magic: the edge with the XDP filter, and
without.

The kernel generates the flood: an XDP program redirects each packet onto a veth pair, run on live packets by
``BPF_PROG_TEST_RUN`` (Linux 5.18), on one CPU; more than a million packets a second. Good frames come from the
simulator by the same interface, with a separate queue for each CPU, as a network card would spread them. Without the
filter the interface has an XDP program of two instructions that passes everything: veth accepts redirected packets only
with a program attached. ``python -m bench.cases.flood IFACE FILE`` is the flood: a line of the file is a packet in hex.
"""

import asyncio
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.harness import Bench, BenchUnavailable, Child, edge_counters, wait_for
from bench.harness.packets.netns import Pair, inside, veth_pair
from bench.harness.packets.netns import run as run_command
from bench.harness.packets.raw_socket import Raw, statistic
from bench.harness.packets.row import WIDE
from bench.harness.report import Result
from klais.config.load import Settings, load
from klais.core.dam.overrides import PREFIX, begin_with
from klais.core.lane.columns import read_headers
from klais.core.wire.batch import decode_batch
from klais.kafka.reader import PartitionReader
from klais.kafka.topics import Topics
from klais.system.ports import free_port
from klais.xdp import bpf, loader, netlink
from klais.xdp.limits import Limits
from klais.xdp.maps import XdpMaps

GOOD_RATE = 20_000
SECONDS = 8
ROUNDS = 2
GOOD_DEVICES = b"sim-"  # as `klais simulate` names them
PUBLISH_S = 10.0
CPUS = min(os.cpu_count() or 1, 32)  # as in a mask of one word
MAX_S = 60  # the flood ends by itself
PACKETS_A_CALL = 1 << 16  # for one packet; with many packets each call sends a share of that
PASS_ALL = bytes([0xB7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])  # mov r0, 2; exit
RUBBISH_BYTES = 57  # as long as a good frame of the simulator


def run(outer: Bench) -> Result:
    """Run the benchmark; of ``outer`` it uses the reporter only: its broker is in a separate namespace."""
    if load().kafka_bootstrap is not None:
        raise BenchUnavailable("it runs its own broker in a network namespace: unset KLAIS_KAFKA_BOOTSTRAP")
    if os.geteuid() != 0:
        raise BenchUnavailable("network namespaces and XDP need root: run it with sudo")
    result = Result("flood")
    found: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    with veth_pair(CPUS) as pair, inside(pair.edge), Bench(outer.say) as bench:
        bench.sender_prefix = ("ip", "netns", "exec", pair.devices)
        own_queues(pair)
        for number in range(ROUNDS):
            for name in found:
                bench.say(f"flood: {name} the filter, round {number + 1} of {ROUNDS}")
                found[name].append(_one(bench, pair, name == "with"))
                result.rows.append({"filter": name} | found[name][-1])
    for name, runs in found.items():
        for figure in ("lost", "flood_per_s", "arrived_per_s", "edge_cores"):
            result.repeat(f"{figure}_{name}_filter", [one[figure] for one in runs])
        result.figures[f"lost_{name}_filter"] = sum(int(one["lost"]) for one in runs)
        result.figures[f"good_{name}_filter"] = sum(int(one["good"]) for one in runs)
    result.notes += [
        f"lost: good frames of {ROUNDS} runs of {SECONDS} s each; flood_per_s: frames with the wrong magic sent",
        "arrived_per_s: those that the interface received; without the filter its XDP program passes everything",
    ]
    return result


def own_queues(pair: Pair) -> None:
    """Packets of a CPU go into the queue with its number, served by the same CPU: they never wait in another queue."""
    lines = [f"echo {1 << cpu:x} > /sys/class/net/out0/queues/tx-{cpu}/xps_cpus" for cpu in range(CPUS)]
    run_command("ip", "netns", "exec", pair.devices, "sh", "-c", " && ".join(lines))


def _one(bench: Bench, pair: Pair, with_filter: bool) -> dict[str, float]:
    port = free_port("0.0.0.0", "udp")
    with (
        (loaded_filter if with_filter else _no_filter)(pair.iface, port),
        bench.topics(udp_bind=f"0.0.0.0:{port}") as settings,
        bench.edge(settings) as edge,
    ):
        time.sleep(1)
        with Raw(pair) as raw:
            rubbish = raw.udp(bytes([0x42] * RUBBISH_BYTES), to_port=port)
        return flooded(bench, settings, edge, pair, port, [rubbish], SECONDS)


@contextmanager
def loaded_filter(iface: str, port: int, limits: Limits = WIDE, blocked: tuple[str, ...] = ()) -> Iterator[XdpMaps]:
    """The filter on an interface, with these limits and blocks: its maps."""
    pin_dir = Path(f"/sys/fs/bpf/klais-bench-{os.getpid()}")
    loader.load(loader.Request(iface, pin_dir, [port], limits, 10.0, 1 << 20, 1 << 20))
    try:
        with XdpMaps.open(pin_dir) as maps:
            for device_id in blocked:
                maps.block(device_id)
            yield maps
    finally:
        loader.unload(pin_dir)


@contextmanager
def _no_filter(iface: str, port: int) -> Iterator[None]:
    prog_fd = bpf.prog_load(PASS_ALL, "pass_all")
    try:
        netlink.attach(netlink.link(iface), prog_fd, "native")
        yield
        netlink.detach(netlink.link(iface), prog_fd)
    finally:
        os.close(prog_fd)


def flooded(
    bench: Bench,
    settings: Settings,
    edge: Child,
    pair: Pair,
    port: int,
    packets: Sequence[bytes],
    seconds: float,
    options: Sequence[str] = (),
) -> dict[str, float]:
    """Send good frames for ``seconds`` under a flood of these packets in turn; return their outcome.

    ``options``: further options of the simulator that sends the good frames.
    """
    usual, others = bench.sender_prefix, sorted(os.sched_getaffinity(0) - {_flood_cpu()})
    file = bench.folder / f"packets-{port}.txt"
    file.write_text("\n".join(packet.hex() for packet in packets))
    command = [*bench.sender_prefix, sys.executable, "-m", "bench.cases.flood", "out0", str(file)]
    flood = bench.child("flood", command, settings)
    try:
        wait_for(lambda: "flooding" in flood.tail(), 20, "the flood")
        cpu_s, began_s = edge.cpu_s(), time.monotonic()
        arrived = statistic(pair.iface, "rx_packets")
        if others:  # packets of the flood's CPU would share the flood's queue, which overflows before any filter
            bench.sender_prefix = (*usual, "taskset", "-c", ",".join(map(str, others)))
        with bench.simulate(
            settings,
            "--devices",
            "1000",
            "--rate",
            str(GOOD_RATE),
            "--for",
            f"{seconds:g}s",
            "--to",
            f"{pair.hosts[0]}:{port}",
            *options,
        ) as good:
            summary = good.summary(seconds + 120)
        past_s = time.monotonic() - began_s
        arrived, cores = statistic(pair.iface, "rx_packets") - arrived, (edge.cpu_s() - cpu_s) / past_s
    finally:
        bench.sender_prefix = usual
        flood.stop()
    _settled(settings)
    landed = _good_in_raw(settings, int(summary["frames"]))
    sent, took_s = (float(word) for word in flood.tail(1).split()[1:3])
    return {
        "good": summary["frames"],
        "lost": summary["frames"] - landed,
        "flood_per_s": round(sent / took_s),
        "arrived_per_s": round((arrived - summary["frames"]) / past_s),
        "edge_cores": round(cores, 3),
    }


def _settled(settings: Settings) -> None:
    """Wait until no more frames arrive."""
    last = edge_counters(settings)
    while True:
        time.sleep(0.5)
        now = edge_counters(settings)
        if now["passed"] == last["passed"] and now["received"] == last["received"]:
            return
        last = now


def _good_in_raw(settings: Settings, sent: int) -> int:
    """Frames of the simulator's devices in ``klais_raw``, once all have arrived or after ``PUBLISH_S``.

    By device, because a filter passes frames of a flooding device up to its rate, and these must not hide a loss.
    """
    until_s = time.monotonic() + PUBLISH_S
    while (found := asyncio.run(_count_good(settings))) < sent and time.monotonic() < until_s:
        time.sleep(0.5)
    return found


async def _count_good(settings: Settings) -> int:
    topic, good, found = Topics.of(settings).raw, np.array([GOOD_DEVICES], PREFIX), 0
    async with PartitionReader(settings) as reader:
        for partition in range(settings.partitions):
            start, end = await reader.offsets(topic, partition)
            async for record in reader.read(topic, partition, start, end):
                ids = read_headers(decode_batch(record.value or b"")).ids
                found += int(np.count_nonzero(begin_with(ids, good)))
    return found


def _flood_cpu() -> int:
    return max(cpu for cpu in os.sched_getaffinity(0) if cpu < CPUS)


def _redirect(ifindex: int) -> bytes:
    """A program: mov r1, ifindex; mov r2, 0; call bpf_redirect; exit."""
    instructions = ((0xB7, 1, 0, ifindex), (0xB7, 2, 0, 0), (0x85, 0, 0, 23), (0x95, 0, 0, 0))
    return b"".join(struct.pack("<BBhi", *instruction) for instruction in instructions)


def _flood(iface: str, packets: list[bytes]) -> None:
    """Send the packets in turn on one CPU until SIGTERM, at most MAX_S; print their number and the seconds."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    os.sched_setaffinity(0, {_flood_cpu()})
    prog_fd = bpf.prog_load(_redirect(socket.if_nametoindex(iface)), "redirect")
    print("flooding", flush=True)
    began_s, sent, calls = time.monotonic(), 0, 0
    times = max(1 << 13, PACKETS_A_CALL // len(packets))
    while not ended and time.monotonic() - began_s < MAX_S:
        try:
            bpf.test_run_live(prog_fd, packets[calls % len(packets)], times)
        except InterruptedError:
            continue
        calls, sent = calls + 1, sent + times
    print(f"sent {sent} {time.monotonic() - began_s:.3f} s", flush=True)


if __name__ == "__main__":
    _flood(sys.argv[1], [bytes.fromhex(line) for line in Path(sys.argv[2]).read_text().split()])
