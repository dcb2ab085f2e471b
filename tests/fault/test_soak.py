"""Minutes of random faults under load; then all that was accepted has landed once and in order, and so does a fresh
run.

``make soak MINUTES=60`` runs it for longer. ``KLAIS_TEST_SOAK_SEED`` repeats a run's choice of faults.
"""

import json
import os
import time
from pathlib import Path

import pytest

from tests.support.fault_harness import judge, settle
from tests.support.soak import Soak
from tests.support.stage import Sending, held_against, stage

MINUTES = float(os.environ.get("KLAIS_TEST_SOAK_MINUTES", "2"))
SEED = int(os.environ.get("KLAIS_TEST_SOAK_SEED", "1"))
LEAST_ROUNDS = 3
FRAMES_PER_S = 500


@pytest.mark.timeout(3600 + 10 * 60 * MINUTES)
def test_random_faults_lose_and_double_nothing(tmp_path: Path) -> None:
    with stage() as on:
        soak = Soak(on, tmp_path, SEED)
        soak.wait_well()
        until_s = time.monotonic() + 60 * MINUTES
        with Sending(soak.edge.udp_port, tmp_path / "faults.manifest", FRAMES_PER_S, id_prefix="storm-"):
            while time.monotonic() < until_s or len(soak.rounds) < LEAST_ROUNDS:
                soak.round()
                print(json.dumps(soak.rounds[-1]), flush=True)
        soak.wait_well()
        soak.drain()
        before = soak.edge.counters()["dropped"].get("kernel_drop", 0)
        with Sending(soak.edge.udp_port, tmp_path / "calm.manifest", FRAMES_PER_S, id_prefix="calm-"):
            time.sleep(5)
        soak.drain()
        overrun = soak.edge.counters()["dropped"].get("kernel_drop", 0) - before
        assert soak.edge.stop()[0] == 0
        settle(on.settings)
        for worker in soak.workers:
            assert worker.stop() == 0
        (tmp_path / "soak.json").write_text(json.dumps(soak.rounds, indent=1))
        audits = judge(on.settings)
        storm, calm = (held_against(on.settings, tmp_path / f"{name}.manifest") for name in ("faults", "calm"))
        # What is missing of the storm was never accepted: no edge was there, or it was killed before it had the frame.
        assert storm.ok(allow_missing=storm.good), storm.table(False)
        assert calm.ok(allow_missing=overrun), calm.table(False)
        assert storm.landed > 0 and calm.landed > 0
        assert storm.landed + calm.landed == sum(audit.telemetry for audit in audits)
