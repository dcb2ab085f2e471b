"""More workers than partitions: the spare one says that it is a standby, is ready, and takes over."""

import json
import urllib.request

from tests.support.fault_harness import Feeder, judge, settle, worker
from tests.support.process import HTTP_S, wait_for


def readiness(port: int) -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=HTTP_S) as answer:
        return json.load(answer)


def test_a_worker_beyond_the_partitions_is_a_ready_standby_and_takes_over(settings_for, topics_of, tmp_path) -> None:
    settings = settings_for(partitions=1)
    topics_of(settings)
    with worker(settings, tmp_path / "a.log") as first, worker(settings, tmp_path / "b.log") as second:
        for it in (first, second):
            it.wait_ready(120)
        found = {it.port: readiness(it.port) for it in (first, second)}
        (spare,) = [it for it in (first, second) if not found[it.port]["partitions"]]
        assert found[spare.port]["standby"] == "standby: no lanes assigned, 2 workers for 1 partitions"
        owner = first if spare is second else second
        assert "standby" not in found[owner.port]
        with Feeder(settings, frames_per_s=500):
            owner.kill()
            wait_for(lambda: spare.ready and readiness(spare.port)["partitions"] == [0], 60, "the standby has the lane")
            assert "standby" not in readiness(spare.port)
        settle(settings)
        assert spare.stop() == 0
    judge(settings)
