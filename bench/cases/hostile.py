"""What hostile input costs: steps of a lane on payloads made to be slow, and good frames under a flood of each kind.

A step takes a batch of frames with one payload, and renders the anomaly records and dead letters; its CPU time is
compared with that of ordinary payloads of the same length. The floods are those of ``python -m bench flood``, with the
kernel filter, one for each rule by which it drops: good frames must not be lost.
"""

import os
import time
from dataclasses import dataclass
from statistics import median

from bench.cases.flood import flooded, loaded_filter, own_queues
from bench.harness import Bench, BenchFailed
from bench.harness.packets.netns import Pair, inside, veth_pair
from bench.harness.packets.raw_socket import Raw
from bench.harness.packets.row import MORE, WIDE
from bench.harness.payloads import ADVERSARIAL, ordinary
from bench.harness.report import Result
from klais.config.load import load
from klais.core.lane.journal import Limits as LaneLimits
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


def step_s(payload: bytes) -> float:
    """CPU seconds of a step on a batch of this payload: the median over steps, the least of the repeats."""
    frames = max(1, min(500, BATCH_BYTES // len(payload)))
    state, found = LaneState(), []
    for _ in range(REPEATS):
        took = []
        for _ in range(STEPS):
            number, at_ns = state.next_raw, T0_NS + state.next_raw * 1_000_000_000
            some = [encode_frame(f"dev-{k % 50}", number * frames + k, payload) for k in range(frames)]
            value = encode_batch(some, at_ns, 1, 1, number)
            began_s = time.process_time()
            step = take_raw(state, number, value, LIMITS, BOUNDS, at_ns)
            list(anomaly_records(step)), list(dead_letter_records(step))
            took.append(time.process_time() - began_s)
        found.append(median(took))
    return min(found)


@dataclass(frozen=True)
class Flood:
    """A packet's payload, how it is sent, and what the filter is told."""

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
    """See the module. The floods need root and a broker of their own."""
    result = Result("hostile")
    worst = 0.0
    for name, payload in ADVERSARIAL.items():
        if name == "benign":
            continue
        outer.say(f"hostile: steps on {name}")
        ordinary_s, hostile_s = step_s(ordinary(len(payload))), step_s(payload)
        ratio = hostile_s / ordinary_s
        worst = max(worst, ratio)
        row = {"payload": name, "bytes": len(payload), "ms": hostile_s * 1e3, "ordinary_ms": ordinary_s * 1e3}
        result.rows.append(row | {"ratio": round(ratio, 3)})
    result.figures["worst_step_ratio"] = round(worst, 3)
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
