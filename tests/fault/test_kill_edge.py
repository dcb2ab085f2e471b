"""kill -9 of the edge, of the worker, and of both, under real datagrams with a manifest of what was sent."""

import os
import threading
import time

import numpy as np
import pytest

from klais.kafka.topics import Topics
from klais.sim.manifest import read_manifest
from klais.sim.run import Plan, run
from klais.sim.stream import FrameStream, StreamOptions
from klais.sim.traffic import SteadyRate
from klais.verify.check import judge_manifest, sent_columns
from klais.verify.readback import begin_offsets, end_offsets, read_topic_columns
from tests.support.edge import EdgeProcess
from tests.support.fault_harness import Worker, judge, settle
from tests.support.process import PATIENCE, kill_hard, wait_for

ROUNDS = int(os.environ.get("KLAIS_FAULT_ROUNDS", "20"))
FRAMES_PER_S = 3000


class Sending:
    """The simulator in a thread, sending to one port until the block ends."""

    def __init__(self, port: int, manifest) -> None:
        self._stop = threading.Event()
        stream = FrameStream(StreamOptions(devices=300, seed=5, malformed=0.01, reboot=0.0), SteadyRate(FRAMES_PER_S))
        plan = Plan("127.0.0.1", port, manifest=manifest, stop=self._stop.is_set)
        self.summary: dict = {}
        self._thread = threading.Thread(target=lambda: self.summary.update(run(stream, plan)), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(30 * PATIENCE)
        assert not self._thread.is_alive()


@pytest.mark.timeout(3600 + 200 * ROUNDS)
def test_edge_worker_or_both_killed_all_that_was_accepted_lands_once(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
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
                wait_for(lambda edge=edge: edge.counters()["passed"] > 0, 30, "frames that this life of the edge published")
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
    sent = sent_columns(read_manifest(tmp_path / "sent.manifest"))
    landed, dead = (
        read_topic_columns(settings, topic, begin_offsets(settings, topic), end_offsets(settings, topic))
        for topic in (Topics.of(settings).telemetry, topics.dead_letter)
    )
    verdict = judge_manifest(sent, landed, dead)
    assert (verdict.doubled, verdict.invented, verdict.out_of_order, verdict.wrong_reason) == (0, 0, 0, 0), verdict.examples
    # what is missing was never accepted: it arrived while the edge was dead, or in its last milliseconds
    accepted = sum(audit.telemetry for audit in audits)
    assert landed.count == accepted == verdict.landed
    assert verdict.landed >= lives > 2
