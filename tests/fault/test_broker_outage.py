"""The broker goes away under load: frozen, then killed and started again with its data; nothing crashes, nothing is
lost.
"""

import shutil
import signal
import tempfile
import time
from pathlib import Path

import psutil

from klais.broker.embedded import EmbeddedKafka
from klais.config.load import Settings
from klais.errors import SetupMissing
from klais.kafka.admin import ensure_topics
from tests.support.fault_harness import Feeder, judge, settle, worker
from tests.support.needs import need_missing
from tests.support.ports import free_port
from tests.support.process import wait_ended


def test_broker_frozen_then_killed_and_restarted(tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="klais-outage-"))
    settings = Settings(state_dir=folder, kafka_port=free_port(), partitions=2, kafka_heap_mb=256)
    broker = EmbeddedKafka(settings, command="pytest")
    try:
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
                process = psutil.Process(broker.pid)
                process.send_signal(signal.SIGSTOP)
                time.sleep(6)
                process.send_signal(signal.SIGCONT)
                time.sleep(3)
                process.kill()
                wait_ended(process, 10, "the broker's end")
                broker.stop()
                time.sleep(5)
                broker = EmbeddedKafka(settings, command="pytest")
                broker.start()
                time.sleep(2)
            assert it.process.poll() is None, it.tail()
            settle(settings)
            assert it.stop() == 0
        audits = judge(settings)
        assert sum(sum(audit.verdicts.values()) for audit in audits) == feeder.frames
    finally:
        broker.stop()
        shutil.rmtree(folder, ignore_errors=True)
