"""Good frames at 20,000 a second under a flood of frames with the wrong magic: the edge with the XDP filter, and without.

The flood comes as fast as one sender can, plain ``sendmmsg`` from a namespace of its own over a veth pair; sender, edge and
broker share the machine. ``python -m bench.flood HOST PORT`` is that sender.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import Bench, BenchFailed, Child, edge_counters, wait_for
from bench.report import Result
from klais.config import Settings, load
from klais.ports import free_port
from klais.sim.sender import SLICE_FRAMES, Sender
from klais.xdp import loader
from klais.xdp.maps import XdpMaps
from tests.netns import Pair, inside, veth_pair
from tests.xdp_rows import WIDE

GOOD_RATE = 20_000
SECONDS = 8
ROUNDS = 2
RUBBISH_BYTES = 57  # as long as a good frame of the simulator


def run(outer: Bench) -> Result:
    """See the module; ``outer`` only gives its voice: this benchmark has a broker in its own namespace."""
    if load().kafka_bootstrap is not None:
        raise BenchFailed("this one runs its own broker in a namespace: unset KLAIS_KAFKA_BOOTSTRAP")
    if os.geteuid() != 0:
        raise BenchFailed("namespaces and XDP need root")
    result = Result("flood")
    found: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    with veth_pair() as pair, inside(pair.edge), Bench(outer.say) as bench:
        bench.sender_prefix = ("ip", "netns", "exec", pair.devices)
        for number in range(ROUNDS):
            for name in found:
                bench.say(f"flood: {name} the filter, round {number + 1} of {ROUNDS}")
                found[name].append(_one(bench, pair, name == "with"))
                result.rows.append({"filter": name} | found[name][-1])
    for name, runs in found.items():
        for figure in ("lost", "flood_per_s", "edge_cores"):
            result.repeat(f"{figure}_{name}_filter", [one[figure] for one in runs])
        result.figures[f"lost_{name}_filter"] = sum(int(one["lost"]) for one in runs)
    result.notes.append(f"lost: good frames of {ROUNDS} runs of {SECONDS} s each; flood_per_s: frames with the wrong magic")
    return result


def _one(bench: Bench, pair: Pair, with_filter: bool) -> dict[str, float]:
    pin_dir = Path(f"/sys/fs/bpf/klais-bench-{os.getpid()}")
    port = free_port("0.0.0.0", "udp")
    if with_filter:
        loader.load(loader.Request(pair.iface, pin_dir, [port], WIDE, 10.0, 1 << 20, 1 << 20))
    try:
        with bench.topics(udp_bind=f"0.0.0.0:{port}") as settings, bench.edge(settings) as edge:
            time.sleep(1)
            return _flooded(bench, settings, edge, f"{pair.hosts[0]}:{port}")
    finally:
        if with_filter:
            with XdpMaps.open(pin_dir) as maps:
                bench.say(f"  the filter: {maps.counts()['bad_magic'][0]:,} bad_magic, {maps.counts()['pass'][0]:,} pass")
            loader.unload(pin_dir)


def _flooded(bench: Bench, settings: Settings, edge: Child, to: str) -> dict[str, float]:
    host, _, port = to.rpartition(":")
    flood = bench.child("flood", [*bench.sender_prefix, sys.executable, "-m", "bench.flood", host, port], settings)
    try:
        wait_for(lambda: "flooding" in flood.tail(), 20, "the flood")
        before, cpu_s, began_s = edge_counters(settings), edge.cpu_s(), time.monotonic()
        with bench.simulate(
            settings, "--devices", "1000", "--rate", str(GOOD_RATE), "--for", f"{SECONDS}s", "--to", to
        ) as good:
            summary = good.summary(SECONDS + 30)
        past_s = time.monotonic() - began_s
        cores = (edge.cpu_s() - cpu_s) / past_s
    finally:
        flood.stop()
    after = _settled(settings)
    sent, took_s = (float(word) for word in flood.tail(1).split()[1:3])
    return {
        "good": summary["frames"],
        "lost": summary["frames"] - (after["passed"] - before["passed"]),
        "flood_per_s": round(sent / took_s),
        "edge_cores": round(cores, 3),
    }


def _settled(settings: Settings) -> dict[str, Any]:
    """The edge's counters once nothing comes any more."""
    last = edge_counters(settings)
    while True:
        time.sleep(0.5)
        now = edge_counters(settings)
        if now["passed"] == last["passed"] and now["received"] == last["received"]:
            return now
        last = now


def _flood(host: str, port: int) -> None:
    """Send until SIGTERM; says how many in how many seconds."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    sender = Sender(host, port)
    rubbish = np.full(RUBBISH_BYTES, 0x42, np.uint8)
    starts, lengths = np.zeros(SLICE_FRAMES, np.int64), np.full(SLICE_FRAMES, RUBBISH_BYTES, np.int64)
    print("flooding", flush=True)
    began_s = time.monotonic()
    while not ended:
        sender.send(rubbish, starts, lengths)
    print(f"sent {sender.sent} {time.monotonic() - began_s:.3f} s", flush=True)


if __name__ == "__main__":
    _flood(sys.argv[1], int(sys.argv[2]))
