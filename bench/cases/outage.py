"""``python -m bench outage``: the broker is killed under load and comes back with its data later; every frame is
counted.

Sender, edge, worker and broker on one machine. Required: frames received by the edge = records in ``iot_telemetry``, no
drops, and the edge received all sent frames.
"""

import argparse
import sys
import time
from typing import Any

from bench.harness import DEVICES, Bench, BenchFailed, Child, Ends, count_records, get_json, wait_for
from bench.harness.report import machine
from klais.config.load import Settings
from klais.kafka.topics import Topics

BEFORE_S, AFTER_S = 5.0, 10.0
SETTLE_S = 600.0


def edge_now(settings: Settings) -> dict[str, Any]:
    """Counters and gauges of the edge in one mapping."""
    stats = get_json(f"http://{settings.api_bind}/stats")
    if stats is None:
        raise BenchFailed("the edge does not answer")
    edge: dict[str, Any] = stats["edge"]
    now: dict[str, Any] = edge["counters"] | edge["gauges"]
    return now


def run(bench: Bench, outage_s: float, rate: int) -> dict[str, Any]:
    """One outage; its figures.

    Returns
    -------
    dict
        ``sent``, ``received``, ``dropped`` by reason, ``landed`` (records of the clean topic), ``missing`` (received,
        but neither landed nor dropped), ``spooled_frames``, ``spool_mb`` and ``edge_rss_mb`` (peak) at the end of the
        outage, ``noticed_s`` until the breaker opened, ``resumed_s`` from the broker's return until it closed,
        ``drained_s`` until the spool was empty, ``replay_per_s``, ``worker_done_s`` until all had landed.
    """
    overrides = {"breaker_timeout_s": min(5.0, outage_s / 4), "partitions": 4}
    with bench.topics(**overrides) as settings, bench.worker(settings), bench.edge(settings) as edge:
        total_s = BEFORE_S + outage_s + AFTER_S
        options = ("--devices", str(DEVICES), "--rate", str(rate), "--for", f"{total_s:g}s")
        with bench.simulate(settings, *options) as sender:
            time.sleep(BEFORE_S)
            bench.kill_broker()
            away_s = time.monotonic()
            wait_for(lambda: edge_now(settings)["breaker"] == "open", 60, "the breaker opens")
            figures: dict[str, Any] = {"noticed_s": round(time.monotonic() - away_s, 2)}
            _wait(edge, away_s + outage_s)
            figures |= _sample(edge, settings)
            bench.start_broker()
            figures |= _recover(settings, float(figures["spooled_frames"]))
            figures["sent"] = sender.summary(total_s + 30)["frames"]
        figures |= _settle(settings)
    return figures


def _wait(edge: Child, until_s: float) -> None:
    while (left_s := until_s - time.monotonic()) > 0:
        edge.check()
        time.sleep(min(1.0, left_s))


def _sample(edge: Child, settings: Settings) -> dict[str, Any]:
    now = edge_now(settings)
    spool_mb = round(now["spool_bytes"] / 1e6, 1)
    return {"spooled_frames": now["spooled"], "spool_mb": spool_mb, "edge_rss_mb": round(edge.peak_rss_mb(), 1)}


def _recover(settings: Settings, spooled: float) -> dict[str, Any]:
    back_s = time.monotonic()
    wait_for(lambda: edge_now(settings)["breaker"] == "closed", 60, "the breaker closes")
    closed_s = time.monotonic()
    wait_for(lambda: not edge_now(settings)["spooled"], SETTLE_S, "the spool is empty", 0.1)
    drained_s = time.monotonic()
    return {
        "resumed_s": round(closed_s - back_s, 2),
        "drained_s": round(drained_s - closed_s, 2),
        "replay_per_s": round(edge_now(settings)["spool_replayed"] / max(0.01, drained_s - closed_s)),
    }


def _settle(settings: Settings) -> dict[str, Any]:
    """Wait until all published frames have landed, and count them."""
    began_s = time.monotonic()
    wait_for(lambda: not edge_now(settings)["queue_depth"], 60, "nothing is left in the edge", 0.2)
    now = edge_now(settings)
    topic = Topics.of(settings).telemetry
    ends = Ends(settings, topic)
    wait_for(lambda: ends.total() >= now["passed"], SETTLE_S, "all has landed", 0.5)  # may include a marker or two
    done_s = time.monotonic()
    time.sleep(2.0)
    landed = count_records(settings, topic)
    dropped = sum(now["dropped"].values())
    return {
        "received": now["received"],
        "published": now["passed"],
        "dropped": now["dropped"],
        "landed": landed,
        "missing": now["received"] - dropped - landed,
        "worker_done_s": round(done_s - began_s, 1),
    }


def good(figures: dict[str, Any]) -> bool:
    """Whether every frame sent was received and landed, once."""
    return not figures["missing"] and not figures["dropped"] and figures["sent"] == figures["received"]


def main(arguments: list[str] | None = None) -> int:
    """Run one outage and print it; 0 if no frame is missing or dropped."""
    parser = argparse.ArgumentParser("python -m bench outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the broker stays away (600)")
    parser.add_argument("--rate", type=int, default=20_000, help="frames/s sent (20000)")
    options = parser.parse_args(arguments)
    print("  ".join(f"{k}={v}" for k, v in machine().items()), flush=True)
    with Bench(lambda text: print(f"   {text}", file=sys.stderr, flush=True)) as bench:
        figures = run(bench, options.seconds, options.rate)
    for name, value in figures.items():
        print(f"{name:<16} {value:,}" if isinstance(value, int | float) else f"{name:<16} {value}")
    print("OK: nothing missing, nothing dropped" if good(figures) else "NOT OK")
    return 0 if good(figures) else 1
