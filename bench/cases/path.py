"""The whole path: sender, edge, Kafka, worker. The highest rate without loss, and the loss above it."""

import time
from typing import Any

from bench.harness import DEVICES, Bench, Ends, count_records, edge_counters, get_json
from bench.harness.report import Result
from klais.config.load import Settings
from klais.kafka.topics import Topics

RATES = (150_000, 180_000, 220_000, 260_000, 300_000, 350_000, 400_000)
STEP_S = 8
SETTLE_S = 15.0  # frames may take this long to land
STILL_S = 2.0  # after this time without new records, missing frames are lost


def step(bench: Bench, settings: Settings, ends: Ends, rate: int, seconds: int = STEP_S) -> dict[str, Any]:
    """Send at ``rate`` for some seconds, then wait until all frames have landed or no more arrive."""
    before, edge_before = ends.total(), edge_counters(settings)
    with bench.simulate(settings, "--devices", str(DEVICES), "--rate", str(rate), "--for", f"{seconds}s",
                        "--id-prefix", f"r{rate // 1000}-") as sender:  # fmt: skip
        summary = sender.summary(seconds + 30)
    sent, sent_at_s = summary["frames"], time.monotonic()
    landed, changed_s = 0, sent_at_s
    while landed < sent and time.monotonic() - sent_at_s < SETTLE_S and time.monotonic() - changed_s < STILL_S:
        now = ends.total() - before
        if now != landed:
            landed, changed_s = now, time.monotonic()
        time.sleep(0.05)
    edge = edge_counters(settings)
    dropped = {name: n - edge_before["dropped"].get(name, 0) for name, n in edge["dropped"].items()}
    return {
        "asked": rate,
        "sent_per_s": summary["rate_per_s"],
        "sent": sent,
        "lost": sent - landed,
        "settled_s": round(changed_s - sent_at_s, 2),
        "sender_behind_s": summary["slipped_s"],
        "edge_dropped": {name: n for name, n in dropped.items() if n},
    }


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("path")
    with bench.topics() as settings, bench.edge(settings) as edge, bench.worker(settings) as worker:
        ends = Ends(settings, Topics.of(settings).telemetry)
        step(bench, settings, ends, 50_000, 1)  # warm
        markers = ends.total() - count_records(settings, Topics.of(settings).telemetry)
        began_s, cpu = time.monotonic(), [edge.cpu_s(), worker.cpu_s(), bench.kafka_cpu_s()]
        for rate in RATES:
            bench.say(f"path: {rate:,} frames a second for {STEP_S} s")
            result.rows.append(step(bench, settings, ends, rate))
            if len(result.rows) > 1 and all(row["lost"] for row in result.rows[-2:]):
                break
        used = zip(("edge", "worker", "kafka"), cpu, (edge.cpu_s(), worker.cpu_s(), bench.kafka_cpu_s()), strict=True)
        sent = sum(row["sent"] for row in result.rows)
        shares = {f"{name}_cpu_us_per_frame": round((after - before) / sent * 1e6, 3) for name, before, after in used}
        dam = get_json(f"http://127.0.0.1:{settings.web_port}/dam/")
        landed = count_records(settings, Topics.of(settings).telemetry)
        again = ends.total() - landed - markers  # a lane that restarted in between would show as markers
    clean = [row for row in result.rows if not row["lost"]]
    best = max(clean, key=lambda row: float(row["sent_per_s"]), default=None)
    result.figures = {
        "frames_per_s": round(best["sent_per_s"]) if best else 0,
        "lost": best["lost"] if best else result.rows[0]["lost"],
        "lost_at_highest": result.rows[-1]["lost"],
        "highest_per_s": round(result.rows[-1]["sent_per_s"]),
        **shares,
        "worker_dropped": dam["total"]["conservation"]["dropped"] if dam else None,
        "markers_meanwhile": again,
        "measured_s": round(time.monotonic() - began_s, 1),
    }
    result.notes.append(
        "frames_per_s: the highest rate reached at which every frame sent is a record; lost = sent - landed"
    )
    return result
