"""More workers than partitions: the spare one says that it is a standby, is ready, and takes over."""

import json
import urllib.error
import urllib.request

from tests.support.fault_harness import Feeder, judge, settle, worker
from tests.support.process import HTTP_S, wait_for


def readiness(port: int) -> dict:
    """Body of ``/readyz``, whatever its status."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=HTTP_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return json.load(error)


def test_a_worker_beyond_the_partitions_is_a_ready_standby_and_takes_over(settings_for, topics_of, tmp_path) -> None:
    settings = settings_for(partitions=1)
    topics_of(settings)
    with worker(settings, tmp_path / "a.log") as first, worker(settings, tmp_path / "b.log") as second:
        found: dict[int, dict] = {}

        def one_of_each() -> bool:
            found.update({it.port: readiness(it.port) for it in (first, second) if it.ready})
            return sorted(len(body["partitions"]) for body in found.values()) == [0, 1]

        wait_for(one_of_each, 120, lambda: f"an owner and a standby: {found}")
        owner, spare = sorted((first, second), key=lambda it: -len(found[it.port]["partitions"]))
        assert found[spare.port]["standby"] == "standby: no lanes assigned, 2 workers for 1 partitions"
        assert "standby" not in found[owner.port]
        with Feeder(settings, frames_per_s=500):
            owner.kill()
            wait_for(lambda: spare.ready and readiness(spare.port)["partitions"] == [0], 60, "the standby has the lane")
        settle(settings)
        assert spare.stop() == 0
    judge(settings)
