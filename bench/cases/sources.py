"""The edge on each of its sources: CPU time a frame including Kafka, with the same sender, in one run.

Sender and edge are in separate network namespaces, joined by a veth pair; the broker is with the edge. ``af_xdp`` and
``ringbuf`` have the XDP filter on the edge's end (native mode), ``udp`` and ``io_uring`` have none, ``udp_filter`` is
``udp`` behind it, ``udp_times`` is ``udp`` with KLAIS_UDP_TIMESTAMPS.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.cases.edge import STEADY_RATE, measure
from bench.harness import Bench, BenchUnavailable
from bench.harness.packets.netns import Pair, inside, veth_pair
from bench.harness.report import Result
from klais.config.load import load
from klais.system.address import split_address
from klais.system.ports import free_port
from klais.xdp import loader

SOURCES = ("udp", "udp_times", "io_uring", "udp_filter", "af_xdp", "ringbuf")
BEHIND_FILTER = ("udp_filter", "af_xdp", "ringbuf")
ROUNDS = 2
WINDOWS = 2
UDP = "udp"


def run(outer: Bench) -> Result:
    """Run the benchmark; of ``outer`` it uses the reporter only: its broker is in a separate namespace."""
    if load().kafka_bootstrap is not None:
        raise BenchUnavailable("it runs its own broker in a network namespace: unset KLAIS_KAFKA_BOOTSTRAP")
    if os.geteuid() != 0:
        raise BenchUnavailable("network namespaces and XDP need root: run it with sudo")
    result = Result("sources")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SOURCES}
    with veth_pair() as pair, inside(pair.edge), Bench(outer.say) as bench:
        bench.sender_prefix = ("ip", "netns", "exec", pair.devices)
        for number in range(ROUNDS):
            for name in SOURCES if number % 2 == 0 else SOURCES[::-1]:  # a drift of the machine affects all sources
                bench.say(f"sources: {name}, {STEADY_RATE:,} frames a second, round {number + 1} of {ROUNDS}")
                found[name].append(one(bench, pair, name))
                result.rows.append(
                    {"source": name} | {k: v for k, v in found[name][-1].items() if not isinstance(v, list)}
                )
    figures(result, found)
    return result


def one(bench: Bench, pair: Pair, name: str) -> dict[str, Any]:
    """Measure one edge on one source: results of :func:`bench.cases.edge.measure`, and ``machine_us``, the machine's
    CPU a frame.
    """
    pin_dir = Path(f"/sys/fs/bpf/klais-bench-{os.getpid()}")
    bind = f"0.0.0.0:{free_port('0.0.0.0', 'udp')}"
    source = name.removesuffix("_filter").removesuffix("_times")
    given = {"source": source, "iface": pair.iface, "xdp_pin_dir": pin_dir, "udp_bind": bind}
    given |= {"udp_timestamps": name.endswith("_times")}
    port = split_address(bind)[1]
    with bench.topics(**given) as settings, _filter(pair, pin_dir, name, port), bench.edge(settings) as child:
        before_s, _ = bench.busy_s()
        out = measure(bench, child, settings, str(STEADY_RATE), WINDOWS, "--to", f"{pair.hosts[0]}:{port}")
        after_s, _ = bench.busy_s()
        out["machine_us"] = round((after_s - before_s) / max(1, out["received"]) * 1e6, 3)
        out["rss_mb"] = round(child.rss_mb(), 1)
    return out


@contextmanager
def _filter(pair: Pair, pin_dir: Path, name: str, port: int) -> Iterator[None]:
    """The filter for the runs that need one, unloaded afterwards."""
    if name not in BEHIND_FILTER:
        yield
        return
    from bench.harness.packets.row import NO_LIMITS

    loader.load(loader.Request(pair.iface, pin_dir, [port], NO_LIMITS, 10.0, 1 << 20, 64 << 20))
    try:
        yield
    finally:
        loader.unload(pin_dir)


def figures(result: Result, found: dict[str, list[dict[str, Any]]]) -> None:
    """Medians of each source, and their ratio to ``udp``."""
    for name, runs in found.items():
        result.repeat(f"{name}_us_per_frame", [value for run in runs for value in run["cpu_us_per_frame"]])
        result.repeat(f"{name}_machine_us_per_frame", [run["machine_us"] for run in runs])
        result.figures[f"{name}_lost"] = sum(run["sent"] - run["received"] + run["kernel_drops"] for run in runs)
    base = result.figures[f"{UDP}_us_per_frame"]
    for name in SOURCES:
        if name != UDP:
            result.figures[f"{name}_to_udp"] = round(result.figures[f"{name}_us_per_frame"] / base, 3)
    result.notes.append(
        "us_per_frame: CPU of the edge process; machine_us_per_frame: of everything, sender and Kafka too"
    )
