"""A spool that is older than every retention: its frames land with the broker's time, once, and stay."""

import json
import os
import time

from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import Reason, encode_frame
from klais.core.wire.partition import partition_of
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.spool.backlog import Backlog, spool_folder
from klais.kafka.offsets import begin_offsets
from tests.fault.test_spool import OUTAGE_S
from tests.support.edge import balanced, edge_process, read_all
from tests.support.fault_harness import judge, settle, worker

HOUR_S = 3600
DAY_S = 24 * HOUR_S
OLD_S = 30 * HOUR_S  # klais_raw and journal keep 24 h, brokers remember an idle producer for 24 h
ROUNDS, DEVICES = 20, 40


def spooled(settings, old_s: float) -> int:
    """What an edge spooled ``old_s`` ago, when it was last seen; its files are as old. Returns the frames."""
    backlog, frames = Backlog(settings, Counts()), 0
    for number in range(ROUNDS):
        at_ns = time.time_ns() - int((old_s - number) * 1e9)
        for partition in range(settings.partitions):
            ids = [
                b"old-%d" % d for d in range(DEVICES) if partition_of(b"old-%d" % d, settings.partitions) == partition
            ]
            some = [encode_frame(device, number, b'{"t":%d}' % number) for device in ids]
            value = encode_batch(some, at_ns, settings.edge_id, 77, number)
            assert backlog.append(ClosedBatch(value, partition, len(some)), 0.0) is Reason.PASSED
            frames += len(some)
    backlog.close()
    for path in spool_folder(settings).iterdir():
        os.utime(path, (time.time() - old_s,) * 2)
    return frames


def test_frames_of_a_spool_older_than_the_retention_land_once_and_stay(settings_for, topics_of, tmp_path) -> None:
    settings = settings_for(partitions=2)
    topics = topics_of(settings)
    sent = spooled(settings, OLD_S)
    with worker(settings, tmp_path / "worker.log") as it, edge_process(settings, tmp_path / "edge.log") as edge:
        it.wait_ready()
        edge.wait_status(200)
        edge.send([encode_frame(b"old-%d" % (n % DEVICES), ROUNDS + n, b'{"t":1}') for n in range(200)])
        counters = edge.wait_settled(200)
        assert counters["spool_recovered"] == sent and balanced(counters) and not counters["dropped"], counters
        settle(settings)
        time.sleep(OUTAGE_S)  # with KLAIS_TEST_OUTAGE_S=60 the broker looks for what has expired meanwhile
        it.kill()  # the next owner replays what the journal has of them
    with worker(settings, tmp_path / "worker.log") as it:
        it.wait_ready()
        settle(settings)
        assert "raw_records_lost" not in it.log.read_text() and "lane_failed" not in it.log.read_text()
        assert it.stop() == 0
    judge(settings)
    for topic in (topics.raw, topics.journal, topics.telemetry):
        assert set(begin_offsets(settings, topic).values()) == {0}, "nothing is deleted for its frames' age"
        for record in read_all(settings.bootstrap, topic, settings.partitions):
            assert abs(record.timestamp()[1] / 1000 - time.time()) < HOUR_S, "the broker's time, not the edge's"
    clean = [
        json.loads(record.value()) for record in read_all(settings.bootstrap, topics.telemetry, settings.partitions)
    ]
    old = [record for record in clean if time.time() - record["ts"] / 1000 > DAY_S]
    assert len(old) == sent and len({(r["device_id"], r["seq"]) for r in old}) == sent
    assert len(clean) == sent + 200
