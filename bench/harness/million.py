"""A worker with a million devices: its memory, and the recovery time of its successor after a kill -9. Run once for
both.
"""

import time
from typing import Any

from bench.harness import Bench, Child, Ends, get_json, wait_for, wait_ready, watch
from bench.harness.feed import preload
from klais.config.load import Settings
from klais.kafka.topics import Topics

DEVICES = 1_000_000
FRAMES = 1_500_000
TIMEOUT_S = 90


def million(bench: Bench, devices: int = DEVICES, frames: int = FRAMES) -> dict[str, Any]:
    """Figures of one such worker and its successor, measured at the first call of a run and cached."""
    if "million" not in bench.shared:
        bench.say(f"a worker takes {frames:,} frames of {devices:,} devices and is killed; another one takes over")
        bench.shared["million"] = _measure(bench, devices, frames)
    found: dict[str, Any] = bench.shared["million"]
    return found


def _measure(bench: Bench, devices: int, frames: int) -> dict[str, Any]:
    with bench.topics(checkpoint_interval_s=3.0) as settings:
        preload(settings, frames, devices)
        topics = Topics.of(settings)
        landed, rows = Ends(settings, topics.telemetry), Ends(settings, topics.devices_changelog)
        with bench.worker(settings) as first:
            watch(first, landed.total, frames, TIMEOUT_S)
            wait_for(lambda: rows.total() >= devices, TIMEOUT_S, f"{devices:,} rows in the changelog", 0.2)
            _wait_until_still(rows)
            before = _known(settings)
            found = {
                "devices": before,
                "worker_rss_mb": first.rss_mb(),
                "worker_peak_rss_mb": first.peak_rss_mb(),
                "changelog_rows": rows.total(),
            }
            first.kill()
        with bench.worker(settings, ready=False) as second:
            found |= _recover(settings, second)
            found["recovered_rss_mb"] = second.rss_mb()
            found["recovered_peak_rss_mb"] = second.peak_rss_mb()
            found["recovered_devices"] = _known(settings)
            found["recovery_cpu_s"] = second.cpu_s()
        with bench.worker(settings, ready=False) as third:
            # its predecessor has left the group, so no session has to expire: this is the recovery alone
            found["seconds_after_clean_stop"] = _recover(settings, third)["seconds"]
    return found


def _recover(settings: Settings, child: Child) -> dict[str, float]:
    began_s = child.started_s
    wait_for(lambda: _answers(child, settings), TIMEOUT_S, "the worker's web views answer", 0.1)
    up_s = time.monotonic() - began_s
    wait_ready(child, settings, TIMEOUT_S)
    return {"process_up_s": up_s, "seconds": time.monotonic() - began_s}


def _answers(child: Child, settings: Settings) -> bool:
    child.check()
    return get_json(f"http://127.0.0.1:{settings.web_port}/health") is not None


def _known(settings: Settings) -> int:
    dam = get_json(f"http://127.0.0.1:{settings.web_port}/dam/")
    return sum(lane.get("devices", 0) for lane in dam["lanes"]) if dam else 0


def _wait_until_still(rows: Ends) -> None:
    """Wait until no checkpoint has written a row for two seconds."""
    last, since_s = rows.total(), time.monotonic()
    until_s = since_s + TIMEOUT_S
    while time.monotonic() - since_s < 2.0 and time.monotonic() < until_s:
        time.sleep(0.2)
        if (now := rows.total()) != last:
            last, since_s = now, time.monotonic()
