"""Load on one gateway: CPU time a frame at a fixed rate, and the highest rate at which every frame lands."""

import sys
import time
from typing import Any

from bench.cases.peers.gateways import Gateway
from bench.harness import DEVICES, Bench, BenchFailed, wait_for
from bench.harness.report import rounded

LAND_S = 0.5
STILL_S, SETTLE_S = 2.0, 30.0
SHORT_OF = 0.95  # a sender that reaches less than this share of its rate is the limit itself
PROBES = 7
NEAR = 0.08  # of the rate: closer than that is not looked for


def start_sender(bench: Bench, gateway: Gateway, rate: float, seconds: float) -> Any:
    """A sender of plain ``sendmmsg``, without GSO: the simulator, or its frames as text of the same length."""
    if not gateway.peer.text:
        options = ("--devices", str(DEVICES), "--rate", f"{rate:.0f}", "--for", f"{seconds:g}s")
        return bench.simulate(gateway.settings, *options)
    program = "bench.cases.peers.programs.text_sender"
    words = [sys.executable, "-m", program, gateway.settings.udp_bind, f"{rate:.0f}", f"{seconds:g}", str(DEVICES)]
    return bench.sender(words, gateway.settings)


def first_frames(bench: Bench, gateway: Gateway) -> None:
    """Until frames come through: connections stand, code is compiled."""
    before = gateway.ends.total()
    with start_sender(bench, gateway, 2_000, 2.0) as sender:
        sender.summary(30)

    def came() -> bool:
        gateway.child.check()
        return gateway.ends.total() > before

    wait_for(came, 30, f"a frame comes through {gateway.peer.title}; its log ends:\n{gateway.child.tail()}", 0.2)
    settled(gateway, before, 4_000)


def settled(gateway: Gateway, before: int, sent: int) -> int:
    """Frames landed since ``before``, when all have or nothing more comes."""
    landed, began_s = 0, time.monotonic()
    changed_s = began_s
    while landed < sent and time.monotonic() - changed_s < STILL_S and time.monotonic() - began_s < SETTLE_S:
        time.sleep(0.2)
        if (now := gateway.ends.total() - before) != landed:
            landed, changed_s = now, time.monotonic()
    return landed


def at_rate(bench: Bench, gateway: Gateway, rate: float, seconds: float) -> dict[str, Any]:
    """CPU time of gateway and broker for each frame that landed; ``lost`` = sent - what is in the topic.

    All CPU time counts from before the sender starts until its last frame had time to land, so it does not matter when
    the sender gets its turn on a busy machine.
    """
    before = gateway.ends.total()
    first = (time.monotonic(), gateway.child.cpu_s(), bench.kafka_cpu_s())
    with start_sender(bench, gateway, rate, seconds) as sender:
        summary = sender.summary(seconds + 60)
    time.sleep(LAND_S)
    last = (time.monotonic(), gateway.child.cpu_s(), bench.kafka_cpu_s())
    sent, landed = int(summary["frames"]), settled(gateway, before, int(summary["frames"]))
    took_s, gateway_s, broker_s = (b - a for a, b in zip(first, last, strict=True))
    if not landed:
        raise BenchFailed(f"no frame landed; the log ends:\n{gateway.child.tail()}")
    return {
        "asked": round(rate),
        "sent_per_s": summary["rate_per_s"],
        "sent": sent,
        "lost": sent - landed,
        "gateway_us": rounded(gateway_s / landed * 1e6),
        "broker_us": rounded(broker_s / landed * 1e6),
        "both_us": rounded((gateway_s + broker_s) / landed * 1e6),
        "gateway_cores": rounded(gateway_s / took_s),
        "rss_mb": round(gateway.child.rss_mb(), 1),
    }


def highest(
    bench: Bench, gateway: Gateway, start: float, seconds: float, growth: float = 2.0, max_probes: int = PROBES
) -> dict[str, Any]:
    """The highest rate without a loss: up by ``growth`` until frames are lost, then the gap is halved."""
    low, high, rate = 0.0, float("inf"), start
    probes = 0
    while probes < max_probes and (high == float("inf") or high - low > NEAR * high):
        found = at_rate(bench, gateway, rate, seconds)
        probes += 1
        if found["lost"]:
            high = min(high, rate)
        else:
            low = max(low, float(found["sent_per_s"]))
            if found["sent_per_s"] < SHORT_OF * rate:
                break
        rate = growth * low if high == float("inf") else (low + high) / 2
    return {"highest_per_s": round(low), "probes": probes, "limited_by_sender": high == float("inf")}
