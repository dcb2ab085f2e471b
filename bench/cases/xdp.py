"""The XDP filter alone: ns a packet by ``BPF_PROG_TEST_RUN``, by kind, by number of devices, with all CPUs at once.

Every figure includes the kernel's test loop; ``empty_ns`` is its time with a program that only returns. The packets are
the fixtures of the kernel tests. With many devices each packet is of a random one, and the time of the drawing is
subtracted.
"""

import math
import os
import threading
from collections.abc import Callable

from bench.harness import Bench, BenchUnavailable
from bench.harness.packets.row import NO_LIMITS, WIDE, Row, frame, sent
from bench.harness.packets.rows import all_rows
from bench.harness.report import Result
from klais.system.prefix import network_of
from klais.xdp import bpf
from klais.xdp.limits import Limits
from klais.xdp.sources import SourceLimit
from klais.xdp.test_run import LoadedFilter, loaded_filter

REPEAT = 200_000
ROUNDS = 15
SIZES = (1024, 16_384, 131_072, 1_048_576)
TABLE_DEVICES = 1 << 21  # twice the devices, as the settings advise
RETURN_PASS = bytes([0xB7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])  # mov r0, 2; exit
DEVICE = "sim-000042"  # as the simulator names them
KINDS: dict[str, tuple[bytes, Limits]] = {
    "not_ours": (bytes(12) + b"\x08\x06" + bytes(28), WIDE),
    "drop_bad_magic": (sent(b"\x55\xaa" + bytes(55)), WIDE),
    "drop_device_rate": (sent(frame(DEVICE)), Limits(1e8, 1e9, 0.001, 1)),
    "drop_global_rate": (sent(frame(DEVICE)), Limits(1, 1, 1e9, 4e6)),
    "pass_no_limits": (sent(frame(DEVICE)), NO_LIMITS),
    "pass": (sent(frame(DEVICE)), Limits(1e8, 1e9, 1e9, 4e6)),
    "pass_16_byte_id": (sent(frame("sensor-000000042")), Limits(1e8, 1e9, 1e9, 4e6)),
    "pass_ipv6": (sent(frame(DEVICE), "fd77::2"), Limits(1e8, 1e9, 1e9, 4e6)),
    "pass_qinq": (sent(frame(DEVICE), tags=(0x88A8, 0x8100)), Limits(1e8, 1e9, 1e9, 4e6)),
    "pass_source_rate": (sent(frame(DEVICE)), Limits(1e8, 1e9, 1e9, 4e6)),
    "pass_source_list": (sent(frame(DEVICE)), Limits(1e8, 1e9, 1e9, 4e6)),
    "pass_source_block": (sent(frame(DEVICE)), Limits(1e8, 1e9, 1e9, 4e6)),
    "drop_source_block": (sent(frame(DEVICE)), Limits(1e8, 1e9, 1e9, 4e6)),
    "pass_with_rules_of_others": (sent(frame(DEVICE)), Limits(1e8, 1e9, 1e9, 4e6)),
}


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    if os.geteuid() != 0:
        raise BenchUnavailable("bpf(2) needs root: run it with sudo")
    result = Result("xdp")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        _kinds(bench, result)
        _fixtures(bench, result)
        _growth(bench, result)
    finally:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    _concurrency(bench, result)
    result.notes.append(
        "ns: minimum of the rounds, the test loop's own (empty_ns) included; the kernel's means, pinned to one CPU"
    )
    return result


def _rounds(look: Callable[[], float]) -> list[float]:
    look()
    return [look() for _ in range(ROUNDS)]


def timed(prog_fd: int, packet: bytes, repeat: int = REPEAT) -> float:
    """The kernel's own mean, ns a packet (whole ns, excluding time of other tasks)."""
    return bpf.test_run(prog_fd, packet, repeat)[1]


def _least_of(result: Result, figure: str, values: list[float]) -> None:
    """Set the figure to the minimum of the rounds: other programs only add time."""
    result.repeat(figure, values)
    result.figures[figure] = round(min(values), 1)


def _kinds(bench: Bench, result: Result) -> None:
    bench.say("xdp: ns a packet by kind")
    empty = bpf.prog_load(RETURN_PASS, "empty")
    _least_of(result, "empty_ns", _rounds(lambda: timed(empty, bytes(64))))
    os.close(empty)
    with loaded_filter(WIDE) as filter_:
        for name, (packet, limits) in KINDS.items():
            if name == "pass_with_rules_of_others":
                filter_.maps.set_devices([f"other-{i}" for i in range(10_000)], 5, 10)
            _set_sources(filter_, name)
            filter_.refill(limits)
            values = _rounds(lambda packet=packet: timed(filter_.prog_fd, packet))  # type: ignore[misc]
            _least_of(result, f"{name}_ns", values)


def _set_sources(filter_: LoadedFilter, kind: str) -> None:
    """Set the rules about sources of a kind; 1,000 networks are on the lists."""
    sources, blocks = filter_.maps.sources, filter_.maps.source_blocks
    if kind == "pass_source_block":
        for number in range(1000):
            blocks.block(network_of(f"10.{number >> 8}.{number & 255}.0/24"))
    elif kind == "drop_source_block":
        blocks.block(network_of("10.9.0.0/16"))
    else:
        for block in blocks.all():
            blocks.unblock(network_of(block.prefix))
    sources.set_limit(SourceLimit(1e9, 4e6) if kind == "pass_source_rate" else SourceLimit())
    if kind == "pass_source_list":
        for number in range(1000):
            sources.allow(f"10.{number >> 8}.{number & 255}.0/24")
        sources.allow("10.9.0.0/16")
    else:
        for prefix in sources.allowed():
            sources.disallow(str(prefix))


def _fixtures(bench: Bench, result: Result) -> None:
    """Time every fixture whose verdict follows from its bytes, and list the most expensive."""
    bench.say("xdp: ns a packet of every fixture")
    with loaded_filter(WIDE) as filter_:
        costs = [(_least(filter_, row), row) for row in all_rows() if row.by_parsing and not row.rules]
    costs.sort(key=lambda cost: -cost[0])
    result.figures["fixtures"] = len(costs)
    result.figures["dearest_fixture_ns"] = round(costs[0][0], 1)
    result.rows += [{"fixture": row.name, "verdict": row.verdict.label, "ns": round(ns, 1)} for ns, row in costs[:5]]


def _least(filter_: LoadedFilter, row: Row) -> float:
    return min(timed(filter_.prog_fd, row.packet, 20_000) for _ in range(3))


def _growth(bench: Bench, result: Result) -> None:
    """Time packets of random devices, with growing numbers of devices, in one table for twice as many."""
    costs = {}
    for devices in (1, *SIZES):
        bench.say(f"xdp: {devices:,} devices")
        costs[devices] = _of_many(devices, TABLE_DEVICES)
    drawing = min(costs[1]) - result.figures["pass_ns"]
    for devices in SIZES:
        _least_of(result, f"pass_ns_{devices}_devices", [cost - drawing for cost in costs[devices]])
    full = _of_many(SIZES[-1], SIZES[-1])
    _least_of(result, f"pass_ns_{SIZES[-1]}_devices_table_for_as_many", [cost - drawing for cost in full])
    result.figures["growth_to_a_million"] = round(
        result.figures[f"pass_ns_{SIZES[-1]}_devices"] / result.figures[f"pass_ns_{SIZES[0]}_devices"], 2
    )


def _of_many(devices: int, table_devices: int) -> list[float]:
    limits, packet = Limits(1e8, 1e9, 1e9, 4e6), sent(frame("growing-0000000"))
    with loaded_filter(limits, devices=table_devices, defines=[f"-DKLAIS_STIR_DEVICES={devices}"]) as filter_:
        timed(filter_.prog_fd, packet, 8 * devices)  # nearly all devices are in the table
        return _rounds(lambda: timed(filter_.prog_fd, packet))


def _concurrency(bench: Bench, result: Result) -> None:
    """Time all CPUs on one device's bucket and on the global one, compared with one CPU alone."""
    cpus = sorted(os.sched_getaffinity(0))
    bench.say(f"xdp: {len(cpus)} CPUs at once")
    packets = {"one_device": [sent(frame(DEVICE))] * len(cpus), "own_devices": [sent(frame(f"cpu-{n}")) for n in cpus]}
    limits = {"one_device": Limits(1e8, 1e9, 1e9, 4e6), "own_devices": Limits(1e8, 1e9, 1e9, 4e6)}
    with loaded_filter(WIDE) as filter_:
        for name in packets:
            filter_.refill(limits[name])
            _least_of(result, f"pass_ns_all_cpus_{name}", [_at_once(filter_, cpus, packets[name]) for _ in range(5)])
        filter_.refill(Limits(math.inf, math.inf, 1e9, 4e6))
        values = [_at_once(filter_, cpus, packets["own_devices"]) for _ in range(5)]
        _least_of(result, "pass_ns_all_cpus_own_devices_no_global", values)


def _at_once(filter_: LoadedFilter, cpus: list[int], packets: list[bytes]) -> float:
    """Mean ns a packet of a thread a CPU."""
    costs = [0.0] * len(cpus)
    ready = threading.Barrier(len(cpus))

    def work(at: int) -> None:
        os.sched_setaffinity(0, {cpus[at]})
        ready.wait()
        costs[at] = timed(filter_.prog_fd, packets[at])

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(cpus))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(costs) / len(costs)
