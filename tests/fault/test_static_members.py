"""Workers with static names in the group: one that restarts within the session gets its lanes back, nobody else stops.

As in a rolling restart of a StatefulSet.
"""

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.fault_harness import Feeder, Worker, judge, settle, worker
from tests.support.ports import free_port
from tests.support.process import wait_for

SESSION_S = 300.0  # longer than a restart on any machine


def lanes(log: Path) -> list[str]:
    """The lanes that a worker's log says it started, each time that it got an assignment with some."""
    found = re.findall(r"lanes_started.*?partitions=(\S+)", log.read_text(errors="replace"))
    return [partitions for partitions in found if partitions != "none"]


def both_share(workers: list[Worker], logs: list[Path]) -> bool:
    now = [partitions for log in logs for partitions in lanes(log)[-1:]]
    return all(it.ready for it in workers) and sorted(",".join(now)) == sorted("0,1,2,3") and "," in min(now)


def test_a_rolling_restart_within_the_session_needs_no_rebalance(settings_for: Any, topics_of: Any, tmp_path) -> None:
    settings = settings_for(partitions=4)
    topics_of(settings)
    ports, logs = [free_port(), free_port()], [tmp_path / "a.log", tmp_path / "b.log"]

    def static(place: int) -> Any:
        given = {"group_instance": f"klais-worker-{place}", "session_timeout_s": SESSION_S, "port": ports[place]}
        return worker(settings, logs[place], **given)

    with ExitStack() as stack:
        running = [stack.enter_context(static(0)), stack.enter_context(static(1))]
        with Feeder(settings, frames_per_s=500):
            wait_for(
                lambda: both_share(running, logs), 120, lambda: "\n".join(["no halves", *(w.tail() for w in running)])
            )
            before = [lanes(log) for log in logs]
            for place in (1, 0):
                assert running[place].stop() == 0
                shutil.move(logs[place], tmp_path / f"old-{place}.log")
                running[place] = stack.enter_context(static(place))
                running[place].wait_ready(120)
                assert lanes(logs[place]) == before[place][-1:], "it has the lanes that it had"
                before[place] = lanes(logs[place])
                assert lanes(logs[1 - place]) == before[1 - place], "the other one keeps its lanes without a pause"
        settle(settings)
    judge(settings)
