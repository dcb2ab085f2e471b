"""The broker goes away under load: frozen, then killed and started again with its data; nothing crashes, nothing is lost."""

import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from klais.broker.embedded import EmbeddedKafka
from klais.config.load import Settings
from klais.errors import SetupMissing
from klais.kafka.admin import ensure_topics
from klais.system.ports import free_port
from tests.conftest import need_missing
from tests.support.fault_harness import Feeder, judge, settle, wait_for, worker


@pytest.mark.timeout(240)
def test_broker_frozen_then_killed_and_restarted(tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="klais-outage-"))
    settings = Settings(state_dir=folder, kafka_port=free_port(), partitions=2, kafka_heap_mb=256)
    try:
        broker = EmbeddedKafka(settings, command="pytest")
        try:
            broker.start()
        except SetupMissing as error:
            need_missing("broker", str(error))
        ensure_topics(settings)
        log = tmp_path / "worker.log"
        with worker(settings, log) as it:
            with Feeder(settings, frames_per_s=2000) as feeder:
                it.wait_ready()
                time.sleep(2)
                process = wait_for(lambda: broker.pid, 1, "broker's pid")
                broker_signal(process, signal.SIGSTOP)
                time.sleep(6)
                broker_signal(process, signal.SIGCONT)
                time.sleep(3)
                broker_signal(process, signal.SIGKILL)
                broker.wait(10)
                broker.stop()
                time.sleep(5)
                broker = EmbeddedKafka(settings, command="pytest")
                broker.start()
                time.sleep(2)
            assert it.process.poll() is None, it.tail()
            settle(settings, 90)
            assert it.stop() == 0
        audits = judge(settings)
        assert sum(sum(audit.verdicts.values()) for audit in audits) == feeder.frames
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)


def broker_signal(pid: int, number: int) -> None:
    """Signal the broker's process."""
    import os

    os.kill(pid, number)
