"""Cost of hostile input: steps of a lane on deliberately slow payloads, and good frames under a flood of each kind.

A step takes a batch of frames with one payload, and renders the anomaly records and dead letters; its CPU time is
compared with that of ordinary payloads of the same length. The floods are those of ``python -m bench flood``, with the
kernel filter, one for each of its rules: no good frames must be lost.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.cases.flood import flooded, loaded_filter, own_queues
from bench.harness import Bench, BenchFailed
from bench.harness.packets.netns import Pair, inside, veth_pair
from bench.harness.packets.raw_socket import Raw
from bench.harness.packets.row import MORE, WIDE
from bench.harness.payloads import ADVERSARIAL, CHANGING, ordinary
from bench.harness.report import Result
from klais.config.load import load
from klais.core.anomaly.budget import CpuBudget
from klais.core.anomaly.two_tier import TwoTier
from klais.core.lane.journal import Limits as LaneLimits
from klais.core.lane.journal import encode_step
from klais.core.lane.render import anomaly_records, dead_letter_records
from klais.core.lane.state import LaneState
from klais.core.lane.step import Bounds, take_raw
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import encode_frame
from klais.system.ports import free_port
from klais.xdp.limits import Limits

BATCH_BYTES = 256 << 10
STEPS, REPEATS = 60, 5
SECONDS = 5
CPUS = min(os.cpu_count() or 1, 32)
LIMITS = LaneLimits(1e9, 1e9, 1e9, 1e9, 20, 20, 1e9, 60.0)
BOUNDS = Bounds(1_000_000, 1_000_000)
T0_NS = 1_700_000_000_000_000_000


Frame = Callable[[int], bytes]


def sent(payload: bytes) -> Frame:
    """A payload that 50 devices send."""
    return lambda number: encode_frame(f"dev-{number % 50}", number & 0xFFFFFFFF, payload)


SENDERS: dict[str, tuple[int, Frame]] = {
    "names that are no ASCII": (
        30,
        lambda n: encode_frame("\u65e5\u672c\u8a9e\U0001f600" + chr(0xE0 + n % 20), n, b'{"t":1}'),
    ),
    "an id for each frame": (30, lambda n: encode_frame(f"{n:016x}", 1, b'{"t":1}')),
    "numbers that jump": (30, lambda n: encode_frame(f"dev-{n % 50}", n * 0x9E3779B1 & 0xFFFFFFFF, b'{"t":1}')),
    "numbers that wrap": (30, lambda n: encode_frame(f"dev-{n % 50}", (n // 50 + 0xFFFFFF00) & 0xFFFFFFFF, b'{"t":1}')),
    "one number again and again": (30, lambda n: encode_frame(f"dev-{n % 50}", 7, b'{"t":1}')),
    "numbers that go back": (30, lambda n: encode_frame(f"dev-{n % 50}", -n & 0xFFFFFFFF, b'{"t":1}')),
}
"""Frames that are hostile by their headers, and how long each is."""


def step_s(length: int, frame: Frame) -> float:
    """CPU seconds of a step on a batch of frames of about this length, with journal, flags and dead letters: the
    median over steps, the minimum of the repeats."""
    frames = max(1, min(500, BATCH_BYTES // length))
    state, found = LaneState(detector=TwoTier(64 << 20, 0.1, CpuBudget(1.0, lambda: 0))), []
    for _ in range(REPEATS):
        took = []
        for _ in range(STEPS):
            number, at_ns = state.next_raw, T0_NS + state.next_raw * 1_000_000_000
            some = [frame(number * frames + k) for k in range(frames)]
            value = encode_batch(some, at_ns, 1, 1, number)
            began_s = time.process_time()
            step = take_raw(state, number, value, LIMITS, BOUNDS, at_ns)
            encode_step(step.record), list(anomaly_records(step)), list(dead_letter_records(step))
            took.append(time.process_time() - began_s)
        found.append(median(took))
    return min(found)


@dataclass(frozen=True)
class Flood:
    """A packet's payload, the way of sending it, and the options of the filter."""

    payload: bytes
    limits: Limits = WIDE
    blocked: tuple[str, ...] = ()
    fragment: int | None = None


_GOOD = encode_frame("flood", 7, b'{"t":21.53,"h":48.2,"b":3.71}')
FLOODS = {
    "bad_magic": Flood(bytes([0x42] * 57)),
    "too_short": Flood(b"\xaa\x55abc"),
    "bad_device_id": Flood(b"\xaa\x55\xff\xfe" + bytes(40)),
    "blocked": Flood(_GOOD, blocked=("flood",)),
    "device_rate": Flood(_GOOD, Limits(1e8, 1e9, 1000.0, 5000.0)),
    "cut_fragment": Flood(_GOOD[:8], fragment=MORE),
}


def run(outer: Bench) -> Result:
    """Run the benchmark. The floods need root and a separate broker."""
    result = Result("hostile")
    result.figures["worst_step_ratio"] = _steps(outer, result)
    result.notes.append(f"a step: a batch of {BATCH_BYTES >> 10} KiB of one payload, flags and dead letters rendered")
    if os.geteuid() != 0 or load().kafka_bootstrap is not None:
        result.notes.append("no floods: they need root and no KLAIS_KAFKA_BOOTSTRAP")
        return result
    with veth_pair(CPUS) as pair, inside(pair.edge), Bench(outer.say) as bench:
        bench.sender_prefix = ("ip", "netns", "exec", pair.devices)
        own_queues(pair)
        lost = 0
        for name, flood in FLOODS.items():
            bench.say(f"hostile: a flood of {name}")
            found = _under(bench, pair, flood)
            lost += int(found["lost"])
            result.rows.append({"flood": name} | found)
    result.figures["lost_under_floods"] = lost
    return result


def _changing(make: Callable[[int], bytes]) -> Frame:
    return lambda number: encode_frame(f"dev-{number % 50}", number, make(number))


def _steps(outer: Bench, result: Result) -> float:
    """The worst ratio of a hostile step to an ordinary one."""
    corpus = {name: (len(payload), sent(payload)) for name, payload in ADVERSARIAL.items() if name != "benign"}
    corpus |= {name: (len(make(1)), _changing(make)) for name, make in CHANGING.items()}
    worst = 0.0
    for name, (length, frame) in (corpus | SENDERS).items():
        outer.say(f"hostile: steps on {name}")
        ordinary_s, hostile_s = step_s(length, sent(ordinary(length))), step_s(length, frame)
        ratio = hostile_s / ordinary_s
        worst = max(worst, ratio)
        row = {"payload": name, "bytes": length, "ms": hostile_s * 1e3, "ordinary_ms": ordinary_s * 1e3}
        result.rows.append(row | {"ratio": round(ratio, 3)})
    return round(worst, 3)


def _under(bench: Bench, pair: Pair, flood: Flood) -> dict[str, float]:
    port = free_port("0.0.0.0", "udp")
    more = {} if flood.fragment is None else {"fragment": flood.fragment}
    with Raw(pair) as raw:
        packet = raw.udp(flood.payload, to_port=port, **more)
    with (
        loaded_filter(pair.iface, port, flood.limits, flood.blocked),
        bench.topics(udp_bind=f"0.0.0.0:{port}") as settings,
        bench.edge(settings) as edge,
    ):
        time.sleep(1)
        found = flooded(bench, settings, edge, pair, port, [packet], SECONDS)
    if not found["good"]:
        raise BenchFailed("no good frame was sent")
    return found
