"""A cluster of three brokers, every topic with three replicas, two of which must have a record before it is accepted.

One broker may go away at any moment, killed or frozen, and nothing stops. With two away nothing can be written: the
edge spools, the worker waits, and both go on by themselves. Then the judge: nothing is lost, nothing comes twice, and
each frame is in a counter.
"""

import os
import random
import time
from pathlib import Path

from tests.support.cluster import NODES, Cluster, cluster
from tests.support.edge import EdgeProcess
from tests.support.fault_harness import Feeder, Worker, judge, settle
from tests.support.process import kill_hard, wait_for
from tests.support.stage import FAST, Sending, held_against

# In `make release-test` (KLAIS_FAULT_ROUNDS=100) 20 rounds.
LONG_ROUNDS = int(os.environ.get("KLAIS_FAULT_ROUNDS", "0")) // 5
MALFORMED = ("too_short", "bad_magic", "bad_device_id", "too_long")


def published(edge: EdgeProcess) -> int:
    return int(edge.counters()["passed"])


def wait_more(edge: EdgeProcess, frames: int = 500) -> None:
    """Until Kafka has acknowledged more frames of the edge: the cluster serves."""
    before = published(edge)
    wait_for(lambda: published(edge) > before + frames, 60, "the edge publishes")


def one_away(on: Cluster, edge: EdgeProcess) -> None:
    """One killed and started, then another one frozen: the edge goes on meanwhile."""
    first, second, _ = on.nodes
    first.kill()
    on.wait_without(first)
    wait_more(edge)
    first.start()
    on.wait_whole()
    second.freeze()
    on.wait_without(second)
    wait_more(edge)
    second.thaw()
    on.wait_whole()


def two_away(on: Cluster, edge: EdgeProcess, it: Worker) -> None:
    """One killed, one frozen: below min.insync.replicas the edge spools, the worker stands still; then both go on."""
    first, second, _ = on.nodes
    wait_for(lambda: not edge.counters()["spooled"], 60, "the spool to be empty")
    first.kill()
    second.freeze()
    wait_for(lambda: edge.counters()["spooled"] > 2000, 60, "the edge spools")
    assert it.process.poll() is None, it.tail()
    second.thaw()
    first.start()
    wait_for(lambda: not edge.counters()["spooled"], 60, "the spool to be empty")
    on.wait_whole()
    it.wait_ready()


def test_one_broker_away_then_two_then_none(tmp_path: Path) -> None:
    with cluster(**FAST) as on:
        edge = EdgeProcess(on.settings, tmp_path / "edge.log")
        it = Worker(on.settings, tmp_path / "worker.log")
        try:
            edge.wait_status(200)
            it.wait_ready()
            with Sending(edge.udp_port, tmp_path / "sent.manifest", 1000) as sender:
                wait_more(edge)
                one_away(on, edge)
                two_away(on, edge, it)
                wait_more(edge)
            edge.wait_settled(sender.summary["frames"], 60)
            counters = edge.counters()
            assert edge.stop()[0] == 0
            settle(on.settings)
            assert it.stop() == 0
        finally:
            kill_hard(edge.process)
            it.kill()
        audits = judge(on.settings)
        assert [audit.lost for audit in audits] == [audit.doubled for audit in audits] == [0] * on.settings.partitions
        sent = held_against(on.settings, tmp_path / "sent.manifest")
        dropped = sum(n for why, n in counters["dropped"].items() if why not in MALFORMED)
        assert sent.ok(allow_missing=dropped), f"{sent.table(False)}\n{counters}\n{edge.tail()}"
        assert sent.landed == sum(audit.telemetry for audit in audits)


def brokers_and_worker_in_turn(tmp_path: Path, rounds: int) -> None:
    """Another broker each round, the worker killed in every second one."""
    rng = random.Random(3)
    given = {"session_timeout_s": 6, "checkpoint_interval_s": 0.5}
    with cluster() as on:
        log = tmp_path / "worker.log"
        it = Worker(on.settings, log, **given)
        try:
            it.wait_ready()
            with Feeder(on.settings, frames_per_s=1500) as feeder:
                for turn in range(rounds):
                    node = on.nodes[turn % NODES]
                    time.sleep(rng.uniform(0, 2))
                    (node.kill if turn % 2 else node.freeze)()
                    time.sleep(rng.uniform(1, 6))
                    if rng.random() < 0.5:
                        it.kill()
                        it = Worker(on.settings, log, **given)
                    (node.start if turn % 2 else node.thaw)()
                    on.wait_whole()
            settle(on.settings, 120)
            assert it.stop() == 0
        finally:
            it.kill()
        audits = judge(on.settings)
        assert sum(sum(audit.verdicts.values()) for audit in audits) == feeder.frames


if LONG_ROUNDS:

    def test_brokers_and_worker_in_turn(tmp_path: Path) -> None:
        brokers_and_worker_in_turn(tmp_path, LONG_ROUNDS)
