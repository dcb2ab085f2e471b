"""kill -9 of the edge, of the worker, and of both, under real datagrams with a manifest of what was sent."""

import os
import time

import numpy as np
import pytest

from tests.support.edge import EdgeProcess
from tests.support.fault_harness import Worker, judge, settle
from tests.support.process import kill_hard, wait_for
from tests.support.stage import Sending, held_against

ROUNDS = int(os.environ.get("KLAIS_FAULT_ROUNDS", "20"))


@pytest.mark.timeout(3600 + 200 * ROUNDS)
def test_edge_worker_or_both_killed_all_that_was_accepted_lands_once(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=2)
    topics_of(settings)
    rng = np.random.default_rng(3)
    edge = EdgeProcess(settings, tmp_path / "edge.log")
    worker = Worker(settings, tmp_path / "worker.log")
    running, lives = [edge, worker], 1
    try:
        edge.wait_status(200)
        worker.wait_ready()
        with Sending(edge.udp_port, tmp_path / "sent.manifest"):
            for turn in range(max(3, ROUNDS // 3)):
                time.sleep(rng.uniform(0.3, 1.5))
                wait_for(
                    lambda edge=edge: edge.counters()["passed"] > 0, 30, "frames that this life of the edge published"
                )
                if turn % 3 != 1:
                    kill_hard(edge.process)
                    lives += 1
                    edge = EdgeProcess(settings, tmp_path / "edge.log", port=edge.udp_port)
                    running.append(edge)
                if turn % 3 != 0:
                    worker.kill()
                    worker = Worker(settings, tmp_path / "worker.log")
                    running.append(worker)
                edge.wait_status(200)
                worker.wait_ready()
            time.sleep(1)
        edge.wait_settled(1)
        assert edge.stop()[0] == 0
        settle(settings)
        assert worker.stop() == 0
    finally:
        for it in running:
            kill_hard(it.process)
    audits = judge(settings)
    verdict = held_against(settings, tmp_path / "sent.manifest")
    assert (verdict.doubled, verdict.invented, verdict.out_of_order, verdict.wrong_reason) == (0, 0, 0, 0), (
        verdict.examples
    )
    # what is missing was never accepted: it arrived while the edge was dead, or in its last milliseconds
    accepted = sum(audit.telemetry for audit in audits)
    assert accepted == verdict.landed
    assert verdict.landed >= lives > 2
