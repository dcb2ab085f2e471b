"""kill -9 of the worker: at random moments, and between any two rules of the lane."""

import asyncio
import os
import signal
import time

import numpy as np
import pytest

from klais import fault
from klais.kafka.fenced import fence
from tests.support.fault_harness import SESSION_S, Feeder, judge, settle, worker
from tests.support.process import exit_code, wait_for

# Flags come early, and often: each of them must be there once.
FLAGS = {"anomaly_detector": "zscore", "anomaly_z": 1, "anomaly_min_samples": 2}
SOFT = {"anomaly_period_s": 0.1, "anomaly_threshold": 1.5}  # of the detector whose profiles may be old after a kill
ROUNDS = int(os.environ.get("KLAIS_FAULT_ROUNDS", "8"))  # each rate twice


def finish(settings, log):
    """A last, unharmed worker takes what is left; then the judge."""
    with worker(settings, log) as it:
        it.wait_ready()
        settle(settings)
        assert it.stop() == 0
    return judge(settings)


@pytest.mark.timeout(3600 + 200 * ROUNDS)
def test_killed_at_random_moments_nothing_is_lost_or_doubled(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=2)
    topics_of(settings)
    rng = np.random.default_rng(7)
    log = tmp_path / "worker.log"
    rates = [1_000_000, 2000, 200_000, 500]  # changed between the runs; the low ones make the queue fill
    with Feeder(settings) as feeder:
        for turn in range(ROUNDS):
            rate = rates[turn % len(rates)]
            how = SOFT if turn % 2 else FLAGS
            with worker(settings, log, dam_max_rate=rate, dam_burst_size=max(rate / 10, 1), **how) as it:
                it.wait_ready()
                time.sleep(rng.uniform(0.05, 2.5))
                it.kill()
    audits = finish(settings, log)
    received = sum(sum(audit.verdicts.values()) for audit in audits)
    assert received == feeder.frames
    assert sum(audit.verdicts.get("queued", 0) for audit in audits) > 0
    assert sum(audit.anomalies for audit in audits) > 100


def test_killed_at_every_fault_point(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=2)
    topics_of(settings)
    log = tmp_path / "worker.log"
    rates = [1_000_000, 1000]
    with Feeder(settings, frames_per_s=3000) as feeder:
        for turn, point in enumerate(fault.LANE_POINTS):
            count = 1 if point.startswith(("lane_f", "lane_r", "profiles")) else 4
            rate = 1000 if point == "release_decided" else rates[turn % 2]
            how = SOFT if point == "profiles_sent" else FLAGS
            at = f"{point}:{count}"
            with worker(settings, log, fault_point=at, dam_max_rate=rate, dam_burst_size=100, **how) as it:
                code = exit_code(it.process, 45, lambda it=it, point=point: f"killed at {point}; log:\n{it.tail()}")
                assert code == -signal.SIGKILL, f"{point}: {it.tail()}"
    audits = finish(settings, log)
    assert sum(sum(audit.verdicts.values()) for audit in audits) == feeder.frames
    assert sum(audit.anomalies for audit in audits) > 100


def test_stopped_for_longer_than_the_session_and_continued_the_zombie_does_no_harm(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=2)
    topics_of(settings)
    with Feeder(settings), worker(settings, tmp_path / "a.log") as a:
        a.wait_ready()
        time.sleep(1)
        a.process.send_signal(signal.SIGSTOP)
        with worker(settings, tmp_path / "b.log") as b:
            time.sleep(SESSION_S + 1)
            b.wait_ready()
            time.sleep(1)
            a.process.send_signal(signal.SIGCONT)
            time.sleep(4)
            b.kill()
            wait_for(lambda: a.ready, 30, lambda: f"a takes over again:\n{a.tail()}")
            a.kill()
    finish(settings, tmp_path / "c.log")


def test_epoch_renewed_under_load(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=2)
    topics_of(settings)
    log = tmp_path / "a.log"
    with Feeder(settings), worker(settings, log, lane_refence_s=1) as it:
        it.wait_ready()
        wait_for(lambda: log.read_text().count("epoch_renewed") >= 6, 30, lambda: f"renewals:\n{it.tail()}")
        it.kill()
    finish(settings, log)


def test_fenced_from_outside_a_lane_comes_back_and_needs_no_new_input(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    log = tmp_path / "a.log"
    outputs = [(topic, 0) for topic in (topics.telemetry, topics.anomalies, topics.dead_letter)]
    with worker(settings, log, session_timeout_s=1) as it:
        it.wait_ready()
        with Feeder(settings) as feeder:
            time.sleep(1)
            asyncio.run(fence(settings, f"{topics.app_id}-lane-0", outputs))
            wait_for(lambda: "lane_fenced" in log.read_text(), 10, lambda: f"the lane notices:\n{it.tail()}")
        settle(settings)
        it.kill()
    audits = finish(settings, log)
    assert sum(sum(audit.verdicts.values()) for audit in audits) == feeder.frames


def test_two_workers_join_leave_and_take_over(settings_for, topics_of, tmp_path):
    settings = settings_for(partitions=4)
    topics_of(settings)
    with Feeder(settings), worker(settings, tmp_path / "a.log") as a:
        a.wait_ready()
        with worker(settings, tmp_path / "b.log") as b:
            b.wait_ready()
            wait_for(lambda: a.ready and b.ready, 30, "both share the lanes")
            time.sleep(1)
            a.kill()
            wait_for(lambda: "partitions=0,1,2,3" in b.tail(400), 15, lambda: f"b takes over all lanes:\n{b.tail()}")
            wait_for(lambda: b.ready, 15, lambda: f"b is ready:\n{b.tail()}")
            with worker(settings, tmp_path / "c.log") as c:
                c.wait_ready()
                assert b.stop() == 0
                wait_for(lambda: c.ready, 30, lambda: f"c has all lanes:\n{c.tail()}")
                c.kill()
    finish(settings, tmp_path / "d.log")
