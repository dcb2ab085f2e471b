"""A thundering herd after 3GPP TR 37.868 (Beta(3,4) over 10 s), each device with 5 buffered frames, default settings.

``KLAIS_TEST_HERD=1000,10000`` chooses other sizes; ``KLAIS_TEST_HERD_AS=controlled,trend,unforecast,fixed,unqueued``
runs them with the learned forecast (the default), with the trend, without a forecast, without the controller (the fixed
rate of KLAIS_DAM_MAX_RATE) and without the queue.
"""

import os
from typing import Any

from bench.harness import Bench
from bench.harness.report import Result
from klais.sim.herd import Herd
from klais.sim.herd_run import run as run_herd
from klais.system.address import split_address

SIZES = (1_000, 10_000, 100_000)
AS: dict[str, dict[str, Any]] = {
    "controlled": {"dam_max_rate": 10_000, "control_auto": True},
    "trend": {"dam_max_rate": 10_000, "control_auto": True, "forecast": "trend"},
    "unforecast": {"dam_max_rate": 10_000, "control_auto": True, "forecast": "none"},
    "fixed": {"dam_max_rate": 10_000, "control_auto": False},
    "unqueued": {"dam_max_rate": 10_000, "control_auto": False, "dam_queue_limit": 0},
}


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("herd")
    sizes = [int(size) for size in os.environ.get("KLAIS_TEST_HERD", "").split(",") if size] or list(SIZES)
    for how in os.environ.get("KLAIS_TEST_HERD_AS", "controlled").split(","):
        with bench.topics(dam_burst_size=50_000, **AS[how]) as settings, bench.edge(settings), bench.worker(settings):
            host, port = split_address(settings.udp_bind)
            for size in sizes:
                bench.say(f"herd: {size:,} devices, {how}")
                after_s = 15.0 if settings.auto_control else 20.0
                verdict = run_herd(settings, Herd(size, after_s=after_s), host, port)
                result.rows.append({"as": how} | verdict)
                if how == "controlled":
                    result.figures |= {
                        f"recovery_s_{size}": verdict["recovery_s"] if verdict["recovery_s"] is not None else 999.0,
                        f"lost_{size}": verdict["lost"],
                        f"dropped_{size}": verdict["dropped"],
                        f"order_kept_{size}": verdict["order_kept"],
                    }
    result.notes.append("recovery_s: from the last arrival until the p99 latency of a second is within twice of before")
    return result
